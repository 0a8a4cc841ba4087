"""Make a checkpoint small enough to share: weights of 16 or 8 bits, no training state.

python3 scripts/export_checkpoint.py --models_path runs/iam --save_path exported
python3 scripts/export_checkpoint.py --models_path runs/iam --save_path exported --vae runs/fast
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:
    sys.path[0] = str(
        Path(__file__).resolve().parents[1]
    )  # the project's root, from whichever folder this is run

import torch

from diffusion.pipeline import HandwritingPipeline
from utils.cli import HelpFormatter, run
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
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    """Load, write, measure."""
    claim_folder(args.save_path, "--save_path")
    HandwritingPipeline.from_pretrained(args.models_path, vae=args.vae).save_pretrained(
        args.save_path, dtype=DTYPES[args.dtype]
    )
    size = sum(path.stat().st_size for path in args.save_path.rglob("*") if path.is_file())
    print(f"wrote       {args.save_path}, {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    run(main, parse_args())
