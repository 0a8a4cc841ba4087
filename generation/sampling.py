"""Batches of text images: what a checkpoint can write, and the choice among variants by a recogniser."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from diffusion.pipeline import HandwritingPipeline
from generation.jobs import Job
from htr.error_rates import character_error_rates
from htr.recogniser import Recogniser
from utils.errors import UserError

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
        best_of: most variants of a word that are written; the first that is read within ``max_cer`` ends it,
            else the best is kept, by CER and then by confidence.
        max_cer: a word whose best variant is read with more character errors than this share is left out;
            None keeps all.
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
        return {
            "cer": self.cer,
            "confidence": self.confidence,
            "reading": self.reading,
            "variant": self.variant,
        }


def check_jobs(
    pipeline: HandwritingPipeline, jobs: Sequence[Job], skip_unknown: bool, flag: str
) -> list[Job]:
    """The jobs that the checkpoint can do; the first that it can't is an error, unless they are to be
    skipped.

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
            raise UserError(
                f"{flag}: {verdicts[key]}\nUse other words or hands, train with them, or give --skip_unknown."
            )
    if not kept:
        raise UserError(
            f"none of {len(jobs)} words can be written by this checkpoint: {next(iter(verdicts.values()))}"
        )
    if len(kept) < len(jobs):
        print(f"skipped     {len(jobs) - len(kept)} of {len(jobs)} words that the model does not know")
    return kept


def write_batches(
    pipeline: HandwritingPipeline,
    jobs: Sequence[Job],
    settings: SamplingSettings,
    selection: Selection | None,
) -> Iterator[tuple[Sequence[Job], Sequence[np.ndarray | None], list[Outcome]]]:
    """Words in batches: the jobs, an image each (None where a word is left out), and outcomes if there is a
    selection.

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


def write_variant(
    pipeline: HandwritingPipeline, jobs: Sequence[Job], settings: SamplingSettings, variant: int = 0
) -> np.ndarray:
    """(N, H, W) uint8 images of words; another ``variant`` has other noise."""
    return pipeline(
        [job.record.text for job in jobs],
        [job.writer for job in jobs],
        num_inference_steps=settings.num_steps,
        guidance_scale=settings.guidance_scale,
        writer_guidance_scale=settings.writer_guidance_scale,
        guidance_interval=settings.guidance_interval,
        scheduler=settings.scheduler,
        redraws=settings.redraws,
        seed=settings.seed + VARIANT_STRIDE * variant,
        indices=[job.index for job in jobs],
    )


def choose_variants(
    pipeline: HandwritingPipeline, jobs: Sequence[Job], settings: SamplingSettings, selection: Selection
) -> tuple[list[np.ndarray | None], list[Outcome]]:
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
        for i, image, reading, cer in zip(pending, written, readings, rates.tolist(), strict=True):
            is_kept = selection.max_cer is None or cer <= selection.max_cer
            new = Outcome(
                jobs[i].record.file_name,
                variant,
                reading.text,
                round(cer, 4),
                round(reading.confidence, 4),
                is_kept,
            )
            if best[i] is None or (new.cer, -new.confidence) < (best[i].cer, -best[i].confidence):
                best[i], images[i] = new, image
    return [image if outcome.is_kept else None for image, outcome in zip(images, best, strict=True)], best
