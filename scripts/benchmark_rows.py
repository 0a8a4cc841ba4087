"""What the benchmark is told, and the lines of its table."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from scripts.timing import Timing


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """What is measured, and how; see the flags of the same names."""

    preset: str
    rounds: int
    train_batch_size: int | None
    batch_sizes: Sequence[int] | None
    num_steps: Sequence[int]
    published_calls: int
    num_words: int
    compile: bool
    mixed_precision: str
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the computation in our models."""
        return torch.bfloat16 if self.mixed_precision == "bf16" else torch.float32

    @property
    def train_batch(self) -> int:
        """Images a step."""
        return self.train_batch_size or (224 if self.device.type == "cuda" else 16)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table: a figure with its spread, in ``unit``."""

    part: str
    what: str
    value: float
    low: float
    high: float
    unit: str
    note: str = ""

    @classmethod
    def of_values(cls, part: str, what: str, values: Sequence[float], unit: str) -> "Row":
        """The median of several measurements, between the lowest and the highest."""
        return cls(
            part=part, what=what, value=float(np.median(values)), low=min(values), high=max(values), unit=unit
        )

    @classmethod
    def of_rate(cls, part: str, what: str, timing: Timing, count: float, unit: str, note: str = "") -> "Row":
        """``count`` a call, over the call's seconds."""
        value, low, high = (count / seconds for seconds in (timing.median, timing.high, timing.low))
        return cls(part=part, what=what, value=value, low=low, high=high, unit=unit, note=note)
