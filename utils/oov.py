"""Words that a hand has not written: out-of-vocabulary sets, with characters that are rare elsewhere getting their share."""

import random
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from utils.word_list import read_dictionary

SCOPES = ("writer", "dataset")
MAX_TRIES = 200  # candidates in a row that are known or can't be written, before the list counts as used up
POOL = 48  # candidates that each word is chosen from
NEAR = 4  # of them, those whose length is nearest to the wanted one, and all that differ by one character at most


def dictionary_words(charset: Collection[str], seed: int) -> Iterator[str]:
    """Words drawn from a dictionary without end, in lower case, capitalised or in capitals: English, and German where the
    charset has its letters.

    Raises:
        FileNotFoundError: if the package of word counts is not installed.
    """
    draw = random.Random(seed)
    languages = ("en", "de") if set("äöüß") <= set(charset) else ("en",)
    lists = [read_dictionary(language) for language in languages]
    while True:
        words, cumulative = draw.choice(lists)
        (word,) = draw.choices(words, cum_weights=cumulative)
        (change,) = draw.choices((str.lower, str.capitalize, str.upper), (55, 33, 12))
        yield change(word)


def listed_words(texts: Sequence[str], seed: int) -> Iterator[str]:
    """The texts of a list in random order, over and over."""
    draw = random.Random(seed)
    while True:
        yield from draw.sample(texts, len(texts))


def choose_oov_words(candidates: Iterator[str], known: Collection[str], count: int, *, charset: Collection[str],
                     max_length: int, lengths: Sequence[int] = (), seed: int = 0,
                     counts: Counter | None = None) -> list[str]:  # fmt: skip
    """Words that are new, each chosen from a few candidates for its length, and for the characters that the words before it
    lack.

    Args:
        known: texts that must not come.
        charset: characters that can be written; words with others are passed over.
        max_length: longest word in characters.
        lengths: the set's lengths in characters are drawn from these, as far as the candidates have them; none is that any
            length is as good.
        seed: of that draw.
        counts: how often each character was written so far, in the sets of other hands too; is counted on.
    Returns:
        ``count`` different words, or fewer where the list is used up.
    """
    counts = Counter() if counts is None else counts
    draw = random.Random(seed)
    characters, chosen, pool = set(charset), [], []
    taken = set(known)
    while len(chosen) < count:
        tries = 0
        while len(pool) < POOL and tries < MAX_TRIES:
            word = next(candidates)
            tries += 1
            if word not in taken and 1 < len(word) <= max_length and set(word) <= characters:
                pool.append(word)
                taken.add(word)
                tries = 0
        if not pool:
            break
        near = pool
        if lengths:
            wanted = draw.choice(lengths)
            near = sorted(pool, key=lambda word: abs(len(word) - wanted))
            near = near[: max(NEAR, sum(abs(len(word) - wanted) <= 1 for word in pool))]
        # The mean rarity of its characters; a long word is not better for being long.
        best = max(near, key=lambda word: sum(1 / (1 + counts[c]) for c in word) / len(word))
        # The rest is drawn anew, so that the set stays a sample of the list and not its oddest words alone.
        taken.difference_update(pool)
        taken.add(best)
        pool = []
        chosen.append(best)
        counts.update(best)
    return chosen
