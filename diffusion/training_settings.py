"""What fixes the course of a generator's training: defaults, recipes, flags, and what a run keeps."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from diffusion.config import CheckpointConfig
from diffusion.presets import DEFAULT_PRESET, PRESETS
from utils.resume import STATE_NAME, TRAINING_STATE, read_settings, read_state

DEFAULT_EPOCHS = 1000
# Rows of new writers start at the mean writer; at the rate of the other weights they would stay there.
NEW_WRITERS_FACTOR = 60.0
# Settings that earlier versions saved under another name.
FORMER_NAMES = {"legibility_weight": "recognition_weight", "reader_steps": "recogniser_steps"}


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What fixes the course of a training.

    Attributes:
        max_train_steps: step at which it ends.
        schedule_steps: step at which the learning rate has come down, whenever it ends.
        batch_size: words a step over all processes.
        learning_rate: peak of AdamW's.
        lr_schedule: ``cosine`` or ``constant``, after ``lr_warmup_steps``.
        writer_rate_factor: of the learning rate, for the rows of the writer embedding, which then have no
            weight decay: what no word of the training calls up stays exactly where it is. None is a run of
            before there was such a factor, whose rows learn like all other weights.
        text_dropout, writer_dropout: chances that a sample's text or writer is replaced by null.
        recognition_weight: of the loss for what a latent recogniser can't read in the clean latents that a
            prediction implies, in nats a character, beside the squared error; 0 does without.
        recogniser_steps: steps that the latent recogniser learns for, before the generator does; a fifth of
            them if one comes with the model that the run starts from.
        alignment: whether the characters' places in the images are measured by a latent recogniser, and lines
            are cut into segments; see ``training_alignment``.
    """

    max_train_steps: int
    schedule_steps: int
    batch_size: int
    learning_rate: float
    lr_schedule: str = "cosine"
    lr_warmup_steps: int = 200
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema_decay: float = 0.9995
    text_dropout: float = 0.1
    writer_dropout: float = 0.1
    recognition_weight: float = 0.0
    recogniser_steps: int = 2500
    writer_rate_factor: float | None = None
    alignment: bool = False
    seed: int = 0


def make_settings(
    given: Mapping[str, object],
    epochs: int | None,
    config: CheckpointConfig,
    words_an_epoch: int,
    ranks: int,
    resumed: TrainingSettings | None,
) -> TrainingSettings:
    """The settings from the flags that were given; a resumed run keeps its own for the others.

    Args:
        given: flags by the names of ``TrainingSettings``, None where not given; ``batch_size`` is that of one
            process.
        ranks: processes.
        resumed: the settings of the run that goes on, if one does.
    """
    recipe = PRESETS.get(str(config.extra.get("preset")), PRESETS[DEFAULT_PRESET])
    batch = given["batch_size"] or (resumed.batch_size // ranks if resumed else recipe.batch)
    if given["max_train_steps"]:
        steps = given["max_train_steps"]
    elif resumed and not epochs:
        steps = resumed.max_train_steps
    else:
        steps = math.ceil((epochs or DEFAULT_EPOCHS) * words_an_epoch / (batch * ranks))
    start = resumed or TrainingSettings(
        max_train_steps=steps,
        schedule_steps=steps,
        batch_size=batch * ranks,
        learning_rate=recipe.rate,
        recognition_weight=recipe.recognition,
        writer_rate_factor=NEW_WRITERS_FACTOR if "init_from" in config.extra else 1.0,
    )
    changes = {name: value for name, value in given.items() if value is not None}
    return replace(start, **{**changes, "max_train_steps": steps, "batch_size": batch * ranks})


def read_training_settings(checkpoint: Path) -> TrainingSettings:
    """The settings that a checkpoint was made with.

    Raises:
        UserError: if its state is damaged; the message names the file.
    """
    values = read_state(checkpoint, "step", "settings")["settings"]
    return read_settings(TrainingSettings, values, checkpoint / TRAINING_STATE / STATE_NAME, FORMER_NAMES)
