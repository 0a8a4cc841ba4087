"""Train a recogniser (a CRNN with CTC) on any mix of folders of text images, and measure it.

  python3 htr/train_htr.py --train data/iam --test data/iam --save_path runs/htr
  python3 htr/train_htr.py --train data/iam data/iam_synthetic:0.5 --test data/iam --save_path runs/htr_mixed
  python3 htr/train_htr.py --train data/lines data/words:0.3 fonts:0.5 --preset large --height 48 \\
      --max_train_steps 20000 --save_path runs/reader --export reader
  python3 htr/train_htr.py --train data/iam --test data/iam --save_path runs/htr --resume

A run folder holds step_* checkpoints (each with the best weights so far), log.csv and, at the end,
results.json with character and word error rates (texts compared exactly) and their 95 % intervals. SIGTERM
and Ctrl-C save and stop; --resume continues to the same result. The run is a recogniser for the other
scripts.
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

from htr.crnn import CRNN, PRESETS
from htr.dataset import Words, read_split
from htr.error_rates import ErrorRates
from htr.trainer import HTRSettings, read_settings
from htr.training import train_recogniser
from utils.cli import HelpFormatter, positive_int, run
from utils.output import claim_folder
from utils.sources import parse_sources, read_sources
from utils.text_images import SPLITS
from utils.training_loop import claim_run


def add_images(parser: argparse.ArgumentParser) -> None:
    """The flags of the images."""
    group = parser.add_argument_group("images")
    group.add_argument(
        "--train",
        nargs="+",
        action="extend",
        required=True,
        metavar="FOLDER[:SHARE]",
        help="folders of text images, their split train; FOLDER:2 counts twice, FOLDER:0.5 half of it",
    )
    group.add_argument(
        "--valid",
        type=Path,
        nargs="+",
        metavar="FOLDER",
        help="folders that choose the best weights (default: images of --train that don't train: split"
        " val, as far as its writers train, else 2 %%)",
    )
    group.add_argument("--valid_split", choices=SPLITS, default="val", help="split of --valid")
    group.add_argument("--test", type=Path, metavar="FOLDER", help="folder that is measured once, at the end")
    group.add_argument("--test_split", choices=SPLITS, default="test", help="split of --test")


def add_run(parser: argparse.ArgumentParser) -> None:
    """The flags of the run."""
    group = parser.add_argument_group("run")
    group.add_argument("--save_path", type=Path, required=True, help="folder of the run")
    group.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        metavar="STEP",
        help="continuation of the run in --save_path, from its newest checkpoint, or from that of STEP; it"
        " keeps its settings unless a flag says otherwise (default: a new run)",
    )
    group.add_argument(
        "--init_from",
        type=Path,
        metavar="RUN",
        help="run whose recogniser is the start; characters that it does not know are added",
    )
    group.add_argument(
        "--export",
        type=Path,
        metavar="FOLDER",
        help="folder that gets the best weights in 16 bits at the end; with --resume, of a finished run",
    )


def add_training(parser: argparse.ArgumentParser) -> None:
    """The flags of ``HTRSettings``, and the precision."""
    defaults = HTRSettings()
    group = parser.add_argument_group("new recogniser", "without --init_from and --resume")
    group.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        help="size: small (1.4 M parameters), large (2.5 M) (default: small)",
    )
    group.add_argument(
        "--height",
        type=positive_int,
        metavar="PIXELS",
        help="height that it scales all images to, a multiple of 16; the time of a step grows with its square"
        " (default: that of the first image)",
    )
    group = parser.add_argument_group("training")
    for name, kind, text in (
        ("max_train_steps", positive_int, "steps in all, by which the learning rate has come down"),
        ("batch_size", positive_int, "images a step; 16 lines of 2,000 pixels take about 1 GB"),
        ("learning_rate", float, "peak of AdamW's learning rate"),
        ("warmup_steps", positive_int, "steps in which the learning rate rises; then it falls as a cosine"),
        ("validate_every", positive_int, "steps between validations, each with a checkpoint"),
        ("patience", positive_int, "validations in a row without a better one that end the training"),
        ("seed", int, "random seed of weights, order, augmentation and dropout"),
    ):
        group.add_argument(f"--{name}", type=kind, help=f"{text} (default: {getattr(defaults, name)})")
    group.add_argument(
        "--augment",
        action=argparse.BooleanOptionalAction,
        help="variation of the training images in slant, size, bends, pen and scan, and parts cut out"
        " (default: yes)",
    )
    group.add_argument(
        "--mixed_precision", choices=("no", "bf16"), help="precision (default: bf16 where it is native)"
    )


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add_images(parser)
    add_run(parser)
    add_training(parser)
    args = parser.parse_args(argv)
    if args.learning_rate is not None and not 0 < args.learning_rate < math.inf:
        parser.error(f"--learning_rate {args.learning_rate}: must be above 0")
    for name in ("preset", "height"):
        if getattr(args, name) is not None and (args.init_from or args.resume):
            parser.error(f"--{name} {getattr(args, name)}: for a new recogniser; leave it out")
    if args.height is not None and args.height % 16:
        parser.error(f"--height {args.height}: must be a multiple of 16, e.g. 48 or 64")
    return args


def main(args: argparse.Namespace) -> None:
    """Train in a run of its own, or go on with one."""
    if args.export:
        claim_folder(args.export, "--export")
    with claim_run(args.save_path, args.resume) as checkpoint:
        train_and_report(args, checkpoint)


def export(run_folder: Path, folder: Path, results: dict) -> None:
    """Write the best weights of a run in 16 bits, with its error rates."""
    rates = {name: results[name] for name in ("valid", "test")}
    CRNN.from_pretrained(run_folder).save_pretrained(folder, rates, dtype=torch.float16)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"exported    {folder}, {size / 1e6:.1f} MB")


def read_valid(folders: Sequence[Path], split: str) -> Words:
    """The images of one split of several folders."""
    parts = [read_split(folder, split, flag="--valid", split_flag="--valid_split") for folder in folders]
    return [record for part in parts for record in part[0]], [path for part in parts for path in part[1]]


def train_and_report(args: argparse.Namespace, checkpoint: Path | None) -> None:
    """Read the images, train, print the error rates."""
    settings = read_settings(checkpoint) if checkpoint else HTRSettings()
    given = {field.name: getattr(args, field.name) for field in fields(HTRSettings)}
    settings = replace(settings, **{name: value for name, value in given.items() if value is not None})

    train = read_sources(parse_sources(args.train, flag="--train"), flag="--train")
    valid = read_valid(args.valid, args.valid_split) if args.valid else None
    test = (
        read_split(args.test, args.test_split, flag="--test", split_flag="--test_split")
        if args.test
        else None
    )
    results = train_recogniser(
        train,
        args.save_path,
        valid=valid,
        test=test,
        settings=settings,
        checkpoint=checkpoint,
        init_from=args.init_from,
        preset=args.preset or "small",
        height=args.height,
        mixed_precision=args.mixed_precision,
    )
    if results is None:
        return
    print(
        f"best        step {results['best_step']} of {results['step']}, {results['seconds']:.0f} s of"
        " training"
    )
    for name in ("valid", "test"):
        if results[name]:
            print(f"{name:<11} {ErrorRates(**results[name]).describe()}")
    if args.export:
        export(args.save_path, args.export, results)
    print(f"saved       {args.save_path}: it is a recogniser for --recogniser {args.save_path}")


if __name__ == "__main__":
    run(main, parse_args())
