"""Weights of a hand's own: what is added to a model's weights while that hand is drawn, of low rank.

To each matrix W (a convolution's (out, in, 3, 3) weight is one of out rows) a hand adds ``up @ down`` of a
small rank. Source: Hu et al. 2022, https://arxiv.org/abs/2106.09685, section 4.1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

DEFAULT_RANK, HIGHEST_RANK = 8, 64
LARGEST_SHARE = 0.5  # of a matrix's smaller side: with a higher rank there would be more numbers, not fewer
# What says time, and whose hand it is, has the hand's vector and offset for that.
LEFT_OUT = ("time_embedding", "style_projection", "writer_embedding")

# By the name of a weight: down (r, in), up (out, r).
LowRank = Mapping[str, tuple[Tensor, Tensor]]


def _adaptable(model: nn.Module, rank: int) -> dict[str, nn.Module]:
    """The layers whose weights a hand of this rank adds to, by the weights' names."""
    layers = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and not name.startswith(LEFT_OUT):
            out, size = module.weight.shape[0], module.weight[0].numel()
            if rank <= LARGEST_SHARE * min(out, size):
                layers[f"{name}.weight"] = module
    return layers


class _Sum(nn.Module):
    """A weight and what is added to it."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        size = weight[0].numel()
        # Half of it is zero, so that the sum starts as the weight.
        self.down = nn.Parameter(torch.randn(rank, size, generator=generator) / size**0.5)
        self.up = nn.Parameter(torch.zeros(len(weight), rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view_as(weight)


def attach(model: nn.Module, rank: int, seed: int) -> None:
    """Make low-rank weights of a model's layers trainable, zero at first."""
    generator = torch.Generator().manual_seed(seed)
    for module in _adaptable(model, rank).values():
        parametrize.register_parametrization(module, "weight", _Sum(module.weight, rank, generator))


def detach(model: nn.Module) -> LowRank:
    """Take away what ``attach`` added, and return it; the model's own weights are as before."""
    taken = {}
    for name, module in list(model.named_modules()):
        if parametrize.is_parametrized(module, "weight"):
            added = module.parametrizations["weight"][0]
            taken[f"{name}.weight"] = (added.down.detach().clone(), added.up.detach().clone())
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
    return taken


def mix_low_rank(parts: Sequence[tuple[LowRank, float]]) -> LowRank:
    """The sum of several hands' weights by their shares, of their ranks together."""
    names = dict.fromkeys(name for part, _ in parts for name in part)
    mixed = {}
    for name in names:
        pairs = [(*part[name], share) for part, share in parts if name in part]
        mixed[name] = (
            torch.cat([down for down, _, _ in pairs]),
            torch.cat([share * up for _, up, share in pairs], dim=1),
        )
    return mixed


def misfit(weights: LowRank, model: nn.Module) -> str | None:
    """The name of a weight that the model lacks or has in another size; None if all fit."""
    own = dict(model.named_parameters())
    for name, (down, up) in weights.items():
        if name not in own or (len(up), down.shape[1]) != (len(own[name]), own[name][0].numel()):
            return name
    return None


@dataclass(frozen=True)
class _Changed:
    """What a model's weights are changed for, and what they were: by name."""

    key: tuple[tuple[int, float], ...]
    original: dict[str, Tensor]


class HandWeights:
    """Low-rank weights of the writers of a model that have any, of which one mix is added at a time.

    Attributes:
        rows: by the writer's row.
    """

    def __init__(self, rows: Mapping[int, LowRank] | None = None) -> None:
        self.rows = dict(rows or {})
        self._changed = _Changed((), {})

    def key(self, shares: Mapping[int, float]) -> tuple[tuple[int, float], ...]:
        """What tells a mix of writers from others as far as weights go; () for none of a hand's own.

        Args:
            shares: of rows.
        """
        return tuple(sorted((row, share) for row, share in shares.items() if row in self.rows and share))

    @torch.no_grad()
    def apply(self, model: nn.Module, key: tuple[tuple[int, float], ...]) -> None:
        """Add the weights of this mix to the model's own, and take away those of the mix before: without any,
        the model's own are as they were, bit for bit.

        Args:
            model: always the same.
            key: as ``key`` gives it.
        """
        if key == self._changed.key:
            return
        own = dict(model.named_parameters())
        for name, weight in self._changed.original.items():
            own[name].copy_(weight)
        original: dict[str, Tensor] = {}
        for row, share in key:
            for name, (down, up) in self.rows[row].items():
                weight = own[name]
                original.setdefault(name, weight.detach().clone())
                added = (up.to(weight.device) @ down.to(weight.device)).view_as(weight)
                weight.add_(added.to(weight.dtype), alpha=share)
        self._changed = _Changed(key, original)


def hand_weights_of(model: nn.Module) -> HandWeights:
    """The weights of a model's fitted hands, which it holds beside its own and no checkpoint has."""
    return model.__dict__.setdefault("hand_weights", HandWeights())
