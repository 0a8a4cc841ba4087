"""The augmentation study's numbers: error rates over seeds, paired comparisons."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from utils.bootstrap import CONFIDENCE

UNITS = ("characters", "words")
RESAMPLES = 4000


@dataclass(frozen=True, kw_only=True)
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
    Arm(name="real", slug="real"),
    Arm(name="synthetic", slug="synthetic"),
    Arm(name="real+synthetic", slug="mixed"),
    Arm(name="synthetic, then real", slug="then_real", starts_from="synthetic"),
    Arm(name="real+synthetic (upper bound)", slug="upper_bound", is_upper_bound=True),
)
BASE = ARMS[0]  # what the others are compared with


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A rate, the mean over seeds, with its 95 % interval over test words and seeds."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """An arm at a fraction; ``by_seed`` are the character error rates of its recognisers."""

    arm: Arm
    fraction: float
    words: int
    cer: Rate
    wer: Rate
    by_seed: tuple[float, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Difference:
    """An arm against another one, ``base``, at one fraction: below 0 it is better. The p-values are of this
    fraction alone.
    """

    arm: Arm
    fraction: float
    cer: Rate
    cer_p_value: float
    wer: Rate
    wer_p_value: float
    base: Arm = BASE


@dataclass(frozen=True, kw_only=True)
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
                f"{d.fraction:>7g} %  {d.arm.name} against {d.base.name}: CER"
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


def summarise(runs: Sequence[RunErrors], arms: Sequence[Arm] = ARMS, bases: Sequence[Arm] = (BASE,)) -> Study:
    """Rates of each arm at each fraction, and each arm against ``bases`` (those before it in ``arms``).

    Intervals and tests: percentile bootstrap, in which test words (the same for all arms) and seeds are drawn
    anew (Efron and Tibshirani 1993, chapter 8); few seeds spread too little when they are drawn from
    themselves, so their part is widened by sqrt(S / (S - 1)). A p-value is twice the smaller share of draws
    on either side of no difference. What other fractions, generators or generated words would have given is
    in neither.
    """
    groups: dict[tuple[float, str], list[RunErrors]] = defaultdict(list)
    for one in runs:
        groups[one.fraction, one.arm.name].append(one)
    in_order = sorted(groups.values(), key=lambda group: (group[0].fraction, arms.index(group[0].arm)))
    by_place = {(group[0].fraction, group[0].arm): group for group in in_order}
    pairs = [
        (group, by_place[group[0].fraction, base])
        for group in in_order
        for base in bases
        if (group[0].fraction, base) in by_place and arms.index(base) < arms.index(group[0].arm)
    ]
    return Study(
        rows=tuple(_row(group) for group in in_order),
        differences=tuple(_difference(group, base) for group, base in pairs),
        test_words=len(runs[0].characters[0]),
        seeds=max(len(group) for group in in_order),
    )


def _row(group: Sequence[RunErrors]) -> Row:
    tables = _tables(group)
    errors, lengths = tables["characters"]
    return Row(
        arm=group[0].arm,
        fraction=group[0].fraction,
        words=group[0].trained_on,
        cer=_rate(*tables["characters"]),
        wer=_rate(*tables["words"]),
        by_seed=tuple(float(of_seed.sum() / lengths.sum()) for of_seed in errors),
        seconds=sum(one.seconds for one in group),
    )


def _difference(group: Sequence[RunErrors], base: Sequence[RunErrors]) -> Difference:
    tables, base_tables = _tables(group), _tables(base)
    (cer, cer_p), (wer, wer_p) = (
        _compare(tables[unit][0], base_tables[unit][0], tables[unit][1]) for unit in UNITS
    )
    return Difference(
        arm=group[0].arm,
        fraction=group[0].fraction,
        cer=cer,
        cer_p_value=cer_p,
        wer=wer,
        wer_p_value=wer_p,
        base=base[0].arm,
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
    return Rate(value=float(value), low=float(low), high=float(high))


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
