"""What fixes the course of a distillation, which models can teach, and on what."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from diffusion.config import CheckpointConfig
from diffusion.dataset import LatentCache
from diffusion.noise_schedule import FLOW_PREDICTION
from diffusion.pipeline import HandwritingPipeline
from diffusion.student import MOST_STEPS, Student
from diffusion.training_settings import TrainingSettings
from utils.errors import UserError
from utils.resume import STATE_NAME, TRAINING_STATE, read_settings, read_state
from utils.sources import TrainingSet

STUDENT_STEPS = 4
DISTILLATION_STEPS = 800
GUIDANCE_SHARE = 0.25  # of the training steps, for the guided velocity in one pass
DISTILLATION_BATCH = 32
DISTILLATION_RATE = 3e-4
RECOGNITION_WEIGHT = 0.02


@dataclass(frozen=True, kw_only=True)
class DistillationSettings(TrainingSettings):
    """What fixes the course of a distillation.

    Attributes:
        guidance_steps: first training steps, in which the student learns its teacher's guided velocity; in
            the others, the steps of its grid.
    """

    guidance_steps: int = 0


def make_distillation_settings(
    given: Mapping[str, object],
    epochs: int | None,
    start: HandwritingPipeline,
    words_an_epoch: int,
    ranks: int,
    resumed: DistillationSettings | None,
) -> DistillationSettings:
    """The settings from the flags that were given; a resumed run keeps its own for the others.

    Args:
        given, ranks, resumed: see ``training_settings.make_settings``.
        start: the teacher, or the student that goes on.
    Raises:
        UserError: for a flag that the teacher can't follow.
    """
    batch = given["batch_size"] or (resumed.batch_size // ranks if resumed else DISTILLATION_BATCH)
    if given["max_train_steps"]:
        steps = given["max_train_steps"]
    elif epochs:
        steps = math.ceil(epochs * words_an_epoch / (batch * ranks))
    else:
        steps = resumed.max_train_steps if resumed else DISTILLATION_STEPS
    can_read = start.latent_recogniser is not None
    first = resumed or DistillationSettings(
        max_train_steps=steps,
        schedule_steps=steps,
        batch_size=batch * ranks,
        learning_rate=DISTILLATION_RATE,
        lr_warmup_steps=20,
        weight_decay=0.0,
        ema_decay=0.99,
        text_dropout=0.0,
        recognition_weight=RECOGNITION_WEIGHT if can_read else 0.0,
        alignment=can_read and "alignment" in start.config.extra,
        guidance_steps=round(GUIDANCE_SHARE * steps),
    )
    changes = {name: value for name, value in given.items() if value is not None}
    settings = replace(first, **{**changes, "max_train_steps": steps, "batch_size": batch * ranks})
    for flag in ("recognition_weight", "alignment"):
        if getattr(settings, flag) and not can_read:
            raise UserError(f"--{flag}: the teacher has no latent recogniser. Leave it out.")
    return settings


def read_distillation_settings(checkpoint: Path) -> DistillationSettings:
    """The settings that a student's checkpoint was made with; raises as ``read_training_settings`` does."""
    values = read_state(checkpoint, "step", "settings")["settings"]
    return read_settings(DistillationSettings, values, checkpoint / TRAINING_STATE / STATE_NAME)


def check_teacher(teacher: HandwritingPipeline, where: str) -> None:
    """Raise a UserError unless a model can be distilled.

    Args:
        where: the flag and its value, to name in the message.
    """
    if teacher.config.student is not None:
        raise UserError(f"{where}: a student already. Take the model that it was distilled from.")
    kind = teacher.config.schedule.prediction_type
    if kind != FLOW_PREDICTION:
        raise UserError(
            f"{where}: a model of {kind}, but only one of {FLOW_PREDICTION} can be distilled. Train one with"
            f" --prediction_type {FLOW_PREDICTION}."
        )


def make_student(teacher: HandwritingPipeline, num_steps: int) -> Student:
    """A student of a model, with its default guidance, on the grid that its default scheduler would take.

    Raises:
        UserError: for more steps than make sense.
    """
    if num_steps > MOST_STEPS:
        raise UserError(f"--student_steps {num_steps}: at most {MOST_STEPS}; 4 are usual")
    scheduler = teacher.config.schedule.make_scheduler()
    scheduler.set_timesteps(num_steps)
    extra = teacher.config.extra
    return Student(
        grid=tuple(round(level, 6) for level in scheduler.sigmas[:num_steps].tolist()),
        guidance=teacher.choose_guidance(),
        teacher={key: extra.get(key) for key in ("dataset", "step", "preset")},
    )


def choose_known(
    words: TrainingSet, teacher: HandwritingPipeline, warn: Callable[[str], None]
) -> TrainingSet:
    """The text images with what the teacher can't write kept from the training.

    Args:
        warn: takes a line about them.
    Raises:
        UserError: if nothing is left.
    """
    config, longest = teacher.config, teacher.unet.config.max_length
    writers = set(config.writers)
    is_known = [
        record.writer in writers and len(record.text) <= longest and not config.charset.unknown(record.text)
        for record in words.records
    ]
    left_out = [i for i, r in enumerate(words.records) if r.split == "train" and not is_known[i]]
    records = tuple(
        record if known else replace(record, split="test")
        for record, known in zip(words.records, is_known, strict=True)
    )
    if not any(record.split == "train" for record in records):
        raise UserError(
            f"{words.flag}: the teacher knows the writer and the characters of none of its images. Take"
            " those that it was trained on."
        )
    if left_out:
        warn(
            f"note        left out: {len(left_out)} images whose writer, characters or length the teacher"
            " does not know"
        )
    return replace(words, records=records)


def check_height(cache: LatentCache, config: CheckpointConfig) -> None:
    """Raise a UserError unless the images have the height of the teacher's."""
    height, needed = cache.canvas_size[0], config.img_size[0]
    if height != needed:
        raise UserError(
            f"--dataset_path: images of {height} pixels of height, but the teacher's have {needed}."
            f" Preprocess with --img_size {needed} {config.img_size[1]}."
        )
