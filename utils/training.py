"""Pieces of a training loop that are functions of (seed, step, rank), so that a resume needs no saved
generator.
"""

import copy
import math
import signal
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """Averaged weights with warm-up: decay at step n is min(decay, (1 + n) / (10 + n)).

    Source: the warm-up of TensorFlow's ExponentialMovingAverage (``num_updates``), as used by diffusers'
        EMAModel.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move the average towards ``module`` after optimiser step ``step`` (from 1)."""
        weight = 1.0 - min(self.decay, (1 + step) / (10 + step))
        averaged, current = list(self.module.parameters()), [p.detach() for p in module.parameters()]
        torch._foreach_lerp_(averaged, current, weight)
        for mean, buffer in zip(self.module.buffers(), module.buffers(), strict=True):
            mean.copy_(buffer)

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the averages as a run saves them: on the CPU, their names begin with ``ema.``."""
        return {
            f"ema.{name}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, value in self.module.state_dict().items()
        }

    def load_state_dict(self, averages: dict[str, Tensor]) -> None:
        """Take over what ``state_dict`` gave."""
        self.module.load_state_dict({name.removeprefix("ema."): value for name, value in averages.items()})


def learning_rate_factor(step: int, *, warmup_steps: int, horizon: int, schedule: str) -> float:
    """Factor on the learning rate at ``step`` (from 0): linear warm-up, then ``constant`` or ``cosine`` down
    to 2 %.

    ``horizon`` is the step at which the cosine ends; stopping earlier does not shorten it.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup_steps) / max(1, horizon - warmup_steps))
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))


def make_generator(device: torch.device | str, *keys: int) -> torch.Generator:
    """A generator on ``device`` that depends on ``keys`` (seed, step, rank, ...) alone."""
    state = 0x9E3779B97F4A7C15
    for key in keys:  # splitmix64, so that neighbouring keys give unrelated streams
        state = (state + key + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return torch.Generator(device).manual_seed(state & 0x7FFFFFFFFFFFFFFF)


class EpochSampler:
    """Batches of a permutation per epoch, as a function of the step; batches run on across epoch borders.

    Args:
        indices: what to draw from, e.g. record numbers (a number may stand there several times).
        batch_size: samples a step over all ranks.
        sizes: a size of each of ``indices``: samples of similar size then come in one batch, which is random
            otherwise.
    """

    POOL = 16  # batches that are sorted by size together

    def __init__(
        self, indices: Sequence[int], batch_size: int, seed: int, sizes: Sequence[float] | None = None
    ) -> None:
        self.indices = torch.as_tensor(indices, dtype=torch.int64)
        self.batch_size = batch_size
        self.seed = seed
        self.sizes = None if sizes is None else torch.as_tensor(sizes)
        self._epochs: dict[int, Tensor] = {}

    def _epoch(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            generator = make_generator("cpu", self.seed, epoch, 0x5EED)
            order = torch.randperm(len(self.indices), generator=generator)
            if self.sizes is not None:
                order = self._group(order, -epoch * len(order) % self.batch_size, generator)
            self._epochs = {e: p for e, p in self._epochs.items() if e >= epoch - 1} | {
                epoch: self.indices[order]
            }
        return self._epochs[epoch]

    def _group(self, order: Tensor, begun: int, generator: torch.Generator) -> Tensor:
        """Sort pools of an epoch by size, and shuffle their batches; the first ``begun`` fill the last
        epoch's batch.
        """
        parts = [order[:begun]]
        for pool in order[begun:].split(self.POOL * self.batch_size):
            batches = pool[self.sizes[pool].argsort(stable=True)].split(self.batch_size)
            whole = len(pool) // self.batch_size  # what is left over at the epoch's end stays there
            parts += [batches[i] for i in torch.randperm(whole, generator=generator).tolist()] + list(
                batches[whole:]
            )
        return torch.cat(parts)

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> Tensor:
        """Indices of ``step`` (from 0) for one rank: (batch_size / ranks,) int64."""
        count, size = self.batch_size // ranks, len(self.indices)
        positions = torch.arange(count) + step * self.batch_size + rank * count
        epochs = positions // size
        return torch.cat([self._epoch(e)[positions[epochs == e] % size] for e in epochs.unique().tolist()])


class StopFlag:
    """Turns SIGTERM and Ctrl-C into a flag; a second Ctrl-C interrupts at once.

    Use as a context manager around the loop: the previous handlers come back at its end.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopFlag":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        if self.is_set and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.is_set = True
