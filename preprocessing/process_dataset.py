"""Turn a raw data set of handwritten words into a word folder: images/*.png and metadata.jsonl.

  python3 preprocessing/process_dataset.py --dataset_path IAM --save_dir data/iam
  python3 preprocessing/process_dataset.py --dataset table --dataset_path my_scans --save_dir data/me --dry_run

The source is only read. Every word that is left out is counted under a reason; the table is printed and saved in
preprocessing.json beside metadata.jsonl.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]  # so that this script runs from any folder

from PIL import Image  # noqa: E402
from tqdm import tqdm  # noqa: E402

from preprocessing import gw, iam, imgur5k, table  # noqa: E402
from preprocessing.raw_word import DroppedWord, RawWord  # noqa: E402
from utils.charset import normalise_text  # noqa: E402
from utils.images import FitSettings, clean_word, fit_word, split_at_spaces  # noqa: E402
from utils.word_folder import (  # noqa: E402
    IMAGE_FOLDER,
    METADATA_NAME,
    WordRecord,
    save_image,
    write_atomically,
    write_metadata,
)

READERS = {"iam": iam, "gw": gw, "imgur5k": imgur5k, "table": table}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
PRESETS = {
    "wordstylist": {"charset": LETTERS, "min_length": 2, "max_length": 7, "fit": "squeeze", "background": "keep",
                    "crop": False, "align": "center"},
}  # fmt: skip
REPORT_NAME = "preprocessing.json"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
CHUNK = 32


def recognise(dataset_path: Path) -> str | None:
    """The name of the reader whose data set lies in this folder, or None."""
    return next((name for name, reader in READERS.items() if reader.recognises(dataset_path)), None)


def split_by_writer(words: Sequence[RawWord], val_fraction: float, test_fraction: float) -> list[RawWord]:
    """Give each word without a split one, per writer, the same on every machine.

    Each writer's words are ordered by the SHA-256 of their ids; the first ``test_fraction`` become ``test``, the next
    ``val_fraction`` ``val``, rounded to whole words, and at least one word of each writer stays in ``train``. A data set
    that names any split is left as it is, its unnamed words go to ``train``.
    """
    if any(word.split for word in words):
        return [word if word.split else replace(word, split="train") for word in words]
    by_writer: dict[str, list[int]] = {}
    for index, word in enumerate(words):
        by_writer.setdefault(word.writer, []).append(index)
    splits = ["train"] * len(words)
    for indices in by_writer.values():
        indices.sort(key=lambda i: hashlib.sha256(words[i].source_id.encode()).digest())
        tests = min(round(test_fraction * len(indices)), len(indices) - 1)
        vals = min(round(val_fraction * len(indices)), len(indices) - 1 - tests)
        for rank, index in enumerate(indices[: tests + vals]):
            splits[index] = "test" if rank < tests else "val"
    return [replace(word, split=split) for word, split in zip(words, splits)]


def filter_words(words: Iterator[RawWord | DroppedWord], charset: str | None, min_length: int, max_length: int | None,
                 dropped: Counter) -> Iterator[RawWord]:  # fmt: skip
    """Yield the words whose normalised text passes the filters; count the others by reason in ``dropped``."""
    allowed = set(normalise_text(charset)) | {" "} & set(charset) if charset else None
    for word in words:
        if isinstance(word, DroppedWord):
            dropped[word.reason] += 1
            continue
        text = normalise_text(word.text)
        if not text:
            dropped["empty_text"] += 1
        elif allowed is not None and not set(text) <= allowed:
            dropped["charset"] += 1
        elif len(text) < min_length or (max_length is not None and len(text) > max_length):
            dropped["length"] += 1
        else:
            yield replace(word, text=text)


def image_names(source_ids: Sequence[str]) -> list[str]:
    """File stems for ids: made safe for any file system, and unique also where case does not count.

    Ids that would collide all get a short hash of their id (and of their rank among equals) appended.
    """
    stems = [re.sub(r"[^\w.\-]+", "_", source_id).strip("._") or "word" for source_id in source_ids]
    counts = Counter(stem.casefold() for stem in stems)
    seen: Counter = Counter()
    names = []
    for stem, source_id in zip(stems, source_ids):
        if counts[stem.casefold()] > 1:
            seen[source_id] += 1
            stem += "-" + hashlib.sha256(f"{source_id}#{seen[source_id]}".encode()).hexdigest()[:8]
        names.append(stem)
    return names


def process_word(word: RawWord, stem: str, save_dir: Path, settings: FitSettings,
                 split_words: bool) -> list[WordRecord] | str:  # fmt: skip
    """Write one word's image (or several, where a text is cut at its spaces).

    Returns:
        The records written, or the reason why there are none.
    """
    target = save_dir / IMAGE_FOLDER / f"{stem}.png"
    record = WordRecord(f"{IMAGE_FOLDER}/{stem}.png", word.text, word.writer, word.split or "train")
    cuts = split_words and " " in word.text
    if target.is_file() and not cuts:
        return [record]  # an interrupted run wrote it: images appear whole, by rename
    try:
        image = word.image.load()
    except ValueError:
        return "bad_box"
    except (OSError, SyntaxError, Image.DecompressionBombError):
        return "unreadable_image"
    grey = clean_word(image, settings)
    if grey is None:
        return "empty_image"
    parts = split_at_spaces(grey, word.text) if cuts else None
    if parts is None:
        save_image(fit_word(grey, settings), target)
        return [record]
    records = []
    for number, (part, text) in enumerate(parts):
        name = f"{IMAGE_FOLDER}/{stem}-w{number}.png"
        save_image(fit_word(part, settings), save_dir / name)
        records.append(replace(record, file_name=name, text=text))
    return records


def process_chunk(chunk: Sequence[tuple[RawWord, str]], save_dir: Path, settings: FitSettings,
                  split_words: bool) -> list[list[WordRecord] | str]:  # fmt: skip
    """``process_word`` on each word of a chunk, in a worker process."""
    import cv2

    cv2.setNumThreads(1)
    return [process_word(word, stem, save_dir, settings, split_words) for word, stem in chunk]


def bounded_map(function: Callable, chunks: Iterator, workers: int, *args) -> Iterator:
    """Ordered results of ``function(chunk, *args)`` with a few chunks a worker in flight at most."""
    if workers <= 1:
        yield from (function(chunk, *args) for chunk in chunks)
        return
    with ProcessPoolExecutor(workers) as pool:
        pending: deque = deque()
        try:
            for chunk in chunks:
                pending.append(pool.submit(function, chunk, *args))
                if len(pending) >= 4 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def write_words(words: Sequence[RawWord], save_dir: Path, settings: FitSettings, split_words: bool, workers: int,
                dropped: Counter) -> list[WordRecord]:  # fmt: skip
    """Write all images on all cores; returns the records, counts what had to be dropped."""
    stems = image_names([word.source_id for word in words])
    pairs = list(zip(words, stems))
    chunks = (pairs[i : i + CHUNK] for i in range(0, len(pairs), CHUNK))
    records = []
    with tqdm(total=len(pairs), unit="word", desc="words") as bar:
        for results in bounded_map(process_chunk, chunks, workers, save_dir, settings, split_words):
            for result in results:
                if isinstance(result, str):
                    dropped[result] += 1
                else:
                    records += result
            bar.update(len(results))
    return records


def describe(words: Sequence[RawWord | WordRecord]) -> str:
    """What a set of words holds: counts, writers, lengths, characters, rare ones, texts shared between splits."""
    splits = Counter(word.split for word in words)
    writers = Counter(word.writer for word in words)
    lengths = Counter(len(word.text) for word in words)
    characters = Counter(c for word in words for c in word.text)
    texts: dict[str, set] = {}
    for word in words:
        texts.setdefault(word.split, set()).add(word.text)
    names = [name for name in ("train", "val", "test") if name in texts]
    lines = [
        f"words       {len(words)}: " + ", ".join(f"{name} {splits[name]}" for name in names),
        f"texts       {len({word.text for word in words})} different",
        f"writers     {len(writers)}, with {min(writers.values())} to {max(writers.values())} words each: "
        + shorten([f"{name} {count}" for name, count in sorted(writers.items())], 12),
        f"lengths     {min(lengths)} to {max(lengths)}: "
        + ", ".join(f"{length}: {count}" for length, count in sorted(lengths.items())),
        f"characters  {len(characters)}: " + " ".join(f"{c!r} {n}" for c, n in sorted(characters.items())),
        "rare        " + (" ".join(f"{c!r} {n}" for c, n in sorted(characters.items()) if n < 20) or "none")
        + "  (fewer than 20 times)",
    ]  # fmt: skip
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            lines.append(f"shared      {len(texts[first] & texts[second])} texts are in both {first} and {second}")
    return "\n".join(lines)


def shorten(items: Sequence[str], most: int) -> str:
    """The items joined by commas, the tail as a count."""
    tail = f", … ({len(items) - most} more)" if len(items) > most else ""
    return ", ".join(items[:most]) + tail


def drop_table(dropped: Counter) -> str:
    """The dropped words by reason, as text."""
    rows = [f"  {reason:18} {count:8d}" for reason, count in sorted(dropped.items(), key=lambda item: -item[1])]
    return "\n".join([f"dropped     {sum(dropped.values())}", *rows])


def prepare_save_dir(save_dir: Path, dataset_path: Path, report: dict, overwrite: bool) -> None:
    """Make the output folder, or go on in one that an interrupted run of the same settings left.

    Raises:
        ValueError: if the folder is finished, belongs to other settings, holds anything else, or is the source.
    """
    source, target = dataset_path.resolve(), save_dir.resolve()
    if target == source or source.is_relative_to(target):
        raise ValueError(f"--save_dir {save_dir}: would write into --dataset_path {dataset_path}. Name another folder.")
    marker = save_dir / REPORT_NAME
    if save_dir.is_dir() and any(save_dir.iterdir()):
        if not marker.is_file():
            raise ValueError(f"--save_dir {save_dir}: not empty, and not made by this script. Name another folder.")
        if overwrite:
            for name in (METADATA_NAME, REPORT_NAME):
                (save_dir / name).unlink(missing_ok=True)
            shutil.rmtree(save_dir / IMAGE_FOLDER, ignore_errors=True)
        elif (save_dir / METADATA_NAME).is_file() or "words" in json.loads(marker.read_text(encoding="utf-8")):
            raise ValueError(f"--save_dir {save_dir}: already holds a finished word folder. Name another one, or give "
                             "--overwrite to make it anew.")  # fmt: skip
        elif json.loads(marker.read_text(encoding="utf-8")) != report:
            raise ValueError(f"--save_dir {save_dir}: holds an unfinished run with other settings ({marker.name}). "
                             "Give the same flags to go on with it, or --overwrite to start anew.")  # fmt: skip
        else:
            print(f"going on with the unfinished run in {save_dir}")
    (save_dir / IMAGE_FOLDER).mkdir(parents=True, exist_ok=True)
    write_atomically(marker, json.dumps(report, indent=2, ensure_ascii=False))


def resize_bare_images(paths: Sequence[Path], dataset_path: Path) -> Iterator[RawWord]:
    """Images that nothing describes, as words without text."""
    from preprocessing.raw_word import FileImage

    for path in paths:
        source_id = "-".join(path.relative_to(dataset_path).with_suffix("").parts)
        yield RawWord(FileImage(path, use_exif=True), "", "", None, source_id)


def find_bare_images(dataset_path: Path) -> list[Path]:
    """All picture files below a folder, in order."""
    return sorted(p for p in dataset_path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())


def reader_options(name: str, args: argparse.Namespace) -> dict:
    """The flags that belong to one reader, as keyword arguments of its ``iter_words``."""
    options = {
        "iam": {"splits": args.splits, "segmentation": args.segmentation},
        "gw": {"fold": args.fold, "writer_from": args.writer_from},
        "imgur5k": {"images": args.images, "verify_md5": args.verify_md5},
        "table": {"table": args.table, "image_column": args.image_column, "text_column": args.text_column,
                  "writer_column": args.writer_column, "split_column": args.split_column, "writer": args.writer},
    }[name]  # fmt: skip
    return options


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; a preset only sets defaults, flags given beside it win."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_argument_group("input and output")
    group.add_argument("--dataset_path", type=Path, required=True, help="the raw data set's folder")
    group.add_argument("--save_dir", type=Path, help="the word folder to write (not needed with --dry_run)")
    group.add_argument("--dataset", choices=sorted(READERS), help="the reader (default: by what lies in the folder)")
    group.add_argument("--dry_run", action="store_true", help="print what is there and write nothing")
    group.add_argument("--overwrite", action="store_true", help="make a finished --save_dir anew")
    group.add_argument("--num_workers", type=int, default=os.cpu_count(), help="processes (default: all %(default)s cores)")
    group = parser.add_argument_group("which words")
    group.add_argument("--preset", choices=sorted(PRESETS), help="wordstylist: the published filter (A-Z a-z, 2 to 7 "
                       "letters) and the published fit")  # fmt: skip
    group.add_argument("--charset", help="keep only words whose characters are all in this string (default: any)")
    group.add_argument("--min_length", type=int, default=1, help="shortest text in characters (default: %(default)s)")
    group.add_argument("--max_length", type=int, help="longest text in characters (default: any)")
    group.add_argument("--val_fraction", type=float, default=0.05, help="share of each writer's words for validation, "
                       "where the data set names no split (default: %(default)s)")  # fmt: skip
    group.add_argument("--test_fraction", type=float, default=0.1, help="the same for test (default: %(default)s)")
    group = parser.add_argument_group("the image")
    group.add_argument("--img_size", type=int, nargs=2, default=(64, 256), metavar=("H", "W"),
                       help="word image size in pixels, multiples of 8 (default: 64 256)")  # fmt: skip
    group.add_argument("--background", choices=("whiten", "keep"), default="whiten",
                       help="paper made white, or kept as it is (default: %(default)s)")  # fmt: skip
    group.add_argument("--crop", action=argparse.BooleanOptionalAction, default=True, help="cut to the ink")
    group.add_argument("--fit", choices=("aspect", "squeeze"), default="aspect",
                       help="keep the shape, or squeeze what is too wide (default: %(default)s)")  # fmt: skip
    group.add_argument("--align", choices=("left", "center"), default="left", help="place of the word in the image's "
                       "width (default: %(default)s)")  # fmt: skip
    group.add_argument("--margin", type=int, default=4, help="white pixels on each side (default: %(default)s)")
    group.add_argument("--remove_rules", action=argparse.BooleanOptionalAction, default=False,
                       help="erase ruler lines at the upper and lower edge")  # fmt: skip
    group.add_argument("--invert_dark", action=argparse.BooleanOptionalAction, default=None,
                       help="turn light writing on dark ground round (default: for imgur5k only)")  # fmt: skip
    group.add_argument("--split_words", action=argparse.BooleanOptionalAction, default=False,
                       help="cut texts of several words at their clear spaces into single words")  # fmt: skip
    group = parser.add_argument_group("iam")
    group.add_argument("--splits", type=Path, help="split lists: a folder or zip of form or line id lists (Aachen, large "
                       "writer independent), or of GANwriting gan.iam.* files (default: per writer)")  # fmt: skip
    group.add_argument("--segmentation", choices=("ok", "all"), default="ok",
                       help="drop or keep words whose segmentation is marked err (default: drop)")  # fmt: skip
    group = parser.add_argument_group("gw")
    group.add_argument("--fold", choices=("cv1", "cv2", "cv3", "cv4"), default="cv1", help="the cross-validation fold "
                       "whose sets are the splits (default: %(default)s)")  # fmt: skip
    group.add_argument("--writer_from", choices=("dataset", "page"), default="dataset",
                       help="one writer 'gw', or a writer a page (default: %(default)s)")  # fmt: skip
    group = parser.add_argument_group("imgur5k")
    group.add_argument("--images", type=Path, help="the folder of downloaded pages (default: found)")
    group.add_argument("--verify_md5", action=argparse.BooleanOptionalAction, default=True,
                       help="leave out pages whose content is not the published one")  # fmt: skip
    group = parser.add_argument_group("table")
    group.add_argument("--table", type=Path, help="the CSV, TSV or JSONL file (default: found)")
    group.add_argument("--image_column", help="column of image paths (default: by usual names)")
    group.add_argument("--text_column", help="column of texts (default: by usual names)")
    group.add_argument("--writer_column", help="column of writers (default: by usual names)")
    group.add_argument("--split_column", help="column of splits (default: by usual names)")
    group.add_argument("--writer", default="me", help="the writer where there is no writer column (default: %(default)s)")
    preset, _ = parser.parse_known_args(argv)
    if preset.preset:
        parser.set_defaults(**PRESETS[preset.preset])
    args = parser.parse_args(argv)
    if not args.dry_run and args.save_dir is None:
        parser.error("--save_dir is needed (or --dry_run)")
    if any(side <= 0 or side % 8 for side in args.img_size):
        parser.error(f"--img_size {args.img_size[0]} {args.img_size[1]}: height and width are multiples of 8")
    if args.margin < 0 or 2 * args.margin >= min(args.img_size):
        parser.error(f"--margin {args.margin}: leaves no room in an image of {args.img_size[0]}x{args.img_size[1]} pixels")
    if args.val_fraction < 0 or args.test_fraction < 0 or args.val_fraction + args.test_fraction >= 1:
        parser.error(f"--val_fraction {args.val_fraction} --test_fraction {args.test_fraction}: leave nothing to train on")
    if args.num_workers < 1:
        parser.error(f"--num_workers {args.num_workers}: at least 1")
    return args


def process_described(args: argparse.Namespace, name: str) -> None:
    """Read, filter, split and write a data set that a reader knows."""
    dropped: Counter = Counter()
    raw = READERS[name].iter_words(args.dataset_path, **reader_options(name, args))
    words = list(filter_words(raw, args.charset, args.min_length, args.max_length, dropped))
    words = split_by_writer(words, args.val_fraction, args.test_fraction)
    if not words:
        raise ValueError(f"--dataset_path {args.dataset_path}: no word is left of this {name} data set.\n"
                         f"{drop_table(dropped)}")  # fmt: skip
    if args.dry_run:
        print(describe(words))
        print(drop_table(dropped))
        return
    settings = fit_settings(args, name)
    report = {"dataset": name, "dataset_path": str(args.dataset_path.resolve()), "settings": asdict(settings),
              "split_words": args.split_words, "charset": args.charset, "min_length": args.min_length,
              "max_length": args.max_length, "val_fraction": args.val_fraction, "test_fraction": args.test_fraction,
              "reader": {key: None if value is None else str(value) for key, value in reader_options(name, args).items()},
              }  # fmt: skip
    report = json.loads(json.dumps(report))
    prepare_save_dir(args.save_dir, args.dataset_path, report, args.overwrite)
    records = write_words(words, args.save_dir, settings, args.split_words, args.num_workers, dropped)
    if not records:
        raise ValueError(f"--dataset_path {args.dataset_path}: none of {len(words)} images could be used.\n"
                         f"{drop_table(dropped)}")  # fmt: skip
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
            f"--dataset_path {args.dataset_path}: no known data set and no images. Known are IAM, GW, IMGUR5K, and any "
            "folder with a CSV, TSV or JSONL table of images and texts (--dataset table)."
        )
    print(f"warning: nothing in {args.dataset_path} says what is written on its {len(paths)} images. They are resized, "
          "but without texts no model can be trained on them. Put a table with the columns file_name and text beside "
          "them to make a word folder.", file=sys.stderr)  # fmt: skip
    if args.dry_run:
        print(f"images      {len(paths)} without a description")
        return
    settings = replace(fit_settings(args, "bare"), fit="squeeze", background="keep", crop=False, align="center")
    prepare_save_dir(args.save_dir, args.dataset_path, {"dataset": "bare", "settings": list(settings.img_size)}, args.overwrite)
    dropped: Counter = Counter()
    words = list(resize_bare_images(paths, args.dataset_path))
    records = write_words(words, args.save_dir, settings, False, args.num_workers, dropped)
    print(drop_table(dropped))
    print(f"wrote {len(records)} images without texts to {args.save_dir / IMAGE_FOLDER}")


def fit_settings(args: argparse.Namespace, name: str) -> FitSettings:
    """The image settings that the flags ask for."""
    invert = name == "imgur5k" and args.background == "whiten" if args.invert_dark is None else args.invert_dark
    return FitSettings(tuple(args.img_size), args.background, args.crop, args.fit, args.align, args.margin,
                       args.remove_rules, invert)  # fmt: skip


def main(args: argparse.Namespace) -> None:
    """Choose the reader and run it."""
    if not args.dataset_path.is_dir():
        raise FileNotFoundError(f"--dataset_path {args.dataset_path}: no such folder")
    name = args.dataset
    if name is None:
        name = recognise(args.dataset_path)
        print(f"found       {name or 'images without a description'} in {args.dataset_path}"
              + (" (--dataset names another reader)" if name else ""))  # fmt: skip
    if name is None:
        process_bare(args)
    else:
        process_described(args, name)


if __name__ == "__main__":
    from utils.cli import run

    run(main, parse_args())
