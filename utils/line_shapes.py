"""Where a line runs on its page: outlines and baselines made whole, and the frame that a line is straightened
in.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

Points = tuple[tuple[float, float], ...]
ABOVE, BELOW = 0.75, 0.35  # of the distance of lines: a line that has a baseline alone reaches so far
LONELY = 0.05  # of the baseline's length: the distance of lines where there is no second one
LEAST_AREA = 12  # square pixels of an outline
BASE_IN_OUTLINE = 0.3  # of an outline's height, from below: the baseline where a file gives none


@dataclass(frozen=True, kw_only=True)
class LineShape:
    """A line as its file describes it: an outline of three points or more and a baseline of two or more;
    either may lack.
    """

    polygon: Points = ()
    baseline: Points = ()


@dataclass(frozen=True, kw_only=True)
class LineFrame:
    """A line's own axes: ``along`` its baseline's chord and ``down`` across it, unit vectors in the picture.

    ``polygon`` is (n, 2) in pixels of the picture; ``base`` is (m, 2), the baseline in the line's own axes
    from ``origin``, sorted along. ``is_guessed`` says that the baseline was not in the file.
    """

    origin: np.ndarray
    along: np.ndarray
    down: np.ndarray
    polygon: np.ndarray
    base: np.ndarray
    is_guessed: bool = False

    def to_frame(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Picture points (n, 2) as distances along and across the chord."""
        return (points - self.origin) @ self.along, (points - self.origin) @ self.down

    @property
    def slope(self) -> float:
        """Pixels down a pixel right; infinite for a vertical line."""
        return float(self.along[1] / self.along[0]) if self.along[0] else float("inf")


def make_frames(
    shapes: Sequence[LineShape], scale: np.ndarray, shift: np.ndarray, size: tuple[int, int]
) -> list[LineFrame | None]:
    """The frames of a page's lines, None for those that no outline can be found for.

    Args:
        scale: (2,) picture pixels a unit of the file, across and down.
        shift: (2,) pixels; a point of the file lies at ``point * scale - shift``.
        size: (height, width) of the picture in pixels.
    """
    bases = [np.array(shape.baseline, float).reshape(-1, 2) * scale - shift for shape in shapes]
    distance = _line_distance([base for base in bases if len(base) > 1])
    return [
        _make_frame(np.array(shape.polygon, float).reshape(-1, 2) * scale - shift, base, distance, size)
        for shape, base in zip(shapes, bases, strict=True)
    ]


def _make_frame(
    polygon: np.ndarray, base: np.ndarray, distance: float | None, size: tuple[int, int]
) -> LineFrame | None:
    limit = 4 * max(size)
    polygon, base = (points[(np.abs(points) < limit).all(axis=1)] for points in (polygon, base))
    if len(base) > 1 and np.hypot(*(base[-1] - base[0])) < 2:
        base = base[:0]
    if len(polygon) < 3 or _area(polygon) < LEAST_AREA:
        if len(base) < 2:
            return None
        polygon = _outline_of_baseline(base, distance)
    height, width = size
    left, top = polygon.min(axis=0)
    right, bottom = polygon.max(axis=0)
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        return None
    is_guessed = len(base) < 2 or not _belongs(base, polygon)
    if is_guessed:
        base = _baseline_of_outline(polygon)
    middle = polygon.mean(axis=0)
    for ends in (base, base[::-1]):
        base = ends
        chord = base[-1] - base[0]
        along = chord / np.hypot(*chord)
        down = np.array([-along[1], along[0]])
        # Read from the other end, the writing would hang below its baseline. A line that runs to the right is
        # upright.
        if along[0] > 0.7 or (middle - base.mean(axis=0)) @ down < 0:
            break
    own = np.stack([(base - base[0]) @ along, (base - base[0]) @ down], axis=1)
    own = own[np.argsort(own[:, 0], kind="stable")]
    return LineFrame(origin=base[0], along=along, down=down, polygon=polygon, base=own, is_guessed=is_guessed)


def _area(polygon: np.ndarray) -> float:
    """The area of a polygon's hull: one that crosses itself may have none of its own."""
    return float(cv2.contourArea(cv2.convexHull(polygon.astype(np.float32))))


def _belongs(base: np.ndarray, polygon: np.ndarray) -> bool:
    """True if the baseline lies in its outline or not farther from it than the outline is high."""
    contour = polygon.astype(np.float32)
    thickness = min(cv2.minAreaRect(contour)[1])
    distances = [
        cv2.pointPolygonTest(contour, (float(x), float(y)), True) for x, y in (*base, base.mean(axis=0))
    ]
    return max(distances) > -max(4.0, 0.5 * thickness)


def _line_distance(bases: Sequence[np.ndarray]) -> float | None:
    """The usual distance of a baseline to the next one that runs beside it, in pixels; None for a single
    line.
    """
    distances = []
    for i, base in enumerate(bases):
        middle, chord = base.mean(axis=0), base[-1] - base[0]
        along = chord / max(1e-6, np.hypot(*chord))
        nearest = []
        for j, other in enumerate(bases):
            offset = other.mean(axis=0) - middle
            across = abs(offset @ np.array([-along[1], along[0]]))
            if (
                i != j
                and across > 3
                and abs(offset @ along) < 0.5 * (np.hypot(*chord) + np.ptp(other @ along))
            ):
                nearest.append(across)
        if nearest:
            distances.append(min(nearest))
    return float(np.median(distances)) if distances else None


def _outline_of_baseline(base: np.ndarray, distance: float | None) -> np.ndarray:
    """A band along a baseline, from the middle of the line above to where the next one begins."""
    chord = base[-1] - base[0]
    length = np.hypot(*chord)
    along = chord / length if chord[0] >= 0 else -chord / length
    down = np.array([-along[1], along[0]])
    reach = distance or LONELY * length
    return np.concatenate([base - ABOVE * reach * down, (base + BELOW * reach * down)[::-1]])


def _baseline_of_outline(polygon: np.ndarray) -> np.ndarray:
    """A straight line along an outline's longer side, near its lower edge; ink moves it later."""
    (x, y), (width, height), angle = cv2.minAreaRect(polygon.astype(np.float32))
    if width < height:
        width, height, angle = height, width, angle - 90
    radians = np.deg2rad(angle)
    along = np.array([np.cos(radians), np.sin(radians)])
    if along[0] < 0:
        along = -along
    if abs(along[0]) > 0.98 or width < 1.5 * height:  # an outline's corners make a level line slant, too
        along = np.array([1.0, 0.0])
        left, top = polygon.min(axis=0)
        right, bottom = polygon.max(axis=0)
        x, y, width, height = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
    down = np.array([-along[1], along[0]])
    middle = np.array([x, y]) + (0.5 - BASE_IN_OUTLINE) * height * down
    half = max(1.5, width / 2)
    return np.stack([middle - half * along, middle + half * along])
