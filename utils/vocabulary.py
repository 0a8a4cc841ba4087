"""Which words there are: a dictionary with frequencies, and words that a writer has not written."""

import random
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate

MAX_LENGTH = 24  # characters of a word
SCOPES = ("writer", "dataset")
MAX_TRIES = 200  # candidates in a row that are known or can't be written, before the list counts as used up
POOL = 48  # candidates that each word is chosen from
# Of them, those whose length is nearest to the wanted one, and all that differ by one character at most.
NEAR = 4
_WORD = re.compile(r"[a-zäöüß]+(?:['-][a-zäöüß]+)*")
# Slurs and obscenities of the word lists, by stem: nobody wants them in a sheet of samples.
_VULGAR = re.compile(
    r"neger|nigg|fuck|cunt|fagg?ot|fotze|hure[nr]?|huren|wichs|whore|slut|kike|wetback|chink|rapist|raping|raped?$|vergewalt|"
    r"judens|bitch|asshole|arschl|cocksuck|dildo|porn|penis|vagina|masturb|nutte|schlampe|titt|shit|schei(ß|ss)|pussy|bastard"
)


def read_dictionary(language: str) -> tuple[list[str], list[float]]:
    """The words of ``en`` or ``de`` in lower case, 1 to 24 letters long, and their cumulative weights.

    Raises:
        FileNotFoundError: if the package is not installed.
    """
    try:
        from spellchecker import SpellChecker
    except ImportError as error:
        raise FileNotFoundError(
            "no list of words: run `pip install pyspellchecker`, or give a file with "
            "one text a line (--words_file)."
        ) from error
    counts = SpellChecker(language=language).word_frequency.dictionary
    # English genitives are left out: the list has one for nearly every noun, and the texts add their own.
    words = sorted(
        word
        for word in counts
        if len(word) <= MAX_LENGTH
        and _WORD.fullmatch(word)
        and not word.endswith("'s")
        and not _VULGAR.search(word)
    )
    return words, list(accumulate(counts[word] ** 0.3 / len(word) ** 1.5 for word in words))


def shuffled_forever(texts: Sequence[str], seed: int) -> Iterator[str]:
    """Every text once in random order, then once again in another order, without end."""
    order = random.Random(seed)
    while True:
        yield from order.sample(texts, len(texts))


def dictionary_words(charset: Collection[str], seed: int) -> Iterator[str]:
    """Words drawn from a dictionary without end, in lower case, capitalised or in capitals: English, and
    German where the charset has its letters.

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


def choose_oov_words(
    candidates: Iterator[str],
    known: Collection[str],
    count: int,
    *,
    charset: Collection[str],
    max_length: int,
    lengths: Sequence[int] = (),
    seed: int = 0,
    counts: Counter | None = None,
) -> list[str]:
    """Words that are new, each chosen from a few candidates for its length, and for the characters that the
    words before it lack.

    Args:
        known: texts that must not come.
        charset: characters that can be written; words with others are passed over.
        max_length: longest word in characters.
        lengths: the set's lengths in characters are drawn from these, as far as the candidates have them;
            none is that any length is as good.
        seed: of that draw.
        counts: how often each character was written so far, in the sets of other writers too; is counted on.
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
