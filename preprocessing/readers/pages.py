"""Reader for transcribed pages: PAGE or ALTO files with their pictures, as Transkribus, eScriptorium, Loghi
and OCR-D write them.

The picture of a page is found by name anywhere below the folder, whatever path or address its file gives.
"""

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from preprocessing.lines import LineImage, PageLines
from preprocessing.raw_word import DroppedWord, RawWord
from preprocessing.readers.page_xml import (
    PageFileError,
    TranscribedLine,
    TranscribedPage,
    page_format,
    read_page,
)
from preprocessing.readers.search import IMAGE_SUFFIXES, walk
from utils.errors import UserError
from utils.line_shapes import LineShape

# A page's number at the end of a name, with what introduces it and a folio's side: "-3", "_0012", "_p4",
# "_f12v".
_PAGE_NUMBER = re.compile(r"[-_. ]+(?:p|page|f|fol|folio|s|seite|img|image)?[-_. ]*\d+[rv]?$", re.IGNORECASE)
TABLE_COLUMNS = ("page", "writer")


@lru_cache(maxsize=4)
def _find_files(dataset_path: Path) -> tuple[tuple[Path, ...], dict[str, list[Path]]]:
    """The PAGE and ALTO files below a folder, and its pictures by lower-case name and by lower-case stem."""
    pages, images = [], {}
    for folder, _, names in walk(dataset_path):
        for name in names:
            lower = name.lower()
            if lower.endswith(".xml"):
                if page_format(folder / name):
                    pages.append(folder / name)
            elif lower.endswith(IMAGE_SUFFIXES):
                for key in {lower, _stem(lower)}:
                    images.setdefault(key, []).append(folder / name)
    return tuple(pages), images


def recognises(dataset_path: Path) -> bool:
    """True if a PAGE or ALTO file lies anywhere below the folder."""
    return any(
        page_format(folder / name)
        for folder, _, names in walk(dataset_path)
        for name in names
        if name.lower().endswith(".xml")
    )


def iter_words(
    dataset_path: Path,
    *,
    unit: str = "line",
    writer_from: str = "dataset",
    writer_pattern: str | None = None,
    writer_table: Path | None = None,
    drop_lines_with: str = "",
) -> Iterator[RawWord | DroppedWord]:
    """Yield the lines (or words) of all pages, a page's lines after one another.

    Args:
        dataset_path: a folder with PAGE or ALTO files and pictures anywhere below.
        unit: ``line``, or ``word`` where the files outline words one by one.
        writer_from: whose hand a page is: ``dataset`` (each document one hand; a document is what its pages'
            names share before the last number), ``folder`` (of the file; its parent's where a folder is
            called page, alto and the like) or ``page``.
        writer_pattern: a regular expression that is sought in a page's path below ``dataset_path``; its first
            group (or all that it matches) is the writer. Wins over ``writer_from``; where it is not found,
            the line is dropped.
        writer_table: a CSV or TSV file with the columns page and writer; a page is a file's name without its
            ending. Wins over both.
        drop_lines_with: characters; a line whose text holds one of them is dropped.
    Raises:
        FileNotFoundError: if there is neither PAGE nor ALTO, or no ``writer_table``.
        UserError: if ``writer_pattern`` or ``writer_table`` can't be understood, or no file has words and
            words are asked.
    """
    writer_of = _choose_writers(dataset_path, writer_from, writer_pattern, writer_table)
    taken: set[Path] = set()
    has_lines = has_words = False
    for found in iter_pages(dataset_path):
        if isinstance(found, DroppedWord):
            yield found
            continue
        found = replace(found, writer=writer_of(found.file))
        has_lines |= bool(found.page.lines)
        has_words |= any(_separate_words(line) for line in found.page.lines)
        yield from _page_items(found, unit, set(drop_lines_with), found.image in taken)
        taken |= {found.image} if found.image else set()
    if unit == "word" and has_lines and not has_words:
        raise UserError(
            f"--unit word: no file in --dataset_path {dataset_path} outlines single words. Take --unit line."
        )


@dataclass(frozen=True, kw_only=True)
class FoundPage:
    """A page that was read from a file, its picture and its writer (None: not known)."""

    page: TranscribedPage
    file: Path
    page_id: str
    image: Path | None
    writer: str | None = None


def iter_pages(dataset_path: Path) -> Iterator[FoundPage | DroppedWord]:
    """The pages of all PAGE and ALTO files below a folder; one that can't be read is dropped (``bad_xml``).

    A page that lies there in both formats comes first from its PAGE file, which says more.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    files, images = _find_files(dataset_path)
    if not files:
        raise FileNotFoundError(f"--dataset_path {dataset_path}: no PAGE or ALTO file (.xml) in it or below")
    ids = dict(zip(files, _page_ids([path.relative_to(dataset_path) for path in files]), strict=True))
    for path in sorted(files, key=lambda path: page_format(path) != "PAGE"):
        try:
            page = read_page(path)
        except (PageFileError, OSError):
            yield DroppedWord(source_id=ids[path], reason="bad_xml")
            continue
        yield FoundPage(page=page, file=path, page_id=ids[path], image=_find_image(path, page, images))


def _page_items(
    found: FoundPage, unit: str, marks: set[str], is_duplicate: bool
) -> Iterator[RawWord | DroppedWord]:
    """A page's lines or words; those of a page that was read before are left out."""
    parts = [(line, line) for line in found.page.lines]
    if unit == "word":
        parts = [(word, line) for line in found.page.lines for word in _separate_words(line) or (line,)]
    shapes = tuple(
        LineShape(polygon=part.polygon, baseline=part.baseline or line.baseline) for part, line in parts
    )
    place = (
        PageLines(path=found.image, size=(found.page.width, found.page.height), shapes=shapes)
        if found.image
        else None
    )
    for number, (part, line) in enumerate(parts):
        source_id = f"{found.page_id}-{part.line_id or number}"
        reason = None
        if is_duplicate:
            reason = "duplicate_page"
        elif unit == "word" and part is line and line.text.strip():
            reason = "no_words"
        elif not part.text.strip():
            reason = "empty_text"
        elif part.is_struck_out or (line.is_struck_out and part is not line):
            reason = "struck_out"
        elif marks & set(part.text):
            reason = "marked"
        elif place is None:
            reason = "no_image"
        elif found.writer is None:
            reason = "unknown_writer"
        if reason:
            yield DroppedWord(source_id=source_id, reason=reason)
        else:
            yield RawWord(
                image=LineImage(page=place, number=number),
                text=part.text,
                writer=found.writer,
                split=None,
                source_id=source_id,
                sources=(found.image, found.file),
                page=found.page_id,
            )


def _separate_words(line: TranscribedLine) -> tuple[TranscribedLine, ...]:
    """A line's words where the file outlines each: several, or one that is all of a line without spaces."""
    words = tuple(word for word in line.words if word.text.strip())
    if (
        not words
        or any(not word.polygon for word in words)
        or any(" " in word.text.strip() for word in words)
    ):
        return ()
    return words


def _find_image(path: Path, page: TranscribedPage, images: dict[str, list[Path]]) -> Path | None:
    """A page's picture: named as its file says, with any ending, or named as the file; of several the
    nearest.
    """
    named = PurePosixPath(unquote(page.image_name.split("?")[0]).replace("\\", "/")).name.lower()
    own = path.name.lower().removesuffix(".xml")
    for key in (named, _stem(named), own, _stem(own)):
        if candidates := images.get(key) if key else None:
            return min(candidates, key=lambda image: (_steps(path.parent, image.parent), str(image)))
    return None


def _steps(first: Path, second: Path) -> int:
    """How many steps lead from one folder to another."""
    shared = 0
    for a, b in zip(first.parts, second.parts, strict=False):
        if a != b:
            break
        shared += 1
    return len(first.parts) + len(second.parts) - 2 * shared


def _stem(name: str) -> str:
    """A name without its ending, where that is a picture's; names have dots of their own."""
    suffix = next((suffix for suffix in IMAGE_SUFFIXES if name.endswith(suffix)), "")
    return name.removesuffix(suffix)


def _page_ids(paths: list[Path]) -> list[str]:
    """Names without endings; where two are the same, paths joined by dashes for these."""
    stems = [_stem(path.name[:-4].lower()) and path.name[:-4] for path in paths]
    lowered = [stem.lower() for stem in stems]
    return [
        stem if lowered.count(stem.lower()) == 1 else "-".join((*path.parent.parts, stem))
        for path, stem in zip(paths, stems, strict=True)
    ]


def document_of(page: str) -> str:
    """What a page's name says of its document: all before the last number, if a number is still in it.

    ``wikitexte_0066_1`` belongs to ``wikitexte_0066``, and ``will_0005-0`` to ``will_0005``; ``text_0066``
    has one number alone and is its own document.
    """
    rest = _PAGE_NUMBER.sub("", page)
    return rest if re.search(r"\d", rest) else page


def _choose_writers(
    dataset_path: Path, writer_from: str, writer_pattern: str | None, writer_table: Path | None
) -> Callable[[Path], str | None]:
    """The function that says who wrote the page of a file."""
    if writer_table is not None:
        table = _read_writer_table(writer_table)
        return lambda path: table.get(path.name[:-4].lower())
    if writer_pattern is not None:
        try:
            pattern = re.compile(writer_pattern)
        except re.error as error:
            raise UserError(f"--writer_pattern {writer_pattern}: no regular expression ({error})") from error

        def match_writer(path: Path) -> str | None:
            match = pattern.search(path.relative_to(dataset_path).with_suffix("").as_posix())
            return (match[1] if pattern.groups else match[0]) or None if match else None

        return match_writer
    if writer_from == "page":
        return lambda path: path.name[:-4]
    if writer_from == "folder":
        return lambda path: _named_folder(path.parent, dataset_path)
    return lambda path: document_of(path.name[:-4])


def _named_folder(folder: Path, dataset_path: Path) -> str:
    """The folder's name; its parent's where it only says of which format its files are."""
    while folder != dataset_path and folder.name.lower() in ("page", "alto", "xml", "pagexml", "page_xml"):
        folder = folder.parent
    return folder.resolve().name


def _read_writer_table(path: Path) -> dict[str, str]:
    """Writers by lower-case page name.

    Raises:
        UserError: if it is not UTF-8 or lacks a column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"--writer_table {path}: not UTF-8 ({error})") from error
    except OSError as error:
        raise FileNotFoundError(f"--writer_table {path}: no such file") from error
    head = text.partition("\n")[0]
    delimiter = max("\t;,", key=head.count)
    rows = list(csv.DictReader(text.splitlines(), delimiter=delimiter))
    if not rows or not set(TABLE_COLUMNS) <= {(key or "").strip() for key in rows[0]}:
        raise UserError(
            f"--writer_table {path}: needs the columns page and writer; its first row is {head.strip()!r}"
        )
    table = {}
    for row in rows:
        values = {(key or "").strip(): (value or "").strip() for key, value in row.items() if key is not None}
        page = PurePosixPath(values["page"].replace("\\", "/")).name.lower().removesuffix(".xml")
        if page and values["writer"]:
            table[_stem(page)] = values["writer"]
    return table
