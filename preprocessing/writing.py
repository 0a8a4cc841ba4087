"""From raw words to the images of a word folder, on all cores, going on where an interrupted run stopped."""

import hashlib
import json
import re
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from preprocessing.cleaning import FitSettings, clean_word, fit_word, split_at_spaces
from preprocessing.lines import LineImage
from preprocessing.raw_word import BadBoxError, RawWord
from utils.errors import UserError
from utils.output import check_no_file, save_image, write_atomically
from utils.text_images import IMAGE_FOLDER, METADATA_NAME, TextImage

REPORT_NAME = "preprocessing.json"
CHUNK = 32  # words a worker takes at once
LONGEST_STEM = 200  # bytes; file systems take names of 255, and a temporary name is longer


def prepare_save_dir(save_dir: Path, dataset_path: Path | None, report: dict, overwrite: bool) -> dict:
    """Make the output folder, or go on in one that an interrupted run of the same settings left.

    Args:
        report: the settings, which JSON can hold.
    Returns:
        ``report`` as JSON reads it back, which is what the folder's report file holds now.
    Raises:
        ValueError: if the folder is finished, belongs to other settings, holds anything else, or overlaps the
            source.
    """
    report = json.loads(json.dumps(report))
    if dataset_path is not None:
        source, target = dataset_path.resolve(), save_dir.resolve()
        if source.is_relative_to(target) or target.is_relative_to(source):
            raise UserError(
                f"--save_dir {save_dir}: would write into --dataset_path {dataset_path}. Name a folder"
                " beside it."
            )
    marker = save_dir / REPORT_NAME
    check_no_file(save_dir, "--save_dir")
    # A half-written marker of a run that was killed just then doesn't count.
    if save_dir.is_dir() and any(path for path in save_dir.iterdir() if path.suffix != ".tmp"):
        if not marker.is_file():
            raise UserError(
                f"--save_dir {save_dir}: not empty, and not made by this script. Name another folder."
            )
        if overwrite:
            # The old marker stays until the new one is there: killed on the way, the folder is still known as
            # ours.
            (save_dir / METADATA_NAME).unlink(missing_ok=True)
            shutil.rmtree(save_dir / IMAGE_FOLDER, ignore_errors=True)
        else:
            _check_unfinished(save_dir, json.loads(marker.read_text(encoding="utf-8")), report)
            print(f"going on with the unfinished run in {save_dir}")
    write_atomically(marker, json.dumps(report, indent=2, ensure_ascii=False))
    (save_dir / IMAGE_FOLDER).mkdir(exist_ok=True)
    return report


def _check_unfinished(save_dir: Path, old: dict, report: dict) -> None:
    """Raise a ValueError unless ``old`` is the report of an unfinished run with the settings of
    ``report``.
    """
    # A folder of words is finished when its metadata.jsonl is there, one of bare images when they are
    # counted.
    if (save_dir / METADATA_NAME).is_file() or "images" in old:
        raise UserError(
            f"--save_dir {save_dir}: already holds a finished word folder. Name another one, or give "
            "--overwrite to make it anew."
        )
    if {key: value for key, value in old.items() if key in report} != report:
        raise UserError(
            f"--save_dir {save_dir}: holds an unfinished run with other settings ({REPORT_NAME}). "
            "Give the same flags to go on with it, or --overwrite to start anew."
        )


def write_words(
    words: Sequence[RawWord],
    save_dir: Path,
    settings: FitSettings,
    split_words: bool,
    workers: int,
    dropped: Counter,
) -> list[TextImage]:
    """Write all images on all cores; returns the records, counts what had to be dropped."""
    stems = image_names([word.source_id for word in words])
    pairs = list(zip(words, stems, strict=True))
    chunks = chunks_of_pages(pairs)
    records = []
    with tqdm(total=len(pairs), unit="word", desc="words") as bar:
        for results in bounded_map(process_chunk, chunks, workers, save_dir, settings, split_words):
            for result in results:
                if isinstance(result, str):
                    dropped[result] += 1
                else:
                    records += result
            bar.update(len(results))
    for leftover in (save_dir / IMAGE_FOLDER).glob(".*.tmp"):  # of a run that was killed while it saved
        leftover.unlink()
    return records


def chunks_of_pages(pairs: Sequence[tuple[RawWord, str]]) -> Iterator[list[tuple[RawWord, str]]]:
    """The words in chunks, none of which ends within a page: a page is read once."""
    chunk: list[tuple[RawWord, str]] = []
    for pair in pairs:
        page = pair[0].page
        if len(chunk) >= CHUNK and (page is None or page != chunk[-1][0].page):
            yield chunk
            chunk = []
        chunk.append(pair)
    if chunk:
        yield chunk


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


def process_chunk(
    chunk: Sequence[tuple[RawWord, str]], save_dir: Path, settings: FitSettings, split_words: bool
) -> list[list[TextImage] | str]:
    """``process_word`` on each word of a chunk, in a worker process."""
    import cv2

    cv2.setNumThreads(1)
    return [process_word(word, stem, save_dir, settings, split_words) for word, stem in chunk]


def process_word(
    word: RawWord, stem: str, save_dir: Path, settings: FitSettings, split_words: bool
) -> list[TextImage] | str:
    """Write one word's image (or several, where a text is cut at its spaces).

    Returns:
        The records written, or the reason why there are none.
    """
    target = save_dir / IMAGE_FOLDER / f"{stem}.png"
    record = TextImage(f"{IMAGE_FOLDER}/{stem}.png", word.text, word.writer, word.split or "train")
    cuts = split_words and " " in word.text
    if target.is_file() and not cuts:
        return [record]  # an interrupted run wrote it: images appear whole, by rename
    if isinstance(word.image, LineImage):
        drawn = word.image.draw(settings)
        if isinstance(drawn, str):
            return drawn
        save_image(drawn, target)
        return [record]
    try:
        image = word.image.load()
    except BadBoxError:
        return "bad_box"
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        Image.DecompressionBombError,
    ):  # whatever Pillow raises
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


def image_names(source_ids: Sequence[str]) -> list[str]:
    """File stems for ids: made safe for any file system, and unique also where case does not count.

    Ids that would collide, or make too long a name, get a short hash of their id (and of their rank among
    equals) appended.
    """
    stems = [re.sub(r"[^\w.\-]+", "_", source_id).strip("._") or "word" for source_id in source_ids]
    counts = Counter(stem.casefold() for stem in stems)
    seen: Counter = Counter()
    names = []
    for stem, source_id in zip(stems, source_ids, strict=True):
        start = stem.encode()[:LONGEST_STEM].decode(errors="ignore")
        if counts[stem.casefold()] > 1 or start != stem:
            seen[source_id] += 1
            stem = start + "-" + hashlib.sha256(f"{source_id}#{seen[source_id]}".encode()).hexdigest()[:8]
        names.append(stem)
    return names
