"""PAGE and ALTO files as one description of a page: where each line stands and what it says.

Namespaces of all years are read, since names are matched without them: PAGE from 2009 (points as elements) to
2019, ALTO 2 to 4. Entities are refused, so that nothing expands and nothing is fetched.

Source: https://github.com/PRImA-Research-Lab/PAGE-XML and https://www.loc.gov/standards/alto/.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

Points = tuple[tuple[float, float], ...]
ROOTS = {"PcGts": "PAGE", "alto": "ALTO"}
_HEAD = 4096  # bytes of a file that hold its first element
_STRUCK_STYLE = re.compile(r"textStyle\s*\{[^}]*strikethrough\s*:\s*true")
_STRUCK_MARKS = re.compile(r">[^<>]*<|<>|^[<>]+$")  # also as mistyped


class PageFileError(ValueError):
    """A file that can't be read as PAGE or ALTO."""


@dataclass(frozen=True, kw_only=True)
class TranscribedLine:
    """A line (or a word of one) as a PAGE or ALTO file has it, in the file's own units.

    ``polygon`` has three points or more, or is empty; ``baseline`` two or more, or is empty. ``words`` are
    the line's parts where the file has them one by one.
    """

    line_id: str
    text: str
    polygon: Points = ()
    baseline: Points = ()
    is_struck_out: bool = False
    words: tuple["TranscribedLine", ...] = ()


@dataclass(frozen=True, kw_only=True)
class TranscribedPage:
    """A page's lines in the file's order; ``width`` and ``height`` are the page's in the file's units, 0 if
    it is silent.
    """

    image_name: str
    width: float
    height: float
    lines: tuple[TranscribedLine, ...]


def page_format(path: Path) -> str | None:
    """``PAGE`` or ``ALTO`` by the file's first element, else None; reads no more than its head."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        head = head.decode("utf-16", errors="ignore").encode()
    match = re.search(rb"<(?:[\w.-]+:)?(PcGts|alto)[\s>]", head)
    return ROOTS[match[1].decode()] if match else None


def read_page(path: Path) -> TranscribedPage:
    """Read a PAGE or ALTO file.

    Raises:
        PageFileError: if it is neither, is broken, declares entities, or has no page.
        OSError: if it can't be opened.
    """
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import parse

    try:
        root = parse(path).getroot()
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise PageFileError(f"{path}: {error}") from error
    kind = ROOTS.get(_name(root))
    page = next((element for element in root.iter() if _name(element) == "Page"), None)
    if kind is None or page is None:
        raise PageFileError(f"{path}: no page of PAGE or ALTO")
    return _read_page_xml(page) if kind == "PAGE" else _read_alto(root, page)


def _name(element: Element) -> str:
    """An element's name without its namespace; empty for comments."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _children(element: Element, name: str) -> list[Element]:
    return [child for child in element if _name(child) == name]


def _numbers(text: str | None) -> list[float]:
    """The finite numbers of ``"x,y x,y"`` or ``"x y x y"``; none if anything else stands there."""
    try:
        values = [float(value) for value in re.split(r"[\s,]+", (text or "").strip()) if value]
    except ValueError:
        return []
    return values if all(map(math.isfinite, values)) else []


def _points(text: str | None, least: int) -> Points:
    """Points as ``_numbers`` reads them, without repetitions in a row; none if there are fewer than
    ``least``.
    """
    values = _numbers(text)
    pairs = list(zip(values[::2], values[1::2], strict=False))
    kept = tuple(pair for i, pair in enumerate(pairs) if i == 0 or pair != pairs[i - 1])
    return kept if len(kept) >= least else ()


def _number(text: str | None) -> float:
    values = _numbers(text)
    return values[0] if len(values) == 1 else 0.0


def _read_page_xml(page: Element) -> TranscribedPage:
    lines = [_page_xml_line(element) for element in page.iter() if _name(element) == "TextLine"]
    return TranscribedPage(
        image_name=page.get("imageFilename", ""),
        width=_number(page.get("imageWidth")),
        height=_number(page.get("imageHeight")),
        lines=tuple(lines),
    )


def _page_xml_line(element: Element) -> TranscribedLine:
    """A TextLine, or a Word of one: both hold their outline and text in the same way."""
    words = tuple(_page_xml_line(word) for word in _children(element, "Word"))
    text = _page_xml_text(element)
    if text is None:
        text = " ".join(word.text for word in words)
    return TranscribedLine(
        line_id=element.get("id", ""),
        text=text,
        polygon=_page_xml_points(element, "Coords", 3),
        baseline=_page_xml_points(element, "Baseline", 2),
        is_struck_out=_is_struck_out(text) or bool(_STRUCK_STYLE.search(element.get("custom", ""))),
        words=words,
    )


def _page_xml_points(element: Element, name: str, least: int) -> Points:
    for child in _children(element, name):
        points = child.get("points")
        if points is None:  # before 2013 each point is an element
            points = " ".join(f"{p.get('x')},{p.get('y')}" for p in _children(child, "Point"))
        return _points(points, least)
    return ()


def _page_xml_text(element: Element) -> str | None:
    """The text of the TextEquiv with the lowest index (of those without one, the first); None if there is
    none.
    """
    equivalents = _children(element, "TextEquiv")
    if not equivalents:
        return None
    # An alternative without index is the only one, or comes after those that have been ranked.
    best = min(equivalents, key=lambda e: _number(e.get("index")) if e.get("index") else math.inf)
    texts = _children(best, "Unicode") or _children(best, "PlainText")
    return "".join(texts[0].itertext()) if texts else ""


def _read_alto(root: Element, page: Element) -> TranscribedPage:
    names = [element.text or "" for element in root.iter() if _name(element) == "fileName"]
    lines = [_alto_line(element) for element in page.iter() if _name(element) == "TextLine"]
    return TranscribedPage(
        image_name=names[0].strip() if names else "",
        width=_number(page.get("WIDTH")),
        height=_number(page.get("HEIGHT")),
        lines=tuple(lines),
    )


def _alto_line(element: Element) -> TranscribedLine:
    strings = [child for child in element if _name(child) in ("String", "SP", "HYP")]
    has_spaces = any(_name(child) == "SP" for child in strings)
    parts = [" " if _name(child) == "SP" else child.get("CONTENT", "") for child in strings]
    text = ("" if has_spaces else " ").join(part for part in parts if part)
    if not has_spaces and strings and _name(strings[-1]) == "HYP":
        text = " ".join(parts[:-1]) + parts[-1]
    polygon, baseline = _alto_polygon(element), _numbers(element.get("BASELINE"))
    if len(baseline) == 1:  # before ALTO 4.1 a baseline is a height
        xs = [x for x, _ in polygon]
        line = ((min(xs), baseline[0]), (max(xs), baseline[0])) if xs else ()
    else:
        line = _points(element.get("BASELINE"), 2)
    words = tuple(_alto_word(child) for child in strings if _name(child) == "String")
    return TranscribedLine(
        line_id=element.get("ID", ""),
        text=text,
        polygon=polygon,
        baseline=line,
        is_struck_out=_is_struck_out(text),
        words=words,
    )


def _alto_word(element: Element) -> TranscribedLine:
    text = element.get("CONTENT", "")
    return TranscribedLine(
        line_id=element.get("ID", ""),
        text=text,
        polygon=_alto_polygon(element),
        is_struck_out=_is_struck_out(text),
    )


def _alto_polygon(element: Element) -> Points:
    """An element's outline, or its box where it has none."""
    for shape in _children(element, "Shape"):
        for polygon in _children(shape, "Polygon"):
            if points := _points(polygon.get("POINTS"), 3):
                return points
    box = [_numbers(element.get(name)) for name in ("HPOS", "VPOS", "WIDTH", "HEIGHT")]
    if not all(len(values) == 1 for values in box):
        return ()
    (x,), (y,), (width,), (height,) = box
    if width <= 0 or height <= 0:
        return ()
    return ((x, y), (x + width, y), (x + width, y + height), (x, y + height))


def _is_struck_out(text: str) -> bool:
    """True if something in the text stands between ``>`` and ``<``, as struck-out words are written."""
    return _STRUCK_MARKS.search(text) is not None
