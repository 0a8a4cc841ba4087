"""Lines cut out of a picture, at their hand's own size, each with its baseline at one height."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from utils.images import WHITE
from utils.line_shapes import LineFrame
from utils.straightening import Strip, find_ink, straighten
from utils.text_images import LINE_BASELINE, LINE_X_HEIGHT

# Per cent of a page's lines that fit on the canvas at their hand's size; the others are reduced to it.
FITTING = 70
SMALLEST = 0.6  # of its hand's size: the least that a line with a very tall stroke is reduced to
TIPS = 0.005  # share of a line's ink that may lie above what counts as its top, and below its foot
LARGEST_SCALE = 6.0  # canvas pixels a page pixel; a hand that would need more was measured wrongly
VISIBLE = 40  # darkness of a cleaned line that counts as ink
LEAST_PIXELS = 12  # of ink in a line
PIXELS_A_LINE = 2.2  # times the canvas's height; larger pages are reduced before they are cut
MOST_PIXELS = 24e6  # of a page that is cut


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """What a line is put on: its height, its greatest width, and white kept free at both ends, in pixels."""

    height: int
    widest: int
    margin: int = 4


def cut_lines(
    grey: np.ndarray, frames: Sequence[LineFrame | None], canvas: Canvas, *, remove_rules: bool
) -> list[np.ndarray | str]:
    """Cut all lines of a page.

    Args:
        grey: (H, W) uint8.
        frames: where the lines are; None for one that no outline was found for.
    Returns:
        For each line (height, w) uint8 with ink on white, w a multiple of 8; or the reason why there is none.
    """
    page = find_ink(grey, frames, remove_rules)
    strips: list[Strip | None] = [None if frame is None else straighten(page, frame) for frame in frames]
    for number, (strip, frame) in enumerate(zip(strips, frames, strict=True)):
        if strip is not None and frame.is_guessed:
            strips[number] = Strip(darkness=strip.darkness, base=_lowest_of_body(strip))
    size = hand_size([strip for strip in strips if strip is not None], canvas.height)
    return ["bad_box" if strip is None else place(strip, size, canvas) for strip in strips]


def hand_size(strips: Sequence[Strip], height: int) -> float:
    """The scale of all lines of a page, in canvas pixels a pixel of the page.

    Small letters (their height is the median of the lines') are to have ``LINE_X_HEIGHT`` of the canvas, or
    less where the hand's strokes are so tall that too many lines would not fit.
    """
    sizes = [size for strip in strips if (size := x_height(strip)) is not None]
    if not sizes:  # hardly any ink: a strip has about eight times the height of its small letters
        sizes = [0.13 * len(strip.darkness) for strip in strips] or [LINE_X_HEIGHT * height]
    scale = min(LINE_X_HEIGHT * height / float(np.median(sizes)), LARGEST_SCALE)
    rooms = [room for strip in strips if (room := _fitting_scale(strip, height)) is not None]
    return min(scale, float(np.percentile(rooms, 100 - FITTING))) if rooms else scale


def _fitting_scale(strip: Strip, height: int) -> float | None:
    """The scale at which a line's top and foot, but for tips, just fit above and below its baseline."""
    rows = (strip.darkness > VISIBLE).sum(axis=1)
    if rows.sum() < LEAST_PIXELS:
        return None
    top, foot = np.searchsorted(np.cumsum(rows) / rows.sum(), (TIPS, 1 - TIPS))
    above, below = max(1.0, strip.base - top + 1), max(1.0, foot + 2 - strip.base)
    return min((LINE_BASELINE * height - 1) / above, ((1 - LINE_BASELINE) * height - 1) / below)


def x_height(strip: Strip) -> float | None:
    """The distance of the baseline to the top of small letters, in pixels; None where there is too little
    ink.

    The rows above the baseline fall into those of small letters, full of ink, and those above, which only
    tall strokes
    reach: the border is where the two differ most (Otsu's criterion on the rows' ink).
    """
    rows = (strip.darkness > VISIBLE).sum(axis=1).astype(float)
    above = np.trim_zeros(np.convolve(rows, np.ones(3) / 3, mode="same")[: round(strip.base) + 1], "f")[::-1]
    count = len(above)
    if count < 7 or above.sum() < 5 * LEAST_PIXELS:
        return None
    inner = np.arange(1, count)  # rows of small letters
    sums = np.cumsum(above)[:-1]
    means = sums / inner, (above.sum() - sums) / (count - inner)
    contrast = np.maximum(means[0] - means[1], 0)
    criterion = (inner * (count - inner) * contrast**2)[3:]
    if not criterion.size or criterion.max() <= 0:
        return None
    row = int(criterion.argmax()) + 3
    # Between two rows, where the ink falls below the middle of both kinds of rows.
    middle = (means[0][row] + means[1][row]) / 2
    inside, outside = above[row], above[row + 1]
    part = (inside - middle) / (inside - outside) if inside > middle > outside else 0.0
    return float(row + 1 + part - 0.5)


def _lowest_of_body(strip: Strip) -> float:
    """The row under which hardly any ink is: the baseline, where a file gives none."""
    rows = np.convolve((strip.darkness > VISIBLE).sum(axis=1), np.ones(3) / 3, mode="same")
    if rows.max() <= 0:
        return strip.base
    full = np.flatnonzero(rows >= 0.5 * np.percentile(rows[rows > 0], 90))
    return float(full[-1] + 1)


def place(strip: Strip, scale: float, canvas: Canvas) -> np.ndarray | str:
    """Put a straight line on its canvas, reduced further where a stroke is too tall for it.

    Args:
        scale: the hand's, in canvas pixels a pixel of the strip.
    Returns:
        (height, w) uint8, w a multiple of 8; or the reason why there is none.
    """
    height = canvas.height
    fitting = _fitting_scale(strip, height)
    if fitting is None:
        return "empty_image"
    scale = max(min(scale, fitting), SMALLEST * scale)
    columns = np.flatnonzero((strip.darkness > VISIBLE).any(axis=0))
    part = strip.darkness[:, max(0, columns[0] - 1) : columns[-1] + 2]
    size = (max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale)))
    width = -(-(size[0] + 2 * canvas.margin) // 8) * 8
    if width > canvas.widest:
        return "too_wide"
    part = cv2.resize(part, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    image = np.full((height, width), WHITE, np.uint8)
    top = round(LINE_BASELINE * height - strip.base * scale)
    first, last = max(0, top), min(height, top + size[1])
    if last > first:
        image[first:last, canvas.margin : canvas.margin + size[0]] = WHITE - part[first - top : last - top]
    return image
