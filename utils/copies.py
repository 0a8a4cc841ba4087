"""Copies of training words among generated ones, and how much words of one text and hand differ."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np

from utils.images import ink_box

THUMBNAIL = (16, 64)  # (height, width) in cells
COPY_FACTOR = 0.5  # of the distance from the training word to its own nearest neighbour
MOST_CONTROLS = 2000
_CELLS = 8_000_000  # of a similarity matrix at once: bounds the memory
_MOST_PAIRS = 200  # of words of one text and hand


def make_thumbnail(image: np.ndarray) -> np.ndarray:
    """The darkness of a word's ink box, stretched to 16x64 cells: (16, 64) uint8, 0 white; all 0 where there is no ink.

    A copy stays near its original when it is moved, scaled, blurred or a little noisier.
    """
    box = ink_box(image)
    if box is None:
        return np.zeros(THUMBNAIL, np.uint8)
    left, top, right, bottom = box
    return cv2.resize(255 - image[top:bottom, left:right], THUMBNAIL[::-1], interpolation=cv2.INTER_AREA)


def _unit(thumbnails: np.ndarray) -> np.ndarray:
    """(N, D) float32 of length 1; a blank stays 0, and so is far from everything."""
    values = thumbnails.astype(np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)


def nearest(queries: np.ndarray, gallery: np.ndarray, *, query_labels: np.ndarray | None = None,
            gallery_labels: np.ndarray | None = None,
            excluded: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Nearest thumbnail of the gallery for each query.

    Args:
        queries: (q, D) uint8; gallery: (g, D).
        query_labels: (q,) and gallery_labels: (g,), if given: only neighbours of the same label count.
        excluded: (q,) a row of the gallery that does not count for the query.
    Returns:
        (q,) rows of the gallery, -1 where nothing counts, and (q,) distances ``sqrt(1 - cosine)`` in [0, 1]: that of vectors
        of length 1, divided by its largest value.
    """
    rows, distances = np.full(len(queries), -1), np.ones(len(queries))
    if not len(gallery):
        return rows, distances
    unit = _unit(gallery)
    step = max(1, _CELLS // len(gallery))
    for start in range(0, len(queries), step):
        part = slice(start, min(len(queries), start + step))
        similarity = _unit(queries[part]) @ unit.T
        if query_labels is not None:
            similarity[query_labels[part, None] != gallery_labels[None]] = -1
        if excluded is not None:
            similarity[np.arange(len(similarity)), excluded[part]] = -1
        best = similarity.argmax(axis=1)
        cosine = similarity[np.arange(len(similarity)), best]
        rows[part] = np.where(cosine >= 0, best, -1)
        distances[part] = np.sqrt(np.clip(1 - cosine, 0, 1))
    return rows, distances


@dataclass(frozen=True)
class Neighbours:
    """The training word that each of q words is most like; see ``find_neighbours``.

    Attributes:
        rows: (q,) rows of the training words, -1 where there is none.
        distances: (q,) to them, 0 to 1.
        own: (q,) from that training word to its own nearest neighbour among the training words.
        is_same_text: (q,) the neighbour has the same text.
    """

    rows: np.ndarray
    distances: np.ndarray
    own: np.ndarray
    is_same_text: np.ndarray

    @property
    def is_copy(self) -> np.ndarray:
        """(q,) bool, nearer than half of what keeps that training word from its own neighbour."""
        return (self.rows >= 0) & (self.distances < COPY_FACTOR * self.own)


def find_neighbours(words: np.ndarray, texts: Sequence[str], train: np.ndarray, train_texts: Sequence[str]) -> Neighbours:
    """Compare each word with the training words of the same text, if there are any, and with all of them.

    A word counts as a copy if it is nearer to a training word than half of the distance from there to the nearest other
    training word. That compares each with its surroundings, so that full stops, which are all alike, aren't copies of each
    other, and a long word which is as near as two full stops is. Two training words that are one image have no space between
    them, and nothing is a copy of them.

    Args:
        words: (q, D) uint8 thumbnails; train: (t, D).

    Source: the criterion is authenticity's (Alaa et al. 2022, https://arxiv.org/abs/2102.08921, section 3), made stricter
    by the factor.
    """
    ids = {text: i for i, text in enumerate(dict.fromkeys([*train_texts, *texts]))}
    labels, train_labels = np.array([ids[t] for t in texts]), np.array([ids[t] for t in train_texts])
    found = [nearest(words, train, query_labels=labels, gallery_labels=train_labels), nearest(words, train)]
    own = {row: 0.0 for row in {int(row) for rows, _ in found for row in rows} - {-1}}
    places = np.array(sorted(own), np.int64)
    own.update(zip(places.tolist(), nearest(train[places], train, excluded=places)[1] if len(places) else ()))
    own[-1] = 0.0
    owns = [np.array([own[int(row)] for row in rows]) for rows, _ in found]
    # The neighbour of the same text is shown, unless only the other one gives the word away.
    first, other = (Neighbours(rows, distances, own, rows >= 0) for (rows, distances), own in zip(found, owns))
    use_other = (first.rows < 0) | (other.is_copy & ~first.is_copy)
    rows = np.where(use_other, other.rows, first.rows)
    return Neighbours(
        rows,
        np.where(use_other, other.distances, first.distances),
        np.where(use_other, other.own, first.own),
        (rows >= 0) & (train_labels[rows] == labels),
    )


def class_pairs(texts: Sequence[str], writers: Sequence[str], seed: int) -> list[np.ndarray]:
    """For each text and writer with several words, the (p, 2) rows of their pairs, at most 200 drawn by ``seed``."""
    members = defaultdict(list)
    for row, key in enumerate(zip(texts, writers)):
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
    one, other = _unit(thumbnails[pairs[:, 0]]), _unit(thumbnails[pairs[:, 1]])
    return float(np.sqrt(np.clip(1 - (one * other).sum(axis=1), 0, 1)).mean())


def choose_controls(splits: Sequence[str], train_split: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Real words that can't be copies of training words, and the training words that they are compared with.

    Returns:
        Rows of the controls, at most 2,000: real words of other splits, or where there are none a tenth of the training
        words, which then aren't compared with; and rows of the training words.
    """
    rng = np.random.default_rng(seed)
    names = np.array(splits)
    train, others = np.flatnonzero(names == train_split), np.flatnonzero(names != train_split)
    if len(others):
        return rng.permutation(others)[:MOST_CONTROLS], train
    controls = rng.permutation(train)[: min(MOST_CONTROLS, len(train) // 10)]
    return controls, np.setdiff1d(train, controls)
