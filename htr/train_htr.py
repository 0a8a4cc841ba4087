"""Train a recogniser (CRNN with CTC) on any mix of word folders, and measure it.

  python3 htr/train_htr.py --train data/iam --test data/iam --save_path runs/htr
  python3 htr/train_htr.py --train data/iam --train data/iam_synthetic:0.5 --test data/iam --save_path
  runs/htr_mixed python3 htr/train_htr.py --train data/iam --test data/iam --save_path runs/htr --resume

A run folder holds step_* checkpoints (each with the best weights so far), log.csv and, at the end,
results.json with character and word error rates (exact, case and all) and their 95 % intervals. SIGTERM and
Ctrl-C save and stop; --resume goes on as if nothing had happened. The run is a recogniser for the other
scripts.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

if not __package__:
    sys.path[0] = str(
        Path(__file__).resolve().parents[1]
    )  # the project's root, from whichever folder this is run

from htr.dataset import read_split
from htr.error_rates import ErrorRates
from htr.trainer import HTRSettings, read_settings, train_recogniser
from utils.cli import positive_int, run
from utils.sources import parse_sources, read_sources
from utils.text_images import SPLITS
from utils.training_loop import claim_run


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    defaults = HTRSettings()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--train",
        nargs="+",
        action="extend",
        required=True,
        metavar="FOLDER[:SHARE]",
        help="word folders, their split train; FOLDER:2 counts twice, FOLDER:0.5 half of it",
    )
    parser.add_argument(
        "--valid",
        type=Path,
        metavar="FOLDER",
        help=(
            "word folder that chooses the best weights (default: "
            "words of --train that don't train: split val, as far as its writers train, else 2 %%)"
        ),
    )
    parser.add_argument(
        "--valid_split", choices=SPLITS, default="val", help="split of --valid (default: %(default)s)"
    )
    parser.add_argument(
        "--test", type=Path, metavar="FOLDER", help="word folder that is measured once, at the end"
    )
    parser.add_argument(
        "--test_split", choices=SPLITS, default="test", help="split of --test (default: %(default)s)"
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
    parser.add_argument(
        "--init_from",
        type=Path,
        metavar="RUN",
        help="start from another run's recogniser; it learns the characters that are new",
    )
    parser.add_argument(
        "--max_train_steps",
        type=positive_int,
        help=f"steps in all; the learning rate has come down by then (default: {defaults.max_train_steps})",
    )
    parser.add_argument(
        "--batch_size", type=positive_int, help=f"words a step (default: {defaults.batch_size})"
    )
    parser.add_argument(
        "--learning_rate", type=float, help=f"peak of AdamW's (default: {defaults.learning_rate})"
    )
    parser.add_argument(
        "--augment",
        action=argparse.BooleanOptionalAction,
        help="vary the training words in slant, width, pen and scan (default: yes)",
    )
    parser.add_argument(
        "--validate_every",
        type=positive_int,
        help=f"steps between validations, each a checkpoint (default: {defaults.validate_every})",
    )
    parser.add_argument(
        "--patience",
        type=positive_int,
        help=f"validations without a better one after which the training ends (default: {defaults.patience})",
    )
    parser.add_argument(
        "--seed", type=int, help=f"of weights, order, augmentation, dropout (default: {defaults.seed})"
    )
    parser.add_argument("--mixed_precision", choices=("no", "bf16"), help="default: bf16 where it is native")
    args = parser.parse_args(argv)
    if args.learning_rate is not None and not 0 < args.learning_rate < math.inf:
        parser.error(f"--learning_rate {args.learning_rate}: must be above 0")
    return args


def main(args: argparse.Namespace) -> None:
    """Train in a run of its own, or go on with one."""
    with claim_run(args.save_path, args.resume) as checkpoint:
        train_and_report(args, checkpoint)


def train_and_report(args: argparse.Namespace, checkpoint: Path | None) -> None:
    """Read the words, train, print the error rates."""
    settings = read_settings(checkpoint) if checkpoint else HTRSettings()
    given = {field.name: getattr(args, field.name) for field in fields(HTRSettings)}
    settings = replace(settings, **{name: value for name, value in given.items() if value is not None})

    train = read_sources(parse_sources(args.train, flag="--train"), flag="--train")
    valid = (
        read_split(args.valid, args.valid_split, flag="--valid", split_flag="--valid_split")
        if args.valid
        else None
    )
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
    print(f"saved       {args.save_path}: it is a recogniser for --recogniser {args.save_path}")


if __name__ == "__main__":
    run(main, parse_args())
