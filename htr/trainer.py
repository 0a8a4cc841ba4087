"""The training of a CRNN recogniser: one step, validation, early stopping, checkpoints, results.

Everything random is a function of (seed, step), so that a resumed run goes on exactly as if it had not
stopped.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from htr.crnn import CRNN, FRAME, CRNNConfig
from htr.dataset import (
    WIDTH_STEP,
    Words,
    augment_words,
    count_by_folder,
    count_unknown,
    load_crops,
    make_batch,
    padded_width,
    pick_words,
    take_sample,
)
from htr.error_rates import ErrorRates, measure_errors
from htr.reading import frames_needed
from htr.recogniser import CRNNRecogniser
from utils.charset import Charset, order_along_line
from utils.device import choose_device, choose_precision
from utils.errors import UserError
from utils.output import write_atomically
from utils.resume import STATE_NAME, TRAINING_STATE, load_training_state, read_state, save_training_state
from utils.resume import read_settings as read_run_settings
from utils.sources import TrainingSet, read_image
from utils.training import EpochSampler, ExponentialMovingAverage, learning_rate_factor, make_generator
from utils.training_loop import Column, Intervals, run_training

LOG_COLUMNS = (
    Column(name="step", spec="d"),
    Column(name="loss", spec=".4f", is_mean=True, is_shown=True),
    Column(name="learning_rate", spec=".2e"),
    Column(name="valid_cer", spec=".4f", is_shown=True),
    Column(name="valid_wer", spec=".4f"),
    Column(name="words_per_second", spec=".1f"),
    Column(name="seconds", spec=".1f"),
)
RESULTS_NAME = "results.json"
VALIDATION_WORDS = 1000  # at most; of more, an even sample
WEIGHT_DECAY = 0.01


@dataclass(frozen=True, kw_only=True)
class HTRSettings:
    """What fixes the course of a training.

    Attributes:
        max_train_steps: step at which it ends, and by which the learning rate has come down.
        batch_size: words a step.
        learning_rate: peak of AdamW's.
        augment: whether the training words vary in slant, width, pen and scan.
        validate_every: steps between validations, each of which may make a checkpoint the best one.
        patience: validations without a better one after which it ends.
        seed: of weights, order, augmentation, dropout.
    """

    max_train_steps: int = 8000
    batch_size: int = 16
    learning_rate: float = 1e-3
    augment: bool = True
    validate_every: int = 500
    patience: int = 8
    seed: int = 0


class HTRTrainer:
    """Model, words and optimiser of one run; see ``utils.training_loop.Trainer``.

    Attributes:
        skipped: texts of training words whose image is too narrow for them.
        init_from: the recogniser that this one began as, if any.
        best: the weights with the lowest character error rate at a validation so far; None before the first.
    """

    accelerator = None

    def __init__(
        self,
        model: CRNN,
        train: TrainingSet,
        valid: Words,
        settings: HTRSettings,
        *,
        precision: str,
        device: torch.device,
    ) -> None:
        self.model, self.settings, self.precision, self.device = (
            model.to(device).train(),
            settings,
            precision,
            device,
        )
        self.step, self.stale, self.seconds, self.learning_rate = 0, 0, 0.0, 0.0
        self.last_step, self.batch_size = settings.max_train_steps, settings.batch_size
        self.init_from: str | None = None
        self.best: CRNN | None = None
        self.best_step, self.best_rates = None, None
        indices = train.train_indices()
        unique = sorted(set(indices))
        crops = load_crops([train.paths[i] for i in unique], img_height=model.config.img_height)
        frames = {i: padded_width(crop.shape[1]) // FRAME for i, crop in zip(unique, crops, strict=True)}
        self.skipped = [
            train.records[i].text for i in unique if frames_needed(train.records[i].text) > frames[i]
        ]
        kept = [i for i in indices if frames_needed(train.records[i].text) <= frames[i]]
        if not kept:
            raise UserError(
                f"each of the {len(unique)} words to train on is too narrow for its text, e.g."
                f" {self.skipped[0]!r}: a character needs {FRAME} pixels. Preprocess with a larger"
                " --img_size."
            )
        place = {index: i for i, index in enumerate(unique)}
        self.crops, self.texts = crops, [train.records[i].text for i in unique]
        self.num_words = len(set(kept))
        self.sampler = EpochSampler(
            [place[i] for i in kept], settings.batch_size, settings.seed, [frames[i] for i in kept]
        )
        self.valid_texts = [record.text for record in valid[0]]
        self.valid_crops = load_crops(valid[1], img_height=model.config.img_height)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.learning_rate, weight_decay=WEIGHT_DECAY
        )
        self.ema = ExponentialMovingAverage(model, 0.99)
        self.modules = (model, self.ema.module)

    @property
    def is_finished(self) -> bool:
        """Whether all steps are done, or validations stopped getting better."""
        return self.step >= self.settings.max_train_steps or self.stale >= self.settings.patience

    def draw_batch(self) -> tuple[Tensor, Tensor, list[str]]:
        """The (B, 1, H, W) pixel values, (B,) widths and texts of the step to come."""
        rows = self.sampler.batch(self.step).tolist()
        texts = [self.texts[row] for row in rows]
        pixel_values, widths = make_batch([self.crops[row] for row in rows])
        if self.settings.augment:
            generator = make_generator("cpu", self.settings.seed, self.step, 1)
            least = torch.tensor([padded_width(frames_needed(text) * FRAME) for text in texts])
            ink, widths = augment_words(
                (1 - pixel_values) / 2, widths, generator, step=WIDTH_STEP, least=least
            )
            pixel_values = 1 - 2 * ink
        return pixel_values, widths, texts

    def train_step(self) -> dict[str, Tensor]:
        """One optimiser step; returns the loss, nats a character, left on the device."""
        s = self.settings
        self.learning_rate = s.learning_rate * learning_rate_factor(
            self.step, warmup_steps=100, horizon=s.max_train_steps, schedule="cosine"
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        pixel_values, widths, texts = self.draw_batch()
        lengths = torch.tensor([len(text) for text in texts])
        labels = self.model.charset.encode([order_along_line(text) for text in texts], int(lengths.max()))
        torch.manual_seed(
            make_generator("cpu", s.seed, self.step, 2).initial_seed()
        )  # dropout has no generator of its own
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            log_probs = self.model(pixel_values.to(self.device), widths)
        loss = F.ctc_loss(log_probs.transpose(0, 1), labels.to(self.device), widths // FRAME, lengths)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.ema.update(self.model, self.step)
        return {"loss": loss.detach()}

    def validate(self) -> dict[str, float]:
        """Error rates of the averaged weights on the validation words; keeps the weights if they are the best
        so far.
        """
        readings = CRNNRecogniser(self.ema.module).read(self.valid_crops)
        rates = measure_errors(self.valid_texts, [reading.text for reading in readings])
        if self.best_rates is None or rates.cer < self.best_rates.cer:
            self.best, self.best_step, self.best_rates, self.stale = (
                copy.deepcopy(self.ema.module),
                self.step,
                rates,
                0,
            )
        else:
            self.stale += 1
        return {"valid_cer": rates.cer, "valid_wer": rates.wer}

    def write_checkpoint(self, folder: Path) -> None:
        """Fill a checkpoint's folder: the best weights, and how to go on."""
        best = {"best_step": self.best_step, "best_rates": self.best_rates and asdict(self.best_rates)}
        extra = {"step": self.step, **best, "words": self.num_words, "training": asdict(self.settings)}
        (self.best or self.ema.module).save_pretrained(folder, extra)
        state = {
            "step": self.step,
            "stale": self.stale,
            "seconds": self.seconds,
            **best,
            "init_from": self.init_from,
            "settings": asdict(self.settings),
        }
        save_training_state(folder / TRAINING_STATE, self.model, self.optimizer, self.ema, state)

    def write_preview(self, path: Path) -> None:
        """There are none."""

    def restore(self, checkpoint: Path) -> None:
        """Take over a checkpoint's state."""
        load_training_state(checkpoint, self.model, self.optimizer, self.ema)
        state = read_state(checkpoint, "step", "stale", "seconds", "best_step", "best_rates")
        self.step, self.stale, self.seconds = state["step"], state["stale"], state["seconds"]
        self.init_from = state.get("init_from")
        if state["best_rates"] is not None:
            self.best_step, self.best_rates = state["best_step"], ErrorRates(**state["best_rates"])
            self.best = CRNN.from_pretrained(checkpoint, flag="--save_path").to(self.device)


def make_model(train: TrainingSet, checkpoint: Path | None, init_from: Path | None, seed: int) -> CRNN:
    """A new CRNN for the training words, that of the checkpoint to resume, or one grown from ``init_from``.

    Raises:
        ValueError: if the images' height or characters don't fit the checkpoint.
    """
    indices = train.train_indices()
    characters = Charset.from_texts(train.records[i].text for i in indices).characters
    height = read_image(train.paths[indices[0]]).shape[0]
    torch.manual_seed(seed)
    if checkpoint is None and init_from is None:
        return CRNN(CRNNConfig(characters=characters, img_height=height))
    flag = "--resume" if checkpoint else "--init_from"
    model = CRNN.from_pretrained(checkpoint or init_from, flag=flag)
    if model.config.img_height != height:
        raise UserError(
            f"{flag} {checkpoint or init_from}: its images have {model.config.img_height} pixels height,"
            f" those of the words to train on {height}. Preprocess with that height in --img_size."
        )
    if checkpoint and (unknown := sorted(set(characters) - set(model.config.characters))):
        raise UserError(
            f"--resume: the word folders have characters that the run does not know: {unknown}. Start a new"
            " run from it with --init_from."
        )
    return (model if checkpoint else model.grow(characters)).requires_grad_(True)


def read_settings(checkpoint: Path) -> HTRSettings:
    """The settings that a checkpoint was made with."""
    values = read_state(checkpoint, "step", "settings")["settings"]
    return read_run_settings(HTRSettings, values, checkpoint / TRAINING_STATE / STATE_NAME)


def train_recogniser(
    train: TrainingSet,
    save_path: Path,
    *,
    valid: Words | None = None,
    test: Words | None = None,
    settings: HTRSettings | None = None,
    checkpoint: Path | None = None,
    init_from: Path | None = None,
    device: torch.device | None = None,
    mixed_precision: str | None = None,
    say: Callable[[str], None] = print,
) -> dict | None:
    """Train a recogniser, keep the best weights, measure them.

    Args:
        train: what ``train_indices`` gives trains.
        save_path: the run's folder: checkpoints, ``log.csv``, and at the end ``results.json``.
        valid: records (texts normalised) and images that choose the best weights; by default those that
            ``train`` holds out.
        test: measured once, at the end.
        checkpoint: of this run, to go on from; it must have been made with the same words for the same
            course.
        init_from: another recogniser to start from, unless there is a checkpoint.
        mixed_precision: ``no`` or ``bf16``; None is bf16 where it is native.
        say: what messages go to.
    Returns:
        What ``results.json`` holds, or None if SIGTERM or Ctrl-C stopped the training; its state is saved
        then.
    Raises:
        FileNotFoundError, ValueError: if images are missing, damaged, or of different heights, or nothing is
            left to train on.
    """
    device = choose_device(device)
    precision = choose_precision(mixed_precision, device)
    settings = settings or (read_settings(checkpoint) if checkpoint else HTRSettings())
    train = replace(train, holds_out=valid is None)
    valid = take_sample(
        valid or pick_words(train.records, train.paths, train.val_indices()), VALIDATION_WORDS
    )
    model = make_model(train, checkpoint, init_from, settings.seed)
    test_crops = (
        load_crops(test[1], img_height=model.config.img_height) if test else []
    )  # now, so that bad ones stop it now
    trainer = HTRTrainer(model, train, valid, settings, precision=precision, device=device)
    trainer.init_from = str(init_from) if init_from else None
    if checkpoint:
        trainer.restore(checkpoint)
        say(f"resumed     {checkpoint} at step {trainer.step}")
    sets = {"valid": valid, **({"test": test} if test else {})}
    texts = {name: [record.text for record in records] for name, (records, _) in sets.items()}
    unknown = {name: count_unknown(of_set, model.charset) for name, of_set in texts.items()}
    _describe(trainer, texts, unknown, say)

    # A validation is a part of the course: it may choose the best weights, and end the training.
    intervals = Intervals(
        save_every=settings.validate_every, validate_every=settings.validate_every, validates_at_stop=False
    )
    run_training(trainer, save_path, LOG_COLUMNS, intervals)
    if not trainer.is_finished:
        return None
    if trainer.best is None:  # --max_train_steps was lowered under a checkpoint that had no validation
        trainer.validate()
    results = {
        "settings": asdict(settings),
        "init_from": trainer.init_from,
        "mixed_precision": precision,
        "train": count_by_folder(train, train.train_indices()),
        "words": trainer.num_words,
        "skipped": len(trainer.skipped),
        "unknown_characters": unknown,
        "step": trainer.step,
        "best_step": trainer.best_step,
        "valid": asdict(trainer.best_rates),
        "test": None,
        "seconds": round(trainer.seconds, 1),
    }
    if test:
        readings = CRNNRecogniser(trainer.best).read(test_crops)
        results["test"] = asdict(measure_errors(texts["test"], [reading.text for reading in readings]))
    write_atomically(save_path / RESULTS_NAME, json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    return results


def _describe(
    trainer: HTRTrainer,
    texts: dict[str, list[str]],
    unknown: dict[str, dict[str, int]],
    say: Callable[[str], None],
) -> None:
    counts = ", ".join(
        f"{len(of_set)} to {'validate on' if name == 'valid' else 'test on'}"
        for name, of_set in texts.items()
    )
    say(
        f"words       {trainer.num_words} to train on ({len(trainer.sampler.indices)} an epoch), {counts}; "
        f"{trainer.model.charset.describe()}"
    )
    if trainer.skipped:
        say(
            f"skipped     {len(trainer.skipped)} words whose image is too narrow for their text, e.g."
            f" {trainer.skipped[0]!r}"
        )
    for name, counted in unknown.items():
        if counted:
            count = sum(bool(set(text) & counted.keys()) for text in texts[name])
            say(
                f"note        {count} of {len(texts[name])} {name} words can't be read right: no training"
                f" word has their {' '.join(counted)}"
            )
    size = sum(p.numel() for p in trainer.model.parameters()) / 1e6
    say(f"model       {size:.2f} M parameters on {trainer.device}, precision {trainer.precision}")
