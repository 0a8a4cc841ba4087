"""The loop that all trainings share: steps, and at intervals log rows, validation, checkpoints and previews.

A trainer knows its model, its data and one step; the loop keeps the book: ``log.csv``, the stop signal, the
check that nothing has become infinite, and where to go on.
"""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from utils.checkpoint import remove_leftovers, save_checkpoint, set_newer_aside
from utils.errors import UserError
from utils.output import lock_folder, write_atomically
from utils.resume import check_finite, choose_resume
from utils.training import StopFlag

LOG_NAME = "log.csv"
PREVIEW_FOLDER = "previews"
STOP_CHECK_STEPS = 8  # several processes ask each other this often whether one of them is to stop


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of ``log.csv``.

    Attributes:
        spec: how its value is written, a format specification.
        is_mean: the mean over the steps since the last row, and over all processes; else the last step's.
        is_shown: it stands beside the progress bar too.
    """

    name: str
    spec: str = ".5f"
    is_mean: bool = False
    is_shown: bool = False


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Steps between what happens on the way; see the flags of the same names.

    Attributes:
        keep_checkpoints: newest checkpoints that are kept.
        preview_every: None for a training without previews.
        validates_at_stop: whether a stopped run validates before it saves; not where a validation is a part
            of the course, which a resumed run must repeat.
    """

    save_every: int
    validate_every: int
    log_every: int = 50
    keep_checkpoints: int = 2
    preview_every: int | None = None
    validates_at_stop: bool = True


class Trainer(Protocol):
    """What the loop asks of a training.

    Attributes:
        step: optimiser steps so far.
        last_step: step at which it ends.
        is_finished: whether it is at its end, at the last step or before.
        seconds: that the run has taken so far, set by the loop.
        batch_size: samples a step over all processes.
        learning_rate: of the last step.
        modules: what must be finite to be saved.
        accelerator: of a training with several processes, else None.
    """

    step: int
    last_step: int
    is_finished: bool
    seconds: float
    batch_size: int
    learning_rate: float
    modules: Sequence[nn.Module]
    accelerator: Accelerator | None

    def train_step(self) -> Mapping[str, Tensor | float]:
        """One optimiser step; returns values for the log, ``loss`` among them, which may be on the device."""

    def validate(self) -> Mapping[str, float]:
        """Measure on held-out samples; returns values for the log."""

    def write_checkpoint(self, folder: Path) -> None:
        """Fill a checkpoint's folder; what ``validate`` measured last may go into it."""

    def write_preview(self, path: Path) -> None:
        """Save a picture of what the model does; only for a training with previews."""


class TrainingLog:
    """``log.csv``: a row at intervals, with means since the last one.

    Attributes:
        last: the last row's values, as text.
    """

    def __init__(self, path: Path, columns: Sequence[Column], step: int) -> None:
        self.path, self.columns = path, columns
        self.last: dict[str, str] = {}
        self._sums: dict[str, Tensor | float] = {}
        self._values: dict[str, Tensor | float] = {}
        self._count = 0
        self.first_step = step

    def add(self, values: Mapping[str, Tensor | float]) -> None:
        """Count a step's values; they stay on the device."""
        self._values = dict(values)
        for column in self.columns:
            if column.is_mean and column.name in values:
                self._sums[column.name] = self._sums.get(column.name, 0.0) + values[column.name]
        self._count += 1

    def means(self, accelerator: Accelerator | None) -> dict[str, float]:
        """Values for a row; waits for the device and, with several processes, for the others."""
        values = {name: total / self._count for name, total in self._sums.items()}
        if accelerator is not None and accelerator.num_processes > 1:
            values = {
                name: accelerator.reduce(torch.as_tensor(value, device=accelerator.device), "mean")
                for name, value in values.items()
            }
        self._sums, self._count = {}, 0
        return {name: float(value) for name, value in {**self._values, **values}.items()}

    def write(self, values: Mapping[str, float | None]) -> dict[str, str]:
        """Append a row; returns what of it stands beside the progress bar."""
        cells = {}
        for column in self.columns:
            value = values.get(column.name)
            cells[column.name] = "" if value is None else format(value, column.spec)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(",".join(cells.values()) + "\n")
        self.last = cells
        return {column.name: cells[column.name] for column in self.columns if column.is_shown}


def truncate_log(path: Path, last_step: int, columns: Sequence[str]) -> None:
    """Drop the rows of a log (first column: step) that come after ``last_step``, and torn ones; write the
    header if it is new.

    Raises:
        UserError: if the file is no log.
    """
    header = ",".join(columns)
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: no log of a training. Move it away to go on without.") from error
    if lines and not lines[0].startswith("step,"):
        raise UserError(
            f"{path}: no log of a training (it begins with {lines[0][:40]!r}). Move it away to go on."
        )
    lines = lines or [header]
    kept = []
    for line in lines[1:]:
        step, *rest = line.split(",")
        if step.isdigit() and int(step) <= last_step and len(rest) == lines[0].count(","):
            kept.append(line)
    content = "\n".join([lines[0], *kept]) + "\n"
    write_atomically(path, content)


@contextmanager
def claim_run(run: Path, resume: bool | str, *, is_main: bool = True) -> Iterator[Path | None]:
    """Keep other trainings out of a run's folder, and choose where to go on; see ``choose_resume``.

    Args:
        is_main: False for all processes of a training but one, which only look.
    """
    with lock_folder(run, "--save_path") if is_main else nullcontext():
        checkpoint = choose_resume(run, resume)
        if is_main:
            remove_leftovers(run)
        yield checkpoint


def run_training(
    trainer: Trainer, run: Path, columns: Sequence[Column], intervals: Intervals
) -> dict[str, str]:
    """Train to the end, or until SIGTERM or Ctrl-C, which saves and stops.

    Returns:
        The last row of the log, as text; empty if there was nothing left to do.
    Raises:
        UserError: if the loss, a weight or a validation is not finite; nothing of that is saved.
    """
    accelerator = trainer.accelerator
    is_main = accelerator is None or accelerator.is_main_process
    if is_main:
        for path in set_newer_aside(run, trainer.step):
            print(f"note        the run goes on from step {trainer.step}; its later checkpoint is now {path}")
        truncate_log(run / LOG_NAME, trainer.step, [column.name for column in columns])
    log = TrainingLog(run / LOG_NAME, columns, trainer.step)
    before, start = trainer.seconds, time.monotonic()
    bar = tqdm(
        total=trainer.last_step,
        initial=trainer.step,
        unit="step",
        desc="train",
        disable=accelerator is not None and not accelerator.is_local_main_process,
    )
    with StopFlag() as stop, bar:
        is_stopped = False
        while not trainer.is_finished and not is_stopped:
            log.add(trainer.train_step())
            bar.update()
            trainer.seconds = before + time.monotonic() - start
            # Asked once: a signal later in this step must not end the loop unsaved.
            is_stopped = _is_any_stopped(stop, trainer)
            speed = (trainer.step - log.first_step) * trainer.batch_size / (trainer.seconds - before)
            _keep_books(trainer, run, log, bar, intervals, is_stopped=is_stopped, speed=speed)
    if is_main and is_stopped and not trainer.is_finished:
        print(f"stopped     at step {trainer.step} of {trainer.last_step}; --resume goes on", file=sys.stderr)
    return log.last


def _is_any_stopped(stop: StopFlag, trainer: Trainer) -> bool:
    """Whether a signal has reached this process; with several, whether it has reached any of them."""
    accelerator = trainer.accelerator
    if accelerator is None or accelerator.num_processes == 1:
        return stop.is_set
    if trainer.step % STOP_CHECK_STEPS:  # each question waits for the slowest process
        return False
    is_set = torch.tensor(float(stop.is_set), device=accelerator.device)
    return accelerator.reduce(is_set).item() > 0


def _keep_books(
    trainer: Trainer,
    run: Path,
    log: TrainingLog,
    bar: tqdm,
    intervals: Intervals,
    *,
    is_stopped: bool,
    speed: float,
) -> None:
    """After a step: log, validate, save and draw, as far as it is time for it."""
    step, accelerator = trainer.step, trainer.accelerator
    is_main = accelerator is None or accelerator.is_main_process
    is_at_end = step >= trainer.last_step
    is_last = is_stopped or is_at_end
    is_validating = (
        step % intervals.validate_every == 0 or is_at_end or (is_stopped and intervals.validates_at_stop)
    )
    is_saving = step % intervals.save_every == 0 or is_last
    is_logging = is_validating or is_saving or step % intervals.log_every == 0
    values: dict[str, float] = {}
    advice = (
        "Earlier checkpoints are whole: go on from one of them with --resume (an older one: --resume STEP)"
        f" and a lower --learning_rate than {trainer.learning_rate:.1e}."
    )
    if is_logging:  # on all processes: the means are over all of them
        values = log.means(accelerator)
        _check_number(values["loss"], f"the loss is not finite at step {step}. {advice}")
    if not is_main:
        return
    if is_saving:
        check_finite(trainer.modules, f"a weight is not finite at step {step}. {advice}")
    if is_validating:
        measured = trainer.validate()
        for name, value in measured.items():
            _check_number(value, f"{name} is not finite at step {step}. {advice}")
        values |= measured
    if is_logging:
        values |= {"learning_rate": trainer.learning_rate, "words_per_second": speed}
        if accelerator is not None:
            accelerator.log(values, step=step)  # to a tracker, if there is one
        bar.set_postfix(log.write(values | {"step": step, "seconds": trainer.seconds}))
    if is_saving:
        save_checkpoint(run, step, trainer.write_checkpoint, keep=intervals.keep_checkpoints)
    if intervals.preview_every and (step % intervals.preview_every == 0 or is_last):
        trainer.write_preview(run / PREVIEW_FOLDER / f"step_{step:08d}.png")


def _check_number(value: float, message: str) -> None:
    if not abs(value) < float("inf"):  # true of nan, too
        raise UserError(message)
