"""Charts: each series has its own colour, and the legend gives each name the colour of its series."""

import re

import pytest

from evaluation.charts import COLOURS, draw_bars, draw_histogram, draw_lines

ARMS = ("real", "synthetic", "real+synthetic", "synthetic, then real", "real+synthetic (upper bound)")


def legend_of(chart):
    """Name to colour, as the legend says."""
    return dict(
        (name, colour)
        for colour, name in re.findall(r'height="10" fill="(#\w+)"/><text [^>]*>([^<]*)</text>', chart)
    )


def test_each_of_five_lines_has_the_name_and_colour_of_its_own_points():
    series = {name: [(0.1 * (i + 1), 0.05, 0.6)] for i, name in enumerate(ARMS)}
    chart = draw_lines(["10 %"], series, x_label="real data", y_label="CER")
    legend = legend_of(chart)
    assert tuple(legend) == ARMS and len(set(legend.values())) == 5
    points = re.findall(r'fill="(#\w+)"><title>([^:]*): (\d+)\.0 %', chart)
    assert [(legend[name], value) for _, name, value in points] == [
        (colour, str(10 * (i + 1))) for i, (colour, _, _) in enumerate(points)
    ]
    assert chart.count("<polyline") == 5


def test_a_long_legend_takes_more_rows_and_stays_in_the_drawing():
    chart = draw_lines(["10 %"], {name: [(0.1, 0.1, 0.1)] for name in ARMS}, x_label="x", y_label="y")
    box = [int(number) for number in re.search(r'viewBox="([^"]*)"', chart)[1].split()]
    places = re.findall(r'<rect x="([\d.]+)" y="(-?\d+)" width="10"', chart)
    assert len({y for _, y in places}) == 2
    assert all(float(x) > 0 and int(y) >= box[1] for x, y in places)


def test_bars_and_histograms_of_two_series_are_drawn():
    bars = draw_bars(
        ["1", "2"],
        {"generated": [(0.2, 0.1, 0.3), None], "real": [(0.1, float("nan"), float("nan"))] * 2},
        x_label="x",
        y_label="y",
        counts=[3, 4],
    )
    assert bars.count("<rect") == 3 + 2 and legend_of(bars) == dict(
        zip(("generated", "real"), COLOURS[:2], strict=True)
    )
    assert draw_histogram({"one": [0.1, 1.0], "other": []}, x_label="x").count("<polyline") == 2


def test_more_series_than_colours_are_a_fault_and_not_left_out():
    with pytest.raises(ValueError, match="9 series, but 8 colours"):
        draw_lines(["1"], {str(i): [None] for i in range(9)}, x_label="x", y_label="y")
