"""Numbers with intervals: percentile bootstrap over images."""

import zlib
from dataclasses import asdict, dataclass

import numpy as np

from utils.errors import UserError


@dataclass(frozen=True)
class Distance:
    """A distance between a reference set and another set.

    Attributes:
        value: the distance.
        reference: (n,) centred influence of each vector of the reference: with multiplicities w (of mean 1)
            the distance is, to first order, ``value + mean((w - 1) * reference)``.
        other: (m,) the same of the other set.
    """

    value: float
    reference: np.ndarray
    other: np.ndarray


CONFIDENCE = 0.95  # of the intervals


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % bootstrap interval and how many words it rests on; of a single word there is no
    interval.
    """

    value: float
    low: float
    high: float
    n: int

    def as_json(self) -> dict:
        """The fields; NaN, which JSON has not, becomes None."""
        return {key: None if value != value else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Bootstrap:
    """Intervals by resampling words, each measure with random numbers of its own: leaving one out changes no
    other.

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
        return _estimate(
            columns[0].sum() / columns[1].sum(), resampled[:, 0] / resampled[:, 1], columns.shape[1]
        )

    def difference(
        self,
        name: str,
        one: tuple[np.ndarray, np.ndarray | None],
        other: tuple[np.ndarray, np.ndarray | None],
        *,
        is_paired: bool,
    ) -> Estimate:
        """One ratio minus another, each given as (numerators, denominators).

        Args:
            is_paired: word i of one is word i of the other, and both are drawn together: what makes a word
                hard for both cancels. The count is that of pairs, otherwise the smaller of the two.
        """
        first, second = _columns(*one), _columns(*other)
        if is_paired:
            resampled = self._sums(name, np.concatenate([first, second]))
        else:
            resampled = np.concatenate(
                [self._sums(f"{name}/one", first), self._sums(f"{name}/other", second)], axis=1
            )
        value = first[0].sum() / first[1].sum() - second[0].sum() / second[1].sum()
        differences = resampled[:, 0] / resampled[:, 1] - resampled[:, 2] / resampled[:, 3]
        return _estimate(value, differences, min(first.shape[1], second.shape[1]))

    def distance(self, name: str, distance: Distance, *, is_positive: bool) -> Estimate:
        """A distance whose two sets are resampled by their influences; what ``is_positive`` never goes below
        0.
        """
        shift = sum(
            self._sums(f"{name}/{side}", influence[None])[:, 0] / len(influence)
            for side, influence in (("reference", distance.reference), ("other", distance.other))
        )
        resampled = distance.value + shift
        return _estimate(distance.value, resampled.clip(0) if is_positive else resampled, len(distance.other))

    def _sums(self, name: str, columns: np.ndarray) -> np.ndarray:
        """(resamples, k) sums of (k, n) columns over n words drawn with replacement, the same words for each
        column.
        """
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
        raise UserError("nothing to average")
    return np.stack(
        [
            numerators,
            np.ones_like(numerators) if denominators is None else np.asarray(denominators, np.float64),
        ]
    )


def _estimate(value: float, resampled: np.ndarray, count: int) -> Estimate:
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    low, high = np.quantile(resampled, tails) if count > 1 else (np.nan, np.nan)
    return Estimate(float(value), float(low), float(high), count)
