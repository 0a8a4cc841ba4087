"""The steps of the augmentation study: fractions, their generators, generated images, recognisers.

Each step is left out where it was done before, so that the same command started again goes on.
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch

from evaluation.fractions import choose_fraction, copy_images, hold_out_val
from evaluation.study import ARMS, UNITS, Arm, RunErrors
from htr.crnn import CRNN
from htr.dataset import load_crops, read_split
from htr.error_rates import count_errors
from htr.recogniser import CRNNRecogniser
from htr.trainer import HTRSettings
from htr.training import train_recogniser
from utils.checkpoint import checkpoint_step, list_checkpoints
from utils.cli import call_script, flags
from utils.errors import UserError
from utils.json_files import read_json
from utils.output import write_atomically
from utils.sources import parse_sources, read_sources
from utils.text_images import METADATA_NAME, read_text_images
from utils.training_loop import claim_run

READINGS_NAME = "test_readings.json"


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """What a study is made of; see the flags of the same names."""

    dataset_path: Path
    save_path: Path
    fractions: Sequence[float]
    seeds: int
    generator: Path
    generator_steps: int
    generator_learning_rate: float | None
    generator_batch_size: int | None
    full_generator: Path | None
    synthetic: float
    words_file: Path | None
    recogniser: str | None
    best_of: int | None
    max_cer: float | None
    normalise: str | None
    num_steps: int | None
    inference_batch_size: int | None
    htr_steps: int
    htr_batch_size: int
    htr_learning_rate: float
    patience: int
    validate_every: int
    init_from: Path | None
    real_share: float
    mixed_precision: str | None


@dataclass(frozen=True, kw_only=True)
class Task:
    """One recogniser to train: an arm at a fraction with a seed.

    Attributes:
        train: sources, as ``htr/train_htr.py`` takes them.
        init_from: the recogniser that it starts from, if any.
    """

    arm: Arm
    fraction: float
    seed: int
    train: tuple[str, ...]
    folder: Path
    init_from: Path | None


def fraction_name(fraction: float) -> str:
    """Folder name of a fraction, in the order of the numbers."""
    return f"fraction_{fraction:06.2f}"


def fine_tune(settings: StudySettings, part: Path, folder: Path, device: str | None) -> None:
    """Fine-tune --generator on the images of ``part`` and nothing else."""
    finished = folder / "finished.json"
    if finished.is_file():
        return
    start = time.monotonic()
    checkpoints = list_checkpoints(folder)
    call_script(
        "train_diffusion.py",
        [
            "--dataset_path",
            part,
            "--save_path",
            folder,
            *(["--resume"] if checkpoints else ["--init_from", settings.generator]),
            *flags(
                max_train_steps=settings.generator_steps,
                learning_rate=settings.generator_learning_rate,
                batch_size=settings.generator_batch_size,
                save_every=max(1, min(500, settings.generator_steps)),
                keep_checkpoints=1,
                mixed_precision=settings.mixed_precision,
            ),
        ],
        folder.with_suffix(".log"),
        device,
    )
    if checkpoint_step(list_checkpoints(folder)[-1]) < settings.generator_steps:  # it was stopped, and saved
        raise UserError(
            f"{folder}: the generator's training was stopped. Start the same command again to go on."
        )
    write_atomically(finished, json.dumps({"seconds": round(time.monotonic() - start, 1)}))


def write_images(
    settings: StudySettings,
    model: Path,
    part: Path,
    folder: Path,
    per_writer: int,
    writers: Sequence[str],
    device: str | None,
) -> None:
    """Generate images by writers of ``part``, none with a text of its split train."""
    if (folder / METADATA_NAME).is_file():
        return
    call_script(
        "inference.py",
        [
            "--models_path",
            model,
            "--dataset_path",
            part,
            "--oov",
            per_writer,
            "--oov_scope",
            "dataset",
            "--save_path",
            folder,
            "--seed",
            1,
            "--writer",
            *writers,
            *flags(
                words_file=settings.words_file,
                recogniser=settings.recogniser,
                best_of=settings.best_of,
                max_cer=settings.max_cer,
                normalise=settings.normalise,
                num_steps=settings.num_steps,
                batch_size=settings.inference_batch_size,
                mixed_precision=settings.mixed_precision,
            ),
        ],
        folder.with_suffix(".log"),
        device,
    )


def make_tasks(settings: StudySettings, parts: dict[float, Path]) -> list[Task]:
    """All recognisers, fraction by fraction."""
    arms = [arm for arm in ARMS if not arm.is_upper_bound or settings.full_generator]
    tasks = []
    for fraction, part in parts.items():
        root = settings.save_path / fraction_name(fraction)
        folder = root / "recognisers"
        real, mixed, synthetic = str(part), f"{part}:{settings.real_share:g}", str(root / "synthetic")
        sources = {
            "real": (real,),
            "synthetic": (synthetic,),
            "mixed": (mixed, synthetic),
            "then_real": (real,),
            "upper_bound": (mixed, str(settings.save_path / "synthetic_full")),
        }
        for arm, seed in product(arms, range(settings.seeds)):
            tasks.append(
                Task(
                    arm=arm,
                    fraction=fraction,
                    seed=seed,
                    train=sources[arm.slug],
                    folder=folder / f"{arm.slug}-{seed}",
                    init_from=folder / f"{arm.starts_from}-{seed}" if arm.starts_from else settings.init_from,
                )
            )
    return tasks


def train_task(settings: StudySettings, task: Task, part: Path, device: torch.device) -> None:
    """Train one recogniser, and save what it reads in the test images."""
    if (task.folder / READINGS_NAME).is_file():
        return
    htr_settings = HTRSettings(
        max_train_steps=settings.htr_steps,
        batch_size=settings.htr_batch_size,
        learning_rate=settings.htr_learning_rate,
        validate_every=settings.validate_every,
        patience=settings.patience,
        seed=task.seed,
    )
    train = read_sources(parse_sources(task.train, flag="--dataset_path"))
    with claim_run(task.folder, bool(list_checkpoints(task.folder))) as checkpoint:
        results = train_recogniser(
            train,
            task.folder,
            valid=read_split(part, "val", flag="--dataset_path"),
            settings=htr_settings,
            checkpoint=checkpoint,
            init_from=task.init_from,
            device=device,
            mixed_precision=settings.mixed_precision,
        )
    if results is None:
        raise KeyboardInterrupt
    model = CRNN.from_pretrained(task.folder).to(device)
    records, paths = read_split(settings.dataset_path, "test", flag="--dataset_path")
    readings = CRNNRecogniser(model).read(load_crops(paths, img_height=model.config.img_height))
    texts = [record.text for record in records]
    read = [reading.text for reading in readings]
    counts = {unit: [column.tolist() for column in count_errors(texts, read, unit=unit)] for unit in UNITS}
    content = {
        "readings": read,
        **counts,
        "trained_on": results["words"],
        "best_step": results["best_step"],
        "seconds": results["seconds"],
    }
    write_atomically(task.folder / READINGS_NAME, json.dumps(content, ensure_ascii=False))


def prepare(settings: StudySettings) -> tuple[dict[float, Path], int, list[str]]:
    """The folders of the fractions, the number of generated images of each writer, and the writers.

    Raises:
        ValueError: if a split is missing.
    """
    records = hold_out_val(read_text_images(settings.dataset_path))
    for split in ("train", "val", "test"):
        if not any(record.split == split for record in records):
            raise UserError(
                f"--dataset_path {settings.dataset_path}: no image of split {split}. A study trains on train"
                " and measures on test; process_dataset.py makes both."
            )
    writers = sorted({record.writer for record in records if record.split == "train"})
    train = sum(record.split == "train" for record in records)
    parts = {}
    for fraction in settings.fractions:
        parts[fraction] = settings.save_path / fraction_name(fraction) / "real"
        if not (parts[fraction] / METADATA_NAME).is_file():
            copy_images(settings.dataset_path, choose_fraction(records, fraction / 100), parts[fraction])
    return parts, max(1, math.ceil(settings.synthetic * train / len(writers))), writers


def collect(tasks: Sequence[Task]) -> list[RunErrors]:
    """What each finished recogniser read wrong.

    Raises:
        UserError: if a file of readings is damaged; the message names it.
    """
    errors = []
    for task in tasks:
        path = task.folder / READINGS_NAME
        values = read_json(path)
        if missing := [name for name in (*UNITS, "trained_on", "seconds") if name not in values]:
            raise UserError(f"{path}: damaged, no entry {missing[0]}. Remove it and start the command again.")
        errors.append(
            RunErrors(
                arm=task.arm,
                fraction=task.fraction,
                seed=task.seed,
                characters=values["characters"],
                words=values["words"],
                trained_on=values["trained_on"],
                seconds=values["seconds"],
            )
        )
    return errors
