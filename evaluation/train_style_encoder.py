"""Train the style encoder on the real images of one or more folders of words or lines: it
names the writer of a segment of an image.

  python3 evaluation/train_style_encoder.py --dataset_path data/iam --save_path runs/style
  python3 evaluation/evaluate.py --real data/iam --generated data/iam_synthetic --style_encoder runs/style
  --save_dir report

Reports the accuracy on held-out words (--max_train_steps 0 with --resume only measures). A run is resumed
with --resume.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

if not __package__:
    sys.path[0] = str(
        Path(__file__).resolve().parents[1]
    )  # the project's root, from whichever folder this is run

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.windows import Words, crop_held_out, load_words
from feature_extractor import BACKBONES, StyleEncoder, StyleEncoderConfig
from utils.cli import positive_int, run
from utils.device import choose_device, choose_precision
from utils.errors import UserError
from utils.images import measure_ink
from utils.resume import (
    STATE_NAME,
    TRAINING_STATE,
    load_training_state,
    read_settings,
    read_state,
    save_training_state,
)
from utils.sources import TrainingSet, parse_sources, read_image, read_sources
from utils.training import EpochSampler, ExponentialMovingAverage, learning_rate_factor, make_generator
from utils.training_loop import Column, Intervals, claim_run, run_training

LOG_COLUMNS = (
    Column(name="step", spec="d"),
    Column(name="loss", spec=".4f", is_mean=True, is_shown=True),
    Column(name="accuracy", spec=".4f", is_mean=True, is_shown=True),
    Column(name="learning_rate", spec=".2e"),
    Column(name="val_accuracy", spec=".4f", is_shown=True),
    Column(name="seconds", spec=".1f"),
)
VALIDATION_WORDS = 2000
LABEL_SMOOTHING = 0.1
CROP_WIDTH = (
    0.5,
    1.0,
)  # of the ink, in training: a hand is known from a part of a word, whatever the word is
STRETCH = 0.1  # most that a word is stretched or shrunk along each axis
SLANT = 0.05  # most shear, pixels a pixel: more would change the hand


@dataclass(frozen=True, kw_only=True)
class StyleSettings:
    """What fixes the course of a training; see the flags of the same names."""

    max_train_steps: int = 3000
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    window: int = 192
    seed: int = 0


def cut_segments(images: Words, indices: Tensor, window: int, generator: torch.Generator) -> Tensor:
    """Random segments of images, a third wider than a window, as (B, H, width) uint8; a narrower image is
    taken whole.
    """
    width = window * 4 // 3
    room = (images.widths[indices] - width).clamp_min(0)
    left = (torch.rand(len(indices), generator=generator) * (room + 1)).long()
    return images.windows(indices, left, width)


def augment(images: Tensor, ink: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """Random windows of words, a little stretched and sheared.

    Args:
        images: (B, H, W) uint8.
        ink: (B, 2) where each word's ink begins and ends, pixels.
        width: of the windows, pixels.
    Returns:
        (B, 1, H, width) in [-1, 1]; what a window shows beyond its part of the word is white.
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


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dataset_path",
        nargs="+",
        required=True,
        metavar="FOLDER[:SHARE]",
        help="word folders; FOLDER:2 counts twice, FOLDER:0.5 half of it",
    )
    parser.add_argument("--save_path", type=Path, required=True, help="the run's folder")
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        metavar="STEP",
        help=(
            "continuation of the run in --save_path, from its newest checkpoint, or from that of STEP; it"
            " keeps its settings unless a flag says otherwise"
        ),
    )
    parser.add_argument("--backbone", choices=BACKBONES, help=f"torchvision's (default: {BACKBONES[0]})")
    parser.add_argument(
        "--style_dim",
        type=positive_int,
        help=f"length of a style vector (default: {StyleEncoderConfig.style_dim})",
    )
    parser.add_argument("--max_train_steps", type=int, help=f"default: {StyleSettings.max_train_steps}")
    parser.add_argument(
        "--batch_size", type=positive_int, help=f"words a step (default: {StyleSettings.batch_size})"
    )
    parser.add_argument(
        "--learning_rate", type=float, help=f"peak of AdamW's (default: {StyleSettings.learning_rate})"
    )
    parser.add_argument("--weight_decay", type=float, help=f"default: {StyleSettings.weight_decay}")
    parser.add_argument(
        "--seed", type=int, help=f"of weights, order, windows (default: {StyleSettings.seed})"
    )
    parser.add_argument(
        "--window",
        type=positive_int,
        help=f"width of the training windows in pixels (default: {StyleSettings.window})",
    )
    parser.add_argument("--mixed_precision", choices=("no", "bf16"), help="default: bf16 where it is native")
    parser.add_argument(
        "--save_every",
        type=positive_int,
        default=500,
        help="steps between checkpoints, each measured on held-out words (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    if args.max_train_steps is not None and args.max_train_steps < 1 and not args.resume:
        parser.error(f"--max_train_steps {args.max_train_steps}: at least 1, but with --resume")
    for name in ("learning_rate", "weight_decay"):
        if getattr(args, name) is not None and not 0 <= getattr(args, name) < float("inf"):
            parser.error(f"--{name} {getattr(args, name)}: must be a number of at least 0")
    return args


def make_encoder(
    words: TrainingSet,
    train: Sequence[int],
    img_size: tuple[int, int],
    backbone: str | None,
    style_dim: int | None,
    checkpoint: Path | None,
) -> StyleEncoder:
    """A new style encoder for these words' writers, or that of the checkpoint to resume.

    Raises:
        ValueError: if there is one writer alone, or the checkpoint is of other writers, or of another shape.
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
                "--resume: the word folder has other writers, or images of another height, than the run."
                " Start a new one with another --save_path."
            )
        return encoder
    if len(writers) < 2:
        raise UserError(
            f"--dataset_path {words.folder_of(train[0])}: one writer alone ({writers[0]}); telling hands"
            " apart needs at least two"
        )
    config = StyleEncoderConfig(writers, img_size, backbone or BACKBONES[0])
    return StyleEncoder(replace(config, style_dim=style_dim or config.style_dim))


class StyleTrainer:
    """Model, words and optimiser of one run; see ``utils.training_loop.Trainer``.

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
        self.encoder.to(memory_format=torch.channels_last)  # a third less time on a CPU
        self.precision = precision
        self.step, self.last_step, self.batch_size = 0, settings.max_train_steps, settings.batch_size
        self.seconds, self.learning_rate = 0.0, 0.0
        self.accuracy: float | None = None
        row = {name: i for i, name in enumerate(encoder.config.writers)}
        train = words.train_indices()
        unique = sorted(set(train))
        place = {index: i for i, index in enumerate(unique)}
        self.images = load_words([words.paths[i] for i in unique])
        self.rows = torch.tensor([row[words.records[i].writer] for i in unique])
        self.window = min(settings.window, int(self.images.widths.max()))
        val = [i for i in words.val_indices()[:VALIDATION_WORDS] if words.records[i].writer in row]
        val_images = load_words([words.paths[i] for i in val])
        self.val_images = list(crop_held_out(val_images).numpy())
        self.val_rows = torch.tensor([row[words.records[i].writer] for i in val])
        self.sampler = EpochSampler([place[i] for i in train], settings.batch_size, settings.seed)
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
        segments = cut_segments(self.images, indices, self.window, generator)
        extent = measure_ink(segments.numpy())[:, [0, 2]]
        pixel_values = augment(segments, extent, self.window, generator).to(self.device)
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
        """Accuracy of the averaged weights on held-out words."""
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


def make_trainer(args: argparse.Namespace, checkpoint: Path | None) -> StyleTrainer:
    """Read the words, make the model, and go to where the run stopped."""
    settings = read_style_settings(checkpoint) if checkpoint else StyleSettings()
    given = {name: getattr(args, name) for name in asdict(settings) if getattr(args, name) is not None}
    settings = replace(settings, **given)
    words = read_sources(parse_sources(args.dataset_path))
    train_indices = words.train_indices()
    torch.manual_seed(settings.seed)
    size = read_image(words.paths[train_indices[0]]).shape
    encoder = make_encoder(words, train_indices, tuple(size), args.backbone, args.style_dim, checkpoint)
    device = choose_device()
    precision = choose_precision(args.mixed_precision, device)
    trainer = StyleTrainer(encoder, words, settings, precision, device)
    if checkpoint:
        trainer.restore(checkpoint)
        print(f"resumed     {checkpoint} at step {trainer.step}")
    count = len(encoder.config.writers)
    print(f"images      {len(trainer.rows)} to train on, {len(trainer.val_rows)} held out, {count} writers")
    size = sum(parameter.numel() for parameter in encoder.parameters()) / 1e6
    print(
        f"model       {encoder.config.backbone}, {size:.2f} M parameters on {device}, precision {precision}"
    )
    return trainer


def main(args: argparse.Namespace) -> None:
    """Prepare the words and the model, train, measure."""
    with claim_run(args.save_path, args.resume) as checkpoint:
        trainer = make_trainer(args, checkpoint)
        intervals = Intervals(save_every=args.save_every, validate_every=args.save_every)
        if not run_training(trainer, args.save_path, LOG_COLUMNS, intervals):  # no step was left
            trainer.validate()
    count = len(trainer.encoder.config.writers)
    print(
        f"accuracy    {100 * trainer.accuracy:.1f} % on {len(trainer.val_rows)} held-out images (by chance "
        f"{100 / count:.1f} %)"
    )
    print(f"saved       {args.save_path}")


if __name__ == "__main__":
    run(main, parse_args())
