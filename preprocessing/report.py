"""What a data set holds and what was left out of it, as text."""

from collections import Counter
from collections.abc import Sequence

from preprocessing.raw_word import RawWord
from utils.word_folder import WordRecord


def describe(words: Sequence[RawWord | WordRecord]) -> str:
    """What a set of words holds: counts, writers, lengths, characters, rare ones, texts shared between splits."""
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
        "rare        " + (" ".join(f"{c!r} {n}" for c, n in sorted(characters.items()) if n < 20) or "none")
        + "  (fewer than 20 times)",
    ]  # fmt: skip
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            lines.append(f"shared      {len(texts[first] & texts[second])} texts are in both {first} and {second}")
    return "\n".join(lines)


def shorten(items: Sequence[str], most: int) -> str:
    """The items joined by commas, the tail as a count."""
    tail = f", … ({len(items) - most} more)" if len(items) > most else ""
    return ", ".join(items[:most]) + tail


def drop_table(dropped: Counter) -> str:
    """The dropped words by reason, as text."""
    rows = [f"  {reason:18} {count:8d}" for reason, count in sorted(dropped.items(), key=lambda item: -item[1])]
    return "\n".join([f"dropped     {sum(dropped.values())}", *rows])
