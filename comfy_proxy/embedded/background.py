"""Finds the subject of a photograph without a network: OpenCV GrabCut and a guided filter.

GrabCut models the colours of foreground and background; it starts from what the border of the
picture looks like and where its middle is. The hard mask it finds at reduced size is refined to
a soft matte along the edges of the full picture.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Levels = NDArray[np.uint8]
Matte = NDArray[np.float32]

ITERATIONS = 6
WORKING_SIZE = 448  # pixels of the longer side at most; GrabCut's time grows with the area
BORDER = 0.03  # of the shorter side: assumed to be background
SMALLEST_SUBJECT = 0.01  # of the area


def foreground_matte(
    picture: Levels, resolution: int, on_iteration: Callable[[int, int], None]
) -> Matte:
    """The matte [H,W] in 0..1 (1 = subject) of an RGB picture [H,W,3] of 8 bits.

    `resolution` bounds the working size in pixels; `on_iteration(done, total)` is called after
    each GrabCut iteration and may raise to give up.
    """
    height, width = picture.shape[:2]
    scale = min(1.0, min(resolution, WORKING_SIZE) / max(height, width))
    size = max(8, round(width * scale)), max(8, round(height * scale))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    mask = _grab_cut(np.ascontiguousarray(small, np.uint8), on_iteration)
    subject = _largest_parts(mask)
    return _refined(subject, picture, np.asarray(small, np.uint8))


def _grab_cut(small: Levels, on_iteration: Callable[[int, int], None]) -> Levels:
    """GrabCut's labels as 0 and 1."""
    # GrabCut seeds its colour models from OpenCV's generator: the same picture, the same mask.
    cv2.setRNGSeed(0)
    labels = _first_guess(small)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    mode = cv2.GC_INIT_WITH_MASK
    for iteration in range(1, ITERATIONS + 1):
        cv2.grabCut(small, labels, (0, 0, 1, 1), *models, 1, mode)
        mode = cv2.GC_EVAL
        on_iteration(iteration, ITERATIONS)
    return (labels & 1).astype(np.uint8)


def _first_guess(small: Levels) -> Levels:
    """Labels to start from: what differs from the border's colours, near the middle."""
    height, width = small.shape[:2]
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.float32)
    contrast = cv2.GaussianBlur(_distance_to_border_colours(lab), (0, 0), max(height, width) / 80)
    rows = np.linspace(-1.0, 1.0, height, dtype=np.float32)[:, None]
    columns = np.linspace(-1.0, 1.0, width, dtype=np.float32)[None, :]
    central = np.exp(-1.5 * (rows**2 + columns**2))
    score = contrast * central
    labels = np.full((height, width), cv2.GC_PR_BGD, np.uint8)
    labels[score > np.quantile(score, 0.6)] = cv2.GC_PR_FGD
    margin = max(1, round(BORDER * min(height, width)))
    labels[:margin] = labels[:, :margin] = labels[:, -margin:] = cv2.GC_BGD
    return labels


def _distance_to_border_colours(lab: Matte) -> Matte:
    """For each pixel how far it is from the nearest of a few colours of the border."""
    margin = max(2, min(lab.shape[:2]) // 20)
    strips = (lab[:margin], lab[:, :margin], lab[:, -margin:])
    samples = np.concatenate([strip.reshape(-1, 3) for strip in strips])
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 10, 1.0)
    clusters = min(4, len(samples))
    start = np.zeros((len(samples), 1), np.int32)
    _, _, centres = cv2.kmeans(samples, clusters, start, criteria, 1, cv2.KMEANS_PP_CENTERS)
    distances = [np.linalg.norm(lab - centre, axis=2) for centre in centres]
    return np.asarray(np.min(distances, axis=0), np.float32)


def _largest_parts(mask: Levels) -> Levels:
    """Specks and holes away; if nothing is left, everything is the subject."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    opened = cv2.morphologyEx(mask, cv2.MORPH_OPEN, kernel)
    count, parts, stats, _ = cv2.connectedComponentsWithStats(opened)
    areas = stats[:, cv2.CC_STAT_AREA]
    if count < 2 or areas[1:].max() < SMALLEST_SUBJECT * mask.size:
        return np.ones_like(mask)
    large = [part for part in range(1, count) if areas[part] > 0.2 * areas[1:].max()]
    subject = np.isin(parts, large).astype(np.uint8)
    return _without_small_holes(subject)


def _without_small_holes(subject: Levels) -> Levels:
    count, parts, stats, _ = cv2.connectedComponentsWithStats(1 - subject, connectivity=4)
    for part in range(1, count):
        if stats[part, cv2.CC_STAT_AREA] < 0.02 * subject.size:
            subject[parts == part] = 1
    return subject


def _refined(subject: Levels, picture: Levels, small: Levels) -> Matte:
    """The mask at full size, its edge drawn towards the picture's own (guided filter)."""
    height, width = picture.shape[:2]
    guide = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255.0
    slope, offset = _guided_filter(guide, subject.astype(np.float32), max(guide.shape) // 100 + 1)
    full_guide = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255.0
    matte = cv2.resize(slope, (width, height)) * full_guide + cv2.resize(offset, (width, height))
    # Steeper around one half: a clear inside, a clear outside, a soft edge between.
    return np.asarray(np.clip((matte - 0.5) * 1.6 + 0.5, 0.0, 1.0), np.float32)


def _guided_filter(guide: Matte, mask: Matte, radius: int) -> tuple[Matte, Matte]:
    """Coefficients of He's guided filter: matte = slope * guide + offset."""
    window = (2 * radius + 1, 2 * radius + 1)
    mean_guide, mean_mask = cv2.blur(guide, window), cv2.blur(mask, window)
    covariance = cv2.blur(guide * mask, window) - mean_guide * mean_mask
    variance = cv2.blur(guide * guide, window) - mean_guide * mean_guide
    slope = covariance / (variance + 1e-3)
    offset = mean_mask - slope * mean_guide
    return _single(cv2.blur(slope, window)), _single(cv2.blur(offset, window))


def _single(values: object) -> Matte:
    return np.asarray(values, np.float32)
