"""Generated images into a folder of text images: what is missing, the parts of several processes, sheets."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from generation.jobs import Job, JobList, slug
from generation.output_folder import SHEET_FOLDER, SHEET_NAME, Part, remove_leftovers_of_parts
from generation.sampling import Outcome, Sampler
from utils.errors import UserError
from utils.images import make_sheet
from utils.output import is_whole_png, save_image, write_atomically
from utils.text_images import METADATA_NAME, TextImage, read_jsonl, read_metadata, write_metadata

REJECTED_NAME = "rejected.jsonl"
SHEET_WORDS = 64
LINE_ASPECT = 8  # images that are wider for their height stand below one another in a sheet


class FolderWriter:
    """Writes jobs as a folder of text images, and goes on where an earlier process was interrupted.

    Args:
        folder: one that ``prepare_output`` has approved of.
        jobs: of all parts; every ``part.count``-th job is this part's.
        is_single: False: also a sheet for each word, with all its images.
        is_selective: a recogniser may leave words out; what it read is kept in the folder, so that an
            interrupted job knows it.
    """

    def __init__(
        self,
        folder: Path,
        jobs: JobList,
        *,
        part: Part | None = None,
        is_single: bool = True,
        is_selective: bool = False,
    ) -> None:
        self.folder, self.jobs = folder, jobs
        self.part = part or Part()
        self.is_single, self.is_selective = is_single, is_selective
        self._outcomes: dict[str, Outcome] = {}
        self._written = 0
        self._finished_with: int | None = None  # words that the folder held at the start

    # Writing
    # --------------------------------------------------------------------------------------------------------

    def write(self, sample: Sampler) -> int:
        """Write the images of this part that are not there yet, in batches; returns their number."""
        jobs = self.jobs[self.part.number :: self.part.count]
        if (self.folder / METADATA_NAME).is_file():
            # Words that were left out are not in it; images may have been removed since.
            kept = {record.file_name for record in read_metadata(self.folder / METADATA_NAME)}
            self._finished_with = len(kept)
            missing = self._find(jobs, lambda name: name in kept and not is_whole_png(self.folder / name))
        elif self.is_selective:
            self._outcomes = read_outcomes(self._readings_path(self.part))
            missing = self._find(jobs, lambda name: not self._is_done(name))
        else:
            missing = self._find(jobs, lambda name: not is_whole_png(self.folder / name))
        for parent in {(self.folder / job.record.file_name).parent for job in missing}:
            parent.mkdir(parents=True, exist_ok=True)
        with (
            tqdm(total=len(jobs), initial=len(jobs) - len(missing), unit="image", desc="write") as bar,
            ThreadPoolExecutor() as pool,
        ):
            saving: list[Future] = []
            for batch, images, outcomes in sample(missing):
                for future in saving:  # the last batch's images were saved while this one was drawn
                    future.result()
                saving = [
                    pool.submit(save_image, image, self.folder / job.record.file_name)
                    for job, image in zip(batch, images, strict=True)
                    if image is not None
                ]
                self._note(outcomes)
                bar.update(len(batch))
            for future in saving:
                future.result()
        self._written = len(missing)
        return self._written

    def _find(self, jobs: JobList, is_wanted: Callable[[str], bool]) -> JobList:
        return jobs.select([i for i, job in enumerate(jobs) if is_wanted(job.record.file_name)])

    def _is_done(self, name: str) -> bool:
        """Rejected words are done; images without an outcome, written just before a kill, are not."""
        outcome = self._outcomes.get(name)
        return outcome is not None and (not outcome.is_kept or is_whole_png(self.folder / name))

    def _note(self, outcomes: Sequence[Outcome]) -> None:
        if not outcomes or self._finished_with is not None:
            return
        with self._readings_path(self.part).open("a", encoding="utf-8") as file:
            file.write("\n")  # behind a line that a kill cut off
            file.writelines(_outcome_line(outcome) for outcome in outcomes)
        self._outcomes |= {outcome.file_name: outcome for outcome in outcomes}

    def _readings_path(self, part: Part) -> Path:
        return self.folder / f"readings-{part.name}.jsonl"

    # Finishing
    # --------------------------------------------------------------------------------------------------------

    def finish(self) -> str:
        """Write the sheets, and last of all the metadata, once all parts are there."""
        if self._finished_with is not None:
            return (
                f"finished    {self.folder} held these {self._finished_with} words already, but for"
                f" {self._written} missing images; --overwrite writes them anew"
            )
        parts = [Part(number=number, count=self.part.count) for number in range(self.part.count)]
        if self.part.count > 1:
            jobs = self.jobs[self.part.number :: self.part.count]
            write_metadata(self.folder, self._kept_records(jobs), name=shard_metadata_name(self.part))
            for part in parts:
                self._outcomes |= read_outcomes(self._readings_path(part))
            names = [record.file_name for record in self._kept_records(self.jobs)]
            if not merge_shards(self.folder, self.part.count, names, self._write_rest):
                return f"wrote       part {self.part.describe()}: {len(jobs)} images to {self.folder}"
        else:
            self._write_rest()
            write_metadata(self.folder, self._kept_records(self.jobs))
        for part in parts:
            self._readings_path(part).unlink(missing_ok=True)
        if self.part.count > 1:
            remove_leftovers_of_parts(self.folder, self.part, "--save_path")
        return self._describe()

    def _kept_records(self, jobs: JobList) -> Iterator[TextImage]:
        """The records of the words that are kept, with their scores."""
        for job in jobs:
            outcome = self._outcomes.get(job.record.file_name)
            if outcome is None:
                yield job.record
            elif outcome.is_kept:
                yield replace(job.record, extra=outcome.scores)

    def _is_kept(self, job: Job) -> bool:
        outcome = self._outcomes.get(job.record.file_name)
        return outcome is None or outcome.is_kept

    def _write_rest(self) -> None:
        """What comes before the metadata, which says that all is there."""
        kept = self.jobs
        if self._outcomes:
            kept = self.jobs.select([i for i, job in enumerate(self.jobs) if self._is_kept(job)])
            rejected = [self._outcomes[job.record.file_name] for job in self.jobs if not self._is_kept(job)]
            if rejected:
                write_atomically(self.folder / REJECTED_NAME, "".join(map(_outcome_line, rejected)))
        write_sheets(kept, self.folder, self.is_single)

    def _describe(self) -> str:
        left_out = sum(not outcome.is_kept for outcome in self._outcomes.values())
        kept = len(self.jobs) - left_out
        lines = []
        if left_out:
            lines.append(
                f"left out    {left_out} of {len(self.jobs)} words that the recogniser reads with more"
                f" character errors than --max_cer allows ({REJECTED_NAME})"
            )
        if kept:
            lines.append(f"wrote       {kept} images to {self.folder} ({SHEET_NAME} shows the first)")
        else:
            lines.append(
                f"wrote       no images to {self.folder}: allow more errors with --max_cer, or more variants"
                " with --best_of"
            )
        return "\n".join(lines)


def _outcome_line(outcome: Outcome) -> str:
    return json.dumps(asdict(outcome), ensure_ascii=False) + "\n"


def read_outcomes(path: Path) -> dict[str, Outcome]:
    """The outcomes that were noted in a file, by file name; none if it is not there."""
    return {values["file_name"]: Outcome(**values) for values in read_jsonl(path)}


def write_sheets(jobs: JobList, folder: Path, is_single: bool) -> None:
    """``sheet.png`` of the first words; unless ``is_single`` also ``sheets/<word>.png``, with all images of a
    word. Nothing without jobs.
    """
    if not len(jobs):
        return
    _write_sheet(jobs[:SHEET_WORDS], folder, folder / SHEET_NAME)
    if is_single:
        return
    by_text: dict[str, list[Job]] = {}
    for job in jobs:
        by_text.setdefault(job.record.text, []).append(job)
    for number, (text, chosen) in enumerate(by_text.items()):
        _write_sheet(chosen, folder, folder / SHEET_FOLDER / f"{number:04d}-{slug(text)}.png")


def _write_sheet(jobs: Iterable[Job], folder: Path, path: Path) -> None:
    images, captions = [], []
    for job in jobs:
        images.append(np.asarray(Image.open(folder / job.record.file_name)))
        captions.append(f"{job.record.text} ({job.record.writer})")
    path.parent.mkdir(parents=True, exist_ok=True)
    is_of_lines = max(image.shape[1] / image.shape[0] for image in images) > LINE_ASPECT
    save_image(make_sheet(images, captions=captions, columns=1 if is_of_lines else 4), path)


# Parts
# ------------------------------------------------------------------------------------------------------------


def shard_metadata_name(part: Part) -> str:
    """File name of the metadata of one of several parts."""
    return f"metadata-{part.name}.jsonl"


def merge_shards(
    folder: Path, shards: int, expected: Sequence[str], write_rest: Callable[[], None] | None = None
) -> bool:
    """Write the whole ``metadata.jsonl`` once every part's file is there.

    Args:
        expected: every file name of the job, in order; what the parts hold together must be exactly this.
        write_rest: writes what else belongs to the folder; called when all is known to be there, just before
            the whole file.
    Returns:
        True if the whole file is there (written here, or by another process just now), False if parts are
        still missing.
    Raises:
        UserError: if a record is missing, twice or foreign.
    """
    paths = [folder / shard_metadata_name(Part(number=number, count=shards)) for number in range(shards)]
    if not all(path.is_file() for path in paths):
        return False
    try:
        records = [record for path in paths for record in read_metadata(path)]
    except FileNotFoundError:
        # The last two processes both saw all parts, and the other one is done with them.
        if (folder / METADATA_NAME).is_file():
            return True
        raise
    by_name = {record.file_name: record for record in records}
    if len(by_name) != len(records) or set(by_name) != set(expected):
        missing = sorted(set(expected) - set(by_name))
        foreign = sorted(set(by_name) - set(expected))
        raise UserError(
            f"{folder}: the {shards} parts don't add up: {len(missing)} records missing ({missing[:3]}), "
            f"{len(records) - len(by_name)} twice, {len(foreign)} of another job ({foreign[:3]})"
        )
    if write_rest:
        write_rest()
    write_metadata(folder, [by_name[name] for name in expected])
    for path in paths:
        path.unlink(missing_ok=True)
    return True
