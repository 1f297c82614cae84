"""Finds the subject of a photograph without a network: OpenCV GrabCut and a guided filter.

GrabCut divides a picture by colours, starting from a guess. One guess does not suit a cup on a
table, a cat that fills the picture and a rocket before the sky, so three are tried on a small
copy (from a bold core to nearly everything) and the result whose outline follows the picture's
own edges best is kept. That outline is cut again at a larger size and refined to a soft matte.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Levels = NDArray[np.uint8]
Matte = NDArray[np.float32]
Tick = Callable[[], None]

GUESS_SIZE = 256  # pixels of the longer side while guesses are tried
POLISH_SIZE = 512  # while the outline is cut again; GrabCut's time grows with the area
GUESS_ITERATIONS = 4
POLISH_ITERATIONS = 2
GUESSES = 3  # as many as _best_subject tries; both count for the progress
SMALLEST_SUBJECT = 0.01  # of the area; if the best guess finds less, all of the picture is subject
CROSS = np.ones((3, 3), np.uint8)


def foreground_matte(
    picture: Levels, resolution: int, on_iteration: Callable[[int, int], None]
) -> Matte:
    """The matte [H,W] in 0..1 (1 = subject) of an RGB picture [H,W,3] of 8 bits.

    `resolution` bounds the working size in pixels; `on_iteration(done, total)` is called after
    each GrabCut iteration and may raise to give up.
    """
    # GrabCut and k-means seed themselves from this generator: same picture, same matte.
    cv2.setRNGSeed(0)
    total = GUESSES * GUESS_ITERATIONS + POLISH_ITERATIONS
    done = iter(range(1, total + 1))

    def tick() -> None:
        on_iteration(next(done), total)

    subject = _best_subject(_shrunk(picture, min(resolution, GUESS_SIZE)), tick)
    larger = _shrunk(picture, min(resolution, POLISH_SIZE))
    return _refined(_polished(larger, subject, tick), picture, larger)


def _shrunk(picture: Levels, longest: int) -> Levels:
    height, width = picture.shape[:2]
    scale = min(1.0, longest / max(height, width))
    size = max(16, round(width * scale)), max(16, round(height * scale))
    return np.ascontiguousarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _best_subject(small: Levels, tick: Tick) -> Levels:
    """The mask (0 and 1) of the most convincing of the three guesses."""
    lab = _single(cv2.cvtColor(small, cv2.COLOR_RGB2LAB))
    edges = _edges(lab)
    colour, detail, central = _colour_cue(lab), _detail_cue(small), _centre_cue(small)
    both = (colour + detail) * central
    guesses = [(colour * central, _otsu(colour * central))]
    guesses += [(both, float(np.quantile(both, share))) for share in (0.6, 0.2)]
    masks = []
    for score, threshold in guesses:
        labels = _labels(score, threshold)
        masks.append(_parts_with_edges(_grab_cut(small, labels, GUESS_ITERATIONS, tick), edges))
    best = max(masks, key=lambda mask: _conviction(mask, edges))
    return best if best.mean() >= SMALLEST_SUBJECT else np.ones_like(best)


def _labels(score: Matte, threshold: float) -> Levels:
    """GrabCut's start: above the threshold probably subject, the dull border surely not."""
    labels = np.where(score > threshold, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    margin = max(1, round(0.03 * min(score.shape)))
    inside = np.zeros(score.shape, bool)
    inside[margin:-margin, margin:-margin] = True
    labels[~inside & (score <= threshold)] = cv2.GC_BGD
    return labels


def _grab_cut(small: Levels, labels: Levels, iterations: int, tick: Tick) -> Levels:
    """Run GrabCut from `labels`; its answer as 0 and 1, or the guess if it has one side only."""
    models = np.zeros((1, 65)), np.zeros((1, 65))
    if np.all(labels & 1) or not np.any(labels & 1):
        return _bits(labels)
    mode = cv2.GC_INIT_WITH_MASK
    for _ in range(iterations):
        cv2.grabCut(small, labels, (0, 0, 1, 1), *models, 1, mode)
        mode = cv2.GC_EVAL
        tick()
    return _bits(labels)


def _bits(labels: Levels) -> Levels:
    """GrabCut's four labels as 0 and 1: subject, surely or probably, is odd."""
    return np.asarray(labels & 1, np.uint8)


def _colour_cue(lab: Matte) -> Matte:
    """How far each pixel is from the colours of the picture's sides and top, 0 to 1."""
    margin = max(2, min(lab.shape[:2]) // 20)
    strips = (lab[:margin], lab[:, :margin], lab[:, -margin:])
    samples = np.concatenate([strip.reshape(-1, 3) for strip in strips])
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 10, 1.0)
    start = np.zeros((len(samples), 1), np.int32)
    _, _, centres = cv2.kmeans(samples, 4, start, criteria, 1, cv2.KMEANS_PP_CENTERS)
    distances = [np.linalg.norm(lab - centre, axis=2) for centre in _single(centres)]
    nearest = _single(np.min(distances, axis=0))
    return _spread(_single(cv2.GaussianBlur(nearest, (0, 0), max(lab.shape) / 80)))


def _detail_cue(small: Levels) -> Matte:
    """How much fine structure there is: the subject is in focus, what lies behind less so."""
    grey = _single(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))
    fine = np.abs(grey - _single(cv2.GaussianBlur(grey, (0, 0), 1.2)))
    return _spread(np.log(_single(cv2.GaussianBlur(fine, (0, 0), max(grey.shape) / 50)) + 0.3))


def _centre_cue(small: Levels) -> Matte:
    rows = np.linspace(-1.0, 1.0, small.shape[0], dtype=np.float32)[:, None]
    columns = np.linspace(-1.0, 1.0, small.shape[1], dtype=np.float32)[None, :]
    return _single(np.exp(-1.2 * (rows**2 + columns**2)))


def _spread(values: Matte) -> Matte:
    low, high = np.quantile(values, [0.02, 0.98])
    return _single(np.clip((values - low) / (high - low + 1e-6), 0.0, 1.0))


def _otsu(score: Matte) -> float:
    """The threshold that divides the histogram best (Otsu's method), in the units of `score`."""
    top = float(score.max()) + 1e-6
    levels = (255.0 * score / top).astype(np.uint8)
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_OTSU)
    return threshold * top / 255.0


def _edges(lab: Matte) -> NDArray[np.bool_]:
    """Where the picture changes more than it does on average, one pixel wider."""
    smooth = cv2.GaussianBlur(lab, (0, 0), 0.8)
    across = np.linalg.norm(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), axis=2)
    down = np.linalg.norm(cv2.Sobel(smooth, cv2.CV_32F, 0, 1), axis=2)
    strength = np.hypot(across, down)
    return np.asarray(cv2.dilate(_single(strength), CROSS) > strength.mean(), bool)


def _support(mask: Levels, edges: NDArray[np.bool_]) -> float:
    """The share of a mask's outline, less the picture's border, that lies on edges: 0..1."""
    outline = cv2.dilate(mask, CROSS) != cv2.erode(mask, CROSS)
    outline[:2] = outline[-2:] = outline[:, :2] = outline[:, -2:] = False
    return float(edges[outline].mean()) if outline.any() else 0.0


def _conviction(mask: Levels, edges: NDArray[np.bool_]) -> float:
    """Size counts, but an outline through plain sky or table counts against it far more."""
    return float(_support(mask, edges) ** 8 * np.sqrt(mask.mean()))


def _parts_with_edges(mask: Levels, edges: NDArray[np.bool_]) -> Levels:
    """The large parts of a mask whose outline is real; specks, holes and bits of sky away."""
    opened = cv2.morphologyEx(mask, cv2.MORPH_OPEN, CROSS)
    count, parts, stats, _ = cv2.connectedComponentsWithStats(opened)
    areas = stats[1:, cv2.CC_STAT_AREA]
    large = [part for part in range(1, count) if areas[part - 1] > 0.1 * areas.max()]
    support = {part: _support((parts == part).astype(np.uint8), edges) for part in large}
    real = [part for part in large if support[part] > 0.85 * max(support.values())]
    return _without_small_holes(np.isin(parts, real).astype(np.uint8))


def _without_small_holes(mask: Levels) -> Levels:
    count, parts, stats, _ = cv2.connectedComponentsWithStats(1 - mask, connectivity=4)
    small = [part for part in range(1, count) if stats[part, cv2.CC_STAT_AREA] < 0.02 * mask.size]
    return mask | np.isin(parts, small).astype(np.uint8)


def _polished(larger: Levels, subject: Levels, tick: Tick) -> Levels:
    """The outline cut again at a larger size, within a band around the one that was found."""
    height, width = larger.shape[:2]
    scaled = cv2.resize(subject, (width, height), interpolation=cv2.INTER_NEAREST)
    steps = max(2, max(height, width) // 100)
    labels = np.where(scaled == 1, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[cv2.erode(scaled, CROSS, iterations=steps) == 1] = cv2.GC_FGD
    labels[cv2.dilate(scaled, CROSS, iterations=steps) == 0] = cv2.GC_BGD
    cut = _grab_cut(larger, labels, POLISH_ITERATIONS, tick)
    return _without_small_holes(np.asarray(cv2.medianBlur(cut, 5), np.uint8))


def _refined(subject: Levels, picture: Levels, guide_picture: Levels) -> Matte:
    """The mask at full size, its edge drawn towards the picture's own (guided filter)."""
    height, width = picture.shape[:2]
    guide = _grey(guide_picture)
    slope, offset = _guided_filter(guide, subject.astype(np.float32), max(guide.shape) // 170 + 1)
    matte = cv2.resize(slope, (width, height)) * _grey(picture) + cv2.resize(
        offset, (width, height)
    )
    # Steeper around one half: a clear inside, a clear outside, a soft edge between.
    return _single(np.clip((matte - 0.5) * 1.6 + 0.5, 0.0, 1.0))


def _guided_filter(guide: Matte, mask: Matte, radius: int) -> tuple[Matte, Matte]:
    """Coefficients of He's guided filter: matte = slope * guide + offset."""
    window = (2 * radius + 1, 2 * radius + 1)
    mean_guide, mean_mask = cv2.blur(guide, window), cv2.blur(mask, window)
    covariance = cv2.blur(guide * mask, window) - mean_guide * mean_mask
    variance = cv2.blur(guide * guide, window) - mean_guide * mean_guide
    slope = covariance / (variance + 1e-3)
    offset = mean_mask - slope * mean_guide
    return _single(cv2.blur(slope, window)), _single(cv2.blur(offset, window))


def _grey(picture: Levels) -> Matte:
    return _single(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)) / np.float32(255.0)


def _single(values: object) -> Matte:
    return np.asarray(values, np.float32)
