"""Pictures of words and lines from anywhere, as text images that a recogniser can read."""

from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.images import INK, WHITE
from utils.line_images import Canvas, cut_lines
from utils.line_shapes import LineShape, make_frames
from utils.sources import read_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
HEIGHT, WIDEST = 80, 8000  # pixels of a cleaned line


def find_pictures(path: Path, *, flag: str = "IMAGES") -> list[Path]:
    """A picture, or the pictures of a folder in the order of their names.

    Raises:
        FileNotFoundError, UserError: if there is none.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"{flag} {path}: no such file or folder")
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise UserError(f"{flag} {path}: no picture there ({', '.join(SUFFIXES)}). Name another folder.")
    return files


def is_text_image(grey: np.ndarray) -> bool:
    """True for what preprocessing or generation made: ink on pure white."""
    return bool(np.median(grey) == WHITE and np.median(grey[:, :2]) == WHITE) or not (grey < INK).any()


def read_picture(path: Path) -> np.ndarray:
    """(H, W) uint8 ink on white of a picture of one line; a text image as it is.

    Raises:
        FileNotFoundError, UserError: if it is missing or damaged.
    """
    grey = read_image(path)
    return grey if is_text_image(grey) else clean_line(grey)


def clean_line(grey: np.ndarray) -> np.ndarray:
    """(80, W) uint8: the line that fills a picture, without its paper, level, at the size of text images; the
    picture as it is where no ink is found.
    """
    height, width = grey.shape
    corners = ((0.0, 0.0), (float(width), 0.0), (float(width), float(height)), (0.0, float(height)))
    frames = make_frames([LineShape(polygon=corners)], np.ones(2), np.zeros(2), (height, width))
    (line,) = cut_lines(grey, frames, Canvas(height=HEIGHT, widest=WIDEST), remove_rules=False)
    return grey if isinstance(line, str) else line
