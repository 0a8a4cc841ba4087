"""What an evaluation consists of: measures of generated images, each beside the same of real ones, with how
it was made.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from evaluation.distances import frechet_distance, kernel_distance
from utils.bootstrap import Bootstrap, Estimate
from utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One measure of generated images, and beside it the same of others.

    Attributes:
        key: name in ``metrics.json``.
        label: name for readers.
        values: by column: ``generated``, ``real``, ``vae`` (real images encoded and decoded), ``difference``
            (generated minus real), ``ratio`` (generated divided by real).
        protocol: how it was measured: what must be equal where two numbers are compared.
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


class LeftOut(UserError):
    """A measure that can't be made from what was given; the message names the flag that brings it."""


@dataclass
class Results:
    """What an evaluation has measured so far: measures, notes on what was left out, details by name, charts
    (SVG and caption).
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
        reference: (n, d) features of real images.
        others: (n, d) features by column: ``generated``, ``real`` (the floor), ``vae`` (real images after the
            VAE).
    """
    size = f"{protocol}; n {len(reference)} on each side, the writers in equal numbers"
    is_small = len(reference) <= reference.shape[1]
    few = f"; n is not above the {reference.shape[1]} dimensions: the value is mostly bias, compare it with"
    few += " that of the real images alone"
    below = "; unbiased for images drawn freely; with equal numbers of each writer it can be a little below 0"
    notes = (few if is_small else "", below)  # only the Fréchet distance is biased by the number of images
    measures = []
    for key, label, compute, note in zip(
        keys, labels, (frechet_distance, kernel_distance), notes, strict=True
    ):
        is_positive = compute is frechet_distance
        values = {
            column: bootstrap.distance(
                f"{key}/{column}", compute(reference, features), is_positive=is_positive
            )
            for column, features in others.items()
        }
        measures.append(
            Measure(key=key, label=label, values=values, protocol=f"{size}{note}", better="lower")
        )
    return measures
