"""Lines out of words: a text broken into lines of natural length, and drawn words put on a baseline."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from diffusion.layout import WidthModel
from generation.word_measures import ASCENDER, DESCENDER, measure_words
from utils.charset import is_right_to_left
from utils.images import WHITE, ink_box


@dataclass(frozen=True, kw_only=True)
class LineStyle:
    """How words stand in a line.

    Attributes:
        height: of the line's image, pixels.
        space: between two words, in mean widths of a character of the line (1.21 is the median of 700 lines
            of Copiste d'un jour, BAnQ 2024; 0.26 the deviation within a line).
        space_spread: standard deviation of the spaces, as a share of them.
        unsteadiness: standard deviation of the words' height above the baseline, in heights of a small
            letter.
    """

    height: int = 64
    space: float = 1.2
    space_spread: float = 0.25
    unsteadiness: float = 0.03

    @property
    def x_height(self) -> float:
        """Height of a small letter, pixels: ascenders and descenders just find room."""
        return (self.height - 2 * self._margin) / (ASCENDER + 0.1 - DESCENDER + 0.1)

    @property
    def baseline(self) -> float:
        """Row of the baseline, pixels from the top."""
        return self._margin + (ASCENDER + 0.1) * self.x_height

    @property
    def _margin(self) -> int:
        return max(1, self.height // 20)


@dataclass(frozen=True, kw_only=True)
class PlacedLine:
    """A line's image, (H, W) uint8 ink on white, and the row of its baseline and height of its small
    letters, in pixels.
    """

    image: np.ndarray
    baseline: float
    x_height: float


def place_words(
    images: Sequence[np.ndarray], texts: Sequence[str], style: LineStyle, rng: np.random.Generator
) -> PlacedLine:
    """Put words side by side on one baseline, each at the size that its letters have in a line.

    Args:
        images: (h, w) uint8 each, ink on white, of any size: the size tells nothing.
        texts: what they say; a right-to-left text's words come in reading order too.
        rng: draws spaces and unsteadiness.
    Returns:
        A line as wide as its ink, rounded up to 8 pixels.
    Raises:
        ValueError: if there is no word with ink.
    """
    words = [
        (cut, text)
        for image, text in zip(images, texts, strict=True)
        if (cut := _cut_to_ink(image)) is not None
    ]
    if not words:
        raise ValueError("a line without ink")
    cuts, kept = zip(*words, strict=True)
    scaled = [
        _scale_word(cut, *measure, style)
        for cut, measure in zip(cuts, measure_words(cuts, kept), strict=True)
    ]
    character = sum(word.shape[1] for word, _ in scaled) / sum(len(text) for _, text in words)
    margin = round(style.x_height / 4)
    left, lefts = margin, []
    for word, _ in scaled:
        lefts.append(left)
        space = style.space * max(0.4, 1 + style.space_spread * rng.standard_normal())
        left += word.shape[1] + max(2, round(space * character))
    right = lefts[-1] + scaled[-1][0].shape[1] + margin
    line = np.full((style.height, math.ceil(right / 8) * 8), WHITE, np.uint8)
    is_mirrored = is_right_to_left(" ".join(texts))
    for start, (word, baseline) in zip(lefts, scaled, strict=True):
        shift = float(rng.standard_normal()) * style.unsteadiness * style.x_height
        top = round(style.baseline - baseline + shift)
        top = min(max(top, 0), style.height - word.shape[0])
        start = right - start - word.shape[1] if is_mirrored else start
        part = line[top : top + word.shape[0], start : start + word.shape[1]]
        np.minimum(part, word, out=part)
    return PlacedLine(image=line, baseline=style.baseline, x_height=style.x_height)


def _scale_word(
    cut: np.ndarray, x_height: float, baseline: float, style: LineStyle
) -> tuple[np.ndarray, float]:
    """The word at the line's scale and its baseline's distance from its top, pixels."""
    scale = min(style.x_height / x_height, style.height / len(cut))
    size = (max(1, round(cut.shape[1] * scale)), max(1, round(len(cut) * scale)))
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(cut, size, interpolation=kind), baseline * scale


def _cut_to_ink(image: np.ndarray) -> np.ndarray | None:
    box = ink_box(image)
    return None if box is None else image[box[1] : box[3], box[0] : box[2]]


def word_width(model: WidthModel | None, writers: dict[str, float] | None) -> Callable[[str], float]:
    """A function from a word to its width in a line, in mean widths of a character in the mean hand.

    Args:
        model: the checkpoint's; None gives each character the same width.
        writers: the hand, as shares of writers; None is the mean hand.
    """
    if model is None:
        return len
    mean = _mean_width(model)
    hand = model.scale(writers)

    def width(word: str) -> float:
        return hand * sum(model.character_widths.get(character, mean) for character in word) / mean

    return width


def _mean_width(model: WidthModel) -> float:
    """Mean width of the small letters, of which most of a text consists; of all characters without any."""
    small = [width for character, width in model.character_widths.items() if character.islower()]
    widths = small or list(model.character_widths.values())
    return sum(widths) / len(widths)


def break_lines(
    texts: Iterable[str],
    width_of_line: Callable[[int], Callable[[str], float]],
    *,
    length: float = 50.0,
    spread: float = 0.06,
    fits: Callable[[int, str], bool] | None = None,
    rng: np.random.Generator,
) -> list[str]:
    """Break texts into lines as a writer does: when the next word does not fit any more.

    Args:
        texts: paragraphs; each begins a line.
        width_of_line: for a line by its number, the function from a word to its width in that line's hand;
            see ``word_width``.
        length: of a line, in the units of these widths.
        spread: standard deviation of the lengths, as a share.
        fits: whether a line, by its number and text, is one that its model can draw, where that has a limit;
            a word that does not fit stands alone.
        rng: draws the lengths.
    Returns:
        The lines, single spaces between their words; empty paragraphs are left out.
    """
    lines = []
    for text in texts:
        line: list[str] = []
        room = _draw_length(length, spread, rng)
        for word in text.split():
            width = width_of_line(len(lines))
            needed = sum(map(width, line)) + len(line) + width(word)
            if line and (needed > room or (fits and not fits(len(lines), " ".join([*line, word])))):
                lines.append(" ".join(line))
                line, room = [], _draw_length(length, spread, rng)
            line.append(word)
        if line:
            lines.append(" ".join(line))
    return lines


def _draw_length(length: float, spread: float, rng: np.random.Generator) -> float:
    return length * min(max(1 + spread * float(rng.standard_normal()), 0.5), 1.5)
