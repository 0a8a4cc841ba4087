"""What is measured of generated words: the measure with its columns, and retrieval."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from utils.bootstrap import Estimate
from utils.charset import normalise_text

_CELLS = 4_000_000  # of a similarity matrix at once: bounds the memory


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
