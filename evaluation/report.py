"""The evaluation's report: one HTML file that opens anywhere, with its images inside."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from evaluation.measures import Measure
from utils.bootstrap import Estimate

COLUMNS = {
    "generated": "generated",
    "real": "real",
    "vae": "real through the VAE",
    "difference": "generated − real",
}
STYLE = """
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; color: #1a202c; background: #fff;
       max-width: 68rem;
  margin: 2.5rem auto; padding: 0 1.5rem }
h1 { font-size: 1.7rem; font-weight: 650; margin: 0 0 .2rem }
h2 { font-size: 1.15rem; font-weight: 650; margin: 2.6rem 0 .6rem; padding-bottom: .3rem;
       border-bottom: 1px solid #e2e8f0 }
p, li, figcaption, .small { color: #4a5568 }
table { border-collapse: collapse; width: 100%; margin: .8rem 0 }
th { text-align: left; font-weight: 600; font-size: .82rem; color: #4a5568;
       border-bottom: 1.5px solid #cbd5e0 }
th, td { padding: .42rem .9rem .42rem 0; vertical-align: top }
td { border-bottom: 1px solid #edf2f7; font-variant-numeric: tabular-nums }
td.value { white-space: nowrap }
.value b { font-weight: 650 }
.small { font-size: .78rem; display: block }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; margin: .8rem 0 }
dt { color: #718096 } dd { margin: 0; overflow-wrap: anywhere }
figure { margin: 1.2rem 0; break-inside: avoid } figure svg { width: 100%; max-width: 46rem; height: auto }
figcaption { font-size: .85rem; margin-top: .3rem }
.words { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: .9rem;
       margin: .8rem 0 }
.word { border: 1px solid #e2e8f0; border-radius: 6px; padding: .6rem .7rem; break-inside: avoid;
       font-size: .85rem }
.word img { display: block; max-width: 100%; height: auto; margin: .1rem 0 .4rem; border: 1px solid #f0f0f0 }
.word .small { margin-top: .1rem }
.none { color: #a0aec0; padding: .8rem 0 }
@media print { body { margin: 0; max-width: none; font-size: 11px } h2 { margin-top: 1.4rem } }
"""


@dataclass(frozen=True)
class Example:
    """A generated word beside a real one.

    Attributes:
        text, writer: of the generated word.
        image, other: (H, W) uint8, generated and real; no real one is None.
        caption, other_caption: lines under each.
    """

    text: str
    writer: str
    image: np.ndarray
    caption: str
    other: np.ndarray | None
    other_caption: str


@dataclass(frozen=True)
class Report:
    """What the report shows, in its order.

    Attributes:
        facts: name and value.
        notes: what was left out or skipped, a line each.
        charts: SVG and caption.
        examples: by heading.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    measures: Sequence[Measure]
    notes: Sequence[str]
    charts: Sequence[tuple[str, str]]
    examples: Mapping[str, Sequence[Example]]


def format_estimate(
    estimate: Estimate, is_percentage: bool, *, is_difference: bool = False
) -> tuple[str, str]:
    """A number and its interval as text, e.g. ``("12.3 %", "11.0 to 13.9")``; the interval of a single word
    is empty.
    """
    factor, unit = (100, " %") if is_percentage else (1, "")
    size = abs(estimate.value * factor)
    digits = 1 if is_percentage else 2 if size >= 10 else 3 if size >= 0.1 else 5
    sign = "+" if is_difference else ""
    value = f"{estimate.value * factor:{sign}.{digits}f}{unit}".replace("-", "−")
    if estimate.low != estimate.low:
        return value, ""
    low, high = (f"{bound * factor:.{digits}f}".replace("-", "−") for bound in (estimate.low, estimate.high))
    return value, f"{low} to {high}"


def describe_measures(measures: Sequence[Measure]) -> str:
    """The measures as lines for the terminal, each with its protocol."""
    lines = []
    for measure in measures:
        lines.append(measure.label)
        for column, estimate in measure.values.items():
            value, interval = format_estimate(
                estimate, measure.is_percentage, is_difference=column == "difference"
            )
            lines.append(
                f"  {COLUMNS[column]:<22}{value:>12}   {f'({interval}), ' if interval else ''}n {estimate.n}"
            )
        lines.append(f"  {measure.protocol}")
    return "\n".join(lines)


def render_report(report: Report) -> str:
    """The whole page. All texts are escaped here."""
    parts = [
        f"<h1>{_escape(report.title)}</h1>",
        _facts(report.facts),
        "<h2>Measures</h2>",
        _measures(report.measures),
    ]
    if report.notes:
        parts.append(
            "<h2>Notes</h2><ul>" + "".join(f"<li>{_escape(note)}</li>" for note in report.notes) + "</ul>"
        )
    if report.charts:
        parts.append("<h2>Figures</h2>")
    for number, (chart, caption) in enumerate(report.charts, start=1):
        parts.append(f"<figure>{chart}<figcaption>Figure {number}. {_escape(caption)}</figcaption></figure>")
    for heading, examples in report.examples.items():
        parts.append(
            f"<h2>{_escape(heading)}</h2><div class='words'>{''.join(map(_example, examples))}</div>"
        )
    parts.append("<h2>Protocol</h2>" + _protocols(report.measures))
    return (
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'><meta name='viewport'"
        " content='width=device-width'>"
        f"<title>{_escape(report.title)}</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>"
        "\n"
    )


def _escape(text: str) -> str:
    return html.escape(text, quote=True)


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    return (
        "<dl>"
        + "".join(f"<dt>{_escape(name)}</dt><dd>{_escape(value)}</dd>" for name, value in facts)
        + "</dl>"
    )


def _measures(measures: Sequence[Measure]) -> str:
    if not measures:
        return "<p class='none'>none</p>"
    columns = [column for column in COLUMNS if any(column in measure.values for measure in measures)]
    head = "".join(f"<th>{_escape(COLUMNS[column])}</th>" for column in columns)
    rows = []
    for measure in measures:
        better = {"lower": "lower is better", "higher": "higher is better"}.get(measure.better, "")
        cells = [f"<td>{_escape(measure.label)}<span class='small'>{better}</span></td>"]
        for column in columns:
            estimate = measure.values.get(column)
            if estimate is None:
                cells.append("<td class='none'>–</td>")
                continue
            value, interval = format_estimate(
                estimate, measure.is_percentage, is_difference=column == "difference"
            )
            interval = f"{interval}, n {estimate.n:,}" if interval else f"n {estimate.n:,}"
            cells.append(
                f"<td class='value'><b>{_escape(value)}</b><span"
                f" class='small'>{_escape(interval)}</span></td>"
            )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f"<table><thead><tr><th>measure</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        "<p class='small'>95 % bootstrap intervals over words, and the number of words. For distances, "
        "“real” is the floor: real words against other real words.</p>"
    )


def _protocols(measures: Sequence[Measure]) -> str:
    return (
        "<dl>"
        + "".join(f"<dt>{_escape(m.key)}</dt><dd>{_escape(m.protocol)}</dd>" for m in measures)
        + "</dl>"
    )


def _example(example: Example) -> str:
    other = (
        f"{_picture(example.other, f'{example.text}, real')}<span"
        f" class='small'>{_escape(example.other_caption)}</span>"
        if example.other is not None
        else "<div class='none'>no real word of this writer</div>"
    )
    return (
        f"<div class='word'><b>{_escape(example.text)}</b> · {_escape(example.writer)}"
        f"{_picture(example.image, f'{example.text}, generated')}"
        f"<span class='small'>{_escape(example.caption)}</span>{other}</div>"
    )


def _picture(image: np.ndarray, description: str) -> str:
    """An image as an element that holds its own data."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return (
        f'<img alt="{_escape(description)}"'
        f' src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
    )
