"""Several word folders as one training set."""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from utils.charset import normalise_text
from utils.errors import UserError
from utils.text_images import SPLITS, TextImage, read_text_images

HELD_OUT_SHARE = 0.02  # of the training words, where a folder has no usable validation split
HELD_OUT_MOST = 512


@dataclass(frozen=True, kw_only=True)
class Source:
    """A word folder and its share in an epoch: 1 once, 2 twice, 0.5 half of its words."""

    folder: Path
    share: float = 1.0


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """The records of several word folders, with what trains and what validates.

    ``records[i]`` has its image at ``paths[i]``; ``shares[i]`` is how often it counts in an epoch; ``flag``
    named the folders on the command line. Without ``holds_out`` nothing validates, and each word of split
    ``train`` trains.
    """

    records: tuple[TextImage, ...]
    paths: tuple[Path, ...]
    shares: tuple[float, ...]
    flag: str = "--dataset_path"
    holds_out: bool = True

    def folder_of(self, index: int) -> Path:
        """The word folder of a record."""
        return self.paths[index].parents[len(Path(self.records[index].file_name).parts) - 1]

    def val_indices(self) -> list[int]:
        """Records that validate, of each folder: its split ``val``, as far as its writers are also in
        ``train``; where there is none, a fixed 2 % of its ``train`` (at most 512, chosen by the hash of their
        names), which then do not train. In the order of their hashes, so that any first few are a fair sample
        of all."""
        if not self.holds_out:
            return []
        writers = {record.writer for record in self.records if record.split == "train"}
        by_folder: dict[Path, list[int]] = {}
        for i in range(len(self.records)):
            by_folder.setdefault(self.folder_of(i), []).append(i)
        chosen = []
        for indices in by_folder.values():
            val = [i for i in indices if self.records[i].split == "val" and self.records[i].writer in writers]
            train = [i for i in indices if self.records[i].split == "train"]
            count = min(HELD_OUT_MOST, math.ceil(HELD_OUT_SHARE * len(train))) if len(train) > 1 else 0
            chosen += val or sorted(train, key=self._hash)[:count]
        # A few folders of a single word each: these train and validate.
        chosen = chosen or [i for i, record in enumerate(self.records) if record.split == "train"]
        return sorted(chosen, key=self._hash)

    def train_indices(self) -> list[int]:
        """Records of split ``train`` that do not validate, each as often as its share says."""
        held_out = set(self.val_indices())
        train = [i for i, r in enumerate(self.records) if r.split == "train" and i not in held_out]
        train = train or [i for i, r in enumerate(self.records) if r.split == "train"]  # a single word
        indices = []
        for i in train:
            times, rest = divmod(self.shares[i], 1)
            indices += [i] * (int(times) + (self._hash(i) < rest * 2**64))
        if not indices:
            raise UserError(
                f"{self.flag}: the shares leave none of {len(train)} words to train on; give larger ones"
            )
        return indices

    def _hash(self, index: int) -> int:
        name = f"{self.records[index].writer}/{self.records[index].file_name}"
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def parse_sources(values: Sequence[str], *, flag: str = "--dataset_path") -> list[Source]:
    """Parse ``FOLDER`` or ``FOLDER:SHARE``; a folder whose name has a colon is taken as it is if it exists.

    Raises:
        ValueError: if a share is not a positive number.
    """
    sources = []
    for value in values:
        folder, colon, share = value.rpartition(":")
        if not colon or Path(value).is_dir():
            sources.append(Source(folder=Path(value)))
            continue
        try:
            number = float(share)
        except ValueError:
            sources.append(Source(folder=Path(value)))  # the folder's own error will name it
            continue
        if not (0 < number < math.inf):
            raise UserError(f"{flag} {value}: the share {share} is not a positive number")
        sources.append(Source(folder=Path(folder), share=number))
    return sources


def read_sources(sources: Sequence[Source], *, flag: str = "--dataset_path") -> TrainingSet:
    """Read word folders together. A writer's name that several folders use becomes ``folder/writer`` in each.

    Raises:
        UserError: if no record is of split ``train`` or one is of an unknown split, a text is empty, or two
            folders of one name hold one writer's name.
    """
    folders = [read_text_images(source.folder, flag=flag) for source in sources]
    uses = Counter(writer for records in folders for writer in {record.writer for record in records})
    records, paths, shares = [], [], []
    for source, folder_records in zip(sources, folders, strict=True):
        for record in folder_records:
            text = normalise_text(record.text)
            if record.split not in SPLITS:
                raise UserError(
                    f"{flag} {source.folder}: {record.file_name} is of split {record.split!r:.40}, which is"
                    f" none of {', '.join(SPLITS)}, so it would never be used. Correct it in metadata.jsonl."
                )
            if not text:
                raise UserError(f"{flag} {source.folder}: {record.file_name} has an empty text")
            name = (
                f"{source.folder.resolve().name}/{record.writer}"
                if uses[record.writer] > 1
                else record.writer
            )
            records.append(replace(record, text=text, writer=name))
            paths.append(source.folder / record.file_name)
            shares.append(source.share)
    if len({source.folder.resolve().name for source in sources}) != len(sources) and max(uses.values()) > 1:
        raise UserError(f"{flag}: two folders of one name share a writer's name; rename one of the folders")
    if not any(record.split == "train" for record in records):
        raise UserError(f"{flag} {' '.join(str(s.folder) for s in sources)}: no word of split train")
    return TrainingSet(records=tuple(records), paths=tuple(paths), shares=tuple(shares), flag=flag)


def read_image(path: Path) -> np.ndarray:
    """One text image as (H, W) uint8 grey.

    Raises:
        FileNotFoundError, UserError: if the image is missing, damaged, or no file; the message names it.
    """
    if path.exists() and not path.is_file():  # reading a pipe would have no end
        raise UserError(f"{path}: not a file")
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: the image is named in metadata.jsonl but is not there") from error
    except Exception as error:  # Pillow's decoders raise many kinds, also for decompression bombs
        raise UserError(f"{path}: not a readable image ({' '.join(str(error).split())})") from error


def read_images(paths: Sequence[Path], *, height: int | None = None) -> list[np.ndarray]:
    """Text images of one height and any widths, each (height, W) uint8.

    Args:
        height: pixels; that of the first image by default.
    Raises:
        UserError: if an image is damaged, of another height, or no multiple of 8 pixels high or wide.
    """
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor() as pool:
        images = list(pool.map(read_image, paths))
    height = height or images[0].shape[0]
    for path, image in zip(paths, images, strict=True):
        if image.shape[0] != height:
            raise UserError(
                f"{path}: {image.shape[0]} pixels high, but the images before it have {height}. Preprocess"
                " all folders with one height in --img_size."
            )
        if image.shape[0] % 8 or image.shape[1] % 8:
            raise UserError(
                f"{path}: {image.shape[0]}x{image.shape[1]} pixels; height and width must be multiples of 8"
            )
    return images
