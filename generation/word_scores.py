"""How good generated words are, one by one, and which of them are the best."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from htr.error_rates import character_error_rates
from htr.recogniser import Recogniser, load_recogniser
from utils.errors import UserError
from utils.images import pixel_difference
from utils.sources import read_image
from utils.text_images import TextImage, read_jsonl, read_text_images

HIGHER_IS_BETTER = {"confidence": True, "cer": False, "nmae": False}
CHUNK = 256  # words that are scored, and noted, together
Score = dict[str, object]  # of a word: numbers and texts by name, or the "reason" for not having any


def score_by_reading(
    records: Sequence[TextImage], folder: Path, recogniser: Recogniser, normalise: str
) -> list[Score]:
    """``confidence``, ``cer`` and ``reading`` of words; ``reason`` of those whose image is missing or
    damaged.
    """
    scores: list[Score] = [{} for _ in records]
    images, rows = [], []
    for row, record in enumerate(records):
        try:
            images.append(read_image(folder / record.file_name))
            rows.append(row)
        except (UserError, FileNotFoundError):
            scores[row] = {"reason": "damaged_image"}
    readings = recogniser.read(images) if images else []
    texts = [records[row].text for row in rows]
    rates = character_error_rates(texts, [reading.text for reading in readings], normalise)
    for row, reading, rate in zip(rows, readings, rates.tolist(), strict=True):
        scores[row] = {
            "confidence": round(reading.confidence, 4),
            "cer": round(rate, 4),
            "reading": reading.text,
        }
    return scores


def score_by_pixels(
    records: Sequence[TextImage], folder: Path, reference: Path, names: set[str]
) -> list[Score]:
    """``nmae`` of words; ``reason`` of those without a record of the same name, or with a damaged image.

    Args:
        names: file names of the records of ``reference``.
    """
    scores: list[Score] = []
    for record in records:
        if record.file_name not in names:
            scores.append({"reason": "no_reference"})
            continue
        try:
            generated, real = (read_image(root / record.file_name) for root in (folder, reference))
        except (UserError, FileNotFoundError):
            scores.append({"reason": "damaged_image"})
            continue
        if generated.shape[0] != real.shape[0]:
            raise UserError(
                f"--reference {reference}: {record.file_name} is {real.shape[0]} pixels high, that of "
                f"--dataset_path {generated.shape[0]}. Preprocess both with one --img_size."
            )
        scores.append({"nmae": round(pixel_difference(generated, real), 5)})
    return scores


def read_scores(records: Sequence[TextImage], by: str, folder: Path) -> dict[str, Score]:
    """The scores that inference left in the metadata, by file name.

    Raises:
        UserError: if a word has none.
    """
    if not all(by in record.extra for record in records):
        raise UserError(f"--by {by}: the words of {folder} have no such score yet. Give --recogniser.")
    return {record.file_name: dict(record.extra) for record in records}


def make_reader(
    folder: Path, recogniser: str, normalise: str
) -> Callable[[Sequence[TextImage]], list[Score]]:
    """A function that scores words of ``folder`` by what a recogniser reads."""
    loaded = load_recogniser(recogniser)
    return lambda records: score_by_reading(records, folder, loaded, normalise)


def make_comparison(
    folder: Path, reference: Path, records: Sequence[TextImage]
) -> Callable[[Sequence[TextImage]], list[Score]]:
    """A function that scores words of ``folder`` by how near they are to the real ones of ``reference``.

    Raises:
        UserError: if no record of ``reference`` has the name of one of ``records``.
    """
    names = {record.file_name for record in read_text_images(reference, flag="--reference")}
    if not names & {record.file_name for record in records}:
        raise UserError(
            f"--reference {reference}: no record has the name of one in {folder}."
            " Generated words are paired with real ones by inference.py --dataset_path REAL."
        )
    return lambda chosen: score_by_pixels(chosen, folder, reference, names)


def score_words(
    records: Sequence[TextImage], score: Callable[[Sequence[TextImage]], list[Score]], path: Path
) -> dict[str, Score]:
    """The scores of words by file name; those that ``path`` holds from an interrupted run are taken over.

    Args:
        path: where the scores are noted, chunk by chunk.
    """
    scores = {values.pop("file_name"): values for values in read_jsonl(path)}
    missing = [record for record in records if record.file_name not in scores]
    with tqdm(total=len(records), initial=len(scores), unit="word", desc="score") as bar:
        for first in range(0, len(missing), CHUNK):
            chunk = missing[first : first + CHUNK]
            new = score(chunk)
            with path.open("a", encoding="utf-8") as file:
                file.write("\n")  # behind a line that a kill cut off
                for record, values in zip(chunk, new, strict=True):
                    scores[record.file_name] = values
                    line = {"file_name": record.file_name, **values}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
            bar.update(len(chunk))
    return scores


def choose_best(
    records: Sequence[TextImage], scores: dict[str, Score], by: str, top: float, balance: Sequence[str] = ()
) -> set[str]:
    """File names of the best words: ``top`` percent of all, and as nearly as whole words allow of each group.

    Args:
        balance: ``writer`` and ``length`` (of the text): what a group has in common.
    Raises:
        UserError: if ``top`` is not above 0 and at most 100.
    """
    if not 0 < top <= 100:
        raise UserError(f"--top {top:g}: a percentage above 0, at most 100")
    groups: dict[tuple, list[TextImage]] = defaultdict(list)
    for record in records:
        values = {"writer": record.writer, "length": len(record.text)}
        groups[tuple(values[name] for name in balance)].append(record)
    sign = -1 if HIGHER_IS_BETTER[by] else 1
    chosen: set[str] = set()
    seen = 0
    for _, group in sorted(groups.items()):
        seen += len(group)
        # Rounded over the running sum: small groups would else all round the same way.
        count = round(seen * top / 100) - len(chosen)
        ranked = sorted(group, key=lambda record: (sign * scores[record.file_name][by], record.file_name))
        chosen |= {record.file_name for record in ranked[:count]}
    return chosen
