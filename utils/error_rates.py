"""The error rates of a recogniser on words that it has read."""

from collections.abc import Sequence
from dataclasses import dataclass

from utils.bootstrap import Bootstrap, Estimate
from utils.metrics import count_errors


@dataclass(frozen=True)
class ErrorRates:
    """Error rates of a set of readings; intervals are 95 % bootstrap intervals over words, None for a single word.

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
        for name, rate, interval in (("CER", self.cer, self.cer_interval), ("WER", self.wer, self.wer_interval)):
            span = " ({:.1f} to {:.1f})".format(*(100 * end for end in interval)) if interval else ""
            parts.append(f"{name} {100 * rate:.1f} %{span}")
        return ", ".join([*parts, f"{self.words} words"])


def measure_errors(texts: Sequence[str], readings: Sequence[str], *, seed: int = 0) -> ErrorRates:
    """Error rates of ``readings`` against the ``texts`` that were written, none of them empty; ``seed`` resamples."""
    bootstrap = Bootstrap(seed=seed)
    cer, wer = (bootstrap.ratio(name, *count_errors(texts, readings, unit=unit))
                for name, unit in (("cer", "characters"), ("wer", "words")))  # fmt: skip
    return ErrorRates(len(texts), cer.value, _interval(cer), wer.value, _interval(wer))


def _interval(estimate: Estimate) -> tuple[float, float] | None:
    return (estimate.low, estimate.high) if estimate.n > 1 else None
