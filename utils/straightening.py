"""A line made straight: its ink, without its neighbours', along a level baseline."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from utils.line_shapes import LineFrame
from utils.page_cleaning import darkness_on_white, ink_level, paper_noise, remove_rules

LEAST_INK = 110  # darkness that faint pencil is brought to
LARGEST_GAIN = 3.0
EXTRA = 0.45  # of its height: how far beyond its outline a line's strokes are followed
BEND = (
    12  # a baseline bends over this part of its length at the shortest; its points are where somebody clicked
)
WITHIN = 0.5  # share of a piece of ink in a line's outline from which all of it is the line's
DOT = (
    0.02,
    0.6,
)  # least area and largest side of a dot or accent, in the outline's height above the baseline
NEAR = 0.3  # of that height: how far above the outline a dot may stand
ASTRAY = 0.4  # share of a piece of ink in a line's outline under which its tips there are a neighbour's
LONGEST_SIDE = 30_000  # pixels of a straight line


@dataclass(frozen=True, kw_only=True)
class InkPage:
    """A page without paper and rules.

    Attributes:
        darkness: (H, W) uint8, 0 off the ink.
        labels: (H, W) int32, each connected piece of ink by number, 0 off the ink.
        areas: pixels of each piece.
        cover: (H, W) uint8, how many lines' outlines lie on each pixel.
    """

    darkness: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    cover: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Strip:
    """A straight line: (h, w) uint8 darkness, and the row of its baseline."""

    darkness: np.ndarray
    base: float


def find_ink(grey: np.ndarray, frames: Sequence[LineFrame | None], erase_rules: bool) -> InkPage:
    """Take paper and rules from a page.

    Args:
        grey: (H, W) uint8.
        frames: its lines; what ink is like is learned within their outlines.
    """
    darkness = darkness_on_white(grey)
    frames = [frame for frame in frames if frame is not None]
    cover = np.zeros(grey.shape, np.uint8)
    parts = [part for frame in frames if (part := _outline_mask(frame.polygon, grey.shape)) is not None]
    for window, mask in parts:
        cover[window] += mask
    middle, noise = paper_noise(darkness[cover > 0] if cover.any() else darkness)
    darkness = cv2.subtract(darkness, round(middle))
    if erase_rules:
        slopes = [frame.slope for frame in frames if abs(frame.slope) < 0.3]
        darkness = remove_rules(darkness, float(np.median(slopes)) if slopes else 0.0, noise)
    levels = [ink_level(darkness[window][mask > 0]) for window, mask in parts]
    levels = [level for level in levels if level is not None]
    ink = float(np.percentile(levels, 30)) if levels else 128.0
    # Single pixels of faint pencil are no darker than paper's grain; strokes are, once neighbours are taken
    # together.
    calm = cv2.GaussianBlur(darkness, (0, 0), 1.0)
    grain = 0.45 * noise
    low, high = max(0.10 * ink, 2 * grain), max(0.28 * ink, 4 * grain)
    certainty = np.rint(255 * np.clip((np.arange(256) - low) / (high - low), 0, 1)).astype(np.uint8)
    gain = float(np.clip(LEAST_INK / ink, 1, LARGEST_GAIN))
    mask = (calm > high).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8, ltype=cv2.CV_32S)
    return InkPage(
        darkness=cv2.multiply(darkness, cv2.LUT(calm, certainty), scale=gain / 255),
        labels=labels,
        areas=np.maximum(stats[:, cv2.CC_STAT_AREA], 1),
        cover=cover,
    )


def _outline_mask(
    polygon: np.ndarray, size: tuple[int, int]
) -> tuple[tuple[slice, slice], np.ndarray] | None:
    """The window that an outline lies in, and 1 on its pixels there; None off the page."""
    left, top = np.maximum(np.floor(polygon.min(axis=0)).astype(int), 0)
    right, bottom = np.minimum(np.ceil(polygon.max(axis=0)).astype(int) + 1, size[::-1])
    if right <= left or bottom <= top:
        return None
    mask = fill_outline(polygon - (left, top), (bottom - top, right - left))
    return (slice(top, bottom), slice(left, right)), mask


def fill_outline(polygon: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) uint8, 1 within an outline, also where it crosses itself."""
    mask = np.zeros(size, np.uint8)
    points = np.clip(np.rint(polygon), -LONGEST_SIDE, LONGEST_SIDE).astype(np.int32)
    cv2.fillPoly(mask, [points], 1)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(mask, contours, -1, 1, cv2.FILLED)


def straighten(page: InkPage, frame: LineFrame) -> Strip | None:
    """Cut a line out along its outline and make its baseline level.

    Strokes are followed a little beyond the outline, as far as they are no neighbour's; a neighbour's strokes
    that reach into the outline are left out.

    Returns:
        None if the line is no line: too long, too short, or off the page.
    """
    along, across = frame.to_frame(frame.polygon)
    across = across - np.interp(along, *frame.base.T)
    start, stop = int(np.floor(along.min())) - 3, int(np.ceil(along.max())) + 4
    extra = max(4.0, EXTRA * np.ptp(across))
    top, bottom = int(np.floor(across.min() - extra)), int(np.ceil(across.max() + extra)) + 1
    if (
        max(stop - start, bottom - top) > LONGEST_SIDE
        or (stop - start) * (bottom - top) > 4 * page.cover.size
    ):
        return None
    columns, rows = np.arange(start, stop), np.arange(top, bottom)
    bow = np.interp(columns, *frame.base.T)
    reach = min(int(np.ptp(frame.base[:, 0]) / BEND / 2), len(bow) // 2)
    bow = np.convolve(np.pad(bow, reach, mode="edge"), np.ones(2 * reach + 1) / (2 * reach + 1), mode="valid")
    places = frame.origin + columns[:, None] * frame.along + bow[:, None] * frame.down  # (w, 2)
    maps = [(places[:, i][None] + rows[:, None] * frame.down[i]).astype(np.float32) for i in (0, 1)]
    corner = [max(0, int(np.floor(values.min())) - 2) for values in maps]
    window = tuple(slice(corner[i], int(np.ceil(maps[i].max())) + 3) for i in (1, 0))
    if page.cover[window].size == 0:
        return None
    maps = [values - shift for values, shift in zip(maps, corner, strict=True)]
    darkness = cv2.remap(page.darkness[window], *maps, cv2.INTER_LINEAR)
    labels = cv2.remap(page.labels[window].astype(np.float32), *maps, cv2.INTER_NEAREST).astype(np.int32)
    cover = cv2.remap(page.cover[window], *maps, cv2.INTER_NEAREST)
    across = frame.to_frame(frame.polygon)[1] - np.interp(along, columns, bow)
    own = fill_outline(np.stack([along - start, across - top], axis=1), darkness.shape)
    keep = _own_ink(labels, own, cover, page.areas, -top, across.min())
    return Strip(darkness=np.where(keep, darkness, 0).astype(np.uint8), base=float(-top))


def _own_ink(
    labels: np.ndarray, own: np.ndarray, cover: np.ndarray, areas: np.ndarray, base: int, highest: float
) -> np.ndarray:
    """(h, w) bool, where a line's own strokes are, with their soft edges."""
    is_own, is_ink = own > 0, labels > 0
    is_other = cover > own
    within = np.bincount(labels[is_own], minlength=int(labels.max()) + 1)
    share = within / areas[: len(within)]
    share[0] = 0
    keep = is_own | ((share >= WITHIN)[labels] & ~is_other)
    keep |= _dots(is_ink & (cover == 0), own, labels, areas, -highest)
    # Tips of a neighbour's strokes: pieces off the line's body of what stands mostly elsewhere.
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(
        (is_own & is_ink).astype(np.uint8), connectivity=8
    )
    is_other_too = cover > 1
    is_alien = np.zeros(count, bool)
    for piece in range(1, count):
        left, top, width, height, area = stats[piece]
        is_below = top >= base - 1
        if top + height <= base + 0.45 * highest or is_below:
            window = (slice(top, top + height), slice(left, left + width))
            here = pieces[window] == piece
            is_alien[piece] = share[np.bincount(labels[window][here]).argmax()] < ASTRAY
            # What hangs loose below a line, where the next one's outline begins, is that one's accent or bar.
            is_alien[piece] |= is_below and 2 * (is_other_too[window] & here).sum() > area
    if is_alien.any():
        alien = cv2.dilate(is_alien[pieces].astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        keep &= ~alien
    strokes = cv2.dilate((keep & is_ink).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    soft = strokes & (keep | ~(is_other | is_ink))
    return soft & ~alien if is_alien.any() else soft


def _dots(
    is_free: np.ndarray, own: np.ndarray, labels: np.ndarray, areas: np.ndarray, height: float
) -> np.ndarray:
    """(h, w) bool, dots and accents that lie in no outline, close above this one.

    Args:
        is_free: (h, w) bool, ink in no outline.
        height: pixels that the outline reaches above the baseline.
    """
    reach = max(1, round(NEAR * height))
    kernel = np.ones((2 * reach + 1, 1), np.uint8)
    kernel[:reach] = 0  # a pixel is reached from what lies below it
    near = (cv2.dilate(own, kernel) > own) & is_free
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(is_free.astype(np.uint8), connectivity=8)
    is_dot = np.zeros(count, bool)
    for piece in np.unique(pieces[near]):
        left, top, width, tall, area = stats[piece]
        window = (slice(top, top + tall), slice(left, left + width))
        label = labels[window][pieces[window] == piece][0]
        is_whole = area >= 0.9 * areas[label]
        is_dot[piece] = is_whole and area >= DOT[0] * height**2 and max(width, tall) <= DOT[1] * height
        # Below the line the same would be a stain, or an accent of the next line.
        is_dot[piece] &= bool(own[top + tall :, left : left + width].any())
    is_dot[0] = False
    return is_dot[pieces]
