"""Which images are kept, for which split, and the table of what was left out and why."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from preprocessing.page_splits import choose_writers, split_by_page
from preprocessing.raw_word import DroppedWord, RawWord
from utils.charset import normalise_text
from utils.errors import UserError
from utils.text_images import TextImage


def filter_words(
    words: Iterator[RawWord | DroppedWord],
    charset: str | None,
    min_length: int,
    max_length: int | None,
    dropped: Counter,
) -> Iterator[RawWord]:
    """Yield the words whose normalised text passes the filters; count the others by reason in ``dropped``."""
    allowed = set(normalise_text(charset)) | {" "} & set(charset) if charset else None
    for word in words:
        if isinstance(word, DroppedWord):
            dropped[word.reason] += 1
            continue
        text = normalise_text(word.text)
        if not text:
            dropped["empty_text"] += 1
        elif allowed is not None and not set(text) <= allowed:
            dropped["charset"] += 1
        elif len(text) < min_length or (max_length is not None and len(text) > max_length):
            dropped["length"] += 1
        else:
            yield replace(word, text=text)


def choose_splits(
    words: Sequence[RawWord], val_fraction: float, test_fraction: float, unseen_writers: float = 0.0
) -> list[RawWord]:
    """Give each word without a split one: by whole pages where it was cut out of one, else per writer.

    A data set that names any split is left as it is, its unnamed words go to ``train``.

    Args:
        unseen_writers: share of the writers whose words all become ``test``.
    Raises:
        UserError: if writers are to be unseen, but the data set names its splits or has one writer.
    """
    if unseen_writers and len({word.writer for word in words}) == 1:
        raise UserError(
            f"--unseen_writers {unseen_writers}: there is one writer, {words[0].writer!r}. Leave the flag"
            " out, or say with --writer_from, --writer_pattern or --writer_table whose hand each page is."
        )
    if any(word.split for word in words):
        if unseen_writers:
            raise UserError(f"--unseen_writers {unseen_writers}: this data set names its own splits")
        return [word if word.split else replace(word, split="train") for word in words]
    if words and all(word.page for word in words):
        return split_by_page(words, val_fraction, test_fraction, unseen_writers)
    unseen = set(choose_writers((word.writer for word in words), unseen_writers))
    seen = iter(split_by_writer([w for w in words if w.writer not in unseen], val_fraction, test_fraction))
    return [replace(word, split="test") if word.writer in unseen else next(seen) for word in words]


def split_by_writer(words: Sequence[RawWord], val_fraction: float, test_fraction: float) -> list[RawWord]:
    """Give each word a split, per writer, the same on every machine.

    Each writer's words are ordered by the SHA-256 of their ids; the first ``test_fraction`` become ``test``,
    the next ``val_fraction`` ``val``, rounded to whole words, and at least one word of each writer stays in
    ``train``.
    """
    by_writer: dict[str, list[int]] = {}
    for index, word in enumerate(words):
        by_writer.setdefault(word.writer, []).append(index)
    splits = ["train"] * len(words)
    for indices in by_writer.values():
        indices.sort(key=lambda i: hashlib.sha256(words[i].source_id.encode()).digest())
        tests = min(round(test_fraction * len(indices)), len(indices) - 1)
        vals = min(round(val_fraction * len(indices)), len(indices) - 1 - tests)
        for rank, index in enumerate(indices[: tests + vals]):
            splits[index] = "test" if rank < tests else "val"
    return [replace(word, split=split) for word, split in zip(words, splits, strict=True)]


def describe(words: Sequence[RawWord | TextImage]) -> str:
    """What a set of words holds: counts, writers, lengths, characters, rare ones, texts shared between
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
        f"words       {len(words)}: " + ", ".join(f"{name} {splits[name]}" for name in names),
        f"texts       {len({word.text for word in words})} different",
        f"writers     {len(writers)}, with {min(writers.values())} to {max(writers.values())} words each: "
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
    """The dropped words by reason, as text."""
    rows = [
        f"  {reason:18} {count:8d}" for reason, count in sorted(dropped.items(), key=lambda item: -item[1])
    ]
    return "\n".join([f"dropped     {sum(dropped.values())}", *rows])
