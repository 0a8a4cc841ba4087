"""Jobs: the images that inference is to write, each with its text, writer, file name and number."""

import hashlib
import re
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import torch

from diffusion.pipeline import HandwritingPipeline
from generation.output_folder import SHEET_FOLDER, SHEET_NAME
from utils.charset import normalise_text
from utils.errors import UserError
from utils.text_images import IMAGE_FOLDER, TextImage
from utils.training import make_generator

Style = str | Mapping[str, float]
MAX_JOBS = 100_000_000  # images in one job; the names of samples in tars have nine digits


@dataclass(frozen=True, kw_only=True)
class Job:
    """One image to write; ``index`` fixes its noise, ``writer`` is a name or shares of several."""

    index: int
    record: TextImage
    writer: Style


class JobList(Sequence[Job]):
    """Jobs, each made when it is asked for, so that a million of them need no memory. A slice is a view."""

    def __init__(self, make: Callable[[int], Job], positions: range | np.ndarray) -> None:
        self._make = make
        self._positions = positions

    @classmethod
    def of(cls, jobs: Sequence[Job]) -> "JobList":
        """Jobs that are there already."""
        return cls(jobs.__getitem__, range(len(jobs)))

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, item: int) -> Job: ...
    @overload
    def __getitem__(self, item: slice) -> "JobList": ...
    def __getitem__(self, item):
        if isinstance(item, slice):
            return JobList(self._make, self._positions[item])
        return self._make(int(self._positions[item]))

    def select(self, places: Sequence[int] | np.ndarray) -> "JobList":
        """The jobs at these places, in their order."""
        places, of = np.asarray(places, dtype=np.int64), self._positions
        return JobList(self._make, of.start + of.step * places if isinstance(of, range) else of[places])


def fingerprint(jobs: Sequence[Job]) -> str:
    """16 hexadecimal digits that tell whether two lists of jobs are the same."""
    digest = hashlib.sha256()
    for job in jobs:
        digest.update(job.record.as_json().encode())
    return digest.hexdigest()[:16]


# Writers
# ------------------------------------------------------------------------------------------------------------


def parse_mix(values: Sequence[str]) -> dict[str, float]:
    """``["A:0.7", "B:0.3"]`` to shares that sum to 1; a name without a share has 1 before that.

    Raises:
        UserError: if a share is not a positive number, or a name is there twice.
    """
    shares: dict[str, float] = {}
    for value in values:
        name, colon, share = value.rpartition(":")
        name, share = (name, share) if colon else (value, "1")
        try:
            number = float(share)
        except ValueError:
            number = -1.0
        if not 0 < number < float("inf"):
            raise UserError(f"--mix {value}: the share {share!r} is not a positive number (write NAME:SHARE)")
        if name in shares:
            raise UserError(f"--mix: {name!r} is there twice")
        shares[name] = number
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}


def choose_writers(names: Sequence[str], known: Sequence[str]) -> list[str] | None:
    """Writers by name; ``all`` is every known one. None for ``random`` (unless a writer has that name): one
    is drawn for each image.
    """
    if list(names) == ["random"] and "random" not in known:
        return None
    return list(known) if list(names) == ["all"] and "all" not in known else list(names)


def describe_style(style: Style) -> str:
    """A writer's name, or ``A:0.70+B:0.30`` for a mix."""
    if isinstance(style, str):
        return style
    return "+".join(f"{name}:{share:.2f}" for name, share in style.items())


# Lists of jobs
# ------------------------------------------------------------------------------------------------------------


def slug(text: str) -> str:
    """A text as part of a file name."""
    return re.sub(r"[^\w\-]+", "_", text).strip("_")[:24] or "word"


def _check_count(count: int, num_per_word: int) -> None:
    if count > MAX_JOBS:
        raise UserError(
            f"--num_per_word {num_per_word}: makes {count:,} images; one job holds at most {MAX_JOBS:,}. Give"
            " a smaller number, and run several jobs with another --seed and --save_path each."
        )


def jobs_of_texts(
    texts: Sequence[str],
    writers: Sequence[Style] | None,
    known: Sequence[str],
    *,
    num_per_word: int = 1,
    seed: int = 0,
    splits: Sequence[str] = (),
) -> JobList:
    """Each text in each of the styles.

    Args:
        writers: names or mixes; None draws one of ``known`` for each image, by ``seed`` and the image's
            number.
        num_per_word: images of each text and writer.
        splits: each text's split; ``train`` by default.
    Raises:
        UserError: if these are more than ``MAX_JOBS`` images.
    """
    styles = list(writers) if writers else []
    images_per_text = num_per_word * max(1, len(styles))
    count = len(texts) * images_per_text
    _check_count(count, num_per_word)
    # Drawing a number takes longer than all the rest of a job, and each job is made several times.
    drawn = np.full(0 if styles else count, -1, np.int32)

    def draw_writer(index: int) -> str:
        if drawn[index] < 0:
            generator = make_generator("cpu", seed, index, 0xAD)
            drawn[index] = int(torch.randint(len(known), (1,), generator=generator))
        return known[drawn[index]]

    def make(index: int) -> Job:
        number = index // images_per_text
        style = styles[index % len(styles)] if styles else draw_writer(index)
        text, name = texts[number], describe_style(style)
        file_name = f"{IMAGE_FOLDER}/{index:06d}-{slug(text)}-{slug(name)}.png"
        split = splits[number] if splits else "train"
        return Job(
            index=index,
            record=TextImage(file_name=file_name, text=text, writer=name, split=split),
            writer=style,
        )

    return JobList(make, range(count))


def jobs_of_records(records: Sequence[TextImage], *, num_per_word: int = 1) -> JobList:
    """Each record again in its own writer's style, under its own file name, so that two folders compare by
    name.

    Raises:
        UserError: if two records differ in their images' suffix alone, an image has the name of a sheet, or
            these are more than ``MAX_JOBS`` images.
    """
    _check_count(len(records) * num_per_word, num_per_word)
    stems = [Path(record.file_name).with_suffix("").as_posix() for record in records]
    if len(set(stems)) != len(stems):
        raise UserError("--dataset_path: several images have one name but for the suffix; rename them")
    if taken := [
        stem for stem in stems if f"{stem}.png" == SHEET_NAME or stem.startswith(f"{SHEET_FOLDER}/")
    ]:
        raise UserError(
            f"--dataset_path: the image {taken[0]} has the name of a sheet, which would overwrite it."
            " Rename it, in metadata.jsonl too."
        )

    def make(index: int) -> Job:
        number, image = divmod(index, num_per_word)
        record = records[number]
        file_name = f"{stems[number]}-{image}.png" if num_per_word > 1 else f"{stems[number]}.png"
        written = TextImage(
            file_name=file_name, text=normalise_text(record.text), writer=record.writer, split=record.split
        )
        return Job(index=index, record=written, writer=record.writer)

    return JobList(make, range(len(records) * num_per_word))


def check_jobs(pipeline: HandwritingPipeline, jobs: JobList, skip_unknown: bool, flag: str) -> JobList:
    """The jobs that the checkpoint can do.

    Args:
        skip_unknown: leave the others out and print their number; else the first of them is an error.
        flag: the command line flag to name in messages.
    Raises:
        UserError: names the character, writer or length, and what the checkpoint knows.
    """

    def find_fault(text: str | None, writer: Style | None) -> str | None:
        if text == "":
            return "an empty text"
        try:
            pipeline.check([] if text is None else [text], [] if writer is None else [writer])
        except UserError as error:
            return str(error)
        return None

    texts: dict[str, str | None] = {}  # and the writers: what is wrong with each, if anything
    writers: dict[str, str | None] = {}
    kept, first_fault = array("q"), None
    for position, job in enumerate(jobs):
        text, name = job.record.text, job.record.writer
        if text not in texts:
            texts[text] = find_fault(text, None)
        if name not in writers:
            writers[name] = find_fault(None, job.writer)
        fault = texts[text] or writers[name]
        if fault is None:
            kept.append(position)
            continue
        if not skip_unknown:
            raise UserError(
                f"{flag}: {fault}\nUse other words or writers, train with them, or give --skip_unknown."
            )
        first_fault = first_fault or fault
    if not kept:
        raise UserError(f"none of {len(jobs)} words can be written by this checkpoint: {first_fault}")
    if len(kept) == len(jobs):
        return jobs
    print(f"skipped     {len(jobs) - len(kept)} of {len(jobs)} words that the model does not know")
    return jobs.select(kept)
