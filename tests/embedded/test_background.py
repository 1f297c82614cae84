"""Background removal: the matte, and the nodes around it."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from worker_client import Client

from comfy_proxy.embedded.background import foreground_matte


def _disc() -> tuple[np.ndarray, np.ndarray]:
    """An orange disc on a textured grey-green ground, and where it is."""
    rows, columns = np.mgrid[0:180, 0:240]
    inside = (rows - 95) ** 2 + (columns - 125) ** 2 < 55**2
    noise = np.random.default_rng(1).normal(0, 6, (180, 240, 3))
    picture = np.where(inside[..., None], (220, 120, 40), (90, 110, 100)) + noise
    return np.clip(picture, 0, 255).astype(np.uint8), inside


@pytest.mark.long
def test_finds_the_subject() -> None:
    """The matte is the subject: 95 % of both sides are right."""
    picture, inside = _disc()
    matte = foreground_matte(picture, 1024, lambda _done, _total: None)
    assert matte.shape == inside.shape
    assert ((matte > 0.5) == inside).mean() > 0.95


@pytest.mark.long
def test_the_same_picture_gives_the_same_matte() -> None:
    """There is no chance in the result."""
    picture, _ = _disc()
    first, second = (foreground_matte(picture, 256, lambda *_: None) for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.long
def test_progress_counts_iterations() -> None:
    """Every iteration is announced, and the last one is the total."""
    picture, _ = _disc()
    calls: list[tuple[int, int]] = []
    foreground_matte(picture, 1024, lambda done, total: calls.append((done, total)))
    assert [done for done, _ in calls] == list(range(1, len(calls) + 1))
    assert calls[-1][0] == calls[-1][1]


def test_gives_up_when_asked() -> None:
    """What the progress callback raises ends the work."""
    with pytest.raises(KeyboardInterrupt):
        foreground_matte(_disc()[0], 1024, _interrupt)


def _interrupt(_done: int, _total: int) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("shape", [(1, 1), (300, 3), (64, 64)])
def test_nothing_to_find(shape: tuple[int, int]) -> None:
    """A picture of one colour, however small, is all subject."""
    picture = np.full((*shape, 3), 77, np.uint8)
    assert foreground_matte(picture, 1024, lambda *_: None).min() == 1.0


@pytest.mark.long
async def test_the_core_nodes(client: Client) -> None:
    """The core workflow of 2026 makes an RGBA picture: the ground transparent, the subject not."""
    picture, inside = _disc()
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    await client.upload(buffer.getvalue(), "disc.png")
    loader = (await client.get("/object_info/LoadBackgroundRemovalModel")).popitem()[1]
    (model,) = loader["input"]["required"]["bg_removal_name"][1]["options"]
    entry = await client.run(
        {
            "1": {"class_type": "LoadImage", "inputs": {"image": "disc.png"}},
            "2": {
                "class_type": "LoadBackgroundRemovalModel",
                "inputs": {"bg_removal_name": model},
            },
            "3": {
                "class_type": "RemoveBackground",
                "inputs": {"bg_removal_model": ["2", 0], "image": ["1", 0]},
            },
            "4": {"class_type": "InvertMask", "inputs": {"mask": ["3", 0]}},
            "5": {
                "class_type": "JoinImageWithAlpha",
                "inputs": {"image": ["1", 0], "alpha": ["4", 0]},
            },
            "6": {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}},
        }
    )
    content = await client.read(entry["outputs"]["6"]["images"][0])
    result = np.asarray(Image.open(BytesIO(content)))
    assert result.shape == (180, 240, 4)
    assert ((result[..., 3] > 127) == inside).mean() > 0.95
    assert np.array_equal(result[..., :3], picture)
