"""Generated images into WebDataset tar files: each whole or not there, shared among processes, checked
together at the end.
"""

import json
import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

from tqdm import tqdm

from generation.jobs import Job, JobList
from generation.output_folder import INDEX_NAME, Part
from generation.sampling import Batch, Outcome, Sampler
from utils.errors import UserError
from utils.json_files import read_json
from utils.output import encode_png, write_atomically


class TarWriter:
    """Writes jobs as WebDataset tar files, each whole or not there: ``words-000012.tar``, with its counts and
    what was left out of it in ``words-000012.json``.

    A word is ``NUMBER.png`` and ``NUMBER.json`` (its line of a ``metadata.jsonl``).

    Args:
        folder: one that ``prepare_output`` has approved of.
        jobs: of all parts; every ``part.count``-th tar is this part's.
    Raises:
        UserError: if the package ``webdataset`` is not installed.
    """

    def __init__(self, folder: Path, jobs: JobList, *, words_per_tar: int, part: Part | None = None) -> None:
        try:
            import webdataset
        except ImportError as error:
            raise UserError(f"--output_format webdataset: {error}. Run `pip install webdataset`.") from error
        self._webdataset = webdataset
        self.folder, self.jobs, self.words_per_tar = folder, jobs, words_per_tar
        self.part = part or Part()
        self._written = 0

    # Writing
    # --------------------------------------------------------------------------------------------------------

    def write(self, sample: Sampler) -> int:
        """Write the tars of this part that are not there yet; returns the number of words in them."""
        numbers = range(self.part.number, self._num_tars(), self.part.count)
        total = sum(len(self._jobs_of(number)) for number in numbers)
        with tqdm(total=total, unit="image", desc="write") as bar:
            for number in numbers:
                if self._read_counts(number) is None:
                    self._written += self._write_tar(number, sample, bar)
                else:
                    bar.update(len(self._jobs_of(number)))
        return self._written

    def _num_tars(self) -> int:
        return -(-len(self.jobs) // self.words_per_tar)

    def _jobs_of(self, number: int) -> JobList:
        return self.jobs[number * self.words_per_tar : (number + 1) * self.words_per_tar]

    def _tar(self, number: int) -> Path:
        return self.folder / f"words-{number:06d}.tar"

    def _write_tar(self, number: int, sample: Sampler, bar: tqdm) -> int:
        """Write one tar and its counts; returns the number of words in it."""
        tar, jobs = self._tar(number), self._jobs_of(number)
        for leftover in tar.parent.glob(f".{tar.stem}.*.tmp"):  # of a process that was killed
            leftover.unlink(missing_ok=True)
        temporary = tar.with_name(f".{tar.name}-{os.getpid()}.tmp")
        rejected: list[Outcome] = []
        kept = 0
        try:
            with self._webdataset.TarWriter(str(temporary)) as writer, ThreadPoolExecutor() as pool:
                encoding: list[tuple[Job, Outcome | None, Future]] = []
                for batch in sample(jobs):
                    _add_samples(writer, encoding)  # the last batch's, encoded while this one was drawn
                    encoding = _encode(batch, pool)
                    rejected += [outcome for outcome in batch[2] if not outcome.is_kept]
                    kept += len(encoding)
                    bar.update(len(batch[0]))
                _add_samples(writer, encoding)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            counts = {
                "words": kept,
                "jobs": len(jobs),
                "rejected": [asdict(outcome) for outcome in rejected],
                "bytes": temporary.stat().st_size,
            }
            write_atomically(tar.with_suffix(".json"), json.dumps(counts, ensure_ascii=False))
            os.replace(temporary, tar)
        finally:
            temporary.unlink(missing_ok=True)
        return kept

    def _read_counts(self, number: int) -> dict | None:
        """The counts of a tar that is there with all bytes that were written, else None: a machine that went
        down may leave a name with less.
        """
        tar = self._tar(number)
        path = tar.with_suffix(".json")
        if not tar.is_file() or not path.is_file():
            return None
        try:
            counts = read_json(path)
            is_whole = tar.stat().st_size == counts["bytes"]
            # Used by finish; here the types are what counts.
            counts["words"] + counts["jobs"] + len(counts["rejected"])
        except (UserError, KeyError, TypeError) as error:
            print(f"warning: {path} is damaged ({error}); {tar.name} is written again", file=sys.stderr)
            return None
        return counts if is_whole else None

    # Finishing
    # --------------------------------------------------------------------------------------------------------

    def finish(self) -> str:
        """Check the tars of all parts and write ``index.json``: the tars with their words, and words in all.

        Raises:
            UserError: if the tars don't hold each word once.
        """
        of_part = f"wrote       {self._written} words of part {self.part.describe()} to {self.folder}"
        counts = {}
        for number in range(self._num_tars()):
            counts[self._tar(number).name] = self._read_counts(number)
        if None in counts.values():
            return of_part
        done = sum(tar["jobs"] for tar in counts.values())
        is_sum = all(tar["words"] + len(tar["rejected"]) == tar["jobs"] for tar in counts.values())
        if done != len(self.jobs) or not is_sum:
            raise UserError(
                f"{self.folder}: its tars hold {done} of {len(self.jobs)} words. Remove them, or give"
                " --overwrite."
            )
        words = sum(tar["words"] for tar in counts.values())
        index = {
            "tars": {name: tar["words"] for name, tar in counts.items()},
            "words": words,
            "rejected": done - words,
        }
        write_atomically(self.folder / INDEX_NAME, json.dumps(index, indent=2))
        lines = [f"{of_part}; {self.folder} holds all {words} in {len(counts)} tars"]
        if done > words:
            lines.append(f"left out    {done - words} words (the tars' .json files name them)")
        if not words:
            lines.append(
                "note        no word was kept: allow more errors with --max_cer, or --best_of more variants"
            )
        return "\n".join(lines)


def _encode(batch: Batch, pool: ThreadPoolExecutor) -> list[tuple[Job, Outcome | None, Future]]:
    """Begin to encode the images of a batch, without those that are left out."""
    jobs, images, outcomes = batch
    return [
        (job, outcome, pool.submit(encode_png, image))
        for job, image, outcome in zip(jobs, images, outcomes or [None] * len(jobs), strict=True)
        if image is not None
    ]


def _add_samples(writer, encoding: list[tuple[Job, Outcome | None, Future]]) -> None:
    for job, outcome, future in encoding:
        line = replace(job.record, extra=outcome.scores if outcome else {}).as_json()
        writer.write({"__key__": f"{job.index:09d}", "png": future.result(), "json": line.encode()})
