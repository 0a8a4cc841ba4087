"""Cut lines into words at their spaces, where a model's latent recogniser sees them.

  python3 generation/cut_words.py --models_path runs/lines --dataset_path data/lines --save_dir data/words

Each word keeps its line's height, writer and split. A line in which the recogniser does not find the text is
left out whole; dropped.jsonl names each with the reason. The source is only read.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

if not __package__:
    sys.path[0] = str(
        Path(__file__).resolve().parents[1]
    )  # the project's root, from whichever folder this is run

from tqdm import tqdm

from diffusion.alignment import Alignment
from diffusion.image_alignment import align_images, check_can_align
from diffusion.loading import Generator, load_checkpoint
from generation.export_formats import NameGiver
from generation.output_folder import Part, check_apart, lock_part, prepare_output, remove_leftovers
from generation.word_cuts import cut_line
from utils.charset import normalise_text
from utils.cli import HelpFormatter, positive_int, run
from utils.device import choose_device
from utils.errors import UserError
from utils.output import save_image
from utils.sources import read_image
from utils.text_images import IMAGE_FOLDER, METADATA_NAME, TextImage, read_text_images, write_metadata

SETTINGS_NAME = "cut_words.json"
DROPPED_NAME = "dropped.jsonl"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument(
        "--models_path",
        type=Path,
        required=True,
        help="checkpoint or run whose latent recogniser finds the spaces: one that was trained on lines",
    )
    parser.add_argument("--dataset_path", type=Path, required=True, help="folder of lines to cut")
    parser.add_argument("--save_dir", type=Path, required=True, help="folder of words to write")
    parser.add_argument("--overwrite", action="store_true", help="make --save_dir anew")
    parser.add_argument(
        "--batch_size", type=positive_int, default=16, help="lines aligned at once: speed and memory"
    )
    parser.add_argument("--device", help="e.g. cpu or cuda:1 (default: a GPU if there is one)")
    return parser.parse_args(argv)


def choose_lines(
    records: Sequence[TextImage], generator: Generator
) -> tuple[list[TextImage], list[TextImage]]:
    """The records whose texts the model can spell, and the others with their reasons."""
    kept, dropped = [], []
    for record in records:
        text = normalise_text(record.text)
        if not text:
            dropped.append(_note(record, "empty_text"))
        elif generator.config.charset.unknown(text):
            dropped.append(_note(record, "unknown_characters"))
        else:
            kept.append(replace(record, text=text))
    return kept, dropped


def _note(record: TextImage, reason: str) -> TextImage:
    return replace(record, extra={**record.extra, "reason": reason})


def write_words(
    source: Path, folder: Path, records: Sequence[TextImage], alignment: Alignment
) -> tuple[list[TextImage], list[TextImage]]:
    """Cut lines and save their words; returns the words' records and the lines that were left out."""
    (folder / IMAGE_FOLDER).mkdir(parents=True, exist_ok=True)
    names = NameGiver()
    words: list[TextImage] = []
    dropped: list[TextImage] = []
    for i, record in enumerate(tqdm(records, unit="line", desc="cut")):
        if not alignment.is_measured[i]:
            dropped.append(_note(record, "not_aligned"))
            continue
        images = cut_line(read_image(source / record.file_name), record.text, alignment.edges[i])
        if images is None:
            dropped.append(_note(record, "word_without_ink"))
            continue
        for number, (text, image) in enumerate(zip(record.text.split(), images, strict=True)):
            name = names.name(f"{_stem(record)}-{number:02d}", f"{record.file_name} {number}")
            word = TextImage(
                file_name=f"{IMAGE_FOLDER}/{name}.png",
                text=text,
                writer=record.writer,
                split=record.split,
                extra={"line": record.file_name},
            )
            save_image(image, folder / word.file_name)
            words.append(word)
    return words, dropped


def _stem(record: TextImage) -> str:
    return Path(record.file_name.removeprefix(f"{IMAGE_FOLDER}/")).with_suffix("").as_posix()


def describe(lines: int, words: Sequence[TextImage], dropped: Sequence[TextImage]) -> Iterator[str]:
    """What was cut and what was left out, line by line."""
    splits = ", ".join(f"{n} {split}" for split, n in Counter(word.split for word in words).items())
    yield f"cut         {lines - len(dropped)} of {lines} lines into {len(words)} words ({splits})"
    yield f"dropped     {len(dropped)} lines"
    for reason, count in Counter(record.extra["reason"] for record in dropped).most_common():
        yield f"  {reason:18} {count:8d}"


def main(args: argparse.Namespace) -> None:
    """Align, cut, write; the metadata, which says that all is there, comes last."""
    check_apart(args.save_dir, "--save_dir", args.dataset_path, "--dataset_path")
    records = read_text_images(args.dataset_path)
    generator = load_checkpoint(
        args.models_path, vae=None, warn=lambda line: print(line, file=sys.stderr), flag="--models_path"
    )
    check_can_align(generator, args.models_path)
    settings = {
        "models_path": str(args.models_path.resolve()),
        "step": generator.config.extra.get("step"),
        "dataset_path": str(args.dataset_path.resolve()),
        "lines": len(records),
    }
    with lock_part(args.save_dir, Part(), "--save_dir", overwrite=args.overwrite):
        prepare_output(args.save_dir, settings, args.overwrite, marker=SETTINGS_NAME, flag="--save_dir")
        if (args.save_dir / METADATA_NAME).is_file():
            print(f"finished    {args.save_dir} holds these words already; --overwrite makes it anew")
            return
        remove_leftovers(args.save_dir)
        lines, dropped = choose_lines(records, generator)
        words: list[TextImage] = []
        if lines:
            paths = [args.dataset_path / line.file_name for line in lines]
            device = choose_device(args.device)
            alignment = align_images(generator, lines, paths, device=device, batch_size=args.batch_size)
            words, uncut = write_words(args.dataset_path, args.save_dir, lines, alignment)
            dropped += uncut
        report = list(describe(len(records), words, dropped))
        if not words:
            raise UserError(
                "\n".join([f"--dataset_path {args.dataset_path}: no line could be cut.", *report[1:]])
            )
        write_metadata(args.save_dir, dropped, name=DROPPED_NAME)
        write_metadata(args.save_dir, words)
    print("\n".join(report))
    print(f"wrote {len(words)} words to {args.save_dir}")


if __name__ == "__main__":
    run(main, parse_args())
