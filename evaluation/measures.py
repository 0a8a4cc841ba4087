"""From features and readings to the measures of an evaluation, each with what it is compared with and how it
was made.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from evaluation.distances import frechet_distance, kernel_distance
from htr.error_rates import count_errors
from htr.reading import Reading
from utils.bootstrap import Bootstrap, Estimate
from utils.errors import UserError

_CELLS = 4_000_000  # of a similarity matrix at once: bounds the memory


@dataclass(frozen=True)
class Measure:
    """One measure of generated words, and beside it the same of others.

    Attributes:
        key: name in ``metrics.json``.
        label: name for readers.
        values: by column: ``generated``, ``real``, ``vae`` (real words encoded and decoded), ``difference``
            (generated minus real).
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


def average_precisions(
    queries: np.ndarray,
    query_labels: np.ndarray,
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    excluded: np.ndarray,
) -> np.ndarray:
    """Average precision of each query: the gallery is sorted by cosine, and what has the query's label is
    relevant.

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


LONGEST = 16  # characters; longer words share a bar
NAMED = 5  # writers in a line


class LeftOut(UserError):
    """A measure that can't be made from what was given; the message names the flag that brings it."""


@dataclass
class Results:
    """What is found, as it grows: measures, lines on what was left out, details by name, charts (SVG and
    caption).
    """

    measures: list[Measure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    details: dict[str, object] = field(default_factory=dict)
    charts: list[tuple[str, str]] = field(default_factory=list)


def measure_distances(
    keys: tuple[str, str],
    labels: tuple[str, str],
    reference: np.ndarray,
    others: Mapping[str, np.ndarray],
    protocol: str,
    bootstrap: Bootstrap,
) -> list[Measure]:
    """Fréchet and kernel distance of sets of features to a reference of the same size.

    Args:
        keys, labels: of the Fréchet and of the kernel distance.
        reference: (n, d) features of real words.
        others: (n, d) features by column: ``generated``, ``real`` (the floor), ``vae`` (the ceiling).
    """
    measures = []
    size = f"{protocol}; n {len(reference)} on each side, the writers in equal numbers"
    below = (
        "; unbiased for words drawn freely; writers in equal numbers bring it a little below 0 where hands"
        " agree"
    )
    few = (
        f"; n is not above the {reference.shape[1]} dimensions: mostly bias, to be read against the real"
        " words' value alone"
    )
    for key, label, compute, is_positive in zip(
        keys, labels, (frechet_distance, kernel_distance), (True, False), strict=True
    ):
        values = {
            column: bootstrap.distance(
                f"{key}/{column}", compute(reference, features), is_positive=is_positive
            )
            for column, features in others.items()
        }
        # Only the Fréchet distance depends on the number of words.
        note = (few if len(reference) <= reference.shape[1] else "") if is_positive else below
        measures.append(Measure(key, label, values, f"{size}{note}", "lower"))
    return measures


# Reading


@dataclass(frozen=True)
class ReadWords:
    """What a recogniser made of n words.

    Attributes:
        texts: what was to be written; writers: by whom.
        readings: text and confidence of each.
        errors, lengths: (n,) edit operations and characters; a length of 0 is a word with nothing to compare.
        word_errors, word_lengths: (n,) the same in words between spaces.
    """

    texts: Sequence[str]
    writers: Sequence[str]
    readings: Sequence[Reading]
    errors: np.ndarray
    lengths: np.ndarray
    word_errors: np.ndarray
    word_lengths: np.ndarray

    @property
    def is_compared(self) -> np.ndarray:
        """(n,) bool, the text has something to compare."""
        return self.lengths > 0

    @property
    def confidences(self) -> np.ndarray:
        """(n,) in [0, 1]."""
        return np.array([reading.confidence for reading in self.readings])


def compare_readings(
    texts: Sequence[str], writers: Sequence[str], readings: Sequence[Reading], normalise: str
) -> ReadWords:
    """Count the errors of readings; ``normalise`` is a name of ``NORMALISERS``."""
    read = [reading.text for reading in readings]
    characters, words = (count_errors(texts, read, normalise, unit=unit) for unit in ("characters", "words"))
    return ReadWords(texts, writers, readings, *characters, *words)


def measure_legibility(
    name: str,
    generated: ReadWords,
    real: ReadWords,
    matches: np.ndarray,
    normalise: str,
    bootstrap: Bootstrap,
) -> list[Measure]:
    """CER, WER and confidence of generated and of real words, and the difference: without the recogniser's
    own errors.

    Args:
        name: of the recogniser.
        matches: (p, 2) rows of ``generated`` and ``real`` that are of the same record; then the difference is
            over these pairs, otherwise between all.
    """
    both = np.array([(i, j) for i, j in matches if generated.is_compared[i] and real.is_compared[j]]).reshape(
        -1, 2
    )
    is_paired = len(both) > 1
    texts = {"exact": "texts compared exactly", "letters": "compared are letters and digits, without case"}[
        normalise
    ]
    left_out = int((~generated.is_compared).sum())
    if left_out:
        texts += f"; {left_out} generated words have none and are left out"
    beside = f"real words: {'of the same records' if is_paired else 'of the same writers'}"
    if is_paired and len(both) < len(generated.texts):
        beside += f" where there are any ({len(both)} of {len(generated.texts)})"
    quantities = (
        ("cer", "Character error rate", "errors", "lengths", "edit operations over all characters", "lower"),
        (
            "wer",
            "Word error rate",
            "word_errors",
            "word_lengths",
            "edit operations over all words between spaces",
            "lower",
        ),
        (
            "confidence",
            "Confidence",
            "confidences",
            None,
            "mean over words of the product of the probabilities of the characters that were read",
            "higher",
        ),
    )
    measures = []
    for key, label, numerator, denominator, definition, better in quantities:

        def columns(words: ReadWords, rows: np.ndarray, top=numerator, bottom=denominator):
            values = getattr(words, top)[rows]
            return values, None if bottom is None else getattr(words, bottom)[rows]

        name_of, how = f"{key}/{name}", "" if denominator is None else f"{texts}; "
        all_generated = columns(generated, np.flatnonzero(generated.is_compared))
        all_real = columns(real, np.flatnonzero(real.is_compared))
        values = {}
        if len(all_generated[0]):
            values["generated"] = bootstrap.ratio(f"{name_of}/generated", *all_generated)
        if len(all_real[0]):
            values["real"] = bootstrap.ratio(f"{name_of}/real", *all_real)
        if len(values) == 2:
            pair = (
                (columns(generated, both[:, 0]), columns(real, both[:, 1]))
                if is_paired
                else (all_generated, all_real)
            )
            values["difference"] = bootstrap.difference(f"{name_of}/difference", *pair, is_paired=is_paired)
        measures.append(
            Measure(name_of, f"{label} ({name})", values, f"{definition}; {how}{beside}", better, True)
        )
    return measures


def group_error_rates(words: ReadWords, keys: Sequence[str], bootstrap: Bootstrap) -> dict[str, Estimate]:
    """The character error rate of each group of words, by ``keys`` (n,): its name."""
    names, is_compared = np.array(keys), words.is_compared
    groups = {}
    for name in dict.fromkeys(keys):
        rows = np.flatnonzero((names == name) & is_compared)
        if len(rows):
            groups[name] = bootstrap.ratio(f"group/{name}", words.errors[rows], words.lengths[rows])
    return groups


def length_names(texts: Sequence[str]) -> list[str]:
    """The number of characters of each text as the name of its group, long ones together."""
    return [str(len(text)) if len(text) < LONGEST else f"{LONGEST}+" for text in texts]


# Style


@dataclass(frozen=True)
class StyledWords:
    """What the style encoder says of n words: (n, d) vectors of length 1, and (n,) rows of the most likely
    writers.
    """

    vectors: np.ndarray
    predicted: np.ndarray
    writers: np.ndarray


def measure_writer_accuracy(
    generated: StyledWords, real: StyledWords, known: Sequence[str], is_paired: bool, bootstrap: Bootstrap
) -> Measure | str:
    """Share of words whose writer the style encoder names, of those writers that it knows; a reason where
    there are none.

    Args:
        is_paired: word i of the one is of word i's record of the other.
    """
    row = {name: i for i, name in enumerate(known)}
    rows = [np.array([row.get(writer, -1) for writer in words.writers]) for words in (generated, real)]
    unknown = Counter(writer for writer in generated.writers if writer not in row)
    if not (rows[0] >= 0).any():
        return (
            "writer_accuracy: the style encoder knows none of the writers"
            f" ({', '.join(sorted(unknown)[:NAMED])})"
        )
    correct = [
        (words.predicted[is_known := r >= 0] == r[is_known])
        for words, r in zip((generated, real), rows, strict=True)
    ]
    values = {
        column: bootstrap.ratio(f"writer_accuracy/{column}", hits)
        for column, hits in zip(("generated", "real"), correct, strict=True)
        if len(hits)
    }
    if len(values) == 2:
        values["difference"] = bootstrap.difference(
            "writer_accuracy/difference",
            (correct[0], None),
            (correct[1], None),
            is_paired=is_paired and len(correct[0]) == len(correct[1]),
        )
    protocol = f"the style encoder's most likely one of {len(known)} writers"
    if unknown:
        protocol += (
            f"; left out: {unknown.total()} words of {len(unknown)} writers that it does not know "
            f"({', '.join(sorted(unknown)[:NAMED])}{', …' if len(unknown) > NAMED else ''})"
        )
    return Measure("writer_accuracy", "Writer accuracy", values, protocol, "higher", True)


def measure_retrieval(
    queries: Mapping[str, tuple[StyledWords, np.ndarray]], gallery: StyledWords, bootstrap: Bootstrap
) -> Measure:
    """Mean average precision: how far in front real words of the same writer come, sorted by style.

    Args:
        queries: by column, words and the (n,) row of the gallery that doesn't count for each (itself, or the
            real word of its record), or -1.
        gallery: real words of all writers.
    """
    ids = {name: i for i, name in enumerate(dict.fromkeys(gallery.writers))}
    labels = np.array([ids[name] for name in gallery.writers])
    values, lost = {}, 0
    for column, (words, excluded) in queries.items():
        own = np.array([ids.get(name, -1) for name in words.writers])
        precisions = average_precisions(words.vectors, own, gallery.vectors, labels, excluded)
        found = precisions[~np.isnan(precisions)]
        lost += len(precisions) - len(found)
        if len(found):
            values[column] = bootstrap.ratio(f"retrieval_map/{column}", found)
    chance = np.mean([(labels == i).mean() for i in labels])
    protocol = (
        f"mean over queries; gallery of {len(labels)} real words of {len(ids)} writers without the query's"
        f" own record; by chance about {100 * chance:.1f} %"
    )
    if lost:
        protocol += f"; {lost} queries without a relevant word are left out"
    return Measure("retrieval_map", "Retrieval of the writer, mAP", values, protocol, "higher", True)
