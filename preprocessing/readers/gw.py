"""Reader for the George Washington letters: washingtondb-v1.0 (Fischer 2012), and its keyword spotting copy.

In washingtondb-v1.0 words are pictures named PAGE-LINE-WORD and word_labels.txt spells them. The copy has
page pictures, svg files with a polygon a word, and word spellings in a transcription.txt, which is the name
of washingtondb's file of lines; what a file holds is told from its ids, not from its name.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from preprocessing.raw_word import DroppedWord, FileImage, PolygonImage, RawWord
from preprocessing.readers.search import first_lines, read_lines, walk
from preprocessing.readers.split_lists import SplitLists, read_split_lists
from utils.errors import UserError

WRITER = "gw"
DEFAULT_FOLD = "cv1"
_WORD_ID = re.compile(r"\d{3}-\d{2}-\d{2}")
_LINE_ID = re.compile(r"\d{3}-\d{2}")
_ANY_ID = r"\d{3}(?:-\d{2}){0,2}"
_LABEL_FILES = ("word_labels.txt", "transcription.txt")
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_SVG_PATH = re.compile(r"<path\b[^>]*>")
# The spellings of what is no single letter. s_mi is both the hyphen at a line's end and the dash; s_s is the
# long s.
TOKENS = {
    "s_pt": ".",
    "s_cm": ",",
    "s_mi": "-",
    "s_sq": ";",
    "s_qo": ":",
    "s_qt": "'",
    "s_bl": "(",
    "s_br": ")",
    "s_et": "&",
    "s_lb": "£",
    "s_sl": "/",
    "s_GW": "G.W.",
    "s_s": "s",
}
_NUMBER = re.compile(r"s_(\d|\d+(?:st|nd|rd|th|d))")


@dataclass(kw_only=True)
class _Layout:
    """Where the parts of the data set lie; folds by name, images by word id or line id, pages and their svg
    files by page number.
    """

    words: Path | None = None
    lines: Path | None = None
    sets: Path | None = None
    folds: set[str] = field(default_factory=set)
    images: dict[str, Path] = field(default_factory=dict)
    pages: dict[str, Path] = field(default_factory=dict)
    polygons: dict[str, Path] = field(default_factory=dict)


def recognises(dataset_path: Path) -> bool:
    """True if there is a word_labels.txt or transcription.txt whose first row has an id such as 270-01 or
    270-01-01.
    """
    layout = _find(dataset_path, "")
    return (layout.words or layout.lines) is not None


def iter_words(
    dataset_path: Path, *, unit: str = "word", fold: str = DEFAULT_FOLD, writer_from: str = "dataset"
) -> Iterator[RawWord | DroppedWord]:
    """Yield the words, or the lines, in the order of their labels.

    Args:
        dataset_path: a folder with the label file and the images anywhere below.
        unit: ``word``, or ``line``, which washingtondb alone has.
        fold: the folder of ``sets`` whose lists are the splits; without sets, no word has a split.
        writer_from: ``dataset`` (one writer, ``gw``) or ``page`` (the page's number); no list of
            the writers is published.
    Raises:
        FileNotFoundError: if there are no labels.
        UserError: if only the other unit is labelled, a spelling holds an unknown token, or there are sets
            but not of this fold.
    """
    layout = _find(dataset_path, fold)
    _check_layout(layout, dataset_path, fold, unit)
    labels, pattern = (layout.lines, _LINE_ID) if unit == "line" else (layout.words, _WORD_ID)
    lists = read_split_lists(layout.sets, _ANY_ID, flag="--fold") if layout.sets else SplitLists()
    whole = {word_id: FileImage(path=path) for word_id, path in layout.images.items()}
    images: dict[str, PolygonImage | FileImage] = {**_polygon_images(layout), **whole}
    svg_files = {layout.pages[page]: (svg,) for page, svg in layout.polygons.items() if page in layout.pages}
    seen = set()
    for number, line in enumerate(read_lines(labels), start=1):
        if not line.strip():
            continue
        word_id, _, spelling = line.strip().partition(" ")
        if not pattern.fullmatch(word_id) or not spelling.strip() or word_id in seen:
            yield DroppedWord(source_id=word_id, reason="bad_row")
            continue
        seen.add(word_id)
        try:
            text = " ".join(read_spelling(word) for word in spelling.strip().split("|") if word)
        except ValueError as error:
            raise UserError(f"{labels} line {number}: {error}") from error
        split = lists.split_of(word_id)
        image = images.get(word_id)
        if layout.sets and split is None:
            yield DroppedWord(source_id=word_id, reason="not_in_split")
        elif image is None:
            yield DroppedWord(source_id=word_id, reason="no_image")
        else:
            yield RawWord(
                image=image,
                text=text,
                writer=word_id.split("-")[0] if writer_from == "page" else WRITER,
                split=split,
                source_id=word_id,
                sources=(image.path, *svg_files.get(image.path, ())),
            )


def _check_layout(layout: _Layout, dataset_path: Path, fold: str, unit: str) -> None:
    """Raise an error if no words (lines) are labelled, or the fold is not there."""
    if unit == "line" and layout.lines is None:
        found = f" {layout.words.name} labels words: give --unit word." if layout.words else ""
        raise FileNotFoundError(
            f"--dataset_path {dataset_path}: no transcription.txt of washingtondb-v1.0 with the ids of lines,"
            f" such as 270-01, in it or below.{found}"
        )
    if unit == "word" and layout.words is None:
        if layout.lines is not None:
            raise UserError(
                f"--dataset_path {dataset_path}: {layout.lines.name} labels lines. Words need word_labels.txt"
                " (ids such as 270-01-01) of washingtondb-v1.0, beside its word images; --unit line takes"
                " the lines."
            )
        raise FileNotFoundError(
            f"--dataset_path {dataset_path}: no word_labels.txt of washingtondb-v1.0 (or a transcription.txt"
            " with ids such as 270-01-01) in it or below"
        )
    if layout.sets is None and layout.folds:
        raise UserError(f"--fold {fold}: no such folder in sets; there is {', '.join(sorted(layout.folds))}")
    if layout.sets is None and fold != DEFAULT_FOLD:
        raise UserError(f"--fold {fold}: this copy has no folder sets/{fold}, so it changes nothing")


def read_spelling(spelling: str) -> str:
    """The text of a spelling such as ``L-e-t-t-e-r-s-s_cm``.

    Raises:
        ValueError: if a token is neither one character nor a known ``s_`` name.
    """
    text = ""
    for token in spelling.split("-"):
        if len(token) == 1:
            text += token
        elif token in TOKENS:
            text += TOKENS[token]
        elif match := _NUMBER.fullmatch(token):
            text += match[1]
        else:
            known = ", ".join(TOKENS)
            raise UserError(
                f"unknown token {token!r} in {spelling!r}. Known are single characters, s_0 to s_9, "
                f"s_1st and the like, {known}."
            )
    return text


def _find(dataset_path: Path, fold: str) -> _Layout:
    """Search the folder for the parts of the data set; the first of each kind from the top counts."""
    layout = _Layout()
    for folder, _, files in walk(dataset_path):
        for name in files:
            stem, _, suffix = name.rpartition(".")
            if f".{suffix.lower()}" in _IMAGE_SUFFIXES:
                if _WORD_ID.fullmatch(stem) or _LINE_ID.fullmatch(stem):
                    layout.images.setdefault(stem, folder / name)
                elif re.fullmatch(r"\d{3}", stem):
                    layout.pages.setdefault(stem, folder / name)
            elif suffix == "svg" and re.fullmatch(r"\d{3}", stem):
                layout.polygons.setdefault(stem, folder / name)
        for name in (name for name in _LABEL_FILES if name in files):
            ids = [line.split()[0] for line in first_lines(folder / name)]
            if any(map(_WORD_ID.fullmatch, ids)):
                layout.words = layout.words or folder / name
            elif any(map(_LINE_ID.fullmatch, ids)):
                layout.lines = layout.lines or folder / name
        if folder.parent.name == "sets" and re.fullmatch(r"cv\d", folder.name):
            layout.folds.add(folder.name)
            if folder.name == fold:
                layout.sets = layout.sets or folder
    return layout


def _polygon_images(layout: _Layout) -> dict[str, PolygonImage]:
    """The words that svg files outline on page pictures: ``<path d="M x y L x y ... Z" id="270-01-01"
    .../>``.
    """
    images: dict[str, PolygonImage] = {}
    for page, svg in layout.polygons.items():
        if page not in layout.pages:
            continue
        for element in _SVG_PATH.findall(svg.read_text(encoding="utf-8", errors="replace")):
            word_id, outline = re.search(r'\bid="([^"]*)"', element), re.search(r'\bd="([^"]*)"', element)
            if word_id and outline:
                numbers = [float(value) for value in re.findall(r"-?\d+(?:\.\d+)?", outline[1])]
                is_whole = len(numbers) % 2 == 0  # else a coordinate is lost, and no point is sure
                points = tuple(zip(numbers[::2], numbers[1::2], strict=True)) if is_whole else ()
                images[word_id[1]] = PolygonImage(path=layout.pages[page], points=points)
    return images
