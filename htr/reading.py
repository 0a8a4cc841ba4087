"""What a recogniser reads: the interface of all recognisers, and the decoding of CTC outputs."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from utils.charset import Charset, normalise_text, order_along_line


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a recogniser reads in a text image.

    Attributes:
        text: normalised (NFC, single spaces); may be empty.
        confidence: in [0, 1], the product of the probabilities of all characters that were read; 0 where
            nothing is read. For the CRNN, a character's probability is the highest one among the frames of
            its run; for rapidocr, that of the first frame of its run, rounded to 1e-5 (rapidocr's score is
            their mean); for TrOCR it is that of a token, and the end of the text is one more token.
    """

    text: str
    confidence: float

    @property
    def character_confidence(self) -> float:
        """In [0, 1], the geometric mean of the characters' probabilities, which does not fall with the length
        of a text.
        """
        return self.confidence ** (1 / len(self.text)) if self.text else 0.0


class Recogniser(Protocol):
    """Anything that reads text images; ``name`` is the name that it was loaded by."""

    name: str

    def read(self, images: Sequence[np.ndarray], *, batch_size: int = 64) -> list[Reading]:
        """Read (H, W_i) uint8 grey images of any widths, dark ink on white; the reading of an image does not
        depend on the others in its batch.
        """
        ...


def frames_needed(text: str) -> int:
    """Frames that CTC needs for a text: one for each character, and a blank between two equal ones."""
    return len(text) + sum(one == other for one, other in itertools.pairwise(text))


def decode_best_path(log_probs: Tensor, frames: Tensor, charset: Charset) -> list[Reading]:
    """The readings of a batch by best path decoding: the likeliest class of each frame, runs of one class
    merged, blanks removed.

    Args:
        log_probs: (B, T, classes); class 0 is the blank.
        frames: (B,) the number of frames that belong to each image; later ones are padding.

    Source: Graves et al. 2006, https://doi.org/10.1145/1143844.1143891, section 3.2.
    """
    peaks, classes = (values.cpu().numpy() for values in log_probs.max(dim=-1))
    readings = []
    for peak, row, count in zip(peaks, classes, frames.tolist(), strict=True):
        starts = np.flatnonzero(np.diff(row[:count], prepend=-1))  # of runs
        is_character = row[starts] > 0
        log_peaks = np.maximum.reduceat(peak[:count].astype(np.float64), starts)[is_character]
        characters = "".join(charset.characters[i - 1] for i in row[starts][is_character])
        text = normalise_text(order_along_line(characters))
        confidence = float(np.exp(log_peaks.sum())) if text else 0.0
        readings.append(Reading(text=text, confidence=confidence))
    return readings
