"""Text images in memory: where their ink is, as pixel values and back, side by side on a sheet."""

import math
from collections.abc import Sequence
from importlib.resources import files

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

WHITE = 255
INK = 200  # grey levels under this are ink
SHEET_GREY = 225


def to_grey(image: Image.Image) -> np.ndarray:
    """Any Pillow image as (H, W) uint8 grey, 0 black to 255 white; transparency lies on white.

    Handles alpha, palettes, 1 bit, 16 bit, float (0-1 or 0-255) and CMYK.
    """
    if image.mode.startswith("I"):  # 16-bit files open as I;16, older ones as I
        values = np.asarray(image).astype(np.float64)
        scale = 257.0 if values.max(initial=0) > WHITE else 1.0
        return np.clip(np.rint(values / scale), 0, WHITE).astype(np.uint8)
    if image.mode == "F":
        values = np.asarray(image)
        scale = WHITE if values.max(initial=0) <= 1 else 1
        return np.clip(np.rint(values * scale), 0, WHITE).astype(np.uint8)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    if image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return np.asarray(image.convert("L")).copy()


def ink_mask(grey: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels clearly darker than the paper, specks of a few pixels excluded.

    The threshold lies 40 % of the way from the paper (the median) to the darkest pixels; a picture with less
    than 24 levels between them has no ink.
    """
    paper = float(np.median(grey)) if np.median(grey) > grey.mean() else float(np.percentile(grey, 90))
    darkest = float(np.percentile(grey, 0.5)) if grey.size > 400 else float(grey.min())
    darkest = min(darkest, float(grey.min()) + 32)
    if paper - darkest < 24:
        return np.zeros(grey.shape, bool)
    mask = grey < paper - 0.4 * (paper - darkest)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    smallest = max(2.0, (0.03 * grey.shape[0]) ** 2)
    kept = np.zeros(count, bool)
    kept[1:] = stats[1:, cv2.CC_STAT_AREA] >= smallest
    return kept[labels]


def ink_box(grey: np.ndarray) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) of the ink in pixels, right and bottom exclusive; None where there is no
    ink.
    """
    mask = ink_mask(grey)
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if columns.size == 0:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def make_sheet(
    images: Sequence[np.ndarray], *, captions: Sequence[str] = (), columns: int = 4, gap: int = 6
) -> Image.Image:
    """One picture of many words, row by row, each with an optional caption below.

    White that all images have at their right is left out, but for what makes them twice as wide as high.

    Args:
        images: (H, W) uint8 images, all of one height.
        captions: one for each image, or none; what is too long for the image's width is cut.
        columns: images a row.
        gap: grey pixels around the images.
    """
    height, width = len(images[0]), max(image.shape[1] for image in images)
    images = [np.pad(image, ((0, 0), (0, width - image.shape[1])), constant_values=WHITE) for image in images]
    inked = np.flatnonzero(np.any([(image < 255).any(axis=0) for image in images], axis=0))
    width = min(width, max(2 * height, int(inked[-1]) + 1 + height // 8 if len(inked) else 0))
    caption_height = max(11, height // 4) + gap if captions else 0
    font = _caption_font(max(11, height // 4))
    rows, columns = math.ceil(len(images) / columns), min(columns, len(images))
    sheet = Image.new(
        "L", (columns * (width + gap) + gap, rows * (height + caption_height + gap) + gap), SHEET_GREY
    )
    draw = ImageDraw.Draw(sheet)
    for number, image in enumerate(images):
        left = gap + number % columns * (width + gap)
        top = gap + number // columns * (height + caption_height + gap)
        sheet.paste(Image.fromarray(image[:, :width]), (left, top))
        if captions:
            caption = captions[number]
            while len(caption) > 1 and font.getlength(caption) > width:
                caption = caption[:-2] + "…"
            draw.text((left, top + height + gap // 3), caption, fill=40, font=font)
    return sheet


def _caption_font(size: int) -> ImageFont.FreeTypeFont:
    """A font with letters beyond ASCII if its package is there, else Pillow's own."""
    try:
        return ImageFont.truetype(str(files("fontpkg_delius") / "files" / "Delius-Regular.ttf"), size)
    except (ModuleNotFoundError, OSError):
        return ImageFont.load_default(size=size)


def measure_ink(images: Sequence[np.ndarray]) -> Tensor:
    """(N, 4) float32 left, top, right, bottom of the ink of (H, W) uint8 images, in pixels; an empty image
    spans all.
    """
    boxes = [ink_box(image) or (0, 0, image.shape[1], image.shape[0]) for image in images]
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)


def stack_images(images: Sequence[np.ndarray], width: int | None = None) -> Tensor:
    """(N, H, width) uint8: images of one height and any widths, with white at their right, or cut there.

    Args:
        width: pixels; the widest image's by default.
    """
    width = width or max(image.shape[1] for image in images)
    stack = np.full((len(images), images[0].shape[0], width), WHITE, np.uint8)
    for row, image in zip(stack, images, strict=True):
        row[:, : image.shape[1]] = image[:, :width]
    return torch.from_numpy(stack)


def to_pixel_values(images: Tensor, channels: int) -> Tensor:
    """(N, H, W) uint8 grey to (N, channels, H, W) float in [-1, 1]."""
    return (images[:, None].float() / 127.5 - 1).expand(-1, channels, -1, -1)


def to_images(pixel_values: Tensor) -> np.ndarray:
    """(N, C, H, W) floats, about [-1, 1], to (N, H, W) uint8 grey (channels averaged)."""
    grey = (pixel_values.float().mean(dim=1).clamp(-1, 1) + 1) * 127.5
    return grey.round().to("cpu", torch.uint8).numpy()


# Pixels


def trim_tail(image: np.ndarray, margin: int = 4) -> np.ndarray:
    """An (H, W) uint8 image without the white at its right, but for ``margin`` pixels behind the ink and up
    to a multiple of 8; of a blank image the first H pixels.
    """
    columns = np.flatnonzero((image < INK).any(axis=0))
    width = int(columns[-1]) + 1 + margin if len(columns) else image.shape[0]
    return image[:, : -(-width // 8) * 8]


def pad_to_width(image: np.ndarray, width: int) -> np.ndarray:
    """(H, W) uint8 with white at its right up to ``width``."""
    return np.pad(image, ((0, 0), (0, max(0, width - image.shape[1]))), constant_values=255)


def pixel_difference(image: np.ndarray, other: np.ndarray) -> float:
    """Normalised mean absolute error of two (H, W) uint8 images, 0 (equal) to 1; the narrower one gets white
    at its right.
    """
    width = max(image.shape[1], other.shape[1])
    difference = pad_to_width(image, width).astype(np.int16) - pad_to_width(other, width)
    return float(np.abs(difference).mean() / 255)


def runs_without_ink(has_ink: np.ndarray) -> np.ndarray:
    """(N, 2) first column of each run without ink and the column behind its last.

    Args:
        has_ink: (W,) bool; beyond its ends there is ink.
    """
    changes = np.diff(np.r_[True, has_ink, True].astype(np.int8))
    return np.flatnonzero(changes).reshape(-1, 2)
