"""Train the compact VAE for handwriting on one or more folders of text images.

  python3 diffusion/train_autoencoder.py --dataset_path data/iam --save_path runs/vae
  python3 train_diffusion.py --dataset iam --iam_path data/iam --vae runs/vae
  python3 diffusion/train_autoencoder.py --dataset_path data/iam --save_path runs/fast --distil_decoder VAE

Reports the PSNR of held-out images (--max_train_steps 0 with --resume only measures). A run is resumed with
--resume.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

if not __package__:  # the project's root, from whichever folder this is run
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from diffusion.autoencoder_trainer import (
    LOG_COLUMNS,
    AutoencoderSettings,
    AutoencoderTrainer,
    load_autoencoder,
    measure_psnr,
    read_autoencoder_settings,
)
from diffusion.new_autoencoder import load_teacher, make_autoencoder, make_small_decoder
from diffusion.windows import crop_held_out, load_words
from utils.cli import HelpFormatter, positive_int, run
from utils.device import choose_device, choose_precision
from utils.sources import parse_sources, read_sources
from utils.training_loop import Intervals, claim_run, run_training

HELD_OUT_IMAGES = 256  # that are measured


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    _add_data_flags(parser)
    _add_training_flags(parser)
    args = parser.parse_args(argv)
    if args.max_train_steps is not None and args.max_train_steps < 1 and not args.resume:
        parser.error(f"--max_train_steps {args.max_train_steps}: at least 1, but with --resume")
    if args.crop_width is not None and args.crop_width < 8:
        parser.error(f"--crop_width {args.crop_width}: at least 8")
    if args.learning_rate is not None and not 0 < args.learning_rate < math.inf:
        parser.error(f"--learning_rate {args.learning_rate}: must be above 0")
    if args.kl_weight is not None and not 0 <= args.kl_weight < math.inf:
        parser.error(f"--kl_weight {args.kl_weight}: must be at least 0")
    if args.distil_decoder and (args.init_from or args.latent_channels):
        parser.error(
            "--distil_decoder: the encoder and its latents stay; leave --init_from and --latent_channels out"
        )
    for channels in args.block_out_channels or ():
        if channels % 16:
            parser.error(f"--block_out_channels {channels}: must be a multiple of 16")
    return args


def _add_data_flags(parser: argparse.ArgumentParser) -> None:
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
        help="continuation of the run in --save_path, from its newest checkpoint, or from that of STEP",
    )
    parser.add_argument(
        "--max_words",
        type=positive_int,
        default=100_000,
        help="most images held in memory, 16 KB a word of 64x256, 80 KB a line; of more, an even sample",
    )
    parser.add_argument(
        "--block_out_channels",
        type=positive_int,
        nargs=2,
        metavar=("A", "B"),
        help=(
            "channels of the two levels, multiples of 16; a resumed run keeps its own (default: 64 128; with"
            " --distil_decoder 32 64)"
        ),
    )
    parser.add_argument(
        "--latent_channels",
        type=positive_int,
        help=(
            "channels of the latents, 8x smaller than the image each way; a resumed run keeps its own"
            " (default: 4, or as many as --init_from has)"
        ),
    )
    parser.add_argument(
        "--init_from",
        metavar="VAE",
        help=(
            "compact VAE to begin with: a folder with one of the same channels and blocks, and at most as"
            " many latent channels"
        ),
    )
    parser.add_argument(
        "--layers_per_block",
        type=positive_int,
        help=("ResNet blocks a level; a resumed run keeps its own (default: 2; with --distil_decoder 1)"),
    )
    parser.add_argument(
        "--distil_decoder",
        metavar="VAE",
        help=(
            "compact VAE, whose decoder a smaller one of --block_out_channels and --layers_per_block learns"
            " from; the encoder and the latents stay, so that models trained with that VAE can write with"
            " the new one: scripts/export_checkpoint.py --vae"
        ),
    )


def _add_training_flags(parser: argparse.ArgumentParser) -> None:
    default = AutoencoderSettings
    parser.add_argument(
        "--max_train_steps",
        type=int,
        help=f"steps in all; the learning rate has come down by then (default: {default.max_train_steps})",
    )
    parser.add_argument(
        "--batch_size", type=positive_int, help=f"windows a step (default: {default.batch_size})"
    )
    parser.add_argument(
        "--crop_width",
        type=positive_int,
        help=f"width of the training windows in pixels (default: {default.crop_width})",
    )
    parser.add_argument(
        "--learning_rate", type=float, help=f"peak learning rate of AdamW (default: {default.learning_rate})"
    )
    parser.add_argument(
        "--kl_weight",
        type=float,
        help=(
            "weight of the mean KL divergence of a latent element, against the L1 of pixels in [-1, 1]"
            f" (default: {default.kl_weight})"
        ),
    )
    parser.add_argument(
        "--mixed_precision",
        choices=("no", "bf16"),
        help="precision of the computation (default: bf16 where it is native, else no)",
    )
    parser.add_argument(
        "--save_every",
        type=positive_int,
        default=1000,
        help="steps between checkpoints, each measured on held-out images",
    )
    parser.add_argument(
        "--seed", type=int, help=f"random seed of weights, order and windows (default: {default.seed})"
    )


def make_trainer(args: argparse.Namespace, checkpoint: Path | None) -> AutoencoderTrainer:
    """Read the images, make the VAE, and go to where the run stopped."""
    settings = read_autoencoder_settings(checkpoint) if checkpoint else AutoencoderSettings()
    given = {field.name: getattr(args, field.name) for field in fields(AutoencoderSettings)}
    settings = replace(settings, **{name: value for name, value in given.items() if value is not None})

    # Images of split val measure, those of split test are never looked at.
    sources = read_sources(parse_sources(args.dataset_path))
    train, val = sources.train_indices(), sources.val_indices()
    train = train[:: math.ceil(len(train) / args.max_words)]
    words = load_words([sources.paths[i] for i in train])
    held_out = crop_held_out(load_words([sources.paths[i] for i in val[:HELD_OUT_IMAGES]]))
    height, width = words.strip.shape[0], words.widths.float().mean()
    print(
        f"images      {len(train)} to train on, {len(held_out)} held out, {height} pixels high, on average"
        f" {width:.0f} wide"
    )

    torch.manual_seed(settings.seed)
    if checkpoint:
        vae = load_autoencoder(checkpoint)
    elif settings.distil_decoder:
        vae = make_small_decoder(
            load_teacher(settings.distil_decoder),
            decoder_channels=tuple(args.block_out_channels or (32, 64)),
            decoder_layers=args.layers_per_block or 1,
        )
    else:
        vae = make_autoencoder(
            block_out_channels=tuple(args.block_out_channels or (64, 128)),
            layers_per_block=args.layers_per_block or 2,
            latent_channels=args.latent_channels,
            init_from=args.init_from,
        )
    device = choose_device()
    precision = choose_precision(args.mixed_precision, device)
    trainer = AutoencoderTrainer(vae, words, held_out, settings, precision=precision, device=device)
    if checkpoint:
        trainer.restore(checkpoint)
        psnr = "" if trainer.psnr is None else f", last PSNR {trainer.psnr:.2f} dB"
        print(f"resumed     {checkpoint} at step {trainer.step}{psnr}")
    if trainer.teacher is not None:
        psnr = measure_psnr(trainer.teacher, held_out, device)
        print(f"teacher     {settings.distil_decoder}: PSNR {psnr:.2f} dB on the same images")
    size = sum(parameter.numel() for parameter in vae.parameters()) / 1e6
    print(f"model       {size:.2f} M parameters on {device}, precision {precision}")
    return trainer


def main(args: argparse.Namespace) -> None:
    """Train, measure, save."""
    with claim_run(args.save_path, args.resume) as checkpoint:
        trainer = make_trainer(args, checkpoint)
        intervals = Intervals(save_every=args.save_every, validate_every=args.save_every)
        last_row = run_training(trainer, args.save_path, LOG_COLUMNS, intervals)
        if not last_row:  # no step was left
            trainer.validate()
    print(f"PSNR        {trainer.psnr:.2f} dB on {len(trainer.held_out)} held-out images")
    print(f"saved       {args.save_path}: give it to train_diffusion.py as --vae {args.save_path}")


if __name__ == "__main__":
    run(main, parse_args())
