"""Character and word error rates of readings, with bootstrap intervals over words."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class ErrorRates:
    """Error rates of a set of readings; intervals are 95 % bootstrap intervals over words.

    Attributes:
        words: how many were read.
        cer: edit distance over all characters that were written; above 1 if far too much is read.
        wer: share of words that are not read exactly, case and all; a text with spaces is one word.
    """

    words: int
    cer: float
    cer_interval: tuple[float, float]
    wer: float
    wer_interval: tuple[float, float]

    def describe(self) -> str:
        """One line, e.g. ``CER 4.1 % (3.5 to 4.7), WER 12.0 % (10.1 to 14.0), 500 words``."""
        cer, wer = ((100 * value for value in (rate, *interval)) for rate, interval in
                    ((self.cer, self.cer_interval), (self.wer, self.wer_interval)))  # fmt: skip
        return "CER {:.1f} % ({:.1f} to {:.1f}), WER {:.1f} % ({:.1f} to {:.1f}), {} words".format(*cer, *wer, self.words)


def bootstrap_interval(errors: np.ndarray, lengths: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of sum(errors) / sum(lengths) over (N,) words drawn with replacement.

    Source: Efron 1979, https://doi.org/10.1214/aos/1176344552; for error rates: Bisani and Ney 2004,
    https://doi.org/10.1109/ICASSP.2004.1326009.
    """
    rng = np.random.default_rng(seed)
    rates = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        drawn = rng.integers(len(errors), size=len(errors))
        rates[i] = errors[drawn].sum() / lengths[drawn].sum()
    low, high = np.quantile(rates, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def measure_errors(references: Sequence[str], readings: Sequence[str], *, seed: int = 0) -> ErrorRates:
    """Error rates of ``readings`` against what was written.

    Args:
        references: normalised texts, none of them empty.
        seed: of the bootstrap.
    """
    import jiwer

    as_one_word = jiwer.Compose([jiwer.ReduceToListOfListOfWords(word_delimiter="\n")])
    characters = jiwer.process_characters(list(references), list(readings))
    words = jiwer.process_words(list(references), list(readings), as_one_word, as_one_word)
    lengths, ones = np.array([len(text) for text in references]), np.ones(len(references))
    edits, wrong = _count_edits(characters.alignments), _count_edits(words.alignments)
    return ErrorRates(len(references), float(characters.cer), bootstrap_interval(edits, lengths, seed=seed),
                      float(words.wer), bootstrap_interval(wrong, ones, seed=seed))  # fmt: skip


def _count_edits(alignments: Sequence[Sequence]) -> np.ndarray:
    """(N,) edits of each reading, from jiwer's alignments."""
    return np.array([sum(max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
                         for chunk in chunks if chunk.type != "equal") for chunks in alignments])  # fmt: skip
