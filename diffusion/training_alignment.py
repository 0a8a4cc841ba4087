"""Forced alignment of a whole training set, and the training on what comes out."""

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from diffusion.alignment import (
    Peaks,
    align,
    align_spacing,
    columns_of_ink,
    find_gaps,
    find_peaks,
    refine_width_model,
)
from diffusion.autoencoder import DOWNSCALE
from diffusion.samples import aligned_segments
from diffusion.trainer import DiffusionTrainer
from utils.sources import read_image

ALIGN_AT_ONCE = 64  # images


def align_training(trainer: DiffusionTrainer, *, is_new: bool, new_hands: Collection[str] = ()) -> str:
    """Align all images of a training by its latent recogniser, and train on them and on segments of lines
    from now on.

    The borders are fitted to the width model as the checkpoint says it, so that a run that goes on finds
    just those that it had.

    Args:
        is_new: the width model is refined by the borders first; a run that goes on keeps its own.
        new_hands: writers whose spaces are measured in any case.
    Returns:
        A line that says what came out.
    """
    config, words, ink = trainer.config, trainer.words, trainer.latents.cache.ink
    found = [_find_all_peaks(trainer) if trainer.accelerator.is_main_process else None]
    peaks = broadcast_object_list(found)[0]  # processes whose borders differ would draw different samples
    model = config.width_model
    train = sorted(set(words.train_indices()))
    if is_new:
        first = align(words.records, ink, peaks, model)
        rows = [i for i in train if first.is_measured[i]]
        model = refine_width_model(model, [words.records[i] for i in rows], [first.edges[i] for i in rows])
    if is_new or new_hands:
        records, of_train = [words.records[i] for i in train], [peaks[i] for i in train]
        model = align_spacing(records, ink[train], of_train, model, None if is_new else new_hands)
    alignment = align(words.records, ink, peaks, model)
    measured, place = int(alignment.is_measured.sum()), round(alignment.peak_place, 3)
    notes = {"images": measured, "peak_place": place}
    trainer.config = replace(config, width_model=model, extra={**config.extra, "alignment": notes})
    trainer.use_samples(
        aligned_segments(words, trainer.latents.cache, trainer.config, alignment, trainer.settings.seed)
    )
    return (
        f"{measured} of {len(words.records)} images aligned, peaks at {place:.2f} of a character's width;"
        f" widths vary by {100 * model.spread:.0f} %"
    )


@torch.no_grad()
def _find_all_peaks(trainer: DiffusionTrainer) -> list[Peaks | None]:
    """The peaks of all images; None for texts that the model can't spell."""
    conditions, canvases = trainer.conditions, trainer.canvases
    records, ink = trainer.words.records, trainer.latents.cache.ink
    peaks: list[Peaks | None] = [None] * len(records)
    order = [i for i in np.argsort(canvases, kind="stable").tolist() if conditions.lengths[i]]
    for first in tqdm(range(0, len(order), ALIGN_AT_ONCE), desc="align", unit="batch", leave=False):
        rows = order[first : first + ALIGN_AT_ONCE]
        indices = torch.tensor(rows)
        means = trainer.latents.batch(indices, int(canvases[rows].max()) // DOWNSCALE)[:, 0]
        found = find_peaks(
            trainer.latent_recogniser,
            means,
            conditions.reading_ids[indices.to(trainer.device)],
            [records[i].text for i in rows],
            ink[rows],
        )
        for row, peak in zip(rows, found, strict=True):
            peaks[row] = peak
            if peak.is_sure and " " in peak.text:
                has_ink = columns_of_ink(read_image(trainer.words.paths[row]))
                peaks[row] = find_gaps(peak, has_ink)
    return peaks
