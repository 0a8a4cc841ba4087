"""Text images of any width in memory, and windows of them: what the compact VAE trains on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffusion.autoencoder import DOWNSCALE
from utils.images import to_pixel_values
from utils.sources import read_images

HELD_OUT_WIDTH = 512  # most pixels of a held-out image that are measured
INK_LEVEL = 200  # of 255: darker pixels are ink
READ_AT_ONCE = 1024  # images


@dataclass(frozen=True, kw_only=True)
class Words:
    """Text images of one height and any widths in memory, each without the white at its right.

    ``strip`` (H, total width) uint8 holds one beside the other; image i has the ``widths[i]`` columns from
    ``starts[i]``.
    """

    strip: Tensor
    starts: Tensor
    widths: Tensor

    def __len__(self) -> int:
        return len(self.widths)

    def windows(self, indices: Tensor, left: Tensor, width: int) -> Tensor:
        """The ``width`` columns from ``left`` (B,) of images ``indices`` (B,), as (B, H, width) uint8; beyond
        an image it is white.
        """
        columns = left[:, None] + torch.arange(width)
        is_inside = columns < self.widths[indices][:, None]
        places = (self.starts[indices][:, None] + columns).clamp_max(self.strip.shape[1] - 1)
        return self.strip[:, places].transpose(0, 1).masked_fill(~is_inside[:, None], 255)


def load_words(paths: Sequence[Path]) -> Words:
    """Read images into memory.

    Raises:
        UserError: if an image is damaged, or of another height than the first.
    """
    parts, widths, height = [], [], None
    for first in range(0, len(paths), READ_AT_ONCE):
        images = [
            trim_right(image) for image in read_images(paths[first : first + READ_AT_ONCE], height=height)
        ]
        height = images[0].shape[0]
        widths += [image.shape[1] for image in images]
        parts.append(np.concatenate(images, axis=1))
    width = torch.tensor(widths)
    strip = torch.from_numpy(np.concatenate(parts, axis=1))
    return Words(strip=strip, starts=width.cumsum(0) - width, widths=width)


def trim_right(image: np.ndarray) -> np.ndarray:
    """(H, W) uint8 without the white columns at its right, but at least ``DOWNSCALE`` columns: white tails
    teach nothing.
    """
    columns = np.flatnonzero((image < INK_LEVEL).any(axis=0))
    return image[:, : max(DOWNSCALE, int(columns[-1]) + 1 if len(columns) else 0)]


def crop_batch(words: Words, indices: Tensor, crop_width: int, generator: torch.Generator) -> Tensor:
    """Random windows that begin inside the ink, as (B, 1, H, crop_width) pixels in [-1, 1]."""
    last = (words.widths[indices] - crop_width // 2).clamp_min(0)
    left = (torch.rand(len(indices), generator=generator) * (last + 1)).long()
    return to_pixel_values(words.windows(indices, left, crop_width), 1)


def crop_held_out(words: Words) -> Tensor:
    """The beginning of each image, at most ``HELD_OUT_WIDTH`` pixels, as (N, H, W) uint8."""
    width = min(HELD_OUT_WIDTH, -(-int(words.widths.max()) // DOWNSCALE) * DOWNSCALE)
    return words.windows(torch.arange(len(words)), torch.zeros(len(words), dtype=torch.long), width)
