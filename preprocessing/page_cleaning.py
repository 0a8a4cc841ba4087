"""A page's paper made white and its printed rules taken away, so that only ink is left."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

BLACK = 255  # darkness of black: 255 minus the grey value
STRIP = 48  # pixels; a rule is looked for in strips of this width, in which even a page's slant moves it little
TOPHAT = 11  # pixels; what is thicker is no rule
BAND = 6  # pixels on each side of a rule's middle that its profile is measured over
LEAST_STRIPS = 8  # strips in which a rule must show
LEAST_SHARE = 0.22  # of the page's width that a rule must cover
JUMP = 2.5  # pixels that a rule may move from strip to strip
LONGEST_GAP = 4  # strips in which text may hide a rule


def darkness_on_white(grey: np.ndarray) -> np.ndarray:
    """How much darker than its paper each pixel is.

    The paper's brightness is what is left of a reduced page once everything narrower than a letter is closed; it follows
    shadows, folds and dark margins.

    Args:
        grey: (H, W) uint8.
    Returns:
        (H, W) uint8, 0 on paper, 255 minus grey for ink on white paper.
    """
    reduction = max(1.0, max(grey.shape) / 900)
    size = (max(1, round(grey.shape[1] / reduction)), max(1, round(grey.shape[0] / reduction)))
    small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    paper = cv2.morphologyEx(small, cv2.MORPH_CLOSE, np.ones((17, 17), np.uint8), borderType=cv2.BORDER_REPLICATE)
    paper = cv2.GaussianBlur(cv2.medianBlur(paper, 17), (0, 0), 4)
    paper = cv2.resize(np.maximum(paper, 48), grey.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return BLACK - cv2.divide(grey, paper, scale=255)


@dataclass(frozen=True)
class _Rule:
    """The middle of a rule at each column from ``start``, in pixels."""

    start: int
    middle: np.ndarray


def remove_rules(darkness: np.ndarray, slope: float, noise: float) -> np.ndarray:
    """Erase printed rules, across and down, where they are not crossed by ink.

    Args:
        darkness: (H, W) uint8.
        slope: the text's slope in pixels down a pixel right, which rules share roughly.
        noise: darkness that paper has by chance.
    Returns:
        A cleaned copy.
    """
    cleaned = _remove_level_rules(darkness, slope, noise)
    return np.ascontiguousarray(_remove_level_rules(np.ascontiguousarray(cleaned.T), -slope, noise).T)


def _remove_level_rules(darkness: np.ndarray, slope: float, noise: float) -> np.ndarray:
    rules = _find_rules(darkness, slope, noise)
    if not rules:
        return darkness
    cleaned = darkness.copy()
    for rule in rules:
        _erase(cleaned, darkness, rule, noise)
    return cleaned


def _find_rules(darkness: np.ndarray, slope: float, noise: float) -> list[_Rule]:
    """Follow rows that are dark in most columns of a strip from strip to strip."""
    height, width = darkness.shape
    count = width // STRIP
    if count < LEAST_STRIPS or height < 2 * TOPHAT:
        return []
    columns = np.arange(width)
    if abs(slope) > 0.003:
        shear = np.float32([[1, 0, 0], [slope, 1, -slope * width / 2]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        level = cv2.warpAffine(darkness, shear, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    else:
        slope, level = 0.0, darkness
    strips = level[:, : count * STRIP].reshape(height, count, STRIP)
    rank = int(0.4 * STRIP)
    rows = np.partition(strips, rank, axis=2)[:, :, rank]
    rows = cv2.morphologyEx(rows, cv2.MORPH_TOPHAT, np.ones((TOPHAT, 1), np.uint8))
    peaks = (rows == cv2.dilate(rows, np.ones((5, 1), np.uint8))) & (rows > max(5.0, 2 * noise))
    rules = []
    for chain in _link(peaks, rows):
        strip_numbers, places = np.array([s for s, _ in chain]), np.array([y for _, y in chain], float)
        start, stop = int(strip_numbers[0] * STRIP), int((strip_numbers[-1] + 1) * STRIP)
        centres = (strip_numbers + 0.5) * STRIP
        smooth = np.convolve(np.pad(places, 2, mode="edge"), np.ones(5) / 5, mode="valid")
        reach = 2 * STRIP  # rules end between strips, and text may hide their ends
        start, stop = max(0, start - reach), min(width, stop + reach)
        if stop > count * STRIP - reach:
            stop = width
        x = columns[start:stop]
        fit = np.polyfit(centres, places, 1)
        middle = np.interp(x, centres, smooth)
        outside = (x < centres[0]) | (x > centres[-1])
        edge = np.where(x < centres[0], centres[0], centres[-1])
        middle = np.where(outside, middle + fit[0] * (x - edge), middle)
        rules.append(_Rule(start, middle + slope * (x - width / 2)))
    return rules


def _link(peaks: np.ndarray, rows: np.ndarray) -> list[list[tuple[int, int]]]:
    """Chains of (strip, row) that are long and whole enough to be rules."""
    open_chains: list[list[tuple[int, int]]] = []
    done = []
    count = peaks.shape[1]
    for strip in range(count):
        free = list(np.flatnonzero(peaks[:, strip]))
        still = []
        for chain in sorted(open_chains, key=len, reverse=True):
            last_strip, last_row = chain[-1]
            near = [y for y in free if abs(y - last_row) <= JUMP + 0.5 * (strip - last_strip - 1)]
            if near:
                best = min(near, key=lambda y: abs(y - last_row))
                free.remove(best)
                chain.append((strip, int(best)))
                still.append(chain)
            elif strip - last_strip <= LONGEST_GAP:
                still.append(chain)
            else:
                done.append(chain)
        open_chains = still + [[(strip, int(y))] for y in free]
    needed = max(LEAST_STRIPS, LEAST_SHARE * count)
    chains = [c for c in done + open_chains if len(c) >= needed]
    return [c for c in chains if len(c) >= 0.55 * (c[-1][0] - c[0][0] + 1)]


def _erase(cleaned: np.ndarray, darkness: np.ndarray, rule: _Rule, noise: float) -> None:
    """Whiten a rule's pixels in place, but for those that are clearly darker than it or belong to a stroke across it."""
    height = darkness.shape[0]
    x = rule.start + np.arange(len(rule.middle))
    offsets = np.arange(-BAND, BAND + 1)
    y = np.clip(np.rint(rule.middle).astype(int) + offsets[:, None], 0, height - 1)
    band = darkness[y, x]  # (2 * BAND + 1, n)
    count = max(1, len(x) // STRIP)
    edges = np.linspace(0, len(x), count + 1).astype(int)
    profile = np.stack([np.percentile(band[:, a:b], 45, axis=1) for a, b in zip(edges[:-1], edges[1:])], axis=1)
    profile = profile - np.minimum(profile[0], profile[-1])
    typical = np.median(profile, axis=1)
    peak = typical[BAND - 2 : BAND + 3].max()
    # Where text hides a rule, its strips know less than the rule's whole length does.
    profile = np.clip(profile, 0.6 * typical[:, None], 1.6 * typical[:, None] + 4)
    is_part = typical > 0.2 * peak
    top = bottom = BAND
    while top > 3 and is_part[top - 1]:
        top -= 1
    while bottom < 2 * BAND - 3 and is_part[bottom + 1]:
        bottom += 1
    centres = (edges[:-1] + edges[1:]) / 2
    level = np.stack([np.interp(np.arange(len(x)), centres, row) for row in profile])
    limit = 1.45 * level + 3 * noise + 8
    rows = slice(top - 1, bottom + 2)
    strong = max(0.5 * peak, 4 * noise + 12)
    wide = np.ones((1, 3), np.uint8)
    above = cv2.dilate((band[max(0, top - 3) : top - 1].max(axis=0) > strong)[None].astype(np.uint8), wide)[0] > 0
    below = cv2.dilate((band[bottom + 2 : bottom + 4].max(axis=0) > strong)[None].astype(np.uint8), wide)[0] > 0
    is_rule = band[rows] <= limit[rows]
    is_rule &= ~(above & below)
    # A stroke that only touches the rule goes on to its middle.
    inside = np.arange(top - 1, bottom + 2)[:, None]
    is_rule &= ~(above & (inside < BAND)) & ~(below & (inside > BAND))
    rows_of, columns_of = np.nonzero(is_rule)
    cleaned[y[rows][rows_of, columns_of], x[columns_of]] = 0


def paper_noise(darkness: np.ndarray) -> tuple[float, float]:
    """The darkness that paper has by chance: its middle, and its spread (a standard deviation), in grey levels.

    Ink only makes pixels darker, so the lighter half speaks of the paper alone.
    """
    values = darkness.reshape(-1)[::7]
    values = values[values < 128]
    if values.size == 0:
        return 0.0, 1.0
    middle = float(np.median(values))
    below = middle - values[values <= middle].astype(float)
    return middle, max(1.0, float(np.sqrt(np.mean(below**2))))


def ink_level(values: np.ndarray) -> float | None:
    """How dark a text's ink is, from the darkness of its pixels; None where hardly any differs from paper."""
    values = values[values > 6]
    if values.size < 40:
        return None
    threshold, _ = cv2.threshold(values.reshape(1, -1), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    dark = values[values > threshold]
    return float(np.median(dark)) if dark.size else None
