"""The XML beside a page's picture: PAGE 2019-07-15 or ALTO 4.3, with polygon, baseline, reading order and
text of each line.
"""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PAGE_NAMESPACE = "http://schema.primaresearch.org/PAGE/gts/pagecontent/2019-07-15"
ALTO_NAMESPACE = "http://www.loc.gov/standards/alto/ns-v4#"
_XSI = "http://www.w3.org/2001/XMLSchema-instance"
CREATOR = "DiffusionHTR"
# PAGE asks for a date; the same page must come out the same again.
_DATE = "2000-01-01T00:00:00"


@dataclass(frozen=True, kw_only=True)
class LineRegion:
    """A line on a page: its text, and (N, 2) points x, y in whole pixels of its polygon and its baseline.

    ``confidence`` is that of a recogniser that read the text, in [0, 1]; None for a text that is known.
    """

    text: str
    polygon: np.ndarray
    baseline: np.ndarray
    confidence: float | None = None


def unwritable_characters(text: str) -> list[str]:
    """The characters that XML 1.0 has no place for, each once."""
    return list(dict.fromkeys(c for c in text if not _is_xml_character(ord(c))))


def _is_xml_character(code: int) -> bool:
    return code in (0x9, 0xA, 0xD) or 0x20 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or code >= 0x10000


def make_page_xml(image_name: str, size: tuple[int, int], lines: Sequence[LineRegion], writer: str) -> bytes:
    """A PAGE document of one region.

    Args:
        image_name: of the picture, relative to the document.
        size: (width, height) of the picture, pixels.
        writer: noted in the metadata as the author.
    """
    root = ET.Element(
        "PcGts",
        {
            "xmlns": PAGE_NAMESPACE,
            "xmlns:xsi": _XSI,
            "xsi:schemaLocation": f"{PAGE_NAMESPACE} {PAGE_NAMESPACE}/pagecontent.xsd",
        },
    )
    metadata = ET.SubElement(root, "Metadata")
    for name, value in (("Creator", CREATOR), ("Created", _DATE), ("LastChange", _DATE)):
        ET.SubElement(metadata, name).text = value
    ET.SubElement(metadata, "MetadataItem", {"type": "author", "name": "writer", "value": writer})
    width, height = size
    page = ET.SubElement(
        root, "Page", {"imageFilename": image_name, "imageWidth": str(width), "imageHeight": str(height)}
    )
    group = ET.SubElement(ET.SubElement(page, "ReadingOrder"), "OrderedGroup", {"id": "order"})
    ET.SubElement(group, "RegionRefIndexed", {"index": "0", "regionRef": "region"})
    region = ET.SubElement(
        page, "TextRegion", {"id": "region", "type": "paragraph", "production": "handwritten-cursive"}
    )
    ET.SubElement(region, "Coords", {"points": _page_points(_box_points(lines, size))})
    for number, line in enumerate(lines):
        custom = f"readingOrder {{index:{number};}}"
        element = ET.SubElement(region, "TextLine", {"id": f"line-{number:03d}", "custom": custom})
        ET.SubElement(element, "Coords", {"points": _page_points(line.polygon)})
        ET.SubElement(element, "Baseline", {"points": _page_points(line.baseline)})
        known = {} if line.confidence is None else {"conf": f"{line.confidence:.3f}"}
        ET.SubElement(ET.SubElement(element, "TextEquiv", known), "Unicode").text = line.text
    text = "\n".join(line.text for line in lines)
    ET.SubElement(ET.SubElement(region, "TextEquiv"), "Unicode").text = text
    return _serialise(root)


def make_alto_xml(image_name: str, size: tuple[int, int], lines: Sequence[LineRegion], writer: str) -> bytes:
    """An ALTO document of one block, one ``String`` a line; arguments as of ``make_page_xml``."""
    root = ET.Element(
        "alto",
        {
            "xmlns": ALTO_NAMESPACE,
            "xmlns:xsi": _XSI,
            "xsi:schemaLocation": f"{ALTO_NAMESPACE} http://www.loc.gov/standards/alto/v4/alto-4-3.xsd",
        },
    )
    description = ET.SubElement(root, "Description")
    ET.SubElement(description, "MeasurementUnit").text = "pixel"
    ET.SubElement(ET.SubElement(description, "sourceImageInformation"), "fileName").text = image_name
    processing = ET.SubElement(description, "Processing", {"ID": "processing"})
    ET.SubElement(processing, "processingStepSettings").text = f"writer: {writer}"
    software = ET.SubElement(processing, "processingSoftware")
    ET.SubElement(software, "softwareName").text = CREATOR
    order = ET.SubElement(ET.SubElement(root, "ReadingOrder"), "OrderedGroup", {"ID": "order"})
    for number in range(len(lines)):
        ET.SubElement(order, "ElementRef", {"ID": f"order-{number:03d}", "REF": f"line-{number:03d}"})
    width, height = size
    whole = {"WIDTH": str(width), "HEIGHT": str(height)}
    page = ET.SubElement(
        ET.SubElement(root, "Layout"), "Page", {"ID": "page", "PHYSICAL_IMG_NR": "1", **whole}
    )
    space = ET.SubElement(page, "PrintSpace", {"HPOS": "0", "VPOS": "0", **whole})
    box = _box_points(lines, size)
    block = ET.SubElement(space, "TextBlock", {"ID": "block", **_alto_box(box)})
    _add_alto_polygon(block, box)
    for number, line in enumerate(lines):
        extent = _alto_box(line.polygon)
        attributes = {"ID": f"line-{number:03d}", "BASELINE": _alto_points(line.baseline), **extent}
        element = ET.SubElement(block, "TextLine", attributes)
        _add_alto_polygon(element, line.polygon)
        ET.SubElement(element, "String", {"ID": f"string-{number:03d}", "CONTENT": line.text, **extent})
    return _serialise(root)


XML_FORMATS = {"page": make_page_xml, "alto": make_alto_xml}


def _box_points(lines: Sequence[LineRegion], size: tuple[int, int]) -> np.ndarray:
    """(4, 2) corners of what holds all lines; of the page where there is none."""
    points = np.concatenate([line.polygon for line in lines]) if lines else np.array([(0, 0), size])
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def _page_points(points: np.ndarray) -> str:
    return " ".join(f"{x:d},{y:d}" for x, y in points.tolist())


def _alto_points(points: np.ndarray) -> str:
    return " ".join(f"{x:d} {y:d}" for x, y in points.tolist())


def _alto_box(points: np.ndarray) -> dict[str, str]:
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return {"HPOS": str(left), "VPOS": str(top), "WIDTH": str(right - left), "HEIGHT": str(bottom - top)}


def _add_alto_polygon(element: ET.Element, points: np.ndarray) -> None:
    ET.SubElement(ET.SubElement(element, "Shape"), "Polygon", {"POINTS": _alto_points(points)})


def _serialise(root: ET.Element) -> bytes:
    ET.indent(root)
    return ET.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"
