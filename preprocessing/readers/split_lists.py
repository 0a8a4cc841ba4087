"""Split lists: files of form, line or word ids, one list a split, as IAM's and GW's users pass them
around.
"""

import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from preprocessing.readers.search import read_lines, walk
from utils.errors import UserError

# Names that stand for a split once digits and "set" at their end are gone (validationset1 is validation).
_NAMES = {
    "train": "train",
    "training": "train",
    "tr": "train",
    "trainval": "train",
    "trva": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "va": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "te": "test",
}
# An id in several lists belongs to the first of these: what is tested on is never trained on.
PRIORITY = ("test", "val", "train")
LARGEST_LIST = 16 * 2**20  # bytes; IAM's longest list has under a million


@dataclass(frozen=True, kw_only=True)
class SplitLists:
    """Which split each id belongs to.

    ``writers`` maps forms to writers where the lists name them (GANwriting's do).
    """

    splits: dict[str, str] = field(default_factory=dict)
    writers: dict[str, str] = field(default_factory=dict)

    def split_of(self, word_id: str) -> str | None:
        """The split of a word by its own id, else its line's, form's or page's; None if it is in no list."""
        parts = word_id.split("-")
        ids = ("-".join(parts[:count]) for count in range(len(parts), 0, -1))
        return next((self.splits[name] for name in ids if name in self.splits), None)


def split_of_name(name: str) -> str | None:
    """The split that a list's file name speaks of: ``validationset2.txt`` -> val,
    ``gan.iam.tr_va.gt.filter27`` -> train.
    """
    words = [re.sub(r"(set)?\d*$", "", word) for word in re.split(r"[^a-z0-9]+", name.lower())]
    found = [_NAMES[word] for word in words if word in _NAMES]
    return "train" if "train" in found else found[0] if found else None


def read_split_lists(path: Path, id_pattern: str, *, flag: str = "--splits") -> SplitLists:
    """Read the lists of a folder, of a zip archive, or one file.

    A list's name says its split, its rows are ids (of forms, lines or words) or GANwriting's ``writer,word_id
    text``.

    Args:
        id_pattern: regular expression of a whole id of any kind.
        flag: the command line flag to name in messages.
    Raises:
        FileNotFoundError: if there is nothing at ``path``.
        ValueError: if there is no list, a row is no id, or lists of several kinds or folders contend.
    """
    row = re.compile(rf"(?:(?P<writer>\d+),)?(?P<id>{id_pattern})(?:\s.*)?")
    lists = {name: lines for name, lines in _candidates(path, flag) if _is_list(lines, row)}
    if not lists:
        raise UserError(
            f"{flag} {path}: no split list. Expected files whose names say train, val or test (train.uttlist,"
            " va.lst, validationset1.txt, gan.iam.tr_va.gt.filter27) and whose rows begin with ids of this"
            " data set."
        )
    folders = sorted({str(PurePosixPath(name).parent) for name in lists})
    if len(folders) > 1:
        raise UserError(f"{flag} {path}: lists in several folders ({', '.join(folders)}). Name one of them.")
    splits: dict[str, str] = {}
    writers: dict[str, str] = {}
    for name, lines in lists.items():
        split = split_of_name(PurePosixPath(name).name)
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.startswith("#"):
                continue
            match = row.fullmatch(line.strip())
            if match is None:
                raise UserError(
                    f"{flag} {name} line {number}: {line.strip()[:60]!r} is no id of this data set"
                )
            known = splits.get(match["id"], split)
            splits[match["id"]] = min(known, split, key=PRIORITY.index)
            if match["writer"]:
                writers["-".join(match["id"].split("-")[:2])] = match["writer"]
    levels = {name.count("-") for name in splits}
    if len(levels) > 1:
        raise UserError(
            f"{flag} {path}: lists of different kinds ({', '.join(lists)}): some hold ids of forms or lines, "
            "others of words. Keep one kind, or name a single file."
        )
    return SplitLists(splits=splits, writers=writers)


def _is_list(lines: list[str], row: re.Pattern) -> bool:
    """True if the first row is an id."""
    first = next((line.strip() for line in lines if line.strip() and not line.startswith("#")), "")
    return row.fullmatch(first) is not None


def _candidates(path: Path, flag: str) -> Iterator[tuple[str, list[str]]]:
    """Name and lines of every file whose name speaks of a split; nested folders only if the folder itself has
    none.
    """
    if path.is_dir():
        tree = [
            (folder, names)
            for folder, _, files in walk(path)
            if (names := [n for n in files if _may_be_list(n)])
        ]
        for folder, names in [pair for pair in tree if pair[0] == path] or tree:
            yield from (((folder / name).as_posix(), read_lines(folder / name)) for name in names)
    elif not path.is_file():
        raise FileNotFoundError(f"{flag} {path}: no such file or folder")
    elif zipfile.is_zipfile(path):
        yield from _lists_in_zip(path, flag)
    elif split_of_name(path.name) is None:
        raise UserError(f"{flag} {path}: the file's name must say which split it lists (train, val or test)")
    else:
        yield path.as_posix(), read_lines(path)


def _lists_in_zip(path: Path, flag: str) -> Iterator[tuple[str, list[str]]]:
    """Name and lines of every file of an archive whose name speaks of a split."""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                name = entry.filename
                if entry.is_dir() or "__MACOSX" in name or not _may_be_list(PurePosixPath(name).name):
                    continue
                with archive.open(entry) as file:
                    content = file.read(LARGEST_LIST + 1)
                if len(content) > LARGEST_LIST:
                    raise UserError(
                        f"{flag} {path}: {name} is larger than {LARGEST_LIST >> 20} MiB: no split list"
                    )
                yield name, content.decode("utf-8-sig", "replace").split("\n")
    # RuntimeError: a password is needed; NotImplementedError: an unusual compression.
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, EOFError, OSError) as error:
        raise UserError(
            f"{flag} {path}: the archive can't be read ({error}). Unpack it, and name the folder."
        ) from error


def _may_be_list(name: str) -> bool:
    """True if a file of this name may be a split list: its name speaks of a split and not of another
    format.
    """
    other = (
        ".zip",
        ".gz",
        ".tgz",
        ".tar",
        ".png",
        ".jpg",
        ".tif",
        ".xml",
        ".json",
        ".jsonl",
        ".csv",
        ".py",
        ".md",
        ".pdf",
    )
    return split_of_name(name) is not None and not name.startswith(".") and not name.lower().endswith(other)
