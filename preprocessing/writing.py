"""From raw text images to the images of a folder, on all cores, going on where an interrupted run stopped."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from preprocessing.cleaning import FitSettings, clean_word, fit_word, split_at_spaces
from preprocessing.raw_word import BadBoxError, CanvasSource, RawWord, decode
from preprocessing.selection import hash_id
from utils.errors import UserError
from utils.output import claim_folder, lock_folder, remove_temporary_files, save_image, write_atomically
from utils.text_images import IMAGE_FOLDER, METADATA_NAME, TextImage

REPORT_NAME = "preprocessing.json"
CHUNK = 32  # images a worker takes at once
LONGEST_STEM = 200  # bytes; file systems take names of 255, and a temporary name is longer


@contextmanager
def open_save_dir(
    save_dir: Path, dataset_path: Path | None, report: dict, *, overwrite: bool
) -> Iterator[dict]:
    """Make the output folder, or go on in one that an interrupted run of the same settings left; no other
    process may write there meanwhile.

    Args:
        report: the settings, which JSON can hold.
    Returns:
        ``report`` as JSON reads it back, which is what the folder's report file holds now.
    Raises:
        UserError: if the folder is finished, belongs to other settings, holds anything else, overlaps the
            source, or another process writes there.
    """
    report = json.loads(json.dumps(report))
    if dataset_path is not None:
        source, target = dataset_path.resolve(), save_dir.resolve()
        if source.is_relative_to(target) or target.is_relative_to(source):
            raise UserError(
                f"--save_dir {save_dir}: would write into --dataset_path {dataset_path}. Name a folder"
                " beside it."
            )
    _claim(save_dir, report, overwrite)  # before a lock is put into what may be someone else's folder
    with lock_folder(save_dir, "--save_dir"):
        old = _claim(save_dir, report, overwrite)
        if old is not None and overwrite:
            # The old report stays until the new one is there: killed on the way, the folder is still known
            # as ours.
            (save_dir / METADATA_NAME).unlink(missing_ok=True)
            shutil.rmtree(save_dir / IMAGE_FOLDER, ignore_errors=True)
        elif old is not None:
            print(f"going on with the unfinished run in {save_dir}")
        write_atomically(save_dir / REPORT_NAME, json.dumps(report, indent=2, ensure_ascii=False))
        (save_dir / IMAGE_FOLDER).mkdir(exist_ok=True)
        yield report
        for folder in (save_dir, save_dir / IMAGE_FOLDER):
            remove_temporary_files(folder)


def _claim(save_dir: Path, report: dict, overwrite: bool) -> dict | None:
    """The report of the run that left the folder, None if the folder is new.

    Raises:
        UserError: unless the folder may be overwritten, or the run is unfinished and has the settings of
            ``report``.
    """
    old = claim_folder(save_dir, "--save_dir", marker=REPORT_NAME)
    if old is None or overwrite:
        return old
    # A folder of text images is finished when its metadata.jsonl is there, one of bare images when they are
    # counted.
    if (save_dir / METADATA_NAME).is_file() or "images" in old:
        raise UserError(
            f"--save_dir {save_dir}: already holds a finished folder of text images. Name another one, or"
            " give --overwrite to make it anew."
        )
    if {key: value for key, value in old.items() if key in report} != report:
        raise UserError(
            f"--save_dir {save_dir}: holds an unfinished run with other settings ({REPORT_NAME}). "
            "Give the same flags to go on with it, or --overwrite to start anew."
        )
    return old


def write_words(
    words: Sequence[RawWord],
    save_dir: Path,
    settings: FitSettings,
    *,
    split_words: bool,
    workers: int,
    dropped: Counter,
) -> list[TextImage]:
    """Write all images on all cores; returns the records, counts what had to be dropped."""
    stems = image_names([word.source_id for word in words])
    pairs = list(zip(words, stems, strict=True))
    chunks = chunks_of_pages(pairs)
    records = []
    with tqdm(total=len(pairs), unit="image", desc="images") as bar:
        for results in bounded_map(process_chunk, chunks, workers, save_dir, settings, split_words):
            for result in results:
                if isinstance(result, str):
                    dropped[result] += 1
                else:
                    records += result
            bar.update(len(results))
    if hasattr(os, "sync"):
        os.sync()  # before metadata.jsonl says that all is there, also after a power cut
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
    """Ordered results of ``function(chunk, *args)`` with a few chunks a worker in flight at most.

    Raises:
        UserError: if a worker process was ended from outside.
    """
    if workers <= 1:
        yield from (function(chunk, *args) for chunk in chunks)
        return
    with ProcessPoolExecutor(workers, initializer=_start_worker) as pool:
        pending: deque = deque()
        try:
            for chunk in chunks:
                pending.append(pool.submit(function, chunk, *args))
                if len(pending) >= 4 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise UserError(
                f"--num_workers {workers}: a worker process was ended from outside, most often because the"
                " memory was full. Give fewer; the same command goes on where it stopped."
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker() -> None:
    """Let a worker end with its parent, however that ends, and leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)  # the main thread may wait for work that never comes


def process_chunk(
    chunk: Sequence[tuple[RawWord, str]], save_dir: Path, settings: FitSettings, split_words: bool
) -> list[list[TextImage] | str]:
    """``process_word`` on each part of a chunk, in a worker process."""
    import cv2

    cv2.setNumThreads(1)
    return [process_word(word, stem, save_dir, settings, split_words) for word, stem in chunk]


def process_word(
    word: RawWord, stem: str, save_dir: Path, settings: FitSettings, split_words: bool
) -> list[TextImage] | str:
    """Write one text image (or several, where a text is cut at its spaces).

    Returns:
        The records written, or the reason why there are none.
    """
    target = save_dir / IMAGE_FOLDER / f"{stem}.png"
    record = TextImage(
        file_name=f"{IMAGE_FOLDER}/{stem}.png",
        text=word.text,
        writer=word.writer,
        split=word.split or "train",
    )
    is_cut = split_words and " " in word.text
    if not is_cut and is_written(target, word.sources, settings.img_size[0]):
        return [record]
    target.unlink(missing_ok=True)
    if isinstance(word.image, CanvasSource):
        drawn = word.image.draw(settings)
        if isinstance(drawn, str):
            return drawn
        save_image(drawn, target)
        return [record]
    try:
        image = word.image.load()
    except BadBoxError:
        return "bad_box"
    except OSError:
        return "unreadable_image"
    grey = clean_word(image, settings)
    if grey is None:
        return "empty_image"
    parts = split_at_spaces(grey, word.text) if is_cut else None
    if parts is None:
        save_image(fit_word(grey, settings), target)
        return [record]
    records = []
    for number, (part, text) in enumerate(parts):
        name = f"{IMAGE_FOLDER}/{stem}-w{number}.png"
        save_image(fit_word(part, settings), save_dir / name)
        records.append(replace(record, file_name=name, text=text))
    return records


def is_written(target: Path, sources: Sequence[Path], img_height: int) -> bool:
    """True if an interrupted run left this image whole, and no file that it depends on has changed since.

    A power cut can leave an empty file under the image's name.
    """
    try:
        written = target.stat().st_mtime_ns
        for source in sources:
            status = source.stat()
            # A file that is copied over another may bring its old modification time along.
            if max(status.st_mtime_ns, status.st_ctime_ns) >= written:
                return False
        return decode(target, Image.Image.copy).height == img_height
    except OSError:
        return False


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
            stem = start + "-" + hash_id(f"{source_id}#{seen[source_id]}").hex()[:8]
        names.append(stem)
    return names
