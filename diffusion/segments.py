"""What a training draws: whole text images, and segments of lines, cut at spaces where the alignment sees
them.

A step on segments of one to four words costs what words cost, and the model still meets neighbours, spaces
and a line's own scale.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffusion.alignment import Alignment
from diffusion.layout import COLUMN
from utils.charset import is_right_to_left

SEGMENT_WORDS = (1, 4)  # fewest and most words of a segment
MARGIN = 6  # pixels that a segment takes of the space beside it, at most half of it
CUTTINGS = 2  # times that each line is cut anew
LONG = 6  # words; a text with more is seldom drawn whole, which costs as much as all of its segments
WHOLE_SHARE = 0.25  # of long texts that are drawn whole as well


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A text image or a part of one.

    Attributes:
        image: its record's number.
        text: what stands in it.
        columns: first latent column and the one behind the last, counted from the image's own first.
        edges: (n + 1,) borders of the characters in pixels from the first of these columns.
    """

    image: int
    text: str
    columns: tuple[int, int]
    edges: np.ndarray


def cut_segments(
    image: int, text: str, edges: np.ndarray, columns: int, rng: np.random.Generator
) -> list[Segment]:
    """Cut a line into segments of one to four words that follow one another; a single word gives none.

    Args:
        edges: (n + 1,) borders of the text's characters in the image, pixels, from left to right.
        columns: of the image's latents.
    """
    if " " not in text:
        return []
    spaces = [-1, *(i for i, character in enumerate(text) if character == " "), len(text)]
    segments, first = [], 0
    while first < len(spaces) - 1:
        last = min(first + int(rng.integers(SEGMENT_WORDS[0], SEGMENT_WORDS[1] + 1)), len(spaces) - 1)
        begin, end = spaces[first] + 1, spaces[last]  # characters, the space behind left out
        first = last
        if begin >= end:
            continue
        left = edges[begin] - _margin(edges, begin - 1)
        right = edges[end] + _margin(edges, end)
        # Columns are 8 pixels wide: the cut is where most of the margin is kept.
        low = max(0, round(left / COLUMN))
        high = min(columns, max(low + 1, round(right / COLUMN)))
        segments.append(
            Segment(
                image=image,
                text=text[begin:end],
                columns=(low, high),
                edges=edges[begin : end + 1] - low * COLUMN,
            )
        )
    return segments


def _margin(edges: np.ndarray, space: int) -> float:
    """Pixels of a space that a segment beside it takes; at the line's ends, all there is."""
    if not 0 <= space < len(edges) - 1:
        return 2.0 * COLUMN
    return min(MARGIN, float(edges[space + 1] - edges[space]) / 2)


def draw_segments(
    texts: Sequence[str], alignment: Alignment, columns: Sequence[int], *, seed: int, cuts: bool
) -> list[Segment]:
    """All that a training draws from: each image whole, but for most long lines, and lines cut in several
    ways.

    Args:
        alignment: of the images; one whose borders were not measured is not cut.
        columns: of each image's latents.
        cuts: whether there are segments at all.
    """
    segments = []
    for image, (text, edges, count) in enumerate(zip(texts, alignment.edges, columns, strict=True)):
        rng = np.random.default_rng([seed, image])
        is_cut = cuts and bool(alignment.is_measured[image]) and not is_right_to_left(text)
        if not is_cut or text.count(" ") < LONG or rng.random() < WHOLE_SHARE:
            segments.append(Segment(image=image, text=text, columns=(0, int(count)), edges=edges))
        for _ in range(CUTTINGS if is_cut else 0):
            segments += cut_segments(image, text, edges, int(count), rng)
    return segments
