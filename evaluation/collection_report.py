"""The study of one collection as a page and as a Markdown table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.charts import draw_lines
from evaluation.error_classes import CHARACTER_CLASSES, WORD_CLASSES, count_class_errors
from evaluation.report import render_template
from evaluation.study import Difference, Study, correct_for_several, format_p, format_rate
from utils.bootstrap import Bootstrap, Estimate

# Fine-tuning of a pretrained recogniser on real lines alone, as published: relative change of the CER.
PUBLISHED = {16: -0.10, 256: -0.40}


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """Error rates of one arm at one number of lines by class, the means over seeds; None where the test lines
    have none.
    """

    items: int
    arm: str
    rates: Mapping[str, Estimate | None]


def summarise_classes(
    readings: Mapping[tuple[int, str], Sequence[Mapping]], known: Mapping[int, Sequence[str]]
) -> list[ClassRow]:
    """Error rates by class.

    Args:
        readings: by number of lines and arm, the files of readings of its seeds.
        known: the texts of the lines at hand, by their number.
    """
    rows = []
    for (items, arm), of_seeds in readings.items():
        tables = [count_class_errors(one["texts"], one["readings"], known[items]) for one in of_seeds]
        rates: dict[str, Estimate | None] = {}
        for name in (*CHARACTER_CLASSES, *WORD_CLASSES):
            errors = np.mean([table[name][0] for table in tables], axis=0)
            units = tables[0][name][1]
            rates[name] = Bootstrap().ratio(name, errors, units) if units.sum() else None
        rows.append(ClassRow(items=items, arm=arm, rates=rates))
    return rows


def correct_differences(study: Study) -> list[tuple[Difference, float]]:
    """The comparisons of all arms but the upper bound, each with its p-value after Holm's correction."""
    differences = [d for d in study.differences if not d.arm.is_upper_bound]
    return list(zip(differences, correct_for_several([d.cer_p_value for d in differences]), strict=True))


def relative_change(study: Study, difference: Difference) -> float:
    """The difference as a share of the error rate that it is compared with."""
    (base,) = [r for r in study.rows if r.arm == difference.base and r.fraction == difference.fraction]
    return difference.cer.value / base.cer.value if base.cer.value else 0.0


def hours_of(seconds: Mapping[str, Mapping[str, float]]) -> float:
    """All steps together, hours."""
    return sum(sum(steps.values()) for steps in seconds.values()) / 3600


def draw_curve(study: Study) -> str:
    """CER over the number of lines, a line for each arm, as SVG."""
    items = sorted({row.fraction for row in study.rows})
    series: dict[str, list] = {}
    for row in study.rows:
        series.setdefault(row.arm.name, []).append((row.cer.value, row.cer.low, row.cer.high))
    return draw_lines([f"{count:g}" for count in items], series, x_label="labelled lines", y_label="CER")


def render_collection(
    *,
    study: Study,
    classes: Sequence[ClassRow],
    pretrained: float,
    seconds: Mapping[str, Mapping[str, float]],
    settings: Mapping[str, object],
) -> str:
    """The study as an HTML page that opens offline."""
    return render_template(
        "collection.html.jinja",
        {
            "rate": format_rate,
            "points": lambda rate: format_rate(rate, is_difference=True),
            "p": format_p,
            "percent": lambda value: f"{100 * value:+.1f} %",
        },
        title="Generated lines for a recogniser that is good already",
        study=study,
        differences=[(d, p, relative_change(study, d)) for d, p in correct_differences(study)],
        against_start=_against_start(study, pretrained),
        published=PUBLISHED,
        pretrained=pretrained,
        classes=classes,
        class_names=(*CHARACTER_CLASSES, *WORD_CLASSES),
        curve=draw_curve(study),
        seconds=seconds,
        hours=hours_of(seconds),
        settings={name: value for name, value in settings.items() if value is not None},
    )


def _against_start(study: Study, pretrained: float) -> list[tuple[int, float]]:
    """By number of lines, the relative change of the CER by fine-tuning on real lines alone."""
    rows = [row for row in study.rows if row.arm.slug == "real"]
    return [(int(row.fraction), row.cer.value / pretrained - 1) for row in rows] if pretrained else []


def render_markdown(
    *,
    study: Study,
    classes: Sequence[ClassRow],
    pretrained: float,
    seconds: Mapping[str, Mapping[str, float]],
) -> str:
    """The study as Markdown."""
    lines = [f"CER of the pretrained recogniser on {study.test_words} test lines: {100 * pretrained:.1f} %."]
    lines += ["", "| lines | trained on | CER | WER |", "| --- | --- | --- | --- |"]
    for row in study.rows:
        cells = (f"{row.fraction:g}", row.arm.name, format_rate(row.cer), format_rate(row.wer))
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| lines | comparison | CER, points | relative | p (Holm) |",
        "| --- | --- | --- | --- | --- |",
    ]
    for d, p in correct_differences(study):
        change = f"{100 * relative_change(study, d):+.1f} %"
        points = format_rate(d.cer, is_difference=True)
        lines.append(
            f"| {d.fraction:g} | {d.arm.name} against {d.base.name} | {points} | {change} | {format_p(p)} |"
        )
    names = (*CHARACTER_CLASSES, *WORD_CLASSES)
    lines += ["", f"| lines | trained on | {' | '.join(names)} |", "| --- " * (2 + len(names)) + "|"]
    for row in classes:
        rates = [row.rates[name] for name in names]
        cells = ["–" if rate is None else f"{100 * rate.value:.1f} %" for rate in rates]
        lines.append(f"| {row.items} | {row.arm} | {' | '.join(cells)} |")
    for items, change in _against_start(study, pretrained):
        lines += [
            "",
            f"Real lines alone, {items} lines: {100 * change:+.1f} % of the pretrained recogniser's CER.",
        ]
    lines += ["", f"Time: {hours_of(seconds):.1f} hours.", ""]
    return "\n".join(lines)
