"""How legible images are: what recognisers read in generated and in real ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluation.comparison import Comparison
from evaluation.measures import Measure
from htr.error_rates import count_errors
from htr.reading import Reading, Recogniser
from utils.bootstrap import Bootstrap, Estimate
from utils.json_files import read_json
from utils.text_images import FILTER_SETTINGS, INFERENCE_SETTINGS

LONGEST = 16  # characters; longer texts share a bar
COMPARED = {
    "exact": "texts compared exactly",
    "letters": "only letters and digits are compared, without case",
    "folded": "only letters and digits are compared, without case and accents",
}


@dataclass(frozen=True, kw_only=True)
class ReadImages:
    """What a recogniser read in n images.

    Attributes:
        texts: what was to be written; writers: by whom.
        readings: text and confidence of each.
        errors, lengths: (n,) edit operations and characters; a length of 0 is a text with nothing to compare.
        word_errors, word_lengths: (n,) the same in words between spaces.
    """

    texts: Sequence[str]
    writers: Sequence[str]
    readings: Sequence[Reading]
    errors: np.ndarray
    lengths: np.ndarray
    word_errors: np.ndarray
    word_lengths: np.ndarray

    @property
    def is_compared(self) -> np.ndarray:
        """(n,) bool, the text has something to compare."""
        return self.lengths > 0

    @property
    def confidences(self) -> np.ndarray:
        """(n,) in [0, 1]."""
        return np.array([reading.confidence for reading in self.readings])


def compare_readings(
    texts: Sequence[str], writers: Sequence[str], readings: Sequence[Reading], normalise: str
) -> ReadImages:
    """Count the errors of readings; ``normalise`` is a name of ``NORMALISERS``."""
    read = [reading.text for reading in readings]
    errors, lengths = count_errors(texts, read, normalise, unit="characters")
    word_errors, word_lengths = count_errors(texts, read, normalise, unit="words")
    return ReadImages(
        texts=texts,
        writers=writers,
        readings=readings,
        errors=errors,
        lengths=lengths,
        word_errors=word_errors,
        word_lengths=word_lengths,
    )


def read_images(
    pair: Comparison, name: str, recogniser: Recogniser, normalise: str, batch_size: int
) -> tuple[ReadImages, ReadImages]:
    """What a recogniser reads in the generated images, and in the real images ``pair.readable``."""
    sides = []
    for images, rows, side in (
        (pair.generated, np.arange(len(pair.generated)), "generated"),
        (pair.real, pair.readable, "real"),
    ):
        readings: list[Reading] = []
        for _, chunk in images.chunks(rows, f"{name} {side}"):
            readings += recogniser.read(chunk, batch_size=batch_size)
        texts = images.texts
        sides.append(
            compare_readings([texts[row] for row in rows], images.writers[rows], readings, normalise)
        )
    return sides[0], sides[1]


@dataclass(frozen=True, kw_only=True)
class _Quantity:
    """A rate over images: attributes of ``ReadImages`` that are summed and divided."""

    key: str
    label: str
    numerator: str
    denominator: str | None
    definition: str
    better: str

    def of(self, images: ReadImages, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Numerators and denominators of some images."""
        denominators = None if self.denominator is None else getattr(images, self.denominator)[rows]
        return getattr(images, self.numerator)[rows], denominators


QUANTITIES = (
    _Quantity(
        key="cer",
        label="Character error rate",
        numerator="errors",
        denominator="lengths",
        definition="edit operations over the number of characters",
        better="lower",
    ),
    _Quantity(
        key="wer",
        label="Word error rate",
        numerator="word_errors",
        denominator="word_lengths",
        definition="edit operations over the number of words between spaces",
        better="lower",
    ),
    _Quantity(
        key="confidence",
        label="Confidence",
        numerator="confidences",
        denominator=None,
        definition="mean over images of the product of the probabilities of all characters read",
        better="higher",
    ),
)


def measure_legibility(
    name: str,
    generated: ReadImages,
    real: ReadImages,
    matches: np.ndarray,
    normalise: str,
    bootstrap: Bootstrap,
) -> list[Measure]:
    """CER, WER and confidence of generated and of real images, and the difference: what remains without the
    errors that the recogniser makes on real writing too.

    Args:
        name: of the recogniser.
        matches: (p, 2) rows of ``generated`` and ``real`` of the same record; then the difference is over
            these pairs, otherwise between all.
    """
    pairs = matches[generated.is_compared[matches[:, 0]] & real.is_compared[matches[:, 1]]]
    is_paired = len(pairs) > 1
    rows = np.flatnonzero(generated.is_compared), np.flatnonzero(real.is_compared)
    texts = COMPARED[normalise]
    if left_out := len(generated.texts) - len(rows[0]):
        texts += f"; {left_out} generated images whose text has none are left out"
    beside = f"real images: {'of the same records' if is_paired else 'of the same writers'}"
    if is_paired and len(pairs) < len(generated.texts):
        beside += f" where there are any ({len(pairs)} of {len(generated.texts)})"
    measures = []
    for quantity in QUANTITIES:
        key = f"{quantity.key}/{name}"
        sides = quantity.of(generated, rows[0]), quantity.of(real, rows[1])
        values = {
            column: bootstrap.ratio(f"{key}/{column}", *side)
            for column, side in zip(("generated", "real"), sides, strict=True)
            if len(side[0])
        }
        if len(values) == 2:
            if is_paired:
                sides = quantity.of(generated, pairs[:, 0]), quantity.of(real, pairs[:, 1])
            values["difference"] = bootstrap.difference(f"{key}/difference", *sides, is_paired=is_paired)
        compared = "" if quantity.denominator is None else f"{texts}; "
        measures.append(
            Measure(
                key=key,
                label=f"{quantity.label} ({name})",
                values=values,
                protocol=f"{quantity.definition}; {compared}{beside}",
                better=quantity.better,
                is_percentage=True,
            )
        )
    return measures


def group_error_rates(images: ReadImages, keys: Sequence[str], bootstrap: Bootstrap) -> dict[str, Estimate]:
    """The character error rate of each group of images, by ``keys`` (n,), the names of their groups."""
    names, is_compared = np.array(keys), images.is_compared
    groups = {}
    for name in dict.fromkeys(keys):
        rows = np.flatnonzero((names == name) & is_compared)
        if len(rows):
            groups[name] = bootstrap.ratio(f"group/{name}", images.errors[rows], images.lengths[rows])
    return groups


def length_names(texts: Sequence[str]) -> list[str]:
    """The number of characters of each text as the name of its group, long ones together."""
    return [str(len(text)) if len(text) < LONGEST else f"{LONGEST}+" for text in texts]


def name_choosers(folder: Path) -> dict[str, str]:
    """Recognisers that had a say in which images a generated folder holds: name to what it did.

    Looks into the settings that inference.py and generation/filter_words.py leave, and those of the folder
    that was filtered.

    Raises:
        UserError: if one of the files is damaged; the message names it.
    """
    choosers: dict[str, str] = {}
    visited: set[Path] = set()
    source: Path | None = folder
    while source is not None and source.resolve() not in visited:
        visited.add(source.resolve())
        folder, source = source, None
        for name, role in (
            (FILTER_SETTINGS, "filtered the images"),
            (INFERENCE_SETTINGS, "chose among variants"),
        ):
            values = read_json(folder / name) if (folder / name).is_file() else {}
            if values.get("recogniser"):
                choosers.setdefault(str(values["recogniser"]), role)
            if name == FILTER_SETTINGS and values.get("dataset_path"):
                source = Path(str(values["dataset_path"]))
    return choosers
