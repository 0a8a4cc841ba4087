"""What the evaluation's report shows beside the numbers: charts of legibility, example images, copies."""

from collections.abc import Mapping, Sequence

import numpy as np

from evaluation.charts import draw_bars, draw_histogram
from evaluation.comparison import Comparison
from evaluation.copies import Neighbours
from evaluation.legibility import ReadImages, group_error_rates, length_names
from evaluation.measures import Results
from evaluation.report import Example
from utils.bootstrap import Bootstrap, Estimate

SHOWN = 6  # images under each heading
SHOWN_COPIES = 12
SHOWN_WRITERS = 60


def chart_legibility(
    name: str, generated: ReadImages, real: ReadImages, bootstrap: Bootstrap, results: Results
) -> None:
    """Add a recogniser's error rates by length and by writer, and its confidence, to charts and details."""
    sides = {"generated": generated, "real": real}
    for kind, label in (("length", "characters of the text"), ("writer", "writer")):
        keys = {
            side: length_names(words.texts) if kind == "length" else list(words.writers)
            for side, words in sides.items()
        }
        groups = {side: group_error_rates(words, keys[side], bootstrap) for side, words in sides.items()}
        results.details[f"cer_by_{kind}/{name}"] = {
            side: {key: estimate.as_json() for key, estimate in group.items()}
            for side, group in groups.items()
        }
        order = sorted(
            groups["generated"], key=lambda key: (int(key.rstrip("+")) if kind == "length" else len(key), key)
        )
        caption = (
            f"Character error rate of {name} by {label}, with 95 % intervals, cut at the frame; below:"
            " number of generated images."
        )
        if len(order) > SHOWN_WRITERS:
            caption += f" The first {SHOWN_WRITERS} of {len(order)} writers; metrics.json has all."
            order = order[:SHOWN_WRITERS]
        if order:
            bars = {side: [_bar(group.get(key)) for key in order] for side, group in groups.items()}
            counts = [groups["generated"][key].n for key in order]
            results.charts.append(
                (draw_bars(order, bars, x_label=label, y_label="character errors", counts=counts), caption)
            )
    chart = draw_histogram(
        {side: words.confidences.tolist() for side, words in sides.items()}, x_label="confidence"
    )
    results.charts.append(
        (chart, f"Confidence of {name}: the product of the probabilities of the characters that it read.")
    )


def _bar(estimate: Estimate | None) -> tuple[float, float, float] | None:
    return None if estimate is None else (estimate.value, estimate.low, estimate.high)


def list_copies(pair: Comparison, neighbours: Neighbours, train: np.ndarray) -> list[dict]:
    """The generated images that copy a training image, the clearest first, as JSON-able values."""
    copies = []
    for row in np.flatnonzero(neighbours.is_copy):
        original = pair.real.records[train[neighbours.rows[row]]]
        record = pair.generated.records[row]
        copies.append(
            {
                "file_name": record.file_name,
                "text": record.text,
                "writer": record.writer,
                "copy_of": original.file_name,
                "copy_of_text": original.text,
                "copy_of_writer": original.writer,
                "distance": round(float(neighbours.distances[row]), 4),
                "usual_distance": round(float(neighbours.usual[row]), 4),
            }
        )
    return sorted(copies, key=lambda copy: copy["distance"] / copy["usual_distance"])


def choose_examples(
    pair: Comparison,
    readings: tuple[str, tuple[ReadImages, ReadImages]] | None,
    differences: np.ndarray | None,
    copies: Sequence[Mapping],
) -> dict[str, list[Example]]:
    """Generated images by heading: the worst, the middle and the best ones, each beside a real one; and the
    clearest copies.

    Args:
        readings: a recogniser's name, and what it read in the generated images and in ``pair.readable``: then
            errors, and among equal ones confidence, tell good from bad.
        differences: (len(generated),) NMAE, NaN without a partner: tells good from bad without readings.
            Without either, a few images are drawn by the seed.
    """
    count = len(pair.generated)
    if readings:
        words = readings[1][0]
        rates = np.where(words.is_compared, words.errors / np.maximum(words.lengths, 1), np.nan)
        order = np.lexsort((-words.confidences, rates))
        order, measured = order[words.is_compared[order]], f"read by {readings[0]}"
    elif differences is not None:
        order = np.argsort(differences, kind="stable")[: int((~np.isnan(differences)).sum())]
        measured = "by pixel difference"
    else:
        order, measured = np.random.default_rng(pair.seed).permutation(count), ""
    shown: dict[str, Sequence[int]] = {"Some images": order[:SHOWN]}
    if measured:
        middle = max(0, len(order) // 2 - SHOWN // 2)
        parts = {
            "Worst": order[::-1][:SHOWN],
            "Median": order[middle : middle + SHOWN],
            "Best": order[:SHOWN],
        }
        shown = {f"{name} images, {measured}": part for name, part in parts.items()}
    if len(order) <= 3 * SHOWN:
        shown = {f"The images, {measured}, worst first" if measured else "The images": order[::-1]}
    examples = {
        name: [_example(pair, int(row), readings, differences) for row in rows]
        for name, rows in shown.items()
    }
    if copies:
        examples[f"Copies of training images ({len(copies)}; the clearest)"] = _show_copies(
            pair, copies[:SHOWN_COPIES]
        )
    return examples


def _example(
    pair: Comparison,
    row: int,
    readings: tuple[str, tuple[ReadImages, ReadImages]] | None,
    differences: np.ndarray | None,
) -> Example:
    record = pair.generated.records[row]
    other = _companion(pair, row)
    caption = ["generated"]
    other_caption = ["real, the same record" if pair.partners[row] >= 0 else "real, the same writer"]
    if readings:
        caption.append(_describe(readings[1][0], row))
        read = np.flatnonzero(pair.readable == other) if other is not None else ()
        if len(read):
            other_caption.append(_describe(readings[1][1], int(read[0])))
    if differences is not None and differences[row] == differences[row]:
        caption.append(f"NMAE {differences[row]:.3f}")
    if other is not None and pair.partners[row] < 0:
        other_caption.append(f"“{pair.real.records[other].text}”")
    return Example(
        text=record.text,
        writer=record.writer,
        image=pair.generated.read(row),
        caption=", ".join(caption),
        other=None if other is None else pair.real.read(other),
        other_caption=", ".join(other_caption),
    )


def _describe(images: ReadImages, row: int) -> str:
    reading = images.readings[row]
    return f"read “{reading.text}” with confidence {reading.confidence:.2f}"


def _companion(pair: Comparison, row: int) -> int | None:
    """The real image to show beside a generated one: of its record, else of its writer, of the same text if
    there is one.
    """
    if pair.partners[row] >= 0:
        return int(pair.partners[row])
    record = pair.generated.records[row]
    of_writer = np.flatnonzero(pair.real.writers == record.writer)
    if not len(of_writer):
        return None
    same_text = [i for i in of_writer if pair.real.records[i].text == record.text]
    return int(same_text[0] if same_text else of_writer[0])


def _show_copies(pair: Comparison, copies: Sequence[Mapping]) -> list[Example]:
    rows = {record.file_name: i for i, record in enumerate(pair.generated.records)}
    real_rows = {record.file_name: i for i, record in enumerate(pair.real.records)}
    return [
        Example(
            text=copy["text"],
            writer=copy["writer"],
            image=pair.generated.read(rows[copy["file_name"]]),
            caption=f"generated, {copy['file_name']}, distance {copy['distance']:.3f}; usual is"
            f" {copy['usual_distance']:.3f}",
            other=pair.real.read(real_rows[copy["copy_of"]]),
            other_caption=f"training image “{copy['copy_of_text']}” of {copy['copy_of_writer']},"
            f" {copy['copy_of']}",
        )
        for copy in copies
    ]
