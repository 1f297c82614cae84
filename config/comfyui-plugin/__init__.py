"""comfy_proxy inside ComfyUI: its own address serves several instances, this one among them.

There are no nodes in it. README.md, beside this file, says how it is set up.
"""

import logging
import os

import folder_paths
from comfy.cli_args import args
from server import PromptServer

from .data_directory import data_directory
from .front_door import FrontDoor

NODE_CLASS_MAPPINGS = {}

FrontDoor(
    PromptServer.instance,
    args,
    folder=os.path.dirname(os.path.abspath(__file__)),
    data=data_directory(folder_paths, args.port),
    environ=os.environ,
    log=logging.getLogger("comfy_proxy"),
).install()
