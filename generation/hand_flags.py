"""The flags of inference.py that say whose hand it is."""

import argparse
from pathlib import Path

from diffusion.variation import DEFAULT_VARIATION


def add_hand_flags(group: argparse._ArgumentGroup) -> None:
    """Add the flags that say whose hand it is, and how far its drawings differ."""
    group.add_argument(
        "--writer",
        nargs="+",
        metavar="ID|FILE",
        help=(
            "writers by name, or 'random', or 'all'; files of --save_hand and --fit_hand; 'new', a random"
            " hand by --seed, or 'new:7', the one of number 7 (default: random; with --style_images their"
            " hand; with --dataset_path each word's own; with --single_image False all)"
        ),
    )
    group.add_argument(
        "--mix",
        nargs="+",
        metavar="ID:SHARE",
        help="one style mixed of several writers' or hand files, e.g. --mix 000:0.7 011:0.3",
    )
    group.add_argument(
        "--style_images",
        nargs="+",
        type=Path,
        metavar="FILE|FOLDER",
        help=(
            "pictures of one person's writing, words, lines or parts of a page, without transcripts: they"
            " become a writer called as the first of them (models trained with --style_encoder)"
        ),
    )
    group.add_argument(
        "--save_hand",
        type=Path,
        metavar="FILE",
        help="file to save the hand in that is written in, for --writer and --mix of this model",
    )
    group.add_argument(
        "--variation",
        type=float,
        default=DEFAULT_VARIATION,
        metavar="V",
        help=(
            "spread of a hand's drawings in style and widths, as a multiple of that between a writer's"
            " images; 0 draws all alike but for the noise"
        ),
    )
