"""Copies of training images among generated ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.comparison import Comparison
from evaluation.measures import LeftOut, Measure
from evaluation.pixel_measures import unit_vectors
from utils.bootstrap import Bootstrap

COPY_FACTOR = 0.5  # of the distance from the training image to its own nearest neighbour
MOST_CONTROLS = 2000
_CELLS = 8_000_000  # of a similarity matrix at once: bounds the memory


def nearest(
    queries: np.ndarray,
    gallery: np.ndarray,
    *,
    query_labels: np.ndarray | None = None,
    gallery_labels: np.ndarray | None = None,
    excluded: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Nearest thumbnail of the gallery for each query.

    Args:
        queries: (q, D) uint8; gallery: (g, D).
        query_labels: (q,) and gallery_labels: (g,), if given: only neighbours of the same label count.
        excluded: (q,) a row of the gallery that does not count for the query.
    Returns:
        (q,) rows of the gallery, -1 where nothing counts, and (q,) distances ``sqrt(1 - cosine)`` in [0, 1]:
        that of vectors of length 1, divided by its largest value.
    """
    rows, distances = np.full(len(queries), -1), np.ones(len(queries))
    if not len(gallery):
        return rows, distances
    unit_gallery = unit_vectors(gallery)
    step = max(1, _CELLS // len(gallery))
    for start in range(0, len(queries), step):
        part = slice(start, min(len(queries), start + step))
        similarity = unit_vectors(queries[part]) @ unit_gallery.T
        if query_labels is not None:
            similarity[query_labels[part, None] != gallery_labels[None]] = -1
        if excluded is not None:
            similarity[np.arange(len(similarity)), excluded[part]] = -1
        best = similarity.argmax(axis=1)
        cosine = similarity[np.arange(len(similarity)), best]
        rows[part] = np.where(cosine >= 0, best, -1)
        distances[part] = np.sqrt(np.clip(1 - cosine, 0, 1))
    return rows, distances


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """The training image that each of q images is most like; see ``find_neighbours``.

    Attributes:
        rows: (q,) rows of the training images, -1 where there is none.
        distances: (q,) to them, 0 to 1.
        usual: (q,) from that training image to its own nearest neighbour among the training images.
        is_same_text: (q,) the neighbour has the same text.
    """

    rows: np.ndarray
    distances: np.ndarray
    usual: np.ndarray
    is_same_text: np.ndarray

    @property
    def is_copy(self) -> np.ndarray:
        """(q,) bool, nearer than half of what keeps that training image from its own neighbour."""
        return (self.rows >= 0) & (self.distances < COPY_FACTOR * self.usual)


def find_neighbours(
    images: np.ndarray, texts: Sequence[str], train: np.ndarray, train_texts: Sequence[str]
) -> Neighbours:
    """Compare each image with the training images of the same text, if there are any, and with all of them.

    An image counts as a copy if it is nearer to a training image than half of the distance from there to the
    nearest other training image. That compares each with its surroundings: full stops, which are all alike,
    are no copies of each other, but a long word which is as near as two full stops is one. Two training
    images that are equal have no distance between them, and nothing is a copy of them.

    Args:
        images: (q, D) uint8 thumbnails; train: (t, D).

    Source: the criterion is authenticity's (Alaa et al. 2022, https://arxiv.org/abs/2102.08921, section 3),
    made stricter by the factor.
    """
    ids = {text: i for i, text in enumerate(dict.fromkeys([*train_texts, *texts]))}
    labels, train_labels = np.array([ids[t] for t in texts]), np.array([ids[t] for t in train_texts])
    same_rows, same_distances = nearest(images, train, query_labels=labels, gallery_labels=train_labels)
    any_rows, any_distances = nearest(images, train)
    usual = _distances_to_neighbours(train, np.concatenate([same_rows, any_rows]))
    same = Neighbours(
        rows=same_rows, distances=same_distances, usual=usual[same_rows], is_same_text=same_rows >= 0
    )
    nearest_of_all = Neighbours(
        rows=any_rows, distances=any_distances, usual=usual[any_rows], is_same_text=any_rows >= 0
    )
    # The neighbour of the same text is shown, unless only the other one shows that the image is a copy.
    use_other = (same_rows < 0) | (nearest_of_all.is_copy & ~same.is_copy)
    rows = np.where(use_other, any_rows, same_rows)
    return Neighbours(
        rows=rows,
        distances=np.where(use_other, any_distances, same_distances),
        usual=np.where(use_other, nearest_of_all.usual, same.usual),
        is_same_text=(rows >= 0) & (train_labels[rows] == labels),
    )


def _distances_to_neighbours(train: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(t + 1,) distance of the training images ``rows`` to their nearest neighbours, 0 for the others; the
    last entry, which row -1 reads, is 0 too.
    """
    needed = np.unique(rows[rows >= 0])
    distances = np.zeros(len(train) + 1)
    if len(needed):
        distances[needed] = nearest(train[needed], train, excluded=needed)[1]
    return distances


def choose_controls(splits: Sequence[str], train_split: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Real images that can't be copies of training images, and the training images that they are compared
    with.

    Returns:
        Rows of the controls, at most 2,000: real images of other splits, or where there are none a tenth of
        the training images, which then aren't compared with; and rows of the training images.
    """
    rng = np.random.default_rng(seed)
    names = np.array(splits)
    train, others = np.flatnonzero(names == train_split), np.flatnonzero(names != train_split)
    if len(others):
        return rng.permutation(others)[:MOST_CONTROLS], train
    controls = rng.permutation(train)[: min(MOST_CONTROLS, len(train) // 10)]
    return controls, np.setdiff1d(train, controls)


def measure_copies(
    pair: Comparison, train_split: str, bootstrap: Bootstrap
) -> tuple[Measure, Neighbours, np.ndarray]:
    """The share of generated images that copy a training image, and of real images which the same rule takes
    for copies.

    Returns:
        The measure; the generated images' neighbours among the training images; and the training images' rows
        of ``pair.real``.
    Raises:
        LeftOut: if there are less than two training images.
    """
    splits = [record.split for record in pair.real.records]
    train = np.flatnonzero(np.array(splits) == train_split)
    if len(train) < 2:
        raise LeftOut(
            f"copies: --real {pair.real.folder} has less than two images of split"
            f" {train_split}; --train_split names another ({', '.join(sorted(set(splits)))})"
        )
    texts, thumbnails = pair.real.texts, pair.real.thumbnails

    def compare(images: np.ndarray, image_texts: Sequence[str], among: np.ndarray) -> Neighbours:
        return find_neighbours(images, image_texts, thumbnails[among], [texts[i] for i in among])

    neighbours = compare(pair.generated.thumbnails, pair.generated.texts, train)
    values = {"generated": bootstrap.ratio("copies/generated", neighbours.is_copy)}
    controls, among = choose_controls(splits, train_split, bootstrap.seed)
    if len(controls) and len(among) > 1:
        of_controls = compare(thumbnails[controls], [texts[i] for i in controls], among)
        values["real"] = bootstrap.ratio("copies/real", of_controls.is_copy)
    protocol = (
        f"nearer to one of {len(train)} images of split {train_split} than {COPY_FACTOR:g} of the distance"
        " from that one to its own nearest neighbour; distance sqrt(1 - cosine) of the ink box at 16x64;"
        " real: images outside that split (or, where there are none, held out of it), hence false alarms or"
        " duplicates in the data"
    )
    measure = Measure(
        key="copies",
        label="Copies of training images",
        values=values,
        protocol=protocol,
        better="lower",
        is_percentage=True,
    )
    return measure, neighbours, train
