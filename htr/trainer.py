"""The training of a CRNN recogniser: one step, validation, early stopping, checkpoints, results.

Everything random is a function of (seed, step), so that a resumed run goes on exactly as if it had not
stopped.
"""

import copy
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

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
from utils.checkpoint import (
    STATE_NAME,
    TRAINING_STATE,
    load_training_state,
    save_checkpoint,
    save_training_state,
    truncate_csv,
)
from utils.device import has_fast_bf16
from utils.errors import UserError
from utils.output import write_atomically
from utils.sources import TrainingSet, read_image
from utils.training import (
    EpochSampler,
    ExponentialMovingAverage,
    StopFlag,
    learning_rate_factor,
    make_generator,
)

LOG_COLUMNS = ("step", "loss", "learning_rate", "valid_cer", "valid_wer", "words_per_second", "seconds")
LOG_EVERY = 50  # steps
RESULTS_NAME = "results.json"
VALIDATION_WORDS = 1000  # at most; of more, an even sample
WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
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
    """Model, words and optimiser of one run.

    Attributes:
        skipped: texts of training words whose image is too narrow for them.
        init_from: the recogniser that this one began as, if any.
        best: the weights with the lowest character error rate at a validation so far; None before the first.
    """

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
        self.step, self.stale, self.seconds = 0, 0, 0.0
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

    def train_step(self) -> float:
        """One optimiser step; returns the loss, nats a character."""
        s = self.settings
        rate = s.learning_rate * learning_rate_factor(
            self.step, warmup_steps=100, horizon=s.max_train_steps, schedule="cosine"
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        pixel_values, widths, texts = self.draw_batch()
        lengths = torch.tensor([len(text) for text in texts])
        labels = self.model.charset.encode([order_along_line(text) for text in texts], int(lengths.max()))
        torch.manual_seed(
            make_generator("cpu", s.seed, self.step, 2).initial_seed()
        )  # dropout has no generator of its own
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            log_probs = self.model(pixel_values.to(self.device), widths)
        loss = F.ctc_loss(log_probs.transpose(0, 1), labels.to(self.device), widths // FRAME, lengths)
        if not torch.isfinite(loss):
            raise UserError(
                f"the loss is not finite at step {self.step}: lower --learning_rate {s.learning_rate}"
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.ema.update(self.model, self.step)
        return loss.item()

    def validate(self) -> ErrorRates:
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
        return rates

    def save(self, run_folder: Path) -> None:
        """Save the run's state as its newest checkpoint, whole or not at all: the best weights, and how to go
        on.
        """

        def write(folder: Path) -> None:
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
            save_training_state(
                folder / TRAINING_STATE, self.model, self.optimizer, state, self.ema.state_dict()
            )

        save_checkpoint(run_folder, self.step, write, keep=2)

    def restore(self, checkpoint: Path) -> None:
        """Take over a checkpoint's state."""
        state, averages = load_training_state(checkpoint / TRAINING_STATE, self.model, self.optimizer)
        self.ema.load_state_dict(averages)
        self.step, self.stale, self.seconds = state["step"], state["stale"], state["seconds"]
        self.init_from = state.get("init_from")
        if state["best_rates"] is not None:
            self.best_step, self.best_rates = state["best_step"], ErrorRates(**state["best_rates"])
            self.best = CRNN.from_pretrained(checkpoint, flag="--save_path").to(self.device)


def train_until_done(trainer: HTRTrainer, run_folder: Path) -> bool:
    """The loop; returns whether it came to its end (False: a signal stopped it, and the state is saved)."""
    truncate_csv(run_folder / "log.csv", trainer.step, LOG_COLUMNS)
    settings, before, start, first_step = trainer.settings, trainer.seconds, time.monotonic(), trainer.step
    losses: list[float] = []
    with (
        StopFlag() as stop,
        tqdm(total=settings.max_train_steps, initial=trainer.step, unit="step", desc="train") as bar,
    ):
        is_stopped = False
        while not trainer.is_finished and not is_stopped:
            losses.append(trainer.train_step())
            bar.update()
            is_stopped = stop.is_set  # read once: a signal later in this step must not end the loop unsaved
            is_validating = (
                trainer.step % settings.validate_every == 0 or trainer.step == settings.max_train_steps
            )
            rates = trainer.validate() if is_validating else None
            trainer.seconds = before + time.monotonic() - start
            if is_validating or is_stopped:
                trainer.save(run_folder)
            if is_validating or is_stopped or trainer.step % LOG_EVERY == 0:
                speed = (trainer.step - first_step) * settings.batch_size / (trainer.seconds - before)
                row = (
                    trainer.step,
                    f"{np.mean(losses):.4f}",
                    f"{trainer.optimizer.param_groups[0]['lr']:.2e}",
                    f"{rates.cer:.4f}" if rates else "",
                    f"{rates.wer:.4f}" if rates else "",
                    f"{speed:.1f}",
                    f"{trainer.seconds:.1f}",
                )
                with (run_folder / "log.csv").open("a", encoding="utf-8") as file:
                    file.write(",".join(map(str, row)) + "\n")
                best = f"{100 * trainer.best_rates.cer:.1f} %" if trainer.best_rates else ""
                bar.set_postfix(loss=f"{np.mean(losses):.3f}", best_cer=best)
                losses.clear()
    return trainer.is_finished


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
    state = json.loads((checkpoint / TRAINING_STATE / STATE_NAME).read_text(encoding="utf-8"))
    return HTRSettings(**state["settings"])


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
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = mixed_precision or ("bf16" if has_fast_bf16(device) else "no")
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

    if not train_until_done(trainer, save_path):
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
