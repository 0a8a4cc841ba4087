"""Output folders: files that are whole or not there, who may write to a folder, and one process at a time."""

import io
import os
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image

from utils.errors import UserError
from utils.json_files import read_json

LOCK_NAME = ".lock"
PNG_END = bytes.fromhex("0000000049454e44ae426082")  # the chunk IEND


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file by temporary name and rename, so that it is either absent, old or whole."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(path)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def encode_png(image: np.ndarray) -> bytes:
    """An (H, W) or (H, W, 3) uint8 image as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def save_image(image: np.ndarray | Image.Image, path: Path) -> None:
    """Save a PNG by temporary name and rename. ``image``: (H, W) or (H, W, 3) uint8, or a Pillow image."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    temporary = _temporary_name(path)
    try:
        picture.save(temporary, format="PNG")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_whole_png(path: Path) -> bool:
    """Whether a PNG is there with its last chunk: a power cut may leave a file empty, or cut short."""
    try:
        with path.open("rb") as file:
            file.seek(-len(PNG_END), os.SEEK_END)
            return file.read() == PNG_END
    except OSError:  # absent, or shorter than that
        return False


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")


def remove_temporary_files(folder: Path) -> None:
    """Remove what ``write_atomically`` and ``save_image`` of a killed process left in a folder; call it only
    while no other process writes there (``lock_folder``).
    """
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def new_file_mode(folder: Path) -> int:
    """The mode that new files get in a folder.

    Tried with a file: the process's umask can only be read by setting it, which other threads would notice.
    """
    probe = folder / f".mode-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp"
    try:
        probe.touch(exist_ok=False)
        return probe.stat().st_mode & 0o777
    finally:
        probe.unlink(missing_ok=True)


def check_no_file(folder: Path, flag: str) -> None:
    """Raise a UserError if what is to be a folder is a file, or lies below one."""
    blocker = next((path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()), None)
    if blocker is not None:
        raise UserError(
            f"{flag} {folder}: {'' if blocker == folder else f'{blocker} '}is a file. Name a folder."
        )


def claim_folder(
    folder: Path,
    flag: str,
    *,
    marker: str | None = None,
    ignore: Collection[str] = (),
    reason: str | None = None,
    way_out: str = "Name another folder.",
) -> dict | None:
    """Ask whether a command may write to a folder: one that is absent, empty, or of its own making.

    Args:
        flag: the command line flag to name in messages.
        marker: the JSON file by which the command knows a folder that it made, e.g. with its settings, which
            the caller compares with its own. None: only an absent or empty folder will do.
        ignore: names that don't count as content. Temporary files and locks never do.
        reason: why a folder with content is refused; by default that it is not of this command.
        way_out: last sentence of that message.
    Returns:
        What the marker holds; None if the folder is absent or empty.
    Raises:
        UserError: if the folder is a file, holds anything else, or its marker is damaged.
    """
    check_no_file(folder, flag)
    if marker is not None and (folder / marker).is_file():
        return read_json(folder / marker, flag)
    if folder.is_dir() and any(_is_content(path, ignore) for path in folder.iterdir()):
        if reason is None:
            reason = "not empty" if marker is None else "not empty, and not made by this command"
        raise UserError(f"{flag} {folder}: {reason}. {way_out}")
    return None


def _is_content(path: Path, ignore: Collection[str]) -> bool:
    is_temporary = path.suffix == ".tmp" or path.name.startswith(".tmp-")
    return not is_temporary and not path.name.startswith(LOCK_NAME) and path.name not in ignore


@contextmanager
def lock_folder(folder: Path, flag: str, *, name: str = LOCK_NAME) -> Iterator[None]:
    """Keep all other processes that ask for the same lock out of a folder, which is made if it is absent, and
    removed again if nothing was written to it.

    The system holds the lock, in a file that is removed at the end: a killed process leaves the file, but not
    the lock. Where a system or a disk has no such locks (Windows, some network disks), a note says so.

    Args:
        flag: the command line flag to name in messages.
        name: of the file; processes that share a folder take a lock a part.
    Raises:
        UserError: if another process holds the lock, or the folder is a file.
    """
    check_no_file(folder, flag)
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    try:
        import fcntl
    except ImportError:
        print(f"note        {flag} {folder}: this system can't lock folders; let one process at a time write")
        yield
        return
    handle = _open_locked(path, fcntl, flag)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)
        if is_new:
            with suppress(OSError):  # not empty
                folder.rmdir()


def _open_locked(path: Path, fcntl, flag: str) -> int:
    """Open a file with a lock of this process on it; returns the handle, which holds the lock."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise UserError(
                f"{flag} {path.parent}: another process is writing there. Wait for its end, or name another"
                " folder."
            ) from error
        except OSError as error:
            print(
                f"note        {flag} {path.parent}: can't be locked ({error.strerror}); let one process at a"
                " time write"
            )
            return handle
        # The one that held the lock before may have removed the file between the two calls.
        if path.exists() and path.stat().st_ino == os.fstat(handle).st_ino:
            return handle
        os.close(handle)
