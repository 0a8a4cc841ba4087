"""Turn a raw data set of handwritten words into a word folder: images/*.png and metadata.jsonl.

  python3 preprocessing/process_dataset.py --dataset_path IAM --save_dir data/iam
  python3 preprocessing/process_dataset.py --dataset table --dataset_path my_scans --save_dir data/me
  --dry_run

The source is only read. Every word that is left out is counted under a reason; the table is printed and saved
in preprocessing.json beside metadata.jsonl.
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

if not __package__:  # the project's root, from whichever folder this is run
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from preprocessing.cleaning import FitSettings
from preprocessing.raw_word import FileImage, RawWord
from preprocessing.readers import fonts, gw, iam, imgur5k, table
from preprocessing.readers.search import IMAGE_SUFFIXES, ids_of_paths, walk
from preprocessing.selection import describe, drop_table, filter_words, split_by_writer
from preprocessing.writing import REPORT_NAME, prepare_save_dir, write_words
from utils.errors import UserError
from utils.output import write_atomically
from utils.text_images import IMAGE_FOLDER, write_metadata

READERS = {"iam": iam, "gw": gw, "imgur5k": imgur5k, "table": table, "fonts": fonts}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
PRESETS = {
    "wordstylist": {
        "charset": LETTERS,
        "min_length": 2,
        "max_length": 7,
        "fit": "squeeze",
        "background": "keep",
        "crop": False,
        "align": "center",
        "segmentation": "all",
    },
}
# Where each reader looks for images, said when most are missing.
IMAGES_SOUGHT = {
    "iam": (
        "Images are sought as a01/a01-000u/a01-000u-00-00.png, wherever that lies below the folder; words.tgz"
        " holds them."
    ),
    "gw": "Images are sought as 270-01-01.png, wherever they lie below the folder.",
    "imgur5k": (
        "Pages are sought below --images, else below --dataset_path, by the names of image_path: give the"
        " folder of the downloaded pages with --images."
    ),
    "table": "Images are sought by the table's paths, from its folder and from --dataset_path.",
}


def recognise(dataset_path: Path) -> str | None:
    """The name of the reader whose data set lies in this folder, or None."""
    return next((name for name, reader in READERS.items() if reader.recognises(dataset_path)), None)


def resize_bare_images(paths: Sequence[Path], dataset_path: Path) -> Iterator[RawWord]:
    """Images that nothing describes, as words without text."""
    ids = ids_of_paths([str(path.relative_to(dataset_path)) for path in paths])
    for path, source_id in zip(paths, ids, strict=True):
        yield RawWord(FileImage(path, use_exif=True), "", "", None, source_id)


def find_bare_images(dataset_path: Path) -> list[Path]:
    """All picture files below a folder, in order."""
    return sorted(
        folder / name
        for folder, _, names in walk(dataset_path)
        for name in names
        if name.lower().endswith(IMAGE_SUFFIXES)
    )


def reader_options(name: str, args: argparse.Namespace) -> dict:
    """The flags that belong to one reader, as keyword arguments of its ``iter_words``."""
    return {
        "iam": {"splits": args.splits, "segmentation": args.segmentation, "writer_from": args.writer_from},
        "gw": {"fold": args.fold, "writer_from": args.writer_from},
        "imgur5k": {"images": args.images, "verify_md5": args.verify_md5},
        "table": {
            "table": args.table,
            "image_column": args.image_column,
            "text_column": args.text_column,
            "writer_column": args.writer_column,
            "split_column": args.split_column,
            "writer": args.writer,
        },
        "fonts": {
            "num_words": args.num_words,
            "words_file": args.words_file,
            "fonts": args.fonts,
            "seed": args.seed,
        },
    }[name]


def check_reader_flags(name: str | None, args: argparse.Namespace) -> None:
    """Raise ValueError if a flag is given that belongs to another reader: it would change nothing."""
    options = {reader: reader_options(reader, args) for reader in READERS}
    for flag, value in ((flag, value) for known in options.values() for flag, value in known.items()):
        takers = [reader for reader, known in options.items() if flag in known]
        if name not in takers and value != args.defaults[flag]:
            raise UserError(
                f"--{flag} {value}: is for --dataset {' or '.join(takers)}; this is read as "
                f"{name or 'bare images'}. Leave it out, or name the reader with --dataset."
            )


def make_parser() -> argparse.ArgumentParser:
    """The command line's flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    group = parser.add_argument_group("input and output")
    group.add_argument(
        "--dataset_path",
        type=Path,
        help=(
            "the raw data set's folder (fonts: a folder of font files, default: "
            "the installed handwriting fonts)"
        ),
    )
    group.add_argument("--save_dir", type=Path, help="the word folder to write (not needed with --dry_run)")
    group.add_argument(
        "--dataset", choices=sorted(READERS), help="the reader (default: by what lies in the folder)"
    )
    group.add_argument(
        "--dry_run",
        action="store_true",
        help="print what is there and write nothing (images are not opened, so damaged ones still count)",
    )
    group.add_argument("--overwrite", action="store_true", help="make a finished --save_dir anew")
    group.add_argument(
        "--num_workers", type=int, default=os.cpu_count(), help="processes (default: all %(default)s cores)"
    )
    group = parser.add_argument_group("which words")
    group.add_argument(
        "--preset",
        choices=sorted(PRESETS),
        help=(
            "wordstylist: the published filter (A-Z a-z, 2 to 7 "
            "letters, also where IAM's segmentation is marked err) and the published fit"
        ),
    )
    group.add_argument(
        "--charset", help="keep only words whose characters are all in this string (default: any)"
    )
    group.add_argument(
        "--min_length", type=int, default=1, help="shortest text in characters (default: %(default)s)"
    )
    group.add_argument("--max_length", type=int, help="longest text in characters (default: any)")
    group.add_argument(
        "--val_fraction",
        type=float,
        default=0.05,
        help=(
            "share of each writer's words for validation, "
            "where the data set names no split (default: %(default)s)"
        ),
    )
    group.add_argument(
        "--test_fraction", type=float, default=0.1, help="the same for test (default: %(default)s)"
    )
    group = parser.add_argument_group("the image")
    group.add_argument(
        "--img_size",
        type=int,
        nargs=2,
        default=(64, 256),
        metavar=("H", "W"),
        help="word image size in pixels, multiples of 8 (default: 64 256)",
    )
    group.add_argument(
        "--background",
        choices=("whiten", "keep"),
        default="whiten",
        help="paper made white, or kept as it is (default: %(default)s)",
    )
    group.add_argument("--crop", action=argparse.BooleanOptionalAction, default=True, help="cut to the ink")
    group.add_argument(
        "--fit",
        choices=("aspect", "squeeze"),
        default="aspect",
        help="keep the shape, or squeeze what is too wide (default: %(default)s)",
    )
    group.add_argument(
        "--align",
        choices=("left", "center"),
        default="left",
        help="place of the word in the image's width (default: %(default)s)",
    )
    group.add_argument(
        "--margin", type=int, default=4, help="white pixels on each side (default: %(default)s)"
    )
    group.add_argument(
        "--max_scale",
        type=float,
        default=2.0,
        help=(
            "a word is enlarged by this factor at most: a full stop "
            "stays smaller than a letter; more for pictures of low resolution (default: %(default)s)"
        ),
    )
    group.add_argument(
        "--remove_rules",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="erase ruler lines at the upper and lower edge",
    )
    group.add_argument(
        "--invert_dark",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="turn light writing on dark ground round (default: for imgur5k only)",
    )
    group.add_argument(
        "--split_words",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="cut texts of several words at their clear spaces into single words",
    )
    group = parser.add_argument_group("iam")
    group.add_argument(
        "--splits",
        type=Path,
        help=(
            "split lists: a folder or zip of form or line id lists (Aachen, large "
            "writer independent), or of GANwriting gan.iam.* files (default: per writer)"
        ),
    )
    group.add_argument(
        "--segmentation",
        choices=("ok", "all"),
        default="ok",
        help="drop or keep words whose segmentation is marked err (default: drop)",
    )
    group = parser.add_argument_group("iam and gw")
    group.add_argument(
        "--writer_from",
        choices=("dataset", "page"),
        default="dataset",
        help=(
            "who wrote a word: the data set's "
            "own word (gw: one, 'gw'), or each page (iam: form) is a writer (default: %(default)s)"
        ),
    )
    group = parser.add_argument_group("gw")
    group.add_argument(
        "--fold",
        choices=("cv1", "cv2", "cv3", "cv4"),
        default="cv1",
        help="the cross-validation fold whose sets are the splits (default: %(default)s)",
    )
    group = parser.add_argument_group("imgur5k")
    group.add_argument("--images", type=Path, help="the folder of downloaded pages (default: found)")
    group.add_argument(
        "--verify_md5",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="leave out pages whose content is not the published one",
    )
    group = parser.add_argument_group("table")
    group.add_argument("--table", type=Path, help="the CSV, TSV or JSONL file (default: found)")
    group.add_argument("--image_column", help="column of image paths (default: by usual names)")
    group.add_argument("--text_column", help="column of texts (default: by usual names)")
    group.add_argument("--writer_column", help="column of writers (default: by usual names)")
    group.add_argument("--split_column", help="column of splits (default: by usual names)")
    group.add_argument(
        "--writer", default="me", help="the writer where there is no writer column (default: %(default)s)"
    )
    group = parser.add_argument_group("fonts")
    group.add_argument(
        "--num_words", type=int, default=10_000, help="words to draw, over all fonts (default: %(default)s)"
    )
    group.add_argument(
        "--words_file",
        type=Path,
        help="texts to draw, one a line (default: English and German words, numbers, strings of letters)",
    )
    group.add_argument(
        "--fonts",
        nargs="+",
        metavar="NAME",
        help="cuts (kalam-light) or families (kalam) to draw in (default: all)",
    )
    group.add_argument(
        "--seed", type=int, default=0, help="another seed gives other words (default: %(default)s)"
    )
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; a preset only sets defaults, flags given beside it win."""
    parser = make_parser()
    preset, _ = parser.parse_known_args(argv)
    if preset.preset:
        parser.set_defaults(**PRESETS[preset.preset])
    args = parser.parse_args(argv)
    args.defaults = {name: parser.get_default(name) for name in vars(args)}
    if args.dataset_path is None and args.dataset != "fonts":
        parser.error("--dataset_path is needed (or --dataset fonts, which draws its own words)")
    if not args.dry_run and args.save_dir is None:
        parser.error("--save_dir is needed (or --dry_run)")
    if any(side <= 0 or side % 8 for side in args.img_size):
        parser.error(f"--img_size {args.img_size[0]} {args.img_size[1]}: height and width are multiples of 8")
    if args.margin < 0 or 2 * args.margin >= min(args.img_size):
        parser.error(
            f"--margin {args.margin}: leaves no room in an image of {args.img_size[0]}x{args.img_size[1]}"
            " pixels"
        )
    if args.max_scale <= 0:
        parser.error(f"--max_scale {args.max_scale}: must be above 0")
    if args.val_fraction < 0 or args.test_fraction < 0 or args.val_fraction + args.test_fraction >= 1:
        parser.error(
            f"--val_fraction {args.val_fraction} --test_fraction {args.test_fraction}: leave nothing to"
            " train on"
        )
    if args.num_workers < 1:
        parser.error(f"--num_workers {args.num_workers}: at least 1")
    return args


def process_described(args: argparse.Namespace, name: str) -> None:
    """Read, filter, split and write a data set that a reader knows."""
    dropped: Counter = Counter()
    place = f"--dataset_path {args.dataset_path}" if args.dataset_path else f"--dataset {name}"
    raw = READERS[name].iter_words(args.dataset_path, **reader_options(name, args))
    words = list(filter_words(raw, args.charset, args.min_length, args.max_length, dropped))
    words = split_by_writer(words, args.val_fraction, args.test_fraction)
    if not words:
        sought = IMAGES_SOUGHT.get(name, "") if 2 * dropped["no_image"] > dropped.total() else ""
        raise UserError(f"{place}: no word is left of this {name} data set. {sought}\n{drop_table(dropped)}")
    if args.dry_run:
        print(describe(words))
        print(drop_table(dropped))
        return
    settings = fit_settings(args, name)
    source = str(args.dataset_path.resolve()) if args.dataset_path else None
    report = {
        "dataset": name,
        "dataset_path": source,
        "settings": asdict(settings),
        "split_words": args.split_words,
        "charset": args.charset,
        "min_length": args.min_length,
        "max_length": args.max_length,
        "val_fraction": args.val_fraction,
        "test_fraction": args.test_fraction,
        "reader": {
            key: None if value is None else str(value) for key, value in reader_options(name, args).items()
        },
    }
    report = prepare_save_dir(args.save_dir, args.dataset_path, report, args.overwrite)
    records = write_words(words, args.save_dir, settings, args.split_words, args.num_workers, dropped)
    if not records:
        raise UserError(f"{place}: none of {len(words)} images could be used.\n{drop_table(dropped)}")
    print(describe(records))
    print(drop_table(dropped))
    report |= {"words": dict(Counter(record.split for record in records)), "dropped": dict(dropped)}
    write_atomically(args.save_dir / REPORT_NAME, json.dumps(report, indent=2, ensure_ascii=False))
    write_metadata(args.save_dir, records)
    print(f"wrote {len(records)} words to {args.save_dir}")


def process_bare(args: argparse.Namespace) -> None:
    """Resize a folder of images that nothing describes, as the published script did."""
    paths = find_bare_images(args.dataset_path)
    if not paths:
        raise FileNotFoundError(
            f"--dataset_path {args.dataset_path}: no known data set and no images. Known are IAM, GW,"
            " IMGUR5K, and any folder with a CSV, TSV or JSONL table of images and texts (--dataset table)."
        )
    advice = (
        "If they are part of a known data set, give its whole folder; else put a table with the columns"
        " file_name and text beside them to make a word folder."
    )
    if any(iam.is_word_id(path.stem) for path in paths):
        advice = "Their names are IAM's: give the folder that holds words.txt, too."
    print(
        f"warning: nothing in {args.dataset_path} says what is written on its {len(paths)} images. They are"
        f" resized, but without texts no model can be trained on them. {advice}",
        file=sys.stderr,
    )
    if args.dry_run:
        print(f"images      {len(paths)} without a description")
        return
    settings = replace(
        fit_settings(args, "bare"), fit="squeeze", background="keep", crop=False, align="center"
    )
    report = {
        "dataset": "bare",
        "dataset_path": str(args.dataset_path.resolve()),
        "img_size": settings.img_size,
    }
    report = prepare_save_dir(args.save_dir, args.dataset_path, report, args.overwrite)
    dropped: Counter = Counter()
    words = list(resize_bare_images(paths, args.dataset_path))
    records = write_words(words, args.save_dir, settings, False, args.num_workers, dropped)
    report |= {"images": len(records), "dropped": dict(dropped)}
    write_atomically(args.save_dir / REPORT_NAME, json.dumps(report, indent=2, ensure_ascii=False))
    print(drop_table(dropped))
    print(f"wrote {len(records)} images without texts to {args.save_dir / IMAGE_FOLDER}")


def fit_settings(args: argparse.Namespace, name: str) -> FitSettings:
    """The image settings that the flags ask for."""
    invert = (
        name == "imgur5k" and args.background == "whiten" if args.invert_dark is None else args.invert_dark
    )
    return FitSettings(
        tuple(args.img_size),
        args.background,
        args.crop,
        args.fit,
        args.align,
        args.margin,
        args.max_scale,
        args.remove_rules,
        invert,
    )


def main(args: argparse.Namespace) -> None:
    """Choose the reader and run it."""
    if args.dataset_path is not None and args.dataset_path.is_file():
        raise UserError(
            f"--dataset_path {args.dataset_path}: is a file. Give its folder (a table: and --table FILE)."
        )
    if args.dataset_path is not None and not args.dataset_path.is_dir():
        raise FileNotFoundError(f"--dataset_path {args.dataset_path}: no such folder")
    name = args.dataset
    if name is None:
        name = "table" if args.table else recognise(args.dataset_path)
        print(
            f"found       {name or 'images without a description'} in {args.dataset_path}"
            + (" (--dataset names another reader)" if name else "")
        )
    check_reader_flags(name, args)
    if name is None:
        process_bare(args)
    else:
        process_described(args, name)


if __name__ == "__main__":
    from utils.cli import run

    run(main, parse_args())
