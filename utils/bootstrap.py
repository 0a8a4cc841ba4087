"""Numbers with intervals: the percentile bootstrap over images or writers."""

import zlib
from dataclasses import asdict, dataclass

import numpy as np

from utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its 95 % bootstrap interval.

    Attributes:
        low, high: ends of the interval; NaN where it rests on a single image.
        n: how many images (or writers) it rests on.
    """

    value: float
    low: float
    high: float
    n: int

    def as_json(self) -> dict:
        """The fields; NaN, which JSON has not, becomes None."""
        return {key: None if value != value else value for key, value in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """Intervals by resampling images (or writers).

    The random numbers of a measure depend on its name and the seed alone, so that leaving one measure out
    changes no other.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile intervals).
    """

    resamples: int = 1000
    seed: int = 0

    def ratio(self, name: str, numerators: np.ndarray, denominators: np.ndarray | None = None) -> Estimate:
        """``sum(numerators) / sum(denominators)`` of n images; the mean of ``numerators`` without
        denominators.

        Raises:
            UserError: if there is no image.
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
            is_paired: image i of one belongs to image i of the other, and both are drawn together: what makes
                an image hard for both cancels. The count is that of pairs, otherwise the smaller of the two.
        """
        value, resampled, count = self._two_ratios(name, one, other, is_paired=is_paired)
        return _estimate(value[0] - value[1], resampled[:, 0] - resampled[:, 1], count)

    def quotient(
        self,
        name: str,
        one: tuple[np.ndarray, np.ndarray | None],
        other: tuple[np.ndarray, np.ndarray | None],
    ) -> Estimate:
        """One ratio divided by another, each as (numerators, denominators); NaN where the other is 0."""
        value, resampled, count = self._two_ratios(name, one, other, is_paired=False)
        with np.errstate(divide="ignore", invalid="ignore"):
            quotients = resampled[:, 0] / resampled[:, 1]
            value_of_all = np.divide(*value)
        if not np.isfinite(value_of_all):
            return Estimate(value=np.nan, low=np.nan, high=np.nan, n=count)
        return _estimate(value_of_all, quotients, count)

    def _two_ratios(
        self,
        name: str,
        one: tuple[np.ndarray, np.ndarray | None],
        other: tuple[np.ndarray, np.ndarray | None],
        *,
        is_paired: bool,
    ) -> tuple[tuple[float, float], np.ndarray, int]:
        """The two ratios, (resamples, 2) of their resampled values, and the number of images."""
        first, second = _columns(*one), _columns(*other)
        if is_paired:
            sums = self._sums(name, np.concatenate([first, second]))
        else:
            sums = np.concatenate(
                [self._sums(f"{name}/one", first), self._sums(f"{name}/other", second)], axis=1
            )
        values = (first[0].sum() / first[1].sum(), second[0].sum() / second[1].sum())
        count = min(first.shape[1], second.shape[1])
        return values, sums[:, [0, 2]] / sums[:, [1, 3]], count

    def correlation(self, name: str, one: np.ndarray, other: np.ndarray) -> Estimate:
        """Pearson's correlation of two numbers of n writers each, writers drawn anew; NaN where one of them
        does not vary.

        Raises:
            UserError: if there are less than three writers.
        """
        x, y = np.asarray(one, np.float64), np.asarray(other, np.float64)
        if len(x) < 3:
            raise UserError(f"a correlation over writers needs three of them; here are {len(x)}")
        x, y = x - x.mean(), y - y.mean()
        products = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y])

        def correlate(sums: np.ndarray) -> np.ndarray:
            count, x_1, y_1, xx, yy, xy = np.moveaxis(sums, -1, 0)
            spread = (xx - x_1**2 / count) * (yy - y_1**2 / count)
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.where(spread > 1e-12 * xx * yy, (xy - x_1 * y_1 / count) / np.sqrt(spread), np.nan)

        value = float(correlate(products.sum(axis=1)))
        return _estimate(value, correlate(self._sums(name, products)), len(x))

    def distance(self, name: str, distance: Distance, *, is_positive: bool) -> Estimate:
        """A distance whose two sets are resampled by their influences.

        Args:
            is_positive: whether the distance can't be below 0, nor may its interval.
        """
        shift = sum(
            self._sums(f"{name}/{side}", influence[None])[:, 0] / len(influence)
            for side, influence in (("reference", distance.reference), ("other", distance.other))
        )
        resampled = distance.value + shift
        return _estimate(distance.value, resampled.clip(0) if is_positive else resampled, len(distance.other))

    def _sums(self, name: str, columns: np.ndarray) -> np.ndarray:
        """(resamples, k) sums of (k, n) columns over n images drawn with replacement, the same images for
        each column.
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
    if denominators is None:
        denominators = np.ones_like(numerators)
    return np.stack([numerators, np.asarray(denominators, np.float64)])


def _estimate(value: float, resampled: np.ndarray, count: int) -> Estimate:
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    finite = resampled[np.isfinite(resampled)]
    low, high = np.quantile(finite, tails) if count > 1 and len(finite) else (np.nan, np.nan)
    return Estimate(value=float(value), low=float(low), high=float(high), n=count)
