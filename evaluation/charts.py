"""Small charts as SVG text: bars with intervals, and histograms."""

import html
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 640, 220  # of the drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 26, 44  # around the plot
COLOURS = ("#2b6cb0", "#a0aec0", "#c05621")
LINE_COLOURS = ("#4a5568", "#dd6b20", "#2b6cb0", "#90cdf4")


def draw_bars(
    groups: Sequence[str],
    series: Mapping[str, Sequence[tuple[float, float, float] | None]],
    *,
    x_label: str,
    y_label: str,
    counts: Sequence[int] = (),
) -> str:
    """A bar for each group and series, with its interval as a line.

    Args:
        groups: names below the bars.
        series: by name, for each group (value, low, high) of shares, or None; NaN where there is no interval.
        counts: words of each group, shown under its name.
    """
    # One group of three words with an interval of 400 % would flatten all others: what is higher ends at the
    # frame.
    values = [bar[0] for bars in series.values() for bar in bars if bar is not None]
    top = _nice_top(min(1.0, 1.2 * max(values, default=1.0)))
    body = [_axes(top, x_label, y_label), _legend(list(series))]
    slot = (WIDTH - LEFT - RIGHT) / max(1, len(groups))
    width = min(26.0, 0.8 * slot / max(1, len(series)))
    names_every = -(-len(groups) // 20)  # more names than that would overlap
    for number, group in enumerate(groups):
        middle = LEFT + slot * (number + 0.5)
        for place, (bars, colour) in enumerate(zip(series.values(), COLOURS, strict=True)):
            if bars[number] is None:
                continue
            value, low, high = bars[number]
            x = middle + width * (place - len(series) / 2)
            y = _y(value, top)
            body.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{width * 0.92:.1f}" height="{_y(0, top) - y:.1f}" '
                f'fill="{colour}"><title>{html.escape(group)}: {100 * value:.1f} %</title></rect>'
            )
            if low == low:
                at = x + width * 0.46
                body.append(
                    f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_y(low, top):.1f}" y2="{_y(high, top):.1f}" '
                    'stroke="#1a202c" stroke-width="1"/>'
                )
        if number % names_every == 0:
            shown = group if len(group) <= 12 else group[:11] + "…"
            body.append(_text(middle, HEIGHT - BOTTOM + 13, shown, size=10))
            if counts:
                body.append(
                    _text(middle, HEIGHT - BOTTOM + 24, str(counts[number]), size=8, colour="#718096")
                )
    return _frame(body, f"{y_label} by {x_label}")


def draw_lines(
    groups: Sequence[str],
    series: Mapping[str, Sequence[tuple[float, float, float] | None]],
    *,
    x_label: str,
    y_label: str,
) -> str:
    """A line for each series over groups at equal distances, each point with its interval.

    Args:
        groups: names below the points.
        series: by name, at most four, for each group (value, low, high) of shares, or None.
    """
    top = _nice_top(
        min(1.0, 1.1 * max((point[2] for row in series.values() for point in row if point), default=1.0))
    )
    body = [_axes(top, x_label, y_label), _legend(list(series), LINE_COLOURS, width=140)]
    slot = (WIDTH - LEFT - RIGHT) / max(1, len(groups))
    for number, group in enumerate(groups):
        body.append(_text(LEFT + slot * (number + 0.5), HEIGHT - BOTTOM + 13, group, size=10))
    for place, (name, row, colour) in enumerate(zip(series, series.values(), LINE_COLOURS, strict=True)):
        shift = 5 * (place - (len(series) - 1) / 2)  # intervals side by side
        points = [(LEFT + slot * (number + 0.5) + shift, *point) for number, point in enumerate(row) if point]
        path = " ".join(f"{x:.1f},{_y(value, top):.1f}" for x, value, _, _ in points)
        body.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, value, low, high in points:
            body.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_y(low, top):.1f}" y2="{_y(high, top):.1f}"'
                f' stroke="{colour}"/><circle cx="{x:.1f}" cy="{_y(value, top):.1f}" r="3"'
                f' fill="{colour}"><title>{html.escape(name)}: {100 * value:.1f} %</title></circle>'
            )
    return _frame(body, f"{y_label} by {x_label}")


def draw_histogram(series: Mapping[str, Sequence[float]], *, bins: int = 20, x_label: str) -> str:
    """Shares of values in [0, 1] in equal bins, as steps, one line for each series."""
    shares = {}
    for name, values in series.items():
        counts = [0] * bins
        for value in values:
            counts[min(bins - 1, max(0, int(value * bins)))] += 1
        shares[name] = [count / max(1, len(values)) for count in counts]
    top = _nice_top(max((max(row) for row in shares.values()), default=1.0))
    body = [_axes(top, x_label, "share of words"), _legend(list(shares))]
    step = (WIDTH - LEFT - RIGHT) / bins
    for row, colour in zip(shares.values(), COLOURS, strict=True):
        points = [
            f"{LEFT + step * edge:.1f},{_y(share, top):.1f}"
            for i, share in enumerate(row)
            for edge in (i, i + 1)
        ]
        body.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="2"/>')
    for tick in range(0, 11, 2):
        body.append(
            _text(LEFT + (WIDTH - LEFT - RIGHT) * tick / 10, HEIGHT - BOTTOM + 13, f"{tick / 10:g}", size=10)
        )
    return _frame(body, x_label)


def _nice_top(value: float) -> float:
    """The end of an axis of shares: a round number a little above ``value``, at most 1."""
    return next((top for top in (0.02, 0.04, 0.1, 0.2, 0.4, 0.6, 0.8) if value <= top), 1.0)


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


def _legend(names: Sequence[str], colours: Sequence[str] = COLOURS, width: int = 110) -> str:
    parts = []
    for place, (name, colour) in enumerate(
        zip(reversed(names), reversed(colours[: len(names)]), strict=True)
    ):
        x = WIDTH - RIGHT - width * (place + 1)
        parts.append(f'<rect x="{x}" y="{TOP - 20}" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(x + 15, TOP - 11, name, size=11, anchor="start"))
    return "".join(parts)


def _text(
    x: float, y: float, text: str, *, size: int, anchor: str = "middle", colour: str = "#2d3748"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}">'
        f"{html.escape(text)}</text>"
    )


def _frame(body: Sequence[str], label: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(body)}</svg>'
    )
