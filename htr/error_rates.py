"""Error rates of readings: edit operations over what was written, with intervals."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from utils.bootstrap import Bootstrap, Estimate
from utils.charset import normalise_text


@dataclass(frozen=True)
class ErrorRates:
    """Error rates of a set of readings; intervals are 95 % bootstrap intervals over words, None for a single
    word.

    Attributes:
        words: how many were read.
        cer: edit operations over all characters that were written; above 1 if far too much is read.
        wer: edit operations over all words between spaces, case and all.
    """

    words: int
    cer: float
    cer_interval: tuple[float, float] | None
    wer: float
    wer_interval: tuple[float, float] | None

    def describe(self) -> str:
        """One line, e.g. ``CER 4.1 % (3.5 to 4.7), WER 12.0 % (10.1 to 14.0), 500 words``."""
        parts = []
        for name, rate, interval in (
            ("CER", self.cer, self.cer_interval),
            ("WER", self.wer, self.wer_interval),
        ):
            span = " ({:.1f} to {:.1f})".format(*(100 * end for end in interval)) if interval else ""
            parts.append(f"{name} {100 * rate:.1f} %{span}")
        return ", ".join([*parts, f"{self.words} words"])


def measure_errors(texts: Sequence[str], readings: Sequence[str], *, seed: int = 0) -> ErrorRates:
    """Error rates of ``readings`` against the ``texts`` that were written, none of them empty; ``seed``
    resamples.
    """
    bootstrap = Bootstrap(seed=seed)
    cer, wer = (
        bootstrap.ratio(name, *count_errors(texts, readings, unit=unit))
        for name, unit in (("cer", "characters"), ("wer", "words"))
    )
    return ErrorRates(len(texts), cer.value, _interval(cer), wer.value, _interval(wer))


def _interval(estimate: Estimate) -> tuple[float, float] | None:
    return (estimate.low, estimate.high) if estimate.n > 1 else None


# Reading


def keep_letters(text: str) -> str:
    """A text in lower case without what is neither letter nor digit: what a reader without case and marks can
    get right.
    """
    return re.sub(r"[\W_]+", "", text.lower())


NORMALISERS: dict[str, Callable[[str], str]] = {"exact": normalise_text, "letters": keep_letters}


def count_errors(
    texts: Sequence[str], readings: Sequence[str], *, unit: str
) -> tuple[np.ndarray, np.ndarray]:
    """Edit operations (insertions, deletions, substitutions) from each text to its reading.

    Args:
        texts: what was to be written, none empty.
        unit: ``characters`` or ``words`` (between spaces).
    Returns:
        (n,) operations and (n,) lengths of the texts, both in units; the error rate is the ratio of their
        sums.
    """
    import jiwer

    process = {"characters": jiwer.process_characters, "words": jiwer.process_words}[unit]
    alignments = process(list(texts), list(readings)).alignments
    errors = [
        sum(
            max(c.ref_end_idx - c.ref_start_idx, c.hyp_end_idx - c.hyp_start_idx)
            for c in chunks
            if c.type != "equal"
        )
        for chunks in alignments
    ]
    lengths = [sum(c.ref_end_idx - c.ref_start_idx for c in chunks) for chunks in alignments]
    return np.array(errors, np.int64), np.array(lengths, np.int64)


def count_normalised_errors(
    texts: Sequence[str], readings: Sequence[str], normalise: str, *, unit: str
) -> tuple[np.ndarray, np.ndarray]:
    """``count_errors`` of normalised texts; both are 0 where nothing is left to compare.

    Args:
        normalise: a name of ``NORMALISERS``.
    """
    pairs = [
        (NORMALISERS[normalise](text), NORMALISERS[normalise](reading))
        for text, reading in zip(texts, readings, strict=True)
    ]
    counts = np.zeros((2, len(pairs)), np.int64)
    if rows := [i for i, (text, _) in enumerate(pairs) if text]:
        counts[:, rows] = count_errors(*zip(*(pairs[i] for i in rows), strict=True), unit=unit)
    return counts[0], counts[1]


def character_error_rates(texts: Sequence[str], readings: Sequence[str], normalise: str) -> np.ndarray:
    """(n,) edit operations a character of single words; 0 of a text that has nothing to compare, such as
    marks alone where letters are compared.

    Args:
        normalise: a name of ``NORMALISERS``.
    """
    errors, lengths = count_normalised_errors(texts, readings, normalise, unit="characters")
    return errors / np.maximum(lengths, 1)
