"""Make a checkpoint small enough to share: weights of 16 or 8 bits, no training state.

python3 scripts/export_checkpoint.py --models_path runs/iam --save_path exported
python3 scripts/export_checkpoint.py --models_path runs/iam --save_path exported --vae runs/fast
python3 scripts/export_checkpoint.py --models_path runs/student --save_path exported --teacher runs/iam
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

if not __package__:
    sys.path[0] = str(
        Path(__file__).resolve().parents[1]
    )  # the project's root, from whichever folder this is run

import torch

from diffusion.loading import find_teacher
from diffusion.pipeline import HandwritingPipeline
from utils.checkpoint import CONFIG_NAME, TEACHER_FOLDER
from utils.cli import HelpFormatter, run
from utils.errors import UserError
from utils.json_files import read_json
from utils.output import claim_folder

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "int8": torch.int8}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument(
        "--models_path", type=Path, required=True, help="checkpoint, or run (its newest checkpoint)"
    )
    parser.add_argument("--save_path", type=Path, required=True, help="folder to write, absent or empty")
    parser.add_argument(
        "--dtype",
        choices=tuple(DTYPES),
        default="fp16",
        help="precision of the weights; int8: large tensors as whole numbers with a scale for each row",
    )
    parser.add_argument(
        "--vae",
        help="VAE in place of the checkpoint's own: one of diffusion/train_autoencoder.py --distil_decoder",
    )
    parser.add_argument(
        "--teacher",
        type=Path,
        help="model that --models_path was distilled from; goes with it, in the folder teacher, for"
        " --init_from, --fit_hand and --distil_from",
    )
    return parser.parse_args(argv)


def open_teacher(args: argparse.Namespace, student: HandwritingPipeline) -> HandwritingPipeline:
    """The model of --teacher.

    Raises:
        UserError: if --models_path is no student, or knows other writers or characters than this model.
    """
    if student.config.student is None:
        raise UserError(
            f"--teacher {args.teacher}: --models_path {args.models_path} is no student. Leave it out."
        )
    folder = find_teacher(args.teacher, flag="--teacher")
    teacher = HandwritingPipeline.from_pretrained(folder, vae=args.vae, flag="--teacher")
    for what in ("writers", "charset", "img_size"):
        if getattr(teacher.config, what) != getattr(student.config, what):
            raise UserError(
                f"--teacher {args.teacher}: has another {what} than --models_path {args.models_path}. Give"
                " the model that this was distilled from."
            )
    return teacher


def save_teacher(teacher: HandwritingPipeline, folder: Path, dtype: torch.dtype) -> None:
    """Write a teacher's UNet and config into a student's checkpoint, whose other parts it shares."""
    vae = read_json(folder / CONFIG_NAME)["vae"]
    target = folder / TEACHER_FOLDER
    target.mkdir()
    teacher.save_unet(target, replace(teacher.config, vae=vae), dtype=dtype)


def main(args: argparse.Namespace) -> None:
    """Load, write, measure."""
    claim_folder(args.save_path, "--save_path")
    pipeline = HandwritingPipeline.from_pretrained(args.models_path, vae=args.vae)
    teacher = open_teacher(args, pipeline) if args.teacher else None
    pipeline.save_pretrained(args.save_path, dtype=DTYPES[args.dtype])
    if teacher:
        save_teacher(teacher, args.save_path, DTYPES[args.dtype])
    size = sum(path.stat().st_size for path in args.save_path.rglob("*") if path.is_file())
    print(f"wrote       {args.save_path}, {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    run(main, parse_args())
