"""Labelled text images for a recogniser: one split of a folder, cut to the ink, batched, varied in
training.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
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
    """Text images of one height and any widths, (img_height, w) uint8, cut to their ink.

    Raises:
        FileNotFoundError, ValueError: if an image is missing, damaged or of another height; the message names
            it.
    """
    with ThreadPoolExecutor() as pool:
        # Copied: a view would keep the whole image.
        images = pool.map(lambda path: crop_to_ink(read_image(path)).copy(), paths)
        crops = list(tqdm(images, total=len(paths), desc="read images", unit="word", leave=False))
    for path, crop in zip(paths, crops, strict=True):
        if crop.shape[0] != img_height:
            raise UserError(
                f"{path}: {crop.shape[0]} pixels high, but the images to train on have {img_height}."
                " Preprocess all folders with one height in --img_size."
            )
    return crops


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


STRETCH_X = 0.15  # most that a word is stretched or shrunk along the line
STRETCH_Y = 0.08
SHEAR = 0.2  # pixels along the line for each pixel of height
SHIFT_Y = 2.0  # pixels
ELASTIC = 1.0  # standard deviation of the displacement, pixels, ...
ELASTIC_CELL = 16  # ... at points this many pixels apart, linear between them
THICKNESS = 0.6  # of the way to the ink that is dilated or eroded by a pixel
BLUR = 0.7  # of the way to the mean of 3x3 pixels
FAINTEST = 0.6  # factor on the ink
NOISE = 0.06  # standard deviation, of the way from white to black


def _draw(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """(count, 1, 1) uniform numbers."""
    return low + (high - low) * torch.rand(count, 1, 1, generator=generator)


def warp_words(
    ink: Tensor, widths: Tensor, generator: torch.Generator, *, step: int, least: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Stretch, shear, shift and bend words; see ``augment_words`` for the arguments."""
    count, _, height, full = ink.shape
    stretch_x, stretch_y = (_draw(count, 1 - most, 1 + most, generator) for most in (STRETCH_X, STRETCH_Y))
    shear, shift_y = (_draw(count, -most, most, generator) for most in (SHEAR, SHIFT_Y))
    room = widths[:, None, None] * stretch_x + shear.abs() * height / 2  # (B, 1, 1)
    new_widths = ((room.flatten() / step).ceil() * step).long()
    if least is not None:
        new_widths = new_widths.maximum(least)
    width = int(new_widths.max())
    x = torch.arange(width) + 0.5 - new_widths[:, None, None] / 2  # (B, 1, W'), from the middle of the word
    y = torch.arange(height)[:, None] + 0.5 - height / 2  # (H, 1)
    cells = (height // ELASTIC_CELL + 1, width // ELASTIC_CELL + 1)
    bend = ELASTIC * torch.randn(count, 2, *cells, generator=generator)
    bend = F.interpolate(bend, (height, width), mode="bilinear", align_corners=True)
    source_x = (x + shear * y) / stretch_x + widths[:, None, None] / 2 + bend[:, 0]  # (B, H, W'), pixels
    source_y = (y / stretch_y + height / 2 + shift_y) + bend[:, 1]
    grid = torch.stack([2 * source_x / full - 1, 2 * source_y / height - 1], dim=-1)
    return F.grid_sample(ink, grid, align_corners=False), new_widths


def _spread(ink: Tensor, pick: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """``pick`` over 3x3 pixels; on a CPU several times as fast as a pooling layer."""
    padded = F.pad(ink, (1, 1, 1, 1), mode="replicate")
    rows = pick(pick(padded[..., :-2], padded[..., 1:-1]), padded[..., 2:])
    return pick(pick(rows[..., :-2, :], rows[..., 1:-1, :]), rows[..., 2:, :])


def vary_ink(ink: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 1, H, W) ink of another pen and scan: thicker or thinner, blurred, fainter, noisy."""
    count = len(ink)
    thickness = _draw(count, -THICKNESS, THICKNESS, generator)[:, None]
    blur, faintness = (_draw(count, *ends, generator)[:, None] for ends in ((0, BLUR), (FAINTEST, 1)))
    noise = _draw(count, 0, NOISE, generator)[:, None]
    thicker, thinner = (_spread(ink, pick) for pick in (torch.maximum, torch.minimum))
    ink = ink + thickness.clamp_min(0) * (thicker - ink) + (-thickness).clamp_min(0) * (thinner - ink)
    ink = torch.lerp(ink, F.avg_pool2d(ink, 3, 1, 1), blur)
    return (ink * faintness + noise * torch.randn(ink.shape, generator=generator)).clamp(0, 1)


def augment_words(
    ink: Tensor, widths: Tensor, generator: torch.Generator, *, step: int, least: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Words as they might have been written and scanned otherwise; a function of ``generator``'s state.

    Args:
        ink: (B, 1, H, W) in [0, 1], white is 0; word i covers its first ``widths[i]`` columns, the rest is
            white.
        widths: (B,) int64 pixels.
        step: new widths are multiples of it, pixels.
        least: (B,) int64 smallest new widths, multiples of ``step``, if there are any.
    Returns:
        (B, 1, H, W') ink, W' the largest of the new widths, and the (B,) new widths.
    """
    ink, widths = warp_words(ink, widths, generator, step=step, least=least)
    is_word = torch.arange(ink.shape[-1]) < widths[:, None, None, None]
    return vary_ink(ink, generator) * is_word, widths
