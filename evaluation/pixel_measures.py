"""What pixels tell of generated images: differences from real ones, and variety."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from evaluation.comparison import Comparison
from evaluation.image_sets import ImageSet
from evaluation.measures import LeftOut, Measure
from utils.bootstrap import Bootstrap
from utils.images import pixel_difference

_MOST_PAIRS = 200  # of images of one text and writer


def unit_vectors(thumbnails: np.ndarray) -> np.ndarray:
    """Thumbnails as (N, D) float32 of length 1; a blank one stays 0, and so is far from everything."""
    values = thumbnails.astype(np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)


def measure_pixels(pair: Comparison, bootstrap: Bootstrap) -> tuple[Measure, np.ndarray]:
    """NMAE of generated images and the real images of the same records.

    Returns:
        The measure, and (len(generated),) the difference of each image, NaN without a partner.
    Raises:
        LeftOut: if no record is in both folders.
    """
    rows = np.flatnonzero(pair.partners >= 0)
    if not len(rows):
        raise LeftOut(
            "nmae: no file name (with the same text) is in both folders; inference.py --dataset_path REAL"
            " writes the records of --real under their names"
        )
    differences = np.full(len(pair.generated), np.nan)
    sides = (pair.generated.chunks(rows, "nmae"), pair.real.chunks(pair.partners[rows], "nmae real"))
    for (part, images), (_, others) in zip(*sides, strict=True):
        differences[rows[part]] = [
            pixel_difference(image, other) for image, other in zip(images, others, strict=True)
        ]
    protocol = (
        f"mean absolute pixel difference / 255 of {len(rows)} records by file name; the narrower image of a"
        f" pair gets white at its right; {len(differences) - len(rows)} generated images have no real partner"
    )
    measure = Measure(
        key="nmae",
        label="Pixel difference, NMAE",
        values={"generated": bootstrap.ratio("nmae", differences[rows])},
        protocol=protocol,
    )
    return measure, differences


def class_pairs(texts: Sequence[str], writers: Sequence[str], seed: int) -> list[np.ndarray]:
    """For each text and writer with several images, the (p, 2) rows of their pairs, at most 200 drawn by
    ``seed``.
    """
    members = defaultdict(list)
    for row, key in enumerate(zip(texts, writers, strict=True)):
        members[key].append(row)
    rng = np.random.default_rng(seed)
    classes = []
    for rows in members.values():
        if len(rows) > 1:
            pairs = np.array(list(combinations(rng.permutation(rows)[:_MOST_PAIRS], 2)))
            classes.append(pairs[rng.permutation(len(pairs))[:_MOST_PAIRS]])
    return classes


def thumbnail_distance(thumbnails: np.ndarray, pairs: np.ndarray) -> float:
    """Mean distance of (p, 2) pairs of thumbnails, 0 (equal) to 1."""
    one, other = unit_vectors(thumbnails[pairs[:, 0]]), unit_vectors(thumbnails[pairs[:, 1]])
    return float(np.sqrt(np.clip(1 - (one * other).sum(axis=1), 0, 1)).mean())


def style_distance(vectors: np.ndarray, pairs: np.ndarray) -> float:
    """Mean of 1 - cosine over (p, 2) pairs of style vectors of length 1."""
    return float((1 - (vectors[pairs[:, 0]] * vectors[pairs[:, 1]]).sum(axis=1)).mean())


@dataclass(frozen=True, kw_only=True)
class _Classes:
    """Texts of one writer that are there several times.

    Attributes:
        lengths: (c,) characters of each text.
        shapes: (c,) mean distance of thumbnails within each class.
        styles: (c,) mean distance of style vectors within each class; None without vectors.
    """

    lengths: np.ndarray
    shapes: np.ndarray
    styles: np.ndarray | None


def _measure_classes(
    images: ImageSet, rows: np.ndarray, vectors: np.ndarray | None, seed: int
) -> _Classes | None:
    """The classes among some images, ``vectors[i]`` that of image ``rows[i]``; None if there are none."""
    texts = images.texts
    texts = [texts[row] for row in rows]
    classes = class_pairs(texts, images.writers[rows].tolist(), seed)
    if not classes:
        return None
    thumbnails = images.thumbnails[rows]
    styles = None
    if vectors is not None:
        styles = np.array([style_distance(vectors, pairs) for pairs in classes])
    return _Classes(
        lengths=np.array([len(texts[pairs[0, 0]]) for pairs in classes]),
        shapes=np.array([thumbnail_distance(thumbnails, pairs) for pairs in classes]),
        styles=styles,
    )


def _match_lengths(lengths: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n,) weights under which texts of ``lengths`` are as long as the ``others``; 0 for lengths that the
    others lack.
    """
    wanted, there = Counter(others.tolist()), Counter(lengths.tolist())
    return np.array([wanted[length] / there[length] for length in lengths.tolist()])


def measure_variety(
    pair: Comparison, vectors: Mapping[str, np.ndarray], bootstrap: Bootstrap
) -> list[Measure]:
    """How much two images of one text by one writer differ, generated and real.

    Long texts differ in other ways than short ones, and people repeat short ones: the real texts are weighted
    to have the generated texts' lengths. The ratio tells how much of a person's variety the generator has.

    Args:
        vectors: style vectors by side: of the generated images, and of the real images ``pair.rows``; may be
            empty.
    Returns:
        The measures; none if no generated text is there twice by one writer.
    """
    sides = {
        "generated": _measure_classes(
            pair.generated, np.arange(len(pair.generated)), vectors.get("generated"), bootstrap.seed
        ),
        "real": _measure_classes(pair.real, pair.rows, vectors.get("real"), bootstrap.seed),
    }
    generated, real = sides["generated"], sides["real"]
    if generated is None:
        return []
    kinds = {
        "shapes": (
            "diversity_pixels",
            "Variety of shapes",
            "sqrt(1 - cosine) of the ink box at 16x64, 0 to 1",
        ),
        "styles": ("diversity_style", "Variety of style", "1 - cosine of style vectors"),
    }
    measures = []
    for kind, (key, label, distance) in kinds.items():
        distances = getattr(generated, kind)
        if distances is None:
            continue
        values = {"generated": bootstrap.ratio(f"{key}/generated", distances)}
        shared = 0
        if real is not None and getattr(real, kind) is not None:
            weights = _match_lengths(real.lengths, generated.lengths)
            is_shared = np.isin(generated.lengths, real.lengths)
            shared = int(is_shared.sum())
        if shared:
            weighted = (getattr(real, kind) * weights, weights)
            values["real"] = bootstrap.ratio(f"{key}/real", *(column[weights > 0] for column in weighted))
            values["ratio"] = bootstrap.quotient(
                f"{key}/ratio",
                (distances[is_shared], None),
                tuple(column[weights > 0] for column in weighted),
            )
        protocol = (
            f"mean over texts of one writer that are there several times (n of them) of the mean over their"
            f" pairs; {distance}; real texts weighted by length to match the generated ones; ratio: over the"
            f" {shared} generated texts whose length real ones have; 1 is as varied as real writing"
        )
        measures.append(Measure(key=key, label=label, values=values, protocol=protocol))
    return measures
