"""Lines by the model or out of its words, and a corpus broken into lines of either."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch

from diffusion.config import CheckpointConfig
from diffusion.pipeline import HandwritingPipeline
from diffusion.variation import DEFAULT_VARIATION
from generation.jobs import Job, JobList, Style, describe_style, slug
from generation.lines import LineStyle, break_lines, place_words, word_width
from generation.page_layout import LayoutStatistics, draw_line_count
from utils.errors import UserError
from utils.text_images import IMAGE_FOLDER, LINE_BASELINE, LINE_X_HEIGHT, TextImage
from utils.training import make_generator

WORDS_A_LINE = 1000  # room for the words' numbers in the noise of a line
LINE_SOURCES = ("model", "words")  # what draws a line: the model as one text, or its words one by one
DEFAULT_LENGTH = 50.0  # mean characters of a line; 49 is the median of Copiste d'un jour's pages
_PAGE_SALT = 0xB0


def choose_line_source(given: str | None, config: CheckpointConfig) -> str:
    """One of ``LINE_SOURCES``: the given one, or what suits the model.

    Raises:
        UserError: if lines are wanted of a model that can't write a space.
    """
    if given == "model" and " " not in config.charset.characters:
        raise UserError("--line_from model: this model knows words alone, no space. Give --line_from words.")
    return given or ("model" if config.writes_lines else "words")


class LinesFromWords:
    """Writes lines where a pipeline writes words; what samples with a pipeline can sample with this.

    Attributes:
        style: how the words stand; its height is that of the model's images.
    """

    def __init__(
        self, pipeline: HandwritingPipeline, *, words_at_once: int, style: LineStyle | None = None
    ) -> None:
        """Wrap a pipeline.

        Args:
            words_at_once: words that are drawn together; does not change them.
            style: by default the measured one, at the height of the pipeline's images.
        """
        self.pipeline = pipeline
        self.style = style or replace(LineStyle(), height=pipeline.config.img_size[0])
        self._words_at_once = words_at_once

    @property
    def config(self) -> CheckpointConfig:
        """The pipeline's."""
        return self.pipeline.config

    def check(self, texts: Sequence[str], writers: Sequence) -> None:
        """Check that the model can write every word; see ``HandwritingPipeline.check``.

        Raises:
            ValueError: names the first that it can't.
        """
        for text in texts:
            if len(text.split()) > WORDS_A_LINE:
                raise UserError(
                    f"{text[:40]!r}…: {len(text.split())} words; a line has at most {WORDS_A_LINE}"
                )
        self.pipeline.check([word for text in texts for word in text.split()], writers)

    def canvas_widths(self, texts: Sequence[str], writers: Sequence, **drawing: object) -> np.ndarray:
        """(N,) sum of the expected widths of the canvases of each line's words, pixels.

        Args:
            drawing: what fixes the words' drawings; it moves the sums little and is left aside.
        """
        lines = [
            self.pipeline.canvas_widths(text.split(), [writer] * len(text.split()))
            for text, writer in zip(texts, writers, strict=True)
        ]
        return np.array([widths.sum() for widths in lines])

    def __call__(
        self,
        texts: Sequence[str],
        writers: Sequence,
        *,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        variation: float = DEFAULT_VARIATION,
        **how: object,
    ) -> list[np.ndarray]:
        """Write one line a text.

        Args:
            indices: the lines' numbers, which with ``seed`` fix the noise, spaces and heights.
            variation: of the words; see ``HandwritingPipeline.__call__``.
            how: further arguments of ``HandwritingPipeline.__call__``.
        Returns:
            (H, W) uint8 each, as wide as its ink, a multiple of 8.
        """
        indices = list(range(len(texts)) if indices is None else indices)
        words = [
            (word, writer, index * WORDS_A_LINE + number)
            for text, writer, index in zip(texts, writers, indices, strict=True)
            for number, word in enumerate(text.split())
        ]
        drawn = iter(self._draw(words, {"seed": seed, "variation": variation}, how))
        lines = []
        for text, index in zip(texts, indices, strict=True):
            of_line = text.split()
            images = [next(drawn) for _ in of_line]
            rng = np.random.default_rng([seed, index])
            lines.append(place_words(images, of_line, self.style, rng).image)
        return lines

    def _draw(self, words: Sequence[tuple], drawing: Mapping, how: Mapping) -> list[np.ndarray]:
        """The words' images; words on canvases of one width are drawn together."""
        texts, writers, indices = zip(*words, strict=True)
        order = np.argsort(
            self.pipeline.canvas_widths(texts, writers, indices=indices, **drawing), kind="stable"
        )
        images: list[np.ndarray | None] = [None] * len(words)
        for first in range(0, len(order), self._words_at_once):
            chunk = order[first : first + self._words_at_once]
            drawn = self.pipeline(
                [texts[i] for i in chunk],
                [writers[i] for i in chunk],
                indices=[indices[i] for i in chunk],
                **drawing,
                **how,
            )
            for i, image in zip(chunk, drawn, strict=True):
                images[i] = image
        return images


def line_rows(drawer: HandwritingPipeline | LinesFromWords) -> tuple[float, float]:
    """Row of the baseline and height of a small letter in the lines that are drawn, pixels."""
    if isinstance(drawer, LinesFromWords):
        return drawer.style.baseline, drawer.style.x_height
    height = drawer.config.img_size[0]
    return LINE_BASELINE * height, LINE_X_HEIGHT * height


def jobs_of_corpus(
    paragraphs: Sequence[str],
    pipeline: HandwritingPipeline,
    writers: Sequence[Style] | None,
    *,
    length: float,
    seed: int,
    statistics: LayoutStatistics | None = None,
    line_from: str = "words",
) -> JobList:
    """A corpus as lines, each text once, in the order of the corpus.

    Args:
        writers: names or mixes, which take turns, line by line or page by page; None draws one for each.
        length: of a line, in mean widths of a character in the mean hand; a wide hand's lines have fewer
            characters.
        statistics: of pages; the lines of a page are of one hand, and the job's record says which page
            (``page``) it stands on. None is single lines.
        line_from: one of ``LINE_SOURCES``; lines that the model draws as one text are never longer than it
            can.
    """
    known = pipeline.config.writers
    rng = np.random.default_rng([seed, _PAGE_SALT])
    pages: list[int] = []

    def page_of(number: int) -> int:
        while len(pages) <= number:
            count = (
                draw_line_count(statistics, np.random.default_rng([seed, _PAGE_SALT, len(pages)]))
                if statistics
                else 1
            )
            pages.extend([(pages[-1] + 1) if pages else 0] * count)
        return pages[number]

    def style_of(number: int) -> Style:
        page = page_of(number)
        if writers is None:
            return known[
                int(torch.randint(len(known), (1,), generator=make_generator("cpu", seed, page, 0xAD)))
            ]
        return writers[page % len(writers)]

    widths = pipeline.config.width_model

    @lru_cache(maxsize=1)
    def shares_of(number: int) -> dict[str, float]:
        style = style_of(number)
        return {style: 1.0} if isinstance(style, str) else dict(style)

    @lru_cache(maxsize=1)
    def width_of(number: int) -> Callable[[str], float]:
        return word_width(widths, shares_of(number))

    def fits(number: int, text: str) -> bool:
        is_short = len(text) <= pipeline.unet.config.max_length
        return is_short and (widths is None or widths.has_room(text, shares_of(number)))

    limits = {"fits": fits} if line_from == "model" else {}
    jobs = []
    for number, text in enumerate(break_lines(paragraphs, width_of, length=length, rng=rng, **limits)):
        style = style_of(number)
        name = describe_style(style)
        if statistics:
            page = f"page-{page_of(number):06d}"
            record = TextImage(file_name=f"{page}-{number:06d}", text=text, writer=name, extra={"page": page})
        else:
            record = TextImage(
                file_name=f"{IMAGE_FOLDER}/{number:06d}-{slug(text)}-{slug(name)}.png", text=text, writer=name
            )
        jobs.append(Job(index=number, record=record, writer=style))
    return JobList.of(jobs)
