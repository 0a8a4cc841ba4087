"""Reader for one's own text images: any folder with a CSV, TSV or JSONL table that says what each image
holds.

Known with no flag: DHSD (``train.csv``/``test.csv`` with ``file_name,text,writer_id``) and the Hugging Face
ImageFolder convention (``metadata.jsonl`` or ``metadata.csv``).
"""

import errno
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from preprocessing.raw_word import DroppedWord, FileImage, RawWord
from preprocessing.readers.search import IMAGE_SUFFIXES, ids_of_paths, walk
from preprocessing.readers.table_rows import TABLE_SUFFIXES, Table, TableRow, read_table
from utils.errors import UserError

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
IMAGE_COLUMNS = ("file_name", "filename", "image", "image_path", "path", "file", "img")
TEXT_COLUMNS = ("text", "label", "transcription", "word", "words", "ground_truth", "gt")
WRITER_COLUMNS = ("writer", "writer_id", "author", "hand", "scribe", "style")
SPLIT_COLUMNS = ("split", "set", "subset", "partition")
DEFAULT_WRITER = "me"
HEAD_ROWS = 100  # that say whether a file is a table of text images
HEAD_BYTES = 65_536  # that are searched for names of image files


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The names of a table's columns; given by flags (None: to be found), or chosen (None: there is none)."""

    image: str | None = None
    text: str | None = None
    writer: str | None = None
    split: str | None = None


def recognises(dataset_path: Path) -> bool:
    """True if the folder holds a table (or several) whose columns name an image and a text."""
    try:
        return bool(_find_tables(dataset_path))
    except UserError:
        return True  # several tables contend: iter_words says so and asks for --table


def iter_words(
    dataset_path: Path,
    *,
    table: Path | None = None,
    image_column: str | None = None,
    text_column: str | None = None,
    writer_column: str | None = None,
    split_column: str | None = None,
    writer: str = DEFAULT_WRITER,
) -> Iterator[RawWord | DroppedWord]:
    """Yield the text images of a table.

    Args:
        dataset_path: the folder that image paths are relative to (an image is also looked for beside its
            table).
        table: the table's file; by default ``train/val/test`` tables if there are any, else the only table
            there is.
        image_column, text_column, writer_column, split_column: column names; usual names are found without.
        writer: the writer of rows that name none.
    Raises:
        FileNotFoundError: if there is no table.
        UserError: if a column is missing or there twice, a split unknown, two tables contend, or ``writer``
            is given and every row names one; the message lists what there is.
    """
    paths = [(table, SPLIT_NAMES.get(table.stem.lower()))] if table else _find_tables(dataset_path)
    if not paths:
        reasons = "".join(f"\n  {path}: {reason}" for path, reason in list_refused(dataset_path)[:5])
        raise FileNotFoundError(
            f"--dataset_path {dataset_path}: no CSV, TSV or JSONL table with an image and a text column. "
            f"Name it with --table, and its columns with --image_column and --text_column.{reasons}"
        )
    given = Columns(image=image_column, text=text_column, writer=writer_column, split=split_column)
    entries: list[tuple[Path, str | None, TableRow, Columns]] = []
    for path, split in paths:
        content = read_table(path)
        columns = choose_columns(path, content, given)
        columns = replace(columns, split=_check_splits(path, content, columns.split, given.split))
        entries += [(path, split, row, columns) for row in content.rows]
    if writer != DEFAULT_WRITER and entries and not any(_lacks_writer(row, of) for _, _, row, of in entries):
        raise UserError(f"--writer {writer}: every row of the table names its own writer. Leave it out.")
    names = [_name_of(row, columns) for _, _, row, columns in entries]
    for (path, split, row, columns), source_id in zip(entries, ids_of_paths(names), strict=True):
        yield _read_row(path, row, columns, split, source_id, dataset_path, writer)


def _read_row(
    path: Path,
    row: TableRow,
    columns: Columns,
    split: str | None,
    source_id: str,
    dataset_path: Path,
    writer: str,
) -> RawWord | DroppedWord:
    """One row as a text image, or the reason why it is none."""
    values = row.values or {}
    name = values.get(columns.image)
    if row.values is None or not isinstance(name, str) or not name.strip():
        return DroppedWord(source_id=f"{path.name}:{row.line}", reason="bad_row")
    text, row_writer = values.get(columns.text), values.get(columns.writer)
    if _is_missing(text):
        return DroppedWord(source_id=source_id, reason="empty_text")
    if not _is_scalar(text) or not (_is_missing(row_writer) or _is_scalar(row_writer)):
        return DroppedWord(source_id=source_id, reason="bad_row")
    image = _find_image(name, (path.parent, dataset_path))
    if image is None:
        return DroppedWord(source_id=source_id, reason="no_image")
    return RawWord(
        image=FileImage(path=image, use_exif=True),
        text=str(text),
        writer=_as_text(row_writer) or writer,
        split=SPLIT_NAMES.get(_as_text(values.get(columns.split)).lower()) or split,
        source_id=source_id,
        sources=(image, path),
    )


def _find_image(name: str, folders: Sequence[Path]) -> Path | None:
    """The image of this name, also as Windows writes paths; None if it is in none of the folders."""
    for written in (name, name.strip().replace("\\", "/")):
        for folder in folders:
            try:
                if (folder / written).is_file():
                    return folder / written
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    raise
    return None


def _is_missing(value: object) -> bool:
    """True for an empty cell; pandas writes NaN for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _is_scalar(value: object) -> bool:
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)


def _as_text(value: object) -> str:
    """A cell as text, empty if there is none; the writer 0 of a JSON table is "0"."""
    return "" if _is_missing(value) else str(value).strip()


def _name_of(row: TableRow, columns: Columns) -> str:
    return _as_text((row.values or {}).get(columns.image)).replace("\\", "/")


def _lacks_writer(row: TableRow, columns: Columns) -> bool:
    return row.values is not None and not _as_text(row.values.get(columns.writer))


def _find_tables(folder: Path) -> list[tuple[Path, str | None]]:
    """The tables to read with the split each stands for: split tables if there are any, else the only one.

    Raises:
        UserError: if several contend, or a table is not understood that belongs to the ones that are.
    """
    files = [path for path in sorted(folder.glob("*")) if _is_table_file(path)]
    reasons = {path: reason_against(path) for path in files}
    refused = {path: reason for path, reason in reasons.items() if reason and names_images(path)}
    split_tables = [path for path in files if path.stem.lower() in SPLIT_NAMES]
    metadata = [path for path in files if path.stem.lower() == "metadata"]
    for group in (split_tables, metadata[:1]):
        if taken := [path for path in group if reasons[path] is None]:
            _check_none_refused(folder, group, refused)
            return [(path, SPLIT_NAMES.get(path.stem.lower())) for path in taken]
    taken = [path for path in files if reasons[path] is None]
    if taken and len(taken) + len(refused) > 1:
        names = ", ".join(p.name for p in taken) + "".join(f"; {p.name}: {r}" for p, r in refused.items())
        raise UserError(f"--dataset_path {folder}: several tables ({names}). Choose one with --table.")
    if taken:
        return [(taken[0], None)]
    # The ImageFolder convention with splits: train/metadata.jsonl, test/metadata.jsonl.
    nested = [path for path in sorted(folder.glob("*/metadata.*")) if _is_table_file(path)]
    reasons = {path: reason_against(path) for path in nested}
    if taken := [path for path in nested if reasons[path] is None]:
        refused = {path: reason for path, reason in reasons.items() if reason and names_images(path)}
        _check_none_refused(folder, nested, refused)
    return [(path, SPLIT_NAMES.get(path.parent.name.lower())) for path in taken]


def _check_none_refused(folder: Path, group: Sequence[Path], refused: dict[Path, str]) -> None:
    """Raise a UserError if one of the tables that belong together is not understood."""
    bad = next((path for path in group if path in refused), None)
    if bad is not None:
        raise UserError(
            f"--dataset_path {folder}: {bad.relative_to(folder)} is not understood: {refused[bad]}"
        )


def _is_table_file(path: Path) -> bool:
    return path.suffix.lower() in TABLE_SUFFIXES and path.is_file()


def reason_against(path: Path) -> str | None:
    """Why a file is not taken for a table of text images: what is wrong with it, or which column it lacks;
    None if it is one.

    Bytes in a foreign encoding don't count against it: reading all of it says what is wrong.
    """
    try:
        head = read_table(path, limit=HEAD_ROWS, errors="replace")
        if not head.columns:
            return "it is empty"
        choose_columns(path, head, Columns())
    except UserError as error:
        return str(error).removeprefix("--table ").removeprefix(f"{path}: ")
    return None


def names_images(path: Path) -> bool:
    """True if a file's beginning names image files."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES).lower().replace(b"\0", b"")  # UTF-16 has zeros between the letters
    return any(suffix.encode() in head for suffix in IMAGE_SUFFIXES)


def list_refused(folder: Path) -> list[tuple[Path, str]]:
    """The tables in a folder and below that no reader takes, each with the reason."""
    refused = []
    for below, _, names in walk(folder):
        for path in (below / name for name in names):
            if path.suffix.lower() == ".json":
                refused.append((path, "a table in JSON is one object a line, in a file called .jsonl"))
            elif path.suffix.lower() in TABLE_SUFFIXES:
                reason = reason_against(path) or "it lies in a folder below; name it with --table"
                refused.append((path, reason))
    return refused


def choose_columns(path: Path, table: Table, given: Columns) -> Columns:
    """The table's columns for image, text, writer and split.

    Raises:
        UserError: if a column is missing or there twice.
    """

    def choose(flag: str, wanted: str | None, usual: tuple[str, ...], required: bool) -> str | None:
        lowered = [column.strip().lower() for column in table.columns]
        names = (wanted,) if wanted is not None else usual
        shown = f"{', '.join(table.columns[:20])}{', …' if len(table.columns) > 20 else ''}"
        for name in names:
            matches = [c for c, low in zip(table.columns, lowered, strict=True) if name in (c, low)]
            if len(matches) > 1 and (wanted is None or matches.count(wanted) > 1):
                raise UserError(f"{path}: {len(matches)} columns are called {name}. Rename all but one.")
            if matches and (wanted is None or wanted in matches):
                return wanted or matches[0]
        if wanted is not None:
            raise UserError(f"{flag} {wanted}: {path} has no such column. Its columns: {shown}")
        if required:
            raise UserError(
                f"{path}: no column by a usual name ({', '.join(usual)}) in its first line. Its columns:"
                f" {shown}. Name the right one with {flag}."
            )
        return None

    return Columns(
        image=choose("--image_column", given.image, IMAGE_COLUMNS, True),
        text=choose("--text_column", given.text, TEXT_COLUMNS, True),
        writer=choose("--writer_column", given.writer, WRITER_COLUMNS, False),
        split=choose("--split_column", given.split, SPLIT_COLUMNS, False),
    )


def _check_splits(path: Path, table: Table, column: str | None, wanted: str | None) -> str | None:
    """The split column if it holds splits; None if it was found by its name and speaks of something else.

    Raises:
        UserError: if it holds other names too: their images would train unnoticed.
    """
    rows = [row.values for row in table.rows if row.values is not None]
    values = {_as_text(row.get(column)) for row in rows} - {""} if column else set()
    unknown = sorted(value for value in values if value.lower() not in SPLIT_NAMES)
    if unknown and wanted is None and len(unknown) == len(values):
        return None
    if unknown:
        raise UserError(
            f"{path}: column {column} holds {', '.join(map(repr, unknown[:5]))}, which is no split. Known are"
            f" {', '.join(SPLIT_NAMES)}; leave other fields empty."
        )
    return column
