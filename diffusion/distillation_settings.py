"""What fixes the course of a distillation: defaults, flags, and what a run keeps."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from diffusion.training_settings import TrainingSettings
from utils.errors import UserError
from utils.resume import STATE_NAME, TRAINING_STATE, read_settings, read_state

STUDENT_STEPS = 4
DISTILLATION_STEPS = 800
GUIDANCE_SHARE = 0.25  # of the training steps, for the guided velocity in one pass
RECOGNITION_WEIGHT = 0.02
DEFAULTS = {
    "batch_size": 32,
    "learning_rate": 3e-4,
    "lr_warmup_steps": 20,
    "weight_decay": 0.0,
    "ema_decay": 0.99,
    "text_dropout": 0.0,
}


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
    words_an_epoch: int,
    ranks: int,
    resumed: DistillationSettings | None,
    *,
    can_read: bool,
    is_aligned: bool,
) -> DistillationSettings:
    """The settings from the flags that were given; a resumed run keeps its own for the others.

    Args:
        given, ranks, resumed: see ``training_settings.make_settings``.
        can_read: whether the teacher has a latent recogniser.
        is_aligned: whether it was trained on where each character stands.
    Raises:
        UserError: for a flag that the teacher can't follow.
    """
    batch = given["batch_size"] or (resumed.batch_size // ranks if resumed else DEFAULTS["batch_size"])
    if given["max_train_steps"]:
        steps = given["max_train_steps"]
    elif epochs:
        steps = math.ceil(epochs * words_an_epoch / (batch * ranks))
    else:
        steps = resumed.max_train_steps if resumed else DISTILLATION_STEPS
    first = resumed or DistillationSettings(
        max_train_steps=steps,
        schedule_steps=steps,
        batch_size=batch * ranks,
        **{name: value for name, value in DEFAULTS.items() if name != "batch_size"},
        recognition_weight=RECOGNITION_WEIGHT if can_read else 0.0,
        alignment=can_read and is_aligned,
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
