"""What a reader of a raw data set yields: text images whose pictures are still on disk, and what it leaves
out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, cos, floor, isfinite, radians, sin
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image, ImageDraw, ImageOps, ImageStat

from preprocessing.cleaning import FitSettings

# Why a text image is left out. Every one that is dropped is counted under exactly one of these.
DROP_REASONS = (
    "err_segmentation",
    "no_image",
    "unreadable_image",
    "empty_image",
    "bad_box",
    "unannotated",
    "empty_text",
    "charset",
    "length",
    "md5_mismatch",
    "duplicate_page",
    "not_in_split",
    "bad_row",
    "unknown_writer",
    "unlisted_image",
    "no_annotations",
    "bad_xml",
    "no_words",
    "struck_out",
    "marked",
    "too_wide",
)


class BadBoxError(ValueError):
    """An outline that can't be cut out of its page."""


class UnreadableImageError(OSError):
    """A picture that can't be opened or decoded."""


class ImageSource(Protocol):
    """Anything that can produce a picture when it is needed."""

    def load(self) -> Image.Image:
        """Return the picture.

        Raises:
            OSError: if it can't be read (UnreadableImageError if it is damaged).
            BadBoxError: if it can't be cut out of its page.
        """


@runtime_checkable
class CanvasSource(Protocol):
    """Anything that knows its hand's size, and puts itself on the canvas."""

    def draw(self, settings: FitSettings) -> np.ndarray | str:
        """(height, w) uint8, w a multiple of 8; or the reason why there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileImage:
    """A picture: a whole file, or a rotated box cut straight out of one.

    ``box`` is (x_center, y_center, width, height, angle) in raw pixels; the angle is in degrees
    counter-clockwise on screen, as in IMGUR5K. ``use_exif`` turns a phone's photo upright (never with a box:
    boxes mean raw pixels).
    """

    path: Path
    box: tuple[float, float, float, float, float] | None = None
    use_exif: bool = False

    def load(self) -> Image.Image:
        """Read the picture from disk, cut straight if there is a box; outside of the page is filled with
        white.
        """
        if self.box is None:
            return decode(self.path, ImageOps.exif_transpose if self.use_exif else Image.Image.copy)
        return cut_straight(_open_page(self.path), self.box)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolygonImage:
    """A picture: a polygon on a page, cut out upright.

    ``points`` are (x, y) in the page's raw pixels. What lies outside of the polygon is filled with the
    paper's colour, so that neighbours vanish and no edge appears.
    """

    path: Path
    points: tuple[tuple[float, float], ...]

    def load(self) -> Image.Image:
        """Cut the polygon out, in RGB.

        Raises:
            BadBoxError: if the polygon has fewer than three points, lies off the page or has no finite size.
        """
        page = _open_page(self.path)
        if not all(isfinite(value) for point in self.points for value in point):
            raise BadBoxError(f"polygon {self.points} has points that are no numbers")
        xs, ys = [x for x, _ in self.points], [y for _, y in self.points]
        box = (
            max(0, floor(min(xs, default=0))),
            max(0, floor(min(ys, default=0))),
            min(page.width, ceil(max(xs, default=0))),
            min(page.height, ceil(max(ys, default=0))),
        )
        if len(self.points) < 3 or box[2] - box[0] < 1 or box[3] - box[1] < 1:
            raise BadBoxError(
                f"polygon of {len(self.points)} points in {box} does not fit a page of {page.size} pixels"
            )
        part = page.crop(box)
        mask = Image.new("L", part.size)
        ImageDraw.Draw(mask).polygon([(x - box[0], y - box[1]) for x, y in self.points], fill=255)
        paper = tuple(ImageStat.Stat(part, mask).median) if mask.getbbox() else (255, 255, 255)
        return Image.composite(part, Image.new("RGB", part.size, paper), mask)


@dataclass(frozen=True, slots=True, kw_only=True)
class RawWord:
    """One text image of a raw data set: a word, or a line.

    ``writer`` is a string (leading zeros count); ``split`` is ``train``, ``val`` or ``test``, or None where
    the data set names none; ``source_id`` is the data set's own id, which becomes the image's name.
    ``sources`` are the files that the picture depends on: an image that an interrupted run wrote is made
    again if one of them has changed since. ``page`` is the page that it was cut out of, or None: one page is
    never on both sides of a split.
    """

    image: ImageSource | CanvasSource
    text: str
    writer: str
    split: str | None
    source_id: str
    sources: tuple[Path, ...] = ()
    page: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedWord:
    """A text image that a reader leaves out, with one of ``DROP_REASONS``."""

    source_id: str
    reason: str


def decode(path: Path, finish: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """What ``finish`` makes of an image file.

    Raises:
        UnreadableImageError: whatever Pillow raises on a file that is damaged, too large or no image.
    """
    if not path.is_file():  # opening a pipe waits for a writer that never comes
        raise UnreadableImageError(f"{path}: not a file")
    try:
        with Image.open(path) as image:
            image.load()
            return finish(image)
    except Exception as error:  # decoders raise nearly anything, MemoryError and TypeError among it
        raise UnreadableImageError(f"{path}: {type(error).__name__}: {error}") from error


@lru_cache(maxsize=1)
def _open_page(path: Path) -> Image.Image:
    """The last page in RGB: a page's text images follow each other, so one is enough."""
    return decode(path, _on_white)


def _on_white(image: Image.Image) -> Image.Image:
    """An image in RGB; what is transparent becomes white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def cut_straight(page: Image.Image, box: tuple[float, float, float, float, float]) -> Image.Image:
    """Cut a rotated box out of a page so that it stands straight; nothing is clipped at the page's edge.

    Args:
        page: an RGB image.
        box: (x_center, y_center, width, height, angle), pixels and degrees counter-clockwise on screen.
    Returns:
        A round(width) x round(height) RGB image, white where the box leaves the page.
    Raises:
        BadBoxError: if a side is under one pixel or over twice the page's diagonal.
    """
    x_center, y_center, width, height, angle = box
    out_width, out_height = round(width), round(height)
    limit = 2 * (page.width**2 + page.height**2) ** 0.5
    if not (1 <= out_width <= limit and 1 <= out_height <= limit):
        raise BadBoxError(f"box {box} does not fit a page of {page.width}x{page.height} pixels")
    c, s = cos(radians(angle)), sin(radians(angle))
    # Pillow maps output pixel centres to input positions; the box's centre goes to the output's centre.
    x, y = x_center + 0.5, y_center + 0.5
    p, q = out_width / 2 + 0.5, out_height / 2 + 0.5
    matrix = (c, s, x - p * c - q * s, -s, c, y + p * s - q * c)
    return page.transform(
        (out_width, out_height), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor="white"
    )
