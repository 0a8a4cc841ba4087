"""Generated images into a folder: what is missing, batches, parts of several processes, sheets."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from diffusion.pipeline import HandwritingPipeline
from generation.jobs import Job, slug
from generation.sampling import Outcome, SamplingSettings, Selection, write_batches
from utils.errors import UserError
from utils.images import make_sheet
from utils.output import save_image
from utils.text_images import METADATA_NAME, TextImage, read_jsonl, read_metadata, write_metadata

REJECTED_NAME = "rejected.jsonl"
SHEET_WORDS = 64
LINE_ASPECT = 8  # images that are wider for their height stand below one another in a sheet


def find_missing(jobs: Sequence[Job], folder: Path, outcomes: dict[str, Outcome] | None) -> list[Job]:
    """The jobs that are still to be done; with a selection's ``outcomes`` rejected words are done, and images
    without an outcome, written just before a kill, are not."""
    if outcomes is None:
        return [job for job in jobs if not (folder / job.record.file_name).is_file()]

    def is_done(name: str) -> bool:
        return name in outcomes and (not outcomes[name].is_kept or (folder / name).is_file())

    return [job for job in jobs if not is_done(job.record.file_name)]


def write_images(
    pipeline: HandwritingPipeline,
    jobs: Sequence[Job],
    folder: Path,
    settings: SamplingSettings,
    selection: Selection | None = None,
    outcomes_path: Path | None = None,
) -> tuple[int, dict[str, Outcome]]:
    """Write the images that are not there yet, in batches.

    Args:
        selection: chooses among variants of each word; None writes one variant and keeps it.
        outcomes_path: where a selection's outcomes are noted batch by batch, so that an interrupted job knows
            them.
    Returns:
        The number of images written, and the outcomes by file name (none without a selection).
    """
    outcomes = read_outcomes(outcomes_path) if selection else {}
    missing = find_missing(jobs, folder, outcomes if selection else None)
    for parent in {(folder / job.record.file_name).parent for job in missing}:
        parent.mkdir(parents=True, exist_ok=True)
    with (
        tqdm(total=len(jobs), initial=len(jobs) - len(missing), unit="word", desc="write") as bar,
        ThreadPoolExecutor() as pool,
    ):
        saving: list[Future] = []
        for batch, images, found in write_batches(pipeline, missing, settings, selection):
            for future in saving:  # the last batch's images were saved while this one was written
                future.result()
            saving = [
                pool.submit(save_image, image, folder / job.record.file_name)
                for job, image in zip(batch, images, strict=True)
                if image is not None
            ]
            if selection:
                with outcomes_path.open("a", encoding="utf-8") as file:
                    file.write("\n")  # behind a line that a kill cut off
                    file.writelines(json.dumps(vars(outcome), ensure_ascii=False) + "\n" for outcome in found)
                outcomes |= {outcome.file_name: outcome for outcome in found}
            bar.update(len(batch))
        for future in saving:
            future.result()
    return len(missing), outcomes


def kept_records(jobs: Sequence[Job], outcomes: dict[str, Outcome]) -> list[TextImage]:
    """The records of the words that are kept, with their scores; all of them where nothing was selected."""
    records = []
    for record in (job.record for job in jobs):
        outcome = outcomes.get(record.file_name)
        if outcome is None:
            records.append(record)
        elif outcome.is_kept:
            records.append(replace(record, extra=outcome.scores))
    return records


def read_outcomes(path: Path) -> dict[str, Outcome]:
    """The outcomes that were noted, by file name."""
    return {values["file_name"]: Outcome(**values) for values in read_jsonl(path)}


def write_sheets(jobs: Sequence[Job], folder: Path, is_single: bool) -> None:
    """``sheet.png`` of the first words; with ``--single_image False`` also ``sheets/<word>.png``, a word in
    many hands.
    """

    def sheet(chosen: Sequence[Job], path: Path) -> None:
        images = [np.asarray(Image.open(folder / job.record.file_name)) for job in chosen]
        path.parent.mkdir(parents=True, exist_ok=True)
        captions = [f"{job.record.text} ({job.record.writer})" for job in chosen]
        is_of_lines = max(image.shape[1] / image.shape[0] for image in images) > LINE_ASPECT
        save_image(make_sheet(images, captions=captions, columns=1 if is_of_lines else 4), path)

    sheet(jobs[:SHEET_WORDS], folder / "sheet.png")
    if not is_single:
        by_text: dict[str, list[Job]] = {}
        for job in jobs:
            by_text.setdefault(job.record.text, []).append(job)
        for number, (text, chosen) in enumerate(by_text.items()):
            sheet(chosen, folder / "sheets" / f"{number:04d}-{slug(text)}.png")


def shard_metadata_name(shard: int, shards: int) -> str:
    """File name of shard ``shard`` (from 0) of ``shards``."""
    return f"metadata-{shard:05d}-of-{shards:05d}.jsonl"


def outcomes_name(shard: int, shards: int) -> str:
    """File name of what a recogniser said of the words of shard ``shard`` (from 0) of ``shards``."""
    return f"readings-{shard:05d}-of-{shards:05d}.jsonl"


def merge_shards(
    folder: Path, shards: int, expected: Sequence[str], write_rest: Callable[[], None] | None = None
) -> bool:
    """Write the whole ``metadata.jsonl`` once every shard's file is there.

    Args:
        expected: every file name of the job, in order; what the shards hold together must be exactly this.
        write_rest: writes what else belongs to the folder; called when all is known to be there, just before
            the whole file.
    Returns:
        True if the whole file is there (written here, or by another process just now), False if shards are
        still missing.
    Raises:
        ValueError: if a record is missing, twice or foreign.
    """
    paths = [folder / shard_metadata_name(shard, shards) for shard in range(shards)]
    if not all(path.is_file() for path in paths):
        return False
    try:
        records = [record for path in paths for record in read_metadata(path)]
    except FileNotFoundError:
        # The last two processes both saw all shards, and the other one is done with them.
        if (folder / METADATA_NAME).is_file():
            return True
        raise
    by_name = {record.file_name: record for record in records}
    if len(by_name) != len(records) or set(by_name) != set(expected):
        missing = sorted(set(expected) - set(by_name))
        foreign = sorted(set(by_name) - set(expected))
        raise UserError(
            f"{folder}: the {shards} shards don't add up: {len(missing)} records missing ({missing[:3]}), "
            f"{len(records) - len(by_name)} twice, {len(foreign)} of another job ({foreign[:3]})"
        )
    if write_rest:
        write_rest()
    write_metadata(folder, [by_name[name] for name in expected])
    for path in paths:
        path.unlink(missing_ok=True)
    return True
