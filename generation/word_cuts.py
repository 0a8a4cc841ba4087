"""Where a line is cut into words: at its spaces, and there where no ink is in the way."""

import cv2
import numpy as np

from utils.images import INK, WHITE, runs_without_ink, trim_tail

LEFT_MARGIN = 4  # pixels of white before a word's ink
CLEAR_GAP = 1 / 16  # least width of a gap without ink, in heights of the line, for a cut to go there
TAIL = 0.01  # most ink of a stroke beyond a cut for it to stay whole, in squares of the line's height
PALEST = 240  # grey level under which pixels belong to a stroke
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
    words = _share_out(image, np.sort(np.array(cuts, np.int64)))
    if edges[-1] < edges[0]:
        words.reverse()
    if not all((word < INK).any() for word in words):
        return None
    return [_trim(word) for word in words]


def _share_out(image: np.ndarray, cuts: np.ndarray) -> list[np.ndarray]:
    """The (H, W) line once for each word, from left to right, with the ink of the others white.

    Strokes that reach over a cut with their ends alone stay whole, such as the long tail of a slanted p.
    """
    words = len(cuts) + 1
    of_column = np.searchsorted(cuts, np.arange(image.shape[1]), side="right")
    of_pixel = np.broadcast_to(of_column, image.shape)
    count, strokes = cv2.connectedComponents((image < PALEST).astype(np.uint8), connectivity=8)
    ink = np.bincount((strokes * words + of_pixel).ravel(), minlength=count * words).reshape(count, words)
    is_whole = ink.sum(axis=1) - ink.max(axis=1) <= TAIL * len(image) ** 2
    is_whole[0] = False  # the paper
    owner = np.where(is_whole[strokes], ink.argmax(axis=1)[strokes], of_pixel)
    return [np.where(owner == word, image, WHITE).astype(np.uint8) for word in range(words)]


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
    gaps = [
        (start, end)
        for start, end in runs_without_ink(is_inked)
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
