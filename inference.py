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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from pipeline import DEFAULT_GUIDANCE, DEFAULT_STEPS, HandwritingPipeline, Writer
from utils.charset import normalise_text
from utils.cli import parse_bool, positive_int, run
from utils.diffusion import SCHEDULERS
from utils.images import make_sheet
from utils.training import make_generator
from utils.word_folder import (
    IMAGE_FOLDER,
    METADATA_NAME,
    SPLITS,
    WordRecord,
    merge_shards,
    read_word_folder,
    save_image,
    shard_metadata_name,
    write_atomically,
    write_metadata,
)

DEFAULT_WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "letter", "archive", "writing", "hand",
                 "paper", "ink", "style", "word")  # fmt: skip
SETTINGS_NAME = "inference.json"
SHEET_WORDS = 64
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Job:
    """One image to write; ``index`` fixes its noise, ``writer`` is a name or shares of several."""

    index: int
    record: WordRecord
    writer: Writer


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_argument_group("model and output")
    group.add_argument("--models_path", type=Path, required=True, help="a checkpoint, a run of train_diffusion.py (its newest "
                       "checkpoint), or a folder with the published models/ema_ckpt.pt")  # fmt: skip
    group.add_argument("--save_path", type=Path, help="the word folder to write (default: <models_path>/samples)")
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
    if args.split and not args.dataset_path:
        parser.error(f"--split {args.split}: goes with --dataset_path")
    args.save_path = args.save_path or args.models_path / "samples"
    return args


def parse_shard(value: str) -> tuple[int, int]:
    """``I/N`` with 0 <= I < N, for ``argparse``."""
    match = re.fullmatch(r"(\d+)/(\d+)", value)
    if not match or not int(match.group(1)) < int(match.group(2)):
        raise argparse.ArgumentTypeError(f"{value!r} is not I/N with I from 0 to N - 1")
    return int(match.group(1)), int(match.group(2))


def parse_mix(values: Sequence[str]) -> dict[str, float]:
    """``["A:0.7", "B:0.3"]`` to shares that sum to 1; a name without a share has 1 before that.

    Raises:
        ValueError: if a share is not a positive number, or a name is there twice.
    """
    shares: dict[str, float] = {}
    for value in values:
        name, colon, share = value.rpartition(":")
        name, share = (name, share) if colon else (value, "1")
        try:
            number = float(share)
        except ValueError:
            number = -1.0
        if not 0 < number < float("inf"):
            raise ValueError(f"--mix {value}: the share {share!r} is not a positive number (write NAME:SHARE)")
        if name in shares:
            raise ValueError(f"--mix: {name!r} is there twice")
        shares[name] = number
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}


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


def read_texts(args: argparse.Namespace) -> list[str]:
    """The texts of --words, --words_file, or the default list, normalised.

    Raises:
        ValueError: if there is none.
    """
    if args.words_file is None:
        return [text for text in map(normalise_text, args.words or DEFAULT_WORDS) if text]
    try:
        lines = args.words_file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"--words_file {args.words_file}: no such file") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"--words_file {args.words_file}: not a UTF-8 text file ({error})") from error
    texts = [text for text in map(normalise_text, lines) if text]
    if not texts:
        raise ValueError(f"--words_file {args.words_file}: no words in it")
    return texts


def choose_writers(args: argparse.Namespace, known: Sequence[str]) -> list[str] | None:
    """The hands in which each text is written; None means a random one for each image."""
    names = args.writer or (["random"] if args.single_image else ["all"])
    if names == ["random"] and "random" not in known:
        return None
    return list(known) if names == ["all"] and "all" not in known else list(names)


def slug(text: str) -> str:
    """A text as part of a file name."""
    return re.sub(r"[^\w\-]+", "_", text).strip("_")[:24] or "word"


def make_jobs(args: argparse.Namespace, known: Sequence[str]) -> list[Job]:
    """Every image of this command, in order; ``known`` are the checkpoint's hands."""
    if args.dataset_path:
        records = read_word_folder(args.dataset_path, splits=[args.split] if args.split else [])
        items = [(normalise_text(r.text), r.split, r.file_name, [r.writer]) for r in records]
    else:
        items = [(text, "train", None, None) for text in read_texts(args)]
    mix = parse_mix(args.mix) if args.mix else None
    writers = choose_writers(args, known) if args.writer or not args.dataset_path else []
    jobs: list[Job] = []
    for text, split, source, own in items:
        hands: Sequence[Writer] | None = [mix] if mix else own if writers == [] else writers
        for number in range(args.num_per_word):
            for hand in hands or [None]:
                index = len(jobs)
                if hand is None:
                    pick = torch.randint(len(known), (1,), generator=make_generator("cpu", args.seed, index, 0xAD))
                    hand = known[int(pick)]
                name = hand if isinstance(hand, str) else "+".join(f"{n}:{s:.2f}" for n, s in hand.items())
                if source and not args.writer and not mix:  # the pair's name, so that two folders compare by record
                    stem = Path(source).stem + (f"-{number}" if args.num_per_word > 1 else "")
                else:
                    stem = f"{index:06d}-{slug(text)}-{slug(name)}"
                jobs.append(Job(index, WordRecord(f"{IMAGE_FOLDER}/{stem}.png", text, name, split), hand))
    return jobs


def check_jobs(pipeline: HandwritingPipeline, jobs: Sequence[Job], skip_unknown: bool) -> list[Job]:
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
                verdicts[key] = None
            except ValueError as error:
                verdicts[key] = str(error)
        if verdicts[key] is None:
            kept.append(job)
        elif not skip_unknown:
            raise ValueError(f"{verdicts[key]}\nUse other words or hands, train with them, or give --skip_unknown.")
    if not kept:
        raise ValueError(f"none of {len(jobs)} words can be written by this checkpoint: {next(iter(verdicts.values()))}")
    if len(kept) < len(jobs):
        print(f"skipped     {len(jobs) - len(kept)} of {len(jobs)} words that the model does not know")
    return kept


def prepare_folder(args: argparse.Namespace, settings: dict) -> bool:
    """Make the output folder, or go on in it; returns True if it is finished already.

    Raises:
        ValueError: if it holds something else, or the output of other settings.
    """
    folder, marker = args.save_path, args.save_path / SETTINGS_NAME
    if args.dataset_path and folder.resolve() == args.dataset_path.resolve():
        raise ValueError(f"--save_path {folder}: is --dataset_path. Name another folder.")
    # Half-written files of a shard that started just now don't count.
    if folder.is_dir() and any(path for path in folder.iterdir() if path.suffix != ".tmp"):
        if not marker.is_file():
            raise ValueError(f"--save_path {folder}: not empty, and not made by this script. Name another folder.")
        is_same = json.loads(marker.read_text(encoding="utf-8")) == settings
        if not is_same and not args.overwrite:
            raise ValueError(f"--save_path {folder}: holds words of other settings (see {marker.name}). Name another folder, "
                             "or give --overwrite.")  # fmt: skip
        if args.overwrite:
            for name in (IMAGE_FOLDER, "sheets"):
                shutil.rmtree(folder / name, ignore_errors=True)
            for path in folder.glob("metadata*.jsonl"):
                path.unlink()
        elif (folder / METADATA_NAME).is_file():
            return True
    write_atomically(marker, json.dumps(settings, indent=2, ensure_ascii=False))  # first: other shards look for it
    return False


def write_images(pipeline: HandwritingPipeline, jobs: Sequence[Job], args: argparse.Namespace) -> int:
    """Write the images that are not there yet, in batches; returns their number."""
    (args.save_path / IMAGE_FOLDER).mkdir(exist_ok=True)
    missing = [job for job in jobs if not (args.save_path / job.record.file_name).is_file()]
    with tqdm(total=len(jobs), initial=len(jobs) - len(missing), unit="word", desc="write") as bar:
        for first in range(0, len(missing), args.batch_size):
            batch = missing[first : first + args.batch_size]
            images = pipeline([job.record.text for job in batch], [job.writer for job in batch],
                              num_inference_steps=args.num_steps, guidance_scale=args.guidance_scale,
                              writer_guidance_scale=args.writer_guidance_scale, scheduler=args.scheduler, seed=args.seed,
                              indices=[job.index for job in batch])  # fmt: skip
            for job, image in zip(batch, images):
                save_image(image, args.save_path / job.record.file_name)
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
    if args.shard is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        args.shard = (int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    shard, shards = args.shard or (0, 1)
    if args.overwrite and shards > 1:
        raise ValueError("--overwrite: parts that run side by side can't tell old images from each other's. Remove "
                         f"{args.save_path} instead.")  # fmt: skip
    writer_dict = read_writer_dict(args.writer_dict) if args.writer_dict else None
    pipeline = HandwritingPipeline.from_pretrained(
        args.models_path, vae=args.vae, writer_dict=writer_dict, max_length=args.max_length,
        warn=lambda line: print(line, file=sys.stderr),
    )  # fmt: skip
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = args.device or (f"cuda:{local_rank % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu")
    pipeline.to(device, DTYPES[args.mixed_precision])
    jobs = check_jobs(pipeline, make_jobs(args, pipeline.card.writers), args.skip_unknown)
    settings = {
        "models_path": str(args.models_path.resolve()), "step": pipeline.card.extra.get("step"), "words": len(jobs),
        "records": hashlib.sha256("".join(job.record.as_json() for job in jobs).encode()).hexdigest()[:16],
        "mix": args.mix, "num_per_word": args.num_per_word, "num_steps": args.num_steps, "scheduler": args.scheduler,
        "guidance_scale": args.guidance_scale, "writer_guidance_scale": args.writer_guidance_scale, "seed": args.seed,
        "single_image": args.single_image, "mixed_precision": args.mixed_precision, "shards": shards,
    }  # fmt: skip
    is_finished = prepare_folder(args, settings)
    own = jobs[shard::shards]
    written = write_images(pipeline, own, args)
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
    else:
        write_sheets(jobs, args.save_path, args.single_image)
        write_metadata(args.save_path, [job.record for job in jobs])
    print(f"wrote       {len(jobs)} words to {args.save_path} (sheet.png shows the first)")


if __name__ == "__main__":
    run(main, parse_args())
