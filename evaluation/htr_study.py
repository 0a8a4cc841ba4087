"""Does generated handwriting make a recogniser better? Real words, generated words, and both, at several
amounts of real data.

  python3 evaluation/htr_study.py --dataset_path data/iam --generator runs/fonts --save_path runs/study
  python3 evaluation/htr_study.py --dataset_path data/iam --generator runs/fonts --save_path runs/study
      --fractions 10 100 --seeds 5 \\ --generator_steps 4000 --htr_steps 6000 --synthetic 4 --recogniser
      rapidocr --normalise letters --best_of 4 \\ --max_cer 0.2
  accelerate launch --num_processes 4 evaluation/htr_study.py --dataset_path data/iam --generator runs/fonts
  --save_path runs/study

At each fraction, --generator (which must not have seen the data set: trained on fonts, say) is fine-tuned on
that part of the split train and on nothing else, and writes words that this part does not hold; recognisers
are trained on the real part, on the generated words, on both, and on the one after the other, and read the
split test, which nobody else sees. --full_generator adds one that saw more than its fraction as an upper
bound, named so. Writes study.json (every number), study.csv and report.html (table and plot). The same
command started again goes on where it was; with several processes the recognisers are shared among them.
"""

import argparse
import json
import math
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import product
from pathlib import Path

if not __package__:
    sys.path[0] = str(
        Path(__file__).resolve().parents[1]
    )  # the project's root, from whichever folder this is run

import torch
from accelerate import Accelerator, InitProcessGroupKwargs

from evaluation.study import ARMS, UNITS, Arm, RunErrors, choose_fraction, copy_words, hold_out_val, summarise
from evaluation.study_report import render_study, write_table
from htr.crnn import CRNN
from htr.dataset import load_crops, read_split
from htr.error_rates import NORMALISERS, count_errors
from htr.recogniser import CRNNRecogniser, load_recogniser
from htr.trainer import HTRSettings, train_recogniser
from utils.charset import read_texts
from utils.checkpoint import CONFIG_NAME, checkpoint_step, list_checkpoints
from utils.cli import call_script, flags, positive_int, run
from utils.device import name_gpu
from utils.errors import UserError
from utils.output import check_no_file, write_atomically
from utils.sources import parse_sources, read_sources
from utils.text_images import METADATA_NAME, SPLITS, read_text_images
from utils.training_loop import claim_run

SETTINGS_NAME, STUDY_NAME, TABLE_NAME, REPORT_NAME = "settings.json", "study.json", "study.csv", "report.html"
READINGS_NAME = "test_readings.json"
FRACTIONS = (5.0, 10.0, 25.0, 50.0, 100.0)
# Settings that another start of the same study may change: they say where and how fast, not what.
FREE_SETTINGS = ("save_path", "inference_batch_size")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    htr = HTRSettings()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    group = parser.add_argument_group("data and output")
    group.add_argument(
        "--dataset_path",
        type=Path,
        required=True,
        help=(
            "word folder of real words: split train gives the fractions, val (or else a tenth of train)"
            " chooses the best weights, of it the same fraction; test measures"
        ),
    )
    group.add_argument("--save_path", type=Path, required=True, help="the study's folder")
    group.add_argument(
        "--fractions",
        type=float,
        nargs="+",
        default=list(FRACTIONS),
        metavar="PERCENT",
        help=(
            "of the split "
            "train, of each writer alike, the smaller within the larger (default: 5 10 25 50 100)"
        ),
    )
    group.add_argument(
        "--seeds",
        type=positive_int,
        default=3,
        metavar="N",
        help=(
            "recognisers of each kind, which differ in "
            "first weights, order and augmentation (default: %(default)s)"
        ),
    )
    group = parser.add_argument_group("generator")
    group.add_argument(
        "--generator",
        type=Path,
        required=True,
        metavar="MODEL",
        help="checkpoint that has not seen the data set (nor has its VAE); it is fine-tuned on each fraction",
    )
    group.add_argument(
        "--generator_steps", type=positive_int, default=2000, help="steps of that (default: %(default)s)"
    )
    group.add_argument("--generator_learning_rate", type=float, help="default: that of train_diffusion.py")
    group.add_argument(
        "--generator_batch_size", type=positive_int, help="default: that of train_diffusion.py"
    )
    group.add_argument(
        "--full_generator",
        type=Path,
        metavar="MODEL",
        help=(
            "a model that was trained on all of the split "
            "train: its words make another arm, marked as an upper bound"
        ),
    )
    group = parser.add_argument_group("generated words")
    group.add_argument(
        "--synthetic",
        type=float,
        default=2.0,
        metavar="TIMES",
        help=(
            "generated words for each word of the whole split train, at every fraction (default: %(default)s)"
        ),
    )
    group.add_argument(
        "--words_file",
        type=Path,
        help=(
            "their texts are drawn from it (default: a dictionary; none is a text of the real words at hand)"
        ),
    )
    group.add_argument("--recogniser", help="keep only words that it reads, see inference.py")
    group.add_argument("--best_of", type=positive_int, help="see inference.py")
    group.add_argument("--max_cer", type=float, help="see inference.py")
    group.add_argument("--normalise", choices=tuple(NORMALISERS), help="see inference.py")
    group.add_argument("--num_steps", type=positive_int, help="of sampling (default: that of inference.py)")
    group.add_argument(
        "--inference_batch_size",
        type=positive_int,
        help="words written at once (default: that of inference.py)",
    )
    group = parser.add_argument_group(
        "recognisers",
        "each has the same steps; those that learn real words after generated ones have as many again",
    )
    group.add_argument(
        "--htr_steps", type=positive_int, default=htr.max_train_steps, help="at most (default: %(default)s)"
    )
    group.add_argument(
        "--htr_batch_size", type=positive_int, default=htr.batch_size, help="default: %(default)s"
    )
    group.add_argument(
        "--htr_learning_rate", type=float, default=htr.learning_rate, help="default: %(default)s"
    )
    group.add_argument(
        "--patience",
        type=positive_int,
        default=htr.patience,
        help="validations without a better one (default: %(default)s)",
    )
    group.add_argument(
        "--validate_every", type=positive_int, default=htr.validate_every, help="default: %(default)s"
    )
    group.add_argument(
        "--init_from",
        type=Path,
        metavar="RUN",
        help="a recogniser that all arms start from (it must not have seen the data set)",
    )
    group.add_argument(
        "--real_share",
        type=float,
        default=1.0,
        metavar="TIMES",
        help=(
            "how often the real words count in an "
            "epoch where they are mixed with generated ones (default: %(default)s)"
        ),
    )
    group = parser.add_argument_group("speed")
    group.add_argument(
        "--mixed_precision",
        choices=("no", "bf16"),
        help="of trainings and writing (default: bf16 where it is native, and fp32 for writing)",
    )
    args = parser.parse_args(argv)
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


@dataclass(frozen=True)
class Task:
    """One recogniser to train: an arm at a fraction with a seed.

    Attributes:
        train: sources, as ``htr/train_htr.py`` takes them.
        init_from: the recogniser that it starts from, if any.
    """

    arm: Arm
    fraction: float
    seed: int
    train: tuple[str, ...]
    folder: Path
    init_from: Path | None


def fraction_name(fraction: float) -> str:
    """Folder name of a fraction, in the order of the numbers."""
    return f"fraction_{fraction:06.2f}"


def fine_tune(args: argparse.Namespace, part: Path, folder: Path, device: str | None) -> None:
    """The generator of one fraction: --generator, and then nothing but the words of ``part``."""
    finished = folder / "finished.json"
    if finished.is_file():
        return
    start = time.monotonic()
    checkpoints = list_checkpoints(folder)
    call_script(
        "train_diffusion.py",
        [
            "--dataset_path",
            part,
            "--save_path",
            folder,
            *(["--resume"] if checkpoints else ["--init_from", args.generator]),
            *flags(
                max_train_steps=args.generator_steps,
                learning_rate=args.generator_learning_rate,
                batch_size=args.generator_batch_size,
                save_every=max(1, min(500, args.generator_steps)),
                keep_checkpoints=1,
                mixed_precision=args.mixed_precision,
            ),
        ],
        folder.with_suffix(".log"),
        device,
    )
    if checkpoint_step(list_checkpoints(folder)[-1]) < args.generator_steps:  # it was stopped, and saved
        raise UserError(
            f"{folder}: the generator's training was stopped. Start the same command again to go on."
        )
    write_atomically(finished, json.dumps({"seconds": round(time.monotonic() - start, 1)}))


def write_words(
    args: argparse.Namespace,
    model: Path,
    part: Path,
    folder: Path,
    per_writer: int,
    writers: Sequence[str],
    device: str | None,
) -> None:
    """Generated words in hands of ``part``, none whose text its split train holds."""
    if (folder / METADATA_NAME).is_file():
        return
    call_script(
        "inference.py",
        [
            "--models_path",
            model,
            "--dataset_path",
            part,
            "--oov",
            per_writer,
            "--oov_scope",
            "dataset",
            "--save_path",
            folder,
            "--seed",
            1,
            "--writer",
            *writers,
            *flags(
                words_file=args.words_file,
                recogniser=args.recogniser,
                best_of=args.best_of,
                max_cer=args.max_cer,
                normalise=args.normalise,
                num_steps=args.num_steps,
                batch_size=args.inference_batch_size,
                mixed_precision=args.mixed_precision,
            ),
        ],
        folder.with_suffix(".log"),
        device,
    )


def make_tasks(args: argparse.Namespace, parts: dict[float, Path]) -> list[Task]:
    """All recognisers, fraction by fraction."""
    arms = [arm for arm in ARMS if not arm.is_upper_bound or args.full_generator]
    tasks = []
    for fraction, part in parts.items():
        root = args.save_path / fraction_name(fraction)
        folder, real, mixed, synthetic = (
            root / "recognisers",
            str(part),
            f"{part}:{args.real_share:g}",
            str(root / "synthetic"),
        )
        sources = {
            "real": (real,),
            "synthetic": (synthetic,),
            "mixed": (mixed, synthetic),
            "then_real": (real,),
            "upper_bound": (mixed, str(args.save_path / "synthetic_full")),
        }
        for arm, seed in product(arms, range(args.seeds)):
            init_from = folder / f"{arm.starts_from}-{seed}" if arm.starts_from else args.init_from
            tasks.append(
                Task(arm, fraction, seed, sources[arm.slug], folder / f"{arm.slug}-{seed}", init_from)
            )
    return tasks


def train_task(args: argparse.Namespace, task: Task, part: Path, device: torch.device) -> None:
    """Train one recogniser, and note what it reads in the test words."""
    if (task.folder / READINGS_NAME).is_file():
        return
    settings = HTRSettings(
        max_train_steps=args.htr_steps,
        batch_size=args.htr_batch_size,
        learning_rate=args.htr_learning_rate,
        validate_every=args.validate_every,
        patience=args.patience,
        seed=task.seed,
    )
    train = read_sources(parse_sources(task.train, flag="--dataset_path"))
    with claim_run(task.folder, bool(list_checkpoints(task.folder))) as checkpoint:
        results = train_recogniser(
            train,
            task.folder,
            valid=read_split(part, "val", flag="--dataset_path"),
            settings=settings,
            checkpoint=checkpoint,
            init_from=task.init_from,
            device=device,
            mixed_precision=args.mixed_precision,
        )
    if results is None:
        raise KeyboardInterrupt
    model = CRNN.from_pretrained(task.folder).to(device)
    records, paths = read_split(args.dataset_path, "test", flag="--dataset_path")
    readings = CRNNRecogniser(model).read(load_crops(paths, img_height=model.config.img_height))
    texts = [record.text for record in records]
    read = [reading.text for reading in readings]
    counts = {unit: [column.tolist() for column in count_errors(texts, read, unit=unit)] for unit in UNITS}
    write_atomically(
        task.folder / READINGS_NAME,
        json.dumps(
            {
                "readings": read,
                **counts,
                "trained_on": results["words"],
                "best_step": results["best_step"],
                "seconds": results["seconds"],
            },
            ensure_ascii=False,
        ),
    )


def check_settings(args: argparse.Namespace) -> None:
    """Note the study's settings; raise ValueError if the folder holds a study of others, or something
    else.
    """
    check_no_file(args.save_path, "--save_path")
    path = args.save_path / SETTINGS_NAME
    own = {
        key: str(value.resolve()) if isinstance(value, Path) else value
        for key, value in vars(args).items()
        if key not in FREE_SETTINGS
    }
    if path.is_file():
        old = json.loads(path.read_text(encoding="utf-8"))
        # Further fractions and seeds are more of the same study.
        for key in sorted(set(own) - {"fractions", "seeds"}):
            if old.get(key) != own[key]:
                raise UserError(
                    f"--save_path {args.save_path}: holds a study with --{key} {old.get(key)}, not"
                    f" {own[key]}. Name another folder."
                )
    elif args.save_path.is_dir() and any(args.save_path.iterdir()):
        raise UserError(f"--save_path {args.save_path}: not empty, and no study. Name another folder.")
    write_atomically(path, json.dumps(own, indent=2, ensure_ascii=False))


def check_inputs(args: argparse.Namespace) -> None:
    """Look at all that is used hours later before anything is done.

    Raises:
        FileNotFoundError, ValueError: if something is missing or can't be used, or --generator has seen the
            data set.
    """
    if args.words_file:
        read_texts(args.words_file)
    if args.recogniser:
        load_recogniser(args.recogniser)
    if args.init_from:
        CRNN.from_pretrained(args.init_from, flag="--init_from")
    records = read_text_images(args.dataset_path)
    writers, taught = (
        {record.writer for record in records if record.split in splits} for splits in (SPLITS, ("train",))
    )
    for flag, model in (("--generator", args.generator), ("--full_generator", args.full_generator)):
        if model is None:
            continue
        checkpoints = list_checkpoints(model)
        config = (checkpoints[-1] if checkpoints else model) / CONFIG_NAME
        if not config.is_file():
            raise FileNotFoundError(
                f"{flag} {model}: no {CONFIG_NAME} there. Give a run of train_diffusion.py."
            )
        known = json.loads(config.read_text(encoding="utf-8")).get("writers", ())
        # Of several word folders' writers the names may begin with the folder's.
        seen = sorted({*known, *(name.partition("/")[2] for name in known)} & writers)
        if seen and model is args.generator:
            raise UserError(
                f"--generator {model}: was trained on writers of --dataset_path ({', '.join(seen[:3])}), so"
                " the study would leak. Give a model that has not seen them, e.g. one trained on fonts; this"
                " one can be --full_generator."
            )
        if model is args.full_generator and not taught <= set(known):
            raise UserError(
                f"--full_generator {model}: does not know writers of --dataset_path by their names "
                f"({', '.join(sorted(taught - set(known))[:3])}). Train it on this folder alone."
            )


def prepare(args: argparse.Namespace) -> tuple[dict[float, Path], int, list[str]]:
    """The word folders of the fractions, generated words a writer, and the writers.

    Raises:
        ValueError: if a split is missing.
    """
    records = hold_out_val(read_text_images(args.dataset_path))
    for split in ("train", "val", "test"):
        if not any(record.split == split for record in records):
            raise UserError(
                f"--dataset_path {args.dataset_path}: no word of split {split}. A study trains on train and "
                "measures on test; process_dataset.py makes both."
            )
    writers = sorted({record.writer for record in records if record.split == "train"})
    train = sum(record.split == "train" for record in records)
    parts = {}
    for fraction in args.fractions:
        parts[fraction] = args.save_path / fraction_name(fraction) / "real"
        if not (parts[fraction] / METADATA_NAME).is_file():
            copy_words(args.dataset_path, choose_fraction(records, fraction / 100), parts[fraction])
    return parts, max(1, math.ceil(args.synthetic * train / len(writers))), writers


def collect(tasks: Sequence[Task]) -> list[RunErrors]:
    """What each finished recogniser read wrong."""
    found = []
    for task in tasks:
        values = json.loads((task.folder / READINGS_NAME).read_text(encoding="utf-8"))
        found.append(
            RunErrors(
                task.arm,
                task.fraction,
                task.seed,
                values["characters"],
                values["words"],
                values["trained_on"],
                values["seconds"],
            )
        )
    return found


def main(args: argparse.Namespace) -> None:
    """Fractions, generators, words, recognisers, report; each step is left out where it was done before."""
    # Processes wait for the one that fine-tunes a generator: hours.
    patience = InitProcessGroupKwargs(timeout=timedelta(days=7))
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[patience])
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # so that the scripts that this one calls are ended too
    rank, ranks, say = accelerator.process_index, accelerator.num_processes, accelerator.print
    device = accelerator.device
    gpu = name_gpu(device)
    if accelerator.is_main_process:
        check_inputs(args)
        check_settings(args)
    with accelerator.main_process_first():
        parts, per_writer, writers = prepare(args)

    # The generators and their words, a fraction a process.
    for fraction, part in list(parts.items())[rank::ranks]:
        train = read_text_images(part, splits=["train"])
        say(f"generator   {fraction:g} %: {len(train)} real words")
        fine_tune(args, part, part.parent / "generator", gpu)
        own = sorted({record.writer for record in train})
        write_words(args, part.parent / "generator", part, part.parent / "synthetic", per_writer, own, gpu)
    if args.full_generator and accelerator.is_main_process:
        write_words(
            args,
            args.full_generator,
            args.dataset_path,
            args.save_path / "synthetic_full",
            per_writer,
            writers,
            gpu,
        )
    accelerator.wait_for_everyone()

    # The recognisers.
    tasks = make_tasks(args, parts)
    for goes_on in (False, True):  # those that start from others come after these
        own = [task for task in tasks if bool(task.arm.starts_from) == goes_on][rank::ranks]
        for number, task in enumerate(own, start=1):
            say(f"recogniser  {number} of {len(own)}: {task.arm.name}, {task.fraction:g} %, seed {task.seed}")
            train_task(args, task, parts[task.fraction], device)
        accelerator.wait_for_everyone()

    if accelerator.is_main_process:
        study = summarise(collect(tasks))
        settings = json.loads((args.save_path / SETTINGS_NAME).read_text(encoding="utf-8"))
        write_atomically(
            args.save_path / STUDY_NAME,
            json.dumps({"settings": settings, **study.as_json()}, indent=2) + "\n",
        )
        write_table(study, args.save_path / TABLE_NAME)
        write_atomically(args.save_path / REPORT_NAME, render_study(study, settings))
        print(study.describe())
        print(f"saved       {args.save_path}: {REPORT_NAME}, {TABLE_NAME}, {STUDY_NAME}")
    accelerator.end_training()


if __name__ == "__main__":
    run(main, parse_args())
