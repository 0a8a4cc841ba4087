"""The text images that models/demo is trained on, made again from their sources, to train it further.

  bash scripts/fetch_fonts.sh data/fonts
  python3 scripts/training_data.py --pages Copiste-d-un-jour TestamentsDePoilus --dhsd DHSD \\
      --fonts data/fonts --save_dir data/demo

Writes a folder of text images for each source, 80 pixels high (fonts: words and lines): NAME has the images
of the writers that models/demo knows, NAME_unseen those of all others. 2 of 100 texts are for validation and
4 for test, chosen by the SHA-256 of their letters and digits, so that a text is held out in all hands.
Sources and licences: models/demo/README.md.
"""

import argparse
import csv
import hashlib
import random
import shutil
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

if not __package__:  # the project's root, from whichever folder this is run
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from preprocessing.readers.font_texts import TextSource
from preprocessing.readers.line_texts import LineSource
from utils.cli import HelpFormatter, call_script, run
from utils.json_files import read_json
from utils.output import claim_folder
from utils.text_images import IMAGE_FOLDER, TextImage, read_text_images, write_metadata
from utils.vocabulary import read_dictionary

HEIGHT, WIDEST = 80, 2560  # pixels
HELD_OUT = {"val": 2, "test": 4}  # of 100 texts
FONT_WORDS, FONT_LINES = 20_500, 6_400
FRENCH_WORDS, FRENCH_LINES = 1 / 3, 2 / 5  # of the fonts' texts; the others are English and German
_ELISIONS = ("l’", "d’", "qu’", "l'", "d'", "n'", "s'", "c'")
_QUOTES = (("«", "»"), ("“", "”"), ("‘", "’"), ("(", ")"))


def split_of_text(text: str) -> str:
    """``train``, ``val`` or ``test`` by the letters and digits of a text, without case and accents."""
    letters = (c for c in unicodedata.normalize("NFD", text.lower()) if c.isalnum())
    number = int(hashlib.sha256("".join(letters).encode()).hexdigest(), 16) % 100
    return "val" if number < HELD_OUT["val"] else "test" if number < sum(HELD_OUT.values()) else "train"


def french_words(rng: random.Random) -> Iterator[str]:
    """Single French words without end, some with capitals, elisions, quotes and marks."""
    words, cumulative = read_dictionary("fr")
    while True:
        word = rng.choices(words, cum_weights=cumulative)[0]
        word = rng.choices((word, word.capitalize(), word.upper()), (60, 30, 6))[0]
        if rng.random() < 0.12:
            word = rng.choice(_ELISIONS) + word.lower()
        if rng.random() < 0.05:
            word = word.join(rng.choice(_QUOTES))
        yield word + (rng.choice(".,;:!?") if rng.random() < 0.2 else "")


def french_lines(rng: random.Random) -> Iterator[str]:
    """French words in a row without end, 4 to 11 of them, as a line of a letter has them."""
    words, cumulative = read_dictionary("fr")
    while True:
        drawn = [
            min(rng.choices(words, cum_weights=cumulative, k=2), key=len) for _ in range(rng.randint(4, 11))
        ]
        for i, word in enumerate(drawn):
            word = word.capitalize() if i == 0 or rng.random() < 0.08 else word
            word = rng.choice(_ELISIONS) + word if rng.random() < 0.08 else word
            drawn[i] = str(rng.randint(1, 1999)) if rng.random() < 0.03 else word
        line = " ".join(drawn) + rng.choice((".", ".", "", "!", "?"))
        yield line.join(rng.choice(_QUOTES)) if rng.random() < 0.06 else line


def write_font_texts(folder: Path) -> None:
    """words.txt and lines.txt: the texts of the fonts, with empty lines between."""
    rng = random.Random(5)
    words = [*islice(TextSource(11), round(FONT_WORDS * (1 - FRENCH_WORDS)))]
    words += islice(french_words(rng), round(FONT_WORDS * FRENCH_WORDS))
    lines = [*islice(LineSource(12), round(FONT_LINES * (1 - FRENCH_LINES)))]
    lines += islice(french_lines(rng), round(FONT_LINES * FRENCH_LINES))
    rng.shuffle(lines)
    for name, texts in (("words", words), ("lines", lines)):
        (folder / f"{name}.txt").write_text("\n\n".join(dict.fromkeys(texts)), encoding="utf-8")


def name_writers(source: Path, folder: Path) -> Path:
    """A copy of DHSD whose writers are called as models/demo calls them: dhsd-1 and so on."""
    copy = shutil.copytree(source, folder / "dhsd")
    for name in ("train.csv", "test.csv"):
        with (source / name).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        (copy / name).chmod(0o644)
        with (copy / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows({**row, "writer_id": f"dhsd-{row['writer_id']}"} for row in rows)
    return copy


def share_out(raw: Path, target: Path, known: set[str], *, keep_splits: bool) -> None:
    """Move a folder's images to those of the known writers and, beside it, of the others; to what is there
    already they are added.
    """
    of_folder: dict[Path, list[TextImage]] = {}
    for record in read_text_images(raw):
        is_known = record.writer in known
        folder = target if is_known else target.with_name(f"{target.name}_unseen")
        split = "test" if not is_known else record.split if keep_splits else split_of_text(record.text)
        of_folder.setdefault(folder, []).append(replace(record, split=split))
    for folder, records in of_folder.items():
        there = read_text_images(folder) if folder.exists() else []
        (folder / IMAGE_FOLDER).mkdir(parents=True, exist_ok=True)
        prefix = f"{raw.name}-" if there else ""
        names = [f"{IMAGE_FOLDER}/{prefix}{Path(record.file_name).name}" for record in records]
        for record, name in zip(records, names, strict=True):
            (raw / record.file_name).rename(folder / name)
        records = [replace(record, file_name=name) for record, name in zip(records, names, strict=True)]
        write_metadata(folder, [*there, *records])
        print(f"wrote       {len(records)} images of {len({r.writer for r in records})} hands to {folder}")


def main(args: argparse.Namespace) -> None:
    """Preprocess each source, then share its images out."""
    claim_folder(args.save_dir, "--save_dir")
    args.save_dir.mkdir(parents=True, exist_ok=True)
    known = set(read_json(args.known / "config.json", "--known")["writers"])
    with tempfile.TemporaryDirectory(prefix=".raw-", dir=args.save_dir) as folder:
        raw = Path(folder)
        lines = ["--img_size", HEIGHT, WIDEST]
        commands = {path.name: ["--dataset_path", path, *lines] for path in args.pages}
        if args.dhsd:
            source = name_writers(args.dhsd, raw)
            commands["dhsd"] = ["--dataset_path", source, "--split_words", "--remove_rules"]
        if args.fonts:
            write_font_texts(raw)
            for seed, (name, count) in enumerate((("words", FONT_WORDS), ("lines", FONT_LINES)), start=1):
                commands[f"font_{name}"] = [
                    *("--dataset", "fonts", "--dataset_path", args.fonts, "--unit", "line", *lines),
                    *("--words_file", raw / f"{name}.txt", "--num_words", count, "--seed", seed),
                ]
        for name, flags in commands.items():
            print(f"process     {name}", flush=True)
            command = [*flags, "--save_dir", raw / "images" / name]
            call_script("preprocessing/process_dataset.py", command, args.save_dir / f"{name}.log", None)
            # One folder for all fonts: a training takes a writer's name in two folders for two writers.
            is_font = name.startswith("font_")
            target = args.save_dir / ("fonts" if is_font else name)
            share_out(raw / "images" / name, target, known, keep_splits=is_font)


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--pages", type=Path, nargs="+", default=[], help="folders of transcribed pages")
    parser.add_argument("--dhsd", type=Path, help="folder of DHSD")
    parser.add_argument("--fonts", type=Path, help="folder of scripts/fetch_fonts.sh")
    parser.add_argument(
        "--known",
        type=Path,
        default=Path(__file__).resolve().parents[1] / "models" / "demo",
        help="model whose writers are the known ones",
    )
    parser.add_argument("--save_dir", type=Path, required=True, help="folder of these folders")
    args = parser.parse_args()
    if not (args.pages or args.dhsd or args.fonts):
        parser.error("--pages, --dhsd or --fonts is needed")
    return args


if __name__ == "__main__":
    run(main, parse_args())
