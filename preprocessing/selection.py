"""Which text images are kept, for which split, and the table of what was left out and why."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from preprocessing.raw_word import DroppedWord, RawWord
from utils.charset import normalise_text
from utils.text_images import TextImage

# Characters that leave no ink and are not of the classes "control" and "format": the grapheme joiner, Hangul
# fillers, variation selectors.
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_NUMBER_SIGNS = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u08e2"  # of the class "format", but drawn
_JOINERS = "\u200c\u200d"  # change the shape of Arabic and Indic letters beside them


def clean_text(text: str) -> str | None:
    """A text without the characters that leave no ink, such as zero-width spaces and control characters,
    normalised.

    Returns:
        None if a part of the text was lost before: it holds a lone surrogate or a replacement character.
    """
    kept = ""
    for character in _INVISIBLE.sub("", normalise_text(text)):
        category = unicodedata.category(character)
        if category == "Cs" or character == "\ufffd":
            return None
        if category in ("Cc", "Cf") and character not in _NUMBER_SIGNS:
            is_shape = character in _JOINERS and kept and _is_joining(kept[-1])
            if not is_shape:
                continue
        kept += character
    return normalise_text(kept)


def _is_joining(character: str) -> bool:
    """True for Arabic letters, and the signs that follow Indic ones."""
    is_sign = unicodedata.category(character) in ("Mn", "Mc")
    return is_sign or unicodedata.bidirectional(character) == "AL"


def filter_words(
    words: Iterable[RawWord | DroppedWord],
    charset: str | None,
    min_length: int,
    max_length: int | None,
    dropped: Counter,
) -> Iterator[RawWord]:
    """Yield what passes the filters, texts and writers' names cleaned; count the rest by reason in
    ``dropped``.
    """
    allowed = set(normalise_text(charset)) | {" "} & set(charset) if charset else None
    for word in words:
        if isinstance(word, DroppedWord):
            dropped[word.reason] += 1
            continue
        text, writer = clean_text(word.text), clean_text(word.writer)
        if text is None or not writer:
            dropped["bad_row"] += 1
        elif not text:
            dropped["empty_text"] += 1
        elif allowed is not None and not set(text) <= allowed:
            dropped["charset"] += 1
        elif len(text) < min_length or (max_length is not None and len(text) > max_length):
            dropped["length"] += 1
        else:
            yield replace(word, text=text, writer=writer)


def names_splits(words: Sequence[RawWord]) -> bool:
    """True if the data set says of any text image which split it belongs to."""
    return any(word.split for word in words)


def split_by_writer(words: Sequence[RawWord], val_fraction: float, test_fraction: float) -> list[RawWord]:
    """Give each text image without a split one, per writer, the same on every machine.

    Each writer's images are ordered by the SHA-256 of their ids; the first ``test_fraction`` become ``test``,
    the next ``val_fraction`` ``val``, rounded to whole images, and at least one of each writer stays in
    ``train``. A data set that names any split is left as it is, what it does not name goes to ``train``.
    """
    if names_splits(words):
        return [word if word.split else replace(word, split="train") for word in words]
    by_writer: dict[str, list[int]] = {}
    for index, word in enumerate(words):
        by_writer.setdefault(word.writer, []).append(index)
    splits = ["train"] * len(words)
    for indices in by_writer.values():
        indices.sort(key=lambda i: hash_id(words[i].source_id))
        tests = min(round(test_fraction * len(indices)), len(indices) - 1)
        vals = min(round(val_fraction * len(indices)), len(indices) - 1 - tests)
        for rank, index in enumerate(indices[: tests + vals]):
            splits[index] = "test" if rank < tests else "val"
    return [replace(word, split=split) for word, split in zip(words, splits, strict=True)]


def hash_id(name: str) -> bytes:
    """The SHA-256 of an id; names of files may hold bytes that are no text."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()


def describe(words: Sequence[RawWord | TextImage]) -> str:
    """What a set of text images holds: counts, writers, lengths, characters, rare ones, texts shared between
    splits.
    """
    splits = Counter(word.split for word in words)
    writers = Counter(word.writer for word in words)
    lengths = Counter(len(word.text) for word in words)
    characters = Counter(c for word in words for c in word.text)
    texts: dict[str, set] = {}
    for word in words:
        texts.setdefault(word.split, set()).add(word.text)
    names = [name for name in ("train", "val", "test") if name in texts]
    lines = [
        f"images      {len(words)}: " + ", ".join(f"{name} {splits[name]}" for name in names),
        f"texts       {len({word.text for word in words})} different",
        f"writers     {len(writers)}, with {min(writers.values())} to {max(writers.values())} images each: "
        + shorten([f"{name} {count}" for name, count in sorted(writers.items())], 12),
        f"lengths     {min(lengths)} to {max(lengths)}: "
        + ", ".join(f"{length}: {count}" for length, count in sorted(lengths.items())),
        f"characters  {len(characters)}: " + " ".join(f"{c!r} {n}" for c, n in sorted(characters.items())),
        "rare        "
        + (" ".join(f"{c!r} {n}" for c, n in sorted(characters.items()) if n < 20) or "none")
        + "  (fewer than 20 times)",
    ]
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            lines.append(
                f"shared      {len(texts[first] & texts[second])} texts are in both {first} and {second}"
            )
    return "\n".join(lines)


def shorten(items: Sequence[str], most: int) -> str:
    """The items joined by commas, the tail as a count."""
    tail = f", … ({len(items) - most} more)" if len(items) > most else ""
    return ", ".join(items[:most]) + tail


def drop_table(dropped: Counter) -> str:
    """What was left out, by reason, as text."""
    rows = [
        f"  {reason:18} {count:8d}" for reason, count in sorted(dropped.items(), key=lambda item: -item[1])
    ]
    return "\n".join([f"dropped     {sum(dropped.values())}", *rows])
