"""Transcribed pages drawn with Pillow's own font, described in the grammars of PAGE and ALTO."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

ALTO_4 = "http://www.loc.gov/standards/alto/ns-v4#"
PAGE_2019 = "http://schema.primaresearch.org/PAGE/gts/pagecontent/2019-07-15"
FONT_SIZE, LINE_DISTANCE, LEFT, FIRST = 40, 90, 40, 110
SIZE = (900, 640)  # (width, height) of a page
Box = tuple[int, int, int, int]


def draw_page(texts: Sequence[str], *, size: tuple[int, int] = SIZE, rules: int | None = None) -> Image.Image:
    """Lines of text on white paper, ``LINE_DISTANCE`` apart; rules of this grey along their baselines."""
    page = Image.new("L", size, 255)
    draw = ImageDraw.Draw(page)
    for i, text in enumerate(texts):
        base = FIRST + i * LINE_DISTANCE
        if rules is not None:
            draw.line((0, base, size[0], base), fill=rules, width=2)
        draw.text((LEFT, base), text, fill=20, font=ImageFont.load_default(size=FONT_SIZE), anchor="ls")
    return page


def line_of(number: int, text: str, **other) -> dict:
    """What ``draw_page`` draws as a line: outline, baseline and text; ``other`` replaces or adds keys."""
    base = FIRST + number * LINE_DISTANCE
    right = LEFT + int(ImageFont.load_default(size=FONT_SIZE).getlength(text or "x"))
    outline = [(LEFT - 5, base - 38), (right + 5, base - 38), (right + 5, base + 14), (LEFT - 5, base + 14)]
    line = {"id": f"l{number}", "text": text, "polygon": outline, "baseline": [(LEFT, base), (right, base)]}
    return line | other


def _points(points: Sequence, between: str = ",") -> str:
    return " ".join(f"{x}{between}{y}" for x, y in points)


def alto(lines: Sequence[Mapping], image: str, *, size: tuple = SIZE, namespace: str | None = ALTO_4) -> str:
    """An ALTO file; a line's ``strings`` are its words' texts and boxes, else its text is one String."""
    rows = []
    for line in lines:
        shape = (
            f'<Shape><Polygon POINTS="{_points(line["polygon"], " ")}"/></Shape>'
            if line.get("polygon")
            else ""
        )
        base = line.get("baseline") or ""
        base = base if isinstance(base, str) else _points(base, " ")
        strings = [_string(text, box) for text, box in line.get("strings", [(line["text"], None)])]
        rows.append(
            f'<TextLine ID="{line["id"]}" BASELINE="{base}">{shape}{"<SP/>".join(strings)}</TextLine>'
        )
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><alto {f"xmlns={namespace!r}" if namespace else ""}>'
        f"<Description><MeasurementUnit>pixel</MeasurementUnit><sourceImageInformation>"
        f"<fileName>{image}</fileName></sourceImageInformation></Description>"
        f'<Layout><Page WIDTH="{size[0]}" HEIGHT="{size[1]}"><PrintSpace>'
        f"<TextBlock>{''.join(rows)}</TextBlock></PrintSpace></Page></Layout></alto>"
    )


def _string(text: str, box: Box | None) -> str:
    place = "" if box is None else ' HPOS="{}" VPOS="{}" WIDTH="{}" HEIGHT="{}"'.format(*box)
    return f'<String CONTENT="{escape(text)}"{place}/>'


def page_xml(lines: Sequence[Mapping], image: str, *, size: tuple = SIZE, namespace: str = PAGE_2019) -> str:
    """A PAGE file, its lines in a region in a region; ``inside`` is put into a line's element as it is."""
    rows = []
    for line in lines:
        coords = f'<Coords points="{_points(line["polygon"])}"/>' if line.get("polygon") else ""
        base = f'<Baseline points="{_points(line["baseline"])}"/>' if line.get("baseline") else ""
        equivalent = (
            f"<TextEquiv><Unicode>{escape(line['text'])}</Unicode></TextEquiv>" if "text" in line else ""
        )
        custom = f' custom="{line["custom"]}"' if "custom" in line else ""
        content = coords + base + line.get("inside", "") + equivalent
        rows.append(f'<TextLine id="{line["id"]}"{custom}>{content}</TextLine>')
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><PcGts xmlns="{namespace}"><Page imageFilename="{image}" '
        f'imageWidth="{size[0]}" imageHeight="{size[1]}"><TextRegion id="r"><TextRegion id="s">'
        f"{''.join(rows)}</TextRegion></TextRegion></Page></PcGts>"
    )


def make_collection(root: Path, pages: Mapping[str, Sequence[str]], **drawing) -> None:
    """Pages in ``alto/NAME.xml`` and ``jpg/NAME.jpg``; ``pages`` are their lines' texts by name."""
    for folder in ("alto", "jpg"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, texts in pages.items():
        draw_page(texts, **drawing).save(root / "jpg" / f"{name}.jpg", quality=92)
        lines = [line_of(number, text) for number, text in enumerate(texts)]
        (root / "alto" / f"{name}.xml").write_text(alto(lines, f"{name}.jpg"), encoding="utf-8")


def ink_rows(image: np.ndarray) -> np.ndarray:
    """The rows of an image that have ink."""
    return np.flatnonzero((image < 128).any(axis=1))
