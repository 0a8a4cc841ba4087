"""The flags of train_diffusion.py that make a student."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from diffusion.distillation_settings import (
    DEFAULTS,
    DISTILLATION_STEPS,
    GUIDANCE_SHARE,
    RECOGNITION_WEIGHT,
    STUDENT_STEPS,
)
from utils.cli import positive_int

# Weights of what a student learns, and what they are by default.
_SCALES = {
    "guidance_scale": ("text", "the teacher's default"),
    "writer_guidance_scale": ("writer", "that of --guidance_scale"),
}
# What a student takes from its teacher, or what has nothing to say about one.
_REFUSED = ("init_from", "fit_hand", "vae", "style_encoder", "recogniser_steps", "writer_rate_factor")


def add_distillation_flags(parser: argparse.ArgumentParser) -> None:
    """Add them as a group of their own."""
    usual = ", ".join(f"--{name} {value:g}" for name, value in DEFAULTS.items())
    group = parser.add_argument_group(
        "distillation",
        f"defaults with --distil_from: --max_train_steps {DISTILLATION_STEPS}, {usual}, --recognition_weight"
        f" {RECOGNITION_WEIGHT:g}; --alignment as in the teacher's training",
    )
    group.add_argument(
        "--distil_from",
        type=Path,
        metavar="CHECKPOINT",
        help="checkpoint or run whose student is trained: a model of the same size, hands and characters that"
        " writes in a few passes, without guidance",
    )
    group.add_argument(
        "--student_steps",
        type=positive_int,
        help=f"passes in which the student draws (default: {STUDENT_STEPS})",
    )
    for name, (what, default) in _SCALES.items():
        group.add_argument(
            f"--{name}",
            type=float,
            metavar="SCALE",
            help=f"weight of the {what} in what the student learns, fixed by it (default: {default})",
        )
    group.add_argument(
        "--guidance_steps",
        type=int,
        help="first training steps, in which the student learns its teacher's guidance at all noise levels;"
        f" in the others it learns its own steps (default: {100 * GUIDANCE_SHARE:.0f} %% of all)",
    )


def check_distillation_flags(
    parser: argparse.ArgumentParser, args: argparse.Namespace, *, taken: Sequence[str]
) -> None:
    """End with a message if a flag does not go with the others.

    Args:
        taken: the flags of a model's sizes, which a student takes from its teacher.
    """
    if (args.guidance_steps or 0) < 0:
        parser.error(f"--guidance_steps {args.guidance_steps}: must be at least 0")
    for name in _SCALES:
        if not 0 <= (getattr(args, name) or 0) < math.inf:
            parser.error(f"--{name} {getattr(args, name)}: at least 0, and a number")
    if args.distil_from:
        for name in (*taken, *_REFUSED):
            if getattr(args, name) is not None:
                parser.error(
                    f"--{name} {getattr(args, name)}: a student of --distil_from has that from its teacher;"
                    " leave one of them out"
                )
    else:
        for name in ("student_steps", "guidance_steps", *_SCALES):
            if getattr(args, name) is not None:
                parser.error(f"--{name} {getattr(args, name)}: goes with --distil_from")
