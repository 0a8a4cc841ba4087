"""Read the lines of pages that have no text yet: PAGE or ALTO in, PAGE with texts and confidences out.

  python3 scripts/transcribe_pages.py --dataset_path my_pages --save_dir transcribed
  python3 scripts/transcribe_pages.py --dataset_path my_pages --save_dir read --recogniser adapted/recogniser

A page needs its lines (polygons or baselines, from eScriptorium, Transkribus, Loghi or kraken). Lines with a
text keep it. A PAGE file stays as it is but for the texts; of an ALTO file a PAGE file is made. Confidence
(conf) is the mean probability of a character. Started again, it goes on with the next page.
"""

import argparse
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # the project's root, from whichever folder this is run
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from PIL import Image

from generation.page_xml import LineRegion, make_page_xml, unwritable_characters
from htr.reading import Reading, Recogniser
from htr.recogniser import CHOICES, SHIPPED, load_recogniser
from preprocessing.cleaning import FitSettings
from preprocessing.lines import LineImage, PageLines
from preprocessing.raw_word import DroppedWord
from preprocessing.readers.page_xml import TranscribedPage, page_format
from preprocessing.readers.pages import FoundPage, iter_pages
from utils.cli import HelpFormatter, run
from utils.device import choose_device
from utils.errors import UserError
from utils.line_shapes import LineShape, make_frames
from utils.output import check_no_file, lock_folder, write_atomically

CANVAS = FitSettings(img_size=(80, 8000), remove_rules=True)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument(
        "--dataset_path", type=Path, required=True, help="folder of PAGE or ALTO files and their pictures"
    )
    parser.add_argument("--save_dir", type=Path, required=True, help="folder of the PAGE files to write")
    parser.add_argument(
        "--recogniser",
        metavar="NAME",
        help=f"{CHOICES} (default: the one that ships, models/recogniser)",
    )
    parser.add_argument("--device", help="e.g. cpu or cuda:1 (default: a GPU if there is one)")
    return parser.parse_args(argv)


def shapes_of(page: TranscribedPage) -> tuple[LineShape, ...]:
    """Where the lines of a page are."""
    return tuple(LineShape(polygon=line.polygon, baseline=line.baseline) for line in page.lines)


def draw_empty_lines(found: FoundPage) -> dict[int, np.ndarray]:
    """(80, W) uint8 images of a page's lines without text, by their numbers; of lines without ink there is
    none.
    """
    page = found.page
    place = PageLines(path=found.image, size=(page.width, page.height), shapes=shapes_of(page))
    empty = [number for number, line in enumerate(page.lines) if not line.text.strip()]
    images = {number: LineImage(page=place, number=number).draw(CANVAS) for number in empty}
    return {number: image for number, image in images.items() if not isinstance(image, str)}


def read_empty_lines(found: FoundPage, recogniser: Recogniser) -> dict[int, Reading]:
    """The readings of a page's lines without text, by their numbers."""
    drawn = draw_empty_lines(found)
    return dict(zip(drawn, recogniser.read(list(drawn.values())), strict=True))


def find_pages(folder: Path) -> list[FoundPage]:
    """The pages of a folder that have their pictures, each picture once."""
    pages = [page for page in iter_pages(folder) if not isinstance(page, DroppedWord)]
    first = {page.image: page for page in reversed(pages) if page.image}
    return list(reversed(list(first.values())))


def writable(text: str) -> str:
    """A text without the characters that XML has no place for."""
    unwritable = set(unwritable_characters(text))
    return "".join(character for character in text if character not in unwritable)


def fill_page_xml(file: Path, readings: dict[int, Reading]) -> bytes:
    """A PAGE file with the readings as the texts of its lines; all else stays."""
    from defusedxml.ElementTree import parse

    root = parse(file).getroot()
    namespace = root.tag.rpartition("}")[0].removeprefix("{")
    ET.register_namespace("", namespace)
    prefix = f"{{{namespace}}}" if namespace else ""
    for number, line in enumerate(root.iter(f"{prefix}TextLine")):
        if number not in readings:
            continue
        for old in line.findall(f"{prefix}TextEquiv"):
            line.remove(old)
        confidence = f"{readings[number].character_confidence:.3f}"
        equivalent = ET.Element(f"{prefix}TextEquiv", {"conf": confidence})
        ET.SubElement(equivalent, f"{prefix}Unicode").text = writable(readings[number].text)
        # The schema has the text after outline, baseline and words, and before all else.
        before = ("Coords", "Baseline", "Word", "AlternativeImage", "Labels")
        place = sum(child.tag.rpartition("}")[2] in before for child in line)
        line.insert(place, equivalent)
    return ET.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def make_page(found: FoundPage, readings: dict[int, Reading]) -> bytes:
    """A PAGE file of an ALTO file's lines, in pixels of the picture."""
    page = found.page
    with Image.open(found.image) as image:
        size = image.size
    scale = np.array(
        [
            pixels / units if units > 0 else 1.0
            for pixels, units in zip(size, (page.width, page.height), strict=True)
        ]
    )
    frames = make_frames(shapes_of(page), scale, np.zeros(2), size[::-1])
    lines = []
    for number, (line, frame) in enumerate(zip(page.lines, frames, strict=True)):
        if frame is None:
            continue
        reading = readings.get(number)
        base = frame.origin + frame.base[:, :1] * frame.along + frame.base[:, 1:] * frame.down
        lines.append(
            LineRegion(
                text=writable(reading.text if reading else line.text),
                polygon=np.clip(np.rint(frame.polygon), 0, size).astype(int),
                baseline=np.clip(np.rint(base), 0, size).astype(int),
                confidence=reading.character_confidence if reading else None,
            )
        )
    return make_page_xml(found.image.name, size, lines, writer="")


def transcribe(found: FoundPage, recogniser: Recogniser) -> tuple[bytes, list[Reading]] | None:
    """A page's PAGE file and what was read in it; None if it has no line without text."""
    if all(line.text.strip() for line in found.page.lines):
        return None
    readings = read_empty_lines(found, recogniser)
    is_page = page_format(found.file) == "PAGE"
    content = fill_page_xml(found.file, readings) if is_page else make_page(found, readings)
    return content, list(readings.values())


def main(args: argparse.Namespace) -> None:
    """Find the pages, read their lines, write them one by one."""
    check_no_file(args.save_dir, "--save_dir")
    pages = find_pages(args.dataset_path)
    if not pages:
        raise UserError(f"--dataset_path {args.dataset_path}: no page has its picture there or below")
    recogniser = load_recogniser(args.recogniser or SHIPPED, device=choose_device(args.device))
    lines = done = 0
    with lock_folder(args.save_dir, "--save_dir"):
        for number, found in enumerate(pages, start=1):
            target = args.save_dir / f"{found.page_id}.xml"
            if target.is_file() or (result := transcribe(found, recogniser)) is None:
                continue
            content, readings = result
            write_atomically(target, content)
            lines, done = lines + len(readings), done + 1
            mean = sum(reading.character_confidence for reading in readings) / max(1, len(readings))
            print(
                f"read        {number} of {len(pages)}: {found.page_id}, {len(readings)} lines,"
                f" confidence {mean:.2f}",
                flush=True,
            )
    print(f"saved       {args.save_dir}: {done} pages, {lines} lines read")


if __name__ == "__main__":
    run(main, parse_args())
