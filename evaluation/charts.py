"""Small charts as SVG text: bars with intervals, lines with intervals, and histograms."""

import html
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 640, 220  # of the drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 26, 44  # around the plot
LEGEND_ROW = 16
CHARACTER = 6.2  # estimated width of a legend's character
COLOURS = ("#2b6cb0", "#dd6b20", "#718096", "#2f855a", "#b83280", "#805ad5", "#1a202c", "#b7791f")
Point = tuple[float, float, float]  # value, and the ends of its interval; NaN where there is none


def choose_colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each series, always the same one for the same position.

    Raises:
        ValueError: if there are more series than colours.
    """
    if len(names) > len(COLOURS):
        raise ValueError(f"{len(names)} series, but {len(COLOURS)} colours")
    return dict(zip(names, COLOURS, strict=False))


def draw_bars(
    groups: Sequence[str],
    series: Mapping[str, Sequence[Point | None]],
    *,
    x_label: str,
    y_label: str,
    counts: Sequence[int] = (),
) -> str:
    """A bar for each group and series, with its interval as a line.

    Args:
        groups: names below the bars.
        series: by name, for each group value and interval of shares, or None.
        counts: images of each group, shown under its name.
    """
    # By values alone: one group of three images with an interval of 400 % would flatten all others. What is
    # higher ends at the frame.
    values = [bar[0] for bars in series.values() for bar in bars if bar is not None]
    top = _round_up(min(1.0, 1.2 * max(values, default=1.0)))
    body = [_axes(top, x_label, y_label)]
    colours = choose_colours(list(series))
    slot = (WIDTH - LEFT - RIGHT) / max(1, len(groups))
    width = min(26.0, 0.8 * slot / max(1, len(series)))
    names_every = -(-len(groups) // 20)  # more names than that would overlap
    for number, group in enumerate(groups):
        middle = LEFT + slot * (number + 0.5)
        for position, (name, bars) in enumerate(series.items()):
            if bars[number] is not None:
                x = middle + width * (position - len(series) / 2)
                body.append(_bar(bars[number], x, width, top, colours[name], group))
        if number % names_every == 0:
            body.append(_text(middle, HEIGHT - BOTTOM + 13, _shorten(group), size=10))
            if counts:
                body.append(
                    _text(middle, HEIGHT - BOTTOM + 24, str(counts[number]), size=8, colour="#718096")
                )
    return _frame(body, f"{y_label} by {x_label}", colours)


def _bar(point: Point, x: float, width: float, top: float, colour: str, group: str) -> str:
    value, low, high = point
    y, middle = _y(value, top), x + width * 0.46
    bar = (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width * 0.92:.1f}" height="{_y(0, top) - y:.1f}" '
        f'fill="{colour}"><title>{html.escape(group)}: {100 * value:.1f} %</title></rect>'
    )
    if low != low:
        return bar
    return bar + (
        f'<line x1="{middle:.1f}" x2="{middle:.1f}" y1="{_y(low, top):.1f}" y2="{_y(high, top):.1f}" '
        'stroke="#1a202c" stroke-width="1"/>'
    )


def draw_lines(
    groups: Sequence[str],
    series: Mapping[str, Sequence[Point | None]],
    *,
    x_label: str,
    y_label: str,
) -> str:
    """A line for each series over groups at equal distances, each point with its interval.

    Args:
        groups: names below the points.
        series: by name, for each group value and interval of shares, or None.
    """
    ends = [point[2] for points in series.values() for point in points if point is not None]
    top = _round_up(min(1.0, 1.1 * max(ends, default=1.0)))
    body = [_axes(top, x_label, y_label)]
    colours = choose_colours(list(series))
    slot = (WIDTH - LEFT - RIGHT) / max(1, len(groups))
    for number, group in enumerate(groups):
        body.append(_text(LEFT + slot * (number + 0.5), HEIGHT - BOTTOM + 13, group, size=10))
    for position, (name, points) in enumerate(series.items()):
        shift = 5 * (position - (len(series) - 1) / 2)  # intervals side by side
        placed = [
            (LEFT + slot * (number + 0.5) + shift, *point)
            for number, point in enumerate(points)
            if point is not None
        ]
        path = " ".join(f"{x:.1f},{_y(value, top):.1f}" for x, value, _, _ in placed)
        colour = colours[name]
        body.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, value, low, high in placed:
            body.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_y(low, top):.1f}" y2="{_y(high, top):.1f}"'
                f' stroke="{colour}"/><circle cx="{x:.1f}" cy="{_y(value, top):.1f}" r="3"'
                f' fill="{colour}"><title>{html.escape(name)}: {100 * value:.1f} %</title></circle>'
            )
    return _frame(body, f"{y_label} by {x_label}", colours)


def draw_histogram(series: Mapping[str, Sequence[float]], *, bins: int = 20, x_label: str) -> str:
    """Shares of values in [0, 1] in equal bins, as steps, one line for each series."""
    shares = {}
    for name, values in series.items():
        counts = [0] * bins
        for value in values:
            counts[min(bins - 1, max(0, int(value * bins)))] += 1
        shares[name] = [count / max(1, len(values)) for count in counts]
    top = _round_up(max((max(row) for row in shares.values()), default=1.0))
    body = [_axes(top, x_label, "share of images")]
    colours = choose_colours(list(shares))
    step = (WIDTH - LEFT - RIGHT) / bins
    for name, row in shares.items():
        points = []
        for number, share in enumerate(row):
            points += [f"{LEFT + step * edge:.1f},{_y(share, top):.1f}" for edge in (number, number + 1)]
        body.append(
            f'<polyline points="{" ".join(points)}" fill="none" stroke="{colours[name]}" stroke-width="2"/>'
        )
    for tick in range(0, 11, 2):
        body.append(
            _text(LEFT + (WIDTH - LEFT - RIGHT) * tick / 10, HEIGHT - BOTTOM + 13, f"{tick / 10:g}", size=10)
        )
    return _frame(body, x_label, colours)


def _round_up(value: float) -> float:
    """The end of an axis of shares: a round number a little above ``value``, at most 1."""
    return next((top for top in (0.02, 0.04, 0.1, 0.2, 0.4, 0.6, 0.8) if value <= top), 1.0)


def _shorten(name: str) -> str:
    return name if len(name) <= 12 else name[:11] + "…"


def _y(value: float, top: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(max(value, 0.0), top) / top)


def _axes(top: float, x_label: str, y_label: str) -> str:
    lines = []
    for tick in range(5):
        value = top * tick / 4
        y = _y(value, top)
        lines.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e2e8f0"/>')
        lines.append(_text(LEFT - 6, y + 3.5, f"{100 * value:.3g} %", size=10, anchor="end"))
    lines.append(_text(LEFT - 40, TOP - 12, y_label, size=11, anchor="start", colour="#4a5568"))
    lines.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, x_label, size=11, colour="#4a5568"))
    return "".join(lines)


def _legend(colours: Mapping[str, str]) -> tuple[str, int]:
    """Names with their colours, from the right, in as many rows as they need; and the number of rows."""
    rows: list[list[str]] = [[]]
    widths = {name: 15 + CHARACTER * len(name) + 14 for name in colours}
    room = WIDTH - RIGHT - LEFT
    for name in colours:
        if rows[-1] and sum(widths[other] for other in rows[-1]) + widths[name] > room:
            rows.append([])
        rows[-1].append(name)
    parts = []
    for number, names in enumerate(reversed(rows)):
        x, y = WIDTH - RIGHT - sum(widths[name] for name in names), TOP - 20 - LEGEND_ROW * number
        for name in names:
            parts.append(f'<rect x="{x:.1f}" y="{y}" width="10" height="10" fill="{colours[name]}"/>')
            parts.append(_text(x + 15, y + 9, name, size=11, anchor="start"))
            x += widths[name]
    return "".join(parts), len(rows)


def _text(
    x: float, y: float, text: str, *, size: int, anchor: str = "middle", colour: str = "#2d3748"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}">'
        f"{html.escape(text)}</text>"
    )


def _frame(body: Sequence[str], label: str, colours: Mapping[str, str]) -> str:
    legend, rows = _legend(colours)
    above = LEGEND_ROW * (rows - 1)
    return (
        f'<svg viewBox="0 {-above} {WIDTH} {HEIGHT + above}" role="img" aria-label="{html.escape(label)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(body)}{legend}</svg>'
    )
