"""Error rates of readings: edit operations over what was written, with intervals."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import Levenshtein

from utils.bootstrap import Bootstrap, Estimate
from utils.charset import normalise_text


@dataclass(frozen=True, kw_only=True)
class ErrorRates:
    """Error rates of a set of readings; intervals are 95 % bootstrap intervals over images, None for a single
    image.

    Attributes:
        words: number of images that were read.
        cer: edit operations over the number of characters written; above 1 if far too much is read.
        wer: edit operations over the number of words between spaces; upper and lower case count as different.
    """

    words: int
    cer: float
    cer_interval: tuple[float, float] | None
    wer: float
    wer_interval: tuple[float, float] | None

    def describe(self) -> str:
        """One line, e.g. ``CER 4.1 % (3.5 to 4.7), WER 12.0 % (10.1 to 14.0), 500 images``."""
        parts = []
        for name, rate, interval in (
            ("CER", self.cer, self.cer_interval),
            ("WER", self.wer, self.wer_interval),
        ):
            span = f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else ""
            parts.append(f"{name} {100 * rate:.1f} %{span}")
        return ", ".join([*parts, f"{self.words} images"])


def measure_errors(texts: Sequence[str], readings: Sequence[str], *, seed: int = 0) -> ErrorRates:
    """Error rates of ``readings`` against the ``texts`` that were written, none of them empty.

    Args:
        seed: of the intervals' resampling.
    """
    bootstrap = Bootstrap(seed=seed)
    cer = bootstrap.ratio("cer", *count_errors(texts, readings, unit="characters"))
    wer = bootstrap.ratio("wer", *count_errors(texts, readings, unit="words"))
    return ErrorRates(
        words=len(texts),
        cer=cer.value,
        cer_interval=_interval(cer),
        wer=wer.value,
        wer_interval=_interval(wer),
    )


def _interval(estimate: Estimate) -> tuple[float, float] | None:
    return (estimate.low, estimate.high) if estimate.n > 1 else None


# Reading


def keep_letters(text: str) -> str:
    """The letters and digits of a text in lower case: what a recogniser that ignores case and punctuation can
    get right.
    """
    return re.sub(r"[\W_]+", "", text.lower())


def fold_letters(text: str) -> str:
    """The letters and digits of a text without case and accents, ligatures and ß spelt out: what a recogniser
    of plain Latin letters can get right.
    """
    spelt = text.casefold().replace("œ", "oe").replace("æ", "ae")
    parts = unicodedata.normalize("NFKD", spelt)
    return keep_letters("".join(part for part in parts if not unicodedata.combining(part)))


NORMALISERS: dict[str, Callable[[str], str]] = {
    "exact": normalise_text,
    "letters": keep_letters,
    "folded": fold_letters,
}


def split_units(text: str, normalise: str, unit: str) -> Sequence[str]:
    """What errors are counted over: the characters of a text as ``normalise`` leaves it, or its words.

    Words stand between spaces, under any ``normalise``; each is normalised by itself, and one of which
    nothing is left, such as a lone dash where letters are compared, is no word.
    """
    if unit == "characters":
        return NORMALISERS[normalise](text)
    words = (NORMALISERS[normalise](word) for word in text.split())
    return [word for word in words if word]


def count_errors(
    texts: Sequence[str], readings: Sequence[str], normalise: str = "exact", *, unit: str
) -> tuple[np.ndarray, np.ndarray]:
    """Edit operations (insertions, deletions, substitutions) from each text to its reading.

    Args:
        texts: what was to be written.
        normalise: a name of ``NORMALISERS``.
        unit: ``characters`` or ``words`` (between spaces).
    Returns:
        (n,) int64 operations and (n,) int64 lengths of the texts, both in units; the error rate is the ratio
        of their sums. Both are 0 where nothing is left of the text to compare.
    """
    errors = np.zeros(len(texts), np.int64)
    lengths = np.zeros(len(texts), np.int64)
    for row, (text, reading) in enumerate(zip(texts, readings, strict=True)):
        written = split_units(text, normalise, unit)
        if written:
            lengths[row] = len(written)
            errors[row] = Levenshtein.distance(written, split_units(reading, normalise, unit))
    return errors, lengths


def character_error_rates(texts: Sequence[str], readings: Sequence[str], normalise: str) -> np.ndarray:
    """(n,) edit operations a character of each text; 0 where a text has nothing to compare, such as
    punctuation alone where letters are compared.

    Args:
        normalise: a name of ``NORMALISERS``.
    """
    errors, lengths = count_errors(texts, readings, normalise, unit="characters")
    return errors / np.maximum(lengths, 1)
