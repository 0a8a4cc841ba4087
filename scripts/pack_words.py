"""A word folder as one small file, to carry where disk or network is tight, and back.

  python3 scripts/pack_words.py --dataset_path data/words --save_path words.pack
  python3 scripts/pack_words.py --unpack words.pack --save_path data/words

Grey levels are rounded to 32 (a difference that nobody sees, half of the size); everything else comes back as
it was.
"""

import argparse
import io
import lzma
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

if not __package__:
    sys.path[0] = str(
        Path(__file__).resolve().parents[1]
    )  # the project's root, from whichever folder this is run

import numpy as np

from utils.cli import run
from utils.errors import UserError
from utils.images import stack_images
from utils.output import save_image, write_atomically
from utils.sources import read_images
from utils.text_images import METADATA_NAME, read_metadata, read_text_images, write_metadata

LEVELS = 32
WHITE = 250  # grey levels from here on count as paper at a word's right


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset_path", type=Path, help="word folder to pack; its images have one size")
    parser.add_argument("--unpack", type=Path, metavar="FILE", help="packed file to make a word folder of")
    parser.add_argument(
        "--save_path", type=Path, required=True, help="the file, or the folder, to write; must not exist"
    )
    args = parser.parse_args(argv)
    if (args.dataset_path is None) == (args.unpack is None):
        parser.error("give --dataset_path or --unpack, one of them")
    return args


def pack(folder: Path, target: Path) -> None:
    """Write the words of ``folder`` into one file: images side by side without the white at their right, and
    their lines.
    """
    records = read_text_images(folder)
    images = stack_images(read_images([folder / record.file_name for record in records])).numpy()
    is_ink = (images < WHITE).any(axis=1)  # (N, W)
    widths = np.where(is_ink.any(axis=1), images.shape[2] - is_ink[:, ::-1].argmax(axis=1), 0)
    levels = np.round(np.arange(256) / 255 * (LEVELS - 1)).astype(np.uint8)[images]
    columns = np.concatenate(
        [image[:, :width].T for image, width in zip(levels, widths, strict=True)]
    )  # a letter's columns lie together
    lines = "".join(record.as_json() + "\n" for record in records)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        columns=columns,
        widths=widths.astype(np.int32),
        size=np.array(images.shape[1:], np.int32),
        metadata=np.frombuffer(lines.encode(), np.uint8),
    )
    write_atomically(target, lzma.compress(buffer.getvalue(), preset=9))
    print(f"packed      {len(records)} words, {target.stat().st_size / 2**20:.1f} MiB")


def unpack(source: Path, folder: Path) -> None:
    """Make a word folder of a packed file.

    Raises:
        ValueError: if it is no such file.
    """
    try:
        content = np.load(io.BytesIO(lzma.decompress(source.read_bytes())))
        columns, widths, (height, width), lines = (
            content[name] for name in ("columns", "widths", "size", "metadata")
        )
    except (lzma.LZMAError, ValueError, KeyError) as error:
        raise UserError(f"--unpack {source}: not a file of packed words ({error})") from error
    noted = folder / f".{METADATA_NAME}"
    write_atomically(noted, lines.tobytes())
    records = read_metadata(noted)
    noted.unlink()
    ends = np.cumsum(widths)
    for parent in {(folder / record.file_name).parent for record in records}:
        parent.mkdir(parents=True, exist_ok=True)

    def write(index: int) -> None:
        image = np.full((height, width), 255, np.uint8)
        own = columns[ends[index] - widths[index] : ends[index]].T
        image[:, : widths[index]] = np.round(own.astype(np.float32) * 255 / (LEVELS - 1))
        save_image(image, folder / records[index].file_name)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(len(records))))
    write_metadata(folder, records)
    print(f"unpacked    {len(records)} words to {folder}")


def main(args: argparse.Namespace) -> None:
    """Pack or unpack."""
    if args.save_path.exists():
        raise UserError(f"--save_path {args.save_path}: is there already. Name another.")
    if args.unpack:
        if not args.unpack.is_file():
            raise FileNotFoundError(f"--unpack {args.unpack}: no such file")
        unpack(args.unpack, args.save_path)
    else:
        pack(args.dataset_path, args.save_path)


if __name__ == "__main__":
    run(main, parse_args())
