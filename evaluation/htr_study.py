"""Does generated handwriting make a recogniser better? Real images, generated images, and both, at several
amounts of real data.

  python3 evaluation/htr_study.py --dataset_path data/iam --generator runs/fonts --save_path runs/study
  python3 evaluation/htr_study.py --dataset_path data/iam --generator runs/fonts --save_path runs/study \\
      --fractions 10 100 --seeds 5 --generator_steps 4000 --htr_steps 6000 --synthetic 4 \\
      --recogniser rapidocr --normalise letters --best_of 4 --max_cer 0.2
  accelerate launch --num_processes 4 evaluation/htr_study.py --dataset_path data/iam \\
      --generator runs/fonts --save_path runs/study

  python3 evaluation/htr_study.py --collection data/peraire --items 10 30 100 300 --save_path runs/curve

At each fraction, --generator (which must not have seen the data set: trained on fonts, say) is fine-tuned on
that part of the split train and on nothing else, and generates images of texts that this part does not hold;
recognisers are trained on the real part, on the generated images, on both, and on the one after the other,
and read the split test, which no model has seen. --full_generator adds a generator that saw more than its
fraction, as an upper bound. Writes study.json (every number), study.csv and report.html (table and plot).
With --collection a pretrained recogniser (models/recogniser) is fine-tuned on few lines of one collection:
alone, after font lines, and after lines of the generator adapted to these lines. Writes report.md, too.
The same command started again goes on where it was; several processes share the recognisers among them.
"""

import argparse
import json
import math
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields
from datetime import timedelta
from pathlib import Path

if not __package__:  # the project's root, from whichever folder this is run
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from accelerate import Accelerator, InitProcessGroupKwargs

from evaluation.collection_flags import COLLECTION_FLAGS, add_collection, make_collection_settings
from evaluation.collection_study import run_collection_study
from evaluation.study import summarise
from evaluation.study_checks import SETTINGS_NAME, check_inputs, check_settings
from evaluation.study_report import render_study, write_table
from evaluation.study_steps import (
    StudySettings,
    collect,
    fine_tune,
    make_tasks,
    prepare,
    train_task,
    write_images,
)
from htr.error_rates import NORMALISERS
from htr.trainer import HTRSettings
from utils.cli import HelpFormatter, positive_int, run
from utils.device import choose_device, name_gpu
from utils.json_files import read_json
from utils.output import write_atomically
from utils.text_images import read_text_images

STUDY_NAME, TABLE_NAME, REPORT_NAME = "study.json", "study.csv", "report.html"
FRACTIONS = (5.0, 10.0, 25.0, 50.0, 100.0)


def add_data(parser: argparse.ArgumentParser) -> None:
    """The flags of the data set and the study."""
    group = parser.add_argument_group("data and output")
    group.add_argument(
        "--dataset_path",
        type=Path,
        help="folder of real text images: split train gives the fractions, val (or else a tenth of train)"
        " chooses the best weights, of it the same fraction; test measures",
    )
    group.add_argument("--save_path", type=Path, required=True, help="folder of the study")
    group.add_argument(
        "--fractions",
        type=float,
        nargs="+",
        default=list(FRACTIONS),
        metavar="PERCENT",
        help="parts of the split train, of each writer alike, the smaller within the larger (default: 5 10"
        " 25 50 100)",
    )
    group.add_argument(
        "--seeds",
        type=positive_int,
        default=3,
        metavar="N",
        help="recognisers of each kind, which differ in first weights, order and augmentation",
    )


def add_generation(parser: argparse.ArgumentParser) -> None:
    """The flags of the generators and of the generated images."""
    group = parser.add_argument_group("generator")
    group.add_argument(
        "--generator",
        type=Path,
        metavar="MODEL",
        help="checkpoint that has not seen the data set (nor has its VAE); it is fine-tuned on each fraction"
        " (default with --collection: models/demo)",
    )
    group.add_argument("--generator_steps", type=positive_int, default=2000, help="steps of fine-tuning")
    group.add_argument(
        "--generator_learning_rate", type=float, help="learning rate (default: that of train_diffusion.py)"
    )
    group.add_argument(
        "--generator_batch_size", type=positive_int, help="batch size (default: that of train_diffusion.py)"
    )
    group.add_argument(
        "--full_generator",
        type=Path,
        metavar="MODEL",
        help="model trained on all of the split train: its images make another arm, marked as an upper bound",
    )
    group = parser.add_argument_group("generated images")
    group.add_argument(
        "--synthetic",
        type=float,
        default=2.0,
        metavar="TIMES",
        help="generated images for each image of the whole split train, at every fraction",
    )
    group.add_argument(
        "--words_file",
        type=Path,
        help="list of texts to draw from (default: a dictionary); texts of the real images are left out",
    )
    group.add_argument("--recogniser", help="recogniser that chooses images, see inference.py")
    group.add_argument("--best_of", type=positive_int, help="variants of each image, see inference.py")
    group.add_argument("--max_cer", type=float, help="highest error rate to keep, see inference.py")
    group.add_argument(
        "--normalise", choices=tuple(NORMALISERS), help="comparison of texts, see inference.py"
    )
    group.add_argument(
        "--num_steps", type=positive_int, help="sampling steps (default: that of inference.py)"
    )
    group.add_argument(
        "--inference_batch_size",
        type=positive_int,
        help="images generated at once (default: that of inference.py)",
    )


def add_recognisers(parser: argparse.ArgumentParser) -> None:
    """The flags of the recognisers."""
    htr = HTRSettings()
    group = parser.add_argument_group(
        "recognisers",
        "each has the same steps; those that learn real images after generated ones have as many again",
    )
    group.add_argument("--htr_steps", type=positive_int, default=htr.max_train_steps, help="most steps")
    group.add_argument("--htr_batch_size", type=positive_int, default=htr.batch_size, help="images a step")
    group.add_argument(
        "--htr_learning_rate", type=float, default=htr.learning_rate, help="peak of the learning rate"
    )
    group.add_argument(
        "--patience",
        type=positive_int,
        default=htr.patience,
        help="validations in a row without a better one that end a training",
    )
    group.add_argument(
        "--validate_every", type=positive_int, default=htr.validate_every, help="steps between validations"
    )
    group.add_argument(
        "--init_from",
        type=Path,
        metavar="RUN",
        help="recogniser that all arms start from (it must not have seen the data set)",
    )
    group.add_argument(
        "--real_share",
        type=float,
        default=1.0,
        metavar="TIMES",
        help="times that a real image counts in an epoch where real and generated ones are mixed",
    )
    group = parser.add_argument_group("speed")
    group.add_argument(
        "--mixed_precision",
        choices=("no", "bf16"),
        help="precision of trainings and generation (default: bf16 where it is native, fp32 for generation)",
    )


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add_data(parser)
    add_generation(parser)
    add_recognisers(parser)
    add_collection(parser)
    args = parser.parse_args(argv)
    args.study = make_collection_settings(parser, args) if args.collection else None
    if args.collection:
        return args
    for name in ("dataset_path", "generator"):
        if getattr(args, name) is None:
            parser.error(f"--{name}: is needed, or --collection")
    if given := [name for name in COLLECTION_FLAGS if getattr(args, name) is not None]:
        parser.error(f"--{given[0]}: goes with --collection")
    for value in args.fractions:
        if not 0 < value <= 100:
            parser.error(f"--fractions {value:g}: percent of the split train, above 0 and at most 100")
        if value != round(value, 2):
            parser.error(f"--fractions {value}: two decimals are the most")
    for name in ("synthetic", "real_share", "htr_learning_rate", "generator_learning_rate"):
        if getattr(args, name) is not None and not 0 < getattr(args, name) < math.inf:
            parser.error(f"--{name} {getattr(args, name)}: must be above 0")
    for name in ("best_of", "max_cer", "normalise"):
        if getattr(args, name) is not None and not args.recogniser:
            parser.error(f"--{name} {getattr(args, name)}: goes with --recogniser")
    if args.max_cer is not None and not 0 <= args.max_cer < math.inf:
        parser.error(f"--max_cer {args.max_cer}: a share of at least 0")
    args.fractions = sorted(set(args.fractions))
    return args


def main(args: argparse.Namespace) -> None:
    """Fractions, generators, generated images, recognisers, report."""
    # So that the scripts that this one calls are ended too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if args.study:
        run_collection_study(args.study, choose_device(), print)
        return
    settings = StudySettings(**{field.name: getattr(args, field.name) for field in fields(StudySettings)})
    # Processes wait for the one that fine-tunes a generator: hours.
    patience = InitProcessGroupKwargs(timeout=timedelta(days=7))
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[patience])
    rank, ranks, report = accelerator.process_index, accelerator.num_processes, accelerator.print
    device = accelerator.device
    gpu = name_gpu(device)
    if accelerator.is_main_process:
        check_inputs(settings)
        check_settings(settings)
    with accelerator.main_process_first():
        parts, per_writer, writers = prepare(settings)

    # The generators and their words, a fraction a process.
    for fraction, part in list(parts.items())[rank::ranks]:
        train = read_text_images(part, splits=["train"])
        report(f"generator   {fraction:g} %: {len(train)} real images")
        fine_tune(settings, part, part.parent / "generator", gpu)
        trained = sorted({record.writer for record in train})
        write_images(
            settings, part.parent / "generator", part, part.parent / "synthetic", per_writer, trained, gpu
        )
    if settings.full_generator and accelerator.is_main_process:
        write_images(
            settings,
            settings.full_generator,
            settings.dataset_path,
            settings.save_path / "synthetic_full",
            per_writer,
            writers,
            gpu,
        )
    accelerator.wait_for_everyone()

    # The recognisers.
    tasks = make_tasks(settings, parts)
    for goes_on in (False, True):  # those that start from others come after these
        of_rank = [task for task in tasks if bool(task.arm.starts_from) == goes_on][rank::ranks]
        for number, task in enumerate(of_rank, start=1):
            what = f"{task.arm.name}, {task.fraction:g} %, seed {task.seed}"
            report(f"recogniser  {number} of {len(of_rank)}: {what}")
            train_task(settings, task, parts[task.fraction], device)
        accelerator.wait_for_everyone()

    if accelerator.is_main_process:
        study = summarise(collect(tasks))
        values = read_json(settings.save_path / SETTINGS_NAME)
        write_atomically(
            settings.save_path / STUDY_NAME,
            json.dumps({"settings": values, **study.as_json()}, indent=2) + "\n",
        )
        write_table(study, settings.save_path / TABLE_NAME)
        write_atomically(settings.save_path / REPORT_NAME, render_study(study, values))
        print(study.describe())
        print(f"saved       {settings.save_path}: {REPORT_NAME}, {TABLE_NAME}, {STUDY_NAME}")
    accelerator.end_training()


if __name__ == "__main__":
    run(main, parse_args())
