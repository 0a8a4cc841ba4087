"""A folder of text images as the evaluation reads it: each image looked at once, damaged ones counted."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from utils.charset import normalise_text
from utils.errors import UserError
from utils.images import ink_box
from utils.json_files import read_json
from utils.sources import read_image
from utils.text_images import IMAGE_FOLDER, METADATA_NAME, TextImage, read_text_images

CHUNK = 256  # images in memory at once
THUMBNAIL = (16, 64)  # (height, width) in cells
TRANSCRIPTIONS = "transcriptions.json"  # of a folder of authors


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """The readable images of a folder of text images. They have one height and any widths.

    Attributes:
        folder: where it lies.
        records: (N,) one for each image.
        height: of the images, pixels.
        widths: (N,) pixels.
        thumbnails: (N, h * w) uint8, see ``make_thumbnail``; all zero for an image without ink.
        skipped: a line for each image that is missing or damaged.
    """

    folder: Path
    records: tuple[TextImage, ...]
    height: int
    widths: np.ndarray
    thumbnails: np.ndarray
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    @property
    def writers(self) -> np.ndarray:
        """(N,) names."""
        return np.array([record.writer for record in self.records])

    @property
    def texts(self) -> list[str]:
        """The texts, normalised."""
        return [normalise_text(record.text) for record in self.records]

    def read(self, index: int) -> np.ndarray:
        """One image, (H, W) uint8."""
        return read_image(self.folder / self.records[index].file_name)

    def chunks(
        self, indices: Sequence[int] | np.ndarray, description: str
    ) -> Iterator[tuple[slice, list[np.ndarray]]]:
        """Some images in their order, ``CHUNK`` at a time.

        Yields:
            Which of ``indices`` they are, and the images, (H, W_i) uint8.
        """
        with (
            ThreadPoolExecutor() as pool,
            tqdm(total=len(indices), desc=description, unit="image", leave=False) as bar,
        ):
            for start in range(0, len(indices), CHUNK):
                part = slice(start, min(len(indices), start + CHUNK))
                yield part, list(pool.map(self.read, indices[part]))
                bar.update(part.stop - part.start)


def is_author_folder(folder: Path) -> bool:
    """Whether a folder holds a folder of images for each author, as HWD's authors publish generations."""
    return not (folder / METADATA_NAME).is_file() and bool(_images_of_authors(folder))


def _images_of_authors(folder: Path) -> list[Path]:
    images = (path for path in folder.rglob("*.png") if path.parent != folder)
    # A folder of text images that was not finished is none of an author "images".
    return sorted(path for path in images if path.parent != folder / IMAGE_FOLDER)


def read_records(folder: Path, *, flag: str) -> list[TextImage]:
    """The records of a folder of text images, or of a folder of authors: ``AUTHOR/*.png``, and maybe
    ``transcriptions.json`` (path to text) beside them.

    Args:
        flag: the command line flag to name in messages.
    Raises:
        FileNotFoundError, UserError: if it is neither, or the transcriptions are no such table.
    """
    if not is_author_folder(folder):
        return read_text_images(folder, flag=flag)
    path = folder / TRANSCRIPTIONS
    texts = read_json(path, flag) if path.is_file() else {}
    if not all(isinstance(text, str) for text in texts.values()):
        raise UserError(f"{flag} {path}: not a table of images and their texts")
    names = [image.relative_to(folder).as_posix() for image in _images_of_authors(folder)]
    return [
        TextImage(file_name=name, text=texts.get(name, ""), writer=name.split("/")[-2], split="test")
        for name in names
    ]


def read_image_set(
    folder: Path,
    records: Sequence[TextImage],
    *,
    flag: str,
    most: int | None = None,
    seed: int = 0,
    is_of_one_height: bool = True,
) -> ImageSet:
    """Look at each image of a folder of text images.

    Args:
        records: what ``read_text_images`` gave for this folder.
        flag: the command line flag to name in messages.
        most: draw at most this many images by ``seed``, and keep their order.
        is_of_one_height: False allows images of any heights; the set's is the commonest then.
    Raises:
        UserError: if none of the images can be read, or they differ in height and may not.
    """
    if most is not None and len(records) > most:
        chosen = np.random.default_rng(seed).choice(len(records), most, replace=False)
        records = [records[i] for i in sorted(chosen)]

    def look(record: TextImage) -> tuple[tuple[int, int], np.ndarray] | str:
        try:
            image = read_image(folder / record.file_name)
        except (OSError, UserError) as error:
            return str(error)
        return image.shape, make_thumbnail(image)

    with ThreadPoolExecutor() as pool:
        bar = tqdm(
            pool.map(look, records),
            total=len(records),
            desc=f"read {folder.name}",
            unit="image",
            leave=False,
        )
        looks = list(bar)
    skipped = tuple(look for look in looks if isinstance(look, str))
    kept = [(record, *look) for record, look in zip(records, looks, strict=True) if not isinstance(look, str)]
    if not kept:
        raise UserError(
            f"{flag} {folder}: none of {len(records)} images can be read; the first: {skipped[0]}"
        )
    heights = [(record.file_name, shape[0]) for record, shape, _ in kept]
    usual = Counter(height for _, height in heights).most_common(1)[0][0]
    return ImageSet(
        folder=folder,
        records=tuple(record for record, _, _ in kept),
        height=check_heights(heights, f"{flag} {folder}") if is_of_one_height else usual,
        widths=np.array([shape[1] for _, shape, _ in kept]),
        thumbnails=np.stack([thumbnail.ravel() for _, _, thumbnail in kept]),
        skipped=skipped,
    )


def check_heights(heights: Sequence[tuple[str, int]], label: str) -> int:
    """The one height of (file name, height) pairs.

    Raises:
        UserError: if there are several; the message begins with ``label`` and names an image.
    """
    counts = Counter(height for _, height in heights)
    if len(counts) > 1:
        (usual, _), (other, _) = counts.most_common(2)
        example = next(name for name, height in heights if height == other)
        raise UserError(
            f"{label}: images of several heights ({usual} pixels, but {example} has {other}). Make the"
            " folder with one --img_size."
        )
    return next(iter(counts))


def make_thumbnail(image: np.ndarray) -> np.ndarray:
    """The darkness of an image's ink box, stretched to 16x64 cells: (16, 64) uint8, 0 white; all 0 where
    there is no ink.

    A copy stays near its original when it is moved, scaled, blurred or a little noisier.
    """
    box = ink_box(image)
    if box is None:
        return np.zeros(THUMBNAIL, np.uint8)
    left, top, right, bottom = box
    return cv2.resize(255 - image[top:bottom, left:right], THUMBNAIL[::-1], interpolation=cv2.INTER_AREA)
