"""From word images to what a CTC recogniser takes, and from its log-probabilities to text."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from utils.charset import Charset, normalise_text, order_along_line
from utils.images import to_pixel_values

INK = 200  # grey levels under this are ink
MARGIN = 6  # pixels of white that stay at both sides of the ink
WIDTH_STEP = 16  # pixels; words become a multiple of it wide
FRAME = 4  # pixels along the line for each frame of the CRNN


@dataclass(frozen=True)
class Reading:
    """What a recogniser reads in a word image.

    Attributes:
        text: normalised (NFC, single spaces); may be empty.
        confidence: in [0, 1], the product of the probabilities of the word's characters, 0 where nothing is read. A
            character's is, for the CRNN, that of the surest frame of its run; for rapidocr, of the first frame of its run,
            rounded to 1e-5 (its own score is their mean); for TrOCR, of a token, the end of the text being one more.
    """

    text: str
    confidence: float


def crop_to_ink(image: np.ndarray) -> np.ndarray:
    """An (H, W) uint8 image without the white at both sides, but for a margin; of a blank image the first pixels."""
    columns = np.flatnonzero((image < INK).any(axis=0))
    if not len(columns):
        return image[:, :WIDTH_STEP]
    return image[:, max(0, columns[0] - MARGIN) : columns[-1] + 1 + MARGIN]


def padded_width(width: int) -> int:
    """``width`` up to a multiple of ``WIDTH_STEP``, pixels."""
    return -(-width // WIDTH_STEP) * WIDTH_STEP


def make_batch(crops: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Images of one height and any widths as (B, 1, H, W) pixel values, white at the right, and their (B,) padded widths."""
    widths = [padded_width(crop.shape[1]) for crop in crops]
    canvas = np.full((len(crops), crops[0].shape[0], max(widths)), 255, np.uint8)
    for row, crop in zip(canvas, crops):
        row[:, : crop.shape[1]] = crop
    return to_pixel_values(torch.from_numpy(canvas), 1), torch.tensor(widths)


def frames_needed(text: str) -> int:
    """Frames that CTC needs for a text: one a character, and a blank between two equal ones."""
    return len(text) + sum(one == other for one, other in zip(text, text[1:]))


def decode_best_path(log_probs: Tensor, frames: Tensor, charset: Charset) -> list[Reading]:
    """The readings of (B, T, classes) log-probabilities, of which word i has the first ``frames[i]``; class 0 is the blank.

    Source: Graves et al. 2006, https://doi.org/10.1145/1143844.1143891, section 3.2, best path decoding: the surest class of
    each frame, runs become one character, blanks go.
    """
    peaks, classes = (values.cpu().numpy() for values in log_probs.max(dim=-1))
    readings = []
    for peak, row, count in zip(peaks, classes, frames.tolist()):
        starts = np.flatnonzero(np.diff(row[:count], prepend=-1))  # of runs
        is_character = row[starts] > 0
        sureness = np.maximum.reduceat(peak[:count].astype(np.float64), starts)[is_character]
        text = normalise_text(order_along_line("".join(charset.characters[i - 1] for i in row[starts][is_character])))
        readings.append(Reading(text, float(np.exp(sureness.sum())) if text else 0.0))
    return readings
