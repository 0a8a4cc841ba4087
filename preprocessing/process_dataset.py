"""Turn a raw data set of handwriting into a folder of text images: images/*.png and metadata.jsonl.

  python3 preprocessing/process_dataset.py --dataset_path IAM --save_dir data/iam
  python3 preprocessing/process_dataset.py --dataset table --dataset_path my_scans --save_dir data/me
  python3 preprocessing/process_dataset.py --dataset_path IAM --dry_run

The source is only read. Every text image that is left out is counted under a reason; the table is printed and
saved in preprocessing.json beside metadata.jsonl.
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

if not __package__:  # the project's root, from whichever folder this is run
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from preprocessing.arguments import parse_args
from preprocessing.cleaning import FitSettings
from preprocessing.raw_word import FileImage, RawWord
from preprocessing.reader_flags import check_flags, fit_settings, is_given, reader_options
from preprocessing.readers import fonts, gw, iam, imgur5k, pages, table
from preprocessing.readers.search import IMAGE_SUFFIXES, ids_of_paths, walk
from preprocessing.selection import choose_splits, describe, drop_table, filter_words, names_splits
from preprocessing.writing import REPORT_NAME, open_save_dir, write_words
from utils.errors import UserError
from utils.output import write_atomically
from utils.text_images import IMAGE_FOLDER, write_metadata

READERS = {"iam": iam, "gw": gw, "imgur5k": imgur5k, "pages": pages, "table": table, "fonts": fonts}
# Where each reader looks for images, said when most are missing.
IMAGES_SOUGHT = {
    "iam": (
        "Images are sought as a01/a01-000u/a01-000u-00-00.png, wherever that lies below the folder; words.tgz"
        " holds them. Those of lines are a01-000u-00.png, in lines.tgz."
    ),
    "gw": "Images are sought as 270-01-01.png, of lines as 270-01.png, wherever they lie below the folder.",
    "imgur5k": (
        "Pages are sought below --images, else below --dataset_path, by the names of image_path: give the"
        " folder of the downloaded pages with --images."
    ),
    "pages": (
        "A page's picture is sought by its name in the PAGE or ALTO file, and by that file's own name,"
        " anywhere below --dataset_path."
    ),
    "table": "Images are sought by the table's paths, from its folder and from --dataset_path.",
}


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which text images are kept, and the shares of those that validate and test."""

    charset: str | None
    min_length: int
    max_length: int | None
    val_fraction: float
    test_fraction: float
    unseen_writers: float


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where the images go and how they are made; nothing is written in a ``dry_run``."""

    save_dir: Path | None
    dry_run: bool
    overwrite: bool
    num_workers: int
    settings: FitSettings
    split_words: bool


def recognise(dataset_path: Path) -> str | None:
    """The name of the reader whose data set lies in this folder, or None."""
    return next((name for name, reader in READERS.items() if reader.recognises(dataset_path)), None)


def find_bare_images(dataset_path: Path) -> list[Path]:
    """All picture files below a folder, in order."""
    paths = []
    for folder, _, names in walk(dataset_path):
        paths += [folder / name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
    return sorted(paths)


def bare_words(paths: Sequence[Path], dataset_path: Path) -> Iterator[RawWord]:
    """Images that nothing describes, as text images without text."""
    ids = ids_of_paths([str(path.relative_to(dataset_path)) for path in paths])
    for path, source_id in zip(paths, ids, strict=True):
        image = FileImage(path=path, use_exif=True)
        yield RawWord(image=image, text="", writer="", split=None, source_id=source_id, sources=(path,))


def process_described(
    reader: str,
    dataset_path: Path | None,
    options: dict,
    selection: Selection,
    output: Output,
    *,
    own_shares: bool,
) -> None:
    """Read, filter, split and write a data set that a reader knows; ``options`` are the reader's.

    With ``own_shares`` the shares of the splits were asked for, which a data set with splits can't give.
    """
    dropped: Counter = Counter()
    source = f"--dataset_path {dataset_path}" if dataset_path else f"--dataset {reader}"
    raw = READERS[reader].iter_words(dataset_path, **options)
    words = list(filter_words(raw, selection.charset, selection.min_length, selection.max_length, dropped))
    if own_shares and names_splits(words):
        raise UserError(
            "--val_fraction, --test_fraction: this data set names its own splits. Leave them out."
        )
    if not words:
        sought = IMAGES_SOUGHT.get(reader, "") if 2 * dropped["no_image"] > dropped.total() else ""
        raise UserError(
            f"{source}: nothing is left of this {reader} data set. {sought}\n{drop_table(dropped)}"
        )
    words = choose_splits(words, selection.val_fraction, selection.test_fraction, selection.unseen_writers)
    if output.dry_run:
        print(describe(words))
        print(drop_table(dropped))
        return
    report = {
        "dataset": reader,
        "dataset_path": text_of_path(dataset_path.resolve()) if dataset_path else None,
        "settings": asdict(output.settings),
        "split_words": output.split_words,
        **asdict(selection),
        "reader": {key: None if value is None else str(value) for key, value in options.items()},
    }
    with open_save_dir(output.save_dir, dataset_path, report, overwrite=output.overwrite) as report:
        records = write_images(words, output, dropped)
        if not records:
            raise UserError(f"{source}: none of {len(words)} images could be used.\n{drop_table(dropped)}")
        print(describe(records))
        print(drop_table(dropped))
        report |= {"words": dict(Counter(record.split for record in records)), "dropped": dict(dropped)}
        write_report(output.save_dir, report)
        write_metadata(output.save_dir, records)
    print(f"wrote {len(records)} text images to {output.save_dir}")


def process_bare(dataset_path: Path, output: Output) -> None:
    """Resize a folder of images that nothing describes, as the published script did."""
    paths = find_bare_images(dataset_path)
    if not paths:
        raise FileNotFoundError(
            f"--dataset_path {dataset_path}: no known data set and no images. Known are IAM, GW,"
            " IMGUR5K, and any folder with a CSV, TSV or JSONL table of images and texts (--dataset table)."
        )
    warn_of_bare_images(paths, dataset_path)
    if output.dry_run:
        print(f"images      {len(paths)} without a description")
        return
    report = {
        "dataset": "bare",
        "dataset_path": text_of_path(dataset_path.resolve()),
        "img_size": output.settings.img_size,
    }
    dropped: Counter = Counter()
    with open_save_dir(output.save_dir, dataset_path, report, overwrite=output.overwrite) as report:
        records = write_images(list(bare_words(paths, dataset_path)), output, dropped)
        print(drop_table(dropped))
        if not records:
            raise UserError(f"--dataset_path {dataset_path}: none of {len(paths)} images could be used.")
        write_report(output.save_dir, report | {"images": len(records), "dropped": dict(dropped)})
    print(f"wrote {len(records)} images without texts to {output.save_dir / IMAGE_FOLDER}")


def warn_of_bare_images(paths: Sequence[Path], dataset_path: Path) -> None:
    """Say that no model can be trained on images without texts, and which tables were not taken.

    Raises:
        UserError: if one of these tables names images: it is meant to describe them.
    """
    advice = (
        "If they are part of a known data set, give its whole folder; else put a table with the columns"
        " file_name and text beside them."
    )
    if any(iam.is_word_id(path.stem) for path in paths):
        advice = "Their names are IAM's: give the folder that holds words.txt, too."
    refused = table.list_refused(dataset_path)
    for path, reason in refused:
        if table.names_images(path):
            raise UserError(
                f"--dataset_path {dataset_path}: {path.relative_to(dataset_path)} names images, but is not"
                f" understood ({reason}). Mend it, or name it with --table and its columns with"
                " --image_column and --text_column, or take it away to resize the images without texts."
            )
    print(
        f"warning: nothing in {dataset_path} says what is written on its {len(paths)} images. They are"
        f" resized, but without texts no model can be trained on them. {advice}",
        *[f"  {path} is no table of text images: {reason}" for path, reason in refused[:5]],
        sep="\n",
        file=sys.stderr,
    )


def write_images(words: Sequence[RawWord], output: Output, dropped: Counter) -> list:
    """``write_words`` as ``output`` says."""
    return write_words(
        words,
        output.save_dir,
        output.settings,
        split_words=output.split_words,
        workers=output.num_workers,
        dropped=dropped,
    )


def write_report(save_dir: Path, report: dict) -> None:
    """Write ``preprocessing.json``."""
    write_atomically(save_dir / REPORT_NAME, json.dumps(report, indent=2, ensure_ascii=False))


def text_of_path(path: Path) -> str:
    """A path as text; a name may hold bytes that are none."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def main(args: argparse.Namespace) -> None:
    """Choose the reader and run it."""
    if args.dataset_path is not None and args.dataset_path.is_file():
        raise UserError(
            f"--dataset_path {args.dataset_path}: is a file. Give its folder (a table: and --table FILE)."
        )
    if args.dataset_path is not None and not args.dataset_path.is_dir():
        raise FileNotFoundError(f"--dataset_path {args.dataset_path}: no such folder")
    reader = args.dataset
    if reader is None:
        reader = "table" if args.table else recognise(args.dataset_path)
        print(
            f"found       {reader or 'images without a description'} in {args.dataset_path}"
            + (" (--dataset names another reader)" if reader else "")
        )
    check_flags(reader, args)
    output = Output(
        save_dir=args.save_dir,
        dry_run=args.dry_run,
        overwrite=args.overwrite,
        num_workers=args.num_workers,
        settings=fit_settings(reader, args),
        split_words=args.split_words,
    )
    if reader is None:
        process_bare(args.dataset_path, output)
        return
    selection = Selection(
        charset=args.charset,
        min_length=args.min_length,
        max_length=args.max_length,
        val_fraction=args.val_fraction,
        test_fraction=args.test_fraction,
        unseen_writers=args.unseen_writers,
    )
    own_shares = is_given(args, "val_fraction") or is_given(args, "test_fraction")
    options = reader_options(reader, args)
    process_described(reader, args.dataset_path, options, selection, output, own_shares=own_shares)


if __name__ == "__main__":
    from utils.cli import run

    run(main, parse_args(description=__doc__))
