"""Lines of writing in a picture that nobody has marked: a word, a line, or some lines of a page."""

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from utils.images import WHITE
from utils.line_images import MOST_PIXELS, PIXELS_A_LINE, Canvas, cut_lines
from utils.line_shapes import LineFrame
from utils.page_cleaning import DARKEST_PAPER, ink_level, paper_noise, remove_rules

ROUGH_PIXELS = 1e6  # of the reduced picture that lines are looked for in
PAPER_WINDOW = (15, 61)  # pixels there: wider than strokes, narrower than shadows
FAINTEST = 20  # darkness of a picture's ink; what is lighter is paper
MOST_INK = 0.6  # share of a picture that can be ink: what is darker throughout shows no paper
SLOPES = np.linspace(-0.08, 0.08, 65)  # pixels down a pixel right that lines may have
SLOPE_PIXELS = 30_000  # of ink that a slope is measured on
BENDS = np.linspace(-0.6, 0.6, 25)  # of the letters' height: how far a line's ends may rise, and its middle
LONG = 4.0  # times its letters' height: the least width that a slope is looked for in
BLUR = 0.3  # of the letters' height: how far rows of ink are smoothed
LEAST_DISTANCE = 1.2  # of the letters' height: of two lines
VALLEY = 0.6  # of the lesser line's ink: what a row between two lines may have
FAINT_LINE = 0.08  # of the fullest line's ink: what a line must have in a row
CLEAR_SHARE = 0.7  # of a piece of ink that is in one line's rows: the rest is that line's, too
MARGIN = 4  # white pixels beside a line


@dataclass(frozen=True, kw_only=True)
class _Level:
    """A picture's ink, levelled about its middle: (N,) rows and columns in pixels, which connected piece of
    ink each pixel is of, and whether it is at the picture's upper or lower edge.
    """

    rows: np.ndarray
    columns: np.ndarray
    pieces: np.ndarray
    at_edge: np.ndarray


@dataclass(frozen=True, kw_only=True)
class _Band:
    """A line in the levelled picture: (n, 2) columns and rows of its outline, and (m, 2) of its baseline."""

    outline: np.ndarray
    base: np.ndarray


def find_lines(grey: np.ndarray, height: int) -> list[np.ndarray]:
    """Cut a picture of writing into its lines, each straight, on white, at the size of training's lines.

    Lines are told apart by rows with little ink between them. They may slope together by 4 degrees.

    Args:
        grey: (H, W) uint8, dark ink on lighter paper of any kind.
        height: of the lines' images, pixels.
    Returns:
        (height, w) uint8 each, w a multiple of 8, from top to bottom; none where there is no ink.
    """
    grey = _reduce(grey, (grey.size / MOST_PIXELS) ** 0.5)
    rough = _reduce(grey, (grey.size / ROUGH_PIXELS) ** 0.5)
    mask = _find_ink(rough)
    if mask is None:
        return []
    letter = _letter_height(mask)
    slope = _find_slope(mask, letter)
    bands = _find_bands(mask, letter, slope)
    scale = grey.shape[0] / rough.shape[0]
    usual = scale * float(np.median([np.ptp(band.outline[:, 1]) for band in bands]))
    fine = _reduce(grey, usual / (PIXELS_A_LINE * height))
    scale = fine.shape[1] / rough.shape[1]
    frames = [_make_frame(band, slope, rough.shape[1] / 2, scale) for band in bands]
    canvas = Canvas(height=height, widest=10**9, margin=MARGIN)
    lines = cut_lines(fine, frames, canvas, remove_rules=True)
    return [line for line in lines if not isinstance(line, str)]


def _reduce(grey: np.ndarray, times: float) -> np.ndarray:
    if times <= 1.05:
        return grey
    size = [max(1, round(side / times)) for side in grey.shape[::-1]]
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA)


def _find_ink(grey: np.ndarray) -> np.ndarray | None:
    """(H, W) bool where the ink is, without rules and specks; None where there is none."""
    side = int(np.clip(min(grey.shape) // 2 | 1, *PAPER_WINDOW))
    window = np.ones((side, side), np.uint8)
    paper = cv2.morphologyEx(grey, cv2.MORPH_CLOSE, window, borderType=cv2.BORDER_REPLICATE)
    darkness = WHITE - cv2.divide(grey, np.maximum(paper, DARKEST_PAPER), scale=WHITE)
    middle, noise = paper_noise(darkness)
    darkness = remove_rules(cv2.subtract(darkness, round(middle)), 0.0, noise)
    level = ink_level(darkness)
    if level is None or level < max(FAINTEST, 4 * noise):
        return None
    mask = (darkness > max(0.4 * level, 3 * noise)).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    heights = stats[:, cv2.CC_STAT_HEIGHT]
    is_ink = stats[:, cv2.CC_STAT_AREA] >= 6
    is_ink[0] = False
    if not is_ink.any() or mask.mean() > MOST_INK:
        return None
    # Beside letters, single grains of the paper are no writing.
    is_ink &= heights >= 0.1 * np.percentile(heights[is_ink], 90)
    return is_ink[labels]


def _letter_height(mask: np.ndarray) -> float:
    """The usual height of connected pieces of ink, but for dots and dashes, in pixels."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    heights = stats[1:, cv2.CC_STAT_HEIGHT].astype(float)
    return float(np.median(heights[heights >= 0.3 * np.percentile(heights, 90)]))


def _find_slope(mask: np.ndarray, letter: float) -> float:
    """The slope at which the rows differ most in their ink; 0 for a short word, which has none to measure."""
    rows, columns = np.nonzero(mask)
    if np.ptp(columns) < LONG * letter:
        return 0.0
    step = max(1, len(rows) // SLOPE_PIXELS)
    rows, columns = rows[::step], columns[::step] - mask.shape[1] / 2
    levels = [np.rint(rows - slope * columns).astype(int) for slope in SLOPES]
    contrasts = [float((np.bincount(level - level.min()) ** 2.0).sum()) for level in levels]
    best = int(np.argmax(contrasts))
    # A page that is hardly better turned stays as it is.
    return float(SLOPES[best]) if contrasts[best] > 1.02 * contrasts[len(SLOPES) // 2] else 0.0


def _make_level(mask: np.ndarray, slope: float) -> _Level:
    """Level a picture's ink."""
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    rows, columns = np.nonzero(mask)
    level = np.rint(rows - slope * (columns - mask.shape[1] / 2)).astype(int)
    at_edge = (rows == 0) | (rows == len(mask) - 1)
    return _Level(rows=level, columns=columns, pieces=labels[rows, columns], at_edge=at_edge)


def _find_bands(mask: np.ndarray, letter: float, slope: float) -> list[_Band]:
    """The lines, from top to bottom; of three and more without those that the picture's edge cuts."""
    level = _make_level(mask, slope)
    top = int(level.rows.min())
    ink = np.bincount(level.rows - top).astype(float)
    smooth = cv2.GaussianBlur(np.pad(ink, 1)[:, None], (0, 0), max(1.0, BLUR * letter)).ravel()[1:-1]
    peaks = _find_peaks(smooth, LEAST_DISTANCE * letter)
    cuts = []
    for above, below in pairwise(peaks):
        valley = smooth[above : below + 1]
        cuts.append(top + above + int(np.median(np.flatnonzero(valley <= valley.min() + 1e-9))))
    owners = _share_out(level, np.array(cuts), len(peaks))
    bands = []
    for number in range(len(peaks)):
        is_own = owners == number
        is_cut = len(np.unique(level.columns[is_own & level.at_edge])) > letter
        if is_own.any() and not (is_cut and len(peaks) > 2):
            rows, columns = level.rows[is_own], level.columns[is_own]
            outline = _surround(rows, columns, 1.5 * letter)
            bands.append(_Band(outline=outline, base=_find_base(rows, columns, letter)))
    return bands


def _find_base(rows: np.ndarray, columns: np.ndarray, letter: float) -> np.ndarray:
    """(m, 2) columns and rows of a line's baseline: the parabola along which its rows differ most in their
    ink, below those of small letters.
    """
    half = max(1.0, np.ptp(columns) / 2)
    place = (columns - columns.min()) / half - 1  # -1 to 1
    powers = np.stack([place, place**2 - 1 / 3])
    bends = np.zeros(2)

    def count_ink(bends: np.ndarray) -> tuple[int, np.ndarray]:
        level = np.rint(rows - bends @ powers).astype(int)
        ink = np.bincount(level - level.min()).astype(float)
        sigma = max(0.7, 0.08 * letter)
        return level.min(), cv2.GaussianBlur(np.pad(ink, 1)[:, None], (0, 0), sigma).ravel()[1:-1]

    if 2 * half >= LONG * letter:
        for number in (0, 1, 0, 1):
            tries = [bends + np.eye(2)[number] * change * letter for change in BENDS]
            contrasts = [float((count_ink(bends)[1] ** 2).sum()) for bends in tries]
            bends = tries[int(np.argmax(contrasts))]
    first, ink = count_ink(bends)
    base = first + np.flatnonzero(ink >= 0.5 * ink.max())[-1] + 1
    places = np.linspace(-1, 1, 9)
    course = base + bends @ np.stack([places, places**2 - 1 / 3])
    return np.stack([columns.min() + (places + 1) * half, course], axis=1)


def _share_out(level: _Level, cuts: np.ndarray, count: int) -> np.ndarray:
    """(N,) which line each pixel of ink is of: the one that most of its piece is in, or where lines touch the
    one whose rows it is in.
    """
    lines = np.searchsorted(cuts, level.rows, side="right")
    shares = np.zeros((int(level.pieces.max()) + 1, count))
    np.add.at(shares, (level.pieces, lines), 1)
    shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1)
    is_clear = shares.max(axis=1) >= CLEAR_SHARE
    return np.where(is_clear[level.pieces], shares.argmax(axis=1)[level.pieces], lines)


def _surround(rows: np.ndarray, columns: np.ndarray, step: float) -> np.ndarray:
    """(n, 2) columns and rows of an outline that follows a line's ink in steps."""
    left = columns.min()
    count = max(1, int((columns.max() - left) / step))
    blocks = np.minimum(((columns - left) / step).astype(int), count - 1)
    tops, bottoms = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(tops, blocks, rows)
    np.maximum.at(bottoms, blocks, rows + 1)
    is_inked = np.isfinite(tops)
    places = np.arange(count)
    tops = np.interp(places, places[is_inked], tops[is_inked])
    bottoms = np.interp(places, places[is_inked], bottoms[is_inked])
    starts = left + places * step
    ends = np.append(starts[1:], columns.max() + 1)
    upper = np.stack([np.stack([starts, ends], axis=1).ravel(), np.repeat(tops, 2)], axis=1)
    lower = np.stack([np.stack([starts, ends], axis=1).ravel(), np.repeat(bottoms, 2)], axis=1)
    return np.concatenate([upper, lower[::-1]])


def _find_peaks(ink: np.ndarray, distance: float) -> list[int]:
    """The rows in the middle of lines: full of ink, and with less between them."""
    inner = np.flatnonzero((ink >= np.r_[0, ink[:-1]]) & (ink > np.r_[ink[1:], 0]))
    chosen: list[int] = []
    for peak in inner[np.argsort(-ink[inner], kind="stable")]:
        if ink[peak] < FAINT_LINE * ink.max():
            break
        near = [other for other in chosen if abs(other - peak) < distance]
        valleys = [ink[min(peak, other) : max(peak, other)].min() for other in chosen]
        if not near and all(valley < VALLEY * ink[peak] for valley in valleys):
            chosen.append(int(peak))
    return sorted(chosen)


def _make_frame(band: _Band, slope: float, middle: float, scale: float) -> LineFrame:
    """A line's frame in the picture that is ``scale`` times as large as the one it was found in."""
    polygon, base = (
        np.stack([columns, rows + slope * (columns - middle)], axis=1) * scale
        for columns, rows in (band.outline.T, band.base.T)
    )
    along = base[-1] - base[0]
    along = along / max(1e-6, np.hypot(*along))
    down = np.array([-along[1], along[0]])
    own = np.stack([(base - base[0]) @ along, (base - base[0]) @ down], axis=1)
    return LineFrame(origin=base[0], along=along, down=down, polygon=polygon, base=own, is_guessed=True)
