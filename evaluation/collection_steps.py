"""The steps of a study of one collection: its settings, its lines, its recognisers.

Each step is left out where it was done before, so that the same command started again goes on.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from evaluation.fractions import copy_images
from evaluation.study import UNITS, Arm
from htr.crnn import CRNN
from htr.dataset import Words, load_crops, read_split
from htr.error_rates import count_errors
from htr.recogniser import CRNNRecogniser
from htr.trainer import HTRSettings
from htr.training import train_recogniser
from utils.checkpoint import list_checkpoints
from utils.json_files import read_json
from utils.output import write_atomically
from utils.sources import parse_sources, read_sources
from utils.text_images import METADATA_NAME, TextImage
from utils.training_loop import claim_run

READINGS_NAME = "test_readings.json"
COURSE_NAME = "course.json"
SECONDS_NAME = "seconds.json"
ADAPTATIONS = ("fit_hand", "fine_tune")
HELD_OUT = 0.2  # of the lines at hand: they choose rate and steps
LEAST_STEPS = 0.25  # of the most: a choice by few lines is not sure enough for less

REAL = Arm(name="a: real lines", slug="real")
FONTS = Arm(name="b: font lines, then real", slug="fonts", starts_from="font_lines")
GENERATED = Arm(name="c: generated lines, then real", slug="generated", starts_from="generated_lines")
PSEUDO = Arm(name="e: other lines as a reads them, then real", slug="pseudo", starts_from="pseudo_lines")
BOTH = Arm(name="f: those of c and e, then real", slug="both", starts_from="both_lines")
UPPER = Arm(name="d: all real lines of the collection", slug="upper", is_upper_bound=True)
ARMS = (REAL, FONTS, GENERATED, PSEUDO, BOTH, UPPER)


@dataclass(frozen=True, kw_only=True)
class CollectionSettings:
    """What a study of a collection is made of; see the flags of the same names."""

    collection: Path
    save_path: Path
    generator: Path
    init_from: Path
    items: Sequence[int] = (10, 30, 100, 300)
    seeds: int = 1
    one_hand: bool = True
    adapt: str = ADAPTATIONS[0]
    generator_steps: int | None = None
    corpus: Path | None = None
    synthetic: int = 400
    keep: float = 0.8
    variation: float | None = None
    first_share: float = 0.9
    first_real: float = 0.5
    sure: float = 0.6
    htr_steps: int = 400
    htr_batch_size: int = 8
    rates: Sequence[float] = (3e-4,)
    num_steps: int | None = None
    inference_batch_size: int | None = None
    mixed_precision: str | None = None


@dataclass(frozen=True, kw_only=True)
class Course:
    """How the recognisers of one number of lines are fine-tuned: steps in all, peak of the learning rate."""

    steps: int
    learning_rate: float


@contextmanager
def timed(folder: Path, name: str) -> Iterator[None]:
    """Note in ``seconds.json`` how long a step took, also one that is stopped."""
    start = time.monotonic()
    try:
        yield
    finally:
        path = folder / SECONDS_NAME
        values = read_json(path) if path.is_file() else {}
        values[name] = round(values.get(name, 0) + time.monotonic() - start, 1)
        write_atomically(path, json.dumps(values, indent=2))


def copy_lines(settings: CollectionSettings, lines: Sequence[TextImage], folder: Path) -> None:
    """A folder of some lines of the collection, all of split train."""
    if not (folder / METADATA_NAME).is_file():
        copy_images(settings.collection, [replace(line, split="train") for line in lines], folder)


def settings_of(
    settings: CollectionSettings, course: Course, seed: int, *, validations: int = 1
) -> HTRSettings:
    """A fine-tuning's settings; it never ends before its steps."""
    return HTRSettings(
        max_train_steps=course.steps,
        batch_size=settings.htr_batch_size,
        learning_rate=course.learning_rate,
        warmup_steps=max(1, min(50, course.steps // 10)),
        validate_every=max(1, course.steps // validations),
        patience=validations + 1,
        seed=seed,
    )


def fine_tune_recogniser(
    settings: CollectionSettings,
    folder: Path,
    train: Sequence[str],
    start: Path,
    htr_settings: HTRSettings,
    device: torch.device,
    *,
    valid: Words | None = None,
) -> dict:
    """Fine-tune a recogniser on all lines of some folders, or go on with it.

    Args:
        train: folders with their shares, as ``--train`` takes them.
        valid: lines that choose the best weights; without them the last weights count.
    Returns:
        Its ``results.json``.
    """
    results = folder / "results.json"
    if results.is_file():
        return read_json(results)
    words = read_sources(parse_sources(train, flag="--collection"), flag="--collection")
    with claim_run(folder, bool(list_checkpoints(folder))) as checkpoint:
        done = train_recogniser(
            words,
            folder,
            valid=valid or (words.records[:1], words.paths[:1]),
            settings=htr_settings,
            checkpoint=checkpoint,
            init_from=start,
            device=device,
            mixed_precision=settings.mixed_precision,
        )
    if done is None:
        raise KeyboardInterrupt
    return done


def choose_course(
    settings: CollectionSettings, lines: Sequence[TextImage], folder: Path, device: torch.device
) -> Course:
    """Rate and steps of arm a, by a part of the lines at hand that is held out for it: the last fifth."""
    path = folder / COURSE_NAME
    if path.is_file():
        values = read_json(path)
        return Course(steps=values["steps"], learning_rate=values["learning_rate"])
    count = max(1, round(HELD_OUT * len(lines)))
    copy_lines(settings, lines[:-count], folder / "course_train")
    copy_lines(settings, lines[-count:], folder / "course_valid")
    valid = read_split(folder / "course_valid", "train", flag="--collection")
    tried = []
    for rate in settings.rates:
        course = Course(steps=settings.htr_steps, learning_rate=rate)
        run = folder / f"course_{rate:g}"
        results = fine_tune_recogniser(
            settings,
            run,
            [str(folder / "course_train")],
            settings.init_from,
            settings_of(settings, course, 0, validations=8),
            device,
            valid=valid,
        )
        tried.append((results["valid"]["cer"], results["best_step"], rate))
    cer, step, rate = min(tried)
    steps = max(step, round(LEAST_STEPS * settings.htr_steps), 2)
    values = {"steps": steps, "learning_rate": rate, "held_out": count, "valid_cer": cer, "tried": tried}
    write_atomically(path, json.dumps(values, indent=2))
    return Course(steps=steps, learning_rate=rate)


def save_readings(
    folder: Path, model_folder: Path, collection: Path, device: torch.device, **more: object
) -> None:
    """What a recogniser reads in the collection's test lines."""
    records, paths = read_split(collection, "test", flag="--collection")
    model = CRNN.from_pretrained(model_folder).to(device)
    readings = CRNNRecogniser(model).read(load_crops(paths, img_height=model.config.img_height))
    texts, read = [record.text for record in records], [reading.text for reading in readings]
    counts = {unit: [column.tolist() for column in count_errors(texts, read, unit=unit)] for unit in UNITS}
    content = {"texts": texts, "readings": read, **counts, **more}
    write_atomically(folder / READINGS_NAME, json.dumps(content, ensure_ascii=False))


def label_lines(
    settings: CollectionSettings, others: Sequence[TextImage], folder: Path, judge: Path, device: torch.device
) -> Path:
    """Lines that nobody has transcribed, with what the recogniser of arm a reads in them as their texts: the
    share ``--sure`` that it is surest of. The texts that ``others`` have play no part.

    Source: pseudo-labels, Lee 2013, section 2 (ICML workshop on challenges in representation learning).
    """
    target = folder / "pseudo"
    if (target / METADATA_NAME).is_file():
        return target
    model = CRNN.from_pretrained(judge).to(device)
    paths = [settings.collection / record.file_name for record in others]
    readings = CRNNRecogniser(model).read(load_crops(paths, img_height=model.config.img_height))
    read = [(reading, record) for reading, record in zip(readings, others, strict=True) if reading.text]
    read.sort(key=lambda pair: -pair[0].character_confidence)
    kept = read[: round(settings.sure * len(read))]
    if kept:
        records = [replace(record, text=reading.text, split="train") for reading, record in kept]
        copy_images(settings.collection, records, target)
    return target
