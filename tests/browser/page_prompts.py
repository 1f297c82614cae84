"""What several tests do with the page: run a workflow and see its result."""

from __future__ import annotations

from pathlib import Path

from frontend import Frontend
from pictures import enlarged, fresh, quarters, saved
from processes import LiveServer

Servers = tuple[LiveServer, LiveServer]


def run_and_see(frontend: Frontend, directory: Path, scale: int = 2) -> str:
    """A new picture is uploaded and enlarged by pressing Run; the prompt's id.

    The page, its queue's panel open, has then seen one result, right to the pixel, and the panel
    begins with it.
    """
    picture = quarters()
    number = fresh()
    frontend.choose_file(saved(picture, directory / str(number) / "picture.png"))
    frontend.set_widget("ImageScaleBy", "scale_by", scale)
    frontend.set_widget("TimedPass", "salt", number)
    before = frontend.picture_source("SaveImage")
    prompt_id = frontend.run()
    frontend.until_ended(prompt_id)
    assert frontend.picture("SaveImage", other_than=before) == enlarged(picture, scale)
    (executed,) = frontend.heard("executed", prompt_id)
    frontend.until_newest(executed["output"]["images"][0])
    return prompt_id
