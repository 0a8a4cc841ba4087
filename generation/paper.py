"""Pictures of empty paper, for pages."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from utils.errors import UserError
from utils.images import WHITE


def lay_on_paper(page: np.ndarray, path: Path) -> np.ndarray:
    """A page's ink on a picture of paper, which is scaled and cut to the page and darkened by the ink.

    Args:
        page: (H, W) uint8, ink on white.
        path: the picture, grey or coloured.
    Returns:
        (H, W) or (H, W, 3) uint8.
    Raises:
        UserError: if the picture can't be read.
    """
    try:
        with Image.open(path) as picture:
            picture.draft(None, page.shape[::-1])  # a large JPEG is reduced while it is read
            mode = "L" if picture.mode in ("1", "L", "LA", "I;16") else "RGB"
            paper = np.asarray(ImageOps.fit(picture.convert(mode), page.shape[::-1], Image.LANCZOS))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"--paper {path}: not a readable picture ({error}). Name another.") from error
    ink = page if paper.ndim == 2 else page[..., None]
    return (paper.astype(np.uint16) * ink // WHITE).astype(np.uint8)


def find_papers(path: Path) -> list[Path]:
    """The picture, or the pictures of a folder, in the order of their names.

    Raises:
        UserError: if there is none.
    """
    if path.is_file():
        return [path]
    suffixes = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"}
    papers = sorted(p for p in path.glob("*") if p.suffix.lower() in suffixes) if path.is_dir() else []
    if not papers:
        raise UserError(
            f"--paper {path}: no picture there. Name a picture of empty paper, or a folder of them."
        )
    return papers
