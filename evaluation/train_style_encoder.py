"""Train the style encoder on the real images of one or more word folders: it names the writer of a word.

  python3 evaluation/train_style_encoder.py --dataset_path data/iam --save_path runs/style
  python3 evaluation/evaluate.py --real data/iam --generated data/iam_synthetic --style_encoder runs/style
  --save_dir report

Reports the accuracy on held-out words (--max_train_steps 0 with --resume only measures). A run is resumed
with --resume.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

if not __package__:
    sys.path[0] = str(
        Path(__file__).resolve().parents[1]
    )  # the project's root, from whichever folder this is run

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from feature_extractor import BACKBONES, StyleEncoder, StyleEncoderConfig
from utils.checkpoint import (
    STATE_NAME,
    TRAINING_STATE,
    choose_resume,
    load_training_state,
    save_checkpoint,
    save_training_state,
    truncate_csv,
)
from utils.cli import positive_int, run
from utils.device import has_fast_bf16
from utils.errors import UserError
from utils.images import measure_ink, stack_images
from utils.sources import TrainingSet, parse_sources, read_image, read_images, read_sources
from utils.training import (
    EpochSampler,
    ExponentialMovingAverage,
    StopFlag,
    learning_rate_factor,
    make_generator,
)

LOG_COLUMNS = ("step", "loss", "accuracy", "learning_rate", "val_accuracy", "seconds")
VALIDATION_WORDS = 2000
LABEL_SMOOTHING = 0.1
CROP_WIDTH = (
    0.5,
    1.0,
)  # of the ink, in training: a hand is known from a part of a word, whatever the word is
STRETCH = 0.1  # most that a word is stretched or shrunk along each axis
SLANT = 0.05  # most shear, pixels a pixel: more would change the hand


@dataclass(frozen=True)
class StyleSettings:
    """What fixes the course of a training; see the flags of the same names."""

    max_train_steps: int = 3000
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    window: int = 192
    seed: int = 0


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
        action="store_true",
        help="go on with the run in --save_path; it keeps its settings unless a flag says otherwise",
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
    """Model, words and optimiser of one run."""

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
        self.step = 0
        row = {name: i for i, name in enumerate(encoder.config.writers)}
        train = words.train_indices()
        unique = sorted(set(train))
        place = {index: i for i, index in enumerate(unique)}
        self.images = stack_images(read_images([words.paths[i] for i in unique]))
        self.rows = torch.tensor([row[words.records[i].writer] for i in unique])
        self.extent = measure_ink(self.images.numpy())[:, [0, 2]]
        self.window = min(settings.window, self.images.shape[2])
        val = [i for i in words.val_indices()[:VALIDATION_WORDS] if words.records[i].writer in row]
        self.val_images = stack_images(read_images([words.paths[i] for i in val]))
        self.val_rows = torch.tensor([row[words.records[i].writer] for i in val])
        self.sampler = EpochSampler([place[i] for i in train], settings.batch_size, settings.seed)
        self.optimizer = torch.optim.AdamW(
            encoder.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.ema = ExponentialMovingAverage(encoder, 0.99)

    def train_step(self) -> tuple[float, float]:
        """One optimiser step; returns (loss, accuracy on the batch)."""
        s = self.settings
        rate = s.learning_rate * learning_rate_factor(
            self.step, warmup_steps=100, horizon=s.max_train_steps, schedule="cosine"
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        indices = self.sampler.batch(self.step)
        generator = make_generator("cpu", s.seed, self.step, 1)
        pixel_values = augment(self.images[indices], self.extent[indices], self.window, generator).to(
            self.device
        )
        rows = self.rows[indices].to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits = self.encoder(pixel_values)[1]
        loss = F.cross_entropy(logits, rows, label_smoothing=LABEL_SMOOTHING)
        if not torch.isfinite(loss):
            raise UserError(
                f"the loss is not finite at step {self.step}: lower --learning_rate {s.learning_rate}"
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.encoder.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.ema.update(self.encoder, self.step)
        return loss.item(), (logits.argmax(dim=1) == rows).float().mean().item()

    def measure(self) -> float:
        """Accuracy of the averaged weights on held-out words."""
        logits = self.ema.module.embed(self.val_images.numpy())[1]
        return float((logits.argmax(axis=1) == self.val_rows.numpy()).mean())

    def save(self, run_folder: Path, val_accuracy: float) -> None:
        """Save the run's state as its newest checkpoint, whole or not at all."""

        def write(folder: Path) -> None:
            extra = {
                "step": self.step,
                "val_accuracy": round(val_accuracy, 4),
                "val_words": len(self.val_rows),
                "words": len(self.rows),
                "training": asdict(self.settings),
            }
            self.ema.module.save_pretrained(folder, extra)
            state = {"step": self.step, "settings": asdict(self.settings), "val_accuracy": val_accuracy}
            save_training_state(
                folder / TRAINING_STATE, self.encoder, self.optimizer, state, self.ema.state_dict()
            )

        save_checkpoint(run_folder, self.step, write, keep=2)

    def restore(self, checkpoint: Path) -> None:
        """Take over a checkpoint's state."""
        state, averages = load_training_state(checkpoint / TRAINING_STATE, self.encoder, self.optimizer)
        self.ema.load_state_dict(averages)
        self.step = state["step"]


def train(trainer: StyleTrainer, run_folder: Path, save_every: int) -> float:
    """The loop; returns the accuracy on held-out words at its end."""
    truncate_csv(run_folder / "log.csv", trainer.step, LOG_COLUMNS)
    last, start, accuracy = trainer.settings.max_train_steps, time.monotonic(), float("nan")
    recent: list[tuple[float, float]] = []
    with StopFlag() as stop, tqdm(total=last, initial=trainer.step, unit="step", desc="train") as bar:
        is_stopped = False
        while trainer.step < last and not is_stopped:
            recent.append(trainer.train_step())
            bar.update()
            is_stopped = stop.is_set  # read once: a signal later in this step must not end the loop unsaved
            is_saving = trainer.step % save_every == 0 or trainer.step == last or is_stopped
            if is_saving:
                accuracy = trainer.measure()
                trainer.save(run_folder, accuracy)
            if is_saving or trainer.step % 50 == 0:
                loss, train_accuracy = np.mean(recent, axis=0)
                recent.clear()
                bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{train_accuracy:.3f}", val=f"{accuracy:.3f}")
                row = (
                    trainer.step,
                    f"{loss:.4f}",
                    f"{train_accuracy:.4f}",
                    f"{trainer.optimizer.param_groups[0]['lr']:.2e}",
                    f"{accuracy:.4f}" if is_saving else "",
                    f"{time.monotonic() - start:.1f}",
                )
                with (run_folder / "log.csv").open("a", encoding="utf-8") as file:
                    file.write(",".join(map(str, row)) + "\n")
        if is_stopped and trainer.step < last:
            print(f"stopped     at step {trainer.step}; --resume goes on", file=sys.stderr)
    return trainer.measure() if accuracy != accuracy else accuracy


def main(args: argparse.Namespace) -> None:
    """Prepare the words and the model, train, measure."""
    checkpoint = choose_resume(args.save_path, args.resume)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = args.mixed_precision or ("bf16" if has_fast_bf16(device) else "no")
    settings = StyleSettings()
    if checkpoint:
        state = json.loads((checkpoint / TRAINING_STATE / STATE_NAME).read_text(encoding="utf-8"))
        settings = StyleSettings(**state["settings"])
    given = {name: getattr(args, name) for name in asdict(settings) if getattr(args, name) is not None}
    settings = replace(settings, **given)

    words = read_sources(parse_sources(args.dataset_path))
    train_indices = words.train_indices()
    torch.manual_seed(settings.seed)
    size = read_image(words.paths[train_indices[0]]).shape
    encoder = make_encoder(words, train_indices, tuple(size), args.backbone, args.style_dim, checkpoint)
    trainer = StyleTrainer(encoder, words, settings, precision, device)
    if checkpoint:
        trainer.restore(checkpoint)
        print(f"resumed     {checkpoint} at step {trainer.step}")
    count = len(encoder.config.writers)
    print(f"words       {len(trainer.rows)} to train on, {len(trainer.val_rows)} held out, {count} writers")
    print(
        f"model       {encoder.config.backbone}, {sum(p.numel() for p in encoder.parameters()) / 1e6:.2f} M"
        f" parameters on {device}, precision {precision}"
    )
    accuracy = train(trainer, args.save_path, args.save_every)
    print(
        f"accuracy    {100 * accuracy:.1f} % on {len(trainer.val_rows)} held-out words (by chance "
        f"{100 / count:.1f} %)"
    )
    print(f"saved       {args.save_path}")


if __name__ == "__main__":
    run(main, parse_args())
