"""Images of jobs in batches, the choice among variants by a recogniser, and what takes the images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from diffusion.pipeline import HandwritingPipeline
from diffusion.variation import DEFAULT_VARIATION
from generation.jobs import Job, JobList
from htr.error_rates import character_error_rates
from htr.recogniser import Recogniser
from utils.images import trim_tail

VARIANT_STRIDE = 1_000_003  # added to the seed for each further variant of a word
CHUNK = 10_000  # jobs whose canvas widths are asked for together


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How words are written; see the flags of the same names. None is the model's own default."""

    num_steps: int | None = None
    scheduler: str | None = None
    guidance_scale: float | None = None
    writer_guidance_scale: float | None = None
    guidance_interval: tuple[float, float] | None = None
    redraws: int | None = None
    variation: float = DEFAULT_VARIATION
    seed: int = 0
    batch_size: int = 32


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which variant of a word is kept, and whether any is.

    Attributes:
        recogniser: reads the variants.
        best_of: most variants of a word that are written; the first that is read within ``max_cer`` ends it,
            else the best is kept, by CER and then by confidence.
        max_cer: a word whose best variant is read with more character errors than this share is left out;
            None keeps all.
        normalise: how texts are compared, a name of ``htr.error_rates.NORMALISERS``.
    """

    recogniser: Recogniser
    best_of: int = 1
    max_cer: float | None = None
    normalise: str = "exact"


@dataclass(frozen=True, kw_only=True)
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


# Jobs that were written together, their images ((H, W) uint8, None where a word is left out), and with a
# selection their outcomes, else none.
Batch = tuple[Sequence[Job], Sequence[np.ndarray | None], Sequence[Outcome]]
Sampler = Callable[[JobList], Iterator[Batch]]


class Sink(Protocol):
    """Where images go: a folder, tar files, pages."""

    def write(self, sample: Sampler) -> int:
        """Write what is missing of this process's part of the jobs, with the images that ``sample`` gives of
        the jobs that it is given; returns the number of images that were written.
        """

    def finish(self) -> str:
        """Check and complete the output once every part is there; returns what to tell the user."""


def write_batches(
    pipeline: HandwritingPipeline,
    jobs: JobList,
    settings: SamplingSettings,
    selection: Selection | None = None,
) -> Iterator[Batch]:
    """Write words in batches.

    Words on canvases of one width come side by side; which words share a batch changes none of them.
    """
    widths = [
        _canvas_widths(pipeline, jobs[first : first + CHUNK], settings)
        for first in range(0, len(jobs), CHUNK)
    ]
    in_order = jobs.select(np.argsort(np.concatenate(widths), kind="stable")) if widths else jobs
    for first in range(0, len(jobs), settings.batch_size):
        batch = list(in_order[first : first + settings.batch_size])
        if selection:
            yield batch, *choose_variants(pipeline, batch, settings, selection)
        else:
            yield batch, write_variant(pipeline, batch, settings), []


def _canvas_widths(
    pipeline: HandwritingPipeline, jobs: Sequence[Job], settings: SamplingSettings
) -> np.ndarray:
    """(N,) pixels."""
    texts, writers, indices = [], [], []
    for job in jobs:
        texts.append(job.record.text)
        writers.append(job.writer)
        indices.append(job.index)
    return pipeline.canvas_widths(
        texts, writers, variation=settings.variation, seed=settings.seed, indices=indices
    )


def write_variant(
    pipeline: HandwritingPipeline, jobs: Sequence[Job], settings: SamplingSettings, variant: int = 0
) -> list[np.ndarray]:
    """An (H, w) uint8 image for each job, as wide as its ink; another ``variant`` has other noise.

    A model whose canvases all have one width keeps it.
    """
    images = pipeline(
        [job.record.text for job in jobs],
        [job.writer for job in jobs],
        num_inference_steps=settings.num_steps,
        guidance_scale=settings.guidance_scale,
        writer_guidance_scale=settings.writer_guidance_scale,
        guidance_interval=settings.guidance_interval,
        scheduler=settings.scheduler,
        redraws=settings.redraws,
        variation=settings.variation,
        seed=settings.seed + VARIANT_STRIDE * variant,
        indices=[job.index for job in jobs],
    )
    return list(images) if pipeline.config.canvas_step is None else [trim_tail(image) for image in images]


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
        readings = selection.recogniser.read(written)
        texts = [jobs[i].record.text for i in pending]
        rates = character_error_rates(texts, [reading.text for reading in readings], selection.normalise)
        for i, image, reading, cer in zip(pending, written, readings, rates.tolist(), strict=True):
            new = Outcome(
                file_name=jobs[i].record.file_name,
                variant=variant,
                reading=reading.text,
                cer=round(cer, 4),
                confidence=round(reading.confidence, 4),
                is_kept=selection.max_cer is None or cer <= selection.max_cer,
            )
            if best[i] is None or (new.cer, -new.confidence) < (best[i].cer, -best[i].confidence):
                best[i], images[i] = new, image
    return [image if outcome.is_kept else None for image, outcome in zip(images, best, strict=True)], best
