"""CSV, TSV and JSONL files as rows, each read for itself: what one row breaks, no other row loses."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")
DELIMITERS = ",;\t|"
MOST_LINES = 20  # that a quoted field of a CSV may span


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A row and the number of its first line; ``values`` by column, None if the row can't be understood."""

    line: int
    values: dict | None


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table's rows, and its columns in the order of their first appearance."""

    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]


def read_table(path: Path, *, limit: int | None = None, errors: str = "strict") -> Table:
    """Read a table (the first ``limit`` rows).

    A CSV's delimiter (comma, semicolon, tab, bar) is the commonest one of its header, or what a first line
    ``sep=;`` says. A JSONL table's columns are the union of its rows'.

    Args:
        errors: what bytes that are not UTF-8 become, as in ``open``.
    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it is not UTF-8 (or UTF-16 with a mark), or a line of JSONL is no JSON object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--table {path}: no such file")
    with path.open("rb") as file:
        is_utf16 = file.read(2) in (b"\xff\xfe", b"\xfe\xff")  # Excel's 'Unicode text'
    encoding = "utf-16" if is_utf16 else "utf-8-sig"
    try:
        with path.open(encoding=encoding, errors=errors, newline="") as file:
            lines = (
                [line for _, line in zip(range(limit * MOST_LINES), file, strict=False)]
                if limit
                else list(file)
            )
    except UnicodeError as error:
        raise UserError(
            f"--table {path}: not UTF-8 ({error}). Save it as UTF-8, e.g. as 'CSV UTF-8'."
        ) from error
    rows = []
    if path.suffix.lower() == ".jsonl":
        for row in _json_rows(path, lines):
            rows.append(row)
            if len(rows) == limit:
                break
        return Table(
            columns=tuple(dict.fromkeys(key for row in rows for key in row.values)), rows=tuple(rows)
        )
    columns: list[str] | None = None
    for line, fields in _tsv_fields(lines) if path.suffix.lower() == ".tsv" else _csv_fields(lines):
        if columns is None:
            columns = fields or []
            continue
        rows.append(TableRow(line=line, values=_by_column(columns, fields)))
        if len(rows) == limit:
            break
    return Table(columns=tuple(columns or ()), rows=tuple(rows))


def _by_column(columns: list[str], fields: list[str] | None) -> dict | None:
    """A row's fields by their columns; None if there are more, so that no field is what its column says."""
    if fields is None or any(field.strip() for field in fields[len(columns) :]):
        return None
    return dict(zip(columns, fields, strict=False))


def _csv_fields(lines: list[str]) -> Iterator[tuple[int, list[str] | None]]:
    """Line number and fields of each record, the header first; None for a line that is no record.

    A quotation mark that stands alone in its field is a word, and opens nothing. A quoted field may span
    lines, but not if it then holds the delimiter too: that is how a mark that nobody closed swallows rows.
    """
    start = 0
    while start < len(lines) and not lines[start].strip():
        start += 1
    if start == len(lines):
        return
    delimiter = max(DELIMITERS, key=lines[start].count)
    if lines[start].strip().lower() in {f"sep={character}".strip() for character in DELIMITERS}:
        delimiter = lines[start].strip("\r\n")[4:] or "\t"
        start += 1
    width = None
    while start < len(lines):
        fields, span = _read_record(lines, start, delimiter, width)
        if fields is None:
            fields = _split_plain(lines[start], delimiter, width)
        if fields != []:
            yield start + 1, fields
        if width is None and fields:
            width = len(fields)
        start += span


def _read_record(
    lines: list[str], start: int, delimiter: str, width: int | None
) -> tuple[list[str] | None, int]:
    """The fields of the record that begins in a line (``[]`` for an empty line), and the lines it takes.

    Returns:
        (None, 1) if its quotation marks don't fit, or it swallows other rows.
    """
    reader = csv.reader(lines[start : start + MOST_LINES], delimiter=delimiter, strict=True)
    try:
        fields = next(reader)
    except csv.Error:
        return None, 1
    if reader.line_num > 1:
        swallows = any(delimiter in field and ("\n" in field or "\r" in field) for field in fields)
        if swallows or len(fields) != width:
            return None, 1
    return fields, reader.line_num


def _split_plain(line: str, delimiter: str, width: int | None) -> list[str] | None:
    """A line's fields where a quotation mark is a mark alone; None if one begins a field and more follows, or
    the fields are not as many as the columns.
    """
    fields = line.rstrip("\r\n").split(delimiter)
    is_plain = all(field == '"' or not field.startswith('"') for field in fields)
    return fields if is_plain and len(fields) == width else None


def _tsv_fields(lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each line. Most TSV files know no quoting, where a text may be a single
    quotation mark; whole quoted fields are undone.
    """
    for number, line in enumerate(lines, start=1):
        if line.strip("\r\n"):
            yield number, [_unquote(field) for field in line.rstrip("\r\n").split("\t")]


def _unquote(field: str) -> str:
    """A field without the quotation marks around it, doubled ones inside made single."""
    is_quoted = len(field) >= 2 and field[0] == field[-1] == '"'
    return field[1:-1].replace('""', '"') if is_quoted else field


def _json_rows(path: Path, lines: list[str]) -> Iterator[TableRow]:
    """One JSON object a line."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"--table {path} line {number}"
        try:
            values = json.loads(line, object_pairs_hook=_unique_keys)
        except RecursionError as error:
            raise UserError(f"{where}: nested too deeply") from error
        except ValueError as error:
            if line.lstrip().startswith("["):
                raise UserError(f"{where}: a JSON list. Write one JSON object a line.") from error
            raise UserError(f"{where}: not JSON ({error})") from error
        if not isinstance(values, dict):
            raise UserError(f"{where}: expected one JSON object a line, found {line.strip()[:60]!r}")
        yield TableRow(line=number, values=values)


def _unique_keys(pairs: list[tuple[str, object]]) -> dict:
    """A JSON object, in which no name may stand twice."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands twice in one object")
    return values
