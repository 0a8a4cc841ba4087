"""What inference is asked to write, from its flags to a list of jobs."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusion.config import CheckpointConfig
from diffusion.pipeline import HandwritingPipeline
from generation.jobs import (
    Job,
    JobList,
    choose_writers,
    jobs_of_records,
    jobs_of_texts,
    parse_mix,
    slug,
)
from generation.page_layout import LayoutStatistics
from generation.page_xml import XML_FORMATS
from generation.word_lines import DEFAULT_LENGTH, jobs_of_corpus
from utils.charset import normalise_text, normalise_texts, read_texts
from utils.errors import UserError
from utils.text_images import IMAGE_FOLDER, TextImage, read_text_images
from utils.vocabulary import choose_oov_words, dictionary_words, shuffled_forever

DEFAULT_WORDS = (
    *("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog"),
    *("letter", "archive", "writing", "hand", "paper", "ink", "style", "word"),
)
LONGEST_STRING = 6  # characters of a string made of the charset


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to write; see the flags of the same names.

    Attributes:
        writer: names, ``["random"]`` or ``["all"]``; None: as the help of ``--writer`` says.
        line_from: what draws a line; never None.
        oov: number of new words for each writer; None: no new words.
    """

    words: Sequence[str] | None = None
    words_file: Path | None = None
    corpus: Path | None = None
    line_length: int | None = None
    line_from: str = "words"
    output_format: str = "folder"
    dataset_path: Path | None = None
    split: str | None = None
    writer: Sequence[str] | None = None
    mix: Sequence[str] | None = None
    oov: int | None = None
    oov_scope: str = "writer"
    num_per_word: int = 1
    single_image: bool = True
    seed: int = 0

    @property
    def flag(self) -> str:
        """The flags that the words and writers come from, for messages."""
        if self.dataset_path:
            words = f"--dataset_path {self.dataset_path}"
        elif self.corpus:
            words = f"--corpus {self.corpus}"
        elif self.words_file:
            words = "--words_file"
        else:
            words = "--words" if self.words else "the built-in words"
        return words + (" with --writer" if self.writer else " with --mix" if self.mix else "")


def plan_jobs(request: Request, pipeline: HandwritingPipeline) -> JobList:
    """The images that are asked for, whether or not the model can write them.

    Raises:
        FileNotFoundError, UserError: for files and folders that can't be read, and impossible requests.
    """
    known = pipeline.config.writers
    if request.corpus:
        writers = [parse_mix(request.mix)] if request.mix else None
        return jobs_of_corpus(
            read_texts(request.corpus, flag="--corpus"),
            pipeline,
            writers or choose_writers(request.writer or ["random"], known),
            length=request.line_length or DEFAULT_LENGTH,
            seed=request.seed,
            statistics=LayoutStatistics() if request.output_format in XML_FORMATS else None,
            line_from=request.line_from,
        )
    records = []
    if request.dataset_path:
        records = read_text_images(request.dataset_path, splits=[request.split] if request.split else [])
    if request.oov:
        return jobs_out_of_vocabulary(request, records, pipeline)
    if request.dataset_path and not (request.mix or request.writer):
        return jobs_of_records(records, num_per_word=request.num_per_word)
    if request.dataset_path:
        texts = [normalise_text(record.text) for record in records]
    elif request.words_file:
        texts = read_texts(request.words_file)
    elif request.words:
        texts = normalise_texts(request.words)
    else:
        texts = default_texts(pipeline.config, pipeline.unet.config.max_length)
    names = request.writer or (["random"] if request.single_image else ["all"])
    return jobs_of_texts(
        texts,
        [parse_mix(request.mix)] if request.mix else choose_writers(names, known),
        known,
        num_per_word=request.num_per_word,
        seed=request.seed,
        splits=[record.split for record in records],
    )


def default_texts(config: CheckpointConfig, max_length: int) -> list[str]:
    """At most 16 texts that a checkpoint can write, for those who name none: some that it was trained on; for
    a checkpoint that doesn't hold any, common English words; where its charset has none of these, strings of
    its characters. Always the same ones.

    Args:
        max_length: of a text, characters.
    """
    characters = set(config.charset.characters)
    for texts in (config.sample_texts, DEFAULT_WORDS):
        known = [text for text in texts if text and len(text) <= max_length and set(text) <= characters]
        if known:
            return known[: len(DEFAULT_WORDS)]
    draw = random.Random(0)
    visible = sorted(character for character in characters if not character.isspace())
    lengths = range(1, min(LONGEST_STRING, max_length) + 1)
    strings = ["".join(draw.choices(visible, k=draw.choice(lengths))) for _ in DEFAULT_WORDS]
    return list(dict.fromkeys(strings))


def jobs_out_of_vocabulary(
    request: Request, records: Sequence[TextImage], pipeline: HandwritingPipeline
) -> JobList:
    """``request.oov`` new words for each writer: none that its training words hold, of such lengths as they
    have, with rare characters well represented.

    The words come from ``request.words_file`` or a dictionary. The writers are ``request.writer``, or all of
    ``records`` that the model knows.

    Args:
        records: of the data set; those of split ``train`` are what a writer, or with scope ``dataset`` any
            writer, has written.
    Raises:
        UserError: if no writer is known, or there are not enough new words.
    """
    config, max_length = pipeline.config, pipeline.unet.config.max_length
    charset = config.charset.characters
    words = read_texts(request.words_file) if request.words_file else None
    writers = choose_writers(request.writer, config.writers) if request.writer else None
    writers = writers or sorted({record.writer for record in records} & set(config.writers))
    if not writers:
        raise UserError("--oov: the model knows no writer of --dataset_path; name writers with --writer")
    train = [(record.writer, normalise_text(record.text)) for record in records if record.split == "train"]
    counts: Counter = Counter()
    jobs: list[Job] = []
    for number, writer in enumerate(writers):
        seed = request.seed + number
        if words:
            candidates = shuffled_forever(words, seed)
        else:
            candidates = dictionary_words(charset, request.seed * 7919 + number)
        chosen = choose_oov_words(
            candidates,
            {text for name, text in train if request.oov_scope == "dataset" or name == writer},
            request.oov,
            charset=charset,
            max_length=max_length,
            lengths=[len(text) for name, text in train if name == writer] or [len(text) for _, text in train],
            seed=seed,
            counts=counts,
        )
        if len(chosen) < request.oov:
            raise UserError(
                f"--oov {request.oov}: the list has only {len(chosen)} words that are new to {writer} and can"
                " be written. Give a longer --words_file, or fewer words."
            )
        for text in chosen:
            name = f"{IMAGE_FOLDER}/oov-{len(jobs):06d}-{slug(text)}-{slug(writer)}.png"
            jobs.append(
                Job(
                    index=len(jobs), record=TextImage(file_name=name, text=text, writer=writer), writer=writer
                )
            )
    return JobList.of(jobs)
