"""Augmentation of word images for a recogniser: the pen, the scan and the slant vary, the text stays."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

STRETCH_X = 0.15  # most that a word is stretched or shrunk along the line
STRETCH_Y = 0.08
SHEAR = 0.2  # pixels along the line for each pixel of height
SHIFT_Y = 2.0  # pixels
ELASTIC = 1.0  # standard deviation of the displacement, pixels, ...
ELASTIC_CELL = 16  # ... at points this many pixels apart, linear between them
THICKNESS = 0.6  # of the way to the ink that is dilated or eroded by a pixel
BLUR = 0.7  # of the way to the mean of 3x3 pixels
FAINTEST = 0.6  # factor on the ink
NOISE = 0.06  # standard deviation, of the way from white to black


def _draw(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """(count, 1, 1) uniform numbers."""
    return low + (high - low) * torch.rand(count, 1, 1, generator=generator)


def warp_words(ink: Tensor, widths: Tensor, generator: torch.Generator, *, step: int,
               least: Tensor | None = None) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Stretch, shear, shift and bend words; see ``augment_words`` for the arguments."""
    count, _, height, full = ink.shape
    stretch_x, stretch_y = (_draw(count, 1 - most, 1 + most, generator) for most in (STRETCH_X, STRETCH_Y))
    shear, shift_y = (_draw(count, -most, most, generator) for most in (SHEAR, SHIFT_Y))
    room = widths[:, None, None] * stretch_x + shear.abs() * height / 2  # (B, 1, 1)
    new_widths = ((room.flatten() / step).ceil() * step).long()
    if least is not None:
        new_widths = new_widths.maximum(least)
    width = int(new_widths.max())
    x = torch.arange(width) + 0.5 - new_widths[:, None, None] / 2  # (B, 1, W'), from the middle of the word
    y = torch.arange(height)[:, None] + 0.5 - height / 2  # (H, 1)
    cells = (height // ELASTIC_CELL + 1, width // ELASTIC_CELL + 1)
    bend = ELASTIC * torch.randn(count, 2, *cells, generator=generator)
    bend = F.interpolate(bend, (height, width), mode="bilinear", align_corners=True)
    source_x = (x + shear * y) / stretch_x + widths[:, None, None] / 2 + bend[:, 0]  # (B, H, W'), pixels
    source_y = (y / stretch_y + height / 2 + shift_y) + bend[:, 1]
    grid = torch.stack([2 * source_x / full - 1, 2 * source_y / height - 1], dim=-1)
    return F.grid_sample(ink, grid, align_corners=False), new_widths


def _spread(ink: Tensor, pick: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """``pick`` over 3x3 pixels; on a CPU several times as fast as a pooling layer."""
    padded = F.pad(ink, (1, 1, 1, 1), mode="replicate")
    rows = pick(pick(padded[..., :-2], padded[..., 1:-1]), padded[..., 2:])
    return pick(pick(rows[..., :-2, :], rows[..., 1:-1, :]), rows[..., 2:, :])


def vary_ink(ink: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 1, H, W) ink of another pen and scan: thicker or thinner, blurred, fainter, noisy."""
    count = len(ink)
    thickness = _draw(count, -THICKNESS, THICKNESS, generator)[:, None]
    blur, faintness = (_draw(count, *ends, generator)[:, None] for ends in ((0, BLUR), (FAINTEST, 1)))
    noise = _draw(count, 0, NOISE, generator)[:, None]
    thicker, thinner = (_spread(ink, pick) for pick in (torch.maximum, torch.minimum))
    ink = ink + thickness.clamp_min(0) * (thicker - ink) + (-thickness).clamp_min(0) * (thinner - ink)
    ink = torch.lerp(ink, F.avg_pool2d(ink, 3, 1, 1), blur)
    return (ink * faintness + noise * torch.randn(ink.shape, generator=generator)).clamp(0, 1)


def augment_words(ink: Tensor, widths: Tensor, generator: torch.Generator, *, step: int,
                  least: Tensor | None = None) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Words as they might have been written and scanned otherwise; a function of ``generator``'s state.

    Args:
        ink: (B, 1, H, W) in [0, 1], white is 0; word i covers its first ``widths[i]`` columns, the rest is white.
        widths: (B,) int64 pixels.
        step: new widths are multiples of it, pixels.
        least: (B,) int64 smallest new widths, multiples of ``step``, if there are any.
    Returns:
        (B, 1, H, W') ink, W' the largest of the new widths, and the (B,) new widths.
    """
    ink, widths = warp_words(ink, widths, generator, step=step, least=least)
    is_word = torch.arange(ink.shape[-1]) < widths[:, None, None, None]
    return vary_ink(ink, generator) * is_word, widths
