"""Write words in the hands of a trained model.

  python3 inference.py --models_path runs/iam --single_image True
  python3 inference.py --models_path runs/iam --words Hello World --writer 000 011 --save_path out
  python3 inference.py --models_path runs/iam --words archive --mix 000:0.7 011:0.3
  python3 inference.py --models_path runs/iam --dataset_path data/iam --save_path data/iam_synthetic
  accelerate launch --num_processes 4 inference.py --models_path runs/iam --words_file words.txt --save_path out

The output is a word folder (images/, metadata.jsonl) with a picture of the first words, sheet.png. The same command
started again writes only what is missing.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from pipeline import DEFAULT_GUIDANCE, DEFAULT_STEPS, HandwritingPipeline
from utils.charset import normalise_text, normalise_texts, read_texts
from utils.cli import parse_bool, positive_int, run
from utils.diffusion import SCHEDULERS
from utils.images import make_sheet
from utils.jobs import Job, choose_writers, jobs_of_records, jobs_of_texts, parse_mix, slug
from utils.word_folder import (
    IMAGE_FOLDER,
    METADATA_NAME,
    SPLITS,
    merge_shards,
    read_word_folder,
    save_image,
    shard_metadata_name,
    write_atomically,
    write_metadata,
)

DEFAULT_WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "letter", "archive", "writing", "hand",
                 "paper", "ink", "style", "word")  # fmt: skip
SHIPPED_MODEL = Path(__file__).resolve().parent / "models" / "demo"
SETTINGS_NAME = "inference.json"
SHEET_WORDS = 64
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class SamplingSettings:
    """How words are written; see the flags of the same names."""

    num_steps: int
    scheduler: str
    guidance_scale: float | None
    writer_guidance_scale: float | None
    seed: int
    batch_size: int


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_argument_group("model and output")
    group.add_argument("--models_path", type=Path, default=SHIPPED_MODEL, help="a checkpoint, a run of train_diffusion.py (its "
                       "newest checkpoint), or a folder with the published models/ema_ckpt.pt (default: the model that ships "
                       "with this program, models/demo)")  # fmt: skip
    group.add_argument("--save_path", type=Path, help="the word folder to write (default: <models_path>/samples; with the "
                       "shipped model ./samples)")  # fmt: skip
    group.add_argument("--overwrite", action="store_true", help="write a finished or different output anew")
    group.add_argument("--vae", help="another VAE than the checkpoint's; needed with published weights")
    group.add_argument("--writer_dict", type=Path, help="JSON file of writer names to rows, for published weights")
    group.add_argument("--max_length", type=positive_int, help="positions of published weights (default: 10)")
    group = parser.add_argument_group("what to write")
    group.add_argument("--words", nargs="+", help="words (default: a short list of common ones)")
    group.add_argument("--words_file", type=Path, help="a text file, one word or phrase a line")
    group.add_argument("--dataset_path", type=Path, help="a word folder: its texts again, each in its own writer's hand")
    group.add_argument("--split", choices=SPLITS, help="of --dataset_path only the words of this split")
    group.add_argument("--skip_unknown", action="store_true", help="count and leave out words that the model can't write, "
                       "instead of ending with an error")  # fmt: skip
    group.add_argument("--writer", nargs="+", metavar="ID", help="hands by name, or 'random', or 'all' (default: random; with "
                       "--dataset_path each word's own; with --single_image False all)")  # fmt: skip
    group.add_argument("--mix", nargs="+", metavar="ID:SHARE", help="one hand mixed of several, e.g. --mix 000:0.7 011:0.3")
    group.add_argument("--num_per_word", type=positive_int, default=1, help="images of each word and hand (default: 1)")
    group.add_argument("--single_image", type=parse_bool, default=True, metavar="True|False",
                       help="True: one PNG a word; False: also one sheet a word with many hands (default: True)")  # fmt: skip
    group = parser.add_argument_group("how")
    group.add_argument("--num_steps", type=positive_int, default=DEFAULT_STEPS, help="denoising steps (default: %(default)s)")
    group.add_argument("--scheduler", choices=SCHEDULERS, default="dpmsolver++", help="default: %(default)s")
    group.add_argument("--guidance_scale", type=float, help="weight of the text; 1 is no guidance (default: "
                       f"{DEFAULT_GUIDANCE:g}, or 1 for a model trained without null conditions)")  # fmt: skip
    group.add_argument("--writer_guidance_scale", type=float, help="weight of the hand (default: --guidance_scale)")
    group.add_argument("--seed", type=int, default=0, help="another seed, other variants (default: %(default)s)")
    group.add_argument("--batch_size", type=positive_int, default=32, help="words at once; does not change them (default: "
                       "%(default)s)")  # fmt: skip
    group.add_argument("--mixed_precision", choices=tuple(DTYPES), default="no", help="default: %(default)s")
    group.add_argument("--device", help="default: a GPU if there is one")
    group.add_argument("--shard", type=parse_shard, metavar="I/N", help="write part I (from 0) of N; the last part to finish "
                       "puts them together (under accelerate launch each process is a part)")  # fmt: skip
    args = parser.parse_args(argv)
    if sum(value is not None for value in (args.words, args.words_file, args.dataset_path)) > 1:
        parser.error("give one of --words, --words_file and --dataset_path")
    if args.mix and args.writer:
        parser.error("give --writer or --mix, not both")
    if args.words and not normalise_texts(args.words):
        parser.error("--words: nothing but white space")
    if args.split and not args.dataset_path:
        parser.error(f"--split {args.split}: goes with --dataset_path")
    # The program's own folder stays as it is.
    args.save_path = args.save_path or (Path() if args.models_path == SHIPPED_MODEL else args.models_path) / "samples"
    return args


def parse_shard(value: str) -> tuple[int, int]:
    """``I/N`` with 0 <= I < N, for ``argparse``."""
    match = re.fullmatch(r"(\d+)/(\d+)", value)
    if not match or not int(match.group(1)) < int(match.group(2)):
        raise argparse.ArgumentTypeError(f"{value!r} is not I/N with I from 0 to N - 1")
    return int(match.group(1)), int(match.group(2))


def read_writer_dict(path: Path) -> dict[str, int]:
    """Writer names to rows, from a JSON file.

    Raises:
        ValueError: if it is something else.
    """
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--writer_dict {path}: not readable as JSON ({error})") from error
    if not isinstance(names, dict):
        raise ValueError(f"--writer_dict {path}: not a JSON object of writer names to rows")
    return names


def check_jobs(pipeline: HandwritingPipeline, jobs: Sequence[Job], skip_unknown: bool, flag: str) -> list[Job]:
    """The jobs that the checkpoint can do; the first that it can't is an error, unless they are to be skipped.

    Raises:
        ValueError: names the character, writer or length, and what the checkpoint knows.
    """
    verdicts: dict[tuple[str, str], str | None] = {}
    kept = []
    for job in jobs:
        key = (job.record.text, job.record.writer)
        if key not in verdicts:
            try:
                pipeline.check([job.record.text], [job.writer])
                verdicts[key] = None if job.record.text else "an empty text"
            except ValueError as error:
                verdicts[key] = str(error)
        if verdicts[key] is None:
            kept.append(job)
        elif not skip_unknown:
            raise ValueError(f"{flag}: {verdicts[key]}\nUse other words or hands, train with them, or give --skip_unknown.")
    if not kept:
        raise ValueError(f"none of {len(jobs)} words can be written by this checkpoint: {next(iter(verdicts.values()))}")
    if len(kept) < len(jobs):
        print(f"skipped     {len(jobs) - len(kept)} of {len(jobs)} words that the model does not know")
    return kept


def prepare_folder(folder: Path, settings: dict, overwrite: bool) -> bool:
    """Make the output folder, or go on in it; returns True if it is finished already.

    Raises:
        ValueError: if it holds something else, or the output of other settings.
    """
    marker = folder / SETTINGS_NAME
    # Half-written files of a shard that started just now don't count.
    if folder.is_dir() and any(path for path in folder.iterdir() if path.suffix != ".tmp"):
        if not marker.is_file():
            raise ValueError(f"--save_path {folder}: not empty, and not made by this script. Name another folder.")
        if not overwrite and json.loads(marker.read_text(encoding="utf-8")) != settings:
            raise ValueError(f"--save_path {folder}: holds words of other settings (see {marker.name}). Name another folder, "
                             "or give --overwrite.")  # fmt: skip
        if overwrite:
            for path in folder.glob("metadata*.jsonl"):  # first: they say that the images are all there
                path.unlink()
            for name in (IMAGE_FOLDER, "sheets"):
                shutil.rmtree(folder / name, ignore_errors=True)
        elif (folder / METADATA_NAME).is_file():
            return True
    write_atomically(marker, json.dumps(settings, indent=2, ensure_ascii=False))  # first: other shards look for it
    return False


def write_images(pipeline: HandwritingPipeline, jobs: Sequence[Job], folder: Path, settings: SamplingSettings) -> int:
    """Write the images that are not there yet, in batches; returns their number."""
    missing = [job for job in jobs if not (folder / job.record.file_name).is_file()]
    # Words on canvases of one width side by side; which words share a batch changes none of them.
    widths = pipeline.canvas_widths([job.record.text for job in missing], [job.writer for job in missing])
    missing = [missing[i] for i in np.argsort(widths, kind="stable")]
    for parent in {(folder / job.record.file_name).parent for job in missing}:
        parent.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(jobs), initial=len(jobs) - len(missing), unit="word", desc="write") as bar:
        for first in range(0, len(missing), settings.batch_size):
            batch = missing[first : first + settings.batch_size]
            images = pipeline([job.record.text for job in batch], [job.writer for job in batch],
                              num_inference_steps=settings.num_steps, guidance_scale=settings.guidance_scale,
                              writer_guidance_scale=settings.writer_guidance_scale, scheduler=settings.scheduler,
                              seed=settings.seed, indices=[job.index for job in batch])  # fmt: skip
            for job, image in zip(batch, images):
                save_image(image, folder / job.record.file_name)
            bar.update(len(batch))
    return len(missing)


def write_sheets(jobs: Sequence[Job], folder: Path, is_single: bool) -> None:
    """``sheet.png`` of the first words; with ``--single_image False`` also ``sheets/<word>.png``, a word in many hands."""

    def sheet(chosen: Sequence[Job], path: Path) -> None:
        images = [np.asarray(Image.open(folder / job.record.file_name)) for job in chosen]
        path.parent.mkdir(parents=True, exist_ok=True)
        save_image(make_sheet(images, captions=[f"{job.record.text} ({job.record.writer})" for job in chosen]), path)

    sheet(jobs[:SHEET_WORDS], folder / "sheet.png")
    if not is_single:
        by_text: dict[str, list[Job]] = {}
        for job in jobs:
            by_text.setdefault(job.record.text, []).append(job)
        for number, (text, chosen) in enumerate(by_text.items()):
            sheet(chosen, folder / "sheets" / f"{number:04d}-{slug(text)}.png")


def main(args: argparse.Namespace) -> None:
    """Load, check, write, put together."""
    # Which part of the work is this process's.
    is_launched = args.shard is None and "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
    shard, shards = (int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if is_launched else args.shard or (0, 1)
    if args.overwrite and shards > 1:
        raise ValueError("--overwrite: parts that run side by side can't tell old images from each other's. Remove "
                         f"{args.save_path} instead.")  # fmt: skip
    if args.dataset_path and args.save_path.resolve() == args.dataset_path.resolve():
        raise ValueError(f"--save_path {args.save_path}: is --dataset_path. Name another folder.")

    # The model.
    pipeline = HandwritingPipeline.from_pretrained(
        args.models_path, vae=args.vae, writer_dict=read_writer_dict(args.writer_dict) if args.writer_dict else None,
        max_length=args.max_length, warn=lambda line: print(line, file=sys.stderr),
    )  # fmt: skip
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = args.device or (f"cuda:{local_rank % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu")
    pipeline.to(device, DTYPES[args.mixed_precision])

    # The words.
    known = pipeline.card.writers
    records = []
    if args.dataset_path:
        records = read_word_folder(args.dataset_path, splits=[args.split] if args.split else [])
    flag = f"--dataset_path {args.dataset_path}" if args.dataset_path else "--words_file" if args.words_file else "--words"
    flag += " with --writer" if args.writer else " with --mix" if args.mix else ""
    if args.dataset_path and not (args.mix or args.writer):
        jobs = jobs_of_records(records, num_per_word=args.num_per_word)
    else:
        texts, splits = [normalise_text(record.text) for record in records], [record.split for record in records]
        if not args.dataset_path:
            texts = read_texts(args.words_file) if args.words_file else normalise_texts(args.words or DEFAULT_WORDS)
        names = args.writer or (["random"] if args.single_image else ["all"])
        hands = [parse_mix(args.mix)] if args.mix else choose_writers(names, known)
        jobs = jobs_of_texts(texts, hands, known, num_per_word=args.num_per_word, seed=args.seed, splits=splits)
    jobs = check_jobs(pipeline, jobs, args.skip_unknown, flag)

    # The output.
    settings = SamplingSettings(args.num_steps, args.scheduler, args.guidance_scale, args.writer_guidance_scale, args.seed,
                                args.batch_size)  # fmt: skip
    fixed = {key: value for key, value in asdict(settings).items() if key != "batch_size"}
    is_finished = prepare_folder(args.save_path, {
        "models_path": str(args.models_path.resolve()), "step": pipeline.card.extra.get("step"), "words": len(jobs),
        "records": hashlib.sha256("".join(job.record.as_json() for job in jobs).encode()).hexdigest()[:16],
        "mix": args.mix, **fixed, "single_image": args.single_image, "mixed_precision": args.mixed_precision,
        "shards": shards,
    }, args.overwrite)  # fmt: skip
    own = jobs[shard::shards]
    written = write_images(pipeline, own, args.save_path, settings)
    if is_finished:
        print(f"finished    {args.save_path} held these {len(jobs)} words already, but for {written} missing images; "
              "--overwrite writes them anew")  # fmt: skip
        return
    if shards > 1:
        write_metadata(args.save_path, [job.record for job in own], name=shard_metadata_name(shard, shards))
        if not merge_shards(args.save_path, shards, [job.record.file_name for job in jobs]):
            print(f"wrote       part {shard} of {shards}: {len(own)} words to {args.save_path}")
            return
    write_sheets(jobs, args.save_path, args.single_image)
    if shards == 1:
        write_metadata(args.save_path, [job.record for job in jobs])
    print(f"wrote       {len(jobs)} words to {args.save_path} (sheet.png shows the first)")


if __name__ == "__main__":
    run(main, parse_args())
