"""The word folder: ``images/*.png`` and ``metadata.jsonl``, the one data format of all scripts.

``metadata.jsonl`` has one JSON object a line with ``file_name``, ``text``, ``writer`` (a string: leading
zeros count) and ``split``, which is what ``datasets.load_dataset("imagefolder", data_dir=...)`` opens: all of
it as that library's split "train" (its own splits come from folders' names, and folders would need a
metadata file each), so choose by the column ``split``. It is written last and whole, so its presence says
that the folder is complete.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from utils.errors import UserError
from utils.output import write_atomically

METADATA_NAME = "metadata.jsonl"
IMAGE_FOLDER = "images"
SPLITS = ("train", "val", "test")
# Where a line of writing stands in its image, in shares of the height.
LINE_BASELINE = 0.62  # from the top
LINE_X_HEIGHT = 0.28  # of small letters, where the hand's tall strokes leave room for it
_FIELDS = ("file_name", "text", "writer", "split")


@dataclass(frozen=True, kw_only=True)
class TextImage:
    """One word of a word folder.

    ``file_name`` is relative to the folder with forward slashes; ``split`` is ``train``, ``val`` or ``test``;
    ``extra`` are further fields of its line, such as scores, and not part of what the word is.
    """

    file_name: str
    text: str
    writer: str
    split: str = "train"
    extra: Mapping[str, object] = field(default_factory=dict, compare=False)

    def as_json(self) -> str:
        """The record's line in ``metadata.jsonl``."""
        values = {name: getattr(self, name) for name in _FIELDS}
        return json.dumps({**self.extra, **values} if self.extra else values, ensure_ascii=False)


def write_metadata(folder: Path, records: Iterable[TextImage], *, name: str = METADATA_NAME) -> None:
    """Write ``metadata.jsonl`` (or a shard's ``name``) whole."""
    write_atomically(folder / name, "".join(record.as_json() + "\n" for record in records))


def read_jsonl(path: Path) -> list[dict]:
    """The JSON objects, one a line, that a script has noted in a file so far; a line that a kill cut off
    doesn't count.
    """
    notes = []
    for line in path.read_text(encoding="utf-8").split("\n") if path.is_file() else ():
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(values, dict) and "file_name" in values:
            notes.append(values)
    return notes


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start})") from error


def read_metadata(path: Path) -> list[TextImage]:
    """Read a ``metadata.jsonl`` file; unknown fields become ``extra``, ``split`` defaults to ``train``.

    Raises:
        ValueError: if a line is not a JSON object with the fields of a word, or names an image outside of the
            folder; the message names file and line.
    """
    records = []
    for number, line in enumerate(_read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            missing = [name for name in _FIELDS[:3] if not isinstance(values.get(name), str)]
        except (ValueError, AttributeError, RecursionError) as error:
            raise UserError(f"{path} line {number}: not a JSON object ({error})") from error
        if missing:
            raise UserError(
                f"{path} line {number}: no text field {missing[0]!r}. A word folder's lines hold file_name,"
                " text and writer as strings; preprocessing/process_dataset.py makes them from other tables."
            )
        name = PurePosixPath(values["file_name"])
        if name.is_absolute() or ".." in name.parts:
            # Inference writes under the same names into another folder.
            raise UserError(
                f"{path} line {number}: file_name {values['file_name']!r} leads out of the folder. It must be"
                " relative to it."
            )
        extra = {name: value for name, value in values.items() if name not in _FIELDS}
        records.append(TextImage(**{name: values[name] for name in _FIELDS if name in values}, extra=extra))
    return records


def read_text_images(
    folder: Path, *, flag: str = "--dataset_path", splits: Sequence[str] = ()
) -> list[TextImage]:
    """Read the records of a complete word folder, in their order.

    Args:
        flag: the command line flag to name in messages.
        splits: keep only records of these splits; all if empty.
    Raises:
        FileNotFoundError: if the folder does not exist or is not a complete word folder.
        ValueError: if it holds no record (of these splits), or names an image twice.
    """
    metadata = folder / METADATA_NAME
    if not folder.is_dir():
        raise FileNotFoundError(f"{flag} {folder}: no such folder")
    if not metadata.is_file():
        raise FileNotFoundError(
            f"{flag} {folder}: no {METADATA_NAME}, so this is not a complete word folder. "
            "Make one with preprocessing/process_dataset.py --dataset_path RAW --save_dir FOLDER."
        )
    records = read_metadata(metadata)
    names = {record.file_name for record in records}
    if len(names) != len(records):
        raise UserError(
            f"{flag} {folder}: {METADATA_NAME} names {len(records) - len(names)} images more than once"
        )
    if splits:
        records = [record for record in records if record.split in splits]
    if not records:
        wanted = f" of split {', '.join(splits)}" if splits else ""
        raise UserError(f"{flag} {folder}: no words{wanted} in {METADATA_NAME}")
    return records


INFERENCE_SETTINGS, FILTER_SETTINGS = (
    "inference.json",
    "filter.json",
)  # what words were written, and chosen, by
