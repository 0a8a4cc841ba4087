"""Pictures of someone's writing, of any size and on any paper, as line images of a model."""

import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from diffusion.line_finding import MARGIN, find_lines
from utils.errors import UserError
from utils.images import INK, WHITE, to_grey
from utils.text_images import METADATA_NAME, read_text_images

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
MOST_PIXELS = 100_000_000  # of a picture
MOST_PICTURES = 1000  # of one hand
WINDOW = 5.0  # times its height: the length of a line's windows, about that of training's segments


def read_lines(paths: Sequence[Path], height: int, *, flag: str = "--style_images") -> list[np.ndarray]:
    """The lines of all pictures, each straight and at the size of training's lines.

    Args:
        paths: pictures, and folders whose pictures are meant.
        height: of the lines' images, pixels.
        flag: the command line flag to name in messages.
    Returns:
        (height, w) uint8 each, w a multiple of 8; at least one.
    Raises:
        FileNotFoundError: if a path is not there.
        UserError: if a picture is damaged, too large or without ink, or a folder has none.
    """
    files = [file for path in paths for file in _find_pictures(path, flag)]
    if len(files) > MOST_PICTURES:
        raise UserError(
            f"{flag}: {len(files):,} pictures; a hand is made of at most {MOST_PICTURES:,}. Name fewer."
        )
    return [line for file in files for line in _lines_of(file, f"{flag} {file}", height, MOST_PIXELS)]


def read_lines_in_memory(
    content: bytes, name: str, height: int, *, most_pixels: int = MOST_PIXELS
) -> list[np.ndarray]:
    """The lines of a picture that is in no file; as ``read_lines`` gives them.

    Args:
        content: of a picture file.
        name: of the picture, for messages.
        most_pixels: that the picture may have.
    """
    return _lines_of(io.BytesIO(content), name, height, most_pixels)


def _lines_of(source: Path | io.BytesIO, where: str, height: int, most_pixels: int) -> list[np.ndarray]:
    grey = _read_grey(source, where, most_pixels)
    found = [grey] if _is_text_image(grey, height) else find_lines(grey, height)
    if not found:
        raise UserError(f"{where}: no ink to be seen. Leave it out, or take a sharper picture.")
    return found


def _is_text_image(grey: np.ndarray, height: int) -> bool:
    """True for what preprocessing made for a model of this height: ink on pure white."""
    has_ink = (grey < INK).any()
    return bool(grey.shape[0] == height and has_ink and np.median(grey) == WHITE == np.median(grey[:, :2]))


def _find_pictures(path: Path, flag: str) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"{flag} {path}: no such file or folder")
    if (path / METADATA_NAME).is_file():  # a folder of text images
        return [path / record.file_name for record in read_text_images(path, flag=flag)]
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise UserError(f"{flag} {path}: no picture there ({', '.join(SUFFIXES)}). Name another folder.")
    return files


def _read_grey(source: Path | io.BytesIO, where: str, most_pixels: int) -> np.ndarray:
    """(H, W) uint8 of a picture, upright as its camera noted it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(source)
        with image:
            pixels = image.width * image.height
            if pixels <= most_pixels:
                return to_grey(ImageOps.exif_transpose(image))
    except Exception as error:  # decoders raise nearly anything
        # Of what is in memory, Pillow's message names an address.
        reason = type(error).__name__ + ("" if isinstance(source, io.BytesIO) else f": {error}")
        raise UserError(f"{where}: not a readable picture ({reason}). Name another.") from error
    raise UserError(
        f"{where}: {pixels:,} pixels; at most {most_pixels:,} are taken. Cut out a few lines of it."
    )


def cut_windows(line: np.ndarray) -> Iterator[np.ndarray]:
    """The parts of a line that are read one by one: as long as the segments of training, cut where there is
    least ink, each with the usual white at its ends.

    Args:
        line: (H, w) uint8, ink on white.
    """
    ink = (line < INK).sum(axis=0)
    count = max(1, round(line.shape[1] / (WINDOW * line.shape[0])))
    step = line.shape[1] / count
    cuts = [0]
    for number in range(1, count):
        first, last = (int((number + side) * step) for side in (-0.25, 0.25))
        clear = np.flatnonzero(ink[first:last] == ink[first:last].min())
        cuts.append(first + int(clear[len(clear) // 2]))
    for start, stop in zip(cuts, [*cuts[1:], line.shape[1]], strict=True):
        columns = np.flatnonzero(ink[start:stop])
        if len(columns):
            part = line[:, start + columns[0] : start + columns[-1] + 1]
            width = -(-(part.shape[1] + 2 * MARGIN) // 8) * 8
            right = width - MARGIN - part.shape[1]
            yield np.pad(part, ((0, 0), (MARGIN, right)), constant_values=WHITE)
