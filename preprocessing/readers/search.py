"""Finding a data set's files wherever they lie below a folder, and reading its lists line by line."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Folders below ``root`` from the top, each with the names of its folders and files, all in sorted order.

    Follows links, but enters no real folder twice; leaves out hidden names, what macOS adds to archives, and
    what is neither folder nor file (a pipe would be waited for). Names taken out of the list of folders are
    not entered; a folder that may not be read counts as empty.
    """
    entered = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        folders, files = [], []
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in entered:
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name == "__MACOSX":
                        continue
                    if _is_kind(entry.is_dir):
                        folders.append(entry.name)
                    elif _is_kind(entry.is_file):
                        files.append(entry.name)
        except (PermissionError, FileNotFoundError):
            continue
        entered.add((status.st_dev, status.st_ino))
        folders.sort()
        yield folder, folders, sorted(files)
        waiting += [folder / name for name in reversed(folders)]


def _is_kind(ask: Callable[[], bool]) -> bool:
    """``entry.is_dir()`` or ``entry.is_file()``; False for a link that leads to itself."""
    try:
        return ask()
    except OSError:
        return False


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file without their ends (LF or CRLF); bytes that are not UTF-8 become
    U+FFFD.
    """
    return path.read_text(encoding="utf-8-sig", errors="replace").split("\n")


def first_lines(path: Path, count: int = 20) -> list[str]:
    """The first lines that are neither empty nor a ``#`` comment, without their ends; reads little more than
    them.
    """
    lines: list[str] = []
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        while len(lines) < count and (line := file.readline(10_000)):
            if line.strip() and not line.startswith("#"):
                lines.append(line.rstrip("\n"))
    return lines


def ids_of_paths(names: list[str]) -> list[str]:
    """File stems; if any repeats, the paths below their common folder, joined by dashes, for all of them."""
    paths = [Path(name).with_suffix("") if Path(name).name else Path("unnamed") for name in names]
    if len({path.name.lower() for path in paths}) == len(paths):
        return [path.name for path in paths]
    parts = [path.parts for path in paths]
    shared = 0
    while all(len(p) > shared + 1 for p in parts) and len({p[shared] for p in parts}) == 1:
        shared += 1
    return ["-".join(p[shared:]) for p in parts]
