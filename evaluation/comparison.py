"""Real and generated images side by side: paired by record, drawn at equal numbers of each writer."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluation.image_sets import ImageSet, read_image_set, read_records
from utils.errors import UserError

NAMED = 3  # examples in messages


def check_match(real: ImageSet, generated: ImageSet, *, is_of_one_height: bool = True) -> None:
    """Raise UserError unless the two folders can be compared: one height, and a writer in common."""
    if is_of_one_height and real.height != generated.height:
        raise UserError(
            f"--generated {generated.folder}: images {generated.height} pixels high, but those of --real"
            f" {real.folder} have {real.height}. Preprocess the real images with the"
            " --img_size of the model's training."
        )
    names, known = set(generated.writers), set(real.writers)
    if not names & known:
        raise UserError(
            f"--generated {generated.folder}: none of its {len(names)} writers ({_name(names)}) is in --real"
            f" {real.folder} ({len(known)} writers: {_name(known)}). Give real images of the same writers."
        )


def _name(names: set[str]) -> str:
    return ", ".join(sorted(names)[:NAMED]) + (", …" if len(names) > NAMED else "")


def choose_split(real: ImageSet, split: str | None) -> tuple[str, np.ndarray]:
    """The split that generated images are compared with, and its rows.

    Args:
        split: by default ``test`` if there is one, else all.
    Raises:
        UserError: if the split has no image; the message names the splits that have some.
    """
    splits = np.array([record.split for record in real.records])
    name = split or ("test" if "test" in splits else "all")
    rows = np.arange(len(real)) if name == "all" else np.flatnonzero(splits == name)
    if not len(rows):
        raise UserError(
            f"--split {name}: --real {real.folder} has no image of it, only of"
            f" {', '.join(sorted(set(splits)))}"
        )
    return name, rows


def pair_records(generated: ImageSet, real: ImageSet) -> np.ndarray:
    """(len(generated),) the real image of the same record (file name and text), -1 where there is none."""
    row_of = {record.file_name: row for row, record in enumerate(real.records)}
    texts, real_texts = generated.texts, real.texts
    partners = np.full(len(generated), -1)
    for i, record in enumerate(generated.records):
        row = row_of.get(record.file_name, -1)
        if row >= 0 and real_texts[row] == texts[i]:
            partners[i] = row
    return partners


@dataclass(frozen=True, kw_only=True)
class EqualSets:
    """Three sets of equal size with the same number of images of each writer: what distances are measured
    between.

    Attributes:
        reference: (n,) rows of real images, with which the other two are compared.
        real: (n,) rows of other real images: their distance to the reference is what remains where real
            writing is compared with real writing (the floor).
        generated: (n,) rows of generated images.
        pairs: how many of ``generated`` are of the same record as one of ``real``.
    """

    reference: np.ndarray
    real: np.ndarray
    generated: np.ndarray
    pairs: int

    @property
    def size(self) -> int:
        """Images in each of the sets."""
        return len(self.reference)


def choose_equal_sets(
    real: ImageSet,
    rows: np.ndarray,
    generated: ImageSet,
    partners: np.ndarray,
    seed: int,
    limits: Mapping[str, int] | None = None,
) -> EqualSets:
    """Draw ``EqualSets`` among the real images ``rows``: of each writer as many as both folders allow.

    Generated images with a partner among ``rows`` go first, and their partners into ``real``: then floor and
    generated images have the same texts and writers, and differ in nothing but who wrote them. The reference
    has other texts.

    Args:
        limits: most images of each writer; none of others.
    """
    rng = np.random.default_rng(seed)
    real_rows: dict[str, list[int]] = defaultdict(list)
    for row in rng.permutation(rows).tolist():
        real_rows[real.records[row].writer].append(row)
    generated_rows: dict[str, list[int]] = defaultdict(list)
    for row in rng.permutation(len(generated)).tolist():
        generated_rows[generated.records[row].writer].append(row)
    allowed = set(map(int, rows))
    reference, others, chosen, pairs = [], [], [], 0
    for writer in sorted(real_rows.keys() & generated_rows.keys()):
        available = real_rows[writer]
        # A partner by another writer (a record written in a mixed style) is no pair here.
        partner_of = {
            i: int(partners[i])
            for i in generated_rows[writer]
            if int(partners[i]) in allowed and real.records[partners[i]].writer == writer
        }
        candidates = sorted(generated_rows[writer], key=lambda i: i not in partner_of)
        count = min(len(candidates), len(available) // 2)
        count = count if limits is None else min(count, limits.get(writer, 0))
        paired = [partner_of[i] for i in candidates[:count] if i in partner_of]
        taken = set(paired)
        rest = [row for row in available if row not in taken]
        missing = count - len(paired)
        pairs += len(paired)
        reference += rest[missing : missing + count]
        others += paired + rest[:missing]
        chosen += candidates[:count]
    return EqualSets(
        reference=np.array(reference, np.int64),
        real=np.array(others, np.int64),
        generated=np.array(chosen, np.int64),
        pairs=pairs,
    )


def choose_readable(
    real: ImageSet, rows: np.ndarray, generated: ImageSet, partners: np.ndarray, seed: int
) -> np.ndarray:
    """Real images to read beside generated ones.

    Returns:
        The partners among ``rows``, in the order of the generated images, if there are any; otherwise images
        of the same writers, of each at most as many as there are generated ones.
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


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Generated and real images, and which are compared with which.

    Attributes:
        split: of the real images in ``rows``; ``all`` for all of them.
        rows: the real images that are compared with.
        partners: (len(generated),) the real image of each one's record, of whatever split, or -1.
        sets: for distances.
        readable: rows of real images to read beside the generated ones.
        seed: of all drawing.
    """

    real: ImageSet
    generated: ImageSet
    split: str
    rows: np.ndarray
    partners: np.ndarray
    sets: EqualSets
    readable: np.ndarray
    seed: int

    @property
    def matches(self) -> np.ndarray:
        """(p, 2) generated images and the positions in ``readable`` of their records' real images."""
        if not self.is_paired:
            return np.zeros((0, 2), np.int64)
        position = {int(row): i for i, row in enumerate(self.readable)}
        matches = [(i, position[row]) for i, row in enumerate(self.partners.tolist()) if row in position]
        return np.array(matches, np.int64).reshape(-1, 2)

    @property
    def is_paired(self) -> bool:
        """``readable`` holds the partners of generated images, and no others."""
        return bool(np.isin(self.partners, self.rows).any())

    @property
    def is_fully_paired(self) -> bool:
        """Image i of ``readable`` is of generated image i's record, by the same writer."""
        if len(self.readable) != len(self.generated) or (self.readable != self.partners).any():
            return False
        return bool((self.real.writers[self.readable] == self.generated.writers).all())

    @property
    def unshared(self) -> list[str]:
        """Writers of generated images of whom there is no real image."""
        return sorted(set(self.generated.writers) - set(self.real.writers))

    @property
    def split_name(self) -> str:
        """``split test``, or ``all splits``."""
        return "all splits" if self.split == "all" else f"split {self.split}"

    def describe(self) -> list[tuple[str, str]]:
        """What is compared, as names and values."""
        count, blank = len(self.generated), int((~self.generated.thumbnails.any(axis=1)).sum())
        names = set(self.generated.writers)
        unknown = f" ({len(self.unshared)} of them not in the real images)" if self.unshared else ""
        return [
            ("generated", f"{self.generated.folder}: {count} images, {len(names)} writers{unknown}"),
            (
                "real",
                f"{self.real.folder}: {len(self.real)} images, {len(set(self.real.writers))} writers;"
                f" compared with: {len(self.rows)} ({self.split_name})",
            ),
            ("same records", f"{(self.partners >= 0).sum()} of {count} generated images"),
            ("without ink", f"{blank} of {count} generated images"),
        ]

    @property
    def protocol(self) -> str:
        """How the sets were drawn."""
        return (
            f"against other real images of {self.split_name}, drawn by seed {self.seed};"
            f" {self.sets.pairs} of the generated images have the same record as an image of the real set"
        )


def compare_folders(
    real_folder: Path,
    generated_folder: Path,
    *,
    split: str | None,
    most: int | None,
    seed: int,
    is_of_one_height: bool = True,
    limits: Mapping[str, int] | None = None,
    flag: str = "--generated",
) -> Comparison:
    """Read two folders of text images and decide what is compared with what.

    Args:
        is_of_one_height: False for measures that bring the images to a height of their own.
        limits: see ``choose_equal_sets``.
        flag: of the generated folder, to name in messages.
    Raises:
        FileNotFoundError, UserError: if one can't be read, or they don't match; see the functions above.
    """
    # Both lists before any image: a wrong name shows at once.
    real_records = read_records(real_folder, flag="--real")
    generated_records = read_records(generated_folder, flag=flag)
    heights = {"is_of_one_height": is_of_one_height}
    real = read_image_set(real_folder, real_records, flag="--real", **heights)
    generated = read_image_set(
        generated_folder, generated_records, flag=flag, most=most, seed=seed, **heights
    )
    check_match(real, generated, **heights)
    name, rows = choose_split(real, split)
    partners = pair_records(generated, real)
    return Comparison(
        real=real,
        generated=generated,
        split=name,
        rows=rows,
        partners=partners,
        sets=choose_equal_sets(real, rows, generated, partners, seed, limits),
        readable=choose_readable(real, rows, generated, partners, seed),
        seed=seed,
    )
