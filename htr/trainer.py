"""The training of a CRNN recogniser: one step, validation, early stopping, checkpoints.

Everything random is a function of (seed, step), so that a resumed run goes on exactly as if it had not
stopped.
"""

import copy
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from htr.augmentation import augment_words
from htr.crnn import CRNN, FRAME
from htr.dataset import WIDTH_STEP, Words, load_crops, make_batch, padded_width
from htr.error_rates import ErrorRates, measure_errors
from htr.reading import frames_needed
from htr.recogniser import CRNNRecogniser
from utils.charset import order_along_line
from utils.errors import UserError
from utils.resume import STATE_NAME, TRAINING_STATE, load_training_state, read_state, save_training_state
from utils.resume import read_settings as read_run_settings
from utils.sources import TrainingSet
from utils.training import EpochSampler, ExponentialMovingAverage, learning_rate_factor, make_generator
from utils.training_loop import Column

LOG_COLUMNS = (
    Column(name="step", spec="d"),
    Column(name="loss", spec=".4f", is_mean=True, is_shown=True),
    Column(name="learning_rate", spec=".2e"),
    Column(name="valid_cer", spec=".4f", is_shown=True),
    Column(name="valid_wer", spec=".4f"),
    Column(name="words_per_second", spec=".1f"),
    Column(name="seconds", spec=".1f"),
)
WEIGHT_DECAY = 0.01
SHORTCUT_WEIGHT = 0.1  # of the shortcut's loss beside that of the whole model


@dataclass(frozen=True, kw_only=True)
class HTRSettings:
    """What fixes the course of a training.

    Attributes:
        max_train_steps: step at which it ends, and by which the learning rate has come down.
        batch_size: images a step.
        learning_rate: peak of AdamW's.
        warmup_steps: in which the learning rate rises from 0.
        augment: whether the training images vary in slant, width, pen and scan.
        validate_every: steps between validations, each of which may make a checkpoint the best one.
        patience: validations without a better one after which it ends.
        seed: of weights, order, augmentation, dropout.
    """

    max_train_steps: int = 8000
    batch_size: int = 16
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    augment: bool = True
    validate_every: int = 500
    patience: int = 8
    seed: int = 0


class HTRTrainer:
    """Model, images and optimiser of one run; see ``utils.training_loop.Trainer``.

    Attributes:
        skipped: texts of training images that are too narrow for them.
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
        self.model = model.to(device).train()
        self.settings, self.precision, self.device = settings, precision, device
        self.step, self.stale, self.seconds, self.learning_rate = 0, 0, 0.0, 0.0
        self.last_step, self.batch_size = settings.max_train_steps, settings.batch_size
        self.init_from: str | None = None
        self.best: CRNN | None = None
        self.best_step, self.best_rates = None, None
        self._load_training_images(train)
        self.valid_texts = [record.text for record in valid[0]]
        self.valid_crops = load_crops(valid[1], img_height=model.config.img_height)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.learning_rate, weight_decay=WEIGHT_DECAY
        )
        self.ema = ExponentialMovingAverage(model, 0.99)
        self.modules = (model, self.ema.module)

    def _load_training_images(self, train: TrainingSet) -> None:
        """Read the images to train on, cut to their ink; leave out those too narrow for their text.

        Raises:
            UserError: if all of them are.
        """
        indices = train.train_indices()
        unique = sorted(set(indices))
        crops = load_crops([train.paths[i] for i in unique], img_height=self.model.config.img_height)
        needed = {i: frames_needed(train.records[i].text) for i in unique}
        frames = {i: padded_width(crop.shape[1]) // FRAME for i, crop in zip(unique, crops, strict=True)}
        self.skipped = [train.records[i].text for i in unique if needed[i] > frames[i]]
        kept = [i for i in indices if needed[i] <= frames[i]]
        if not kept:
            raise UserError(
                f"each of the {len(unique)} images to train on is too narrow for its text, e.g."
                f" {self.skipped[0]!r}: a character needs {FRAME} pixels. Preprocess with a larger"
                " --img_size."
            )
        position = {index: i for i, index in enumerate(unique)}
        self.crops, self.texts = crops, [train.records[i].text for i in unique]
        self.num_words = len(set(kept))
        self.sampler = EpochSampler(
            [position[i] for i in kept],
            self.settings.batch_size,
            self.settings.seed,
            [frames[i] for i in kept],
        )

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
            self.step, warmup_steps=s.warmup_steps, horizon=s.max_train_steps, schedule="cosine"
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        pixel_values, widths, texts = self.draw_batch()
        lengths = torch.tensor([len(text) for text in texts])
        labels = self.model.charset.encode([order_along_line(text) for text in texts], int(lengths.max()))
        # Dropout has no generator of its own.
        torch.manual_seed(make_generator("cpu", s.seed, self.step, 2).initial_seed())
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            outputs = self.model.read_twice(pixel_values.to(self.device), widths)
        losses = [
            F.ctc_loss(log_probs.transpose(0, 1), labels.to(self.device), widths // FRAME, lengths)
            for log_probs in outputs
            if log_probs is not None
        ]
        loss = losses[0]
        (loss + SHORTCUT_WEIGHT * sum(losses[1:])).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.ema.update(self.model, self.step)
        return {"loss": loss.detach()}

    def validate(self) -> dict[str, float]:
        """Error rates of the averaged weights on the validation images; keeps the weights if they are the
        best so far.
        """
        readings = CRNNRecogniser(self.ema.module).read(self.valid_crops)
        rates = measure_errors(self.valid_texts, [reading.text for reading in readings])
        if self.best_rates is None or rates.cer < self.best_rates.cer:
            self.best = copy.deepcopy(self.ema.module)
            self.best_step, self.best_rates, self.stale = self.step, rates, 0
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


def read_settings(checkpoint: Path) -> HTRSettings:
    """The settings that a checkpoint was made with."""
    values = read_state(checkpoint, "step", "settings")["settings"]
    return read_run_settings(HTRSettings, values, checkpoint / TRAINING_STATE / STATE_NAME)
