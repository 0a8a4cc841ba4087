"""The augmentation study as a table and as a page with plots."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from evaluation.charts import draw_lines
from evaluation.report import render_template
from evaluation.study import (
    ARMS,
    BASE,
    Difference,
    Rate,
    Row,
    Study,
    correct_for_several,
    format_p,
    format_rate,
)
from utils.output import write_atomically

COLUMNS = (
    "fraction_percent",
    "trained_on",
    "upper_bound",
    "words",
    "cer",
    "cer_low",
    "cer_high",
    "wer",
    "wer_low",
    "wer_high",
    "cer_by_seed",
    "seconds",
)


def write_table(study: Study, path: Path) -> None:
    """The rows as CSV; rates are shares."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in study.rows:
        rates = [f"{value:.5f}" for rate in (row.cer, row.wer) for value in (rate.value, rate.low, rate.high)]
        writer.writerow(
            [
                f"{row.fraction:g}",
                row.arm.name,
                row.arm.is_upper_bound,
                row.words,
                *rates,
                " ".join(f"{value:.5f}" for value in row.by_seed),
                f"{row.seconds:.0f}",
            ]
        )
    write_atomically(path, buffer.getvalue())


def draw_study(study: Study, rate: Callable[[Row], Rate], label: str) -> str:
    """A line for each arm over the fractions, as SVG."""
    fractions = sorted({row.fraction for row in study.rows})
    series = {}
    for arm in ARMS:
        rates = {row.fraction: rate(row) for row in study.rows if row.arm == arm}
        points = [rates.get(fraction) for fraction in fractions]
        if rates:
            series[arm.name] = [point and (point.value, point.low, point.high) for point in points]
    return draw_lines(
        [f"{fraction:g} %" for fraction in fractions], series, x_label="real data", y_label=label
    )


def verdict(study: Study) -> str:
    """The answer in a sentence for each way to use generated images, against real images alone."""
    ways = {"mixed": "beside", "then_real": "before"}
    differences = [d for d in study.differences if d.arm.slug in ways]
    corrected = correct_for_several([d.cer_p_value for d in differences])
    sentences = []
    for slug, position in ways.items():
        of_way = [
            (d, p_value) for d, p_value in zip(differences, corrected, strict=True) if d.arm.slug == slug
        ]
        if of_way:
            sentences.append(f"Generated images {position} the real ones {_effect(of_way)}.")
    return " ".join(sentences)


def _effect(differences: Sequence[tuple[Difference, float]]) -> str:
    """What comparisons with their corrected p-values say, as the predicate of a sentence."""
    sure = [d for d, p_value in differences if p_value < 0.05]
    helps, harms = [d for d in sure if d.cer.value < 0], [d for d in sure if d.cer.value > 0]

    def names(group: Sequence[Difference]) -> str:
        return ", ".join(f"{d.fraction:g} % ({format_rate(d.cer, is_difference=True)})" for d in group)

    parts = []
    if helps:
        parts.append(f"lowered the character error rate at {names(helps)}")
    if harms:
        parts.append(
            f"raised it at {names(harms)}" if helps else f"raised the character error rate at {names(harms)}"
        )
    if undecided := [d for d, _ in differences if d not in helps and d not in harms]:
        parts.append(f"made no difference that this study can tell from chance at {names(undecided)}")
    return "; ".join(parts)


def render_study(study: Study, settings: Mapping[str, object]) -> str:
    """The study as an HTML page that opens offline."""
    return render_template(
        "study.html.jinja",
        {
            "rate": format_rate,
            "points": lambda rate: format_rate(rate, is_difference=True),
            "p": format_p,
        },
        title="Does generated handwriting help?",
        study=study,
        verdict=verdict(study),
        base=BASE.name,
        charts=[
            (draw_study(study, lambda row: row.cer, "CER"), "Character error rate on the test images."),
            (draw_study(study, lambda row: row.wer, "WER"), "Word error rate."),
        ],
        has_upper_bound=any(row.arm.is_upper_bound for row in study.rows),
        settings={name: value for name, value in settings.items() if value is not None},
    )
