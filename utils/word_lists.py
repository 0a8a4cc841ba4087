"""Labelled word images for a recogniser: one split of a word folder, their ink, the characters that they need."""

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from utils.charset import Charset, normalise_text
from utils.reading import crop_to_ink
from utils.sources import TrainingWords, read_image
from utils.word_folder import WordRecord, read_word_folder

Words = tuple[Sequence[WordRecord], Sequence[Path]]  # records and where their images are


def read_split(folder: Path, split: str, *, flag: str) -> Words:
    """The words of one split of a word folder, texts normalised.

    Raises:
        FileNotFoundError, ValueError: if there is no such folder, no word of this split, or an empty text.
    """
    try:
        records = read_word_folder(folder, flag=flag, splits=(split,))
    except ValueError as error:
        raise ValueError(f"{error}. {flag}_split names another split.") from error
    records = [replace(record, text=normalise_text(record.text)) for record in records]
    if empty := [record.file_name for record in records if not record.text]:
        raise ValueError(f"{flag} {folder}: {empty[0]} has an empty text")
    return records, [folder / record.file_name for record in records]


def pick_words(records: Sequence[WordRecord], paths: Sequence[Path], indices: Iterable[int]) -> Words:
    """The words of these indices."""
    chosen = list(indices)
    return [records[i] for i in chosen], [paths[i] for i in chosen]


def take_sample(words: Words, most: int) -> Words:
    """At most ``most`` words, evenly spread over all."""
    count = len(words[0])
    return pick_words(*words, np.linspace(0, count - 1, min(most, count)).round().astype(int))


def count_by_folder(words: TrainingWords, indices: Iterable[int]) -> dict[str, int]:
    """How many of these indices lie in each word folder."""
    return dict(Counter(str(words.folder_of(i)) for i in indices))


def load_crops(paths: Sequence[Path], *, img_height: int) -> list[np.ndarray]:
    """Word images of one height and any widths, (img_height, w) uint8, cut to their ink.

    Raises:
        FileNotFoundError, ValueError: if an image is missing, damaged or of another height; the message names it.
    """
    with ThreadPoolExecutor() as pool:
        images = pool.map(lambda path: crop_to_ink(read_image(path)).copy(), paths)  # a view would keep the whole image
        crops = list(tqdm(images, total=len(paths), desc="read images", unit="word", leave=False))
    for path, crop in zip(paths, crops):
        if crop.shape[0] != img_height:
            raise ValueError(f"{path}: {crop.shape[0]} pixels high, but the words to train on have {img_height}. Preprocess "
                             "all word folders with one height in --img_size.")  # fmt: skip
    return crops


def count_unknown(texts: Iterable[str], charset: Charset) -> dict[str, int]:
    """In how many of the texts each character stands that is not in the charset."""
    return dict(Counter(character for text in texts for character in charset.unknown(text)))
