"""Text images as they might have been written and scanned otherwise, made anew in each step of a training.

What is varied is what has been hard to beat for lines of handwriting: elastic bends, slant, size, stroke
width, blur, contrast, noise, and parts that are cut out. Sources: Wigington et al. 2017,
https://doi.org/10.1109/ICDAR.2017.110 (bends, profile of the line); Retsinas et al. 2022,
https://arxiv.org/abs/2404.11339 (global and local warps, stroke width); DeVries and Taylor 2017,
https://arxiv.org/abs/1708.04552 (cut-outs).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

STRETCH_X = 0.2  # most that an image is stretched or shrunk along the line
STRETCH_Y = 0.12
SHEAR = 0.35  # pixels along the line for each pixel of height
SHIFT_Y = 0.04  # of the height
ELASTIC = 0.022  # of the height: the largest standard deviation of the displacement, ...
ELASTIC_CELL = 16  # ... at points this many pixels apart, linear between them
WAVE = 0.03  # of the height: the same of the line's course up and down, ...
WAVE_CELL = 96  # ... at points this many pixels apart along the line
THICKNESS = 0.9  # of the way to the ink that is dilated or eroded by a pixel
BLUR = 1.0  # of the way to the mean of 3x3 pixels
FAINTEST = 0.5  # factor on the ink
NOISE = 0.07  # standard deviation, of the way from white to black
CUTS = 3  # most cut-outs in an image
CUT_CHANCE = 0.3  # of each of them
CUT_WIDTH, CUT_HEIGHT = 0.3, 0.7  # most, of the image's height


def _draw(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """(count, 1, 1) uniform numbers."""
    return low + (high - low) * torch.rand(count, 1, 1, generator=generator)


def _bends(count: int, height: int, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(count, height, width) displacements along and across the line, pixels, of another strength for each
    image.
    """
    cells = (height // ELASTIC_CELL + 1, width // ELASTIC_CELL + 1)
    strength = _draw(count, 0.2, 1, generator)[:, None] * ELASTIC * height
    bend = strength * torch.randn(count, 2, *cells, generator=generator)
    wave = WAVE * height * torch.randn(count, 1, 1, width // WAVE_CELL + 2, generator=generator)
    bend = F.interpolate(bend, (height, width), mode="bilinear", align_corners=True)
    wave = F.interpolate(wave, (1, width), mode="bilinear", align_corners=True)
    return bend[:, 0], bend[:, 1] + wave[:, 0]


def warp_words(
    ink: Tensor, widths: Tensor, generator: torch.Generator, *, step: int, least: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Stretch, shear, shift and bend; see ``augment_words`` for the arguments."""
    count, _, height, full = ink.shape
    stretch_x, stretch_y = (_draw(count, 1 - most, 1 + most, generator) for most in (STRETCH_X, STRETCH_Y))
    shear, shift_y = (_draw(count, -most, most, generator) for most in (SHEAR, SHIFT_Y * height))
    room = widths[:, None, None] * stretch_x + shear.abs() * height / 2  # (B, 1, 1)
    new_widths = ((room.flatten() / step).ceil() * step).long()
    if least is not None:
        new_widths = new_widths.maximum(least)
    width = int(new_widths.max())
    x = torch.arange(width) + 0.5 - new_widths[:, None, None] / 2  # (B, 1, W'), from the middle of the word
    y = torch.arange(height)[:, None] + 0.5 - height / 2  # (H, 1)
    bend_x, bend_y = _bends(count, height, width, generator)
    source_x = (x + shear * y) / stretch_x + widths[:, None, None] / 2 + bend_x  # (B, H, W'), pixels
    source_y = (y / stretch_y + height / 2 + shift_y) + bend_y
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


def cut_out(ink: Tensor, widths: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 1, H, W) ink with a few white rectangles, each narrower than a letter or two."""
    count, _, height, width = ink.shape
    x, y = torch.arange(width)[None, None, :], torch.arange(height)[None, :, None]
    kept = torch.ones(count, height, width, dtype=torch.bool)
    for _ in range(CUTS):
        is_cut = _draw(count, 0, 1, generator) < CUT_CHANCE
        left = _draw(count, 0, 1, generator) * widths[:, None, None]
        top = _draw(count, -0.2, 1, generator) * height
        right = left + _draw(count, 0, CUT_WIDTH, generator) * height
        bottom = top + _draw(count, 0, CUT_HEIGHT, generator) * height
        kept &= ~((x >= left) & (x < right) & is_cut & ((y >= top) & (y < bottom)))
    return ink * kept[:, None]


def augment_words(
    ink: Tensor, widths: Tensor, generator: torch.Generator, *, step: int, least: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Words and lines as they might have been written and scanned otherwise; a function of ``generator``'s
    state.

    Args:
        ink: (B, 1, H, W) in [0, 1], white is 0; image i covers its first ``widths[i]`` columns, the rest is
            white.
        widths: (B,) int64 pixels.
        step: new widths are multiples of it, pixels.
        least: (B,) int64 smallest new widths, multiples of ``step``, if there are any.
    Returns:
        (B, 1, H, W') ink, W' the largest of the new widths, and the (B,) new widths.
    """
    ink, widths = warp_words(ink, widths, generator, step=step, least=least)
    is_word = torch.arange(ink.shape[-1]) < widths[:, None, None, None]
    return vary_ink(cut_out(ink, widths, generator), generator) * is_word, widths
