"""Generated lines into pages, each of one writer: the third place that inference writes to."""

from collections.abc import Sequence

from tqdm import tqdm

from generation.jobs import JobList
from generation.output_folder import Part
from generation.page_writer import PAGES_NAME, PageLine, PageWriter
from generation.sampling import Sampler


class PageSink:
    """Writes jobs as pages; the jobs' records say which page each line stands on.

    Args:
        jobs: lines of all parts, page by page; every ``part.count``-th page is this part's.
        baseline: row of it in the lines' images, pixels.
        x_height: of small letters there, pixels.
    """

    def __init__(
        self,
        page_writer: PageWriter,
        jobs: JobList,
        *,
        baseline: float,
        x_height: float,
        part: Part | None = None,
    ) -> None:
        self._page_writer, self._jobs = page_writer, jobs
        self._baseline, self._x_height = baseline, x_height
        self._part = part or Part()
        self._written = self._left_out = 0
        self._pages: dict[str, list[int]] = {}
        for number, job in enumerate(jobs):
            self._pages.setdefault(job.record.extra["page"], []).append(number)
        self._is_finished = False

    def write(self, sample: Sampler) -> int:
        """Write the pages of this part that are not there yet; returns the number of their lines."""
        self._is_finished = (self._page_writer.folder / PAGES_NAME).is_file()
        if self._is_finished:
            return 0
        pages = list(self._pages)[self._part.number :: self._part.count]
        for page in tqdm(pages, unit="page", desc="write"):
            if not self._page_writer.has_page(page):
                self._write_page(page, self._pages[page], sample)
        return self._written

    def _write_page(self, page: str, numbers: Sequence[int], sample: Sampler) -> None:
        jobs = self._jobs.select(numbers)
        drawn: dict[int, PageLine] = {}
        for batch, images, outcomes in sample(jobs):
            for job, image, outcome in zip(batch, images, outcomes or [None] * len(batch), strict=True):
                if image is None:
                    continue
                drawn[job.index] = PageLine(
                    image=image,
                    text=job.record.text,
                    baseline=self._baseline,
                    x_height=self._x_height,
                    extra={"index": job.index, **(outcome.scores if outcome else {})},
                )
        first = jobs[0].record
        lines = [drawn[index] for index in sorted(drawn)]
        self._page_writer.write(page, lines, first.writer, split=first.split)
        self._written += len(lines)
        self._left_out += len(jobs) - len(lines)

    def finish(self) -> str:
        """Put the pages' notes together, once the pages of all parts are there."""
        folder = self._page_writer.folder
        if self._is_finished:
            return f"finished    {folder} holds these pages already; --overwrite writes them anew"
        is_whole = self._page_writer.finish(list(self._pages))
        part = f" of part {self._part.describe()}" if self._part.count > 1 else ""
        message = f"wrote       {self._written} lines{part} to pages in {folder}"
        if not is_whole:
            message += "; other parts are still to be written"
        if self._left_out:
            message += f"\nleft out    {self._left_out} lines that the recogniser reads with too many errors"
        return message
