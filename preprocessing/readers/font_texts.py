"""Texts to draw in fonts: made-up ones without end, and the split of a text."""

import hashlib
import random
import re
from collections.abc import Iterator

from utils.charset import normalise_text
from utils.vocabulary import MAX_LENGTH, read_dictionary

LETTERS = "abcdefghijklmnopqrstuvwxyzäöüß"
# Strings of letters are drawn from these evenly, so that each character stands beside each other one now and
# then.
UPPER_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÜ"
DIGITS = "0123456789"
PUNCTUATION = ".,;:!?'\"-()&+%/=#*"
HELD_OUT_SHARE = {"test": 0.05, "val": 0.05}
_ENDINGS = ((".", 6), (",", 8), ("!", 2), ("?", 3), (":", 2), (";", 2), ("-", 1), ("...", 1), (".,", 0.3))
_BRACKETS = (
    ("(", ")", 3),
    ('"', '"', 3),
    ("'", "'", 1),
    ("(", "", 1),
    ("", ")", 1),
    ('"', "", 1),
    ("", '"', 1),
)
_STREETS = (
    "straße",
    "gasse",
    "weg",
    "platz",
    "allee",
    "ring",
    "damm",
    "ufer",
    "hof",
    "berg",
    "tal",
    "brücke",
    "steig",
)
_PLACES = ("Groß", "Klein", "Ober", "Unter", "Neu", "Alt", "Schön", "Hohen", "Nieder", "Bad ", "Sankt ")
_TITLES = (
    "Dr.",
    "Prof.",
    "Mr.",
    "Mrs.",
    "Herr",
    "Frau",
    "St.",
    "Nr.",
    "No.",
    "Vol.",
    "Kap.",
    "S.",
    "Fräulein",
    "Miss",
)
_SHORT = (
    "z. B.",
    "d. h.",
    "u. a.",
    "e.g.",
    "i.e.",
    "etc.",
    "usw.",
    "Ph.D.",
    "a.m.",
    "p.m.",
    "vgl.",
    "ca.",
    "bzw.",
    "&c.",
    "A.D.",
    "n. Chr.",
    "P.S.",
    "I'm",
    "don't",
    "it's",
    "I'll",
    "wasn't",
    "o'clock",
    "geht's",
    "gibt's",
)


class TextSource:
    """An endless, seeded source of texts of 1 to 24 characters; all words of a text belong to one split.

    The same seed gives the same texts in the same order, however many are drawn.

    Raises:
        FileNotFoundError: if the package of word counts is not installed; the message names the command.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._words = [read_dictionary(language) for language in ("en", "de")]

    def __iter__(self) -> Iterator[str]:
        kinds = (self._single, self._number, self._letters, self._compound, self._phrase)
        while True:
            (kind,) = self._random.choices(kinds, (66, 11, 12, 6, 5))
            text = normalise_text(kind())
            if 0 < len(text) <= MAX_LENGTH and len(splits_of(text)) == 1:
                yield text

    def _word(self, language: int | None = None) -> str:
        """A word in lower case, of either language by default."""
        words, cumulative = self._words[self._random.randrange(2) if language is None else language]
        return self._random.choices(words, cum_weights=cumulative)[0]

    def _case(self, word: str) -> str:
        (change,) = self._random.choices((str.lower, _capitalise, str.upper), (55, 33, 12))
        return change(word)

    def _single(self) -> str:
        """A word, one time in four with punctuation."""
        word = self._case(self._word())
        if self._random.random() >= 0.25:
            return word
        kind = self._random.random()
        if kind < 0.62:
            return word + self._random.choices(*zip(*_ENDINGS, strict=True))[0]
        if kind < 0.90:
            left, right, _ = self._random.choices(_BRACKETS, [weight for _, _, weight in _BRACKETS])[0]
            return f"{left}{word}{right}"
        if kind < 0.95 and not word.endswith(("s", "S", "ß")):
            return word + ("'S" if word.isupper() else "'s")
        return word + self._random.choice("-/+&=") + self._case(self._word())

    def _number(self) -> str:
        """Years, prices, ordinals, dates, times, shares and house numbers, as written in English or
        German.
        """
        r = self._random
        n = int(10 ** r.uniform(0, 5.5))
        forms = (
            lambda: str(n),
            lambda: str(n),
            lambda: str(r.randint(1500, 2099)),
            lambda: str(r.randint(1500, 2099)),
            lambda: f"{n % 1000}.{r.randrange(100):02d}",
            lambda: f"{n % 1000},{r.randrange(100):02d}",
            lambda: f"{n:,}",
            lambda: f"{n:,}".replace(",", "."),
            lambda: f"{n % 100}%",
            lambda: f"{n % 100} %",
            lambda: f"{n % 100}.",
            lambda: _ordinal(n % 1000),
            lambda: f"{r.randint(1, 31)}.{r.randint(1, 12)}.",
            lambda: f"{r.randint(1, 31)}.{r.randint(1, 12)}.{r.randint(1850, 2030)}",
            lambda: f"{n}-{n + r.randint(1, 99)}",
            lambda: f"{r.randint(1, 12)}/{r.randint(1, 31)}",
            lambda: f"{r.randrange(24)}:{r.randrange(60):02d}",
            lambda: f"'{r.randrange(100):02d}",
            lambda: f"{n % 1000}{r.choice('abcABC')}",
            lambda: f"({n % 1000})",
            lambda: f"{r.randrange(100)}+{r.randrange(100)}",
            lambda: f"{r.randrange(10)}={r.randrange(10)}",
            lambda: f"+{n}",
            lambda: f"-{n}",
            lambda: f"#{n % 1000}",
            lambda: f"0{r.randrange(10**6)}",
            lambda: f"{n % 100}*",
        )
        return r.choice(forms)()

    def _letters(self) -> str:
        """A string of letters (two to nine, mostly in one case), now and then with a digit or a mark in
        it.
        """
        r = self._random
        (length,) = r.choices(range(2, 10), (2, 4, 5, 5, 4, 3, 2, 1))
        (style,) = r.choices(("lower", "first", "upper", "mixed", "digits"), (40, 25, 15, 8, 12))
        lower = r.choices(LETTERS, k=length)
        upper = r.choices(UPPER_CHARACTERS, k=length)
        if style == "mixed":
            marks = r.choices(LETTERS + UPPER_CHARACTERS + DIGITS + PUNCTUATION, k=length)
            return "".join(marks)
        if style == "digits":
            return "".join(r.choices(DIGITS, k=length))
        characters = {"lower": lower, "first": upper[:1] + lower[1:], "upper": upper}[style]
        if length > 2 and r.random() < 0.15:
            characters.insert(r.randint(1, length), r.choice(PUNCTUATION))
        return "".join(characters)

    def _compound(self) -> str:
        """A German place or street, often long and with a number: Großschweidnitzer Straße 12."""
        r = self._random
        name = self._word(language=1)
        place = r.choice(_PLACES) if r.random() < 0.4 else ""
        name = place + (_capitalise(name) if not place or place.endswith(" ") else name)
        if r.random() < 0.7:
            street = r.choice(_STREETS)
            (joint,) = r.choices((street, f"er {_capitalise(street)}", f"-{_capitalise(street)}"), (5, 3, 2))
            name += joint
        return f"{name} {r.randint(1, 199)}" if r.random() < 0.25 else name

    def _phrase(self) -> str:
        """Two short words, a title with a name, or an abbreviation."""
        r = self._random
        kind = r.random()
        if kind < 0.2:
            return r.choice(_SHORT)
        if kind < 0.5:
            return f"{r.choice(_TITLES)} {_capitalise(self._word())}"
        if kind < 0.6:
            return f"{_capitalise(self._word())} & {_capitalise(self._word())}"
        language = r.randrange(2)
        return f"{self._case(self._word(language))} {self._case(self._word(language))}"


def split_of(text: str) -> str:
    """A text's split by the SHA-256 of its words: ``test`` if any is a test word, else ``val`` if any is,
    else ``train``.

    Case, punctuation and a word's digits don't count ('Word,' and 'word/12' go with 'word'), so no training
    text holds a held-out word. The same on every machine.
    """
    splits = splits_of(text)
    return next((split for split in HELD_OUT_SHARE if split in splits), "train")


def split_keys(text: str) -> set[str]:
    """What a text's split hangs on: its runs of letters without case, its numbers where a word has no
    letters.
    """
    keys: set[str] = set()
    for word in text.casefold().replace("'", "").split():
        letters = re.findall(r"[^\W\d_]+", word)
        keys.update(letters or ["".join(c for c in word if c.isalnum()) or word])
    return keys


def splits_of(text: str) -> set[str]:
    """The splits of a text's words."""
    return {split_of_key(key) for key in split_keys(text)}


def split_of_key(key: str) -> str:
    """The split that a key's SHA-256 falls into."""
    place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    test, val = HELD_OUT_SHARE["test"], HELD_OUT_SHARE["val"]
    return "test" if place < test else "val" if place < test + val else "train"


def _capitalise(word: str) -> str:
    return word[:1].upper() + word[1:] if not word.startswith("ß") else word


def _ordinal(n: int) -> str:
    suffix = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{suffix}"
