"""A recogniser's training from its images to its results: the model, the run, the error rates at its end."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from htr.crnn import CRNN, PRESETS, CRNNConfig
from htr.dataset import Words, count_by_folder, count_unknown, load_crops, pick_words, take_sample
from htr.error_rates import measure_errors
from htr.recogniser import CRNNRecogniser
from htr.trainer import LOG_COLUMNS, HTRSettings, HTRTrainer, read_settings
from utils.charset import Charset
from utils.device import choose_device, choose_precision
from utils.errors import UserError
from utils.output import write_atomically
from utils.sources import TrainingSet, read_image
from utils.training_loop import Intervals, run_training

RESULTS_NAME = "results.json"
VALIDATION_IMAGES = 1000  # at most; of more, an even sample


def make_model(
    train: TrainingSet,
    checkpoint: Path | None,
    init_from: Path | None,
    seed: int,
    *,
    preset: str = "small",
    height: int | None = None,
) -> CRNN:
    """A new CRNN for the training images, that of the checkpoint to resume, or one grown from ``init_from``.

    Args:
        preset: size of a new one, a name of ``PRESETS``.
        height: to which a new one scales all images, pixels; by default that of the first training image.
    Raises:
        UserError: if the images' characters don't fit the checkpoint, or the height is no multiple of 16.
    """
    indices = train.train_indices()
    characters = Charset.from_texts(train.records[i].text for i in indices).characters
    torch.manual_seed(seed)
    if checkpoint is None and init_from is None:
        height = height or read_image(train.paths[indices[0]]).shape[0]
        return CRNN(CRNNConfig(characters=characters, img_height=height, **PRESETS[preset]))
    flag = "--resume" if checkpoint else "--init_from"
    model = CRNN.from_pretrained(checkpoint or init_from, flag=flag)
    if checkpoint and (unknown := sorted(set(characters) - set(model.config.characters))):
        raise UserError(
            f"--resume: the folders have characters that the run does not know: {unknown}. Start a new"
            " run from it with --init_from."
        )
    return (model if checkpoint else model.grow(characters)).requires_grad_(True)


def train_recogniser(
    train: TrainingSet,
    save_path: Path,
    *,
    valid: Words | None = None,
    test: Words | None = None,
    settings: HTRSettings | None = None,
    checkpoint: Path | None = None,
    init_from: Path | None = None,
    preset: str = "small",
    height: int | None = None,
    device: torch.device | None = None,
    mixed_precision: str | None = None,
    report: Callable[[str], None] = print,
) -> dict | None:
    """Train a recogniser, keep the best weights, measure them.

    Args:
        train: what ``train_indices`` gives trains.
        save_path: the run's folder: checkpoints, ``log.csv``, and at the end ``results.json``.
        valid: records (texts normalised) and images that choose the best weights; by default those that
            ``train`` holds out.
        test: measured once, at the end.
        checkpoint: of this run, to go on from; it must have been made with the same images and settings.
        init_from: another recogniser to start from, unless there is a checkpoint.
        preset, height: of a new recogniser, see ``make_model``.
        mixed_precision: ``no`` or ``bf16``; None is bf16 where it is native.
        report: takes lines about the training.
    Returns:
        What ``results.json`` holds, or None if SIGTERM or Ctrl-C stopped the training; its state is saved
        then.
    Raises:
        FileNotFoundError, UserError: if images are missing or damaged, or nothing is left to train on.
    """
    device = choose_device(device)
    precision = choose_precision(mixed_precision, device)
    settings = settings or (read_settings(checkpoint) if checkpoint else HTRSettings())
    train = replace(train, holds_out=valid is None)
    valid = valid or pick_words(train.records, train.paths, train.val_indices())
    valid = take_sample(valid, VALIDATION_IMAGES)
    model = make_model(train, checkpoint, init_from, settings.seed, preset=preset, height=height)
    # Now, and not hours later: a damaged test image stops it before the training.
    test_crops = load_crops(test[1], img_height=model.config.img_height) if test else []
    trainer = HTRTrainer(model, train, valid, settings, precision=precision, device=device)
    trainer.init_from = str(init_from) if init_from else None
    if checkpoint:
        trainer.restore(checkpoint)
        report(f"resumed     {checkpoint} at step {trainer.step}")
    texts = {"valid": [record.text for record in valid[0]]}
    if test:
        texts["test"] = [record.text for record in test[0]]
    unknown = {name: count_unknown(of_set, model.charset) for name, of_set in texts.items()}
    describe_training(trainer, texts, unknown, report)

    # A validation is a part of the course: it may choose the best weights, and end the training.
    every = settings.validate_every
    intervals = Intervals(save_every=every, validate_every=every, validates_at_stop=False)
    run_training(trainer, save_path, LOG_COLUMNS, intervals)
    if not trainer.is_finished:
        return None
    if trainer.best is None:  # --max_train_steps was lowered under a checkpoint that had no validation
        trainer.validate()
    results = {
        **summarise_training(trainer),
        "train": count_by_folder(train, train.train_indices()),
        "unknown_characters": unknown,
        "test": None,
    }
    if test:
        readings = CRNNRecogniser(trainer.best).read(test_crops)
        results["test"] = asdict(measure_errors(texts["test"], [reading.text for reading in readings]))
    write_atomically(save_path / RESULTS_NAME, json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    return results


def summarise_training(trainer: HTRTrainer) -> dict:
    """What a finished training was, and how good its best weights are on the validation images."""
    return {
        "settings": asdict(trainer.settings),
        "init_from": trainer.init_from,
        "mixed_precision": trainer.precision,
        "words": trainer.num_words,
        "skipped": len(trainer.skipped),
        "step": trainer.step,
        "best_step": trainer.best_step,
        "valid": asdict(trainer.best_rates),
        "seconds": round(trainer.seconds, 1),
    }


def describe_training(
    trainer: HTRTrainer,
    texts: Mapping[str, Sequence[str]],
    unknown: Mapping[str, Mapping[str, int]],
    report: Callable[[str], None],
) -> None:
    """Report what is trained on, what is left out, and what can't be read.

    Args:
        texts: by set (``valid``, ``test``).
        unknown: by set, in how many texts each character stands that no training text has.
    """
    counts = ", ".join(
        f"{len(of_set)} to {'validate on' if name == 'valid' else 'test on'}"
        for name, of_set in texts.items()
    )
    report(
        f"images      {trainer.num_words} to train on ({len(trainer.sampler.indices)} an epoch), {counts}; "
        f"{trainer.model.charset.describe()}"
    )
    if trainer.skipped:
        report(
            f"skipped     {len(trainer.skipped)} images that are too narrow for their text, e.g."
            f" {trainer.skipped[0]!r}"
        )
    for name, counted in unknown.items():
        if counted:
            count = sum(bool(set(text) & counted.keys()) for text in texts[name])
            report(
                f"note        {count} of {len(texts[name])} {name} texts can't be read right: no training"
                f" text has their {' '.join(counted)}"
            )
    size = sum(parameter.numel() for parameter in trainer.model.parameters()) / 1e6
    report(f"model       {size:.2f} M parameters on {trainer.device}, precision {trainer.precision}")
