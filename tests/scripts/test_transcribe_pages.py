"""Pages without texts: read, and written as PAGE with confidences; all else stays."""

import re

import pytest
import torch

from htr.crnn import CRNN, CRNNConfig
from preprocessing.readers.page_xml import read_page
from scripts.transcribe_pages import main, parse_args
from tests.preprocessing.page_files import alto, draw_page, line_of, page_xml
from utils.errors import UserError

TEXTS = ("cab fed", "abe deaf")


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recogniser")
    torch.manual_seed(0)
    config = CRNNConfig(characters=tuple("abcdef "), img_height=32, channels=(4, 8, 8, 8), hidden=8, layers=1)
    model = CRNN(config)
    with torch.no_grad():
        model.head.bias[1:] += 3  # so that it reads something everywhere
    model.save_pretrained(folder, {})
    return folder


@pytest.fixture
def pages(tmp_path):
    """A PAGE file with one text of two, an ALTO file without texts, and one with all of them."""
    folder = tmp_path / "pages"
    folder.mkdir()
    empty = [line_of(0, TEXTS[0]) | {"text": "kept"}, line_of(1, TEXTS[1]) | {"text": ""}]
    for name in ("one", "two", "three"):
        draw_page(TEXTS).save(folder / f"{name}.png")
    (folder / "one.xml").write_text(page_xml(empty, "one.png"))
    without = [line_of(number, text) | {"text": ""} for number, text in enumerate(TEXTS)]
    (folder / "two.xml").write_text(alto(without, "two.png"))
    (folder / "three.xml").write_text(page_xml([line_of(0, TEXTS[0])], "three.png"))
    return folder


def transcribe(pages, target, recogniser):
    argv = ["--dataset_path", pages, "--save_dir", target, "--recogniser", recogniser, "--device", "cpu"]
    main(parse_args(list(map(str, argv))))


def test_lines_without_text_get_one_with_a_confidence(pages, recogniser, tmp_path, capsys):
    transcribe(pages, tmp_path / "out", recogniser)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["one.xml", "two.xml"]
    one, two = (read_page(tmp_path / "out" / f"{name}.xml") for name in ("one", "two"))
    assert one.lines[0].text == "kept" and one.lines[1].text
    assert one.lines[1].polygon == read_page(pages / "one.xml").lines[1].polygon
    assert len(two.lines) == 2 and all(line.text and line.polygon and line.baseline for line in two.lines)
    found = re.findall(r'conf="([\d.]+)"', (tmp_path / "out" / "two.xml").read_text())
    assert len(found) == 2 and all(0 < float(value) <= 1 for value in found)
    assert (tmp_path / "out" / "one.xml").read_text().count("conf=") == 1
    assert "2 pages, 3 lines read" in capsys.readouterr().out

    # Started again: what is there stays.
    before = (tmp_path / "out" / "two.xml").stat().st_mtime_ns
    transcribe(pages, tmp_path / "out", recogniser)
    assert (tmp_path / "out" / "two.xml").stat().st_mtime_ns == before
    assert "0 pages" in capsys.readouterr().out


def test_pages_without_pictures_are_named(pages, recogniser, tmp_path):
    for picture in pages.glob("*.png"):
        picture.unlink()
    with pytest.raises(UserError, match="no page has its picture"):
        transcribe(pages, tmp_path / "out", recogniser)
