"""Where each character stands in an image: forced alignment by the latent recogniser.

CTC says in which order the characters come, not where they begin and end: its peaks sit at one place of each
character, with this recogniser near the left border. Borders halfway between peaks are therefore off by half
a character. Here the place of the peaks inside a character is measured on first and last characters, whose
outer borders are the ink's, and the borders are fitted to the peaks and to the expected widths together.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from diffusion.latent_recogniser import FRAMES, LatentRecogniser
from diffusion.layout import COLUMN, WidthModel, expected_edges, shape_class, usual_ratio
from utils.charset import is_right_to_left, order_along_line
from utils.images import INK, runs_without_ink
from utils.text_images import TextImage

PEAK_SPREAD = 3.0  # pixels that a peak is off its usual place in a character
WIDTH_SPREAD = 0.25  # that a character's width is off the expected one, as a share of it ...
SPACE_SPREAD = 0.6  # ... and a space's
SPACES_AT_ONE = 5  # as if so many spaces of each hand had been seen at the usual width
SPACE_SCALES = (0.25, 6.0)  # least and most
SPACING_ROUNDS = 3
LEAST_GAP = 4  # columns without ink that may be a space
BEARING = 2.0  # pixels beside the ink of a letter that are still the letter's
GAP_SPREAD = 2.0  # pixels that a space's border is off the ink's
LEAST_LIKELY = -2.5  # nats a character: a text that is less probable is not what the recogniser sees


def character_positions(log_probs: Tensor, input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Expected places of the characters of texts, and how probable the texts are.

    Source: Graves et al. 2006, https://doi.org/10.1145/1143844.1143891, section 4.1 (forward and backward
    variables): the places are means over all paths.

    Args:
        log_probs: (B, T, classes) log-probabilities; class 0 is the blank.
        input_ids: (B, L) classes of the characters from left to right, then padding.
        lengths: (B,) characters of each text, at least 1.
    Returns:
        (B, L) float64 places in frames, NaN behind the text; and (B,) log-probabilities in nats a character,
        ``-inf`` for a text that has too few frames.
    """
    log_probs, lengths = log_probs.double(), lengths.to(log_probs.device)
    batch, frames, _ = log_probs.shape
    # The states of a text are its characters with a blank before, between and behind them.
    labels = input_ids.new_zeros(batch, 2 * input_ids.shape[1] + 1)
    labels[:, 1::2] = input_ids
    emissions = log_probs.gather(2, labels[:, None, :].expand(-1, frames, -1))  # (B, T, S)
    may_skip = torch.zeros_like(labels, dtype=torch.bool)  # the blank before it
    may_skip[:, 3::2] = labels[:, 3::2] != labels[:, 1:-2:2]
    last = 2 * lengths[:, None]  # the last blank
    states = torch.arange(labels.shape[1], device=labels.device)[None]
    is_end = (states == last) | (states == last - 1)
    forward = _forward_variables(emissions, may_skip)
    backward = _backward_variables(emissions, may_skip, is_end)
    totals = forward[:, -1].masked_fill(~is_end, -torch.inf).logsumexp(dim=1)  # (B,)
    shares = (forward + backward - totals[:, None, None]).exp().nan_to_num(0.0)[:, :, 1::2]  # (B, T, L)
    centres = torch.arange(frames, dtype=torch.float64, device=labels.device) + 0.5
    places = (shares * centres[None, :, None]).sum(dim=1) / shares.sum(dim=1)
    is_absent = torch.arange(input_ids.shape[1], device=labels.device)[None] >= lengths[:, None]
    return places.masked_fill(is_absent, torch.nan), totals / lengths


def _forward_variables(emissions: Tensor, may_skip: Tensor) -> Tensor:
    """(B, T, S) log-probabilities of all paths up to a frame that are in a state there."""
    forward = torch.full_like(emissions, -torch.inf)
    forward[:, 0, :2] = emissions[:, 0, :2]
    for frame in range(1, emissions.shape[1]):
        before = forward[:, frame - 1]
        skipped = _shift(before, 2).masked_fill(~may_skip, -torch.inf)
        ways = torch.stack([before, _shift(before, 1), skipped])
        forward[:, frame] = emissions[:, frame] + ways.logsumexp(dim=0)
    return forward


def _backward_variables(emissions: Tensor, may_skip: Tensor, is_end: Tensor) -> Tensor:
    """(B, T, S) log-probabilities of all ways on from a state at a frame; ``is_end``: (B, S)."""
    backward = torch.full_like(emissions, -torch.inf)
    backward[:, -1] = backward[:, -1].masked_fill(is_end, 0.0)
    for frame in range(emissions.shape[1] - 2, -1, -1):
        behind = backward[:, frame + 1] + emissions[:, frame + 1]
        skipped = _shift(behind.masked_fill(~may_skip, -torch.inf), -2)
        ways = torch.stack([behind, _shift(behind, -1), skipped])
        backward[:, frame] = ways.logsumexp(dim=0)
    return backward


def _shift(values: Tensor, by: int) -> Tensor:
    """(B, S) values of the state ``by`` places before, or, if negative, behind; ``-inf`` beyond the ends."""
    moved = torch.full_like(values, -torch.inf)
    if by > 0:
        moved[:, by:] = values[:, :-by]
    else:
        moved[:, :by] = values[:, -by:]
    return moved


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """The peaks of a text in an image.

    Attributes:
        text: in reading order.
        ink: left and right border of the ink, pixels.
        places: (n,) of the characters from left to right, pixels.
        log_probability: of the text, nats a character.
        gaps: (n, 2) left and right end of the white at each space, pixels, from left to right; NaN for other
            characters, and where there is none. None: nobody looked.
    """

    text: str
    ink: tuple[float, float]
    places: np.ndarray
    log_probability: float
    gaps: np.ndarray | None = None

    @property
    def is_sure(self) -> bool:
        """Whether the recogniser sees this text in the image."""
        return self.log_probability > LEAST_LIKELY and bool(np.isfinite(self.places).all())


@torch.no_grad()
def find_peaks(
    recogniser: LatentRecogniser,
    latents: Tensor,
    input_ids: Tensor,
    texts: Sequence[str],
    ink: np.ndarray,
) -> list[Peaks]:
    """The peaks of texts in the latents of their images.

    Args:
        latents: (B, C, h, W).
        input_ids: (B, L) characters from left to right, padding 0.
        texts: none of them empty.
        ink: (B, 4) left, top, right, bottom in pixels.
    """
    lengths = torch.tensor([len(text) for text in texts])
    input_ids = input_ids[:, : int(lengths.max())]
    places, scores = character_positions(recogniser(latents), input_ids, lengths)
    pixels = (places * COLUMN / FRAMES).cpu().numpy()
    return [
        Peaks(
            text=text,
            ink=(float(box[0]), float(box[2])),
            places=row[: len(text)],
            log_probability=float(score),
        )
        for text, box, row, score in zip(texts, ink, pixels, scores.tolist(), strict=True)
    ]


def find_gaps(peak: Peaks, has_ink: np.ndarray) -> Peaks:
    """The same peaks with the white at each space: the widest run without ink between the peaks of its
    neighbours.

    A recogniser says that there is a space, and not how wide it is: its peak may be at either end.

    Args:
        has_ink: (W,) bool, which of the image's columns have ink.
    """
    gaps = np.full((len(peak.text), 2), np.nan)
    for i, character in enumerate(order_along_line(peak.text)):
        if character == " " and 0 < i < len(peak.text) - 1:
            # A peak may be just before its letter.
            places = peak.places[i - 1], peak.places[i + 1] + COLUMN
            low, high = (max(0, round(float(place))) for place in places)
            runs = low + runs_without_ink(has_ink[low:high])
            widest = max(runs, key=np.ptp, default=None)
            if widest is not None and np.ptp(widest) >= LEAST_GAP:
                gaps[i] = widest
    return replace(peak, gaps=gaps)


def columns_of_ink(image: np.ndarray) -> np.ndarray:
    """(W,) bool: which columns of an (H, W) uint8 image have ink; a single pixel is a speck."""
    return (image < INK).sum(axis=0) > 1


def measure_peak_place(peaks: Sequence[Peaks], widths: Sequence[np.ndarray]) -> float:
    """Where in a character its peak sits, as a share of its width from its left border.

    The outer borders of first and last characters are the ink's, so each tells the place if its width is as
    expected. 0.5 where no text is sure.

    Args:
        widths: (n,) expected widths of each text's characters from left to right, pixels.
    """
    shares = []
    for peak, width in zip(peaks, widths, strict=True):
        if peak.is_sure and len(peak.text) > 1:
            left, right = peak.ink
            shares.append((peak.places[0] - left) / width[0])
            shares.append(1 - (right - peak.places[-1]) / width[-1])
    return float(np.median(shares)) if shares else 0.5


def fit_borders(peak: Peaks, widths: np.ndarray, peak_place: float) -> np.ndarray:
    """Borders of a text's characters: least squares of the peaks' places, of the widths, and of the white at
    spaces.

    Args:
        widths: (n,) expected widths from left to right, pixels; scaled so that they fill the ink.
        peak_place: see ``measure_peak_place``.
    Returns:
        (n + 1,) pixels: rising, or falling where the text is written from right to left, as
        ``WidthModel.edges`` gives them. The outer ones are the ink's.
    """
    left, right = peak.ink
    count = len(peak.text)
    widths = widths * (right - left) / widths.sum()
    # Unknown are the inner borders. Each peak gives an equation, and each width.
    matrix = np.zeros((2 * count, count + 1))
    values = np.zeros(2 * count)
    rows = np.arange(count)
    matrix[rows, rows], matrix[rows, rows + 1] = (1 - peak_place) / PEAK_SPREAD, peak_place / PEAK_SPREAD
    values[:count] = peak.places / PEAK_SPREAD
    is_space = np.array([character == " " for character in order_along_line(peak.text)])
    spreads = np.where(is_space, SPACE_SPREAD, WIDTH_SPREAD) * widths
    matrix[count + rows, rows], matrix[count + rows, rows + 1] = -1 / spreads, 1 / spreads
    values[count:] = widths / spreads
    if peak.gaps is not None:
        # Where the white was seen, it says where a space begins and ends, and peak and usual width do not.
        for i in np.flatnonzero(np.isfinite(peak.gaps[:, 0])):
            matrix[[i, count + i]] = 0.0
            matrix[i, i] = matrix[count + i, i + 1] = 1 / GAP_SPREAD
            ends = peak.gaps[i] + (BEARING, -BEARING)
            values[[i, count + i]] = ends / GAP_SPREAD
    values -= matrix[:, 0] * left + matrix[:, -1] * right
    inner = np.linalg.lstsq(matrix[:, 1:-1], values, rcond=None)[0] if count > 1 else np.zeros(0)
    # Two peaks in the wrong order must not turn a character around.
    borders = np.maximum.accumulate(np.concatenate([[left], inner, [right]]).clip(left, right))
    return borders[::-1].copy() if is_right_to_left(peak.text) else borders


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Where the characters of all texts stand.

    Attributes:
        edges: (n + 1,) borders of each text's characters, pixels, as ``WidthModel.edges`` gives them.
        is_measured: (N,) bool; where the recogniser does not see the text, the borders are the expected ones.
        peak_place: see ``measure_peak_place``.
    """

    edges: list[np.ndarray]
    is_measured: np.ndarray
    peak_place: float


def align(
    records: Sequence[TextImage], ink: np.ndarray, peaks: Sequence[Peaks | None], model: WidthModel
) -> Alignment:
    """Fit the borders of all texts.

    Args:
        ink: (N, 4) left, top, right, bottom in pixels.
        peaks: of each text; None where there are none.
    """
    edges = expected_edges(records, ink, model)
    sure = [i for i, peak in enumerate(peaks) if peak is not None and peak.is_sure]
    widths = {}
    for i in sure:
        expected = np.abs(np.diff(edges[i]))
        widths[i] = expected[::-1] if is_right_to_left(records[i].text) else expected
    place = measure_peak_place([peaks[i] for i in sure], [widths[i] for i in sure])
    for i in sure:
        edges[i] = fit_borders(peaks[i], widths[i], place)
    is_measured = np.zeros(len(records), bool)
    is_measured[sure] = True
    return Alignment(edges=edges, is_measured=is_measured, peak_place=place)


def refine_width_model(
    model: WidthModel, records: Sequence[TextImage], edges: Sequence[np.ndarray]
) -> WidthModel:
    """Character widths and their spread from measured borders; the writers' scales stay.

    Args:
        edges: (n + 1,) borders of each text's characters, pixels.
    """
    logs: dict[str, list[float]] = {}
    for record, borders in zip(records, edges, strict=True):
        if len(record.text) < 2:  # its borders are the ink's: nothing was measured
            continue
        factor = model.shape_scales[shape_class(record.text)] * model.scale({record.writer: 1.0})
        for character, width in zip(record.text, np.abs(np.diff(borders)), strict=True):
            expected = model.character_widths.get(character)
            if expected and width > 1:
                logs.setdefault(character, []).append(float(np.log(width / (expected * factor))))
    # As if every character had been seen in ten images at the width that it had.
    shifts = {c: float(np.median(values)) * len(values) / (len(values) + 10) for c, values in logs.items()}
    widths = {c: round(w * float(np.exp(shifts.get(c, 0.0))), 2) for c, w in model.character_widths.items()}
    residuals = [abs(value - shifts[c]) for c, values in logs.items() for value in values]
    spread = 1.4826 * float(np.median(residuals)) if residuals else model.spread  # of a normal distribution
    return replace(model, character_widths=widths, spread=round(spread, 4))


def refine_spacing(
    model: WidthModel,
    records: Sequence[TextImage],
    edges: Sequence[np.ndarray],
) -> WidthModel:
    """How wide each hand's spaces are beside its other characters, from measured borders; and with that the
    hands' scales, so that the images are as wide as they are. Hands without spaces stay as they are.

    Borders depend on the widths that they were fitted to, so this is done two or three times in turn.

    Args:
        edges: (n + 1,) borders of each text's characters, pixels.
    """
    images: dict[str, list[tuple[str, np.ndarray]]] = {}
    for record, borders in zip(records, edges, strict=True):
        if len(record.text) > 1:
            images.setdefault(record.writer, []).append((record.text, np.abs(np.diff(borders)).clip(min=1)))
    for writer, of_writer in images.items():
        hand = {writer: 1.0}
        lines = [(text, widths) for text, widths in of_writer if " " in text]
        is_space = np.array([c == " " for text, _ in lines for c in text])
        if not is_space.any() or is_space.all():
            continue
        logs = np.concatenate([np.log(widths / model.expected_widths(text, hand)) for text, widths in lines])
        count = int(is_space.sum())
        ratio = (np.median(logs[is_space]) - np.median(logs[~is_space])) * count / (count + SPACES_AT_ONE)
        space = float(np.clip(model.space_scale(hand) * np.exp(ratio), *SPACE_SCALES))
        model = replace(model, space_scales={**model.space_scales, writer: round(space, 4)})
        ratios = [widths.sum() / model.expected_widths(text, hand).sum() for text, widths in of_writer]
        scale = round(model.scale(hand) * usual_ratio(ratios), 4)
        model = replace(model, writer_scales={**model.writer_scales, writer: scale})
    return model


def align_spacing(
    records: Sequence[TextImage],
    ink: np.ndarray,
    peaks: Sequence[Peaks | None],
    model: WidthModel,
    writers: Collection[str] | None = None,
) -> WidthModel:
    """``refine_spacing`` by all images of hands with spaces, those with spaces aligned anew each time; see
    ``align``.

    Args:
        writers: whose spaces are measured; None is all.
    """
    is_line = [peak is not None and peak.is_sure and " " in peak.text for peak in peaks]
    spaced = {record.writer for record, is_one in zip(records, is_line, strict=True) if is_one}
    if writers is not None:
        spaced &= set(writers)
    rows = [i for i, record in enumerate(records) if record.writer in spaced]
    if not rows:
        return model
    records, peaks = [records[i] for i in rows], [peaks[i] if is_line[i] else None for i in rows]
    for _ in range(SPACING_ROUNDS):
        model = refine_spacing(model, records, align(records, ink[rows], peaks, model).edges)
    return model
