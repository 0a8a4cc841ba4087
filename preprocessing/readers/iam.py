"""Reader for the IAM handwriting database (Marti & Bunke 2002): words.txt or lines.txt, forms.txt, and the
images of words or of lines.

Format and traps: the rows have nine fields, of which the last may hold spaces (the file's own header says
    otherwise).
Folders are found wherever they lie: ``words/a01`` beside ``ascii/words.txt``, ``img/a01`` beside
``gt/words.txt``, ``a01`` beside ``words.txt``. Images of lines are found by their names alone.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from preprocessing.raw_word import DroppedWord, FileImage, RawWord
from preprocessing.readers.search import IMAGE_SUFFIXES, first_lines, read_lines, walk
from preprocessing.readers.split_lists import SplitLists, read_split_lists
from utils.errors import UserError

_FORM = r"[a-z]\d{2}-\d{3}[a-z]?"
_WORD_ID = re.compile(rf"{_FORM}-\d{{2,3}}-\d{{2,3}}")
_LINE_ID = re.compile(rf"{_FORM}-\d{{2,3}}")
_ANY_ID = rf"{_FORM}(?:-\d{{2,3}}){{0,2}}"
_GROUP = re.compile(r"[a-z]\d{2}")
STRUCK_OUT = "#"


@dataclass(kw_only=True)
class _Layout:
    """Where the parts of the data set lie; ``images`` are the folders of words that hold ``a01`` and so on,
    ``line_images`` the pictures of lines by id.
    """

    words: Path | None = None
    lines: Path | None = None
    forms: Path | None = None
    xml: Path | None = None
    images: list[Path] = field(default_factory=list)
    line_images: dict[str, Path] = field(default_factory=dict)


def recognises(dataset_path: Path) -> bool:
    """True if there is a words.txt or a lines.txt with rows of IAM's."""
    layout = _find(dataset_path)
    return (layout.words or layout.lines) is not None


def iter_words(
    dataset_path: Path,
    *,
    unit: str = "word",
    splits: Path | None = None,
    segmentation: str | None = None,
    writer_from: str = "dataset",
    drop_lines_with: str = "",
) -> Iterator[RawWord | DroppedWord]:
    """Yield the words of words.txt, or the lines of lines.txt, in their order.

    Args:
        dataset_path: a folder with words.txt (lines.txt), forms.txt (or xml) and the images anywhere below.
        unit: ``word`` or ``line``. A line's words, and its punctuation marks, have spaces between them, as in
            published evaluations.
        splits: split lists as ``read_split_lists`` takes them; what is in none is dropped.
        segmentation: ``ok`` drops what is marked ``err``, ``all`` keeps it. The mark is about how words were
            cut, so that by default it counts for words alone: lines marked ``err`` are whole.
        drop_lines_with: characters; an image whose text holds one of them is dropped.
        writer_from: ``dataset`` (forms.txt, the xml files, or GANwriting's lists) or ``page``: each form is a
            writer of its own, for copies that lack all of these.
    Raises:
        FileNotFoundError: if words.txt (lines.txt), or the writers' table, or ``splits`` can't be found.
        UserError: if ``splits`` can't be understood, or lists words where lines are asked.
    """
    layout = _find(dataset_path, unit)
    labels = layout.lines if unit == "line" else layout.words
    if labels is None:
        other = layout.words or layout.lines
        raise FileNotFoundError(
            f"--dataset_path {dataset_path}: no {unit}s.txt of IAM (in ascii.tgz) in it or below"
            + (f". There is {other.name}: give --unit {other.stem.removesuffix('s')}." if other else "")
        )
    lists = read_split_lists(splits, _ANY_ID) if splits else SplitLists()
    if unit == "line" and any(map(_WORD_ID.fullmatch, lists.splits)):
        raise UserError(f"--splits {splits}: lists words. --unit line needs lists of lines or of forms.")
    keeps_err = (segmentation or ("all" if unit == "line" else "ok")) == "all"
    writers = _Writers(layout, lists, dataset_path) if writer_from == "dataset" else None
    listings: dict[Path, frozenset[str]] = {}
    seen: set[str] = set()
    for number, line in enumerate(read_lines(labels), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        row = parse_row(line, unit)
        if row is None or row[0] in seen:
            yield DroppedWord(source_id=f"{labels.name}:{number}", reason="bad_row")
            continue
        word_id, is_ok, text = row
        seen.add(word_id)
        form = "-".join(word_id.split("-")[:2])
        split = lists.split_of(word_id)
        writer = writers.of(form) if writers else form
        image = layout.line_images.get(word_id) or _image_path(word_id, form, layout.images, listings)
        faults = {
            "err_segmentation": not (is_ok or keeps_err),
            "unannotated": text == STRUCK_OUT,
            "marked": bool(set(drop_lines_with) & set(text)),
            "not_in_split": splits and split is None,
            "unknown_writer": writer is None,
            "no_image": image is None,
        }
        if any(faults.values()):
            yield DroppedWord(source_id=word_id, reason=next(name for name in faults if faults[name]))
        else:
            yield _raw_word(word_id, text, writer, split, image)


def _raw_word(word_id: str, text: str, writer: str, split: str | None, path: Path) -> RawWord:
    image = FileImage(path=path)
    return RawWord(image=image, text=text, writer=writer, split=split, source_id=word_id, sources=(path,))


def parse_row(line: str, unit: str = "word") -> tuple[str, bool, str] | None:
    """Id, whether the segmentation is ok, and text of a row of words.txt or lines.txt; None if it is not one.

    Nine fields parted by single spaces. Words: id, ok|err, grey level, x, y, width, height (or four times
    -1), grammatical tag, text; the text may hold spaces. Lines have a count of components before x and no
    tag; ``|`` parts the words of their text, and becomes a space.
    """
    parts = line.split(" ", 8)
    pattern, numbers = (_LINE_ID, parts[2:8]) if unit == "line" else (_WORD_ID, parts[2:7])
    if (
        len(parts) != 9
        or not pattern.fullmatch(parts[0])
        or parts[1] not in ("ok", "err")
        or "\ufffd" in line
        or not all(re.fullmatch(r"-?\d+", value) for value in numbers)
    ):
        return None
    text = parts[8].replace("|", " ") if unit == "line" else parts[8]
    return parts[0], parts[1] == "ok", text.strip()


def _is_line_row(line: str) -> bool:
    return parse_row(line, "line") is not None


class _Writers:
    """Writers of forms: from forms.txt, else from the forms' xml files, else from the split lists."""

    def __init__(self, layout: _Layout, lists: SplitLists, dataset_path: Path) -> None:
        if layout.forms is None and layout.xml is None and not lists.writers:
            raise FileNotFoundError(
                f"--dataset_path {dataset_path}: words.txt is there, but neither forms.txt (in ascii.tgz) nor"
                " xml/<form>.xml (xml.tgz), which say who wrote a form. Put one of them into the folder, or"
                " give --writer_from page: each form counts as a writer of its own then."
            )
        self._xml = layout.xml
        self._known: dict[str, str | None] = dict(lists.writers)
        for line in read_lines(layout.forms) if layout.forms else ():
            parts = line.split()
            if len(parts) >= 2 and re.fullmatch(_FORM, parts[0]) and parts[1].isdigit():
                self._known[parts[0]] = parts[1].zfill(3)

    def of(self, form: str) -> str | None:
        """The form's writer as a string of three digits; None if nothing names one."""
        if form not in self._known:
            self._known[form] = _writer_in_xml(self._xml / f"{form}.xml") if self._xml else None
        return self._known[form]


def _writer_in_xml(path: Path) -> str | None:
    """The ``writer-id`` of a form's file, read from its first element alone; None if it can't be read."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            _, root = next(ElementTree.iterparse(file, events=("start",)))
    # LookupError and ValueError: encodings that the parser does not know.
    except (OSError, ElementTree.ParseError, StopIteration, LookupError, ValueError):
        return None
    writer = root.get("writer-id")
    return writer.zfill(3) if writer else None


def _image_path(
    word_id: str, form: str, roots: list[Path], listings: dict[Path, frozenset[str]]
) -> Path | None:
    """The word's image; each form's folder is listed once, which is much cheaper than asking for each
    file.
    """
    name = f"{word_id}.png"
    for root in roots:
        folder = root / form[:3] / form
        if folder not in listings:
            listings[folder] = (
                frozenset(path.name for path in folder.iterdir()) if folder.is_dir() else frozenset()
            )
        if name in listings[folder]:
            return folder / name
    return None


def _find(dataset_path: Path, unit: str | None = None) -> _Layout:
    """Search the folder for the parts of the data set, and for the images of ``unit`` if there is one; the
    first of each kind from the top counts.
    """
    layout = _Layout()
    for folder, folders, files in walk(dataset_path):
        if unit == "line":
            for name in files:
                stem = _line_stem(name)
                if stem:
                    layout.line_images.setdefault(stem, folder / name)
        else:
            groups = [name for name in folders if _GROUP.fullmatch(name) and _is_group(folder / name)]
            if unit and groups and _holds_words(folder, groups):
                layout.images.append(folder)
            folders[:] = [name for name in folders if name not in groups]
        for name, is_row in (("words", parse_row), ("lines", _is_line_row)):
            path = folder / f"{name}.txt"
            if getattr(layout, name) is None and path.name in files and any(map(is_row, first_lines(path))):
                setattr(layout, name, path)
        if layout.forms is None and "forms.txt" in files and _is_forms_table(folder / "forms.txt"):
            layout.forms = folder / "forms.txt"
        if layout.xml is None and any(re.fullmatch(rf"{_FORM}\.xml", name) for name in files):
            layout.xml = folder
    return layout


def _line_stem(name: str) -> str | None:
    """The id of a line's picture by its file name; None for any other file."""
    stem, _, suffix = name.rpartition(".")
    return stem if _LINE_ID.fullmatch(stem) and f".{suffix.lower()}" in IMAGE_SUFFIXES else None


def _is_forms_table(path: Path) -> bool:
    """True if the file's rows begin with form ids."""
    return any(re.fullmatch(_FORM, line.split()[0]) for line in first_lines(path))


def _is_group(folder: Path) -> bool:
    """True for a folder such as ``a01`` that holds ``a01-000u`` and so on."""
    return any(path.name.startswith(f"{folder.name}-") for path in folder.iterdir())


def _holds_words(root: Path, groups: list[str]) -> bool:
    """True if there are images of words below: lines and whole forms come in folders of the same names, or in
    the same.
    """
    forms = (form for group in groups for form in sorted((root / group).iterdir()) if form.is_dir())
    return any(_WORD_ID.fullmatch(path.stem) for form in forms for path in form.iterdir())


def is_word_id(stem: str) -> bool:
    """True for the name of a word's image, such as ``a01-000u-00-00``."""
    return _WORD_ID.fullmatch(stem) is not None
