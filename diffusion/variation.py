"""How drawings of one hand differ: each has a style vector near the hand's own, and widths of its own."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.layout import WidthModel
from unet import UNet
from utils.training import make_generator

DEFAULT_VARIATION = 0.5  # nearly all of the right hands, and most of the variety; see docs/shipped_model.md
STYLE_SHARE = 3**-0.5  # of the spread of single images' vectors: that of means of three images
_STYLE_KEY, _WIDTH_KEY = 0x57, 0x1D


def draw_edges(
    model: WidthModel,
    texts: Sequence[str],
    writers: Sequence[Mapping[str, float] | None],
    *,
    variation: float,
    seed: int,
    indices: Sequence[int],
) -> list[np.ndarray]:
    """Borders of each text's characters in its own drawing.

    Args:
        writers: shares of hands; None is the mean hand.
        variation: the spread of the widths as a multiple of that within a hand; 0 draws nothing.
        indices: the images' record numbers, which with ``seed`` fix the draw.
    Returns:
        (n + 1,) pixels for each text of n characters.
    """
    edges = []
    for text, shares, index in zip(texts, writers, indices, strict=True):
        rng = None
        if variation and model.spread and text:
            key = make_generator("cpu", seed, index, _WIDTH_KEY).initial_seed()
            rng = np.random.default_rng(key)
        edges.append(model.edges(text, shares, rng=rng, variation=variation))
    return edges


def draw_styles(unet: UNet, means: Tensor, *, variation: float, seed: int, indices: Sequence[int]) -> Tensor:
    """Style vectors about hands' own, as means of a few images of a writer lie about the mean of all.

    Args:
        means: (B, style_dim) of length 1, or zeros for the null writer, whose stay zeros.
        variation: the distance as a multiple of that; 0 gives the means.
        indices: the images' record numbers, which with ``seed`` fix the draw.
    Returns:
        (B, style_dim) of length 1, or zeros.
    """
    if not variation or not unet.style_spread.any():
        return means
    generators = [make_generator("cpu", seed, index, _STYLE_KEY) for index in indices]
    draws = torch.stack([torch.randn(means.shape[1], generator=generator) for generator in generators])
    moved = means + variation * STYLE_SHARE * draws.to(means.device) @ unet.style_spread.T
    return torch.where(means.any(dim=1, keepdim=True), F.normalize(moved, dim=1), means)
