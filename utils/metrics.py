"""What is measured of generated words: the measure with its columns, and retrieval."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from utils.bootstrap import Estimate

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
