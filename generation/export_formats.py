"""The formats that trainers of handwriting recognition take, one class each.

Grammars: kraken 7 ``ketos train -f path``, Calamari and tesstrain; PyLaia 1.0; PaddleOCR's and
deep-text-recognition's lists; LMDB as CRNN, ABINet and PARSeq read it; docTR's recognition data set; HWD's
folder of authors.
"""

import json
from collections import defaultdict
from pathlib import Path

from utils.errors import UserError
from utils.output import write_atomically
from utils.text_images import TextImage

LMDB_CHUNK = 1000  # images that are written together


class ExportFormat:
    """Writes text images one by one into an empty folder; what is true of all of them comes at the end.

    Attributes:
        height: of the images, pixels; None leaves them as they are.
    """

    height: int | None = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def refuse(self, record: TextImage) -> str | None:
        """Why a record can't be written in this format; None if it can."""

    def write(self, record: TextImage, name: str, png: bytes) -> str:
        """Write one text image.

        Args:
            name: unique among all records, without dots, spaces or slashes.
            png: the image.
        Returns:
            Where it lies, relative to the folder.
        """
        raise NotImplementedError

    def finish(self) -> None:
        """Write the lists, where the format has any."""

    def _save(self, relative: str, content: str | bytes) -> str:
        path = self.folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        return relative


class KrakenFormat(ExportFormat):
    """``train/x.png`` beside ``train/x.gt.txt``; serves Calamari and tesstrain as well."""

    def write(self, record: TextImage, name: str, png: bytes) -> str:
        """Write the pair; the text ends with a line break, which the trainers take off."""
        self._save(f"{record.split}/{name}.gt.txt", record.text + "\n")
        return self._save(f"{record.split}/{name}.png", png)


class PylaiaFormat(ExportFormat):
    """``images/x.png`` and for each split a table (``train.txt``: id and tokens) and a list of ids
    (``train_ids.txt``); ``syms.txt`` numbers the tokens of all splits, CTC's blank is 0.
    """

    height = 128
    SPACE = "<space>"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._rows: dict[str, list[tuple[str, str]]] = defaultdict(list)
        self._characters: set[str] = set()

    def write(self, record: TextImage, name: str, png: bytes) -> str:
        """Write the image and keep its row."""
        tokens = " ".join(self.SPACE if character == " " else character for character in record.text)
        self._rows[record.split].append((name, tokens))
        self._characters |= set(record.text)
        return self._save(f"images/{name}.png", png)

    def finish(self) -> None:
        """Write the tables, the id lists and the symbols."""
        for split, rows in self._rows.items():
            self._save(f"{split}.txt", "".join(f"{name} {tokens}\n" for name, tokens in rows))
            self._save(f"{split}_ids.txt", "".join(f"{name}\n" for name, _ in rows))
        symbols = ["<ctc>", self.SPACE, *sorted(self._characters - {" "})]
        self._save("syms.txt", "".join(f"{symbol} {number}\n" for number, symbol in enumerate(symbols)))


class PaddleFormat(ExportFormat):
    """``images/x.png`` and for each split ``train.txt``: path, tab, text; ``dict.txt`` lists the characters,
    but not the space, for which PaddleOCR has the setting ``use_space_char``.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._rows: dict[str, list[str]] = defaultdict(list)
        self._characters: set[str] = set()

    def write(self, record: TextImage, name: str, png: bytes) -> str:
        """Write the image and keep its row."""
        path = self._save(f"images/{name}.png", png)
        self._rows[record.split].append(f"{path}\t{record.text}\n")
        self._characters |= set(record.text)
        return path

    def finish(self) -> None:
        """Write the lists and the characters."""
        for split, rows in self._rows.items():
            self._save(f"{split}.txt", "".join(rows))
        self._save("dict.txt", "".join(f"{character}\n" for character in sorted(self._characters - {" "})))


class LmdbFormat(ExportFormat):
    """A database for each split: ``image-000000001`` (PNG), ``label-000000001``, ..., ``num-samples``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        try:
            import lmdb
        except ImportError as error:
            raise UserError(f"--format lmdb: {error}. Run `pip install lmdb`.") from error
        self._lmdb = lmdb
        self._pending: dict[str, list[tuple[bytes, bytes]]] = defaultdict(list)
        self._counts: dict[str, int] = defaultdict(int)

    def write(self, record: TextImage, name: str, png: bytes) -> str:
        """Keep the entry until there are enough to be written together."""
        self._counts[record.split] += 1
        number = self._counts[record.split]
        label = record.text.encode("utf-8")
        self._pending[record.split] += [
            (f"image-{number:09d}".encode(), png),
            (f"label-{number:09d}".encode(), label),
        ]
        if number % LMDB_CHUNK == 0:
            self._flush(record.split)
        return f"{record.split}/data.mdb#{number}"

    def _flush(self, split: str) -> None:
        entries = self._pending.pop(split, [])
        path = self.folder / split
        path.mkdir(parents=True, exist_ok=True)
        data = path / "data.mdb"
        # The map has to hold what is there and what comes; pages of 4 KiB, each image up to one more than it
        # needs.
        size = sum(len(value) + 8192 for _, value in entries) + (data.stat().st_size if data.is_file() else 0)
        with (
            self._lmdb.open(str(path), map_size=2 * size + 2**20, lock=False) as database,
            database.begin(write=True) as transaction,
        ):
            for key, value in entries:
                transaction.put(key, value)

    def finish(self) -> None:
        """Write what is left and the numbers of samples."""
        for split, count in self._counts.items():
            self._pending[split].append((b"num-samples", str(count).encode()))
            self._flush(split)


class DoctrFormat(ExportFormat):
    """``train/images/x.png`` and ``train/labels.json``. docTR's vocabularies have no space: words only."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._labels: dict[str, dict[str, str]] = defaultdict(dict)

    def refuse(self, record: TextImage) -> str | None:
        """Refuse texts of several words."""
        return "several_words" if " " in record.text else None

    def write(self, record: TextImage, name: str, png: bytes) -> str:
        """Write the image and keep its label."""
        self._labels[record.split][f"{name}.png"] = record.text
        return self._save(f"{record.split}/images/{name}.png", png)

    def finish(self) -> None:
        """Write the labels."""
        for split, labels in self._labels.items():
            content = json.dumps(labels, ensure_ascii=False, indent=1)
            write_atomically(self.folder / split / "labels.json", content)


class HwdFormat(ExportFormat):
    """``train/<author>/x.png`` and ``train/transcriptions.json``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._texts: dict[str, dict[str, str]] = defaultdict(dict)
        self._authors = NameGiver()

    def write(self, record: TextImage, name: str, png: bytes) -> str:
        """Write the image into its author's folder and keep its text."""
        path = f"{self._authors.name(record.writer)}/{name}.png"
        self._texts[record.split][path] = record.text
        return self._save(f"{record.split}/{path}", png)

    def finish(self) -> None:
        """Write the texts."""
        for split, texts in self._texts.items():
            content = json.dumps(texts, ensure_ascii=False, indent=1)
            write_atomically(self.folder / split / "transcriptions.json", content)


class NameGiver:
    """File names that every trainer and every disk takes, one a key: letters, digits, ``_`` and ``-`` alone,
    at most 80 characters, no two alike, not even in another case.

    kraken and Calamari cut a name at its first dot, PyLaia at its first space, and takes what begins with
    ``#`` for a comment.
    """

    LONGEST = 80

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._taken: set[str] = set()

    def name(self, wanted: str, key: str | None = None) -> str:
        """A name like ``wanted`` for ``key`` (by default ``wanted`` itself): always the same one."""
        key = wanted if key is None else key
        if key not in self._names:
            stem = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in wanted)
            stem = stem.lstrip("-")[: self.LONGEST] or "_"
            candidate, number = stem, 1
            while candidate.casefold() in self._taken:
                number += 1
                candidate = f"{stem}-{number}"
            self._taken.add(candidate.casefold())
            self._names[key] = candidate
        return self._names[key]


FORMATS: dict[str, type[ExportFormat]] = {
    "kraken": KrakenFormat,
    "pylaia": PylaiaFormat,
    "paddleocr": PaddleFormat,
    "lmdb": LmdbFormat,
    "doctr": DoctrFormat,
    "hwd": HwdFormat,
}
