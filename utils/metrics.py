"""What is measured of generated words, as numbers with intervals: resampling, reading errors, retrieval, pixel differences."""

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from utils.charset import normalise_text
from utils.distances import Distance

CONFIDENCE = 0.95  # of the intervals
_CELLS = 4_000_000  # of a similarity matrix at once: bounds the memory


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % bootstrap interval and how many words it rests on; of a single word there is no interval."""

    value: float
    low: float
    high: float
    n: int

    def as_json(self) -> dict:
        """The fields; NaN, which JSON has not, becomes None."""
        return {key: None if value != value else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Measure:
    """One measure of generated words, and beside it the same of others.

    Attributes:
        key: name in ``metrics.json``.
        label: name for readers.
        values: by column: ``generated``, ``real``, ``vae`` (real words encoded and decoded), ``difference`` (generated minus
            real).
        protocol: how it was measured: what a number needs to be compared with another.
        better: ``lower`` or ``higher``; empty where neither is.
        is_percentage: the values are shares, to be shown as percentages.
    """

    key: str
    label: str
    values: Mapping[str, Estimate]
    protocol: str
    better: str = ""
    is_percentage: bool = False

    def as_json(self) -> dict:
        """The measure as JSON-able values."""
        values = {column: estimate.as_json() for column, estimate in self.values.items()}
        return {"label": self.label, "better": self.better, **values, "protocol": self.protocol}


@dataclass(frozen=True)
class Bootstrap:
    """Intervals by resampling words, each measure with random numbers of its own: leaving one out changes no other.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile intervals).
    """

    resamples: int = 1000
    seed: int = 0

    def ratio(self, name: str, numerators: np.ndarray, denominators: np.ndarray | None = None) -> Estimate:
        """``sum(numerators) / sum(denominators)`` of (n,) words; their mean without denominators.

        Raises:
            ValueError: if there is no word.
        """
        columns = _columns(numerators, denominators)
        resampled = self._sums(name, columns)
        return _estimate(columns[0].sum() / columns[1].sum(), resampled[:, 0] / resampled[:, 1], columns.shape[1])

    def difference(self, name: str, one: tuple[np.ndarray, np.ndarray | None], other: tuple[np.ndarray, np.ndarray | None], *,
                   is_paired: bool) -> Estimate:  # fmt: skip
        """One ratio minus another, each given as (numerators, denominators).

        Args:
            is_paired: word i of one is word i of the other, and both are drawn together: what makes a word hard for both
                cancels. The count is that of pairs, otherwise the smaller of the two.
        """
        first, second = _columns(*one), _columns(*other)
        if is_paired:
            resampled = self._sums(name, np.concatenate([first, second]))
        else:
            resampled = np.concatenate([self._sums(f"{name}/one", first), self._sums(f"{name}/other", second)], axis=1)
        value = first[0].sum() / first[1].sum() - second[0].sum() / second[1].sum()
        differences = resampled[:, 0] / resampled[:, 1] - resampled[:, 2] / resampled[:, 3]
        return _estimate(value, differences, min(first.shape[1], second.shape[1]))

    def distance(self, name: str, distance: Distance, *, is_positive: bool) -> Estimate:
        """A distance whose two sets are resampled by their influences; what ``is_positive`` never goes below 0."""
        shift = sum(self._sums(f"{name}/{side}", influence[None])[:, 0] / len(influence)
                    for side, influence in (("reference", distance.reference), ("other", distance.other)))  # fmt: skip
        resampled = distance.value + shift
        return _estimate(distance.value, resampled.clip(0) if is_positive else resampled, len(distance.other))

    def _sums(self, name: str, columns: np.ndarray) -> np.ndarray:
        """(resamples, k) sums of (k, n) columns over n words drawn with replacement, the same words for each column."""
        count = columns.shape[1]
        rng = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
        sums = np.empty((self.resamples, len(columns)))
        for row in range(self.resamples):
            sums[row] = columns @ np.bincount(rng.integers(0, count, count), minlength=count)
        return sums


def _columns(numerators: np.ndarray, denominators: np.ndarray | None) -> np.ndarray:
    """(2, n) float64 numerators and denominators."""
    numerators = np.asarray(numerators, np.float64)
    if not len(numerators):
        raise ValueError("nothing to average")
    return np.stack([numerators, np.ones_like(numerators) if denominators is None else np.asarray(denominators, np.float64)])


def _estimate(value: float, resampled: np.ndarray, count: int) -> Estimate:
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    low, high = np.quantile(resampled, tails) if count > 1 else (np.nan, np.nan)
    return Estimate(float(value), float(low), float(high), count)


# Reading


def keep_letters(text: str) -> str:
    """A text in lower case without what is neither letter nor digit: what a reader without case and marks can get right."""
    return re.sub(r"[\W_]+", "", text.lower())


NORMALISERS: dict[str, Callable[[str], str]] = {"exact": normalise_text, "letters": keep_letters}


def count_errors(texts: Sequence[str], readings: Sequence[str], *, unit: str) -> tuple[np.ndarray, np.ndarray]:
    """Edit operations (insertions, deletions, substitutions) from each text to its reading.

    Args:
        texts: what was to be written, none empty.
        unit: ``characters`` or ``words`` (between spaces).
    Returns:
        (n,) operations and (n,) lengths of the texts, both in units; the error rate is the ratio of their sums.
    """
    import jiwer

    process = {"characters": jiwer.process_characters, "words": jiwer.process_words}[unit]
    alignments = process(list(texts), list(readings)).alignments
    errors = [sum(max(c.ref_end_idx - c.ref_start_idx, c.hyp_end_idx - c.hyp_start_idx) for c in chunks if c.type != "equal")
              for chunks in alignments]  # fmt: skip
    lengths = [sum(c.ref_end_idx - c.ref_start_idx for c in chunks) for chunks in alignments]
    return np.array(errors, np.int64), np.array(lengths, np.int64)


def count_normalised_errors(texts: Sequence[str], readings: Sequence[str], normalise: str, *,
                            unit: str) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """``count_errors`` of normalised texts; both are 0 where nothing is left to compare.

    Args:
        normalise: a name of ``NORMALISERS``.
    """
    pairs = [(NORMALISERS[normalise](text), NORMALISERS[normalise](reading)) for text, reading in zip(texts, readings)]
    counts = np.zeros((2, len(pairs)), np.int64)
    if rows := [i for i, (text, _) in enumerate(pairs) if text]:
        counts[:, rows] = count_errors(*zip(*(pairs[i] for i in rows)), unit=unit)
    return counts[0], counts[1]


def character_error_rates(texts: Sequence[str], readings: Sequence[str], normalise: str) -> np.ndarray:
    """(n,) edit operations a character of single words; 0 of a text that has nothing to compare, such as marks alone where
    letters are compared.

    Args:
        normalise: a name of ``NORMALISERS``.
    """
    errors, lengths = count_normalised_errors(texts, readings, normalise, unit="characters")
    return errors / np.maximum(lengths, 1)


# Style


def average_precisions(queries: np.ndarray, query_labels: np.ndarray, gallery: np.ndarray, gallery_labels: np.ndarray,
                       excluded: np.ndarray) -> np.ndarray:  # fmt: skip
    """Average precision of each query: the gallery is sorted by cosine, and what has the query's label is relevant.

    Args:
        queries: (q, d) vectors of length 1; gallery: (g, d).
        query_labels: (q,) integers; gallery_labels: (g,).
        excluded: (q,) a row of the gallery that does not count for the query (itself), or -1.
    Returns:
        (q,) in (0, 1]; NaN for a query without anything relevant.
    """
    precisions = np.full(len(queries), np.nan)
    rows = max(1, _CELLS // max(1, len(gallery)))
    for start in range(0, len(queries), rows):
        part = slice(start, min(len(queries), start + rows))
        similarity = queries[part] @ gallery.T
        itself = np.flatnonzero(excluded[part] >= 0)
        similarity[itself, excluded[part][itself]] = -np.inf  # last, and not relevant
        order = np.argsort(-similarity, axis=1, kind="stable")
        is_relevant = (gallery_labels[order] == query_labels[part, None]) & (order != excluded[part, None])
        hits = is_relevant.cumsum(axis=1)
        found = hits[:, -1]
        total = (is_relevant * hits / np.arange(1, len(gallery) + 1)).sum(axis=1)
        precisions[part] = np.where(found > 0, total / np.maximum(found, 1), np.nan)
    return precisions


# Pixels


def pad_to_width(image: np.ndarray, width: int) -> np.ndarray:
    """(H, W) uint8 with white at its right up to ``width``."""
    return np.pad(image, ((0, 0), (0, max(0, width - image.shape[1]))), constant_values=255)


def pixel_difference(image: np.ndarray, other: np.ndarray) -> float:
    """Normalised mean absolute error of two (H, W) uint8 images, 0 (equal) to 1; the narrower one gets white at its right."""
    width = max(image.shape[1], other.shape[1])
    difference = pad_to_width(image, width).astype(np.int16) - pad_to_width(other, width)
    return float(np.abs(difference).mean() / 255)
