"""Writing many words as WebDataset tar files: each whole or not at all, shared among processes, checked
together at the end.
"""

import io
import json
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from diffusion.pipeline import HandwritingPipeline
from generation.jobs import Job
from generation.sampling import Outcome, SamplingSettings, Selection, write_batches
from utils.errors import UserError
from utils.output import write_atomically

INDEX_NAME = "index.json"


def write_tars(
    pipeline: HandwritingPipeline,
    jobs: Sequence[Job],
    folder: Path,
    settings: SamplingSettings,
    selection: Selection | None,
    *,
    words_per_tar: int,
    shard: int = 0,
    shards: int = 1,
) -> int:
    """Write words as WebDataset tar files, each whole or not at all: ``words-000012.tar``, with its counts
    and what was left out of it in ``words-000012.json``. A word is ``NUMBER.png`` and ``NUMBER.json`` (its
    line of a ``metadata.jsonl``).

    Args:
        jobs: of all shards; every ``shards``-th tar is this one's.
    Returns:
        The number of words in the tars that were written; those that were there already stay.
    Raises:
        ValueError: if the package ``webdataset`` is not installed.
    """
    starts = range(0, len(jobs), words_per_tar)
    own = [
        (folder / f"words-{part:06d}.tar", jobs[starts[part] : starts[part] + words_per_tar])
        for part in range(shard, len(starts), shards)
    ]
    written = 0
    with tqdm(total=sum(len(of_tar) for _, of_tar in own), unit="word", desc="write") as bar:
        for tar, of_tar in own:
            if _is_whole(tar):
                bar.update(len(of_tar))
            else:
                written += _write_tar(pipeline, of_tar, tar, settings, selection, bar)
    return written


def _write_tar(
    pipeline: HandwritingPipeline,
    jobs: Sequence[Job],
    tar: Path,
    settings: SamplingSettings,
    selection: Selection | None,
    bar: tqdm,
) -> int:
    """Write one tar and its counts; returns the number of words in it."""
    try:
        from webdataset import TarWriter
    except ImportError as error:
        raise UserError(f"--output_format webdataset: {error}. Run `pip install webdataset`.") from error
    for left in tar.parent.glob(f".{tar.name}-*.tmp"):  # of a process that was killed
        left.unlink(missing_ok=True)
    temporary = tar.with_name(f".{tar.name}-{os.getpid()}.tmp")
    rejected, kept = [], 0
    encoding: list[tuple[Job, Outcome | None, Future]] = []
    try:
        with TarWriter(str(temporary)) as writer, ThreadPoolExecutor() as pool:
            for batch, images, found in chain(
                write_batches(pipeline, jobs, settings, selection), [([], [], [])]
            ):
                for (
                    job,
                    outcome,
                    future,
                ) in encoding:  # the last batch's were encoded while this one was written
                    line = replace(job.record, extra=outcome.scores if outcome else {}).as_json()
                    writer.write(
                        {"__key__": f"{job.index:09d}", "png": future.result(), "json": line.encode()}
                    )
                outcomes = found or [None] * len(batch)
                encoding = [
                    (job, outcome, pool.submit(_encode_png, image))
                    for job, image, outcome in zip(batch, images, outcomes, strict=True)
                    if image is not None
                ]
                rejected += [
                    vars(outcome) for image, outcome in zip(images, outcomes, strict=True) if image is None
                ]
                kept += len(encoding)
                bar.update(len(batch))
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        counts = {"words": kept, "jobs": len(jobs), "rejected": rejected, "bytes": temporary.stat().st_size}
        write_atomically(tar.with_suffix(".json"), json.dumps(counts, ensure_ascii=False))
        os.replace(temporary, tar)
    finally:
        temporary.unlink(missing_ok=True)
    return kept


def _is_whole(tar: Path) -> bool:
    """Whether a tar is there with all bytes that were written: a machine that went down may leave a name with
    less.
    """
    counts = tar.with_suffix(".json")
    if not tar.is_file() or not counts.is_file():
        return False
    return tar.stat().st_size == json.loads(counts.read_text(encoding="utf-8"))["bytes"]


def _encode_png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def finish_tars(folder: Path, num_jobs: int, words_per_tar: int) -> dict | None:
    """Check the tars of all shards and write ``index.json`` (tars with their words, words in all); None if
    some are missing.

    Raises:
        ValueError: if they don't hold each word once.
    """
    names = [f"words-{part:06d}" for part in range(-(-num_jobs // words_per_tar))]
    if not all(_is_whole(folder / f"{name}.tar") for name in names):
        return None
    counts = {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in names}
    done = sum(of["jobs"] for of in counts.values())
    if done != num_jobs or any(of["words"] + len(of["rejected"]) != of["jobs"] for of in counts.values()):
        raise UserError(
            f"{folder}: its tars hold {done} of {num_jobs} words. Remove them, or give --overwrite."
        )
    index = {
        "tars": {f"{name}.tar": of["words"] for name, of in counts.items()},
        "words": sum(of["words"] for of in counts.values()),
        "rejected": sum(len(of["rejected"]) for of in counts.values()),
    }
    write_atomically(folder / INDEX_NAME, json.dumps(index, indent=2))
    return index
