"""The evaluation's report: lines for the terminal, and one HTML file that opens anywhere, with its images
inside.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from evaluation.measures import Measure
from utils.bootstrap import Estimate
from utils.errors import UserError

COLUMNS = {
    "generated": "generated",
    "real": "real",
    "vae": "real through the VAE",
    "difference": "generated − real",
    "ratio": "generated / real",
}
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, kw_only=True)
class Example:
    """A generated image beside a real one.

    Attributes:
        text, writer: of the generated image.
        image, other: (H, W) uint8, generated and real; None where there is no real one.
        caption, other_caption: lines under each.
    """

    text: str
    writer: str
    image: np.ndarray
    caption: str
    other: np.ndarray | None
    other_caption: str


@dataclass(frozen=True, kw_only=True)
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
    """A number and its interval as text, e.g. ``("12.3 %", "11.0 to 13.9")``; without an interval, or a
    number, that text is empty or ``–``.
    """
    if estimate.value != estimate.value:
        return "–", ""
    factor, unit = (100, " %") if is_percentage else (1, "")
    size = abs(estimate.value * factor)
    digits = 1 if is_percentage else 2 if size >= 10 else 3 if size >= 0.1 else 5
    sign = "+" if is_difference else ""
    value = f"{estimate.value * factor:{sign}.{digits}f}{unit}".replace("-", "−")
    if estimate.low != estimate.low:
        return value, ""
    low, high = (f"{bound * factor:.{digits}f}".replace("-", "−") for bound in (estimate.low, estimate.high))
    return value, f"{low} to {high}"


def show_value(measure: Measure, column: str) -> tuple[str, str]:
    """A column's number and interval as text."""
    return format_estimate(
        measure.values[column],
        measure.is_percentage and column != "ratio",
        is_difference=column == "difference",
    )


def describe_measures(measures: Sequence[Measure]) -> str:
    """The measures as lines for the terminal, each with its protocol."""
    lines = []
    for measure in measures:
        lines.append(measure.label)
        for column, estimate in measure.values.items():
            value, interval = show_value(measure, column)
            interval = f"({interval}), " if interval else ""
            lines.append(f"  {COLUMNS[column]:<22}{value:>12}   {interval}n {estimate.n}")
        lines.append(f"  {measure.protocol}")
    return "\n".join(lines)


def render_template(name: str, filters: Mapping[str, Callable], **values: object) -> str:
    """A page of ``templates/``; all texts are escaped.

    Args:
        filters: functions that the template uses as filters, by name.
    Raises:
        UserError: if jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise UserError(f"the report: {error}. Run `pip install jinja2`.") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(filters)
    return environment.get_template(name).render(**values)


def render_report(report: Report) -> str:
    """The evaluation as an HTML page."""
    return render_template(
        "evaluation.html.jinja",
        {"data_url": make_data_url, "shown": show_value},
        title=report.title,
        report=report,
        columns=[
            column for column in COLUMNS if any(column in measure.values for measure in report.measures)
        ],
        column_names=COLUMNS,
    )


def make_data_url(image: np.ndarray) -> str:
    """An (H, W) uint8 image as a URL that holds it as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
