"""Output folders: files that are whole or not there, and whether a folder may be written to."""

import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from utils.errors import UserError


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file by temporary name and rename, so that it is either absent, old or whole."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(
            temporary, 0o666 & ~umask
        )  # mkstemp makes files private; other users of a shared disk read these
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def save_image(image: np.ndarray | Image.Image, path: Path) -> None:
    """Save a PNG by temporary name and rename. ``image``: (H, W) or (H, W, 3) uint8, or a Pillow image."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    temporary = path.with_name(f".{path.name}-{os.getpid()}.tmp")
    picture.save(temporary, format="PNG")
    os.replace(temporary, path)


def check_no_file(folder: Path, flag: str) -> None:
    """Raise ValueError if what is to be a folder is a file, or lies below one."""
    blocker = next((path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()), None)
    if blocker is not None:
        raise UserError(
            f"{flag} {folder}: {'' if blocker == folder else f'{blocker} '}is a file. Name a folder."
        )
