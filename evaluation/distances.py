"""Distances between two sets of feature vectors, with what each vector contributes, which makes intervals
cheap.

A distance is computed once; how it changes when an image counts twice or not at all is a derivative in closed
form. So a bootstrap of a thousand resamples costs one distance. Computing each resample's distance would cost
a thousand decompositions of 2048 x 2048 matrices, and would be biased upward, since resampled images occur
several times.
"""

import numpy as np

from utils.bootstrap import Distance
from utils.errors import UserError

KERNEL_ROWS = 512  # rows of the kernel matrix at once: bounds the memory


def frechet_distance(reference: np.ndarray, other: np.ndarray) -> Distance:
    """Squared Fréchet distance of the normal distributions with the two sets' means and covariances.

    ``|mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))``. The last trace is the sum of the singular values
    of ``A_1 A_2^T``, where ``A^T A = S`` (centred vectors in rows): no root of a matrix that may be singular,
    as it is with fewer images than dimensions.

    Args:
        reference: (n, d) vectors.
        other: (m, d) vectors.
    Raises:
        ValueError: if a set has less than two vectors.

    Source: Heusel et al. 2017, https://arxiv.org/abs/1706.08500, equation 6. The smaller the sets, the larger
    its upward bias: compare only values of equal sizes.
    """
    _check_sizes(reference, other)
    means = [x.mean(axis=0, dtype=np.float64) for x in (reference, other)]
    rows = [
        (x - mean) / np.sqrt(len(x) - 1) for x, mean in zip((reference, other), means, strict=True)
    ]  # A: A^T A is the covariance
    (q_1, r_1), (q_2, r_2) = (np.linalg.qr(a) for a in rows)
    left, singular, right = np.linalg.svd(r_1 @ r_2.T)
    shift = means[0] - means[1]
    value = shift @ shift + sum(float(np.square(a).sum()) for a in rows) - 2 * singular.sum()

    def influence(a: np.ndarray, q: np.ndarray, u: np.ndarray, shift: np.ndarray) -> np.ndarray:
        # d/dw of the three terms; row i of the singular vectors tells image i's part of the last one.
        count = len(a)
        per_word = 2 * np.sqrt(count - 1) / count * (a @ shift) + np.square(a).sum(axis=1)
        per_word -= np.square(q @ u[:, : len(singular)]) @ singular
        return count * (per_word - per_word.mean())

    return Distance(
        value=max(0.0, float(value)),
        reference=influence(rows[0], q_1, left, shift),
        other=influence(rows[1], q_2, right.T, -shift),
    )


def kernel_distance(reference: np.ndarray, other: np.ndarray) -> Distance:
    """Squared maximum mean discrepancy with the kernel ``(x.y / d + 1)^3``, over all pairs, unbiased.

    The expectation does not depend on the sets' sizes; it can be a little below zero where they agree.

    Args:
        reference: (n, d) vectors.
        other: (m, d) vectors.
    Raises:
        ValueError: if a set has less than two vectors.

    Source: Binkowski et al. 2018, https://arxiv.org/abs/1801.01401, section 3 (the U-statistic, on all images
    instead of on subsets of them).
    """
    _check_sizes(reference, other)
    n, m = len(reference), len(other)
    within_reference = _kernel_sums(reference, reference) - _kernel_diagonal(reference)
    within_other = _kernel_sums(other, other) - _kernel_diagonal(other)
    across, across_other = _kernel_sums(reference, other), _kernel_sums(other, reference)
    value = (
        within_reference.sum() / (n * (n - 1))
        + within_other.sum() / (m * (m - 1))
        - 2 * across.sum() / (n * m)
    )
    influence = 2 * (within_reference / (n - 1) - across / m)
    other_influence = 2 * (within_other / (m - 1) - across_other / n)
    return Distance(
        value=float(value),
        reference=influence - influence.mean(),
        other=other_influence - other_influence.mean(),
    )


def _kernel_sums(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Sum of the kernel over ``columns`` for each of ``rows``, in blocks."""
    sums, transposed = np.empty(len(rows)), columns.astype(np.float64).T / rows.shape[1]
    for start in range(0, len(rows), KERNEL_ROWS):
        block = rows[start : start + KERNEL_ROWS].astype(np.float64) @ transposed
        sums[start : start + KERNEL_ROWS] = ((block + 1) ** 3).sum(axis=1)
    return sums


def _kernel_diagonal(rows: np.ndarray) -> np.ndarray:
    return (np.square(rows.astype(np.float64)).sum(axis=1) / rows.shape[1] + 1) ** 3


def _check_sizes(reference: np.ndarray, other: np.ndarray) -> None:
    if min(len(reference), len(other)) < 2:
        raise UserError(
            f"a distance needs two images on each side; here are {len(reference)} and {len(other)}"
        )
