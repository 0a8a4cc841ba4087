"""Lines of text to draw in fonts: of made-up sentences or of a text file, and the split of a line."""

import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from preprocessing.readers.font_texts import HELD_OUT_SHARE, TextSource, split_of_key, splits_of
from utils.charset import normalise_texts, read_texts

LENGTHS = (20, 70)  # characters of a line
SENTENCE = (3, 14)  # words
QUOTED = 0.04  # share of the sentences in quotation marks
CAPITALISED = (0.06, 0.35)  # share of the words within English and German sentences
# Each with its weight: what stands in a word's place, marks behind a word, around it, and behind a sentence.
_KINDS = (("word", 52), ("small", 35), ("number", 6), ("compound", 3), ("phrase", 3), ("capitals", 1))
_MARKS = (("", 84), (",", 12), (";", 1), (":", 1), (" -", 1), (" &", 1))
_AROUND = ((("", ""), 96), (("(", ")"), 2), (('"', '"'), 1), (("'", "'"), 1))
# English and German words that every text is full of.
_SMALL = tuple(
    words.split()
    for words in (
        "the of and to in that is was he for it with as his on be at by had not are but from or have an they"
        " which one you were her all she there would their we him been has when who will no more if out so",
        "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an er so"
        " dass wie hat sie nach bei aus am zur war noch wir aber einer um was über wenn nur oder vor bis",
    )
)
_ENDS = ((".", 80), ("!", 8), ("?", 10), ("...", 2))


class LineSource(TextSource):
    """An endless, seeded source of lines of ``LENGTHS`` characters out of English and German sentences; all
    words of a line belong to one split.

    The same seed gives the same lines in the same order, however many are drawn.
    """

    def __iter__(self) -> Iterator[str]:
        shares = {**HELD_OUT_SHARE, "train": 1 - sum(HELD_OUT_SHARE.values())}
        lines = {split: break_lines(self._sentences(split), self._random) for split in shares}
        while True:
            (split,) = self._random.choices(list(shares), list(shares.values()))
            yield next(lines[split])

    def _sentences(self, split: str) -> Iterator[str]:
        """The words of sentences whose words are all of one split, with their marks."""
        r = self._random
        while True:
            language, count = r.randrange(2), r.randint(*SENTENCE)
            quote = '"' if r.random() < QUOTED else ""
            for number in range(count):
                is_last = number == count - 1
                text = self._token(split, language, is_first=number == 0, is_last=is_last)
                text = f"{quote if number == 0 else ''}{text}{quote if is_last else ''}"
                yield from text.split()

    def _token(self, split: str, language: int, *, is_first: bool, is_last: bool) -> str:
        """A word, a number, a name, drawn until it belongs to the split."""
        while True:
            kind = self._draw(_KINDS)
            if kind == "small":
                text = self._random.choice(_SMALL[language])
            elif kind in (
                "word",
                "capitals",
            ):  # of two, since the dictionary's words are longer than a text's
                text = min(self._word(language), self._word(language), key=len)
            else:
                makers = {"number": self._number, "compound": self._compound, "phrase": self._phrase}
                text = makers[kind]()
            if is_first or (kind == "word" and self._random.random() < CAPITALISED[language]):
                text = text[:1].upper() + text[1:]
            text = text.upper() if kind == "capitals" else text
            left, right = self._draw(_AROUND) if kind != "small" else ("", "")
            end = self._draw(_ENDS) if is_last else self._draw(_MARKS) if kind != "small" else ""
            text = f"{left}{text}{right}{end}"
            if splits_of(text) == {split}:
                return text

    def _draw(self, weighted: tuple) -> object:
        values, weights = zip(*weighted, strict=True)
        return self._random.choices(values, weights)[0]


def break_lines(words: Iterable[str], rng: random.Random) -> Iterator[str]:
    """Words as lines whose lengths are drawn evenly from ``LENGTHS``; only the last may be shorter, and one
    of a single word longer.
    """
    shortest, longest = LENGTHS
    line, room = "", rng.randint(*LENGTHS)
    for word in words:
        longer = f"{line} {word}" if line else word
        if line and (len(longer) > longest or (len(longer) > room and len(line) >= shortest)):
            yield line
            line, room = word, rng.randint(*LENGTHS)
        else:
            line = longer
    if line:
        yield line


def corpus_lines(path: Path) -> list[str]:
    """A text file as lines, each once; paragraphs, which are parted by empty lines, begin a line.

    The same for every seed, so that held-out lines never become training lines.

    Raises:
        FileNotFoundError, UserError: if it is missing, not UTF-8 or empty.
    """
    read_texts(path)
    paragraphs = normalise_texts(re.split(r"\n\s*\n", path.read_text(encoding="utf-8-sig")))
    lines = (line for text in paragraphs for line in break_lines(text.split(), random.Random(text)))
    return list(dict.fromkeys(lines))


def split_of_line(text: str) -> str:
    """The split of a corpus's line by the SHA-256 of all its letters and digits without case: words come
    again in other lines, lines do not.
    """
    letters = "".join(character for character in text.casefold() if character.isalnum())
    return split_of_key(letters or text)
