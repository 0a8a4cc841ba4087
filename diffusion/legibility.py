"""Redraws: images that can't be read are drawn anew, and the drawing that is read best is kept."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

READABLE_LOSS = 0.1  # nats a character: a word that the latent recogniser finds less probable is drawn again


def draw_legibly(
    draw: Callable[[Sequence[int], int, int], Tensor],
    read: Callable[[Tensor, Sequence[int]], np.ndarray],
    rows: np.ndarray,
    width: int,
    redraws: int,
) -> Tensor:
    """(N, 4, h, w) latents of images; those that can't be read are drawn anew, at most ``redraws`` times.

    Args:
        draw: the latents of images by their rows, on canvases of a width, at an attempt (from 0).
        read: (N,) nats a character that are missing to read latents of images by their rows.
        rows: (N,) of the images.
        width: of their canvases, pixels.
        redraws: 0 asks ``read`` for nothing.
    """
    latents = draw(rows, width, 0)
    if not redraws:
        return latents
    losses = read(latents, rows)
    for attempt in range(1, redraws + 1):
        illegible = np.flatnonzero(losses > READABLE_LOSS)
        if not len(illegible):
            break
        redrawn = draw(rows[illegible], width, attempt)
        new_losses = read(redrawn, rows[illegible])
        is_better = new_losses < losses[illegible]
        latents[illegible[is_better]] = redrawn[torch.from_numpy(is_better).to(redrawn.device)]
        losses[illegible[is_better]] = new_losses[is_better]
    return latents
