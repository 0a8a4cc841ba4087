"""Reader for IMGUR5K (facebookresearch/IMGUR5K-Handwriting-Dataset): photographed pages with rotated word
boxes.

The images belong to their uploaders and are downloaded one by one; some are gone, so a partial download is
the rule. A page stands for its writer.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from preprocessing.raw_word import DroppedWord, FileImage, RawWord
from preprocessing.readers.search import IMAGE_SUFFIXES, read_lines, walk
from preprocessing.readers.split_lists import PRIORITY
from utils.errors import UserError

NOT_ANNOTATED = "."
MAX_SIDE = 20_000  # pixels; no published box comes near, and a larger one would fill the memory
_ANNOTATIONS = {"imgur5k_annotations.json": None} | {
    f"imgur5k_annotations_{split}.json": split for split in PRIORITY
}
_SPLIT_LISTS = {f"{split}_index_ids.lst": split for split in PRIORITY}
_DATA_LIST = "imgur5k_data.lst"
_HASH_LIST = "imgur5k_hashes.lst"


@dataclass(kw_only=True)
class _Pages:
    """The annotations of all pages: per page its words as (id, text, box), its image's name and MD5, and its
    split.
    """

    words: dict[str, list[tuple[str, object, object]]] = field(default_factory=dict)
    image_names: dict[str, str] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)  # the annotation file of each page
    without_words: set[str] = field(default_factory=set)  # ids that a list has and no annotation

    def put_in_split(self, page: str, split: str) -> None:
        """Note the page's split; a page of several belongs to test before val before train."""
        self.splits[page] = min(self.splits.get(page, split), split, key=PRIORITY.index)


def recognises(dataset_path: Path) -> bool:
    """True if there are annotations by IMGUR5K's file names."""
    return any(
        name in _ANNOTATIONS or name == _DATA_LIST for _, _, files in walk(dataset_path) for name in files
    )


def iter_words(
    dataset_path: Path, *, images: Path | None = None, verify_md5: bool = True
) -> Iterator[RawWord | DroppedWord]:
    """Yield the words page by page, cut straight when their image is loaded; last a drop for each page
    without words.

    Args:
        dataset_path: a folder with dataset_info (the json files or imgur5k_data.lst, the lists of ids, the
            hashes) anywhere below; the split of a page is what its lists say, else the split json that holds
            it.
        images: the folder of downloaded pages; by default searched below ``dataset_path``.
        verify_md5: leave out the pages whose file is not the published one, such as the host's placeholder.
    Raises:
        FileNotFoundError: if there are no annotations, or ``images`` is no folder.
        ValueError: if an annotation file is not what it should be.
    """
    if images is not None and not images.is_dir():
        raise FileNotFoundError(f"--images {images}: no such folder")
    pages = _read_pages(_find_info(dataset_path))
    if not pages.words:
        raise FileNotFoundError(
            f"--dataset_path {dataset_path}: no annotations of IMGUR5K in it or below. Expected dataset_info"
            " with imgur5k_annotations.json, imgur5k_annotations_{train,val,test}.json or"
            " imgur5k_data.lst."
        )
    paths, unlisted = _find_images(pages, images or dataset_path)
    duplicates = _find_duplicates(pages)
    for page, words in pages.words.items():
        path, split = paths.get(page), pages.splits.get(page)
        reason = "duplicate_page" if page in duplicates else _fault_of_page(pages, page, path, verify_md5)
        for word_id, text, box_text in words:
            fault = _fault_of_text(text) or reason
            box = parse_box(box_text)
            if fault or box is None:
                yield DroppedWord(source_id=word_id, reason=fault or "bad_box")
                continue
            yield RawWord(
                image=FileImage(path=path, box=box),
                text=text.strip(),
                writer=page,
                split=split,
                source_id=word_id,
                sources=(path, pages.files[page]),
            )
    for page in sorted(pages.without_words):
        yield DroppedWord(source_id=page, reason="no_annotations")
    for name in unlisted:
        yield DroppedWord(source_id=name, reason="unlisted_image")


def parse_box(value: object) -> tuple[float, float, float, float, float] | None:
    """(x_center, y_center, width, height, angle) of a ``bounding_box``, which is JSON in a string.

    Returns:
        Pixels and degrees counter-clockwise on screen; None if these are not five finite numbers, or a side
        is under one pixel or over ``MAX_SIDE``.
    """
    try:
        numbers = json.loads(value) if isinstance(value, str) else value
        box = tuple(float(number) for number in numbers)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
    if len(box) != 5 or not all(math.isfinite(number) for number in box):
        return None
    return box if all(1 <= side <= MAX_SIDE for side in box[2:4]) else None


def _fault_of_page(pages: _Pages, page: str, path: Path | None, verify_md5: bool) -> str | None:
    """Why none of a page's words can be used, or None."""
    if pages.splits and page not in pages.splits:
        return "not_in_split"
    if path is None:
        return "no_image"
    is_other = verify_md5 and page in pages.hashes and _md5(path) != pages.hashes[page]
    return "md5_mismatch" if is_other else None


def _fault_of_text(text: object) -> str | None:
    """Why a word can't be used for its text alone, or None."""
    if not isinstance(text, str):
        return "bad_row"
    if not text.strip():
        return "empty_text"
    return "unannotated" if text.strip() == NOT_ANNOTATED else None


def _find_info(dataset_path: Path) -> dict[str, Path]:
    """The annotation files by name; the first of each from the top counts."""
    known = {*_ANNOTATIONS, *_SPLIT_LISTS, _DATA_LIST, _HASH_LIST}
    info: dict[str, Path] = {}
    for folder, _, files in walk(dataset_path):
        for name in known.intersection(files):
            info.setdefault(name, folder / name)
    return info


def _find_images(pages: _Pages, root: Path) -> tuple[dict[str, Path], list[str]]:
    """The files of pages below a folder, by page; and the names of the images beside them that no annotation
    knows.
    """
    wanted = {name: page for page, name in pages.image_names.items()}
    paths: dict[str, Path] = {}
    unlisted: list[str] = []
    for folder, _, files in walk(root):
        here = [name for name in files if name in wanted]
        paths |= {wanted[name]: folder / name for name in here}
        if here:
            unlisted += [
                name for name in files if name not in wanted and Path(name).suffix.lower() in IMAGE_SUFFIXES
            ]
    return paths, unlisted


def _read_pages(info: dict[str, Path]) -> _Pages:
    """Read everything; json files first, then imgur5k_data.lst for pages that they lack."""
    pages = _Pages()
    for name in (name for name in _ANNOTATIONS if name in info):
        _add_json(pages, info[name], _ANNOTATIONS[name] if _has_no_list(info, _ANNOTATIONS[name]) else None)
    if _DATA_LIST in info:
        _add_data_list(pages, info[_DATA_LIST])
    for line in read_lines(info[_HASH_LIST]) if _HASH_LIST in info else ():
        parts = line.split()
        if len(parts) == 2:
            pages.hashes.setdefault(parts[0], parts[1])
    for name in (name for name in _SPLIT_LISTS if name in info):
        for page in (line.strip() for line in read_lines(info[name])):
            if page in pages.words:
                pages.put_in_split(page, _SPLIT_LISTS[name])
            elif page:
                pages.without_words.add(page)
    return pages


def _has_no_list(info: dict[str, Path], split: str | None) -> bool:
    """True if no list of ids says what the split holds."""
    return f"{split}_index_ids.lst" not in info


def _add_json(pages: _Pages, path: Path, split: str | None) -> None:
    """Add the pages of an annotation json; a page known already keeps its words."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        index, words_of_page, words = values["index_id"], values["index_to_ann_map"], values["ann_id"]
        for page, word_ids in words_of_page.items():
            if split:
                pages.put_in_split(page, split)
            if page in pages.words:
                continue
            entry = index.get(page) or {}
            pages.image_names[page] = Path(entry.get("image_path") or f"{page}.jpg").name
            if isinstance(entry.get("image_hash"), str):
                pages.hashes[page] = entry["image_hash"]
            pages.words[page] = []
            for word_id in word_ids:
                word = words.get(word_id) or {}
                pages.words[page].append((word_id, word.get("word"), word.get("bounding_box")))
            pages.files[page] = path
    except RecursionError as error:
        raise UserError(f"{path}: JSON that is nested too deeply") from error
    except ValueError as error:  # bytes that are no text, too
        raise UserError(f"{path}: not JSON ({error})") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: expected the keys index_id, index_to_ann_map and ann_id of IMGUR5K ({error!r})"
        ) from error


def _add_data_list(pages: _Pages, path: Path) -> None:
    """Add the pages that imgur5k_data.lst has and no json: rows of url, box and word, parted by tabs.

    The published downloader makes the json files of it at its very end, and stops short with a recent NumPy.
    """
    added: dict[str, list[tuple[str, object, object]]] = {}
    for line in read_lines(path):
        url, *rest = line.split("\t", 2)
        page = Path(url.strip()).stem
        if not page or page in pages.words:
            continue
        words = added.setdefault(page, [])
        box, text = rest if len(rest) == 2 else (None, None)
        words.append((f"{page}_{len(words)}", text, box))
    pages.words |= added
    pages.image_names |= {page: f"{page}.jpg" for page in added}
    pages.files |= dict.fromkeys(added, path)


def _find_duplicates(pages: _Pages) -> set[str]:
    """Pages whose image is also in a split that goes before theirs: one image belongs to one split."""
    best: dict[str, str] = {}
    for page, split in pages.splits.items():
        if page in pages.hashes:
            known = best.get(pages.hashes[page], split)
            best[pages.hashes[page]] = min(known, split, key=PRIORITY.index)
    return {
        page
        for page, split in pages.splits.items()
        if page in pages.hashes and best[pages.hashes[page]] != split
    }


def _md5(path: Path) -> str:
    """The MD5 of a file's content, in hexadecimal."""
    return hashlib.md5(path.read_bytes()).hexdigest()
