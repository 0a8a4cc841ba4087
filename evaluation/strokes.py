"""Plain statistics of strokes: how thick, slanted, dark, wide and high the writing of an image is.

They need no network, so that no training can have been made for them. Generated images are compared with real
ones of the same writers: whether the writers' differences are there (correlation over writers), and whether
the level is right (difference of means).
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from itertools import groupby

import cv2
import numpy as np

from evaluation.comparison import Comparison
from evaluation.image_sets import ImageSet
from evaluation.measures import LeftOut, Measure
from utils.bootstrap import Bootstrap
from utils.images import ink_mask

SLANTS = np.arange(-46, 62, 2)  # degrees that are tried; between them a parabola decides
MOST_IMAGES = 100  # of a writer on each side
FEWEST_WRITERS = 3  # that a correlation is worth anything with
DARKEST = 10  # percentile of the ink's grey levels that counts as its full darkness
CORE = 0.4  # of the fullest rows' ink: rows with more belong to the small letters


@dataclass(frozen=True, kw_only=True)
class Strokes:
    """Statistics of one image's strokes.

    Attributes:
        stroke_width: pixels.
        slant: degrees from the vertical, positive where the tops of the letters lean to the right.
        darkness: of the ink, 0 (white) to 1 (black).
        character_width: width of the ink over the number of characters, pixels.
        x_height: height of the small letters (x, a, n), pixels.
    """

    stroke_width: float
    slant: float
    darkness: float
    character_width: float
    x_height: float


NAMES = tuple(field.name for field in fields(Strokes))
LABELS = {
    "stroke_width": "stroke width, pixels",
    "slant": "slant, degrees",
    "darkness": "darkness of the ink",
    "character_width": "width of a character, pixels",
    "x_height": "height of small letters, pixels",
}


def measure_image(image: np.ndarray, text: str) -> Strokes | None:
    """The strokes of an (H, W) uint8 image of ``text``; None where there is no ink."""
    mask = ink_mask(image)
    if not mask.any():
        return None
    columns = np.flatnonzero(mask.any(axis=0))
    return Strokes(
        stroke_width=estimate_stroke_width(image, mask),
        slant=estimate_slant(mask),
        darkness=float(1 - np.median(image[mask]) / 255),
        character_width=float(columns[-1] + 1 - columns[0]) / max(1, len(text)),
        x_height=estimate_x_height(mask),
    )


def estimate_stroke_width(image: np.ndarray, mask: np.ndarray) -> float:
    """Pixels: the area of the ink over half the length of its outline.

    Half-dark pixels at the edge count by their darkness, so that widths of parts of a pixel differ.
    """
    paper = float(np.median(image[~mask])) if (~mask).any() else 255.0
    full = min(float(np.percentile(image[mask], DARKEST)), paper - 1)
    near = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    area = ((paper - image[near].astype(np.float64)) / (paper - full)).clip(0, 1).sum()
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    # An outline runs through the centres of its pixels; a dot's has no length.
    length = sum(max(cv2.arcLength(outline, True), 2.0) for outline in outlines)
    return float(2 * area / length)


def estimate_slant(mask: np.ndarray) -> float:
    """Degrees from the vertical: the shear after which the ink stands in the fewest columns.

    Source: Vinciarelli and Luettin 2001, https://doi.org/10.1016/S0167-8655(01)00042-3 (deslanting by the
    columns' ink), here with the sum of squares of the columns' ink.
    """
    rows, columns = np.nonzero(mask)
    height = mask.shape[0]
    scores = []
    for slant in np.tan(np.radians(SLANTS)):
        sheared = columns + slant * (rows - height) + height * abs(slant)  # tops move left by a right slant
        low = np.floor(sheared).astype(np.int64)
        high_share = sheared - low
        ink = np.bincount(low, 1 - high_share, int(low.max()) + 2)
        ink += np.bincount(low + 1, high_share, len(ink))
        # Unsheared ink has sharper columns than ink between two of them: blurred, they compare.
        blurred = np.convolve(ink, (0.25, 0.5, 0.25))
        scores.append(np.square(blurred).sum())
    best = int(np.argmax(scores))
    if 0 < best < len(scores) - 1:  # the top of the parabola through three points
        left, top, right = scores[best - 1 : best + 2]
        bend = left - 2 * top + right
        shift = 0.5 * (left - right) / bend if bend < 0 else 0.0
        return float(SLANTS[best] + shift * (SLANTS[1] - SLANTS[0]))
    return float(SLANTS[best])


def estimate_x_height(mask: np.ndarray) -> float:
    """Pixels: the rows that hold most of the ink, between the lines that small letters stand on and reach."""
    ink = mask.sum(axis=1).astype(np.float64)
    ink = np.convolve(ink, np.ones(3) / 3, mode="same")
    fullest = np.percentile(ink[ink > 0], 90)
    is_core = ink > CORE * fullest
    starts = np.flatnonzero(np.diff(is_core.astype(np.int8), prepend=0) == 1)
    ends = np.flatnonzero(np.diff(is_core.astype(np.int8), append=0) == -1) + 1
    sums = [ink[start:end].sum() for start, end in zip(starts, ends, strict=True)]
    widest = int(np.argmax(sums))
    return float(ends[widest] - starts[widest])


def measure_rows(images: ImageSet, rows: Sequence[int], description: str) -> np.ndarray:
    """(n, 5) statistics of some images in the order of ``NAMES``; NaN for an image without ink."""
    texts = images.texts
    statistics = np.full((len(rows), len(NAMES)), np.nan)
    for part, chunk in images.chunks(rows, description):
        for i, image in zip(range(part.start, part.stop), chunk, strict=True):
            strokes = measure_image(image, texts[rows[i]])
            if strokes is not None:
                statistics[i] = astuple(strokes)
    return statistics


def limit_writers(rows: np.ndarray, writers: np.ndarray) -> np.ndarray:
    """At most ``MOST_IMAGES`` rows of each writer; the rows of a writer stand together."""
    kept: list[int] = []
    for _, group in groupby(rows.tolist(), key=lambda row: writers[row]):
        kept += list(group)[:MOST_IMAGES]
    return np.array(kept, np.int64)


def average_writers(statistics: np.ndarray, writers: np.ndarray) -> dict[str, np.ndarray]:
    """The (5,) mean statistics of each writer's images with ink; writers without any are left out."""
    has_ink = ~np.isnan(statistics).any(axis=1)
    return {
        name: statistics[has_ink & (writers == name)].mean(axis=0)
        for name in dict.fromkeys(writers[has_ink].tolist())
    }


def measure_strokes(pair: Comparison, bootstrap: Bootstrap) -> tuple[list[Measure], dict[str, dict]]:
    """Each statistic's correlation over writers, and its level.

    Returns:
        The measures; and by writer, the mean statistics of its generated and of its real images.
    Raises:
        LeftOut: if the folders have no writer with two real images and a generated one.
    """
    if not pair.sets.size:
        raise LeftOut(
            "strokes: need two real images and a generated one of one writer; --split all allows more"
            " real ones"
        )
    sides = {
        "reference": (pair.real, limit_writers(pair.sets.reference, pair.real.writers)),
        "real": (pair.real, limit_writers(pair.sets.real, pair.real.writers)),
        "generated": (pair.generated, limit_writers(pair.sets.generated, pair.generated.writers)),
    }
    statistics = {side: measure_rows(*images, f"strokes {side}") for side, images in sides.items()}
    averages = {
        side: average_writers(statistics[side], images.writers[rows])
        for side, (images, rows) in sides.items()
    }
    shared = [name for name in averages["reference"] if all(name in of_side for of_side in averages.values())]
    measures = []
    for column, name in enumerate(NAMES):
        levels = {side: values[~np.isnan(values[:, column]), column] for side, values in statistics.items()}
        if len(shared) >= FEWEST_WRITERS:
            means = {
                side: np.array([of_side[writer][column] for writer in shared])
                for side, of_side in averages.items()
            }
            measures.append(_correlation(name, means, len(pair.sets.reference), pair.protocol, bootstrap))
        if len(levels["generated"]) and len(levels["real"]):
            measures.append(_level(name, levels["generated"], levels["real"], bootstrap))
    details = {
        writer: {
            side: dict(zip(NAMES, np.round(averages[side][writer], 3).tolist(), strict=True))
            for side in ("generated", "real")
        }
        for writer in shared
    }
    return measures, details


def _correlation(
    name: str, means: dict[str, np.ndarray], count: int, protocol: str, bootstrap: Bootstrap
) -> Measure:
    key = f"stroke_correlation/{name}"
    return Measure(
        key=key,
        label=f"Correlation over writers: {LABELS[name]}",
        values={
            side: bootstrap.correlation(f"{key}/{side}", means[side], means["reference"])
            for side in ("generated", "real")
        },
        protocol=f"Pearson's, of the writers' means, of at most {MOST_IMAGES} images each ({count} in all);"
        f" {protocol}; intervals over writers",
        better="higher",
    )


def _level(name: str, generated: np.ndarray, real: np.ndarray, bootstrap: Bootstrap) -> Measure:
    key = f"strokes/{name}"
    sides = {"generated": generated, "real": real}
    values = {side: bootstrap.ratio(f"{key}/{side}", numbers) for side, numbers in sides.items()}
    values["difference"] = bootstrap.difference(
        f"{key}/difference", (generated, None), (real, None), is_paired=False
    )
    label = LABELS[name]
    return Measure(
        key=key,
        label=label[0].upper() + label[1:],
        values=values,
        protocol="mean over images with ink, of each writer as many generated as real ones",
    )
