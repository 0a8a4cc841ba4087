"""A page's paper made white and its printed rules taken away, so that only ink is left."""

from dataclasses import dataclass

import cv2
import numpy as np

STRIP = (
    48  # pixels; a rule is looked for in strips of this width, in which even a page's slant moves it little
)
TOPHAT = 11  # pixels; what is thicker is no rule
BAND = 6  # pixels on each side of a rule's middle that its profile is measured over
LEAST_STRIPS = 8  # strips in which a rule must show
LEAST_SHARE = 0.22  # of the page's width that a rule must cover
JUMP = 2.5  # pixels that a rule may move from strip to strip
LONGEST_GAP = 4  # strips in which text may hide a rule
HIDDEN = 0.55  # share of its strips that a rule must show in
WHOLE = 0.87  # share of its columns that a rule darkens: prints at least 0.9, dense writing up to 0.85
LARGEST_DOT_GAP = 13  # pixels from dot to dot of a dotted rule
REACH = 2  # strips that a rule may go on beyond those it shows in
PAPER_SIDE = 900  # pixels of the longer side that a page is reduced to for its paper's brightness
PAPER_WINDOW = 17  # pixels there; wider than strokes, narrower than shadows
DARKEST_PAPER = 48  # grey value; below it lies the table that a page was photographed on


def darkness_on_white(grey: np.ndarray) -> np.ndarray:
    """How much darker than its paper each pixel is.

    The paper's brightness is what is left of a reduced page once everything narrower than a letter is closed;
    it follows shadows, folds and dark margins.

    Args:
        grey: (H, W) uint8.
    Returns:
        (H, W) uint8, about 0 on paper, 255 minus grey for ink on white paper.
    """
    reduction = max(1.0, max(grey.shape) / PAPER_SIDE)
    size = (max(1, round(grey.shape[1] / reduction)), max(1, round(grey.shape[0] / reduction)))
    small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    window = np.ones((PAPER_WINDOW, PAPER_WINDOW), np.uint8)
    paper = cv2.morphologyEx(small, cv2.MORPH_CLOSE, window, borderType=cv2.BORDER_REPLICATE)
    paper = cv2.GaussianBlur(cv2.medianBlur(paper, PAPER_WINDOW), (0, 0), 4)
    paper = cv2.resize(np.maximum(paper, DARKEST_PAPER), grey.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return 255 - cv2.divide(grey, paper, scale=255)


def paper_noise(darkness: np.ndarray) -> tuple[float, float]:
    """The darkness that paper has by chance: its middle, and its spread (a standard deviation), in grey
    levels.

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


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """The middle of a rule, in pixels, at each column from ``start``."""

    start: int
    middle: np.ndarray


def remove_rules(darkness: np.ndarray, slope: float, noise: float) -> np.ndarray:
    """Erase printed rules, across the page and down it, where no ink crosses them.

    Args:
        darkness: (H, W) uint8.
        slope: the lines' slope in pixels down a pixel right, which rules share roughly.
        noise: the spread of the paper's darkness.
    Returns:
        (H, W) uint8.
    """
    cleaned = _remove_level_rules(darkness, darkness, slope, noise)
    # With the gaps between its dots closed, a dotted rule is a rule; a line of writing becomes a block, too
    # thick for one.
    closed = cv2.morphologyEx(cleaned, cv2.MORPH_CLOSE, np.ones((1, LARGEST_DOT_GAP), np.uint8))
    cleaned = _remove_level_rules(cleaned, closed, slope, noise)
    turned = np.ascontiguousarray(cleaned.T)
    return np.ascontiguousarray(_remove_level_rules(turned, turned, -slope, noise).T)


def _remove_level_rules(darkness: np.ndarray, shown: np.ndarray, slope: float, noise: float) -> np.ndarray:
    """Erase the rules that go across, as they are seen in ``shown``."""
    cleaned = darkness.copy()
    for rule in _find_rules(shown, slope, noise):
        _erase(cleaned, darkness, shown, rule, noise)
    return cleaned


def _find_rules(darkness: np.ndarray, slope: float, noise: float) -> list[_Rule]:
    """Follow rows that are dark in most columns of a strip from strip to strip."""
    height, width = darkness.shape
    count = width // STRIP
    if count < LEAST_STRIPS or height < 2 * TOPHAT:
        return []
    level = darkness
    if abs(slope) > 0.003:
        shear = np.array([[1, 0, 0], [slope, 1, -slope * width / 2]], np.float32)
        how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        level = cv2.warpAffine(darkness, shear, (width, height), flags=how, borderMode=cv2.BORDER_REPLICATE)
    else:
        slope = 0.0
    # Of a strip's columns, sorted by darkness, one below the middle: letters leave more than half of a row
    # white.
    rank = int(0.4 * STRIP)
    rows = np.partition(level[:, : count * STRIP].reshape(height, count, STRIP), rank, axis=2)[:, :, rank]
    rows = cv2.morphologyEx(rows, cv2.MORPH_TOPHAT, np.ones((TOPHAT, 1), np.uint8))
    peaks = (rows == cv2.dilate(rows, np.ones((5, 1), np.uint8))) & (rows > max(5.0, 2 * noise))
    return [_trace(chain, count, width, slope) for chain in _link(peaks)]


def _link(peaks: np.ndarray) -> list[list[tuple[int, int]]]:
    """Chains of (strip, row) of the peaks, those that are long and whole enough to be rules."""
    open_chains: list[list[tuple[int, int]]] = []
    done = []
    count = peaks.shape[1]
    for strip in range(count):
        free = [int(row) for row in np.flatnonzero(peaks[:, strip])]
        still = []
        for chain in sorted(open_chains, key=len, reverse=True):
            last_strip, last_row = chain[-1]
            reach = JUMP + 0.5 * (strip - last_strip - 1)
            nearest = min(free, key=lambda row: abs(row - last_row), default=None)
            if nearest is not None and abs(nearest - last_row) <= reach:
                free.remove(nearest)
                chain.append((strip, nearest))
                still.append(chain)
            elif strip - last_strip <= LONGEST_GAP:
                still.append(chain)
            else:
                done.append(chain)
        open_chains = still + [[(strip, row)] for row in free]
    needed = max(LEAST_STRIPS, LEAST_SHARE * count)
    chains = [chain for chain in done + open_chains if len(chain) >= needed]
    return [chain for chain in chains if len(chain) >= HIDDEN * (chain[-1][0] - chain[0][0] + 1)]


def _trace(chain: list[tuple[int, int]], count: int, width: int, slope: float) -> _Rule:
    """A chain as a smooth course, carried on at both ends, since rules end between strips."""
    strips, places = np.array(chain, float).T
    centres = (strips + 0.5) * STRIP
    smooth = np.convolve(np.pad(places, 2, mode="edge"), np.ones(5) / 5, mode="valid")
    start = max(0, int(strips[0] - REACH) * STRIP)
    stop = int(strips[-1] + 1 + REACH) * STRIP
    x = np.arange(start, width if stop >= count * STRIP else stop)
    tilt = np.polyfit(centres, places, 1)[0]
    inside = np.clip(x, centres[0], centres[-1])
    middle = np.interp(inside, centres, smooth) + tilt * (x - inside)
    return _Rule(start=start, middle=middle + slope * (x - width / 2))


def _erase(cleaned: np.ndarray, darkness: np.ndarray, shown: np.ndarray, rule: _Rule, noise: float) -> None:
    """Whiten a rule's pixels in place, but for those that are clearly darker than it or belong to a stroke
    across it.
    """
    x = rule.start + np.arange(len(rule.middle))
    rows = np.rint(rule.middle).astype(int) + np.arange(-BAND, BAND + 1)[:, None]
    inside = (rows >= 0) & (rows < darkness.shape[0])
    rows = np.clip(rows, 0, darkness.shape[0] - 1)
    band = np.where(inside, darkness[rows, x], 0)  # (2 * BAND + 1, n)
    whole = np.where(inside, shown[rows, x], 0)
    level, spread = _rule_profile(whole)
    typical = np.median(level, axis=1)
    peak = float(typical[BAND - 2 : BAND + 3].max())
    ends = REACH * STRIP
    if (whole[BAND - 1 : BAND + 2, ends:-ends].max(axis=0) > 0.5 * peak).mean() < WHOLE:
        return  # a line of writing, dense enough to look like a rule from afar
    top = bottom = BAND
    while top > 3 and typical[top - 1] > 0.2 * peak:
        top -= 1
    while bottom < 2 * BAND - 3 and typical[bottom + 1] > 0.2 * peak:
        bottom += 1
    # A stroke that crosses the rule goes on through it, one that only touches it goes on to its middle.
    strong = max(0.5 * peak, 4 * noise + 12)
    above = _widen(band[top - 3 : top - 1].max(axis=0) > strong)
    below = _widen(band[bottom + 2 : bottom + 4].max(axis=0) > strong)
    part = np.arange(top - 1, bottom + 2)[:, None]
    is_stroke = (above & below) | (above & (part < BAND)) | (below & (part > BAND))
    window = slice(top - 1, bottom + 2)
    limit = level + np.maximum(0.45 * level, 2.5 * spread) + 3 * noise + 8
    is_rule = (band[window] <= limit[window]) & ~is_stroke & inside[window]
    # Grains of the print that were darker: flat pieces that lie in the rule and reach to no stroke.
    left = ((band[window] > limit[window]) & ~is_stroke).astype(np.uint8)
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(left, connectivity=8)
    thickness = bottom - top + 1
    is_grain = stats[:, cv2.CC_STAT_HEIGHT] <= max(2, thickness - 1)
    is_grain[0] = False
    is_rule |= is_grain[pieces] & ~(above | below) & inside[window]
    row, column = np.nonzero(is_rule)
    cleaned[rows[window][row, column], x[column]] = 0


def _rule_profile(band: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How dark a rule alone is in each row of its band, (2 * BAND + 1, n), and how far it varies, (2 * BAND +
    1, 1).

    Ink is darker than the rule it crosses, so that the lighter half of a strip's columns speaks of the rule.
    """
    count = band.shape[1] // STRIP
    strips = band[:, : count * STRIP].reshape(len(band), count, STRIP)
    ranks = (int(0.1 * STRIP), int(0.45 * STRIP))
    light, profile = np.partition(strips, ranks, axis=2)[:, :, ranks].astype(float).transpose(2, 0, 1)
    spread = np.median(profile - light, axis=1)[:, None]
    profile = np.maximum(profile - np.minimum(profile[0], profile[-1]), 0)
    # Where text hides a rule, a strip knows less than the rule's whole length does.
    typical = np.median(profile, axis=1)[:, None]
    profile = np.clip(profile, 0.6 * typical, 1.6 * typical + 4)
    centres = (np.arange(count) + 0.5) * STRIP
    return np.stack([np.interp(np.arange(band.shape[1]), centres, row) for row in profile]), spread


def _widen(columns: np.ndarray) -> np.ndarray:
    """True also in the neighbours of true columns."""
    wide = columns.copy()
    wide[1:] |= columns[:-1]
    wide[:-1] |= columns[1:]
    return wide
