"""Reader for the George Washington letters: washingtondb-v1.0 (Fischer 2012), and its keyword spotting copy.

In washingtondb-v1.0 words are pictures named PAGE-LINE-WORD and word_labels.txt spells them. The copy has
page pictures, svg files with a polygon a word, and word spellings in a transcription.txt, which is the name
of washingtondb's file of lines; what a file holds is told from its ids, not from its name.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from preprocessing.raw_word import DroppedWord, FileImage, ImageSource, PolygonImage, RawWord
from preprocessing.readers.search import first_lines, read_lines, walk
from preprocessing.readers.split_lists import SplitLists, read_split_lists
from utils.errors import UserError

WRITER = "gw"
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


@dataclass
class _Places:
    """Where the parts of the data set lie; folds by name, images by word id, pages and their svg files by
    page number.
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
    places = _find(dataset_path, "")
    return (places.words or places.lines) is not None


def iter_words(
    dataset_path: Path, *, fold: str = "cv1", writer_from: str = "dataset"
) -> Iterator[RawWord | DroppedWord]:
    """Yield the words in the order of their labels.

    Args:
        dataset_path: a folder with the label file and the images anywhere below.
        fold: the folder of ``sets`` whose lists are the splits; where there are no sets, no word has a split.
        writer_from: ``dataset`` (one writer, ``gw``) or ``page`` (the page's number); no list of the hands is
            published.
    Raises:
        FileNotFoundError: if there are no labels.
        ValueError: if only lines are labelled, a spelling holds an unknown token, or there are sets but not
            of this fold.
    """
    places = _find(dataset_path, fold)
    if places.words is None:
        if places.lines is not None:
            raise UserError(
                f"--dataset_path {dataset_path}: {places.lines.name} labels lines. Words need word_labels.txt"
                " (ids such as 270-01-01) of washingtondb-v1.0, beside its word images."
            )
        raise FileNotFoundError(
            f"--dataset_path {dataset_path}: no word_labels.txt of washingtondb-v1.0 (or a transcription.txt"
            " with ids such as 270-01-01) in it or below"
        )
    if places.sets is None and places.folds:
        raise UserError(f"--fold {fold}: no such folder in sets; there is {', '.join(sorted(places.folds))}")
    lists = read_split_lists(places.sets, _ANY_ID, flag="--fold") if places.sets else SplitLists()
    images = _polygon_images(places) | places.images
    seen = set()
    for number, line in enumerate(read_lines(places.words), start=1):
        if not line.strip():
            continue
        word_id, _, spelling = line.strip().partition(" ")
        if not _WORD_ID.fullmatch(word_id) or not spelling.strip() or word_id in seen:
            yield DroppedWord(word_id, "bad_row")
            continue
        seen.add(word_id)
        try:
            text = read_spelling(spelling.strip())
        except ValueError as error:
            raise UserError(f"{places.words} line {number}: {error}") from error
        split = lists.split_of(word_id)
        image = images.get(word_id)
        if places.sets and split is None:
            yield DroppedWord(word_id, "not_in_split")
        elif image is None:
            yield DroppedWord(word_id, "no_image")
        else:
            source = FileImage(image) if isinstance(image, Path) else image
            yield RawWord(
                source, text, word_id.split("-")[0] if writer_from == "page" else WRITER, split, word_id
            )


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


def _find(dataset_path: Path, fold: str) -> _Places:
    """Search the folder for the parts of the data set; the first of each kind from the top counts."""
    places = _Places()
    for folder, _, files in walk(dataset_path):
        for name in files:
            stem, _, suffix = name.rpartition(".")
            if f".{suffix.lower()}" in _IMAGE_SUFFIXES:
                target = (
                    places.images
                    if _WORD_ID.fullmatch(stem)
                    else places.pages
                    if re.fullmatch(r"\d{3}", stem)
                    else {}
                )
                target.setdefault(stem, folder / name)
            elif suffix == "svg" and re.fullmatch(r"\d{3}", stem):
                places.polygons.setdefault(stem, folder / name)
        for name in (name for name in _LABEL_FILES if name in files):
            ids = [line.split()[0] for line in first_lines(folder / name)]
            if any(map(_WORD_ID.fullmatch, ids)):
                places.words = places.words or folder / name
            elif any(map(_LINE_ID.fullmatch, ids)):
                places.lines = places.lines or folder / name
        if folder.parent.name == "sets" and re.fullmatch(r"cv\d", folder.name):
            places.folds.add(folder.name)
            if folder.name == fold:
                places.sets = places.sets or folder
    return places


def _polygon_images(places: _Places) -> dict[str, ImageSource]:
    """The words that svg files outline on page pictures: ``<path d="M x y L x y ... Z" id="270-01-01"
    .../>``.
    """
    images: dict[str, ImageSource] = {}
    for page, svg in places.polygons.items():
        if page not in places.pages:
            continue
        for element in _SVG_PATH.findall(svg.read_text(encoding="utf-8", errors="replace")):
            word_id, outline = re.search(r'\bid="([^"]*)"', element), re.search(r'\bd="([^"]*)"', element)
            if word_id and outline:
                numbers = [float(value) for value in re.findall(r"-?\d+(?:\.\d+)?", outline[1])]
                images[word_id[1]] = PolygonImage(
                    places.pages[page], tuple(zip(numbers[::2], numbers[1::2], strict=True))
                )
    return images
