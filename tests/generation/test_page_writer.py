"""Pages of lines: layout, picture, PAGE and ALTO, read by a small parser; resuming."""

import csv
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from generation.page_layout import LayoutStatistics, draw_line_count, plan_page
from generation.page_writer import PageLine, PageWriter
from generation.paper import find_papers, lay_on_paper
from tests.helpers import draw_word, hash_tree

TEXTS = ("Tom & Ann", "a < b > c", 'he said "no"', "où est l'été ?", "]]> <!-- x", "last")


def make_line(text: str) -> PageLine:
    """A line whose ink begins at row 10; its baseline is where the ink of `last` ends."""
    image = draw_word(text, font_size=30, margin=10)
    baseline = 10 + draw_word("last", font_size=30, margin=0).shape[0]
    return PageLine(image=image, text=text, baseline=float(baseline), x_height=16.0, extra={"cer": 0.5})


LINES = [make_line(text) for text in TEXTS]


def write_page(folder: Path, xml_format: str, **settings) -> Path:
    writer = PageWriter(folder, xml_format=xml_format, **settings)
    writer.write("page-000000", LINES, "hand 1")
    return folder / "page-000000.xml"


def read_page(path: Path) -> list[dict]:
    """Lines of a PAGE or ALTO file, by local names: text, polygon and baseline as (N, 2) arrays."""
    root = ET.parse(path).getroot()
    found = []
    for line in root.iter():
        if not line.tag.endswith("}TextLine"):
            continue
        inside = {element.tag.split("}")[1]: element for element in line.iter()}
        if "Coords" in inside:
            text = inside["Unicode"].text
            strings = [inside["Coords"].get("points"), inside["Baseline"].get("points")]
        else:
            text = inside["String"].get("CONTENT")
            strings = [inside["Polygon"].get("POINTS"), line.get("BASELINE")]
        points = [np.array(re.findall(r"-?\d+", value), int).reshape(-1, 2) for value in strings]
        found.append({"text": text, "polygon": points[0], "baseline": points[1]})
    return found


@pytest.mark.parametrize("xml_format", ["page", "alto"])
def test_a_page_read_again_has_the_same_texts_in_order(tmp_path, xml_format):
    lines = read_page(write_page(tmp_path, xml_format))
    assert [line["text"] for line in lines] == list(TEXTS)
    rows = [line["baseline"][:, 1].mean() for line in lines]
    assert rows == sorted(rows)


@pytest.mark.parametrize("xml_format", ["page", "alto"])
def test_a_polygon_holds_all_ink_of_its_line_and_all_polygons_all_ink(tmp_path, xml_format):
    import cv2

    path = write_page(tmp_path, xml_format, statistics=LayoutStatistics(slope=(2.0, 0.0)))
    page = np.asarray(Image.open(path.with_suffix(".png")))
    inside = np.zeros_like(page)
    for line in read_page(path):
        cv2.fillPoly(inside, [line["polygon"].astype(np.int32)], 1)
    assert (page < 200).sum() > 1000
    assert (page[inside == 0] < 200).sum() == 0


def test_the_baseline_carries_the_letters(tmp_path):
    """Just above it there is much ink, just below it little."""
    path = write_page(tmp_path, "page", statistics=LayoutStatistics(slope=(0.0, 0.0), slope_unsteadiness=0.0))
    page = np.asarray(Image.open(path.with_suffix(".png")))
    (left, row), (right, _) = read_page(path)[5]["baseline"]
    assert (page[row - 4 : row, left:right] < 128).sum() > 3 * (
        page[row + 2 : row + 6, left:right] < 128
    ).sum()


@pytest.mark.parametrize("xml_format", ["page", "alto"])
def test_the_file_names_its_picture_and_its_size(tmp_path, xml_format):
    path = write_page(tmp_path, xml_format)
    image = Image.open(path.with_suffix(".png"))
    text = path.read_text(encoding="utf-8")
    assert "page-000000.png" in text and f'idth="{image.width}"' in text.replace("WIDTH", "Width")
    assert ("MeasurementUnit>pixel<" in text) == (xml_format == "alto")
    assert "hand 1" in text


def test_page_orders_regions_and_lines(tmp_path):
    root = ET.parse(write_page(tmp_path, "page")).getroot()
    namespace = {"p": "http://schema.primaresearch.org/PAGE/gts/pagecontent/2019-07-15"}
    region = root.find("p:Page/p:TextRegion", namespace)
    assert root.find(".//p:RegionRefIndexed", namespace).get("regionRef") == region.get("id")
    customs = [line.get("custom") for line in region.findall("p:TextLine", namespace)]
    assert customs == [f"readingOrder {{index:{i};}}" for i in range(len(TEXTS))]


def test_alto_orders_lines(tmp_path):
    root = ET.parse(write_page(tmp_path, "alto")).getroot()
    references = [element.get("REF") for element in root.iter() if element.tag.endswith("}ElementRef")]
    lines = [element.get("ID") for element in root.iter() if element.tag.endswith("}TextLine")]
    assert references == lines and len(lines) == len(TEXTS)


def test_a_page_depends_on_its_lines_name_and_seed_alone(tmp_path):
    write_page(tmp_path / "a", "page", seed=3)
    writer = PageWriter(tmp_path / "b", xml_format="page", seed=3)
    writer.write("page-000009", LINES[:2], "other")
    writer.write("page-000000", LINES, "hand 1")
    write_page(tmp_path / "c", "page", seed=4)
    one, other, third = (hash_tree(tmp_path / name) for name in "abc")
    assert all(other[name] == value for name, value in one.items())
    assert third["page-000000.png"] != one["page-000000.png"]


def test_a_job_is_finished_when_all_its_pages_are_there(tmp_path):
    names = ["page-000000", "page-000001"]
    first = PageWriter(tmp_path, xml_format="page")
    first.write(names[0], LINES, "b, the second")
    assert not first.finish(names) and not (tmp_path / "pages.jsonl").exists()
    again = PageWriter(tmp_path, xml_format="page")  # as after a kill
    assert again.has_page(names[0]) and not again.has_page(names[1])
    again.write(names[1], LINES[:2], "a")
    assert again.finish(names)
    notes = [json.loads(line) for line in (tmp_path / "pages.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [note["file_name"] for note in notes] == ["page-000000.png", "page-000001.png"]
    assert notes[1]["lines"] == [{"cer": 0.5, "text": text} for text in TEXTS[:2]]
    with (tmp_path / "writers.csv").open(encoding="utf-8") as file:
        assert list(csv.reader(file)) == [
            ["page", "writer"],
            ["page-000000", "b, the second"],
            ["page-000001", "a"],
        ]
    assert {path.suffix for path in tmp_path.iterdir()} == {".png", ".xml", ".jsonl", ".csv"}


def test_a_page_is_there_only_when_its_note_is(tmp_path, monkeypatch):
    import generation.page_writer as module

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_atomically", stop)
    writer = PageWriter(tmp_path, xml_format="page")
    with pytest.raises(KeyboardInterrupt):
        writer.write("page-000000", LINES, "a")
    assert not writer.has_page("page-000000")


def test_a_page_whose_picture_was_lost_is_to_be_written_again(tmp_path):
    writer = PageWriter(tmp_path, xml_format="page")
    writer.write("page-000000", LINES, "a")
    (tmp_path / "page-000000.png").write_bytes((tmp_path / "page-000000.png").read_bytes()[:200])
    assert not writer.has_page("page-000000")


def test_a_page_without_lines_is_done_and_has_no_files(tmp_path):
    writer = PageWriter(tmp_path, xml_format="page")
    writer.write("page-000000", [], "a")
    writer.write("page-000001", LINES, "a")
    assert writer.finish(["page-000000", "page-000001"])
    assert len((tmp_path / "pages.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    assert not (tmp_path / "page-000000.png").exists()


def test_a_character_that_xml_can_not_hold_is_named(tmp_path):
    line = PageLine(image=LINES[0].image, text="bell\a", baseline=20.0, x_height=16.0)
    with pytest.raises(ValueError, match=r"XML can't hold the character '\\x07'"):
        PageWriter(tmp_path, xml_format="page").write("page-000000", [line], "a")


# Layout


@pytest.mark.parametrize("seed", range(20))
def test_every_line_lies_on_the_page(seed):
    rng = np.random.default_rng(seed)
    widths = rng.uniform(20, 3000, 30)
    plan = plan_page(widths, 20.0, LayoutStatistics(), rng)
    ends = plan.starts + np.stack([widths, widths * np.tan(np.radians(plan.slopes))], axis=1)
    for points in (plan.starts, ends):
        assert (points[:, 0] > 0).all() and (points[:, 0] < plan.width).all()
        assert (points[:, 1] > 20).all() and (points[:, 1] < plan.height - 20).all()


def test_pages_have_the_statistics_that_they_are_drawn_from():
    statistics = LayoutStatistics()
    plans = [plan_page(np.full(20, 500.0), 20.0, statistics, np.random.default_rng(i)) for i in range(300)]
    distances = np.array([np.diff(plan.starts[:, 1]).mean() for plan in plans])
    assert distances.mean() == pytest.approx(20.0 / statistics.x_height, rel=0.02)
    assert np.mean([plan.slopes.mean() for plan in plans]) == pytest.approx(statistics.slope[0], abs=0.05)
    lefts = np.array([plan.starts[:, 0].min() / plan.width for plan in plans])
    assert lefts.mean() == pytest.approx(statistics.left_margin[0], abs=0.01)
    counts = [draw_line_count(statistics, np.random.default_rng(i)) for i in range(300)]
    assert np.mean(counts) == pytest.approx(statistics.lines[0], abs=0.5)


# Paper


def test_ink_darkens_paper_and_leaves_it_between(tmp_path):
    paper = np.full((50, 40, 3), (200, 180, 160), np.uint8)
    Image.fromarray(paper).save(tmp_path / "paper.png")
    page = np.full((120, 80), 255, np.uint8)
    page[50:60, 20:60] = 51
    laid = lay_on_paper(page, tmp_path / "paper.png")
    assert laid.shape == (120, 80, 3)
    assert laid[0, 0].tolist() == [200, 180, 160] and laid[55, 40].tolist() == [40, 36, 32]


def test_papers_of_a_folder_take_turns_by_lot(tmp_path):
    (tmp_path / "papers").mkdir()
    for grey in (150, 250):
        Image.new("L", (30, 30), grey).save(tmp_path / "papers" / f"{grey}.png")
    writer = PageWriter(tmp_path / "out", xml_format="page", papers=find_papers(tmp_path / "papers"))
    for number in range(6):
        writer.write(f"page-{number:06d}", LINES[:1], "a")
    corners = {Image.open(path).getpixel((0, 0)) for path in (tmp_path / "out").glob("*.png")}
    assert corners == {150, 250}


def test_a_paper_that_is_none_is_named(tmp_path):
    (tmp_path / "paper.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"--paper .*paper.png: not a readable picture"):
        lay_on_paper(np.full((9, 9), 255, np.uint8), tmp_path / "paper.png")
    with pytest.raises(ValueError, match=r"--paper .*nowhere: no picture there"):
        find_papers(tmp_path / "nowhere")
