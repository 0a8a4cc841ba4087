"""The size that a drawn word should have in a line, from its text and its rows of ink.

A model of words draws each word as high as its canvas, whatever it is: `a` comes out as high as `Apfel`. What
stands in a word says how high it should be against its neighbours, and its rows of ink say so again: most ink
lies between the baseline and the top of the small letters.
"""

import math
import unicodedata
from collections.abc import Sequence

import numpy as np

from utils.images import WHITE

# Where the ink of characters ends, above and below the baseline, in heights of a small letter.
ASCENDER, _CAPITAL, DESCENDER = 1.85, 1.75, -0.75
_EXTENTS = (
    ("acemnorsuvwxz+ı", 1.0, 0.0),
    ("gpqyµ", 1.0, DESCENDER),
    ("i", 1.6, 0.0),
    ("jþ", 1.6, DESCENDER),
    ("t", 1.5, 0.0),
    ("f", ASCENDER, -0.2),
    ("ſ", ASCENDER, -0.4),
    ("JQ", _CAPITAL, -0.2),
    ("()[]{}|/\\", ASCENDER, -0.5),
    (".…", 0.2, 0.0),
    (",", 0.25, -0.35),
    (":", 0.9, 0.0),
    (";", 0.9, -0.35),
    ("-–—~·", 0.6, 0.4),
    ("=", 0.8, 0.3),
    ("«»‹›<>", 0.9, 0.1),
    ("_", 0.0, -0.15),
    ("'’‘\"“”´`^", ASCENDER, 1.25),
    ("*°", ASCENDER, 1.1),
)
_EXTENT_OF = {character: (top, bottom) for characters, top, bottom in _EXTENTS for character in characters}
_BODIED = frozenset(
    "abcdeghkmnopqrsuvwxyz"
)  # letters with a body between baseline and top of the small letters
_MARK_ABOVE = 0.6
_ENOUGH_BODIES = 3  # such letters of a word that make its rows of ink tell what they can
_REACHES = tuple(0.5 * 1.12**step for step in range(10))  # of hands: half to 1.4 times of most hands
_PRIOR_WORDS = 0.2  # how much a hand of usual reach is preferred, as if by so many words
_TRUST_IN_ROWS = 0.8  # against what the word's text alone lets expect


def text_extent(text: str, reach: tuple[float, float] = (1.0, 1.0)) -> tuple[float, float]:
    """Where a text's ink ends above and below the baseline, in heights of a small letter; below is negative.

    Args:
        reach: of the hand: how far it goes above the small letters and below the baseline, against most
            hands.
    """
    tops, bottoms = [], []
    for character in text:
        base, *marks = unicodedata.normalize("NFD", character)
        top, bottom = _EXTENT_OF.get(base, (_CAPITAL if base.isupper() or base.isdigit() else ASCENDER, 0.0))
        if any(unicodedata.combining(mark) == 230 for mark in marks):
            top = top + (0.35 if base.isupper() else _MARK_ABOVE) if base not in "ij" else top
        if any(unicodedata.combining(mark) in (202, 220) for mark in marks):  # cedilla, dot below
            bottom = min(bottom, -0.35)
        if not character.isspace():
            tops.append(top)
            bottoms.append(bottom)
    top, bottom = (max(tops), min(bottoms)) if tops else (1.0, 0.0)
    return (1 + (top - 1) * reach[0] if top > 1 else top), bottom * reach[1]


def measure_words(cuts: Sequence[np.ndarray], texts: Sequence[str]) -> list[tuple[float, float]]:
    """Height of the small letters of each word and its baseline, from its text and its rows of ink.

    What the texts let expect is first fitted to the hand, whose ascenders and descenders are longer or
    shorter than others' in all words alike.

    Args:
        cuts: (h, w) uint8 each, ink on white, cut to the ink; all of one hand.
    Returns:
        The height, and the baseline's distance from the top of the cut (below it for an apostrophe), in
        pixels.
    """
    weights = [_weight_of_rows(cut, text) for cut, text in zip(cuts, texts, strict=True)]
    bands = [
        _find_band(cut, text, (1.0, 1.0)) if weight else None
        for cut, text, weight in zip(cuts, texts, weights, strict=True)
    ]
    reach = _fit_reach(cuts, texts, bands, weights)
    measures = []
    for cut, text, weight in zip(cuts, texts, weights, strict=True):
        expected, baseline = _expect(cut, text, reach)
        if weight:
            start, end = _find_band(cut, text, reach)
            # A mean of the logarithms: half as high and twice as high are equally wrong.
            expected *= ((end - start) / expected) ** weight
            baseline += weight * (end - baseline)
        measures.append((expected, baseline))
    return measures


def _expect(cut: np.ndarray, text: str, reach: tuple[float, float]) -> tuple[float, float]:
    """Height of the small letters and distance of the baseline from the top, pixels, by the text alone."""
    top, bottom = text_extent(text, reach)
    x_height = len(cut) / max(top - bottom, 0.1)
    return x_height, top * x_height


def _weight_of_rows(cut: np.ndarray, text: str) -> float:
    bodies = sum(unicodedata.normalize("NFD", character)[0] in _BODIED for character in text)
    return _TRUST_IN_ROWS * min(1.0, bodies / _ENOUGH_BODIES) if len(cut) >= 8 else 0.0


def _fit_reach(
    cuts: Sequence[np.ndarray],
    texts: Sequence[str],
    bands: Sequence[tuple[int, int] | None],
    weights: Sequence[float],
) -> tuple[float, float]:
    """The hand's reach above and below that explains the bands best; unlikely ones take more words."""
    best, fitted = math.inf, (1.0, 1.0)
    for above in _REACHES:
        for below in _REACHES:
            loss = _PRIOR_WORDS * (math.log(above) ** 2 + math.log(below) ** 2)
            for cut, text, band, weight in zip(cuts, texts, bands, weights, strict=True):
                if band is not None:
                    loss += (
                        weight * math.log((band[1] - band[0]) / _expect(cut, text, (above, below))[0]) ** 2
                    )
            if loss < best:
                best, fitted = loss, (above, below)
    return fitted


def _find_band(cut: np.ndarray, text: str, reach: tuple[float, float]) -> tuple[int, int]:
    top, bottom = text_extent(text, reach)
    expected, baseline = _expect(cut, text, reach)
    return _densest_band(cut, expected, baseline, is_tall=top > 1.2, is_deep=bottom < -0.1)


def _densest_band(
    cut: np.ndarray, expected: float, baseline: float, *, is_tall: bool, is_deep: bool
) -> tuple[int, int]:
    """First and last row of the band of rows that stand out most by their ink, near where the text lets
    expect it.
    """
    profile = (WHITE - cut.astype(np.float64)).sum(axis=1)
    profile = np.convolve(np.pad(profile, 1, mode="edge"), np.ones(3) / 3, mode="valid")
    height = len(profile)
    total, sums = profile.sum(), np.concatenate([[0.0], np.cumsum(profile)])
    reach = 0.45 * expected
    starts = (
        range(max(0, int(baseline - expected - reach)), int(baseline - expected + reach)) if is_tall else [0]
    )
    ends = range(int(baseline - reach), min(height, int(baseline + reach)) + 1) if is_deep else [height]
    best, band = -math.inf, (round(baseline - expected), round(baseline))
    for start in starts:
        for end in ends:
            inside, outside = end - start, height - (end - start)
            if inside < 0.5 * expected or not outside:
                continue
            ink = sums[end] - sums[start]
            contrast = (ink / inside - (total - ink) / outside) * math.sqrt(inside * outside)
            # Bands far from what is expected need more contrast.
            contrast *= math.exp(-2 * math.log(inside / expected) ** 2)
            if contrast > best:
                best, band = contrast, (start, end)
    return band if best > -math.inf else (round(baseline - expected), round(baseline))
