"""A sheet: a text of one or many lines in one hand, drawn line by line, kept as a picture or a zip file.

jobs = plan_sheet("Dear Anna,\nthank you for the letter.", pipeline, "damion", seed=0)
for sheet in draw_sheet(pipeline, jobs, SamplingSettings()):
    Path("sheet.png").write_bytes(sheet.as_png())
"""

import io
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from diffusion.hand_making import read_line
from diffusion.pipeline import HandwritingPipeline
from generation.jobs import Job, JobList, Style
from generation.page_layout import LayoutStatistics
from generation.page_writer import PageLine, PageWriter
from generation.sampling import SamplingSettings, write_variant
from generation.word_lines import LinesFromWords, choose_line_source, jobs_of_corpus, line_rows
from utils.charset import normalise_texts
from utils.errors import UserError
from utils.images import WHITE
from utils.output import encode_png, save_image
from utils.text_images import IMAGE_FOLDER, write_metadata

MOST_CHARACTERS = 4000  # of a sheet's text
MOST_LINES = 40  # of a sheet
LINE_LENGTH = 40.0  # mean characters; shorter than on paper, so that the first line is there at once
SHOWN_FAULTS = 12  # characters that a message names
_DATE = (1980, 1, 1, 0, 0, 0)  # of files in a zip: the same sheet is the same file


# What is written
# ------------------------------------------------------------------------------------------------------------


def find_faults(text: str, pipeline: HandwritingPipeline) -> list[str]:
    """What of a text a model can't write, in sentences; none if it can write all of it."""
    longest, charset = pipeline.unet.config.max_length, pipeline.config.charset
    lines = normalise_texts(text[:MOST_CHARACTERS].splitlines())
    faults = []
    if not lines:
        faults.append("There is nothing to write yet.")
    if len(text) > MOST_CHARACTERS:
        faults.append(f"The text has {len(text):,} characters; a sheet takes {MOST_CHARACTERS:,}.")
    unknown = [character for character in charset.unknown("".join(lines)) if character != " "]
    if unknown:
        more = f" and {len(unknown) - SHOWN_FAULTS} more" if len(unknown) > SHOWN_FAULTS else ""
        faults.append(f"The model has no letter for: {'  '.join(unknown[:SHOWN_FAULTS])}{more}")
    words = [word for line in lines for word in line.split()]
    if long := next((word for word in words if len(word) > longest), None):
        faults.append(
            f"The word “{long[:24]}…” has {len(long)} characters; the model writes at most {longest} at once."
        )
    return faults


def plan_sheet(text: str, pipeline: HandwritingPipeline, style: Style, *, seed: int) -> JobList:
    """The lines of a sheet; long ones are broken where a writer would break them.

    Args:
        style: a writer of the pipeline by name, or shares of several.
    Raises:
        UserError: if the model can't write the text, the hand is unknown, or these are too many lines.
    """
    if faults := find_faults(text, pipeline):
        raise UserError(" ".join(faults))
    pipeline.check([], [style])
    jobs = jobs_of_corpus(
        normalise_texts(text.splitlines()),
        pipeline,
        [style],
        length=LINE_LENGTH,
        seed=seed,
        line_from=choose_line_source(None, pipeline.config),
    )
    if len(jobs) > MOST_LINES:
        raise UserError(f"The text has {len(jobs)} lines; a sheet takes {MOST_LINES}.")
    return jobs


# Drawing
# ------------------------------------------------------------------------------------------------------------


def draw_sheet(
    pipeline: HandwritingPipeline, jobs: Sequence[Job], settings: SamplingSettings
) -> Iterator["Sheet"]:
    """Draw line by line: gives the sheet with each further line on it.

    The first line is drawn once and shown at once. If the model can't read it, it is drawn again later.
    """
    is_whole = choose_line_source(None, pipeline.config) == "model"
    drawer = pipeline if is_whole else LinesFromWords(pipeline, words_at_once=settings.batch_size)
    baseline, x_height = line_rows(drawer)
    sheet = Sheet(jobs=tuple(jobs), images=(), baseline=baseline, x_height=x_height, seed=settings.seed)
    for number, job in enumerate(jobs):
        is_first = number == 0 and settings.redraws is None
        image = write_variant(drawer, [job], replace(settings, redraws=0) if is_first else settings)[0]
        sheet = replace(sheet, images=(*sheet.images, image))
        yield sheet
    first = jobs[0]
    if pipeline.latent_recogniser is None or settings.redraws is not None:
        return
    if read_line(pipeline, sheet.images[0]) != first.record.text:
        image = write_variant(drawer, [first], settings)[0]
        yield replace(sheet, images=(image, *sheet.images[1:]))


# What it can be kept as
# ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """The lines of a sheet that are drawn so far.

    Attributes:
        jobs: of all lines.
        images: (H, w) uint8 each, ink on white, of the first lines.
        baseline, x_height: row of the baseline and height of small letters in them, pixels.
        seed: of the drawing, and of a page's layout.
    """

    jobs: tuple[Job, ...]
    images: tuple[np.ndarray, ...]
    baseline: float
    x_height: float
    seed: int

    @property
    def texts(self) -> list[str]:
        """What the drawn lines say."""
        return [job.record.text for job in self.jobs[: len(self.images)]]

    def as_png(self) -> bytes:
        """The lines below one another on white, as a PNG file."""
        height, margin = self.images[0].shape[0], self.images[0].shape[0] // 2
        width = max(image.shape[1] for image in self.images) + 2 * margin
        sheet = np.full((height * len(self.images) + 2 * margin, width), WHITE, np.uint8)
        for number, image in enumerate(self.images):
            top = margin + number * height
            sheet[top : top + height, margin : margin + image.shape[1]] = image
        return encode_png(sheet)

    def as_text_images(self) -> bytes:
        """A folder of text images, in a zip file."""
        return _zip(self._write_text_images)

    def as_pages(self) -> bytes:
        """Pages with PAGE beside them, in a zip file."""
        return _zip(self._write_pages)

    def _write_text_images(self, folder: Path) -> None:
        (folder / IMAGE_FOLDER).mkdir()
        records = [job.record for job in self.jobs[: len(self.images)]]
        for record, image in zip(records, self.images, strict=True):
            save_image(image, folder / record.file_name)
        write_metadata(folder, records)

    def _write_pages(self, folder: Path) -> None:
        lines = [
            PageLine(image=image, text=text, baseline=self.baseline, x_height=self.x_height)
            for text, image in zip(self.texts, self.images, strict=True)
        ]
        writer = PageWriter(folder, xml_format="page", seed=self.seed)
        on_page = round(LayoutStatistics().lines[0])
        names = []
        for first in range(0, len(lines), on_page):
            names.append(f"page-{len(names):06d}")
            writer.write(names[-1], lines[first : first + on_page], self.jobs[0].record.writer)
        writer.finish(names)


def _zip(write: Callable[[Path], None]) -> bytes:
    """What ``write`` puts into a folder, as a zip file."""
    buffer = io.BytesIO()
    with TemporaryDirectory(prefix="sheet-") as name, zipfile.ZipFile(buffer, "w") as archive:
        folder = Path(name)
        write(folder)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _DATE)
                archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
