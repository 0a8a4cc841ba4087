"""Text images in the format of a trainer of handwriting recognition.

  python3 generation/export.py --dataset_path data/lines --save_dir data/lines_kraken --format kraken
  python3 generation/export.py --dataset_path data/lines --save_dir data/lines_pylaia --format pylaia
  python3 generation/export.py --dataset_path data/words --save_dir data/words_doctr --format doctr

kraken's format serves Calamari and tesstrain as well; Hugging Face's datasets, and TrOCR with it, open
--dataset_path as it is. The source is only read. manifest.jsonl says of each image where it came from, with
its writer and scores; export.json counts what was left out. The folder is there whole or not at all.
"""

import argparse
import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(
        Path(__file__).resolve().parents[1]
    )  # the project's root, from whichever folder this is run

import hashlib
import io
import json
import os
import shutil
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from PIL import Image
from tqdm import tqdm

from generation.export_formats import FORMATS, NameGiver
from generation.output_folder import check_apart
from utils.charset import normalise_text
from utils.cli import HelpFormatter, positive_int, run
from utils.errors import UserError
from utils.output import claim_folder, write_atomically
from utils.text_images import IMAGE_FOLDER, SPLITS, TextImage, read_text_images

SETTINGS_NAME = "export.json"
MANIFEST_NAME = "manifest.jsonl"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument(
        "--dataset_path", type=Path, required=True, help="the folder of text images to export"
    )
    parser.add_argument("--save_dir", type=Path, required=True, help="the folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an export that is in --save_dir")
    parser.add_argument(
        "--format",
        choices=tuple(FORMATS),
        required=True,
        help=(
            "kraken (also Calamari, tesstrain): pairs of .png and .gt.txt; pylaia: tables and symbols;"
            " paddleocr: lists of path and text; lmdb: databases for PARSeq, ABINet and others; doctr:"
            " labels.json, words alone; hwd: a folder an author"
        ),
    )
    parser.add_argument(
        "--split", nargs="+", choices=SPLITS, default=[], help="only these splits (default: all)"
    )
    parser.add_argument(
        "--height",
        type=positive_int,
        metavar="PIXELS",
        help="scale the images to this height (default: 128 for pylaia; the others take them as they are)",
    )
    return parser.parse_args(argv)


def clean_record(record: TextImage) -> tuple[TextImage, str | None]:
    """The record with its text as trainers need it (NFC, one line, single spaces), or why it is left out."""
    text = normalise_text(record.text)
    if not text:
        return record, "empty_text"
    # Control characters break lists and XML; a lone half of a surrogate pair can't be written as UTF-8.
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        return record, "control_character"
    return replace(record, text=text), None


def load_png(path: Path, height: int | None) -> bytes:
    """The image as a grey PNG, scaled to ``height`` pixels where that is given.

    Raises:
        OSError, ValueError: if it is missing, damaged or of no size.
    """
    data = path.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        is_as_wanted = image.format == "PNG" and image.mode == "L" and height in (None, image.height)
        if is_as_wanted:
            return data
        grey = image.convert("L")
    if height is not None and height != grey.height:
        grey = grey.resize((max(1, round(grey.width * height / grey.height)), height), Image.LANCZOS)
    buffer = io.BytesIO()
    grey.save(buffer, format="PNG")
    return buffer.getvalue()


def export(
    records: Sequence[TextImage], source: Path, folder: Path, format_name: str, height: int | None
) -> dict:
    """Write records into an empty folder.

    Returns:
        ``exported`` (images by split), ``left_out`` (images by reason) and ``changed_texts`` (texts whose
        white space or Unicode form was changed).
    Raises:
        UserError: if nothing is left, with the reasons.
    """
    exporter = FORMATS[format_name](folder)
    names = NameGiver()
    exported: Counter = Counter()
    left_out: Counter = Counter()
    changed = 0
    with (folder / MANIFEST_NAME).open("w", encoding="utf-8") as manifest:
        for record in tqdm(records, unit="image", desc="export"):
            cleaned, reason = clean_record(record)
            reason = reason or exporter.refuse(cleaned)
            if reason is None:
                try:
                    png = load_png(source / record.file_name, height or exporter.height)
                except FileNotFoundError:
                    reason = "missing_image"
                except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                    reason = "damaged_image"
            if reason is not None:
                left_out[reason] += 1
                continue
            stem = Path(record.file_name.removeprefix(f"{IMAGE_FOLDER}/")).with_suffix("").as_posix()
            # Under its file name, not its stem: x.png and x.jpg are two images.
            path = exporter.write(cleaned, names.name(stem, record.file_name), png)
            manifest.write(
                replace(cleaned, file_name=path, extra={**record.extra, "source": record.file_name}).as_json()
                + "\n"
            )
            exported[record.split] += 1
            changed += cleaned.text != record.text
    if not exported:
        advice = " Cut lines into words first, or choose another format." if left_out["several_words"] else ""
        raise UserError(
            f"--format {format_name}: none of {len(records)} images can be exported ({dict(left_out)})."
            + advice
        )
    exporter.finish()
    return {"exported": dict(exported), "left_out": dict(left_out), "changed_texts": changed}


def claim_output(folder: Path, settings: dict, overwrite: bool) -> bool:
    """Whether ``folder`` holds this export already.

    Raises:
        UserError: if it holds something else that may not be replaced.
    """
    held = claim_folder(folder, "--save_dir", marker=SETTINGS_NAME)
    if held is None:
        return False
    if overwrite:
        names = [path for path in folder.rglob("*") if path.is_file()]
        foreign = len(names) - held.get("files", 0)
        if foreign > 0:
            raise UserError(
                f"--save_dir {folder}: holds {foreign} files that this command did not write. Move them away,"
                " or name another folder."
            )
        return False
    if held.get("settings") != settings:
        raise UserError(
            f"--save_dir {folder}: holds another export (see {SETTINGS_NAME}). Name another folder, or give"
            " --overwrite."
        )
    return True


def put_in_place(temporary: Path, folder: Path) -> None:
    """Rename a finished folder to its name; an old one is moved out of the way first and then removed."""
    old = folder.with_name(f".{folder.name}.old")
    if folder.is_dir():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    os.replace(temporary, folder)
    shutil.rmtree(old, ignore_errors=True)


def main(args: argparse.Namespace) -> None:
    """Check, export, put in place."""
    source, folder = args.dataset_path.resolve(), args.save_dir.resolve()
    check_apart(args.save_dir, "--save_dir", args.dataset_path, "--dataset_path")
    records = read_text_images(args.dataset_path, splits=args.split)
    settings = {
        "dataset_path": str(source),
        "format": args.format,
        "height": args.height or FORMATS[args.format].height,
        "split": sorted(args.split),
        "images": len(records),
        "records": hashlib.sha256(
            "".join(record.as_json() for record in records).encode("utf-8", "replace")
        ).hexdigest()[:16],
    }
    if claim_output(args.save_dir, settings, args.overwrite):
        print(f"finished    {args.save_dir} holds this export already; --overwrite makes it anew")
        return
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    temporary.mkdir(parents=True)
    try:
        counts = export(records, args.dataset_path, temporary, args.format, args.height)
        counts["files"] = 1 + sum(path.is_file() for path in temporary.rglob("*"))
        content = json.dumps({"settings": settings, **counts}, indent=2, ensure_ascii=False)
        write_atomically(temporary / SETTINGS_NAME, content)
        put_in_place(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    total = sum(counts["exported"].values())
    splits = ", ".join(f"{count} {split}" for split, count in counts["exported"].items())
    print(f"exported    {total} of {len(records)} images to {args.save_dir} for {args.format} ({splits})")
    for reason, count in sorted(counts["left_out"].items()):
        print(f"  left out  {count:6d} {reason}")
    if counts["changed_texts"]:
        print(f"  changed   {counts['changed_texts']:6d} texts: Unicode NFC, single spaces")


if __name__ == "__main__":
    run(main, parse_args())
