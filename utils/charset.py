"""Characters and their ids."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from utils.errors import UserError


def normalise_text(text: str) -> str:
    """Return ``text`` in Unicode NFC with outer white space removed and inner white space as single
    spaces.
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def normalise_texts(texts: Iterable[str]) -> list[str]:
    """``normalise_text`` of each, without those that are empty then."""
    return [text for text in map(normalise_text, texts) if text]


def read_texts(path: Path, *, flag: str = "--words_file") -> list[str]:
    """The lines of a text file (UTF-8), normalised, without empty ones.

    Raises:
        FileNotFoundError, ValueError: if it is missing, not UTF-8 or empty.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{flag} {path}: no such file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{flag} {path}: not a UTF-8 text file ({error})") from error
    texts = normalise_texts(lines)
    if not texts:
        raise UserError(f"{flag} {path}: no words in it")
    return texts


@dataclass(frozen=True, kw_only=True)
class Charset:
    """The characters a model can write, in order: character ``i`` has id ``i + 1``.

    ``pad_id`` is 0 and belongs to no character. Only the published WordStylist weights need another value:
    they were trained with padding on the id of the letter z (52).
    """

    characters: tuple[str, ...]
    pad_id: int = 0

    def __post_init__(self) -> None:
        if len(set(self.characters)) != len(self.characters):
            raise UserError("a charset holds each character once")
        if any(len(character) != 1 for character in self.characters):
            raise UserError("a charset's entries are single characters")

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> "Charset":
        """The sorted set of all characters in ``texts``."""
        return cls(characters=tuple(sorted(set().union(*texts))))

    @property
    def vocabulary_size(self) -> int:
        """Number of embedding rows: the characters and row 0."""
        return len(self.characters) + 1

    def unknown(self, text: str) -> list[str]:
        """The characters of ``text`` that are not in this charset, each once, in order of appearance."""
        known = set(self.characters)
        return list(dict.fromkeys(c for c in text if c not in known))

    def encode(self, texts: Sequence[str], max_length: int) -> Tensor:
        """Encode texts as ids, padded at the right.

        Returns:
            (B, max_length) int64 ids in [0, vocabulary_size).
        Raises:
            ValueError: if a text is longer than ``max_length`` or holds an unknown character; the message
                names both.
        """
        index = {character: i + 1 for i, character in enumerate(self.characters)}
        input_ids = torch.full((len(texts), max_length), self.pad_id, dtype=torch.int64)
        for row, text in enumerate(texts):
            unknown = self.unknown(text)
            if unknown:
                raise UserError(
                    f"{unknown[0]!r} (in {text!r}) is not in this checkpoint's charset ({self.describe()})"
                )
            if len(text) > max_length:
                raise UserError(
                    f"{text!r} has {len(text)} characters; this checkpoint writes at most {max_length}"
                )
            for column, character in enumerate(text):
                input_ids[row, column] = index[character]
        return input_ids

    def describe(self) -> str:
        """A short listing for messages, e.g. ``26 characters: abc…``."""
        return f"{len(self.characters)} characters: {''.join(self.characters)}"


def is_right_to_left(text: str) -> bool:
    """True if a text begins at the right: its first letter is of a script such as Arabic or Hebrew."""
    kinds = (unicodedata.bidirectional(character) for character in text)
    return next((kind != "L" for kind in kinds if kind in ("L", "R", "AL")), False)


def order_along_line(text: str) -> str:
    """The characters as they stand in the image from left to right, which is how a recogniser with CTC meets
    them; of what such a recogniser has read, the text."""
    return text[::-1] if is_right_to_left(text) else text
