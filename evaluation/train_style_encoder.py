"""Train the style encoder on real text images: it names the writer of an image.

  python3 evaluation/train_style_encoder.py --dataset_path data/iam --save_path runs/style
  python3 evaluation/evaluate.py --real data/iam --generated data/iam_synthetic --style_encoder runs/style \\
      --save_dir report

Reports the accuracy on held-out images (--max_train_steps 0 with --resume only measures). --resume goes on
with a run.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

if not __package__:  # the project's root, from whichever folder this is run
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from evaluation.style_trainer import (
    LOG_COLUMNS,
    StyleSettings,
    StyleTrainer,
    make_encoder,
    read_style_settings,
)
from feature_extractor import BACKBONES, StyleEncoderConfig
from utils.cli import HelpFormatter, positive_int, run
from utils.device import choose_device, choose_precision
from utils.sources import parse_sources, read_image, read_sources
from utils.training_loop import Intervals, claim_run, run_training


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    defaults = StyleSettings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument(
        "--dataset_path",
        nargs="+",
        required=True,
        metavar="FOLDER[:SHARE]",
        help="folders of text images; FOLDER:2 counts twice, FOLDER:0.5 half of it",
    )
    parser.add_argument("--save_path", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        metavar="STEP",
        help="continuation of the run in --save_path, from its newest checkpoint, or from that of STEP; it"
        " keeps its settings unless a flag says otherwise (default: a new run)",
    )
    parser.add_argument(
        "--backbone", choices=BACKBONES, help=f"torchvision model below (default: {BACKBONES[0]})"
    )
    parser.add_argument(
        "--style_dim",
        type=positive_int,
        help=f"length of a style vector (default: {StyleEncoderConfig.style_dim})",
    )
    for name, kind, text in (
        ("max_train_steps", int, "steps in all; with --resume, 0 only measures"),
        ("batch_size", positive_int, "images a step"),
        ("learning_rate", float, "peak of AdamW's learning rate"),
        ("weight_decay", float, "AdamW's weight decay"),
        ("window", positive_int, "width of the training windows, pixels"),
        ("seed", int, "random seed of weights, order and windows"),
    ):
        parser.add_argument(f"--{name}", type=kind, help=f"{text} (default: {getattr(defaults, name)})")
    parser.add_argument(
        "--mixed_precision", choices=("no", "bf16"), help="precision (default: bf16 where it is native)"
    )
    parser.add_argument(
        "--save_every",
        type=positive_int,
        default=500,
        help="steps between checkpoints, each measured on held-out images",
    )
    args = parser.parse_args(argv)
    if args.max_train_steps is not None and args.max_train_steps < 1 and not args.resume:
        parser.error(f"--max_train_steps {args.max_train_steps}: at least 1, but with --resume")
    for name in ("learning_rate", "weight_decay"):
        if getattr(args, name) is not None and not 0 <= getattr(args, name) < float("inf"):
            parser.error(f"--{name} {getattr(args, name)}: must be a number of at least 0")
    return args


def make_trainer(args: argparse.Namespace, checkpoint: Path | None) -> StyleTrainer:
    """Read the images, make the model, and go to where the run stopped."""
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
    """Prepare the images and the model, train, measure."""
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
