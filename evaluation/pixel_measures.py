"""What pixels tell of generated images: differences, copies of training images, diversity."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from evaluation.comparison import Comparison
from evaluation.measures import LeftOut, Measure
from utils.bootstrap import Bootstrap
from utils.images import pixel_difference

COPY_FACTOR = 0.5  # of the distance from the training word to its own nearest neighbour
MOST_CONTROLS = 2000
_CELLS = 8_000_000  # of a similarity matrix at once: bounds the memory
_MOST_PAIRS = 200  # of words of one text and hand


def _unit(thumbnails: np.ndarray) -> np.ndarray:
    """(N, D) float32 of length 1; a blank stays 0, and so is far from everything."""
    values = thumbnails.astype(np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)


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


def find_neighbours(
    words: np.ndarray, texts: Sequence[str], train: np.ndarray, train_texts: Sequence[str]
) -> Neighbours:
    """Compare each word with the training words of the same text, if there are any, and with all of them.

    A word counts as a copy if it is nearer to a training word than half of the distance from there to the
    nearest other training word. That compares each with its surroundings, so that full stops, which are all
    alike, aren't copies of each other, and a long word which is as near as two full stops is. Two training
    words that are one image have no space between them, and nothing is a copy of them.

    Args:
        words: (q, D) uint8 thumbnails; train: (t, D).

    Source: the criterion is authenticity's (Alaa et al. 2022, https://arxiv.org/abs/2102.08921, section 3),
    made stricter by the factor.
    """
    ids = {text: i for i, text in enumerate(dict.fromkeys([*train_texts, *texts]))}
    labels, train_labels = np.array([ids[t] for t in texts]), np.array([ids[t] for t in train_texts])
    found = [nearest(words, train, query_labels=labels, gallery_labels=train_labels), nearest(words, train)]
    own = {row: 0.0 for row in {int(row) for rows, _ in found for row in rows} - {-1}}
    places = np.array(sorted(own), np.int64)
    own.update(
        zip(
            places.tolist(),
            nearest(train[places], train, excluded=places)[1] if len(places) else (),
            strict=True,
        )
    )
    own[-1] = 0.0
    owns = [np.array([own[int(row)] for row in rows]) for rows, _ in found]
    # The neighbour of the same text is shown, unless only the other one gives the word away.
    first, other = (
        Neighbours(rows, distances, own, rows >= 0)
        for (rows, distances), own in zip(found, owns, strict=True)
    )
    use_other = (first.rows < 0) | (other.is_copy & ~first.is_copy)
    rows = np.where(use_other, other.rows, first.rows)
    return Neighbours(
        rows,
        np.where(use_other, other.distances, first.distances),
        np.where(use_other, other.own, first.own),
        (rows >= 0) & (train_labels[rows] == labels),
    )


def class_pairs(texts: Sequence[str], writers: Sequence[str], seed: int) -> list[np.ndarray]:
    """For each text and writer with several words, the (p, 2) rows of their pairs, at most 200 drawn by
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
    one, other = _unit(thumbnails[pairs[:, 0]]), _unit(thumbnails[pairs[:, 1]])
    return float(np.sqrt(np.clip(1 - (one * other).sum(axis=1), 0, 1)).mean())


def choose_controls(splits: Sequence[str], train_split: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Real words that can't be copies of training words, and the training words that they are compared with.

    Returns:
        Rows of the controls, at most 2,000: real words of other splits, or where there are none a tenth of
        the training words, which then aren't compared with; and rows of the training words.
    """
    rng = np.random.default_rng(seed)
    names = np.array(splits)
    train, others = np.flatnonzero(names == train_split), np.flatnonzero(names != train_split)
    if len(others):
        return rng.permutation(others)[:MOST_CONTROLS], train
    controls = rng.permutation(train)[: min(MOST_CONTROLS, len(train) // 10)]
    return controls, np.setdiff1d(train, controls)


def measure_pixels(pair: Comparison, bootstrap: Bootstrap) -> tuple[Measure, np.ndarray]:
    """NMAE of generated words and the real words of the same records.

    Returns:
        The measure, and (len(generated),) the difference of each word, NaN without a partner.
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
        f"mean absolute pixel difference / 255 of {len(rows)} records by file name;"
        f" {len(differences) - len(rows)} generated words have no real partner; narrower images get white at"
        " the right"
    )
    measure = Measure(
        "nmae", "Pixel difference, NMAE", {"generated": bootstrap.ratio("nmae", differences[rows])}, protocol
    )
    return measure, differences


def measure_copies(
    pair: Comparison, train_split: str, bootstrap: Bootstrap
) -> tuple[Measure, Neighbours, np.ndarray]:
    """The share of generated words that copy a training word, and of real words which the same rule takes for
    copies.

    Returns:
        The measure; the generated words' neighbours among the training words; and the training words' rows of
        ``pair.real``.
    Raises:
        LeftOut: if there are less than two training words.
    """
    splits = [record.split for record in pair.real.records]
    train = np.flatnonzero(np.array(splits) == train_split)
    if len(train) < 2:
        raise LeftOut(
            f"copies: --real {pair.real.folder} has less than two words of split {train_split}; --train_split"
            f" names another ({', '.join(sorted(set(splits)))})"
        )
    texts, thumbnails = pair.real.texts, pair.real.thumbnails

    def compare(words: np.ndarray, own_texts: Sequence[str], among: np.ndarray) -> Neighbours:
        return find_neighbours(words, own_texts, thumbnails[among], [texts[i] for i in among])

    neighbours = compare(pair.generated.thumbnails, pair.generated.texts, train)
    values = {"generated": bootstrap.ratio("copies/generated", neighbours.is_copy)}
    controls, among = choose_controls(splits, train_split, bootstrap.seed)
    if len(controls) and len(among) > 1:
        found = compare(thumbnails[controls], [texts[i] for i in controls], among)
        values["real"] = bootstrap.ratio("copies/real", found.is_copy)
    protocol = (
        f"nearer to one of {len(train)} words of split {train_split} than {COPY_FACTOR:g} of the distance"
        " from that one to its own nearest neighbour; distance sqrt(1 - cosine) of ink images of 16x64;"
        " real: words not in that split (or, where there is no other, held out of it), so false alarms or"
        " doubles in the data"
    )
    return Measure("copies", "Copies of training words", values, protocol, "lower", True), neighbours, train


def measure_diversity(
    pair: Comparison, vectors: Mapping[str, np.ndarray], bootstrap: Bootstrap
) -> list[Measure]:
    """How much words of the same text and hand differ: little means that they are the same image again and
    again.

    Args:
        vectors: style vectors by side: of the generated words, and of the real words ``pair.rows``; may be
            empty.
    Returns:
        The measures; none if no generated text is there twice in a hand.
    """
    sides = {"generated": (pair.generated, np.arange(len(pair.generated))), "real": (pair.real, pair.rows)}
    pixels, styles = {}, {}
    for column, (words, rows) in sides.items():
        texts = words.texts
        classes = class_pairs([texts[i] for i in rows], words.writers[rows].tolist(), bootstrap.seed)
        if classes:
            distances = np.array([thumbnail_distance(words.thumbnails[rows], pairs) for pairs in classes])
            pixels[column] = bootstrap.ratio(f"diversity_pixels/{column}", distances)
        if classes and column in vectors:
            own = vectors[column]
            means = [
                float((1 - (own[pairs[:, 0]] * own[pairs[:, 1]]).sum(axis=1)).mean()) for pairs in classes
            ]
            styles[column] = bootstrap.ratio(f"diversity_style/{column}", np.array(means))
    if "generated" not in pixels:
        return []
    over = "mean over texts of one hand that are there several times (n of them), pairs within each"
    measures = [
        Measure(
            "diversity_pixels",
            "Diversity of shapes",
            pixels,
            f"{over}; sqrt(1 - cosine) of 16x64 ink images, 0 to 1; near the real words' is good",
        )
    ]
    if "generated" in styles:
        measures.append(
            Measure("diversity_style", "Diversity of style", styles, f"{over}; 1 - cosine of style vectors")
        )
    return measures
