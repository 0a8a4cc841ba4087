"""The samples of a training: whole text images, or what forced alignment makes of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from diffusion.alignment import Alignment
from diffusion.autoencoder import DOWNSCALE
from diffusion.config import CheckpointConfig
from diffusion.dataset import LatentCache
from diffusion.segments import Segment, draw_segments
from utils.sources import TrainingSet
from utils.text_images import TextImage

VALIDATION_WORDS = 256


@dataclass(frozen=True, kw_only=True)
class TrainingSamples:
    """What a training draws from.

    Attributes:
        records: the samples' texts and writers.
        columns: (N, 2) int64, each one's first latent column and the one behind its last, among those of all
            images.
        canvases: (N,) widths of the canvases that they are drawn on, pixels.
        edges: (n + 1,) borders of each text's characters, pixels; None: as the width model expects them.
        train_indices: of the samples to train on, some several times.
        val_indices: of the samples to validate on, from narrow to wide.
    """

    records: Sequence[TextImage]
    columns: np.ndarray
    canvases: np.ndarray
    edges: Sequence[np.ndarray] | None
    train_indices: list[int]
    val_indices: list[int]


def whole_images(words: TrainingSet, cache: LatentCache, config: CheckpointConfig) -> TrainingSamples:
    """Each text image as it is, laid out as the width model says."""
    # A model that others' words taught may have wider images than these.
    canvases = config.canvas_widths(cache.ink[:, 2])
    return TrainingSamples(
        records=words.records,
        columns=np.stack([cache.starts[:-1], cache.starts[1:]], axis=1),
        canvases=canvases,
        edges=None,
        train_indices=words.train_indices(),
        val_indices=sorted(words.val_indices()[:VALIDATION_WORDS], key=canvases.__getitem__),
    )


def aligned_segments(
    words: TrainingSet, cache: LatentCache, config: CheckpointConfig, alignment: Alignment, seed: int
) -> TrainingSamples:
    """Text images and segments of lines, laid out where their characters stand.

    Where all canvases have one width (``config.canvas_step`` is None) a text's place in its image says
    something, and nothing is cut.
    """
    texts = [record.text for record in words.records]
    counts, cuts = np.diff(cache.starts), config.canvas_step is not None
    segments = draw_segments(texts, alignment, counts, seed=seed, cuts=cuts)
    of_image: dict[int, list[int]] = {}
    for number, segment in enumerate(segments):
        of_image.setdefault(segment.image, []).append(number)
    first = np.array([cache.starts[segment.image] for segment in segments])
    columns = first[:, None] + np.array([segment.columns for segment in segments])
    canvases = _segment_canvases(segments, counts, cache.ink, config)
    val = [number for image in words.val_indices()[:VALIDATION_WORDS] for number in of_image[image]]
    val = val[:: -(-len(val) // VALIDATION_WORDS)] if val else val
    return TrainingSamples(
        records=[replace(words.records[segment.image], text=segment.text) for segment in segments],
        columns=columns.astype(np.int64),
        canvases=canvases,
        edges=[segment.edges for segment in segments],
        train_indices=[number for image in words.train_indices() for number in of_image[image]],
        val_indices=sorted(val, key=canvases.__getitem__),
    )


def _segment_canvases(
    segments: Sequence[Segment], counts: np.ndarray, ink: np.ndarray, config: CheckpointConfig
) -> np.ndarray:
    """(N,) pixels: whole images on canvases as ever, parts on those that just hold their columns."""
    canvases = config.canvas_widths(ink[[segment.image for segment in segments], 2])
    if config.canvas_step is None:
        return canvases
    widths = np.array([segment.columns[1] - segment.columns[0] for segment in segments])
    is_part = widths < counts[[segment.image for segment in segments]]
    whole_steps = -(-widths * DOWNSCALE // config.canvas_step) * config.canvas_step
    return np.where(is_part, np.minimum(whole_steps, config.img_size[1]), canvases)
