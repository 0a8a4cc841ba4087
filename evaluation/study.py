"""The augmentation study's numbers: fractions of a data set, error rates over seeds, paired comparisons."""

import hashlib
import math
import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from utils.bootstrap import CONFIDENCE
from utils.text_images import TextImage, write_metadata

VAL_SHARE = 0.1  # of the split train, where a data set has no val
UNITS = ("characters", "words")
RESAMPLES = 4000


@dataclass(frozen=True)
class Arm:
    """A way to train a recogniser.

    Attributes:
        slug: of its folders.
        is_upper_bound: whether its generator has seen more than the fraction that it is measured at.
        starts_from: slug of the arm whose recogniser of the same seed it goes on from.
    """

    name: str
    slug: str
    is_upper_bound: bool = False
    starts_from: str | None = None


ARMS = (
    Arm("real", "real"),
    Arm("synthetic", "synthetic"),
    Arm("real+synthetic", "mixed"),
    Arm("synthetic, then real", "then_real", starts_from="synthetic"),
    Arm("real+synthetic (upper bound)", "upper_bound", is_upper_bound=True),
)
BASE = ARMS[0]  # what the others are compared with


@dataclass(frozen=True)
class RunErrors:
    """What one recogniser read wrong in the test words.

    Attributes:
        characters, words: (N,) edit operations and (N,) lengths of each test word, in characters and in
            words.
        trained_on: words that it was trained on.
    """

    arm: Arm
    fraction: float
    seed: int
    characters: tuple[Sequence[int], Sequence[int]]
    words: tuple[Sequence[int], Sequence[int]]
    trained_on: int
    seconds: float


@dataclass(frozen=True)
class Rate:
    """A rate, the mean over seeds, with its 95 % interval over test words and seeds."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """An arm at a fraction; ``by_seed`` are the character error rates of its recognisers."""

    arm: Arm
    fraction: float
    words: int
    cer: Rate
    wer: Rate
    by_seed: tuple[float, ...]
    seconds: float


@dataclass(frozen=True)
class Difference:
    """An arm against ``BASE`` at one fraction: below 0 it is better. The p-values are of this fraction
    alone.
    """

    arm: Arm
    fraction: float
    cer: Rate
    cer_p_value: float
    wer: Rate
    wer_p_value: float


@dataclass(frozen=True)
class Study:
    """All rows and comparisons, and on how many test words and seeds they rest."""

    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    test_words: int
    seeds: int

    def as_json(self) -> dict:
        """The study as JSON-able values."""
        return asdict(self)

    def describe(self) -> str:
        """Lines for the terminal."""
        lines = [f"{'real data':>9}  {'trained on':<30}{'words':>7}   {'CER':<26}{'WER':<26}"]
        for row in self.rows:
            lines.append(
                f"{row.fraction:>7g} %  {row.arm.name:<30}{row.words:>7}   {format_rate(row.cer):<26}"
                f"{format_rate(row.wer):<26}".rstrip()
            )
        for d in self.differences:
            lines.append(
                f"{d.fraction:>7g} %  {d.arm.name} against {BASE.name}: CER"
                f" {format_rate(d.cer, is_difference=True)}, {format_p(d.cer_p_value)}; WER"
                f" {format_rate(d.wer, is_difference=True)}, {format_p(d.wer_p_value)}"
            )
        return "\n".join(lines)


def format_rate(rate: Rate, *, is_difference: bool = False) -> str:
    """``12.3 % (11.0 to 13.9)``; a difference is in percentage points."""
    sign, unit = ("+", "points") if is_difference else ("", "%")
    return f"{100 * rate.value:{sign}.1f} {unit} ({100 * rate.low:.1f} to {100 * rate.high:.1f})"


def format_p(p_value: float) -> str:
    """``p = 0.012``, or how small it is at least."""
    return f"p = {p_value:.3f}" if p_value >= 0.001 else "p < 0.001"


# Data


def hold_out_val(records: Sequence[TextImage]) -> list[TextImage]:
    """The records with a split ``val``: their own, or else a tenth of each writer's ``train``, by the hash of
    the names.
    """
    if any(record.split == "val" for record in records):
        return list(records)
    train = [record for record in records if record.split == "train"]
    val = {record.file_name for record in _share_of_each(train, VAL_SHARE)}
    return [replace(record, split="val") if record.file_name in val else record for record in records]


def choose_fraction(records: Sequence[TextImage], fraction: float) -> list[TextImage]:
    """A part of the splits ``train`` and ``val``, as many words of each as that is (at least one), of each
    writer alike as far as whole words allow; none of ``test``. A smaller fraction lies within a larger one.
    """
    return _share_of_each([record for record in records if record.split != "test"], fraction)


def _share_of_each(records: Sequence[TextImage], share: float) -> list[TextImage]:
    groups = defaultdict(list)
    for record in records:
        groups[record.split, record.writer].append(record)
    ranks: dict[str, dict[str, float]] = defaultdict(dict)
    for (split, writer), group in groups.items():
        # A writer's words part [0, 1] evenly, in the order of their hashes; where they begin differs from
        # writer to writer, so that a share of few words falls to some writers and not to all.
        begin = int.from_bytes(_hash(writer)[:8], "big") / 2**64
        for place, record in enumerate(sorted(group, key=lambda record: _hash(record.file_name))):
            ranks[split][record.file_name] = (place + begin) / len(group)
    chosen = set()
    for rank in ranks.values():
        in_order = sorted(rank, key=lambda name: (rank[name], name))
        chosen |= set(in_order[: max(1, round(share * len(in_order)))])
    return [record for record in records if record.file_name in chosen]


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def copy_words(source: Path, records: Sequence[TextImage], target: Path) -> None:
    """A word folder of some words of another; images are linked where the disk allows it, else copied."""
    for record in records:
        image, copy = source / record.file_name, target / record.file_name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.unlink(missing_ok=True)
        try:
            os.link(image, copy)
        except OSError:
            shutil.copyfile(image, copy)
    write_metadata(target, records)


# Numbers


def summarise(runs: Sequence[RunErrors]) -> Study:
    """Rates of each arm at each fraction, and each arm against real data alone.

    Intervals and tests: percentile bootstrap, in which test words (the same for all arms) and seeds are drawn
    anew (Efron and Tibshirani 1993, chapter 8); few seeds spread too little when they are drawn from
    themselves, so their part is widened by sqrt(S / (S - 1)). A p-value is twice the smaller share of draws
    on either side of no difference. What other fractions, generators or generated words would have given is
    in neither.
    """
    groups: dict[tuple[float, str], list[RunErrors]] = defaultdict(list)
    for one in runs:
        groups[one.fraction, one.arm.name].append(one)
    rows, differences = [], []
    for (fraction, _), group in sorted(
        groups.items(), key=lambda item: (item[0][0], ARMS.index(item[1][0].arm))
    ):
        own, base = _tables(group), groups.get((fraction, BASE.name))
        cer, wer = (_rate(*own[unit]) for unit in UNITS)
        errors, lengths = own["characters"]
        by_seed = tuple(float(of_seed.sum() / lengths.sum()) for of_seed in errors)
        rows.append(
            Row(
                group[0].arm,
                fraction,
                group[0].trained_on,
                cer,
                wer,
                by_seed,
                sum(one.seconds for one in group),
            )
        )
        if base is not None and group[0].arm != BASE:
            other = _tables(base)
            (cer, cer_p), (wer, wer_p) = (
                _compare(own[unit][0], other[unit][0], own[unit][1]) for unit in UNITS
            )
            differences.append(Difference(group[0].arm, fraction, cer, cer_p, wer, wer_p))
    return Study(
        tuple(rows),
        tuple(differences),
        len(runs[0].characters[0]),
        max(len(group) for group in groups.values()),
    )


def _tables(group: Sequence[RunErrors]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By unit, the (S, N) edit operations of an arm's recognisers and the (N,) lengths."""
    return {
        unit: (
            np.array([getattr(one, unit)[0] for one in group], float),
            np.array(getattr(group[0], unit)[1], float),
        )
        for unit in UNITS
    }


def _resample(errors: np.ndarray, lengths: np.ndarray, stream: int) -> np.ndarray:
    """(RESAMPLES,) rates of (S, N) errors; the words that are drawn are the same for any ``stream``, the
    seeds are not.
    """
    seeds, words = errors.shape
    of_words, of_seeds = np.random.default_rng([0, words]), np.random.default_rng([1, seeds, stream])
    mean, widen = errors.mean(axis=0), math.sqrt(seeds / (seeds - 1)) if seeds > 1 else 0.0
    rates = []
    for _ in range(RESAMPLES):
        drawn = np.bincount(of_words.integers(0, words, words), minlength=words)
        of_mean = drawn @ mean
        of_drawn = of_seeds.multinomial(seeds, np.full(seeds, 1 / seeds)) / seeds @ (errors @ drawn)
        rates.append((of_mean + widen * (of_drawn - of_mean)) / (drawn @ lengths))
    return np.array(rates)


def _rate(errors: np.ndarray, lengths: np.ndarray) -> Rate:
    return _interval(errors.mean(axis=0).sum() / lengths.sum(), _resample(errors, lengths, 0))


def _interval(value: float, resampled: np.ndarray) -> Rate:
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Rate(float(value), float(low), float(high))


def _compare(errors: np.ndarray, base: np.ndarray, lengths: np.ndarray) -> tuple[Rate, float]:
    """The difference of two arms' rates, and its p-value."""
    value = (errors.mean(axis=0) - base.mean(axis=0)).sum() / lengths.sum()
    resampled = _resample(errors, lengths, 0) - _resample(base, lengths, 1)
    tail = min((resampled <= 0).sum(), (resampled >= 0).sum())
    return _interval(value, resampled), min(1.0, 2 * (tail + 1) / (RESAMPLES + 1))


def correct_for_several(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: p-values that may be read together. Source: Holm 1979, Scandinavian Journal of
    Statistics 6, 65-70.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected
