"""Two word folders side by side: read with every image looked at once, paired by record, drawn at equal
numbers.
"""

import json
from collections import Counter, defaultdict
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
from utils.sources import read_image
from utils.text_images import FILTER_SETTINGS, INFERENCE_SETTINGS, TextImage, read_text_images

CHUNK = 256  # images in memory at once
NAMED = 3  # examples in messages


@dataclass(frozen=True)
class WordSet:
    """The readable words of a word folder.

    Attributes:
        folder: where it lies.
        records: one for each word.
        widths: (N,) pixels; all words are ``height`` pixels high.
        thumbnails: (N, h * w) uint8, see ``make_thumbnail``; all zero for a word without ink.
        skipped: a line for each word whose image is missing or damaged.
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
        """The image of one word, (H, W) uint8."""
        return read_image(self.folder / self.records[index].file_name)

    def chunks(
        self, indices: Sequence[int] | np.ndarray, description: str
    ) -> Iterator[tuple[slice, list[np.ndarray]]]:
        """The images of some words in their order, ``CHUNK`` at a time: (places in ``indices``, images)."""
        with (
            ThreadPoolExecutor() as pool,
            tqdm(total=len(indices), desc=description, unit="word", leave=False) as bar,
        ):
            for start in range(0, len(indices), CHUNK):
                part = slice(start, min(len(indices), start + CHUNK))
                yield part, list(pool.map(self.read, indices[part]))
                bar.update(part.stop - part.start)


def read_word_set(
    folder: Path, records: Sequence[TextImage], *, flag: str, most: int | None = None, seed: int = 0
) -> WordSet:
    """Look at each image of a word folder.

    Args:
        records: what ``read_text_images`` found there.
        flag: the command line flag to name in messages.
        most: draw at most this many words by ``seed``, and keep their order.
    Raises:
        ValueError: if none of the images can be read, or they differ in height.
    """
    if most is not None and len(records) > most:
        chosen = np.random.default_rng(seed).choice(len(records), most, replace=False)
        records = [records[i] for i in sorted(chosen)]

    def look(record: TextImage) -> tuple[tuple[int, int], np.ndarray] | str:
        try:
            image = read_image(folder / record.file_name)
        except (OSError, ValueError) as error:
            return str(error)
        return image.shape, make_thumbnail(image)

    with ThreadPoolExecutor() as pool:
        seen = list(
            tqdm(
                pool.map(look, records),
                total=len(records),
                desc=f"read {folder.name}",
                unit="word",
                leave=False,
            )
        )
    skipped = tuple(verdict for verdict in seen if isinstance(verdict, str))
    kept = [
        (record, *verdict)
        for record, verdict in zip(records, seen, strict=True)
        if not isinstance(verdict, str)
    ]
    if not kept:
        raise UserError(
            f"{flag} {folder}: none of {len(records)} images can be read; the first: {skipped[0]}"
        )
    heights = Counter(shape[0] for _, shape, _ in kept)
    if len(heights) > 1:
        (usual, _), (other, _) = heights.most_common(2)
        odd = next(record.file_name for record, shape, _ in kept if shape[0] == other)
        raise UserError(
            f"{flag} {folder}: images of several heights ({usual} pixels, but {odd} has {other}). Make the"
            " folder with one --img_size."
        )
    thumbnails = np.stack([thumbnail for _, _, thumbnail in kept]).reshape(
        len(kept), THUMBNAIL[0] * THUMBNAIL[1]
    )
    widths = np.array([shape[1] for _, shape, _ in kept])
    return WordSet(
        folder, tuple(record for record, _, _ in kept), next(iter(heights)), widths, thumbnails, skipped
    )


def check_match(real: WordSet, generated: WordSet) -> None:
    """Raise ValueError unless the two folders can be compared: one height, and a writer in common."""
    if real.height != generated.height:
        raise UserError(
            f"--generated {generated.folder}: images {generated.height} pixels high, but those of --real"
            f" {real.folder} have {real.height}. Preprocess the real words with the --img_size of the model's"
            " training."
        )
    names, known = set(generated.writers), set(real.writers)
    if not names & known:
        raise UserError(
            f"--generated {generated.folder}: none of its {len(names)} writers ({_name(names)}) is in --real"
            f" {real.folder} ({len(known)} writers: {_name(known)}). Give the real words of the same hands."
        )


def _name(names: set[str]) -> str:
    return ", ".join(sorted(names)[:NAMED]) + (", …" if len(names) > NAMED else "")


def choose_split(real: WordSet, split: str | None) -> tuple[str, np.ndarray]:
    """The split that generated words are compared with, and its rows; by default ``test`` if there is one,
    else all.

    Raises:
        ValueError: if the split has no word; the message names those that have.
    """
    splits = np.array([record.split for record in real.records])
    name = split or ("test" if "test" in splits else "all")
    rows = np.arange(len(real)) if name == "all" else np.flatnonzero(splits == name)
    if not len(rows):
        raise UserError(
            f"--split {name}: --real {real.folder} has no word of it, only of"
            f" {', '.join(sorted(set(splits)))}"
        )
    return name, rows


def pair_records(generated: WordSet, real: WordSet) -> np.ndarray:
    """(len(generated),) the real word of the same record (file name, and the same text), -1 where there is
    none.
    """
    place = {record.file_name: i for i, record in enumerate(real.records)}
    texts, real_texts = generated.texts, real.texts
    partners = [place.get(record.file_name, -1) for record in generated.records]
    return np.array([j if j >= 0 and real_texts[j] == texts[i] else -1 for i, j in enumerate(partners)])


@dataclass(frozen=True)
class EqualSets:
    """Three sets of equal size with the same number of words of each writer: what distances are measured
    between.

    Attributes:
        reference: (n,) rows of real words, which everything is compared with.
        real: (n,) rows of other real words: their distance to the reference is the floor that sampling alone
            leaves.
        generated: (n,) rows of generated words.
        pairs: how many of ``generated`` are of the same record as one of ``real``.
    """

    reference: np.ndarray
    real: np.ndarray
    generated: np.ndarray
    pairs: int

    @property
    def size(self) -> int:
        """Words in each of the sets."""
        return len(self.reference)


def choose_equal_sets(
    real: WordSet, rows: np.ndarray, generated: WordSet, partners: np.ndarray, seed: int
) -> EqualSets:
    """Draw ``EqualSets`` among the real words ``rows``: of each writer as many as both folders allow.

    Generated words go first that have a partner among ``rows``, and their partners into ``real``: then floor
    and generated words are the same texts in the same hands, and differ in nothing but who wrote them. The
    reference has other texts.
    """
    rng = np.random.default_rng(seed)
    of_writer: dict[str, list[list[int]]] = defaultdict(lambda: [[], []])
    for i in rng.permutation(rows):
        of_writer[real.records[i].writer][0].append(int(i))
    for i in rng.permutation(len(generated)):
        of_writer[generated.records[i].writer][1].append(int(i))
    allowed = set(map(int, rows))
    chosen: tuple[list[int], list[int], list[int]] = ([], [], [])
    pairs = 0
    for writer in sorted(of_writer):
        reals, candidates = of_writer[writer]
        # A partner in another hand (words of one record by a mixed hand) is no pair here.
        own = {
            i: int(partners[i])
            for i in candidates
            if partners[i] in allowed and real.records[partners[i]].writer == writer
        }
        candidates = sorted(candidates, key=lambda i: i not in own)
        count = min(len(candidates), len(reals) // 2)
        first = [own[i] for i in candidates[:count] if i in own]
        others = [i for i in reals if i not in set(first)]
        missing = count - len(first)
        pairs += len(first)
        chosen[0].extend(others[missing : missing + count])
        chosen[1].extend(first + others[:missing])
        chosen[2].extend(candidates[:count])
    return EqualSets(*(np.array(rows, np.int64) for rows in chosen), pairs)


def choose_readable(
    real: WordSet, rows: np.ndarray, generated: WordSet, partners: np.ndarray, seed: int
) -> np.ndarray:
    """Real words to read beside generated ones.

    Returns:
        The partners among ``rows``, in the order of the generated words, if there are any; otherwise words of
        the same writers, of each at most as many as there are generated ones.
    """
    allowed = set(map(int, rows))
    paired = [int(j) for j in partners if j in allowed]
    if paired:
        return np.array(paired)
    wanted, chosen = Counter(record.writer for record in generated.records), []
    for i in np.random.default_rng(seed).permutation(rows):
        writer = real.records[i].writer
        if wanted[writer] > 0:
            wanted[writer] -= 1
            chosen.append(int(i))
    return np.array(sorted(chosen), np.int64)


@dataclass(frozen=True)
class Comparison:
    """Generated and real words, and which are compared with which.

    Attributes:
        split: of the real words in ``rows``; ``all`` for all of them.
        rows: of the real words that are compared with.
        partners: (len(generated),) the real word of each one's record, of whatever split, or -1.
        sets: for distances.
        readable: rows of real words to read beside the generated ones.
    """

    real: WordSet
    generated: WordSet
    split: str
    rows: np.ndarray
    partners: np.ndarray
    sets: EqualSets
    readable: np.ndarray
    seed: int

    @property
    def matches(self) -> np.ndarray:
        """(p, 2) generated words and places in ``readable`` of the same record."""
        place = {int(row): i for i, row in enumerate(self.readable)}
        found = [(i, place[int(row)]) for i, row in enumerate(self.partners) if int(row) in place]
        return np.array(found, np.int64).reshape(-1, 2) if self.is_paired else np.zeros((0, 2), np.int64)

    @property
    def is_paired(self) -> bool:
        """``readable`` holds the partners of generated words, and no other words."""
        return bool(np.isin(self.partners, self.rows).any())

    @property
    def is_fully_paired(self) -> bool:
        """Word i of ``readable`` is of generated word i's record, in the same hand."""
        if len(self.readable) != len(self.generated) or (self.readable != self.partners).any():
            return False
        return bool((self.real.writers[self.readable] == self.generated.writers).all())

    @property
    def unshared(self) -> list[str]:
        """Writers of generated words that no real word is of."""
        return sorted(set(self.generated.writers) - set(self.real.writers))

    def describe(self) -> list[tuple[str, str]]:
        """What is compared, as names and values."""
        count, blank = len(self.generated), int((~self.generated.thumbnails.any(axis=1)).sum())
        names = set(self.generated.writers)
        strangers = f" ({len(self.unshared)} of them not in the real words)" if self.unshared else ""
        return [
            ("generated", f"{self.generated.folder}: {count} words, {len(names)} writers{strangers}"),
            (
                "real",
                (
                    f"{self.real.folder}: {len(self.real)} words, {len(set(self.real.writers))} writers;"
                    f" compared with: {len(self.rows)}"
                    f" ({'all splits' if self.split == 'all' else f'split {self.split}'})"
                ),
            ),
            ("same records", f"{(self.partners >= 0).sum()} of {count} generated words"),
            ("without ink", f"{blank} of {count} generated words"),
        ]

    @property
    def protocol(self) -> str:
        """How the sets were drawn."""
        named = "all splits" if self.split == "all" else f"split {self.split}"
        return (
            f"against other real words of {named}, drawn by seed {self.seed}; of the generated words "
            f"{self.sets.pairs} are of the records in the real set"
        )


def compare_folders(
    real_folder: Path, generated_folder: Path, *, split: str | None, most: int | None, seed: int
) -> Comparison:
    """Read two word folders and decide what is compared with what.

    Raises:
        FileNotFoundError, ValueError: if one can't be read, or they don't match; see the functions above.
    """
    # Both lists before any image: a wrong name shows at once.
    real_records = read_text_images(real_folder, flag="--real")
    generated_records = read_text_images(generated_folder, flag="--generated")
    real = read_word_set(real_folder, real_records, flag="--real")
    generated = read_word_set(generated_folder, generated_records, flag="--generated", most=most, seed=seed)
    check_match(real, generated)
    name, rows = choose_split(real, split)
    partners = pair_records(generated, real)
    return Comparison(
        real,
        generated,
        name,
        rows,
        partners,
        choose_equal_sets(real, rows, generated, partners, seed),
        choose_readable(real, rows, generated, partners, seed),
        seed,
    )


def name_choosers(folder: Path) -> dict[str, str]:
    """Recognisers that had a say in which words a generated folder holds: name to what it did.

    Looks into the settings that inference.py and generation/filter_words.py leave, and those of the folder
    that was filtered.
    """
    choosers: dict[str, str] = {}
    seen: set[Path] = set()
    source: Path | None = folder
    while source is not None and source.resolve() not in seen:
        seen.add(source.resolve())
        folder, source = source, None
        for name, deed in (
            (FILTER_SETTINGS, "filtered the words"),
            (INFERENCE_SETTINGS, "chose among variants"),
        ):
            try:
                values = json.loads((folder / name).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if values.get("recogniser"):
                choosers.setdefault(str(values["recogniser"]), deed)
            if name == FILTER_SETTINGS and values.get("dataset_path"):
                source = Path(values["dataset_path"])
    return choosers


THUMBNAIL = (16, 64)  # (height, width) in cells


def make_thumbnail(image: np.ndarray) -> np.ndarray:
    """The darkness of a word's ink box, stretched to 16x64 cells: (16, 64) uint8, 0 white; all 0 where there
    is no ink.

    A copy stays near its original when it is moved, scaled, blurred or a little noisier.
    """
    box = ink_box(image)
    if box is None:
        return np.zeros(THUMBNAIL, np.uint8)
    left, top, right, bottom = box
    return cv2.resize(255 - image[top:bottom, left:right], THUMBNAIL[::-1], interpolation=cv2.INTER_AREA)
