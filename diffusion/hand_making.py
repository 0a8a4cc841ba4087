"""Hands made with a model: from lines of someone's writing, drawn at random, or mixed."""

from collections.abc import Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.alignment import align_spacing, columns_of_ink, find_gaps, find_peaks
from diffusion.autoencoder import scale_latents, vae_in_channels
from diffusion.hands import SCALES, STYLE_SPACE, Hand, hand_of_writer
from diffusion.low_rank import mix_low_rank
from diffusion.pictures import WINDOW, cut_windows
from diffusion.pipeline import HandwritingPipeline
from utils.charset import order_along_line
from utils.errors import UserError
from utils.images import INK, to_pixel_values
from utils.text_images import TextImage
from utils.training import make_generator

SHRINKAGE = 0.1  # of the covariance of the writers' vectors towards one that is equal in all directions
LEAST_WRITERS = 3  # trained ones, to draw a new hand
MOST_DRAWS = 1000
USUAL = 5  # per cent of the trained writers that are nearer to another one than a new hand may be
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # of the ridge regression, in mean squared lengths
LEAST_CHARACTERS = 3  # that must be read in a window of a line for its width to count
_NEW_KEY = 0xF4
_ANYBODY = ""  # a name for a hand that has none yet


@torch.inference_mode()
def hand_from_lines(pipeline: HandwritingPipeline, lines: Sequence[np.ndarray]) -> Hand:
    """The hand that lines are written in; no transcript is needed.

    Args:
        pipeline: of a model with style vectors.
        lines: (H, w) uint8 each, at the model's height; see ``pictures.read_lines``.
    Raises:
        UserError: if the model knows its writers by name alone.
    """
    check_takes_hands(pipeline)
    windows = [window for line in lines for window in cut_windows(line)]
    if not windows:
        raise UserError("no ink in the lines that a hand is to be made of")
    # Whole lines, as in training; a scrap of one counts less.
    vectors = torch.from_numpy(pipeline.style_encoder.embed(lines)[0])
    widths = torch.tensor([float(min(line.shape[1], WINDOW * line.shape[0])) for line in lines])
    style = F.normalize((vectors * widths[:, None]).sum(dim=0), dim=0)
    return make_hand(pipeline, style, measure_scales(pipeline, windows) or predict_scales(pipeline, style))


def check_takes_hands(pipeline: HandwritingPipeline, where: str = "a hand") -> None:
    """Raise a UserError unless a model has style vectors."""
    if pipeline.style_encoder is None or STYLE_SPACE not in pipeline.config.extra:
        raise UserError(
            f"{where}: this model knows its writers by name alone. Take one that was trained with"
            " --style_encoder."
        )


def make_hand(pipeline: HandwritingPipeline, style: Tensor, scales: Sequence[float]) -> Hand:
    """A hand of a model by its vector and the scales of its characters and of its spaces; as it is in a file,
    digits included.
    """
    width_scale, space_scale = (round(min(max(scale, 0.01), 99.0), 4) for scale in scales)
    return Hand(
        style=style.float().cpu().clone(),
        width_scale=width_scale,
        space_scale=space_scale,
        style_space=str(pipeline.config.extra[STYLE_SPACE]),
    )


def with_hands(pipeline: HandwritingPipeline, hands: Mapping[str, Hand]) -> HandwritingPipeline:
    """A pipeline that knows these hands, too, while the given one stays as it is for others to write with.

    Raises:
        UserError: if the model can't take one, or knows a writer of its name.
    """
    grown = copy(pipeline)
    grown.unet = deepcopy(pipeline.unet)  # adding moves it
    grown.add_hands(hands)
    return grown


# Widths
# ------------------------------------------------------------------------------------------------------------


def measure_scales(
    pipeline: HandwritingPipeline, windows: Sequence[np.ndarray]
) -> tuple[float, float] | None:
    """How wide a hand's characters and, beside them, its spaces are as multiples of the mean hand's.

    The ink's width is set against that which the width model expects of what the model's latent recogniser
    reads there, and borders between the characters are found by forced alignment.

    Returns:
        Both scales; None where nothing can be read.
    """
    model = pipeline.config.width_model
    if model is None or pipeline.latent_recogniser is None:
        return None
    records, boxes, peaks, ratios = [], [], [], []
    for window in windows:
        latents = _encode(pipeline, window)
        text = _read_latents(pipeline, latents)
        expected = model.expected_width(text)
        if len(text) < LEAST_CHARACTERS or expected >= model.room:
            continue
        columns = np.flatnonzero((window < INK).any(axis=0))
        boxes.append([columns[0], 0, columns[-1] + 1, window.shape[0]])
        ratios.append((columns[-1] + 1 - columns[0]) / expected)
        records.append(TextImage(file_name="", text=text, writer=_ANYBODY))
        ids = pipeline.config.charset.encode([order_along_line(text)], len(text)).to(pipeline.device)
        (peak,) = find_peaks(pipeline.latent_recogniser, latents, ids, [text], np.array(boxes[-1:]))
        peaks.append(find_gaps(peak, columns_of_ink(window)) if peak.is_sure else peak)
    if not records:
        return None
    model = replace(model, writer_scales={_ANYBODY: float(np.median(ratios))}, space_scales={})
    model = align_spacing(records, np.array(boxes), peaks, model)
    return model.scale({_ANYBODY: 1.0}), model.space_scale({_ANYBODY: 1.0})


def read_line(pipeline: HandwritingPipeline, image: np.ndarray) -> str:
    """What the model's latent recogniser reads in an (H, w) uint8 image, w a multiple of 8: the likeliest
    class of each frame, repetitions and blanks left out.
    """
    return _read_latents(pipeline, _encode(pipeline, image))


@torch.inference_mode()
def _encode(pipeline: HandwritingPipeline, image: np.ndarray) -> Tensor:
    """(1, C, h, w / 8) latents of an (H, w) uint8 image."""
    pixels = to_pixel_values(torch.from_numpy(image)[None], vae_in_channels(pipeline.vae))
    posterior = pipeline.vae.encode(pixels.to(pipeline.device)).latent_dist
    return scale_latents(pipeline.vae, posterior.mean)


@torch.inference_mode()
def _read_latents(pipeline: HandwritingPipeline, latents: Tensor) -> str:
    classes = pipeline.latent_recogniser(latents)[0].argmax(dim=-1)
    characters = pipeline.config.charset.characters
    read = [characters[c - 1] for c in torch.unique_consecutive(classes).tolist() if c > 0]
    return order_along_line("".join(read)).strip()


@dataclass(frozen=True, kw_only=True)
class _Trained:
    """The writers that a model was trained on and that have style vectors: names, (N, style_dim) float64
    vectors of length 1, and the (N, 2) logarithms of their scales of characters and of spaces.
    """

    names: list[str]
    styles: Tensor
    log_scales: Tensor


def _trained_writers(pipeline: HandwritingPipeline) -> _Trained:
    vectors = pipeline.unet.writer_styles[: len(pipeline.config.writers)].cpu().double()
    rows = [row for row, vector in enumerate(vectors) if vector.any()]
    names = [pipeline.config.writers[row] for row in rows]
    model = pipeline.config.width_model
    scales = [
        (model.scale({name: 1.0}), model.space_scale({name: 1.0})) if model else (1, 1) for name in names
    ]
    logs = torch.tensor(scales, dtype=torch.float64).reshape(len(names), 2).log()
    return _Trained(names=names, styles=vectors[rows], log_scales=logs)


def predict_scales(pipeline: HandwritingPipeline, style: Tensor) -> tuple[float, float]:
    """The scales of characters and of spaces that go with a style vector among the trained writers: ridge
    regressions of their logarithms, whose penalties predict each writer best from the others.
    """
    trained = _trained_writers(pipeline)
    if len(trained.names) < LEAST_WRITERS:
        return tuple(trained.log_scales.mean(dim=0).exp().tolist()) if trained.names else (1.0, 1.0)
    return tuple(_predict(trained.styles, logs, style) for logs in trained.log_scales.T)


def _predict(styles: Tensor, logs: Tensor, style: Tensor) -> float:
    """The scale of a style vector by the logarithms of those of (N, style_dim) others."""
    mean, level = styles.mean(dim=0), logs.mean()
    centred, target = styles - mean, logs - level
    gram, identity = centred @ centred.T, torch.eye(len(target), dtype=torch.float64)
    best, least = None, float("inf")
    for penalty in PENALTIES:
        inverse = torch.linalg.inv(gram + penalty * gram.diagonal().mean().clamp_min(1e-12) * identity)
        weights = inverse @ target
        error = float((weights / inverse.diagonal()).square().mean())  # of each writer, left out
        if error < least:
            best, least = weights, error
    return float((level + (style.cpu().double() - mean) @ centred.T @ best).exp())


# Random and mixed hands
# ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class NewHand:
    """A hand of nobody, the trained writer nearest to it, and the distance of their vectors, 0 to 2."""

    hand: Hand
    nearest: str
    distance: float


def draw_hand(pipeline: HandwritingPipeline, number: int) -> NewHand:
    """A random hand: a draw from the normal distribution of the trained writers' style vectors.

    It is drawn again while a trained writer is nearer to it than they usually are to each other.

    Args:
        number: which hand; the same one is the same hand.
    Raises:
        UserError: if the model has no style vectors, or was trained on too few writers.
    """
    check_takes_hands(pipeline, "a new hand")
    trained = _trained_writers(pipeline)
    if len(trained.names) < LEAST_WRITERS:
        raise UserError(
            f"a new hand: this model was trained on {len(trained.names)} writers with style vectors; at least"
            f" {LEAST_WRITERS} are needed to draw another from them. Name one of its writers."
        )
    styles = trained.styles
    distances = torch.cdist(styles, styles).fill_diagonal_(float("inf")).min(dim=1).values
    least = float(np.percentile(distances.numpy(), USUAL))
    covariance = torch.cov(styles.T, correction=0)
    even = covariance.diagonal().mean() * torch.eye(styles.shape[1], dtype=torch.float64)
    values, axes = torch.linalg.eigh((1 - SHRINKAGE) * covariance + SHRINKAGE * even)
    root = axes * values.clamp_min(0).sqrt()
    generator = make_generator("cpu", number, _NEW_KEY)
    farthest, vector, nearest = -1.0, styles[0], 0
    for _ in range(MOST_DRAWS):
        normal = torch.randn(styles.shape[1], generator=generator, dtype=torch.float64)
        drawn = F.normalize(styles.mean(dim=0) + root @ normal, dim=0)
        apart = torch.linalg.vector_norm(styles - drawn, dim=1)
        if float(apart.min()) > farthest:
            farthest, vector, nearest = float(apart.min()), drawn, int(apart.argmin())
        if farthest >= least:
            break
    hand = make_hand(pipeline, vector, predict_scales(pipeline, vector))
    return NewHand(hand=hand, nearest=trained.names[nearest], distance=farthest)


def mix_hands(pipeline: HandwritingPipeline, shares: Mapping[str, float]) -> Hand:
    """A mix of a model's writers as one hand: the means of their vectors, offsets and scales.

    Args:
        shares: by name, summing to 1.
    Raises:
        UserError: if the model has no style vectors.
    """
    check_takes_hands(pipeline, "a hand of a mix")
    hands = [(hand_of_writer(pipeline.unet, pipeline.config, name), share) for name, share in shares.items()]
    blank = torch.zeros_like(pipeline.unet.writer_embedding.weight[0]).cpu()
    offset = sum(share * (blank if hand.offset is None else hand.offset.cpu()) for hand, share in hands)
    return Hand(
        style=F.normalize(sum(share * hand.style.cpu() for hand, share in hands), dim=0),
        offset=offset if offset.any() else None,
        low_rank=mix_low_rank([(hand.low_rank, share) for hand, share in hands if hand.low_rank]),
        **{name: round(sum(share * getattr(hand, name) for hand, share in hands), 4) for name in SCALES},
        style_space=hands[0][0].style_space,
    )
