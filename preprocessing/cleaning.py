"""From a scan or photograph of a word to clean ink on white, fitted to the canvas."""

import itertools
import math
import unicodedata
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageOps

from utils.images import WHITE, ink_box, ink_mask, to_grey
from utils.line_images import Canvas

LARGEST_FACTOR = 6  # times the canvas's height; higher pictures are reduced before they are cleaned
# Rules above and below a word; lengths as shares of the picture's height.
RULE_BAND = 0.3  # the part at the top and at the bottom where they lie
RULE_THICKNESS = 0.05
# Least length above, below, and where it ends at the picture's left or right side, of a rule that touches no
# ink; a T's bar may stand alone.
RULE_STUB = (0.8, 0.3, 0.15)
RULE_LENGTH = 0.5  # of the flat runs that are looked at where ink touches a rule ...
RULE_THROUGH = (1.5, 1.1, math.inf)  # ... and of the whole of it; letters have shorter flat strokes
RULE_COVERED = 0.15  # share of its columns that may have ink on its outer side


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How a raw word picture becomes an image of the word folder.

    Attributes:
        img_size: (height, width) in pixels, multiples of 8; the width is that of the widest image.
        background: ``whiten`` (ink on clean white) or ``keep``.
        crop: cut to the ink before fitting.
        fit: ``aspect`` (scaled to fit inside, shape kept), ``squeeze`` (scaled to the height; what is too
            wide is squeezed to the width: the published procedure).
        align: ``left`` (the image is as wide as its ink) or ``center`` (all images have the full width),
            horizontally; vertically always centred.
        margin: white pixels kept free on each side.
        max_scale: a word is enlarged by this factor at most, so that a full stop stays smaller than a letter.
        remove_rules: erase ruler lines above and below the word (long, flat, thin strokes).
        invert_dark: turn light writing on a dark ground into dark on light.
    """

    img_size: tuple[int, int] = (64, 256)
    background: str = "whiten"
    crop: bool = True
    fit: str = "aspect"
    align: str = "left"
    margin: int = 4
    max_scale: float = 2.0
    remove_rules: bool = False
    invert_dark: bool = False

    @property
    def canvas(self) -> Canvas:
        """What lines are put on."""
        return Canvas(height=self.img_size[0], widest=self.img_size[1], margin=self.margin)


def is_dark_ground(grey: np.ndarray) -> bool:
    """True if the picture's border is mostly darker than its Otsu threshold, with clear contrast between the
    classes.
    """
    threshold, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    dark, light = grey[grey <= threshold], grey[grey > threshold]
    if dark.size == 0 or light.size == 0 or light.mean() - dark.mean() < 40:
        return False
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    return bool((border <= threshold).mean() > 0.6)


def whiten_paper(grey: np.ndarray) -> np.ndarray:
    """Divide by the paper's local brightness and lift what is lighter than the ink to pure white.

    A closing with a square keeps steps between paper patches (IAM's grey rectangles on white filler) in the
    paper's estimate; small patches that it takes for ink are lifted by the white point instead.

    Args:
        grey: (H, W) uint8.
    Returns:
        (H, W) uint8, paper at 255, ink as dark as it was against its paper.
    """
    side = max(15, min(grey.shape) // 2 | 1)
    paper = cv2.morphologyEx(
        grey, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8), borderType=cv2.BORDER_REPLICATE
    )
    flat = np.clip(grey.astype(np.float32) * WHITE / np.maximum(paper, 1), 0, WHITE)
    threshold, _ = cv2.threshold(flat.astype(np.uint8), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    is_ink = flat <= threshold
    if is_ink.all() or not is_ink.any():
        return flat.astype(np.uint8)
    paper_level = float(np.median(flat[~is_ink]))
    middle = (float(flat[is_ink].mean()) + paper_level) / 2
    # On clean paper what lies between ink and paper is the soft edge of a stroke; away from strokes it is
    # paper of a second kind, such as the patches.
    near_ink = cv2.dilate(is_ink.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    between = ~near_ink & (flat > threshold) & (flat < middle + 0.8 * (paper_level - middle))
    has_patches = between.sum() > 0.4 * is_ink.sum()
    white_point = middle + (0.3 if has_patches else 0.65) * (paper_level - middle)
    return np.clip(np.rint(flat * WHITE / max(white_point, 1.0)), 0, WHITE).astype(np.uint8)


def erase_rules(grey: np.ndarray) -> np.ndarray:
    """Paint white the flat, long, thin strokes above and below a word: ruler lines and their stubs.

    Args:
        grey: (H, W) uint8, a word on white paper.
    Returns:
        (H, W) uint8; ink that crosses a rule stays.
    """
    mask = grey < 225
    is_rule = _find_edge_rules(mask)
    least = max(1, int(RULE_LENGTH * grey.shape[0]))
    is_flat = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((1, least), np.uint8)) > 0
    is_rule |= _find_rules(mask, mask, RULE_STUB)
    is_rule |= _find_rules(mask, is_flat, RULE_THROUGH)
    if not is_rule.any():
        return grey
    erased = grey.copy()
    erased[cv2.dilate(is_rule.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0] = WHITE
    # Ink that crosses a rule is thicker than it, and stays.
    thickness = max(3, round(RULE_THICKNESS * grey.shape[0]))
    crossing = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((thickness + 2, 1), np.uint8))
    return np.where(crossing > 0, grey, erased)


def _find_edge_rules(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool: components wholly in the top or bottom tenth of the height, at least 8 % of the picture
    wide and six times as wide as they are high.
    """
    height, width = mask.shape
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    is_rule = np.zeros(count, bool)
    for index in range(1, count):
        _, top, w, h, _ = stats[index]
        at_edge = top + h <= 0.1 * height or top >= 0.9 * height
        is_rule[index] = at_edge and w >= max(0.08 * width, 6 * h)
    return is_rule[labels]


def _find_rules(mask: np.ndarray, flat: np.ndarray, least: tuple[float, float, float]) -> np.ndarray:
    """(H, W) bool: components of ``flat`` that are thin, lie in the outer part of the height, and have no ink
    on their outer side.

    Args:
        mask: (H, W) bool, ink.
        flat: (H, W) bool, the parts of it that may be rules.
        least: widths of a rule above, below and at the sides of the word, of the height.
    """
    height, width = mask.shape
    thickest = max(3, RULE_THICKNESS * height)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(flat.astype(np.uint8), connectivity=8)
    is_rule = np.zeros(count, bool)
    for index in range(1, count):
        left, top, w, h, area = stats[index]
        if w < 6 * h or area > thickest * w or h > 2 * thickest:
            continue
        columns = mask[:, left : left + w]
        if top + h <= RULE_BAND * height:
            outside, needed = columns[: max(0, top - 1)], least[0]
        elif top >= (1 - RULE_BAND) * height:
            outside, needed = columns[top + h + 1 :], least[1]
        else:
            continue
        if left <= 1 or left + w >= width - 1:  # it goes on where the picture was cut out
            needed = min(needed, least[2])
        is_rule[index] = w >= needed * height and outside.any(axis=0).mean() < RULE_COVERED
    return is_rule[labels]


def clean_word(image: Image.Image, settings: FitSettings) -> np.ndarray | None:
    """Grey, whitened and cropped as the settings say, not yet fitted.

    Returns:
        (h, w) uint8, or None if there is nothing to see: a single pixel, or no ink.
    """
    grey = to_grey(image)
    if min(grey.shape) < 1 or max(grey.shape) <= 1:
        return None
    excess = grey.shape[0] / (LARGEST_FACTOR * settings.img_size[0])
    if excess > 1:  # a photograph: more pixels than the canvas can show only cost time
        size = (max(1, round(grey.shape[1] / excess)), max(1, round(grey.shape[0] / excess)))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    if settings.invert_dark and is_dark_ground(grey):
        grey = WHITE - grey
    if settings.background == "whiten":
        grey = whiten_paper(grey)
    if settings.remove_rules:
        grey = erase_rules(grey)
    cropped = crop_to_ink(grey)
    return cropped if cropped is None or settings.crop else grey


def fit_word(grey: np.ndarray, settings: FitSettings) -> np.ndarray:
    """Scale a word onto the canvas.

    Args:
        grey: (h, w) uint8 of any size.
    Returns:
        (H, W) uint8 of the height of ``settings.img_size``. Squeezed or centred it has the full width, else
        it is as wide as its ink and the margins, up to a multiple of 8 pixels.
    """
    height, width = settings.img_size
    if settings.fit == "squeeze":
        # The published fit: height first, too wide is squeezed, too narrow is centred on white.
        picture = Image.fromarray(grey)
        picture = picture.resize(
            (max(1, int(picture.width * height / picture.height)), height), Image.LANCZOS
        )
        if picture.width > width:
            return np.asarray(picture.resize((width, height), Image.LANCZOS))
        return np.asarray(ImageOps.pad(picture, (width, height), color=WHITE))
    inner_height, inner_width = height - 2 * settings.margin, width - 2 * settings.margin
    scale = min(inner_height / grey.shape[0], inner_width / grey.shape[1], settings.max_scale)
    size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
    picture = Image.fromarray(grey).resize(size, Image.LANCZOS)
    if settings.align == "left":
        left, width = settings.margin, -(-(picture.width + 2 * settings.margin) // 8) * 8
    else:
        left = (width - picture.width) // 2
    canvas = Image.new("L", (width, height), WHITE)
    canvas.paste(picture, (left, (height - picture.height) // 2))
    return np.asarray(canvas)


def split_at_spaces(grey: np.ndarray, text: str) -> list[tuple[np.ndarray, str]] | None:
    """Cut a picture of several words at its clear spaces.

    The widest gaps between ink columns must be as many as the text's spaces, and the narrowest of them
    clearly wider (1.6 times, and a fifth of the ink's height) than the widest of the others.

    Args:
        grey: (h, w) uint8, clean paper.
    Returns:
        (picture, word) for each word, cropped to its ink; None where the spaces are not clear, or words may
        stand from right to left.
    """
    words = text.split(" ")
    if len(words) == 1:
        return [(grey, text)]
    if any(unicodedata.bidirectional(character) in ("R", "AL") for character in text):
        return None
    mask = ink_mask(grey)
    columns = np.flatnonzero(mask.any(axis=0))
    if columns.size == 0:
        return None
    rows = np.flatnonzero(mask.any(axis=1))
    starts = np.flatnonzero(np.diff(columns) > 1)
    gaps = sorted(((int(columns[i + 1] - columns[i] - 1), int(columns[i]) + 1) for i in starts), reverse=True)
    if len(gaps) < len(words) - 1:
        return None
    chosen, others = gaps[: len(words) - 1], gaps[len(words) - 1 :]
    narrowest, rival = chosen[-1][0], others[0][0] if others else 1
    if narrowest < 1.6 * rival or narrowest < 0.2 * (rows[-1] - rows[0] + 1):
        return None
    cuts = [0, *sorted(start + gap // 2 for gap, start in chosen), grey.shape[1]]
    parts = [crop_to_ink(grey[:, left:right]) for left, right in itertools.pairwise(cuts)]
    if any(part is None for part in parts):
        return None
    return list(zip(parts, words, strict=True))


def crop_to_ink(grey: np.ndarray) -> np.ndarray | None:
    """Cut to the ink with one pixel around it, which keeps the soft edge of the strokes; None where there is
    no ink.
    """
    box = ink_box(grey)
    if box is None:
        return None
    left, top, right, bottom = box
    return grey[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1]
