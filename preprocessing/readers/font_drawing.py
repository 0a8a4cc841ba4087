"""Words and lines drawn in a font as people write: slanted, bent, uneven, in ink on paper."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from preprocessing.cleaning import FitSettings, whiten_paper
from utils.images import WHITE
from utils.line_images import hand_size, place
from utils.straightening import Strip

FONT_SIZE = 96  # pixels per em; words are scaled down afterwards
SHRINKING = (0.8, 1.0)  # of widths and heights
SPACES = (0.9, 1.5)  # of a line's spaces, as multiples of the font's
LEAST_SPACE = 0.2  # of an em
LEVEL = 0.05  # of an em: how far a line's ends may lie above or below its middle by its tilt
# What a font's size on the canvas is measured on: letters as often as they come, capitals where they stand.
_SAMPLES = (
    "The morning was grey and every window in the street",
    "stayed closed until the post had come. A few of us",
    "walked down by the river, which had risen overnight",
    "over the lower steps. Nobody knew when it would fall",
    "again; my uncle, who had kept the ferry for years,",
    "said Saturday. He was right more often than the paper.",
    "Just before noon the bells began, quite out of time,",
    "and Margaret put down her book to look for the key.",
)


@dataclass(frozen=True, kw_only=True)
class FontDrawing:
    """A word's picture, drawn when it is loaded; the same fields give the same pixels (with the same library
    versions).
    """

    path: Path
    axes: tuple[float, ...]
    text: str
    seed: tuple[int, ...]

    def load(self) -> Image.Image:
        """Draw the word: (h, w) grey, dark ink on light paper, about 100 pixels high a line."""
        return Image.fromarray(
            draw_word(open_font(self.path, self.axes), self.text, np.random.default_rng(self.seed))
        )


@dataclass(frozen=True, kw_only=True)
class FontLine:
    """A line's picture, drawn when it is asked for; the same fields give the same pixels (with the same
    library versions). ``is_caps_only`` as a font's cut has it.
    """

    path: Path
    axes: tuple[float, ...]
    text: str
    seed: tuple[int, ...]
    is_caps_only: bool = False

    def draw(self, settings: FitSettings) -> np.ndarray | str:
        """The line on its canvas, at the font's size: (height, w) uint8, w a multiple of 8; or the reason why
        there is none.
        """
        try:
            scale = line_scale(self.path, self.axes, self.is_caps_only, settings.img_size[0])
            grey, base = draw_line(
                open_font(self.path, self.axes), self.text, np.random.default_rng(self.seed)
            )
        except OSError:  # a damaged font opens, and fails at some of its glyphs
            return "unreadable_image"
        return place(Strip(darkness=WHITE - whiten_paper(grey), base=base), scale, settings.canvas)


@lru_cache(maxsize=1000)
def line_scale(path: Path, axes: tuple[float, ...], is_caps_only: bool, height: int) -> float:
    """The scale of a font's lines, in canvas pixels a pixel of their drawing: as a hand's on a page."""
    font, rng = open_font(path, axes), np.random.default_rng(0)
    lines = [_write_line(font, text.upper() if is_caps_only else text, rng) for text in _SAMPLES]
    size = hand_size([Strip(darkness=np.asarray(ink), base=base) for ink, base in lines], height)
    return size / (sum(SHRINKING) / 2)


@lru_cache(maxsize=64)
def open_font(path: Path, axes: tuple[float, ...]) -> ImageFont.FreeTypeFont:
    """A font at ``FONT_SIZE`` with its variation axes set; opened once a process."""
    font = ImageFont.truetype(str(path), FONT_SIZE)
    if axes:
        font.set_variation_by_axes(list(axes))
    return font


def draw_word(font: ImageFont.FreeTypeFont, text: str, rng: np.random.Generator) -> np.ndarray:
    """Draw a word as no other: slanted, stretched, bent, thicker or thinner, in its own ink on its own paper.

    Returns:
        (h, w) uint8, the word with a border of at least a fifth of ``FONT_SIZE``.
    """
    left, top, right, bottom = font.getbbox(text)
    # Room for the slant of a high word and the tilt of a long one.
    margins = int(0.3 * FONT_SIZE + 0.12 * (bottom - top)), int(0.3 * FONT_SIZE + 0.03 * (right - left))
    ink = np.asarray(draw_plain(font, text, *margins))
    return _put_on_paper(_press_pen(_bend(ink, rng), rng), rng)


def draw_line(font: ImageFont.FreeTypeFont, text: str, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Draw a line as no other, as ``draw_word`` does, but level.

    Returns:
        (h, w) uint8, the line with a border, and the row of its baseline.
    """
    picture, base = _write_line(font, text, rng)
    ink = _bend(np.asarray(picture), rng, base)
    return _put_on_paper(_press_pen(ink, rng), rng), base


def _write_line(
    font: ImageFont.FreeTypeFont, text: str, rng: np.random.Generator
) -> tuple[Image.Image, float]:
    """White ink on black, word by word on one baseline, with spaces of uneven width, and the baseline's
    row.
    """
    space = max(font.getlength(" "), LEAST_SPACE * FONT_SIZE) * rng.uniform(*SPACES)
    places, x = [], 0.0
    for word in text.split(" "):
        places.append((round(x), word, font.getbbox(word, anchor="ls")))
        x += font.getlength(word) + space * rng.uniform(0.85, 1.2)
    left, right = min(x + box[0] for x, _, box in places), max(x + box[2] for x, _, box in places)
    top, bottom = min(box[1] for *_, box in places), max(box[3] for *_, box in places)
    margin = int(0.3 * FONT_SIZE + 0.12 * (bottom - top))
    picture = Image.new("L", (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin))
    base = margin - top
    for x, word, _ in places:
        ImageDraw.Draw(picture).text((margin + x - left, base), word, fill=255, font=font, anchor="ls")
    return picture, float(base)


def draw_plain(font: ImageFont.FreeTypeFont, text: str, margin_x: int, margin_y: int) -> Image.Image:
    """White ink on black, as the font has it, with margins in pixels."""
    left, top, right, bottom = font.getbbox(text)
    picture = Image.new("L", (int(right - left) + 2 * margin_x, int(bottom - top) + 2 * margin_y))
    ImageDraw.Draw(picture).text((margin_x - left, margin_y - top), text, fill=255, font=font)
    return picture


def _noise(rng: np.random.Generator, shape: tuple[int, int], cell: tuple[float, float]) -> np.ndarray:
    """(h, w) float32 smooth noise of about unit size whose bumps are ``cell`` (height, width) pixels
    large.
    """
    grid = rng.standard_normal(
        (max(2, int(shape[0] / cell[0]) + 2), max(2, int(shape[1] / cell[1]) + 2)), np.float32
    )
    return cv2.resize(grid, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)


def _bend(ink: np.ndarray, rng: np.random.Generator, base: float | None = None) -> np.ndarray:
    """Slant, tilt, proportions, wobbling baseline, uneven letters: all in one remapping of (h, w) uint8.

    The row ``base`` stays nearly where and as level as it is; without one the middle stays.
    """
    height, width = ink.shape
    middle = height / 2 if base is None else base
    slant, tilt = rng.uniform(-0.15, 0.15), np.radians(rng.uniform(-2, 2))
    if base is not None:
        tilt *= min(1, LEVEL * FONT_SIZE / (np.radians(2) * width / 2))
    shrink_x, shrink_y = rng.uniform(*SHRINKING, 2)
    x = np.arange(width, dtype=np.float32)[None] - width / 2
    y = np.arange(height, dtype=np.float32)[:, None] - middle
    strength = FONT_SIZE * rng.uniform(0.3, 1.0)
    baseline = 0.04 * strength * _noise(rng, (1, width), (1, 1.2 * FONT_SIZE))
    spacing = 0.05 * strength * _noise(rng, (1, width), (1, 0.8 * FONT_SIZE))
    letter_size = 1 + 0.07 * strength / FONT_SIZE * _noise(rng, (1, width), (1, 0.5 * FONT_SIZE))
    cell = (0.45 * FONT_SIZE, 0.4 * FONT_SIZE)
    map_x = x / shrink_x + np.float32(slant) * y + spacing + 0.022 * strength * _noise(rng, ink.shape, cell)
    map_y = (
        y * letter_size / shrink_y
        + np.float32(tilt) * x
        + baseline
        + 0.022 * strength * _noise(rng, ink.shape, cell)
    )
    return cv2.remap(
        ink, (map_x + width / 2).astype(np.float32), (map_y + middle).astype(np.float32), cv2.INTER_LINEAR
    )


def _press_pen(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(h, w) float32 ink density in [0, 1]: stroke width and pressure by a moving threshold on the blurred
    strokes.
    """
    # What survives an erosion by 7 pixels is a broad stroke: it is not made broader, or the loops would fill.
    broad = cv2.erode(ink, np.ones((7, 7), np.uint8)).sum(dtype=np.float64) / max(
        1, ink.sum(dtype=np.float64)
    )
    weight = rng.uniform(-1, max(0, 1 - 4 * broad))
    blurred = cv2.GaussianBlur(ink, (0, 0), 0.8 + 1.2 * max(weight, 0)).astype(np.float32) / 255
    # Thinning stays mild: a hairline of two pixels has its blurred peak at 0.8.
    threshold = 0.5 - 0.3 * max(weight, 0) + 0.1 * max(-weight, 0)
    pressure = rng.uniform(0, 0.08) * _noise(rng, ink.shape, (FONT_SIZE, 0.5 * FONT_SIZE))
    density = np.clip((blurred - threshold + pressure) * rng.uniform(2, 6) + 0.5, 0, 1)
    density[blurred < 0.02] = 0
    grain = rng.choice([0, 0.08, 0.2]) * _noise(rng, ink.shape, (2, 2))
    grain += rng.uniform(0, 0.12) * _noise(rng, ink.shape, (30, 30))
    return density * np.clip(1 - np.abs(grain), 0.3, 1)


def _put_on_paper(density: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(h, w) uint8: ink of some darkness on a tone of paper with a shade across it, grain and a soft
    focus.
    """
    shade = cv2.resize(rng.standard_normal((2, 2), np.float32), density.shape[::-1])
    paper = rng.uniform(200, 252) + rng.uniform(0, 8) * shade
    picture = (
        paper
        - density * (paper - 5 - 100 * rng.random() ** 1.5)
        + rng.uniform(0, 4) * _noise(rng, density.shape, (2, 2))
    )
    return cv2.GaussianBlur(np.clip(picture, 0, 255).astype(np.uint8), (0, 0), rng.uniform(0.3, 1.3))
