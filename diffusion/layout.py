"""Text layout: a width model that says where each character of a word is expected, and the columns it covers.

Cross-attention alone needs hundreds of thousands of words to learn which letter goes where; given an expected
place for every character, a model writes legibly after tens of thousands.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import Tensor

from utils.charset import is_right_to_left
from utils.text_images import TextImage

COLUMN = 8  # pixels per latent column
CANVAS_STEP = 32  # pixels: canvases of words are multiples of it, where they fit the word
MIN_CHARACTER_SHARE = 0.4  # of the mean character
SHAPE_CLASSES = 9
_DEEP = frozenset("fgjpqyçµ()[]{}|/\\")
_SHALLOW = frozenset("QJſ,;")  # below the line in many hands, not in all
_SMALL = frozenset("acemnorsuvwxzgpqyıçµ.,:;-_~=+·…")  # no ascender; everything else reaches up


def shape_class(text: str) -> int:
    """Which of nine kinds of height a text has: 3 * (0 no ascender, 1 ascenders, 2 a capital with a mark
    above) + (0 no descender, 1 shallow ones, 2 deep ones).

    A word scaled to a fixed height is the wider the less it reaches up and down.
    """
    letters = [unicodedata.normalize("NFD", c) for c in text if c != " "]
    is_raised = any(len(c) > 1 and c[0].isupper() for c in letters)
    is_tall = any(c[0] not in _SMALL or len(c) > 1 for c in letters)
    is_deep, is_shallow = any(c[0] in _DEEP for c in letters), any(c[0] in _SHALLOW for c in letters)
    return 3 * (2 if is_raised else int(is_tall)) + (2 if is_deep else int(is_shallow))


@dataclass(frozen=True, kw_only=True)
class WidthModel:
    """``width = writer_scale * shape_scale * sum of character widths``, in pixels of the canvas, at most
    ``room``; a space's width times ``space_scale``, too.

    Attributes:
        character_widths: expected width of each character in the mean hand, pixels.
        writer_scales: factor of each hand; the mean hand has 1.
        space_scales: factor of each hand on the width of its spaces, beside its ``writer_scales``; 1 where
            none was measured.
        shape_scales: factors of the shape classes (``shape_class``).
        left: where the ink begins, in pixels, in left-aligned images.
        room: widest ink that the canvas takes, in pixels.
        is_centered: words are centred in the image's width instead of left-aligned.
        spread: standard deviation of the logarithm of a character's width in one hand, where borders between
            characters were measured; else 0.
        correlation: Pearson's r of expected and measured widths where it was fitted.
    """

    character_widths: Mapping[str, float]
    writer_scales: Mapping[str, float]
    space_scales: Mapping[str, float] = field(default_factory=dict)
    shape_scales: tuple[float, ...] = (1.0,) * SHAPE_CLASSES
    left: float = 4.0
    room: float = 248.0
    is_centered: bool = False
    spread: float = 0.0
    correlation: float = field(default=0.0, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape_scales", tuple(self.shape_scales))  # a list where it comes from JSON

    def to_dict(self) -> dict:
        """The model as JSON-able values; without spread and scales of spaces as earlier versions read it."""
        values = asdict(self) | {"shape_scales": list(self.shape_scales)}
        return {name: v for name, v in values.items() if v or name not in ("spread", "space_scales")}

    def scale(self, writers: Mapping[str, float] | None) -> float:
        """The hand's scale for a mix of writers (shares summing to 1); None is the null writer: the mean
        hand.
        """
        return _mix(self.writer_scales, writers)

    def space_scale(self, writers: Mapping[str, float] | None) -> float:
        """The same of spaces, beside the hand's scale."""
        return _mix(self.space_scales, writers)

    def expected_widths(self, text: str, writers: Mapping[str, float] | None) -> np.ndarray:
        """(len(text),) expected widths of characters, pixels, whether they find room or not."""
        mean = float(np.mean(list(self.character_widths.values())))
        widths = np.array([self.character_widths.get(c, mean) for c in text], np.float64)
        widths[[c == " " for c in text]] *= self.space_scale(writers)
        return widths * self.shape_scales[shape_class(text)] * self.scale(writers)

    def has_room(self, text: str, writers: Mapping[str, float] | None) -> bool:
        """Whether a text finds room at its own width; a longer one is squeezed."""
        return float(self.expected_widths(text, writers).sum()) <= self.room

    def edges(
        self,
        text: str,
        writers: Mapping[str, float] | None,
        ink: tuple[float, float] | None = None,
        rng: np.random.Generator | None = None,
        variation: float = 1.0,
    ) -> np.ndarray:
        """Expected borders of a text's characters.

        Args:
            ink: measured (left, right) of the ink in pixels, where the image is known; else both are
                expected.
            rng: draws each width as it varies in one hand (``spread``), at most two deviations off; None is
                the expected width.
            variation: the drawn widths' spread as a multiple of ``spread``.
        Returns:
            (len(text) + 1,) pixel positions: rising, or falling where the text is written from right to left.
        """
        if not text:  # null text covers nothing
            return np.array([self.left])
        widths = self.expected_widths(text, writers)
        if rng is not None:
            widths *= np.exp(variation * self.spread * rng.standard_normal(len(widths)).clip(-2, 2))
        total = min(float(widths.sum()), self.room)
        left = (self.room - total) / 2 + self.left if self.is_centered else self.left
        if ink is not None:
            left, total = ink[0], max(1.0, ink[1] - ink[0])
        offsets = np.concatenate([[0.0], np.cumsum(widths)]) * total / widths.sum()
        return left + total - offsets if is_right_to_left(text) else left + offsets

    def expected_width(self, text: str, writers: Mapping[str, float] | None = None) -> float:
        """Expected width of the ink in pixels."""
        edges = self.edges(text, writers)
        return float(abs(edges[-1] - edges[0]))


def _mix(scales: Mapping[str, float], writers: Mapping[str, float] | None) -> float:
    """The factor of a mix of writers; 1 for the mean hand and for writers that have none."""
    if writers is None:
        return 1.0
    return sum(share * scales.get(writer, 1.0) for writer, share in writers.items())


def usual_ratio(ratios: Sequence[float]) -> float:
    """The median of measured widths as multiples of the expected ones, as if two more were at 1."""
    return (len(ratios) * float(np.median(ratios)) + 2) / (len(ratios) + 2)


def expected_edges(records: Sequence[TextImage], ink: np.ndarray, model: WidthModel) -> list[np.ndarray]:
    """Expected borders of the characters of text images, each as wide as its ink.

    Args:
        ink: (N, 4) left, top, right, bottom in pixels.
    Returns:
        (n + 1,) pixels of each.
    """
    return [
        model.edges(record.text, {record.writer: 1.0}, (float(box[0]), float(box[2])))
        for record, box in zip(records, ink, strict=True)
    ]


def canvas_widths(rights: np.ndarray, margin: float, step: int, widest: int | None = None) -> np.ndarray:
    """Widths of canvases that just hold words or lines: short ones cost less to draw, and long ones need not
    be squeezed.

    Args:
        rights: (N,) where the ink ends, in pixels.
        margin: white pixels behind the ink.
        step: the widths' common divisor, pixels.
        widest: the widest canvas, pixels; None for no bound.
    Returns:
        (N,) int64 pixels, multiples of ``step`` or ``widest``.
    """
    widths = np.ceil((np.asarray(rights) + margin) / step).clip(1) * step
    return (widths if widest is None else np.minimum(widths, widest)).astype(np.int64)


def pad_edges(edges: np.ndarray, max_length: int) -> np.ndarray:
    """(max_length + 1,) float32 borders of n <= max_length characters; the absent ones are empty, at the last
    border.
    """
    return np.pad(edges.astype(np.float32), (0, max_length + 1 - len(edges)), mode="edge")


def layout_columns(edges: Tensor, columns: int) -> Tensor:
    """Texts' characters over the latent's columns.

    Args:
        edges: (B, L + 1) rising or falling pixel positions of the borders of L characters; an empty one
            covers nothing.
        columns: columns of the latents, 8 pixels each.
    Returns:
        (B, 2, L, columns) float32: each character's share of each column in [0, 1] (several share a column by
        fractions), and the position of the column's centre inside the character in [0, 1].
    """
    borders = edges.unfold(1, 2, 1)  # (B, L, 2)
    starts, ends = borders.amin(dim=2)[..., None], borders.amax(dim=2)[..., None]  # (B, L, 1)
    left = torch.arange(columns, device=edges.device, dtype=edges.dtype) * COLUMN
    share = (torch.minimum(ends, left + COLUMN) - torch.maximum(starts, left)).clamp(0, COLUMN) / COLUMN
    position = ((left + COLUMN / 2 - starts) / (ends - starts).clamp_min(1e-6)).clamp(0, 1)
    return torch.stack([share, position], dim=1)


def natural_widths(ink: np.ndarray) -> np.ndarray:
    """(N,) widths that the words would have at the height of the highest, in pixels.

    A word that is too long for the canvas was scaled down to its width; its height tells by how much.
    """
    heights = np.maximum(ink[:, 3] - ink[:, 1], 1.0).astype(np.float64)
    return (
        (ink[:, 2] - ink[:, 0]) * np.percentile(heights, 99) / np.minimum(heights, np.percentile(heights, 99))
    )


def _fit_scales(
    groups: np.ndarray, expected: np.ndarray, target: np.ndarray, scales: np.ndarray
) -> np.ndarray:
    """Each group's factor from ``expected`` to ``target``, shrunk as if two words had been seen at 1; else
    the old one.
    """
    counts = np.bincount(groups, minlength=len(scales))
    squares = np.bincount(groups, expected * expected, minlength=len(scales))
    products = np.bincount(groups, expected * target, minlength=len(scales))
    shrink = 2.0 * squares / np.maximum(counts, 1)
    return np.where(counts > 0, (products + shrink) / np.maximum(squares + shrink, 1e-30), scales)


def fit_width_model(
    texts: Sequence[str],
    writers: Sequence[str],
    ink: np.ndarray,
    image_width: int,
    prior: WidthModel | None = None,
    iterations: int = 12,
) -> WidthModel:
    """Fit the width model by alternating least squares on relative errors.

    Only words that fill the canvas are scaled down to its width; all others have its height, whatever their
    height is.

    Args:
        ink: (N, 4) measured left, top, right, bottom of each word's ink in pixels.
        image_width: the canvas, pixels.
        prior: a fitted model to extend: its characters keep their widths (new data moves them little), its
            writers their scales.
    """
    measured = (ink[:, 2] - ink[:, 0]).astype(np.float64)
    lefts, rights = ink[:, 0].astype(np.float64), ink[:, 2].astype(np.float64)
    is_centered = bool(np.std((lefts + rights) / 2) < np.std(lefts)) if prior is None else prior.is_centered
    left = float(lefts.min() if is_centered else np.median(lefts)) if prior is None else prior.left
    room = min(max(float(np.percentile(measured, 99.5)), COLUMN), image_width - left)
    is_full = measured >= 0.95 * room
    room = max(room, prior.room if prior else 0.0)  # the prior's images may be wider
    widths = np.maximum(np.where(is_full, natural_widths(ink), measured), 1.0)

    old_widths = dict(prior.character_widths) if prior else {}
    characters = sorted(set().union(*texts) | set(old_widths))
    index = {c: i for i, c in enumerate(characters)}
    names = sorted(set(writers))
    writer_index = {name: i for i, name in enumerate(names)}
    counts = np.zeros((len(texts), len(characters)))
    for row, text in enumerate(texts):
        for character in text:
            counts[row, index[character]] += 1
    if prior and prior.space_scales and " " in index:
        counts[:, index[" "]] *= [prior.space_scales.get(name, 1.0) for name in writers]
    hands = np.array([writer_index[name] for name in writers])
    shapes = np.array([shape_class(text) for text in texts])

    mean = float(np.median(widths / counts.sum(axis=1)))
    anchor = np.array([old_widths.get(c, mean) for c in characters])
    character_widths = anchor.copy()
    hand_scales = np.array([prior.writer_scales.get(n, 1.0) if prior else 1.0 for n in names])
    is_known_hand = np.array([prior is not None and n in prior.writer_scales for n in names])
    shape_scales = np.array(prior.shape_scales if prior else (1.0,) * SHAPE_CLASSES, np.float64)
    for _ in range(iterations):
        scale = hand_scales[hands] * shape_scales[shapes]
        expected = scale * (counts @ character_widths)
        # Relative errors, and words that are far off (a wrong label, half of the ink lost) count little.
        weights = 1.0 / (expected * (1 + (np.log(widths / expected) / 0.3) ** 2))
        rows = counts * (scale * weights)[:, None]
        # As if every new character had been seen in two words at the mean width, every known one in two
        # hundred at its own.
        strength = (
            np.where([c in old_widths for c in characters], 200.0, 2.0)
            * (1.0 / (counts.sum(axis=1) * mean).mean()) ** 2
        )
        gram = rows.T @ rows + np.diag(strength)
        character_widths = np.linalg.solve(gram, rows.T @ (widths * weights) + strength * anchor)
        character_widths = np.maximum(character_widths, MIN_CHARACTER_SHARE * mean)
        base, target = (counts @ character_widths) * weights, widths * weights
        fitted = _fit_scales(hands, base * shape_scales[shapes], target, hand_scales)
        hand_scales = np.where(is_known_hand, hand_scales, fitted)
        if prior is None:  # the mean hand has scale 1
            shape_scales = _fit_scales(shapes, base * hand_scales[hands], target, shape_scales)
            character_widths *= hand_scales.mean()
            hand_scales /= hand_scales.mean()
    # Rounded here and not in the file: a resumed run must lay out exactly what the run before it did.
    character_widths, hand_scales, shape_scales = (
        character_widths.round(2),
        hand_scales.round(4),
        shape_scales.round(4),
    )
    expected = hand_scales[hands] * shape_scales[shapes] * (counts @ character_widths)
    has_spread = len(widths) > 1 and widths.std() > 0 and expected.std() > 0
    return WidthModel(
        character_widths={c: float(w) for c, w in zip(characters, character_widths, strict=True)},
        writer_scales={
            **(prior.writer_scales if prior else {}),
            **{n: float(s) for n, s in zip(names, hand_scales, strict=True)},
        },
        space_scales=dict(prior.space_scales) if prior else {},
        shape_scales=tuple(float(s) for s in shape_scales),
        left=left,
        room=room,
        is_centered=is_centered,
        correlation=float(np.corrcoef(np.minimum(expected, room), measured)[0, 1]) if has_spread else 0.0,
    )
