"""Lines of writing cut out of a page, at their hand's own size, each with its baseline at one height of the
canvas.
"""

import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from preprocessing.cleaning import FitSettings
from utils.images import to_grey
from utils.line_images import MOST_PIXELS, PIXELS_A_LINE, cut_lines
from utils.line_shapes import LineShape, make_frames


@dataclass(frozen=True, eq=False, kw_only=True)
class PageLines:
    """A page's picture and where all of its lines are, also those that nobody wants: they are neighbours.

    ``size`` is (width, height) of the page in the units of its lines' points, 0 where its file doesn't say.
    """

    path: Path
    size: tuple[float, float]
    shapes: tuple[LineShape, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LineImage:
    """One line of a page, by its number."""

    page: PageLines
    number: int

    def draw(self, settings: FitSettings) -> np.ndarray | str:
        """The line on its canvas: (height, w) uint8, w a multiple of 8; or the reason why there is none."""
        return _cut_page(self.page, settings)[self.number]


@lru_cache(maxsize=1)
def _cut_page(page: PageLines, settings: FitSettings) -> list[np.ndarray | str]:
    """All lines of a page; the last page is kept, since a page's lines follow each other."""
    try:
        grey, scale, shift = _load_part(page, settings.img_size[0])
    except Exception:  # whatever the picture's decoder raises
        return ["unreadable_image"] * len(page.shapes)
    frames = make_frames(page.shapes, scale, shift, grey.shape)
    return cut_lines(grey, frames, settings.canvas, remove_rules=settings.remove_rules)


def _load_part(page: PageLines, height: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The part of a page that has lines, no larger than a canvas of ``height`` pixels needs.

    Returns:
        (H, W) uint8 grey, and (2,) ``scale`` and ``shift``: a point of the file lies at ``point * scale -
        shift``.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(page.path)
    with image:
        full = np.array(image.size, float)
        scale = np.array(
            [pixels / units if units > 0 else 1.0 for pixels, units in zip(full, page.size, strict=True)]
        )
        outlines = [np.array(shape.polygon or shape.baseline).reshape(-1, 2) * scale for shape in page.shapes]
        # Points far off the page say nothing of where its lines are.
        outlines = [o for o in outlines if len(o) and (np.abs(o - full / 2) <= full).all()]
        usual = float(np.median([np.ptp(outline, axis=0).min() for outline in outlines] or [0.0]))
        wanted = max(1.0, usual / (PIXELS_A_LINE * height))
        # JPEG files can be read at a half, a quarter or an eighth of their size.
        image.draft("L", tuple((full / wanted).astype(int)))
        image.load()
        grey = to_grey(image)
    read = np.array(grey.shape[::-1]) / full
    scale, usual = scale * read, usual * read.mean()
    left, top, right, bottom = 0, 0, *grey.shape[::-1]
    if outlines:
        points, margin = np.concatenate(outlines) * read, 2 * usual + 50
        left, top = np.clip(points.min(axis=0) - margin, 0, (right - 1, bottom - 1)).astype(int)
        right, bottom = np.clip(points.max(axis=0) + margin, (left + 1, top + 1), (right, bottom)).astype(int)
    grey = np.ascontiguousarray(grey[top:bottom, left:right])
    reduction = max(wanted * read.mean(), (grey.size / MOST_PIXELS) ** 0.5)
    shift = np.array([left, top], float)
    if reduction > 1.05:
        size = np.maximum(np.rint(np.array(grey.shape[::-1]) / reduction), 1)
        part = size / grey.shape[::-1]
        grey = cv2.resize(grey, size.astype(int).tolist(), interpolation=cv2.INTER_AREA)
        scale, shift = scale * part, shift * part
    return grey, scale, shift
