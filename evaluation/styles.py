"""Whose hand images are in, by the style encoder: the right writer named, retrieved, and nearest."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.comparison import Comparison
from evaluation.features import Reconstruct, embed_rows, embed_sets
from evaluation.measures import LeftOut, Measure, Results, measure_distances
from feature_extractor import StyleEncoder
from utils.bootstrap import Bootstrap

NAMED = 5  # writers in a line
_CELLS = 4_000_000  # of a similarity matrix at once: bounds the memory


@dataclass(frozen=True, kw_only=True)
class StyledImages:
    """What the style encoder says of n images.

    Attributes:
        vectors: (n, d) of length 1.
        predicted: (n,) the encoder's most likely writer, as a row of its writers.
        writers: (n,) names of the true writers.
    """

    vectors: np.ndarray
    predicted: np.ndarray
    writers: Sequence[str]


def average_precisions(
    queries: np.ndarray,
    query_labels: np.ndarray,
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    excluded: np.ndarray,
) -> np.ndarray:
    """Average precision of each query: the gallery is sorted by cosine, and what has the query's label is
    relevant.

    Args:
        queries: (q, d) vectors of length 1; gallery: (g, d).
        query_labels: (q,) integers; gallery_labels: (g,).
        excluded: (q,) a row of the gallery that does not count for the query (itself), or -1.
    Returns:
        (q,) in (0, 1]; NaN for a query without anything relevant.
    """
    precisions = np.full(len(queries), np.nan)
    rows = max(1, _CELLS // max(1, len(gallery)))
    for start in range(0, len(queries), rows):
        part = slice(start, min(len(queries), start + rows))
        similarity = queries[part] @ gallery.T
        itself = np.flatnonzero(excluded[part] >= 0)
        similarity[itself, excluded[part][itself]] = -np.inf  # last, and not relevant
        order = np.argsort(-similarity, axis=1, kind="stable")
        is_relevant = (gallery_labels[order] == query_labels[part, None]) & (order != excluded[part, None])
        hits = is_relevant.cumsum(axis=1)
        relevant = hits[:, -1]
        total = (is_relevant * hits / np.arange(1, len(gallery) + 1)).sum(axis=1)
        precisions[part] = np.where(relevant > 0, total / np.maximum(relevant, 1), np.nan)
    return precisions


def nearest_writers(
    queries: np.ndarray,
    query_labels: np.ndarray,
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    excluded: np.ndarray,
) -> np.ndarray:
    """The writer whose mean style is nearest to each query.

    Args:
        queries: (q, d) vectors of length 1; gallery: (g, d).
        query_labels: (q,) integers; gallery_labels: (g,) from 0, each there.
        excluded: (q,) a row of the gallery that the means leave out for the query (itself), or -1.
    Returns:
        (q,) labels; -1 for a query of whose writer nothing is left to compare with.
    """
    count = int(gallery_labels.max()) + 1
    sums = np.zeros((count, gallery.shape[1]))
    np.add.at(sums, gallery_labels, gallery)
    sizes = np.bincount(gallery_labels, minlength=count)
    similarity = queries @ _unit(sums).T
    rows = np.flatnonzero(excluded >= 0)
    labels = gallery_labels[excluded[rows]]
    without = sums[labels] - gallery[excluded[rows]]
    similarity[rows, labels] = (queries[rows] * _unit(without)).sum(axis=1)
    nearest = similarity.argmax(axis=1)
    is_alone = query_labels < 0
    is_alone[rows] |= (labels == query_labels[rows]) & (sizes[labels] < 2)
    return np.where(is_alone, -1, nearest)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def measure_writer_accuracy(
    generated: StyledImages, real: StyledImages, known: Sequence[str], is_paired: bool, bootstrap: Bootstrap
) -> Measure:
    """Share of images whose writer the style encoder names, among the writers that it was trained on.

    Args:
        known: the encoder's writers.
        is_paired: image i of the one is of image i's record of the other.
    Raises:
        LeftOut: if the encoder knows none of the writers.
    """
    row_of = {name: i for i, name in enumerate(known)}
    unknown = Counter(writer for writer in generated.writers if writer not in row_of)
    is_right = []
    for images in (generated, real):
        rows = np.array([row_of.get(writer, -1) for writer in images.writers])
        is_right.append(np.asarray(images.predicted)[rows >= 0] == rows[rows >= 0])
    if not len(is_right[0]):
        raise LeftOut(
            "writer_accuracy: the style encoder knows none of the writers"
            f" ({', '.join(sorted(unknown)[:NAMED])})"
        )
    values = {
        column: bootstrap.ratio(f"writer_accuracy/{column}", hits)
        for column, hits in zip(("generated", "real"), is_right, strict=True)
        if len(hits)
    }
    if len(values) == 2:
        values["difference"] = bootstrap.difference(
            "writer_accuracy/difference",
            (is_right[0], None),
            (is_right[1], None),
            is_paired=is_paired and len(is_right[0]) == len(is_right[1]),
        )
    protocol = f"the style encoder's most likely one of {len(known)} writers"
    if unknown:
        protocol += (
            f"; left out: {unknown.total()} images of {len(unknown)} writers that it does not know "
            f"({', '.join(sorted(unknown)[:NAMED])}{', …' if len(unknown) > NAMED else ''})"
        )
    return Measure(
        key="writer_accuracy",
        label="Right writer, named by the style encoder",
        values=values,
        protocol=protocol,
        better="higher",
        is_percentage=True,
    )


def measure_retrieval(
    queries: Mapping[str, tuple[StyledImages, np.ndarray]], gallery: StyledImages, bootstrap: Bootstrap
) -> list[Measure]:
    """Whether real images of the same writer are near in style: mean average precision of retrieval, and the
    share of images that are nearest to their writer's mean style.

    Both need no writer to be known to the encoder.

    Args:
        queries: by column, images and the (n,) row of the gallery that doesn't count for each (itself, or the
            real image of its record), or -1.
        gallery: real images of all writers.
    """
    label_of = {name: i for i, name in enumerate(dict.fromkeys(gallery.writers))}
    labels = np.array([label_of[name] for name in gallery.writers])
    precision_values, nearest_values, left_out = {}, {}, 0
    for column, (images, excluded) in queries.items():
        query_labels = np.array([label_of.get(name, -1) for name in images.writers])
        inputs = (images.vectors, query_labels, gallery.vectors, labels, excluded)
        precisions, nearest = average_precisions(*inputs), nearest_writers(*inputs)
        is_counted = ~np.isnan(precisions)
        left_out += int((~is_counted).sum())
        if is_counted.any():
            hits = (nearest == query_labels)[is_counted]
            precision_values[column] = bootstrap.ratio(f"retrieval_map/{column}", precisions[is_counted])
            nearest_values[column] = bootstrap.ratio(f"nearest_writer/{column}", hits)
    sizes = np.bincount(labels)
    chance = float(np.square(sizes / len(labels)).sum())
    rest = f"; {left_out} images without another real image of their writer are left out" if left_out else ""
    beside = f"{len(labels)} real images of {len(sizes)} writers, without the image's own record"
    return [
        Measure(
            key="nearest_writer",
            label="Right writer, by nearest mean style",
            values=nearest_values,
            protocol=f"the writer whose mean style vector is nearest, of {beside}; by chance"
            f" {100 / len(sizes):.1f} %{rest}",
            better="higher",
            is_percentage=True,
        ),
        Measure(
            key="retrieval_map",
            label="Retrieval of the writer, mAP",
            values=precision_values,
            protocol=f"mean over queries; gallery of {beside}; by chance about {100 * chance:.1f} %{rest}",
            better="higher",
            is_percentage=True,
        ),
    ]


def measure_style(
    pair: Comparison,
    encoder: StyleEncoder,
    reconstruct: Reconstruct | None,
    *,
    batch_size: int,
    bootstrap: Bootstrap,
    results: Results,
) -> dict[str, np.ndarray]:
    """Add distances in style and the measures of the right writer.

    Returns:
        Style vectors of the ``generated`` images and of the ``real`` images ``pair.rows``, for the variety.
    """

    def embed(images: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(encoder.embed(images, batch_size=batch_size), axis=1)  # vectors, then logits

    dim = encoder.config.style_dim
    features = embed_rows(pair.generated, np.arange(len(pair.generated)), embed, "style generated")
    generated = _style_images(features, dim, pair.generated.writers)
    real = _style_images(
        embed_rows(pair.real, pair.rows, embed, "style real"), dim, pair.real.writers[pair.rows]
    )
    try:
        # Scaled so that the kernel, which divides by the dimension, is (cosine + 1)^3.
        sets = {
            name: vectors[:, :dim] * np.sqrt(dim)
            for name, vectors in embed_sets(pair, embed, reconstruct, "style").items()
        }
        results.measures += measure_distances(
            ("style_fid", "style_kid"),
            ("Fréchet style distance", "Kernel style distance"),
            sets.pop("reference"),
            sets,
            f"vectors of the style encoder, {dim} dimensions, length sqrt({dim}); {pair.protocol}",
            bootstrap,
        )
    except LeftOut as reason:
        results.notes.append(str(reason))
    position = {int(row): i for i, row in enumerate(pair.rows)}
    readable = np.array([position[int(row)] for row in pair.readable], np.int64)
    beside = StyledImages(
        vectors=real.vectors[readable], predicted=real.predicted[readable], writers=real.writers[readable]
    )
    try:
        results.measures.append(
            measure_writer_accuracy(
                generated, beside, encoder.config.writers, pair.is_fully_paired, bootstrap
            )
        )
    except LeftOut as reason:
        results.notes.append(str(reason))
    records = np.array([position.get(int(row), -1) for row in pair.partners])
    results.measures += measure_retrieval(
        {"generated": (generated, records), "real": (beside, readable)}, real, bootstrap
    )
    return {"generated": generated.vectors, "real": real.vectors}


def _style_images(features: np.ndarray, dim: int, writers: np.ndarray) -> StyledImages:
    """Images of (n, dim + writers) features: style vectors, then logits."""
    return StyledImages(
        vectors=features[:, :dim], predicted=features[:, dim:].argmax(axis=1), writers=writers
    )
