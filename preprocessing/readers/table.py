"""Reader for one's own word images: any folder with a CSV, TSV or JSONL table that says what each image
holds.

Known with no flag: DHSD (``train.csv``/``test.csv`` with ``file_name,text,writer_id``) and the Hugging Face
ImageFolder convention (``metadata.jsonl`` or ``metadata.csv``).
"""

import csv
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from preprocessing.raw_word import DroppedWord, FileImage, RawWord
from preprocessing.readers.search import ids_of_paths
from utils.errors import UserError

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")
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


def recognises(dataset_path: Path) -> bool:
    """True if the folder holds a table (or several) whose columns name an image and a text."""
    try:
        return bool(_find_tables(dataset_path))
    except ValueError:
        return True  # several tables contend: iter_words says so and asks for --table


def iter_words(
    dataset_path: Path,
    *,
    table: Path | None = None,
    image_column: str | None = None,
    text_column: str | None = None,
    writer_column: str | None = None,
    split_column: str | None = None,
    writer: str = "me",
) -> Iterator[RawWord | DroppedWord]:
    """Yield the words of a table.

    Args:
        dataset_path: the folder that image paths are relative to (an image is also looked for beside its
            table).
        table: the table's file; by default ``train/val/test`` tables if there are any, else the only table
            there is.
        image_column, text_column, writer_column, split_column: column names; usual names are found without.
        writer: the writer of words whose table has no writer column.
    Raises:
        FileNotFoundError: if there is no table.
        ValueError: if a column is missing, a split unknown, or two tables contend; the message lists what
            there is.
    """
    tables = [(table, SPLIT_NAMES.get(table.stem.lower()))] if table else _find_tables(dataset_path)
    if not tables:
        raise FileNotFoundError(
            f"--dataset_path {dataset_path}: no CSV, TSV or JSONL table with an image and a text column. "
            "Name it with --table, and its columns with --image_column and --text_column."
        )
    rows = []
    for path, split in tables:
        values = _read_rows(path)
        columns = _choose_columns(path, values, image_column, text_column, writer_column, split_column)
        rows += [(path, split, number, row, columns) for number, row in enumerate(values, start=1)]
    ids = ids_of_paths([_as_text(row.get(columns[0])).replace("\\", "/") for _, _, _, row, columns in rows])
    for (path, split, number, row, (image_key, text_key, writer_key, split_key)), source_id in zip(
        rows, ids, strict=True
    ):
        name = row.get(image_key)
        has_name = isinstance(name, str) and bool(name.strip())
        # More fields than columns: a comma in a text without quotation marks, so no field is what its column
        # says.
        if not has_name or any(field.strip() for field in row.get(None) or ()):
            yield DroppedWord(source_id or f"{path.name}:{number}", "bad_row")
            continue
        if row.get(text_key) is None:
            yield DroppedWord(source_id, "empty_text")
            continue
        names = (name, name.strip().replace("\\", "/"))  # the second: as Windows writes paths
        image = next((p for n in names for p in (path.parent / n, dataset_path / n) if p.is_file()), None)
        if image is None:
            yield DroppedWord(source_id, "no_image")
            continue
        who = _as_text(row.get(writer_key))
        named = SPLIT_NAMES.get(_as_text(row.get(split_key)).lower())
        yield RawWord(
            FileImage(image, use_exif=True), str(row[text_key]), who or writer, named or split, source_id
        )


def _as_text(value: object) -> str:
    """A cell as text, empty if there is none; the writer 0 of a JSON table is "0"."""
    return "" if value is None else str(value).strip()


def _find_tables(folder: Path) -> list[tuple[Path, str | None]]:
    """The tables to read with the split each stands for: split tables if there are any, else the only one."""
    candidates = [p for p in sorted(folder.glob("*")) if p.suffix.lower() in TABLE_SUFFIXES and p.is_file()]
    candidates = [p for p in candidates if _describes_images(p)]
    splits = [(p, SPLIT_NAMES[p.stem.lower()]) for p in candidates if p.stem.lower() in SPLIT_NAMES]
    if splits:
        return splits
    metadata = [p for p in candidates if p.stem.lower() == "metadata"]
    if metadata:
        return [(metadata[0], None)]
    if len(candidates) > 1:
        names = ", ".join(p.name for p in candidates)
        raise UserError(f"--dataset_path {folder}: several tables ({names}). Choose one with --table.")
    if not candidates:
        # The ImageFolder convention with splits: train/metadata.jsonl, test/metadata.jsonl.
        nested = sorted(
            p
            for p in folder.glob("*/metadata.*")
            if p.suffix.lower() in TABLE_SUFFIXES and _describes_images(p)
        )
        return [(p, SPLIT_NAMES.get(p.parent.name.lower())) for p in nested]
    return [(candidates[0], None)]


def _describes_images(path: Path) -> bool:
    """True if the table's first row has an image and a text column by one of the usual names.

    Bytes in a foreign encoding don't count against it: reading all of it says what is wrong.
    """
    try:
        head = _parse_rows(path, limit=1, errors="replace")
    except (ValueError, csv.Error):
        return False
    keys = {key.strip().lower() for key in head[0] if key} if head else set()
    return bool(keys & set(IMAGE_COLUMNS)) and bool(keys & set(TEXT_COLUMNS))


def _read_rows(path: Path) -> list[dict]:
    """All rows of a table as dictionaries; the delimiter of a CSV (comma, semicolon, tab) is sniffed from its
    header.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--table {path}: no such file")
    try:
        return _parse_rows(path)
    except UnicodeDecodeError as error:
        raise UserError(
            f"--table {path}: not UTF-8 ({error}). Save it as UTF-8, e.g. as 'CSV UTF-8'."
        ) from error
    except csv.Error as error:
        raise UserError(f"--table {path}: {error}") from error


def _parse_rows(path: Path, limit: int | None = None, errors: str = "strict") -> list[dict]:
    """The rows of ``_read_rows`` (the first ``limit``), with the errors of their formats."""
    with path.open("rb") as file:
        is_utf16 = file.read(2) in (b"\xff\xfe", b"\xfe\xff")  # Excel's 'Unicode text'
    with path.open(encoding="utf-16" if is_utf16 else "utf-8-sig", errors=errors, newline="") as file:
        if path.suffix.lower() == ".jsonl":
            rows = []
            for number, line in enumerate(file, start=1):
                if limit is not None and len(rows) >= limit:
                    break
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise UserError(f"--table {path} line {number}: not JSON ({error})") from error
                if not isinstance(row, dict):
                    raise UserError(
                        f"--table {path} line {number}: expected a JSON object, found {line.strip()[:60]!r}"
                    )
                rows.append(row)
            return rows
        header = file.readline()
        file.seek(0)
        if path.suffix.lower() == ".tsv":
            # Most TSV files know no quoting, where a text may be a single quotation mark; whole quoted fields
            # are undone.
            reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            return [
                {_unquote(key): value if key is None else _unquote(value) for key, value in row.items()}
                for row in islice(reader, limit)
            ]
        reader = csv.DictReader(file, delimiter=max(",;\t", key=header.count))
        return list(islice(reader, limit))


def _unquote(value: str | None) -> str | None:
    """A field without the quotation marks around it, doubled ones inside made single."""
    is_quoted = value is not None and len(value) >= 2 and value[0] == value[-1] == '"'
    return value[1:-1].replace('""', '"') if is_quoted else value


def _choose_columns(
    path: Path, rows: list[dict], image: str | None, text: str | None, writer: str | None, split: str | None
) -> tuple[str, str, str | None, str | None]:
    """The table's columns for image, text, writer and split; the last two may be None."""
    keys = [key for key in (rows[0] if rows else {}) if key]
    lowered = {key.strip().lower(): key for key in keys}

    def choose(flag: str, wanted: str | None, usual: tuple[str, ...], required: bool) -> str | None:
        if wanted is not None:
            if wanted not in keys:
                raise UserError(f"{flag} {wanted}: {path} has no such column. Its columns: {', '.join(keys)}")
            return wanted
        found = next((lowered[name] for name in usual if name in lowered), None)
        if found is None and required:
            raise UserError(
                f"{path}: no column by a usual name ({', '.join(usual)}). Its columns: {', '.join(keys)}. "
                f"Name the right one with {flag}."
            )
        return found

    return (
        choose("--image_column", image, IMAGE_COLUMNS, True),
        choose("--text_column", text, TEXT_COLUMNS, True),
        choose("--writer_column", writer, WRITER_COLUMNS, False),
        _check_splits(
            path, rows, choose("--split_column", split, ("split", "set", "subset", "partition"), False), split
        ),
    )


def _check_splits(path: Path, rows: list[dict], column: str | None, wanted: str | None) -> str | None:
    """The split column if it holds splits; None if it was found by its name and speaks of something else.

    Raises:
        ValueError: if it holds other names too: their words would train unnoticed.
    """
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
