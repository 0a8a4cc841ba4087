"""The lines of a collection that a study may use, and the texts that are written for them."""

import hashlib
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from utils.charset import normalise_text, read_texts
from utils.errors import UserError
from utils.text_images import TextImage, read_text_images
from utils.vocabulary import choose_oov_words

HAND = "collection"  # the one writer that all lines count as
KEPT_BIGRAM = 0.7  # chance that a made-up text goes on with a word that followed the last one in the lines


def page_of(record: TextImage) -> str:
    """The page of a line: its image's name is the page, a dash and the line."""
    return str(record.extra.get("page") or Path(record.file_name).stem.rpartition("-")[0])


def by_page(records: Sequence[TextImage]) -> list[list[TextImage]]:
    """The lines page by page, pages in the order of their names' SHA-256."""
    pages: dict[str, list[TextImage]] = defaultdict(list)
    for record in records:
        pages[page_of(record)].append(record)
    in_order = sorted(pages, key=lambda page: hashlib.sha256(page.encode()).digest())
    return [pages[page] for page in in_order]


def draw_lines(records: Sequence[TextImage], count: int) -> list[TextImage]:
    """The first ``count`` lines, page after page, as an archive transcribes them: fewer lie within more.

    Raises:
        UserError: if there are not so many.
    """
    lines = [record for page in by_page(records) for record in page]
    if len(lines) < count:
        raise UserError(f"--items {count}: the collection has only {len(lines)} lines of split train")
    return lines[:count]


def read_collection(folder: Path, *, one_hand: bool) -> list[TextImage]:
    """The lines of a collection, all of them of one writer if ``one_hand``, texts normalised.

    Raises:
        FileNotFoundError, UserError: if it is no folder of text images, or a split train or test is missing.
    """
    records = [
        replace(record, text=normalise_text(record.text), writer=HAND if one_hand else record.writer)
        for record in read_text_images(folder, flag="--collection")
    ]
    records = [record for record in records if record.text]
    for split in ("train", "test"):
        if not any(record.split == split for record in records):
            raise UserError(
                f"--collection {folder}: no line of split {split}. The study trains on train and measures on"
                " test; process_dataset.py makes both, by whole pages."
            )
    return records


def recombine(texts: Sequence[str], lengths: Sequence[int], rng: random.Random) -> Iterator[str]:
    """Texts without end out of the words of ``texts``, in orders that mostly come from them."""
    followers: dict[str, list[str]] = defaultdict(list)
    words = [word for text in texts for word in text.split()]
    for text in texts:
        parts = text.split()
        for word, after in pairwise(parts):
            followers[word].append(after)
    while True:
        length, line = rng.choice(lengths), rng.choice(words)
        while len(line) < length:
            after = followers.get(line.rpartition(" ")[2])
            line += " " + (rng.choice(after) if after and rng.random() < KEPT_BIGRAM else rng.choice(words))
        yield line


def corpus_pieces(path: Path, lengths: Sequence[int], rng: random.Random) -> Iterator[str]:
    """Texts without end: pieces of a corpus of such lengths as the lines have, begun at any word."""
    words = " ".join(read_texts(path, flag="--corpus")).split()
    while True:
        start, length = rng.randrange(len(words)), rng.choice(lengths)
        line = words[start]
        for word in words[start + 1 :]:
            if len(line) >= length:
                break
            line += " " + word
        yield line


def write_texts(
    texts: Sequence[str],
    count: int,
    *,
    corpus: Path | None,
    charset: Sequence[str],
    longest: int,
    seed: int = 0,
) -> list[str]:
    """Texts to write for a collection: of a corpus, or else out of its own words; as long as its lines, none
    of them a line that is there, and each chosen from several for the characters that the others lack.

    Args:
        texts: of the lines at hand.
        charset: characters that the generator can write.
        longest: text that it can write, characters.
    Returns:
        ``count`` texts, or fewer where there are not so many.
    """
    rng = random.Random(seed)
    lengths = [min(len(text), max(1, longest - 12)) for text in texts]  # a word more may come
    source = corpus_pieces(corpus, lengths, rng) if corpus else recombine(texts, lengths, rng)
    return choose_oov_words(
        source, set(texts), count, charset=charset, max_length=longest, lengths=lengths, seed=seed
    )
