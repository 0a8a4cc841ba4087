"""Labelled text images for a recogniser: one split of a folder, scaled, cut to the ink, batched."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from utils.charset import Charset, normalise_text
from utils.errors import UserError
from utils.images import INK, to_pixel_values
from utils.sources import TrainingSet, read_image
from utils.text_images import TextImage, read_text_images

Words = tuple[Sequence[TextImage], Sequence[Path]]  # records and where their images are


def read_split(folder: Path, split: str, *, flag: str, split_flag: str | None = None) -> Words:
    """The images of one split of a folder, texts normalised.

    Args:
        split_flag: the flag that names another split, for messages.

    Raises:
        FileNotFoundError, ValueError: if there is no such folder, no word of this split, or an empty text.
    """
    try:
        records = read_text_images(folder, flag=flag, splits=(split,))
    except ValueError as error:
        hint = f". {split_flag} names another split." if split_flag else ""
        raise UserError(f"{error}{hint}") from error
    records = [replace(record, text=normalise_text(record.text)) for record in records]
    if empty := [record.file_name for record in records if not record.text]:
        raise UserError(f"{flag} {folder}: {empty[0]} has an empty text")
    return records, [folder / record.file_name for record in records]


def pick_words(records: Sequence[TextImage], paths: Sequence[Path], indices: Iterable[int]) -> Words:
    """The images of these indices."""
    chosen = list(indices)
    return [records[i] for i in chosen], [paths[i] for i in chosen]


def take_sample(words: Words, most: int) -> Words:
    """At most ``most`` images, evenly spread over all."""
    count = len(words[0])
    return pick_words(*words, np.linspace(0, count - 1, min(most, count)).round().astype(int))


def count_by_folder(words: TrainingSet, indices: Iterable[int]) -> dict[str, int]:
    """How many of these indices lie in each folder."""
    return dict(Counter(str(words.folder_of(i)) for i in indices))


def load_crops(paths: Sequence[Path], *, img_height: int) -> list[np.ndarray]:
    """Text images of any sizes, scaled to one height and cut to their ink: (img_height, w) uint8 each.

    Raises:
        FileNotFoundError, ValueError: if an image is missing or damaged; the message names it.
    """
    with ThreadPoolExecutor() as pool:
        # Copied: a view would keep the whole image.
        images = pool.map(
            lambda path: crop_to_ink(scale_to_height(read_image(path), img_height)).copy(), paths
        )
        return list(tqdm(images, total=len(paths), desc="read images", unit="image", leave=False))


def scale_to_height(image: np.ndarray, height: int) -> np.ndarray:
    """An (H, W) uint8 image scaled to ``height`` pixels; one of this height as it is."""
    if image.shape[0] == height:
        return image
    scale = height / image.shape[0]
    size = (max(1, round(image.shape[1] * scale)), height)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def count_unknown(texts: Iterable[str], charset: Charset) -> dict[str, int]:
    """In how many of the texts each character stands that is not in the charset."""
    return dict(Counter(character for text in texts for character in charset.unknown(text)))


MARGIN = 6  # pixels of white that stay at both sides of the ink
WIDTH_STEP = 16  # pixels; images are padded to multiples of it
BATCH_COLUMNS = 32_768  # pixels: 64 words 512 wide, 16 lines 2,000 wide; bounds the memory


def crop_to_ink(image: np.ndarray) -> np.ndarray:
    """An (H, W) uint8 image without the white at both sides, but for a margin; of a blank image the first
    pixels.
    """
    columns = np.flatnonzero((image < INK).any(axis=0))
    if not len(columns):
        return image[:, :WIDTH_STEP]
    return image[:, max(0, columns[0] - MARGIN) : columns[-1] + 1 + MARGIN]


def padded_width(width: int) -> int:
    """``width`` up to a multiple of ``WIDTH_STEP``, pixels."""
    return -(-width // WIDTH_STEP) * WIDTH_STEP


def batch_by_width(widths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Rows of images in batches of similar width, the narrowest first.

    Args:
        widths: of the images, pixels.
        batch_size: most images in a batch. A batch of wide images is smaller, so that it has at most
            ``BATCH_COLUMNS`` columns of pixels with its padding; an image that is wider still comes alone.
    """
    batch: list[int] = []
    for row in sorted(range(len(widths)), key=widths.__getitem__):
        columns = padded_width(widths[row]) * (len(batch) + 1)
        if batch and (len(batch) == batch_size or columns > BATCH_COLUMNS):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def make_batch(crops: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Images of one height and any widths as (B, 1, H, W) pixel values, white at the right, and their (B,)
    padded widths.
    """
    widths = [padded_width(crop.shape[1]) for crop in crops]
    canvas = np.full((len(crops), crops[0].shape[0], max(widths)), 255, np.uint8)
    for row, crop in zip(canvas, crops, strict=True):
        row[:, : crop.shape[1]] = crop
    return to_pixel_values(torch.from_numpy(canvas), 1), torch.tensor(widths)
