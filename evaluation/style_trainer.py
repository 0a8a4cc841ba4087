"""The training of the style encoder: windows of images, one step, validation, checkpoints.

Everything random is a function of (seed, step), so that a resumed run goes on exactly as if it had not
stopped.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from feature_extractor import BACKBONES, StyleEncoder, StyleEncoderConfig, ink_width
from utils.errors import UserError
from utils.images import measure_ink, stack_images
from utils.resume import (
    STATE_NAME,
    TRAINING_STATE,
    load_training_state,
    read_settings,
    read_state,
    save_training_state,
)
from utils.sources import TrainingSet, read_image
from utils.training import EpochSampler, ExponentialMovingAverage, learning_rate_factor, make_generator
from utils.training_loop import Column

LOG_COLUMNS = (
    Column(name="step", spec="d"),
    Column(name="loss", spec=".4f", is_mean=True, is_shown=True),
    Column(name="accuracy", spec=".4f", is_mean=True, is_shown=True),
    Column(name="learning_rate", spec=".2e"),
    Column(name="val_accuracy", spec=".4f", is_shown=True),
    Column(name="seconds", spec=".1f"),
)
VALIDATION_IMAGES = 2000
LABEL_SMOOTHING = 0.1
# Share of the ink that a training window shows: a writer is known from a part of a word, whatever the word
# is.
CROP_WIDTH = (0.5, 1.0)
STRETCH = 0.1  # most that an image is stretched or shrunk along each axis
SLANT = 0.05  # most shear, pixels a pixel: more would change the handwriting


@dataclass(frozen=True, kw_only=True)
class StyleSettings:
    """What fixes the course of a training.

    Attributes:
        max_train_steps: step at which it ends, and by which the learning rate has come down.
        batch_size: images a step.
        learning_rate: peak of AdamW's.
        weight_decay: AdamW's.
        window: width of the training windows, pixels.
        seed: of weights, order and windows.
    """

    max_train_steps: int = 3000
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    window: int = 192
    seed: int = 0


def augment(images: Tensor, ink: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """Random windows of images, a little stretched and sheared.

    Args:
        images: (B, H, W) uint8.
        ink: (B, 2) where each image's ink begins and ends, pixels.
        width: of the windows, pixels.
    Returns:
        (B, 1, H, width) in [-1, 1]; what a window shows beyond its part of the ink is white.
    """
    count, height, full = images.shape
    uniform = torch.rand(5, count, generator=generator)
    length = (ink[:, 1] - ink[:, 0]).clamp_min(1.0)
    part = length * (CROP_WIDTH[0] + (CROP_WIDTH[1] - CROP_WIDTH[0]) * uniform[0])
    part = torch.minimum(part.clamp_min(height), torch.full_like(part, width))
    left = ink[:, 0] + (length - part).clamp_min(0) * uniform[1]
    stretch_x, stretch_y = 1 + STRETCH * (2 * uniform[2] - 1), 1 + STRETCH * (2 * uniform[3] - 1)
    slant = SLANT * (2 * uniform[4] - 1)
    # Window coordinates in [-1, 1] to image coordinates in [-1, 1].
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = width / full * stretch_x
    theta[:, 0, 1] = slant * height / full
    theta[:, 0, 2] = (2 * left + width) / full - 1
    theta[:, 1, 1] = stretch_y
    darkness = 1 - images[:, None].float() / 255
    columns = torch.arange(full)
    is_part = (columns >= left[:, None]) & (columns < (left + part)[:, None])
    grid = F.affine_grid(theta, [count, 1, height, width], align_corners=False)
    window = F.grid_sample(darkness * is_part[:, None, None], grid, align_corners=False)
    return 1 - 2 * window


def make_encoder(
    words: TrainingSet,
    train: Sequence[int],
    img_size: tuple[int, int],
    backbone: str | None,
    style_dim: int | None,
    checkpoint: Path | None,
) -> StyleEncoder:
    """A new style encoder for the writers of these images, or that of the checkpoint to resume.

    Raises:
        UserError: if there is one writer alone, or the checkpoint is of other writers, or of another shape.
    """
    writers = tuple(sorted({words.records[i].writer for i in train}))
    if checkpoint:
        encoder = StyleEncoder.from_pretrained(checkpoint, flag="--save_path").requires_grad_(True)
        for name, value in (("backbone", backbone), ("style_dim", style_dim)):
            if value not in (None, getattr(encoder.config, name)):
                raise UserError(
                    f"--{name} {value}: the run to --resume has {getattr(encoder.config, name)}. Leave it"
                    " out."
                )
        if encoder.config.writers != writers or encoder.config.img_size[0] != img_size[0]:
            raise UserError(
                "--resume: the folders have other writers, or images of another height, than the run."
                " Start a new one with another --save_path."
            )
        return encoder
    if len(writers) < 2:
        raise UserError(
            f"--dataset_path {words.folder_of(train[0])}: one writer alone ({writers[0]}); telling writers"
            " apart needs at least two"
        )
    config = StyleEncoderConfig(
        writers=writers,
        img_size=img_size,
        backbone=backbone or BACKBONES[0],
        style_dim=style_dim or StyleEncoderConfig.style_dim,
    )
    return StyleEncoder(config)


def load_images(paths: Sequence[Path]) -> list[np.ndarray]:
    """Images of one height and any widths, (H, W_i) uint8, without the white at their right.

    Raises:
        FileNotFoundError, UserError: if an image is missing, damaged or of another height; the message names
        it.
    """
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(read_image, paths))
    for path, image in zip(paths, images, strict=True):
        if image.shape[0] != images[0].shape[0]:
            raise UserError(
                f"{path}: {image.shape[0]} pixels high, but {paths[0]} has {images[0].shape[0]}. Preprocess"
                " all folders with one height in --img_size."
            )
    return [image[:, : ink_width(image)].copy() for image in images]  # a view would keep the whole image


class StyleTrainer:
    """Model, images and optimiser of one run; see ``utils.training_loop.Trainer``.

    Attributes:
        accuracy: of the averaged weights at the last validation, 0 to 1; None before the first.
    """

    accelerator = None

    def __init__(
        self,
        encoder: StyleEncoder,
        words: TrainingSet,
        settings: StyleSettings,
        precision: str,
        device: torch.device,
    ) -> None:
        self.encoder, self.settings, self.device = encoder.to(device).train(), settings, device
        self.precision = precision
        self.step, self.last_step, self.batch_size = 0, settings.max_train_steps, settings.batch_size
        self.seconds, self.learning_rate = 0.0, 0.0
        self.accuracy: float | None = None
        row_of = {name: i for i, name in enumerate(encoder.config.writers)}
        train = words.train_indices()
        unique = sorted(set(train))
        position = {index: i for i, index in enumerate(unique)}
        self.images = load_images([words.paths[i] for i in unique])
        self.rows = torch.tensor([row_of[words.records[i].writer] for i in unique])
        self.extent = measure_ink(self.images)[:, [0, 2]]
        self.window = min(settings.window, max(image.shape[1] for image in self.images))
        val = [i for i in words.val_indices()[:VALIDATION_IMAGES] if words.records[i].writer in row_of]
        self.val_images = load_images([words.paths[i] for i in val])
        self.val_rows = torch.tensor([row_of[words.records[i].writer] for i in val])
        self.sampler = EpochSampler([position[i] for i in train], settings.batch_size, settings.seed)
        self.optimizer = torch.optim.AdamW(
            encoder.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.ema = ExponentialMovingAverage(encoder, 0.99)
        self.modules = (encoder, self.ema.module)

    @property
    def is_finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.last_step

    def train_step(self) -> dict[str, Tensor]:
        """One optimiser step; returns the loss and the accuracy on the batch, left on the device."""
        s = self.settings
        self.learning_rate = s.learning_rate * learning_rate_factor(
            self.step, warmup_steps=100, horizon=s.max_train_steps, schedule="cosine"
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        indices = self.sampler.batch(self.step)
        generator = make_generator("cpu", s.seed, self.step, 1)
        images = stack_images([self.images[i] for i in indices.tolist()])
        pixel_values = augment(images, self.extent[indices], self.window, generator).to(self.device)
        rows = self.rows[indices].to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits = self.encoder(pixel_values)[1]
        loss = F.cross_entropy(logits, rows, label_smoothing=LABEL_SMOOTHING)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.encoder.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.ema.update(self.encoder, self.step)
        return {"loss": loss.detach(), "accuracy": (logits.argmax(dim=1) == rows).float().mean()}

    def validate(self) -> dict[str, float]:
        """Accuracy of the averaged weights on held-out images."""
        logits = self.ema.module.embed(self.val_images)[1]
        self.accuracy = float((logits.argmax(axis=1) == self.val_rows.numpy()).mean())
        return {"val_accuracy": self.accuracy}

    def write_checkpoint(self, folder: Path) -> None:
        """Fill a checkpoint's folder: the averaged encoder, and the training state."""
        extra = {
            "step": self.step,
            "val_accuracy": round(self.accuracy, 4),
            "val_words": len(self.val_rows),
            "words": len(self.rows),
            "training": asdict(self.settings),
        }
        self.ema.module.save_pretrained(folder, extra)
        state = {"step": self.step, "settings": asdict(self.settings), "val_accuracy": self.accuracy}
        save_training_state(folder / TRAINING_STATE, self.encoder, self.optimizer, self.ema, state)

    def write_preview(self, path: Path) -> None:
        """There are none."""

    def restore(self, checkpoint: Path) -> None:
        """Take over a checkpoint's state."""
        self.step = load_training_state(checkpoint, self.encoder, self.optimizer, self.ema)["step"]


def read_style_settings(checkpoint: Path) -> StyleSettings:
    """The settings that a checkpoint was made with.

    Raises:
        UserError: if its state is damaged; the message names the file.
    """
    values = read_state(checkpoint, "step", "settings")["settings"]
    return read_settings(StyleSettings, values, checkpoint / TRAINING_STATE / STATE_NAME)
