"""Write words in the hands of a trained model.

  python3 inference.py --models_path runs/iam --single_image True
  python3 inference.py --models_path runs/iam --words Hello World --writer 000 011 --save_path out
  python3 inference.py --models_path runs/iam --words archive --mix 000:0.7 011:0.3
  python3 inference.py --models_path runs/iam --dataset_path data/iam --save_path data/iam_synthetic
  accelerate launch --num_processes 4 inference.py --models_path runs/iam --words_file words.txt
  python3 inference.py --models_path runs/iam --words_file million.txt --output_format webdataset
  python3 inference.py --models_path runs/iam --unit line --corpus book.txt --output_format page

The output is a word folder (images/, metadata.jsonl) with a picture of the first words, sheet.png. The same
command started again writes only what is missing.
"""

import argparse
import hashlib
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from diffusion.noise_schedule import SCHEDULERS
from diffusion.pipeline import (
    DEFAULT_GUIDANCE,
    DEFAULT_REDRAWS,
    DEFAULT_STEPS,
    FULL_INTERVAL,
    HandwritingPipeline,
)
from generation.folder_writer import (
    REJECTED_NAME,
    kept_records,
    merge_shards,
    outcomes_name,
    read_outcomes,
    shard_metadata_name,
    write_images,
    write_sheets,
)
from generation.jobs import (
    Job,
    choose_writers,
    jobs_of_records,
    jobs_of_texts,
    jobs_out_of_vocabulary,
    parse_mix,
)
from generation.page_layout import LayoutStatistics
from generation.page_writer import PAGES_NAME, WRITERS_NAME, PageWriter, page_names, write_pages
from generation.page_xml import XML_FORMATS
from generation.paper import find_papers
from generation.sampling import SamplingSettings, Selection, check_jobs
from generation.tar_writer import INDEX_NAME, finish_tars, write_tars
from generation.word_lines import DEFAULT_LENGTH, LinesFromWords, jobs_of_corpus
from htr.error_rates import NORMALISERS
from htr.recogniser import CHOICES, load_recogniser
from utils.charset import normalise_text, normalise_texts, read_texts
from utils.cli import parse_bool, positive_int, run
from utils.device import compile_in_place
from utils.errors import UserError
from utils.output import write_atomically
from utils.text_images import (
    INFERENCE_SETTINGS,
    METADATA_NAME,
    SPLITS,
    prepare_output,
    read_metadata,
    read_text_images,
    write_metadata,
)
from utils.vocabulary import SCOPES

DEFAULT_WORDS = (
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "lazy",
    "dog",
    "letter",
    "archive",
    "writing",
    "hand",
    "paper",
    "ink",
    "style",
    "word",
)
SHIPPED_MODEL = Path(__file__).resolve().parent / "models" / "demo"
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    group = parser.add_argument_group("model and output")
    group.add_argument(
        "--models_path",
        type=Path,
        default=SHIPPED_MODEL,
        help=(
            "a checkpoint, a run of train_diffusion.py (its newest checkpoint), or a folder with the"
            " published models/ema_ckpt.pt (default: the model that ships with this program, models/demo)"
        ),
    )
    group.add_argument(
        "--save_path",
        type=Path,
        help="the word folder to write (default: <models_path>/samples; with the shipped model ./samples)",
    )
    group.add_argument("--overwrite", action="store_true", help="write a finished or different output anew")
    group.add_argument(
        "--output_format",
        choices=("folder", "webdataset", *XML_FORMATS),
        default="folder",
        help=(
            "a word folder; WebDataset tar files, for millions of words; or pages of a --corpus with PAGE or"
            " ALTO files (default: %(default)s)"
        ),
    )
    group.add_argument(
        "--words_per_tar",
        type=positive_int,
        default=1000,
        help="of webdataset; an interrupted one is begun anew (default: %(default)s)",
    )
    group.add_argument("--vae", help="another VAE than the checkpoint's; needed with published weights")
    group.add_argument(
        "--writer_dict", type=Path, help="JSON file of writer names to rows, for published weights"
    )
    group.add_argument("--max_length", type=positive_int, help="positions of published weights (default: 10)")
    group = parser.add_argument_group("what to write")
    group.add_argument("--words", nargs="+", help="words (default: a short list of common ones)")
    group.add_argument("--words_file", type=Path, help="a text file, one word or phrase a line")
    group.add_argument(
        "--dataset_path", type=Path, help="a word folder: its texts again, each in its own writer's hand"
    )
    group.add_argument(
        "--corpus",
        type=Path,
        help=(
            "a text file, one paragraph a line, for --unit line: broken into lines of natural length for the"
            " hand, each written once; hands take turns, by line or by page"
        ),
    )
    group.add_argument(
        "--unit",
        choices=("word", "line"),
        default="word",
        help=(
            "word: each text is drawn as a whole; line: its words are drawn one by one and put on a baseline,"
            " at the size that they have in a line (default: %(default)s)"
        ),
    )
    group.add_argument(
        "--line_length",
        type=positive_int,
        help=(
            "of the lines of --corpus, in mean widths of a character; wide hands get fewer characters"
            f" (default: {DEFAULT_LENGTH:g})"
        ),
    )
    group.add_argument(
        "--paper",
        type=Path,
        help=(
            "of page and alto: a picture of empty paper to write on, or a folder of such pictures, one drawn"
            " for each page (default: white)"
        ),
    )
    group.add_argument("--split", choices=SPLITS, help="of --dataset_path only the words of this split")
    group.add_argument(
        "--skip_unknown",
        action="store_true",
        help="count and leave out words that the model can't write, instead of ending with an error",
    )
    group.add_argument(
        "--writer",
        nargs="+",
        metavar="ID",
        help=(
            "hands by name, or 'random', or 'all' (default: random; with "
            "--dataset_path each word's own; with --single_image False all)"
        ),
    )
    group.add_argument(
        "--mix", nargs="+", metavar="ID:SHARE", help="one hand mixed of several, e.g. --mix 000:0.7 011:0.3"
    )
    group.add_argument(
        "--oov",
        type=positive_int,
        metavar="N",
        help=(
            "N words for each hand of --dataset_path (or of --writer) that its training words there lack, as"
            " long as these, with rare characters well represented; from --words_file or a dictionary"
        ),
    )
    group.add_argument(
        "--oov_scope",
        choices=SCOPES,
        default="writer",
        help="words that are new to this writer, or to the whole data set (default: %(default)s)",
    )
    group.add_argument(
        "--num_per_word", type=positive_int, default=1, help="images of each word and hand (default: 1)"
    )
    group.add_argument(
        "--single_image",
        type=parse_bool,
        default=True,
        metavar="True|False",
        help="True: one PNG a word; False: also one sheet a word with many hands (default: True)",
    )
    group = parser.add_argument_group("how")
    group.add_argument(
        "--num_steps", type=positive_int, default=DEFAULT_STEPS, help="denoising steps (default: %(default)s)"
    )
    group.add_argument("--scheduler", choices=SCHEDULERS, default="dpmsolver++", help="default: %(default)s")
    group.add_argument(
        "--guidance_scale",
        type=float,
        help=(
            "weight of the text; 1 is no guidance (default: "
            f"{DEFAULT_GUIDANCE:g}, or 1 for a model trained without null conditions)"
        ),
    )
    group.add_argument(
        "--writer_guidance_scale", type=float, help="weight of the hand (default: --guidance_scale)"
    )
    group.add_argument(
        "--guidance_interval",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help=(
            "guidance only at these noise levels, from 0 (clean) to 1 (noise); the others cost half (default:"
            " 0.25 0.9 for a model of flow prediction, else all)"
        ),
    )
    group.add_argument(
        "--seed", type=int, default=0, help="another seed, other variants (default: %(default)s)"
    )
    group.add_argument(
        "--batch_size",
        type=positive_int,
        default=32,
        help="words at once; does not change them (default: %(default)s)",
    )
    group.add_argument("--mixed_precision", choices=tuple(DTYPES), default="no", help="default: %(default)s")
    group.add_argument(
        "--compile", action="store_true", help="torch.compile the UNet: pays on a GPU, for thousands of words"
    )
    group.add_argument("--device", help="default: a GPU if there is one")
    group.add_argument(
        "--shard",
        type=parse_shard,
        metavar="I/N",
        help=(
            "write part I (from 0) of N; the last part to finish "
            "puts them together (under accelerate launch each process is a part)"
        ),
    )
    group = parser.add_argument_group("only legible words", "a wrong label poisons a training set")
    group.add_argument(
        "--redraws",
        type=int,
        metavar="N",
        help=(
            "how often a word is drawn anew that the model's own latent recogniser "
            f"can't read; the best is kept (default: {DEFAULT_REDRAWS}, or 0 without a latent recogniser)"
        ),
    )
    group.add_argument(
        "--recogniser",
        metavar="NAME",
        help=f"reads every word: {CHOICES}. Judge the words by another one afterwards",
    )
    group.add_argument(
        "--best_of",
        type=positive_int,
        help=(
            "most variants of a word, until one is read within --max_cer (or "
            "without error); the best is kept (default: 1)"
        ),
    )
    group.add_argument(
        "--max_cer",
        type=float,
        help=(
            "leave out words whose best variant is read with more character errors "
            "than this share, e.g. 0 or 0.2 (default: keep all)"
        ),
    )
    group.add_argument(
        "--normalise",
        choices=tuple(NORMALISERS),
        default="exact",
        help="compare texts exactly, or their letters and digits without case (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    sources = (args.words, args.words_file, args.dataset_path, args.corpus)
    if sum(value is not None for value in sources) > 1 + bool(args.oov):
        parser.error("give one of --words, --words_file, --dataset_path and --corpus")
    check_lines(parser, args)
    if args.oov and (not args.dataset_path or args.words or args.mix):
        parser.error(
            f"--oov {args.oov}: goes with --dataset_path (the training words), and without --words and --mix"
        )
    for name in ("best_of", "max_cer"):
        if getattr(args, name) is not None and not args.recogniser:
            parser.error(f"--{name} {getattr(args, name)}: goes with --recogniser")
    if args.redraws is not None and args.redraws < 0:
        parser.error(f"--redraws {args.redraws}: at least 0")
    low, high = args.guidance_interval or FULL_INTERVAL
    if not 0 <= low < high <= 1:
        parser.error(f"--guidance_interval {low:g} {high:g}: two shares, 0 <= LOW < HIGH <= 1")
    if args.output_format == "webdataset" and not args.single_image:
        parser.error("--single_image False: sheets are written of word folders; leave --output_format out")
    if args.max_cer is not None and not 0 <= args.max_cer < float("inf"):
        parser.error(f"--max_cer {args.max_cer}: a share of at least 0")
    if args.mix and args.writer:
        parser.error("give --writer or --mix, not both")
    if args.words and not normalise_texts(args.words):
        parser.error("--words: nothing but white space")
    if args.split and not args.dataset_path:
        parser.error(f"--split {args.split}: goes with --dataset_path")
    # The program's own folder stays as it is.
    args.save_path = (
        args.save_path or (Path() if args.models_path == SHIPPED_MODEL else args.models_path) / "samples"
    )
    return args


def check_lines(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with an error where flags of lines and pages don't go together."""
    makes_pages = args.output_format in XML_FORMATS
    if args.corpus and args.unit != "line":
        parser.error(f"--corpus {args.corpus}: goes with --unit line")
    if makes_pages and not args.corpus:
        parser.error(f"--output_format {args.output_format}: pages are made of a --corpus, with --unit line")
    if args.paper and not makes_pages:
        parser.error(f"--paper {args.paper}: goes with --output_format {' or '.join(XML_FORMATS)}")
    if args.line_length is not None and not args.corpus:
        parser.error(f"--line_length {args.line_length}: goes with --corpus")
    if args.corpus and not args.single_image:
        parser.error("--single_image False: sheets show one word in many hands; leave it out with --corpus")
    if args.corpus and args.num_per_word > 1:
        parser.error(
            f"--num_per_word {args.num_per_word}: a --corpus is written once. Another --seed writes it anew"
        )
    if args.unit == "line" and args.oov:
        parser.error(f"--oov {args.oov}: chooses words; leave --unit out")


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
        raise UserError(f"--writer_dict {path}: not readable as JSON ({error})") from error
    if not isinstance(names, dict):
        raise UserError(f"--writer_dict {path}: not a JSON object of writer names to rows")
    return names


def choose_jobs(args: argparse.Namespace, pipeline: HandwritingPipeline) -> tuple[list[Job], bool, str]:
    """What to write, whether unknown words are skipped, and the flag to name in messages."""
    known = pipeline.config.writers
    if args.corpus:
        hands = [parse_mix(args.mix)] if args.mix else choose_writers(args.writer or ["random"], known)
        jobs = jobs_of_corpus(
            read_texts(args.corpus, flag="--corpus"),
            pipeline,
            hands,
            length=args.line_length or DEFAULT_LENGTH,
            seed=args.seed,
            statistics=LayoutStatistics() if args.output_format in XML_FORMATS else None,
        )
        return jobs, args.skip_unknown, f"--corpus {args.corpus}"
    records = []
    if args.dataset_path:
        records = read_text_images(args.dataset_path, splits=[args.split] if args.split else [])
    flag = (
        f"--dataset_path {args.dataset_path}"
        if args.dataset_path
        else "--words_file"
        if args.words_file
        else "--words"
    )
    flag += " with --writer" if args.writer else " with --mix" if args.mix else ""
    if args.oov:
        hands = choose_writers(args.writer, known) if args.writer else None
        words = read_texts(args.words_file) if args.words_file else None
        jobs = jobs_out_of_vocabulary(
            records,
            words,
            args.oov,
            scope=args.oov_scope,
            writers=hands,
            known=known,
            charset=pipeline.config.charset.characters,
            max_length=pipeline.unet.config.max_length,
            seed=args.seed,
        )
    elif args.dataset_path and not (args.mix or args.writer):
        jobs = jobs_of_records(records, num_per_word=args.num_per_word)
    else:
        texts, splits = (
            [normalise_text(record.text) for record in records],
            [record.split for record in records],
        )
        if not args.dataset_path:
            texts = (
                read_texts(args.words_file)
                if args.words_file
                else normalise_texts(args.words or DEFAULT_WORDS)
            )
        names = args.writer or (["random"] if args.single_image else ["all"])
        hands = [parse_mix(args.mix)] if args.mix else choose_writers(names, known)
        jobs = jobs_of_texts(
            texts, hands, known, num_per_word=args.num_per_word, seed=args.seed, splits=splits
        )
    return jobs, args.skip_unknown, flag


def main(args: argparse.Namespace) -> None:
    """Load, check, write, put together."""
    # Which part of the work is this process's.
    is_launched = args.shard is None and "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
    shard, shards = (
        (int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if is_launched else args.shard or (0, 1)
    )
    if args.overwrite and shards > 1:
        raise UserError(
            "--overwrite: parts that run side by side can't tell old images from each other's. Remove "
            f"{args.save_path} instead."
        )
    if args.dataset_path and args.save_path.resolve() == args.dataset_path.resolve():
        raise UserError(f"--save_path {args.save_path}: is --dataset_path. Name another folder.")

    # The model.
    pipeline = HandwritingPipeline.from_pretrained(
        args.models_path,
        vae=args.vae,
        writer_dict=read_writer_dict(args.writer_dict) if args.writer_dict else None,
        max_length=args.max_length,
        warn=lambda line: print(line, file=sys.stderr),
    )
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = args.device or (
        f"cuda:{local_rank % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    )
    pipeline.to(device, DTYPES[args.mixed_precision])
    if args.compile:
        compile_in_place(pipeline.unet, pipeline.device)

    # The words.
    papers = find_papers(args.paper) if args.paper else []
    drawer = pipeline
    if args.unit == "line":
        drawer = LinesFromWords(pipeline, words_at_once=args.batch_size)
    jobs = check_jobs(drawer, *choose_jobs(args, pipeline))
    pipeline.check_sampling(args.guidance_scale, args.writer_guidance_scale, args.redraws, args.scheduler)
    selection = None
    if args.recogniser:
        recogniser = load_recogniser(args.recogniser, device=device)
        selection = Selection(recogniser, args.best_of or 1, args.max_cer, args.normalise)

    # The output: only now, when nothing can be wrong any more, are old words removed.
    settings = SamplingSettings(
        args.num_steps,
        args.scheduler,
        args.guidance_scale,
        args.writer_guidance_scale,
        args.guidance_interval,
        args.redraws,
        args.seed,
        args.batch_size,
    )
    fixed = {key: value for key, value in asdict(settings).items() if key != "batch_size"}
    if args.output_format == "webdataset":
        fixed["words_per_tar"] = args.words_per_tar
    if args.output_format in XML_FORMATS:
        paper = str(args.paper.resolve()) if args.paper else None
        fixed |= {"output_format": args.output_format, "paper": paper}
    if args.unit == "line":
        fixed["unit"] = "line"
    chosen_by = {
        "recogniser": args.recogniser,
        "best_of": args.best_of or 1,
        "max_cer": args.max_cer,
        "normalise": args.normalise,
    }
    if (
        args.overwrite and (args.save_path / INFERENCE_SETTINGS).is_file()
    ):  # the index first: it says that all tars are there
        for path in [
            args.save_path / INDEX_NAME,
            *args.save_path.glob("words-*.tar"),
            *args.save_path.glob("words-*.json"),
            args.save_path / PAGES_NAME,
            args.save_path / WRITERS_NAME,
            *args.save_path.glob(".page-*.json"),
            *args.save_path.glob("page-*.xml"),
            *args.save_path.glob("page-*.png"),
        ]:
            path.unlink(missing_ok=True)
    is_finished = prepare_output(
        args.save_path,
        {
            "models_path": str(args.models_path.resolve()),
            "step": pipeline.config.extra.get("step"),
            "words": len(jobs),
            "records": (
                hashlib.sha256("".join(job.record.as_json() for job in jobs).encode()).hexdigest()[:16]
            ),
            "mix": args.mix,
            **fixed,
            "single_image": args.single_image,
            "mixed_precision": args.mixed_precision,
            "shards": shards,
            **({"vae": str(args.vae)} if args.vae else {}),
            **(chosen_by if args.recogniser else {}),
        },
        args.overwrite,
        marker=INFERENCE_SETTINGS,
        flag="--save_path",
    )
    if args.output_format in XML_FORMATS:
        page_writer = PageWriter(args.save_path, xml_format=args.output_format, papers=papers, seed=args.seed)
        if (args.save_path / PAGES_NAME).is_file():
            print(f"finished    {args.save_path} holds these pages already; --overwrite writes them anew")
            return
        written, rejected = write_pages(
            drawer, jobs, page_writer, settings, selection, shard=shard, shards=shards
        )
        whole = "" if page_writer.finish(page_names(jobs)) else "; other parts are still to be written"
        print(f"wrote       {written} pages of part {shard} of {shards} to {args.save_path}{whole}")
        if rejected:
            print(f"left out    {rejected} lines that {args.recogniser} reads with too many errors")
        return
    if args.output_format == "webdataset":
        written = write_tars(
            drawer,
            jobs,
            args.save_path,
            settings,
            selection,
            words_per_tar=args.words_per_tar,
            shard=shard,
            shards=shards,
        )
        index = finish_tars(args.save_path, len(jobs), args.words_per_tar)
        whole = f"; {args.save_path} holds all {index['words']} in {len(index['tars'])} tars" if index else ""
        print(f"wrote       {written} words of part {shard} of {shards} to {args.save_path}{whole}")
        if index and index["rejected"]:
            print(f"left out    {index['rejected']} words (the tars' .json files name them)")
        return
    own = jobs[shard::shards]
    if (
        is_finished
    ):  # words that were left out are not in its metadata, and images may have been removed since
        kept = {record.file_name for record in read_metadata(args.save_path / METADATA_NAME)}
        own = [
            job
            for job in own
            if job.record.file_name in kept and not (args.save_path / job.record.file_name).is_file()
        ]
    noted = args.save_path / outcomes_name(shard, shards)
    written, outcomes = write_images(drawer, own, args.save_path, settings, selection, noted)
    if is_finished:
        noted.unlink(missing_ok=True)
        print(
            f"finished    {args.save_path} held these {len(kept)} words already, but for {written} missing"
            " images; --overwrite writes them anew"
        )
        return
    all_noted = [args.save_path / outcomes_name(i, shards) for i in range(shards)]
    if shards > 1:
        write_metadata(args.save_path, kept_records(own, outcomes), name=shard_metadata_name(shard, shards))
        outcomes = {key: outcome for path in all_noted for key, outcome in read_outcomes(path).items()}
    records = kept_records(jobs, outcomes)

    def write_rest() -> None:  # before the metadata, which says that all is there
        kept = {record.file_name for record in records}
        write_sheets([job for job in jobs if job.record.file_name in kept], args.save_path, args.single_image)
        if rejected := [outcomes[job.record.file_name] for job in jobs if job.record.file_name not in kept]:
            lines = (json.dumps(vars(outcome), ensure_ascii=False) + "\n" for outcome in rejected)
            write_atomically(args.save_path / REJECTED_NAME, "".join(lines))
            print(
                f"left out    {len(rejected)} of {len(jobs)} words that {args.recogniser} reads with more"
                f" than {args.max_cer:g} character errors ({REJECTED_NAME})"
            )

    if shards == 1:
        write_rest()
        write_metadata(args.save_path, records)
    elif not merge_shards(args.save_path, shards, [record.file_name for record in records], write_rest):
        print(f"wrote       part {shard} of {shards}: {len(own)} words to {args.save_path}")
        return
    for path in all_noted:
        path.unlink(missing_ok=True)
    print(f"wrote       {len(records)} words to {args.save_path} (sheet.png shows the first)")


if __name__ == "__main__":
    run(main, parse_args())
