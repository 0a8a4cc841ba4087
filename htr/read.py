"""Read text images with a recogniser, and measure it where the texts are known.

  python3 htr/read.py line.png another.png
  python3 htr/read.py data/lines --output readings.tsv
  python3 htr/read.py data/lines --split test --recogniser runs/htr

Each image is a word or a line in dark ink. One that is not black on white, such as a part of a photograph, is
cleaned first and set at the size of writing that text images have. Prints image, confidence and text, and of
a folder with texts (metadata.jsonl) the error rates. Confidence is the mean probability of a character.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # the project's root, from whichever folder this is run
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from htr.dataset import read_split
from htr.error_rates import measure_errors
from htr.pictures import find_pictures, read_picture
from htr.reading import Reading, Recogniser
from htr.recogniser import CHOICES, SHIPPED, load_recogniser
from utils.cli import HelpFormatter, positive_int, run
from utils.device import choose_device
from utils.errors import UserError
from utils.output import write_atomically
from utils.text_images import METADATA_NAME, SPLITS, read_text_images

CHUNK = 256  # images in memory at a time
OUTPUTS = (".jsonl", ".tsv")


@dataclass(frozen=True, kw_only=True)
class Item:
    """An image to read: where it is, what it is called, and what is written in it, if that is known."""

    path: Path
    name: str
    text: str | None = None


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument(
        "images", type=Path, nargs="+", metavar="IMAGE|FOLDER", help="pictures of lines, or folders of them"
    )
    parser.add_argument(
        "--recogniser",
        metavar="NAME",
        help=f"{CHOICES} (default: the one that ships, models/recogniser)",
    )
    parser.add_argument(
        "--split", choices=SPLITS, help="of a folder with texts: this split alone (default: all)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="file of the readings, .jsonl or .tsv, instead of the screen",
    )
    parser.add_argument("--batch_size", type=positive_int, default=32, help="images read at once")
    parser.add_argument("--device", help="e.g. cpu or cuda:1 (default: a GPU if there is one)")
    args = parser.parse_args(argv)
    if args.output and args.output.suffix.lower() not in OUTPUTS:
        parser.error(f"--output {args.output}: must end in {' or '.join(OUTPUTS)}")
    return args


def find_items(paths: Sequence[Path], split: str | None) -> list[Item]:
    """The images of files and folders, with their texts where a folder of text images has them.

    Raises:
        FileNotFoundError, UserError: if one is not there, or a folder has no picture (of this split).
    """
    items = []
    for path in paths:
        if (path / METADATA_NAME).is_file():
            if split:
                records, files = read_split(path, split, flag="IMAGES", split_flag="--split")
            else:
                records = read_text_images(path, flag="IMAGES")
                files = [path / record.file_name for record in records]
            items += [
                Item(path=file, name=str(file), text=record.text or None)
                for record, file in zip(records, files, strict=True)
            ]
        elif split:
            raise UserError(
                f"--split {split}: {path} has no {METADATA_NAME} that knows splits. Leave it out."
            )
        else:
            items += [Item(path=file, name=str(file)) for file in find_pictures(path)]
    return items


def read_items(items: Sequence[Item], recogniser: Recogniser, batch_size: int) -> Iterable[Reading]:
    """The readings one by one, in the order of the images; only a part of these is in memory at a time."""
    for start in range(0, len(items), CHUNK):
        images = [read_picture(item.path) for item in items[start : start + CHUNK]]
        yield from recogniser.read(images, batch_size=batch_size)


def format_reading(item: Item, reading: Reading, kind: str) -> str:
    """A line of the output: ``.tsv`` or ``.jsonl``."""
    if kind == ".tsv":
        return f"{item.name}\t{reading.character_confidence:.3f}\t{reading.text}"
    values = {
        "file_name": item.name,
        "text": reading.text,
        "confidence": round(reading.character_confidence, 4),
    }
    return json.dumps(values | ({"truth": item.text} if item.text else {}), ensure_ascii=False)


def main(args: argparse.Namespace) -> None:
    """Find, read, print or write, measure."""
    items = find_items(args.images, args.split)
    device = choose_device(args.device)
    recogniser = load_recogniser(args.recogniser or SHIPPED, device=device)
    kind = args.output.suffix.lower() if args.output else ".tsv"
    readings, lines = [], []
    for item, reading in zip(items, read_items(items, recogniser, args.batch_size), strict=True):
        readings.append(reading)
        lines.append(format_reading(item, reading, kind))
        if not args.output:
            print(lines[-1], flush=True)
        elif len(lines) % CHUNK == 0:
            print(f"read        {len(lines)} of {len(items)}", flush=True)
    if args.output:
        write_atomically(args.output, "".join(line + "\n" for line in lines))
        print(f"saved       {args.output}: {len(lines)} readings")
    known = [(item.text, reading.text) for item, reading in zip(items, readings, strict=True) if item.text]
    if known:
        texts, read = zip(*known, strict=True)
        print(f"errors      {measure_errors(texts, read).describe()}", file=sys.stderr)


if __name__ == "__main__":
    run(main, parse_args())
