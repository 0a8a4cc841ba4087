"""Lines by a model of words: each word is drawn by itself, then all are put on a baseline."""

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
from utils.text_images import IMAGE_FOLDER, TextImage
from utils.training import make_generator

WORDS_A_LINE = 1000  # room for the words' numbers in the noise of a line
DEFAULT_LENGTH = 50.0  # mean characters of a line; 49 is the median of Copiste d'un jour's pages
_PAGE_SALT = 0xB0


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


def jobs_of_corpus(
    paragraphs: Sequence[str],
    pipeline: HandwritingPipeline,
    writers: Sequence[Style] | None,
    *,
    length: float,
    seed: int,
    statistics: LayoutStatistics | None = None,
) -> JobList:
    """A corpus as lines, each text once, in the order of the corpus.

    Args:
        writers: names or mixes, which take turns, line by line or page by page; None draws one for each.
        length: of a line, in mean widths of a character in the mean hand; a wide hand's lines have fewer
            characters.
        statistics: of pages; the lines of a page are of one hand, and the job's record says which page
            (``page``) it stands on. None is single lines.
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

    @lru_cache(maxsize=1)
    def width_of(number: int) -> Callable[[str], float]:
        style = style_of(number)
        shares = {style: 1.0} if isinstance(style, str) else dict(style)
        return word_width(pipeline.config.width_model, shares)

    jobs = []
    for number, text in enumerate(break_lines(paragraphs, width_of, length=length, rng=rng)):
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
