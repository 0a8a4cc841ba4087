"""What inference is asked to write, as a list of images: each with its text, hand, file name and number."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from utils.charset import normalise_text
from utils.errors import UserError
from utils.text_images import IMAGE_FOLDER, TextImage
from utils.training import make_generator
from utils.vocabulary import choose_oov_words, dictionary_words, listed_words


@dataclass(frozen=True)
class Job:
    """One image to write; ``index`` fixes its noise, ``writer`` is a name or shares of several."""

    index: int
    record: TextImage
    writer: str | Mapping[str, float]


def parse_mix(values: Sequence[str]) -> dict[str, float]:
    """``["A:0.7", "B:0.3"]`` to shares that sum to 1; a name without a share has 1 before that.

    Raises:
        ValueError: if a share is not a positive number, or a name is there twice.
    """
    shares: dict[str, float] = {}
    for value in values:
        name, colon, share = value.rpartition(":")
        name, share = (name, share) if colon else (value, "1")
        try:
            number = float(share)
        except ValueError:
            number = -1.0
        if not 0 < number < float("inf"):
            raise UserError(f"--mix {value}: the share {share!r} is not a positive number (write NAME:SHARE)")
        if name in shares:
            raise UserError(f"--mix: {name!r} is there twice")
        shares[name] = number
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}


def slug(text: str) -> str:
    """A text as part of a file name."""
    return re.sub(r"[^\w\-]+", "_", text).strip("_")[:24] or "word"


def choose_writers(names: Sequence[str], known: Sequence[str]) -> list[str] | None:
    """Hands by name; ``all`` is every known one, ``random`` (unless a hand is called so) None: one by lot an
    image.
    """
    if list(names) == ["random"] and "random" not in known:
        return None
    return list(known) if list(names) == ["all"] and "all" not in known else list(names)


def jobs_of_texts(
    texts: Sequence[str],
    hands: Sequence[str | Mapping[str, float]] | None,
    known: Sequence[str],
    *,
    num_per_word: int = 1,
    seed: int = 0,
    splits: Sequence[str] = (),
) -> list[Job]:
    """Each text in each of the hands.

    Args:
        hands: names or mixes; None draws one of ``known`` for each image, by ``seed`` and the image's number.
        splits: each text's split; ``train`` by default.
    """
    jobs: list[Job] = []
    for text, split in zip(texts, splits or ["train"] * len(texts), strict=True):
        for _ in range(num_per_word):
            for hand in hands or [None]:
                index = len(jobs)
                if hand is None:
                    hand = known[
                        int(
                            torch.randint(
                                len(known), (1,), generator=make_generator("cpu", seed, index, 0xAD)
                            )
                        )
                    ]
                name = (
                    hand
                    if isinstance(hand, str)
                    else "+".join(f"{n}:{share:.2f}" for n, share in hand.items())
                )
                file_name = f"{IMAGE_FOLDER}/{index:06d}-{slug(text)}-{slug(name)}.png"
                jobs.append(Job(index, TextImage(file_name, text, name, split), hand))
    return jobs


def jobs_of_records(records: Sequence[TextImage], *, num_per_word: int = 1) -> list[Job]:
    """Each record again in its own writer's hand, under its own file name, so that two folders compare by
    name.

    Raises:
        ValueError: if two records differ in their images' suffix alone.
    """
    jobs: list[Job] = []
    for record in records:
        for number in range(num_per_word):
            stem = Path(record.file_name).with_suffix("").as_posix() + (
                f"-{number}" if num_per_word > 1 else ""
            )
            text = normalise_text(record.text)
            jobs.append(
                Job(len(jobs), TextImage(f"{stem}.png", text, record.writer, record.split), record.writer)
            )
    if len({job.record.file_name for job in jobs}) != len(jobs):
        raise UserError("--dataset_path: several images have one name but for the suffix; rename them")
    return jobs


def jobs_out_of_vocabulary(
    records: Sequence[TextImage],
    words: Sequence[str] | None,
    per_writer: int,
    *,
    scope: str,
    writers: Sequence[str] | None,
    known: Sequence[str],
    charset: Sequence[str],
    max_length: int,
    seed: int = 0,
) -> list[Job]:
    """New words for each hand: none that its training words hold, of such lengths as they have, and rare
    characters well represented.

    Args:
        records: of the data set; those of split ``train`` are what a hand, or with scope ``dataset`` any
            hand, has written.
        words: to choose from; None is a dictionary.
        writers: hands; None is all of ``records`` that the model knows.
        charset, max_length: what the model can write.
    Raises:
        ValueError: if no hand is known, or there are not enough new words.
    """
    train = [(record.writer, normalise_text(record.text)) for record in records if record.split == "train"]
    hands = list(writers) if writers else sorted({record.writer for record in records} & set(known))
    if not hands:
        raise UserError("--oov: the model knows no writer of --dataset_path; name hands with --writer")
    counts: Counter = Counter()
    jobs: list[Job] = []
    for number, hand in enumerate(hands):
        taken = {text for writer, text in train if scope == "dataset" or writer == hand}
        source = (
            listed_words(words, seed + number) if words else dictionary_words(charset, seed * 7919 + number)
        )
        lengths = [len(text) for writer, text in train if writer == hand] or [len(text) for _, text in train]
        chosen = choose_oov_words(
            source,
            taken,
            per_writer,
            charset=charset,
            max_length=max_length,
            lengths=lengths,
            seed=seed + number,
            counts=counts,
        )
        if len(chosen) < per_writer:
            raise UserError(
                f"--oov {per_writer}: the list has only {len(chosen)} words that are new to {hand} and can be"
                " written. Give a longer --words_file, or fewer words."
            )
        for text in chosen:
            name = f"{IMAGE_FOLDER}/oov-{len(jobs):06d}-{slug(text)}-{slug(hand)}.png"
            jobs.append(Job(len(jobs), TextImage(name, text, hand), hand))
    return jobs
