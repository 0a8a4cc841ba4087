"""Writing many words into a word folder: what can be written, batches, going on after an interruption, and the choice among
variants by a recogniser."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from diffusion.pipeline import HandwritingPipeline
from htr.error_rates import character_error_rates
from htr.recogniser import Recogniser
from utils.images import make_sheet
from utils.jobs import Job, slug
from utils.output import save_image
from utils.word_folder import WordRecord, read_notes

REJECTED_NAME = "rejected.jsonl"
SHEET_WORDS = 64
VARIANT_STRIDE = 1_000_003  # added to the seed for each further variant of a word


@dataclass(frozen=True)
class SamplingSettings:
    """How words are written; see the flags of the same names."""

    num_steps: int
    scheduler: str
    guidance_scale: float | None
    writer_guidance_scale: float | None
    guidance_interval: tuple[float, float] | None
    redraws: int | None
    seed: int
    batch_size: int


@dataclass(frozen=True)
class Selection:
    """Which variant of a word is kept, and whether any is.

    Attributes:
        recogniser: reads the variants.
        best_of: most variants of a word that are written; the first that is read within ``max_cer`` ends it, else the best
            is kept, by CER and then by confidence.
        max_cer: a word whose best variant is read with more character errors than this share is left out; None keeps all.
        normalise: how texts are compared, a name of ``utils.metrics.NORMALISERS``.
    """

    recogniser: Recogniser
    best_of: int
    max_cer: float | None
    normalise: str


@dataclass(frozen=True)
class Outcome:
    """How a word came out: the variant that was chosen, how it was read, and whether it is kept."""

    file_name: str
    variant: int
    reading: str
    cer: float
    confidence: float
    is_kept: bool

    @property
    def scores(self) -> dict[str, object]:
        """Fields for the word's line in ``metadata.jsonl``."""
        return {"cer": self.cer, "confidence": self.confidence, "reading": self.reading, "variant": self.variant}


def check_jobs(pipeline: HandwritingPipeline, jobs: Sequence[Job], skip_unknown: bool, flag: str) -> list[Job]:
    """The jobs that the checkpoint can do; the first that it can't is an error, unless they are to be skipped.

    Raises:
        ValueError: names the character, writer or length, and what the checkpoint knows.
    """
    verdicts: dict[tuple[str, str], str | None] = {}
    kept = []
    for job in jobs:
        key = (job.record.text, job.record.writer)
        if key not in verdicts:
            try:
                pipeline.check([job.record.text], [job.writer])
                verdicts[key] = None if job.record.text else "an empty text"
            except ValueError as error:
                verdicts[key] = str(error)
        if verdicts[key] is None:
            kept.append(job)
        elif not skip_unknown:
            raise ValueError(f"{flag}: {verdicts[key]}\nUse other words or hands, train with them, or give --skip_unknown.")
    if not kept:
        raise ValueError(f"none of {len(jobs)} words can be written by this checkpoint: {next(iter(verdicts.values()))}")
    if len(kept) < len(jobs):
        print(f"skipped     {len(jobs) - len(kept)} of {len(jobs)} words that the model does not know")
    return kept


def find_missing(jobs: Sequence[Job], folder: Path, outcomes: dict[str, Outcome] | None) -> list[Job]:
    """The jobs that are still to be done; with a selection's ``outcomes`` rejected words are done, and images without an
    outcome, written just before a kill, are not."""
    if outcomes is None:
        return [job for job in jobs if not (folder / job.record.file_name).is_file()]

    def is_done(name: str) -> bool:
        return name in outcomes and (not outcomes[name].is_kept or (folder / name).is_file())

    return [job for job in jobs if not is_done(job.record.file_name)]


def write_images(pipeline: HandwritingPipeline, jobs: Sequence[Job], folder: Path, settings: SamplingSettings,
                 selection: Selection | None = None,
                 outcomes_path: Path | None = None) -> tuple[int, dict[str, Outcome]]:  # fmt: skip
    """Write the images that are not there yet, in batches.

    Args:
        selection: chooses among variants of each word; None writes one variant and keeps it.
        outcomes_path: where a selection's outcomes are noted batch by batch, so that an interrupted job knows them.
    Returns:
        The number of images written, and the outcomes by file name (none without a selection).
    """
    outcomes = read_outcomes(outcomes_path) if selection else {}
    missing = find_missing(jobs, folder, outcomes if selection else None)
    for parent in {(folder / job.record.file_name).parent for job in missing}:
        parent.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(jobs), initial=len(jobs) - len(missing), unit="word", desc="write") as bar, \
            ThreadPoolExecutor() as pool:  # fmt: skip
        saving: list[Future] = []
        for batch, images, found in write_batches(pipeline, missing, settings, selection):
            for future in saving:  # the last batch's images were saved while this one was written
                future.result()
            saving = [pool.submit(save_image, image, folder / job.record.file_name)
                      for job, image in zip(batch, images) if image is not None]  # fmt: skip
            if selection:
                with outcomes_path.open("a", encoding="utf-8") as file:
                    file.write("\n")  # behind a line that a kill cut off
                    file.writelines(json.dumps(vars(outcome), ensure_ascii=False) + "\n" for outcome in found)
                outcomes |= {outcome.file_name: outcome for outcome in found}
            bar.update(len(batch))
        for future in saving:
            future.result()
    return len(missing), outcomes


def write_batches(pipeline: HandwritingPipeline, jobs: Sequence[Job], settings: SamplingSettings,
                  selection: Selection | None) -> Iterator[tuple[Sequence[Job], Sequence[np.ndarray | None],
                                                                 list[Outcome]]]:  # fmt: skip
    """Words in batches: the jobs, an image each (None where a word is left out), and outcomes if there is a selection.

    Words on canvases of one width come side by side; which words share a batch changes none of them.
    """
    widths = pipeline.canvas_widths([job.record.text for job in jobs], [job.writer for job in jobs])
    jobs = [jobs[i] for i in np.argsort(widths, kind="stable")]
    for first in range(0, len(jobs), settings.batch_size):
        batch = jobs[first : first + settings.batch_size]
        if selection:
            yield batch, *choose_variants(pipeline, batch, settings, selection)
        else:
            yield batch, list(write_variant(pipeline, batch, settings)), []


def write_variant(pipeline: HandwritingPipeline, jobs: Sequence[Job], settings: SamplingSettings,
                  variant: int = 0) -> np.ndarray:  # fmt: skip
    """(N, H, W) uint8 images of words; another ``variant`` has other noise."""
    return pipeline([job.record.text for job in jobs], [job.writer for job in jobs],
                    num_inference_steps=settings.num_steps, guidance_scale=settings.guidance_scale,
                    writer_guidance_scale=settings.writer_guidance_scale, guidance_interval=settings.guidance_interval,
                    scheduler=settings.scheduler, redraws=settings.redraws, seed=settings.seed + VARIANT_STRIDE * variant,
                    indices=[job.index for job in jobs])  # fmt: skip


def choose_variants(pipeline: HandwritingPipeline, jobs: Sequence[Job], settings: SamplingSettings,
                    selection: Selection) -> tuple[list[np.ndarray | None], list[Outcome]]:  # fmt: skip
    """The best variant of each word, or None where even that is read too badly, and how they came out."""
    limit = selection.max_cer or 0.0
    best: list[Outcome | None] = [None] * len(jobs)
    images: list[np.ndarray | None] = [None] * len(jobs)
    for variant in range(selection.best_of):
        pending = [i for i, outcome in enumerate(best) if outcome is None or outcome.cer > limit]
        if not pending:
            break
        written = write_variant(pipeline, [jobs[i] for i in pending], settings, variant)
        readings = selection.recogniser.read(list(written))
        texts = [jobs[i].record.text for i in pending]
        rates = character_error_rates(texts, [reading.text for reading in readings], selection.normalise)
        for i, image, reading, cer in zip(pending, written, readings, rates.tolist()):
            is_kept = selection.max_cer is None or cer <= selection.max_cer
            new = Outcome(jobs[i].record.file_name, variant, reading.text, round(cer, 4), round(reading.confidence, 4), is_kept)
            if best[i] is None or (new.cer, -new.confidence) < (best[i].cer, -best[i].confidence):
                best[i], images[i] = new, image
    return [image if outcome.is_kept else None for image, outcome in zip(images, best)], best


def kept_records(jobs: Sequence[Job], outcomes: dict[str, Outcome]) -> list[WordRecord]:
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
    return {values["file_name"]: Outcome(**values) for values in read_notes(path)}


def write_sheets(jobs: Sequence[Job], folder: Path, is_single: bool) -> None:
    """``sheet.png`` of the first words; with ``--single_image False`` also ``sheets/<word>.png``, a word in many hands."""

    def sheet(chosen: Sequence[Job], path: Path) -> None:
        images = [np.asarray(Image.open(folder / job.record.file_name)) for job in chosen]
        path.parent.mkdir(parents=True, exist_ok=True)
        save_image(make_sheet(images, captions=[f"{job.record.text} ({job.record.writer})" for job in chosen]), path)

    sheet(jobs[:SHEET_WORDS], folder / "sheet.png")
    if not is_single:
        by_text: dict[str, list[Job]] = {}
        for job in jobs:
            by_text.setdefault(job.record.text, []).append(job)
        for number, (text, chosen) in enumerate(by_text.items()):
            sheet(chosen, folder / "sheets" / f"{number:04d}-{slug(text)}.png")
