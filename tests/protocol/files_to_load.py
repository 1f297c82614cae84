"""Pictures of every kind that LoadImage treats in its own way."""

from io import BytesIO

import numpy as np
from graphs import encoded, noise, png
from PIL import Image


def _turned() -> bytes:
    """A JPEG that says: turn me by 90 degrees. Large areas, so that decoders agree."""
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:16, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.fromarray(pixels), "JPEG", quality=100, subsampling=0, exif=exif)


def _animation() -> bytes:
    frames = [Image.fromarray(noise(seed=seed)).quantize(32) for seed in (1, 2, 3)]
    buffer = BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=50)
    return buffer.getvalue()


def _palette_with_transparency() -> bytes:
    picture = Image.fromarray(noise()).quantize(16)
    return encoded(picture, "PNG", transparency=3)


def _deep_grey() -> bytes:
    levels = np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 21
    return encoded(Image.fromarray(levels), "PNG")


FILES_TO_LOAD = {
    "rgb.png": png,
    "rgba.png": lambda: png(noise(channels=4)),
    "grey.png": lambda: png(noise()[..., 0]),
    "grey-alpha.png": lambda: encoded(Image.fromarray(noise(channels=4)).convert("LA"), "PNG"),
    "deep.png": _deep_grey,
    "palette.png": _palette_with_transparency,
    "turned.jpg": _turned,
    "animation.gif": _animation,
}
