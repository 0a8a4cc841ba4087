"""The augmentation study as a table and as a page with plots."""

import csv
import html
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from evaluation.charts import draw_lines
from evaluation.report import STYLE
from evaluation.study import ARMS, BASE, Difference, Row, Study, correct_for_several, format_p, format_rate
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


def draw_study(study: Study, rate: Callable[[Row], object], label: str) -> str:
    """A line for each arm over the fractions, as SVG."""
    fractions = sorted({row.fraction for row in study.rows})
    series = {}
    for arm in ARMS:
        of_arm = {row.fraction: rate(row) for row in study.rows if row.arm == arm}
        if of_arm:
            series[arm.name] = [(r.value, r.low, r.high) if (r := of_arm.get(f)) else None for f in fractions]
    return draw_lines(
        [f"{fraction:g} %" for fraction in fractions], series, x_label="real data", y_label=label
    )


def verdict(study: Study) -> str:
    """The answer in a sentence for each way to use generated words, against real words alone."""
    ways = {"mixed": "beside", "then_real": "before"}
    found = [d for d in study.differences if d.arm.slug in ways]
    corrected = correct_for_several([d.cer_p_value for d in found])
    sentences = []
    for slug, place in ways.items():
        own = [(d, p) for d, p in zip(found, corrected, strict=True) if d.arm.slug == slug]
        if own:
            sentences.append(f"Generated words {place} the real ones {_effect(own)}.")
    return " ".join(sentences)


def _effect(found: Sequence[tuple[Difference, float]]) -> str:
    """What comparisons with their corrected p-values say, as the predicate of a sentence."""
    sure = [d for d, p in found if p < 0.05]
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
    if undecided := [d for d, _ in found if d not in helps and d not in harms]:
        parts.append(f"made no difference that this study can tell from chance at {names(undecided)}")
    return "; ".join(parts)


def render_study(study: Study, settings: Mapping[str, object]) -> str:
    """One HTML page that opens offline; all texts are escaped here."""
    rows = "".join(
        f"<tr><td>{row.fraction:g} %</td><td>{html.escape(row.arm.name)}</td><td"
        f" class='value'>{row.words:,}</td><td class='value'><b>{format_rate(row.cer)}</b><span"
        f" class='small'>seeds: {', '.join(f'{100 * value:.1f}' for value in row.by_seed)}</span></td><td"
        f" class='value'>{format_rate(row.wer)}</td></tr>"
        for row in study.rows
    )
    gaps = "".join(
        f"<tr><td>{d.fraction:g} %</td><td>{html.escape(d.arm.name)}</td><td"
        f" class='value'><b>{format_rate(d.cer, is_difference=True)}</b><span"
        f" class='small'>{format_p(d.cer_p_value)}</span></td><td"
        f" class='value'>{format_rate(d.wer, is_difference=True)}<span"
        f" class='small'>{format_p(d.wer_p_value)}</span></td></tr>"
        for d in study.differences
    )
    facts = "".join(
        f"<dt>{html.escape(key)}</dt><dd>{html.escape(str(value))}</dd>"
        for key, value in settings.items()
        if value is not None
    )
    upper = any(row.arm.is_upper_bound for row in study.rows)
    protocol = (
        f"{study.test_words} test words, {study.seeds} recognisers of each kind. CER: edit operations over"
        " characters, exact, case and all; WER: the same over words. Rates are means over seeds; intervals"
        " are 95 % percentile bootstrap intervals over test"
        f" words{' and seeds' if study.seeds > 1 else ', not over seeds, of which there is one'}; p is"
        " two-sided, from the same draws, paired by test word; the sentences above correct it for the number"
        " of comparisons (Holm). Each recogniser has the same steps at most, and those that learn real words"
        " after generated ones have as many again. Each fraction has one generator and one set of generated"
        " words: what others would have given is not in the intervals. At each fraction the generator has"
        " seen that fraction of the real data and nothing more; all arms of a fraction choose their best"
        " weights on the same real words, the same fraction of the split val; the test words are seen by"
        " nobody. That holds for the generator's VAE, for a recogniser that chose words (--recogniser) and"
        " for one that all arms start from (--init_from) only if they have not seen the data set."
        + (
            " The upper bound's generator has seen all real training words at every fraction: it is no fair"
            " comparison below 100 %."
            if upper
            else ""
        )
    )
    title = "Does generated handwriting help?"
    return (
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'><meta name='viewport'"
        " content='width=device-width'>"
        f"<title>{title}</title><style>{STYLE}</style></head><body><h1>{title}</h1><p>{html.escape(verdict(study))}</p>"
        "<h2>Error rates</h2><table><thead><tr><th>real data</th><th>trained"
        " on</th><th>words</th><th>CER</th><th>WER</th></tr>"
        f"</thead><tbody>{rows}</tbody></table>"
        f"<figure>{draw_study(study, lambda row: row.cer, 'CER')}<figcaption>Figure 1. Character error rate"
        " on the test words."
        f"</figcaption></figure><figure>{draw_study(study, lambda row: row.wer, 'WER')}<figcaption>Figure 2."
        " Word error rate."
        f"</figcaption></figure><h2>Against {BASE.name} words alone</h2><table><thead><tr><th>real"
        " data</th><th>trained on</th>"
        f"<th>CER</th><th>WER</th></tr></thead><tbody>{gaps}</tbody></table><h2>Protocol</h2><p>{html.escape(protocol)}</p>"
        f"<dl>{facts}</dl></body></html>\n"
    )
