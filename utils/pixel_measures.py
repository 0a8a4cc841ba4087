"""What is measured on pixels alone: the difference from real words, copies of training words, diversity."""

from collections.abc import Mapping, Sequence

import numpy as np

from utils.bootstrap import Bootstrap
from utils.copies import COPY_FACTOR, Neighbours, choose_controls, class_pairs, find_neighbours, thumbnail_distance
from utils.images import pixel_difference
from utils.measures import LeftOut
from utils.metrics import Measure
from utils.word_sets import Comparison


def measure_pixels(pair: Comparison, bootstrap: Bootstrap) -> tuple[Measure, np.ndarray]:
    """NMAE of generated words and the real words of the same records.

    Returns:
        The measure, and (len(generated),) the difference of each word, NaN without a partner.
    Raises:
        LeftOut: if no record is in both folders.
    """
    rows = np.flatnonzero(pair.partners >= 0)
    if not len(rows):
        raise LeftOut("nmae: no file name (with the same text) is in both folders; inference.py --dataset_path REAL writes the "
                      "records of --real under their names")  # fmt: skip
    differences = np.full(len(pair.generated), np.nan)
    sides = (pair.generated.chunks(rows, "nmae"), pair.real.chunks(pair.partners[rows], "nmae real"))
    for (part, images), (_, others) in zip(*sides):
        differences[rows[part]] = [pixel_difference(image, other) for image, other in zip(images, others)]
    protocol = (f"mean absolute pixel difference / 255 of {len(rows)} records by file name; {len(differences) - len(rows)} "
                "generated words have no real partner; narrower images get white at the right")  # fmt: skip
    measure = Measure("nmae", "Pixel difference, NMAE", {"generated": bootstrap.ratio("nmae", differences[rows])}, protocol)
    return measure, differences


def measure_copies(pair: Comparison, train_split: str, bootstrap: Bootstrap) -> tuple[Measure, Neighbours, np.ndarray]:
    """The share of generated words that copy a training word, and of real words which the same rule takes for copies.

    Returns:
        The measure; the generated words' neighbours among the training words; and the training words' rows of ``pair.real``.
    Raises:
        LeftOut: if there are less than two training words.
    """
    splits = [record.split for record in pair.real.records]
    train = np.flatnonzero(np.array(splits) == train_split)
    if len(train) < 2:
        raise LeftOut(f"copies: --real {pair.real.folder} has less than two words of split {train_split}; --train_split names "
                      f"another ({', '.join(sorted(set(splits)))})")  # fmt: skip
    texts, thumbnails = pair.real.texts, pair.real.thumbnails

    def compare(words: np.ndarray, own_texts: Sequence[str], among: np.ndarray) -> Neighbours:
        return find_neighbours(words, own_texts, thumbnails[among], [texts[i] for i in among])

    neighbours = compare(pair.generated.thumbnails, pair.generated.texts, train)
    values = {"generated": bootstrap.ratio("copies/generated", neighbours.is_copy)}
    controls, among = choose_controls(splits, train_split, bootstrap.seed)
    if len(controls) and len(among) > 1:
        found = compare(thumbnails[controls], [texts[i] for i in controls], among)
        values["real"] = bootstrap.ratio("copies/real", found.is_copy)
    protocol = (f"nearer to one of {len(train)} words of split {train_split} than {COPY_FACTOR:g} of the distance from that "
                "one to its own nearest neighbour; distance sqrt(1 - cosine) of ink images of 16x64; real: words not in that "
                "split (or, where there is no other, held out of it), so false alarms or doubles in the data")  # fmt: skip
    return Measure("copies", "Copies of training words", values, protocol, "lower", True), neighbours, train


def measure_diversity(pair: Comparison, vectors: Mapping[str, np.ndarray], bootstrap: Bootstrap) -> list[Measure]:
    """How much words of the same text and hand differ: little means that they are the same image again and again.

    Args:
        vectors: style vectors by side: of the generated words, and of the real words ``pair.rows``; may be empty.
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
            means = [float((1 - (own[pairs[:, 0]] * own[pairs[:, 1]]).sum(axis=1)).mean()) for pairs in classes]
            styles[column] = bootstrap.ratio(f"diversity_style/{column}", np.array(means))
    if "generated" not in pixels:
        return []
    over = "mean over texts of one hand that are there several times (n of them), pairs within each"
    measures = [Measure("diversity_pixels", "Diversity of shapes", pixels, f"{over}; sqrt(1 - cosine) of 16x64 ink images, 0 "
                        "to 1; near the real words' is good")]  # fmt: skip
    if "generated" in styles:
        measures.append(Measure("diversity_style", "Diversity of style", styles, f"{over}; 1 - cosine of style vectors"))
    return measures
