"""Error rates by kind of character and word: what a recogniser learnt from a few lines, and what not."""

import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein

FREQUENT = 10  # times that a letter stands in the lines at hand, to count as frequent
CHARACTER_CLASSES = ("frequent letters", "rare letters", "capitals", "digits", "other characters")
WORD_CLASSES = ("seen words", "unseen words")


def class_of(character: str, counts: Counter) -> str:
    """The class of a character; ``counts`` are those of the lines at hand. Spaces are other characters."""
    kind = unicodedata.category(character)
    if kind in ("Lu", "Lt"):
        return "capitals"
    if kind.startswith("L"):
        return "frequent letters" if counts[character] >= FREQUENT else "rare letters"
    return "digits" if kind.startswith("N") else "other characters"


def word_key(word: str) -> str:
    """A word as it is looked up: without case and the punctuation around it."""
    return word.casefold().strip(".,;:!?'\"()[]«»-–—…")


def count_class_errors(
    texts: Sequence[str], readings: Sequence[str], known: Sequence[str]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Units of each class that were read wrong or not at all, on a shortest path of edits; what was read but
    not written belongs to no class.

    Args:
        known: the texts of the lines at hand.
    Returns:
        By class (N,) int64 errors and (N,) int64 units of each text: characters, and words between spaces.
    """
    counts = Counter("".join(known))
    seen = {word_key(word) for text in known for word in text.split()}
    names = (*CHARACTER_CLASSES, *WORD_CLASSES)
    tables = {name: (np.zeros(len(texts), np.int64), np.zeros(len(texts), np.int64)) for name in names}
    for row, (text, reading) in enumerate(zip(texts, readings, strict=True)):
        words, read_words = text.split(), reading.split()
        kinds = [WORD_CLASSES[word_key(word) not in seen] for word in words]
        for labels, units, read in (
            ([class_of(character, counts) for character in text], text, reading),
            (kinds, words, read_words),
        ):
            for label in labels:
                tables[label][1][row] += 1
            for edit in Levenshtein.editops(units, read):
                if edit.tag != "insert":
                    tables[labels[edit.src_pos]][0][row] += 1
    return tables
