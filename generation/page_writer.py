"""Pages of lines: pictures with PAGE or ALTO beside them, each page whole or not there.

writer = PageWriter(folder, xml_format="page", statistics=LayoutStatistics(), seed=0)
writer.write("page-000000", lines)
writer.finish()
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from generation.page_layout import LayoutStatistics, PagePlan, plan_page
from generation.page_xml import XML_FORMATS, LineRegion, unwritable_characters
from generation.paper import lay_on_paper
from utils.errors import UserError
from utils.images import INK, WHITE
from utils.json_files import read_json
from utils.output import is_whole_png, save_image, write_atomically

PAGES_NAME = "pages.jsonl"
WRITERS_NAME = "writers.csv"


@dataclass(frozen=True, kw_only=True)
class PageLine:
    """A line to be put on a page.

    Attributes:
        image: (H, W) uint8, ink on white.
        text: what it says.
        baseline: row of the baseline, pixels from the image's top.
        x_height: height of a small letter, pixels.
        extra: further fields for the manifest, such as scores.
    """

    image: np.ndarray
    text: str
    baseline: float
    x_height: float
    extra: Mapping[str, object] = field(default_factory=dict)


class PageWriter:
    """Writes pages of one hand each: ``NAME.png``, ``NAME.xml``, and at the end ``pages.jsonl`` (each page's
    writer, lines, texts and scores) and ``writers.csv`` (page, writer).

    A page depends on its lines, its name and the seed alone, so that an interrupted job goes on page by page.
    """

    def __init__(
        self,
        folder: Path,
        *,
        xml_format: str,
        statistics: LayoutStatistics | None = None,
        papers: Sequence[Path] = (),
        seed: int = 0,
    ) -> None:
        """Make a writer; the folder is made by the first page.

        Args:
            xml_format: ``page`` or ``alto``.
            statistics: how lines stand on pages; by default as on pages of today's volunteers.
            papers: pictures of empty paper, one drawn for each page; none is white.
            seed: of the layout and the choice of paper.
        """
        self.folder = folder
        self._make_xml = XML_FORMATS[xml_format]
        self._statistics = statistics or LayoutStatistics()
        self._papers = list(papers)
        self._seed = seed

    def has_page(self, name: str) -> bool:
        """Whether a page is there, whole, or was found to have no lines."""
        if not self._note(name).is_file():
            return False
        has_files = (self.folder / f"{name}.xml").is_file() and is_whole_png(self.folder / f"{name}.png")
        return has_files or not read_json(self._note(name))["lines"]

    def write(self, name: str, lines: Sequence[PageLine], writer: str, *, split: str = "train") -> None:
        """Write a page.

        Args:
            name: file name without suffix.
            lines: in reading order; where there is none the page is noted as done, and has no files.
            writer: the hand of all of them.
        Raises:
            UserError: if a text holds a character that XML can't hold, or the paper can't be read.
        """
        for line in lines:
            if unwritable := unwritable_characters(line.text):
                raise UserError(
                    f"{line.text!r}: XML can't hold the character {unwritable[0]!r}. Take it out of the text."
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        if lines:
            self._write_files(name, lines, writer)
        note = {
            "file_name": f"{name}.png",
            "writer": writer,
            "split": split,
            "seed": self._seed,
            "lines": [{**line.extra, "text": line.text} for line in lines],
        }
        # Last: its presence says that the page is whole.
        write_atomically(self._note(name), json.dumps(note, ensure_ascii=False))

    def _write_files(self, name: str, lines: Sequence[PageLine], writer: str) -> None:
        rng = np.random.default_rng([self._seed, *hashlib.sha256(name.encode()).digest()])
        widths = np.array([line.image.shape[1] for line in lines], np.float64)
        x_height = float(np.median([line.x_height for line in lines]))
        plan = plan_page(widths, x_height, self._statistics, rng)
        page, regions = compose_page(lines, plan)
        if self._papers:
            page = lay_on_paper(page, self._papers[int(rng.integers(len(self._papers)))])
        save_image(page, self.folder / f"{name}.png")
        xml = self._make_xml(f"{name}.png", (plan.width, plan.height), regions, writer)
        write_atomically(self.folder / f"{name}.xml", xml)

    def finish(self, names: Sequence[str]) -> bool:
        """Put the pages' notes together, once all pages of the job are there; False while some are missing.

        Args:
            names: of all pages of the job, in order.
        """
        if not all(self.has_page(name) for name in names):
            return (self.folder / PAGES_NAME).is_file()
        texts = [self._note(name).read_text(encoding="utf-8") for name in names]
        notes = [text for text in texts if json.loads(text)["lines"]]
        pages = [json.loads(note) for note in notes]
        rows = [f"{Path(page['file_name']).stem},{_csv_field(page['writer'])}\n" for page in pages]
        write_atomically(self.folder / WRITERS_NAME, "page,writer\n" + "".join(rows))
        write_atomically(self.folder / PAGES_NAME, "".join(note + "\n" for note in notes))
        for name in names:
            self._note(name).unlink(missing_ok=True)
        return True

    def _note(self, name: str) -> Path:
        return self.folder / f".{name}.json"


def compose_page(lines: Sequence[PageLine], plan: PagePlan) -> tuple[np.ndarray, list[LineRegion]]:
    """Lay lines on a white page.

    Returns:
        (H, W) uint8 page, and where each line lies.
    """
    page = np.full((plan.height, plan.width), WHITE, np.uint8)
    regions = []
    for line, start, slope in zip(lines, plan.starts, plan.slopes, strict=True):
        matrix = _placement(line.baseline, start, slope)
        height, width = line.image.shape
        corners = _transform(matrix, np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float64))
        left, top = np.maximum(np.floor(corners.min(axis=0)).astype(int), 0)
        right, bottom = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 1, (plan.width, plan.height))
        local = matrix.copy()
        local[:, 2] -= (left, top)
        size = (int(right - left), int(bottom - top))
        drawn = cv2.warpAffine(line.image, local, size, flags=cv2.INTER_CUBIC, borderValue=WHITE)
        part = page[top:bottom, left:right]
        part[:] = (part.astype(np.uint16) * drawn // WHITE).astype(np.uint8)
        regions.append(_locate(line, matrix, (plan.width, plan.height)))
    return page, regions


def _placement(baseline: float, start: np.ndarray, slope: float) -> np.ndarray:
    """(2, 3) affine map from a line's image to the page: the baseline's left end comes to ``start``."""
    cosine, sine = np.cos(np.radians(slope)), np.sin(np.radians(slope))
    x, y = start
    return np.array([[cosine, -sine, x + sine * baseline], [sine, cosine, y - cosine * baseline]])


def _transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def _locate(line: PageLine, matrix: np.ndarray, size: tuple[int, int]) -> LineRegion:
    """A line's polygon and baseline on the page, in whole pixels inside of it."""
    left, right = _ink_ends(line.image)
    outline = _outline(line, left, right)
    baseline = np.array([(left, line.baseline), (right, line.baseline)])

    def to_page(points: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(_transform(matrix, points)), 0, np.array(size) - 1).astype(np.int64)

    return LineRegion(text=line.text, polygon=to_page(outline), baseline=to_page(baseline))


def _ink_ends(image: np.ndarray) -> tuple[int, int]:
    columns = np.flatnonzero((image < INK).any(axis=0))
    return (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, image.shape[1])


def _outline(line: PageLine, left: int, right: int) -> np.ndarray:
    """(N, 2) points around the ink: along its upper edge from left to right, along its lower one back.

    In pieces about as wide as two letters, at least from the baseline to the top of the small letters, with
    a margin.
    """
    margin = max(2.0, line.x_height / 6)
    count = max(1, round((right - left) / (2 * line.x_height)))
    borders = np.linspace(left, right, count + 1)
    tops = np.full(count, line.baseline - line.x_height)
    bottoms = np.full(count, line.baseline)
    for piece in range(count):
        part = line.image[:, int(borders[piece]) : int(np.ceil(borders[piece + 1]))]
        rows = np.flatnonzero((part < INK).any(axis=1))
        if len(rows):
            tops[piece] = min(tops[piece], rows[0])
            bottoms[piece] = max(bottoms[piece], rows[-1] + 1)
    # At a border the further of both sides, so that the straight line between two borders cuts off nothing.
    upper = np.minimum(np.r_[tops, np.inf], np.r_[np.inf, tops]) - margin
    lower = np.maximum(np.r_[bottoms, -np.inf], np.r_[-np.inf, bottoms]) + margin
    borders[[0, -1]] += (-margin, margin)
    return np.concatenate([np.stack([borders, upper], axis=1), np.stack([borders, lower], axis=1)[::-1]])


def _csv_field(value: str) -> str:
    return '"' + value.replace('"', '""') + '"' if any(c in value for c in ',"\n') else value
