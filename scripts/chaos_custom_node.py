"""A custom node that adds no node: ComfyUI writes down what it runs, as ``chaos_worker.py`` does.

It runs in a real ComfyUI, copied to its ``custom_nodes``, and wraps the two methods of ComfyUI's
own queue between which a prompt runs. The file is ``CHAOS_JOURNAL``.
"""

import json
import os
import time
from pathlib import Path

import execution
import folder_paths
from PIL import Image

NODE_CLASS_MAPPINGS: dict = {}
_journal = os.open(os.environ["CHAOS_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def _write(event, **more):
    os.write(_journal, json.dumps({"t": time.time(), "event": event, **more}).encode() + b"\n")


def _colour(graph):
    """That of the empty picture or of the loaded one with which the graph begins."""
    inputs = graph["1"]["inputs"]
    if "color" in inputs:
        return int(inputs["color"])
    try:
        with Image.open(Path(folder_paths.get_annotated_filepath(inputs["image"]))) as picture:
            red, green, blue = picture.convert("RGB").getpixel((0, 0))
    except OSError:
        return None
    return red << 16 | green << 8 | blue


_get, _task_done = execution.PromptQueue.get, execution.PromptQueue.task_done


def _noted_get(queue, *arguments, **named):
    taken = _get(queue, *arguments, **named)
    if taken is not None:
        item = taken[0]
        _write("started", id=item[1], colour=_colour(item[2]))
    return taken


def _noted_task_done(queue, item_id, history_result, status, *arguments, **named):
    item = queue.currently_running[item_id]
    _task_done(queue, item_id, history_result, status, *arguments, **named)
    if status is not None and status.status_str == "success":
        _write("executed", id=item[1], colour=_colour(item[2]))


execution.PromptQueue.get = _noted_get
execution.PromptQueue.task_done = _noted_task_done
_write("life", pid=os.getpid())
