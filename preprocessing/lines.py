"""Lines of writing cut out of a page: along their polygons, straight along their baselines, at their hand's own size."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from preprocessing.page_cleaning import darkness_on_white, ink_level, paper_noise, remove_rules

Points = tuple[tuple[float, float], ...]
WHITE = 255
X_HEIGHT = 0.225  # of the canvas: the height of small letters
BASELINE = 0.66  # of the canvas, from the top
MARGIN = 4  # white pixels at the left and right of a line
LEAST_INK = 110  # darkness that faint pencil is brought to
EXTRA = 0.45  # of a polygon's height: how far beyond it a stroke is followed


@dataclass(frozen=True, kw_only=True)
class LineShape:
    """Where a line stands on its page, in pixels: its outline, and its baseline from left to right."""

    polygon: Points
    baseline: Points


@dataclass
class _Strip:
    """A line made straight: (h, w) uint8 darkness; ``base`` is the row of the baseline."""

    darkness: np.ndarray
    base: float


def cut_lines(grey: np.ndarray, shapes: Sequence[LineShape], height: int) -> list[np.ndarray | str]:
    """Cut a page's lines.

    Returns:
        For each line (height, w) uint8 with w a multiple of 8, or the reason why there is none.
    """
    darkness = darkness_on_white(grey)
    cover = np.zeros(grey.shape, np.uint8)
    for shape in shapes:
        _add_polygon(cover, shape.polygon)
    middle, noise = paper_noise(darkness[cover > 0] if cover.any() else darkness)
    darkness = cv2.subtract(darkness, round(middle))
    slopes = [np.arctan2(b[-1][1] - b[0][1], b[-1][0] - b[0][0]) for b in (s.baseline for s in shapes) if len(b) > 1]
    slopes = [s for s in slopes if abs(s) < 0.3]
    darkness = remove_rules(darkness, float(np.tan(np.median(slopes))) if slopes else 0.0, noise)
    levels = [level for shape in shapes if (level := _line_ink(darkness, shape.polygon)) is not None]
    ink = float(np.percentile(levels, 30)) if levels else 128.0
    # Single pixels of faint pencil are no darker than paper's grain; strokes are, once neighbours are taken together.
    calm = cv2.GaussianBlur(darkness, (0, 0), 1.0)
    grain = 0.45 * noise
    low, high = max(0.10 * ink, 2.0 * grain), max(0.28 * ink, 4.0 * grain)
    mask = (calm > high).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8, ltype=cv2.CV_32S)
    certainty = np.clip((np.arange(256) - low) / (high - low), 0, 1)
    gain = float(np.clip(LEAST_INK / ink, 1.0, 3.0))
    clean = cv2.multiply(darkness, cv2.LUT(calm, np.rint(255 * certainty).astype(np.uint8)), scale=gain / 255)
    strips = [_straighten(clean, labels, stats[:, cv2.CC_STAT_AREA], cover, shape)
              for i, shape in enumerate(shapes)]
    measures = [m for strip in strips if not isinstance(strip, str) and (m := x_height(strip)) is not None]
    if measures:
        size = float(np.median(measures))
    else:
        heights = [strip.darkness.shape[0] for strip in strips if not isinstance(strip, str)]
        size = 0.25 * float(np.median(heights)) if heights else 1.0
    return [strip if isinstance(strip, str) else place(strip, size, height) for strip in strips]


def _add_polygon(cover: np.ndarray, polygon: Points) -> None:
    points = np.array(polygon, np.float64)
    left, top = np.maximum(np.floor(points.min(0)).astype(int), 0)
    right, bottom = np.minimum(np.ceil(points.max(0)).astype(int) + 1, cover.shape[::-1])
    if right <= left or bottom <= top:
        return
    part = np.zeros((bottom - top, right - left), np.uint8)
    cv2.fillPoly(part, [np.rint(points - (left, top)).astype(np.int32)], 1)
    cover[top:bottom, left:right] += part


def _line_ink(darkness: np.ndarray, polygon: Points) -> float | None:
    points = np.array(polygon, np.float64)
    left, top = np.maximum(np.floor(points.min(0)).astype(int), 0)
    right, bottom = np.minimum(np.ceil(points.max(0)).astype(int) + 1, darkness.shape[::-1])
    if right <= left or bottom <= top:
        return None
    part = np.zeros((bottom - top, right - left), np.uint8)
    cv2.fillPoly(part, [np.rint(points - (left, top)).astype(np.int32)], 1)
    return ink_level(darkness[top:bottom, left:right][part > 0])


def _straighten(clean, labels, areas, cover, shape: LineShape) -> _Strip | str:
    base = np.array(shape.baseline, np.float64)
    polygon = np.array(shape.polygon, np.float64)
    chord = base[-1] - base[0]
    length = np.hypot(*chord)
    if length < 2 or len(polygon) < 3:
        return "bad_box"
    along = chord / length
    down = np.array([-along[1], along[0]])
    origin = base[0]
    bu, bv = (base - origin) @ along, (base - origin) @ down
    order = np.argsort(bu, kind="stable")
    bu, bv = bu[order], bv[order]
    pu, pv = (polygon - origin) @ along, (polygon - origin) @ down
    pv = pv - np.interp(pu, bu, bv)
    u0, u1 = int(np.floor(min(pu.min(), bu.min()))) - 2, int(np.ceil(max(pu.max(), bu.max()))) + 3
    extra = max(4.0, EXTRA * (pv.max() - pv.min()))
    v0, v1 = int(np.floor(pv.min() - extra)), int(np.ceil(pv.max() + extra)) + 1
    if u1 - u0 > 30000 or v1 - v0 > 5000 or u1 - u0 < 3:
        return "bad_box"
    u = np.arange(u0, u1)
    # A baseline's corners are where somebody clicked; writing bends softly.
    bow = np.interp(u, bu, bv)
    kernel = max(1, int(length / 12)) | 1
    bow = np.convolve(np.pad(bow, kernel // 2, mode="edge"), np.ones(kernel) / kernel, mode="valid")
    v = np.arange(v0, v1)
    map_x = (origin[0] + u * along[0] + bow * down[0])[None] + v[:, None] * down[0]
    map_y = (origin[1] + u * along[1] + bow * down[1])[None] + v[:, None] * down[1]
    map_x, map_y = map_x.astype(np.float32), map_y.astype(np.float32)
    x0, y0 = int(max(0, np.floor(map_x.min()) - 2)), int(max(0, np.floor(map_y.min()) - 2))
    x1, y1 = int(np.ceil(map_x.max()) + 3), int(np.ceil(map_y.max()) + 3)
    part = (slice(y0, y1), slice(x0, x1))
    if clean[part].size == 0:
        return "bad_box"
    map_x -= x0
    map_y -= y0
    drawn = cv2.remap(clean[part], map_x, map_y, cv2.INTER_LINEAR)
    label = cv2.remap(labels[part].astype(np.float32), map_x, map_y, cv2.INTER_NEAREST).astype(np.int32)
    covered = cv2.remap(cover[part], map_x, map_y, cv2.INTER_NEAREST)
    own = np.zeros(drawn.shape, np.uint8)
    cv2.fillPoly(own, [np.rint(np.stack([pu - u0, (polygon - origin) @ down - np.interp(pu, u, bow) - v0], 1)).astype(np.int32)], 1)
    own = own > 0
    other = covered > own.astype(np.uint8)
    count = int(label.max()) + 1
    inside = np.bincount(label[own], minlength=count)
    share = inside / np.maximum(areas[:count], 1)
    share[0] = 0
    follow = share >= 0.5
    keep = own | (follow[label] & ~other)
    # Tips of a neighbour's strokes that reach into the polygon: small pieces of what stands mostly elsewhere.
    pieces_mask = (own & (label > 0)).astype(np.uint8)
    n, pieces, stats, _ = cv2.connectedComponentsWithStats(pieces_mask, connectivity=8, ltype=cv2.CV_32S)
    base_row = -v0
    body_top = base_row + 0.45 * pv.min()
    drop = np.zeros(n, bool)
    for i in range(1, n):
        left, top, w, h, area = stats[i]
        if top + h > body_top and top < base_row - 1:
            continue
        window = (slice(top, top + h), slice(left, left + w))
        parent = label[window][pieces[window] == i]
        drop[i] = share[np.bincount(parent).argmax()] < 0.4
    alien = cv2.dilate((drop[pieces]).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    keep &= ~alien
    soft = cv2.dilate((keep & (label > 0)).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    drawn = np.where(soft & (keep | ~other) & ~alien, drawn, 0).astype(np.uint8)
    return _Strip(drawn, float(base_row))


def x_height(strip: _Strip) -> float | None:
    """The distance of baseline to the top of small letters, in pixels; None where there is too little ink."""
    rows = (strip.darkness > 40).sum(axis=1).astype(float)
    base = int(round(strip.base))
    if rows.sum() < 60 or base < 6:
        return None
    rows = np.convolve(rows, np.ones(3) / 3, mode="same")
    above = rows[: base + 1][::-1]
    total = above.sum()
    if total <= 0:
        return None
    best, score = None, -1.0
    cumulative = np.cumsum(above)
    n = len(above)
    for h in range(4, n - 1):
        inner, outer = cumulative[h] / (h + 1), (total - cumulative[h]) / (n - h - 1)
        value = (h + 1) * (n - h - 1) * (inner - outer) ** 2
        if inner > outer and value > score:
            best, score = h, value
    return float(best) if best else None


def place(strip: _Strip, size: float, height: int) -> np.ndarray | str:
    ink = strip.darkness > 40
    columns = np.flatnonzero(ink.any(0))
    rows = np.flatnonzero(ink.any(1))
    if columns.size < 2 or ink.sum() < 12:
        return "empty_image"
    left, right = max(0, columns[0] - 1), min(ink.shape[1], columns[-1] + 2)
    scale = X_HEIGHT * height / size
    up, down = strip.base - rows[0] + 1, rows[-1] - strip.base + 1
    fits = min((BASELINE * height - 1) / max(1, up), ((1 - BASELINE) * height - 1) / max(1, down))
    scale = max(min(scale, fits), 0.6 * scale)
    scale = min(scale, 2.0)
    part = strip.darkness[:, left:right]
    w, h = max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale))
    part = cv2.resize(part, (w, h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    width = -(-(w + 2 * MARGIN) // 8) * 8
    canvas = np.zeros((height, width), np.uint8)
    top = round(BASELINE * height - strip.base * scale)
    a, b = max(0, top), min(height, top + h)
    canvas[a:b, MARGIN : MARGIN + w] = part[a - top : b - top]
    return WHITE - canvas
