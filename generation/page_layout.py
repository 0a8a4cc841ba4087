"""Where the lines of a handwritten page stand: margins, distance, slope, indentation, drawn for each page."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class LayoutStatistics:
    """How hands fill a page. Each pair is the mean over pages and the standard deviation among them.

    The defaults were measured on 269 pages of Copiste d'un jour (BAnQ 2024, CC BY 4.0): copies of an
    encyclopaedia by people of today, on plain and lined sheets, in the pages' largest text blocks of eight
    lines or more. They are medians, with half of the range from the 16th to the 84th percentile.

    Attributes:
        lines: on a page.
        aspect: height of the page over its width.
        x_height: height of a small letter, in line distances.
        line_distance: in page heights; what the others are scaled by.
        line_distance_unsteadiness: standard deviation of the distances within a page, in line distances.
        left_margin, right_margin: from the page's edge to where lines begin and the longest end, in page
            widths.
        top_margin: from the page's edge to the first baseline, in page heights.
        bottom_margin: least distance of the last baseline from the page's edge, in page heights.
        slope: of a page's lines, degrees, positive downhill.
        slope_unsteadiness: standard deviation of the slope within a page, degrees.
        indentation_unsteadiness: standard deviation of where lines begin, in line distances.
        margin_drift: how much further right each line begins than the one above, in line distances.
    """

    lines: tuple[float, float] = (21.0, 3.0)
    aspect: float = 1.294
    x_height: float = 0.29
    line_distance: tuple[float, float] = (0.0346, 0.0024)
    line_distance_unsteadiness: float = 0.043
    left_margin: tuple[float, float] = (0.100, 0.029)
    right_margin: tuple[float, float] = (0.047, 0.029)
    top_margin: tuple[float, float] = (0.095, 0.051)
    bottom_margin: float = 0.03
    slope: tuple[float, float] = (0.09, 0.28)
    slope_unsteadiness: float = 0.22
    indentation_unsteadiness: float = 0.12
    margin_drift: tuple[float, float] = (-0.012, 0.085)


@dataclass(frozen=True, kw_only=True)
class PagePlan:
    """A page's size and, for each line, where its baseline begins and how it slopes.

    Attributes:
        width, height: pixels.
        starts: (N, 2) x and y of the beginnings of the baselines, pixels.
        slopes: (N,) degrees, positive downhill.
    """

    width: int
    height: int
    starts: np.ndarray
    slopes: np.ndarray


def draw_line_count(statistics: LayoutStatistics, rng: np.random.Generator) -> int:
    """How many lines a page takes, at least one."""
    return max(1, round(_draw(statistics.lines, rng)))


def plan_page(
    widths: np.ndarray, x_height: float, statistics: LayoutStatistics, rng: np.random.Generator
) -> PagePlan:
    """Draw a page's layout for lines of given widths.

    The page is as large as its line distance says, and larger where its lines need it.

    Args:
        widths: (N,) of the lines' ink, pixels.
        x_height: of the lines' small letters, pixels.
    """
    count = len(widths)
    distance = x_height / statistics.x_height
    height = distance / _draw(statistics.line_distance, rng, least=statistics.line_distance[0] / 2)
    left = _draw(statistics.left_margin, rng, least=0.02)
    right = _draw(statistics.right_margin, rng, least=0.01)
    top = max(_draw(statistics.top_margin, rng) * height, 1.2 * distance)
    drift = _draw(statistics.margin_drift, rng) * distance
    slopes = _draw(statistics.slope, rng) + statistics.slope_unsteadiness * rng.standard_normal(count)
    begins = drift * np.arange(count) + statistics.indentation_unsteadiness * distance * rng.standard_normal(
        count
    )
    begins -= begins.min()
    steps = distance * np.maximum(0.6, 1 + statistics.line_distance_unsteadiness * rng.standard_normal(count))
    rows = top + np.concatenate([[0.0], np.cumsum(steps[1:])])
    # Lines that climb must stay below the page's upper edge, lines that fall above its lower one.
    rises = np.tan(np.radians(slopes)) * (begins + widths)
    rows += max(0.0, 1.2 * distance - float((rows + np.minimum(rises, 0)).min()))
    width = max(height / statistics.aspect, float((begins + widths).max()) / (1 - left - right))
    lowest = float((rows + np.maximum(rises, 0)).max())
    height = max(width * statistics.aspect, lowest + max(distance, statistics.bottom_margin * height))
    starts = np.stack([left * width + begins, rows], axis=1)
    return PagePlan(width=round(width), height=round(height), starts=starts, slopes=slopes)


def _draw(pair: tuple[float, float], rng: np.random.Generator, *, least: float = -np.inf) -> float:
    """A normal draw of (mean, standard deviation), cut at two deviations."""
    return max(least, pair[0] + pair[1] * float(np.clip(rng.standard_normal(), -2, 2)))
