"""Where a line is cut into words: at its spaces, and there where no ink is in the way."""

from itertools import pairwise

import numpy as np

from utils.images import INK, WHITE, trim_tail

LEFT_MARGIN = 4  # pixels of white before a word's ink
CLEAR_GAP = 1 / 16  # least width of a gap without ink, in heights of the line, for a cut to go there
SEARCH = 1 / 10  # how far from a space's borders such a gap is looked for, in heights of the line


def cut_line(image: np.ndarray, text: str, edges: np.ndarray) -> list[np.ndarray] | None:
    """The words of a line, each at the line's height and as wide as its ink.

    Args:
        image: (H, W) uint8, ink on white.
        text: words with single spaces between them.
        edges: (len(text) + 1,) borders of the characters, pixels, rising, or falling for a text that is
            written from right to left.
    Returns:
        (H, w) uint8 each, w a multiple of 8; None if a word has no ink.
    """
    is_inked = (image < INK).any(axis=0)
    if not is_inked.any():
        return None
    first, last = np.flatnonzero(is_inked)[[0, -1]]
    is_inked[:first] = is_inked[last:] = True  # the white around a line is no gap between words
    cuts = [
        find_cut(is_inked, *sorted((edges[i], edges[i + 1])), height=len(image))
        for i, character in enumerate(text)
        if character == " "
    ]
    borders = [0, *sorted(cuts), image.shape[1]]
    words = [image[:, left:right] for left, right in pairwise(borders)]
    if len(edges) > 1 and edges[-1] < edges[0]:
        words.reverse()
    if not all((word < INK).any() for word in words):
        return None
    return [_trim(word) for word in words]


def find_cut(is_inked: np.ndarray, left: float, right: float, *, height: int) -> int:
    """The column to cut at for a space.

    Args:
        is_inked: (W,) bool, whether a column of the line holds ink; true outside of the line.
        left, right: borders of the space, pixels.
        height: of the line, pixels.
    Returns:
        The middle of the widest gap without ink at the space, if it is a clear one; else of its borders.
    """
    middle = round((left + right) / 2)
    low = max(0, int(left - SEARCH * height))
    high = min(len(is_inked), int(np.ceil(right + SEARCH * height)))
    edges = np.flatnonzero(np.diff(np.r_[True, is_inked, True].astype(np.int8)))
    gaps = [
        (start, end)
        for start, end in zip(edges[::2], edges[1::2], strict=True)
        if start < high and end > low and end - start >= CLEAR_GAP * height
    ]
    if not gaps:
        return min(max(middle, 0), len(is_inked))
    start, end = max(gaps, key=lambda gap: (gap[1] - gap[0], -abs(gap[0] + gap[1] - 2 * middle)))
    return int(start + end) // 2


def _trim(word: np.ndarray) -> np.ndarray:
    first = int(np.flatnonzero((word < INK).any(axis=0))[0])
    padded = np.pad(word, ((0, 0), (LEFT_MARGIN, 16)), constant_values=WHITE)
    return trim_tail(padded[:, first:])
