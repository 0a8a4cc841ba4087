"""The gallery: every hand of a model on one page that needs nothing else."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from diffusion.config import LINES
from diffusion.pipeline import HandwritingPipeline
from scripts import gallery
from tests.helpers import WRITERS
from utils.errors import UserError

WORDS = ("bead", "cafe")


class Page(HTMLParser):
    """Elements of a page by tag, and tags that were opened and not closed."""

    EMPTY = ("meta", "input", "img")

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = {}, []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.setdefault(tag, []).append(dict(attributes))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def make(checkpoint, tmp_path_factory):
    def call(*argv, models_path=checkpoint):
        path = tmp_path_factory.mktemp("gallery") / "gallery.html"
        flags = ("--models_path", models_path, "--save_path", path, "--device", "cpu", *argv)
        gallery.main(gallery.parse_args(list(map(str, flags))))
        return path.read_text(encoding="utf-8")

    return call


@pytest.fixture(scope="module")
def text(make):
    return make("--words", *WORDS)


def test_each_hand_is_there_once_with_its_words(text):
    page = Page(text)
    assert page.open == []
    assert sorted(hand["data-name"] for hand in page.elements["li"]) == sorted(WRITERS)
    assert [image["alt"] for image in page.elements["img"]] == [*WORDS] * len(WRITERS)


def test_the_page_needs_no_network(text):
    for attributes in (a for elements in Page(text).elements.values() for a in elements):
        for name in ("src", "href", "action", "srcset"):
            assert attributes.get(name, "data:").startswith("data:")
    assert not re.search(r"https?:|@import|url\(|fetch\(|import\(", text)


def test_a_picture_is_the_drawing_in_sixteen_greys(text, pipeline):
    page = Page(text)
    image = page.elements["img"][0]
    picture = Image.open(io.BytesIO(base64.b64decode(image["src"].split(",")[1])))
    assert (picture.width // 2, picture.height // 2) == (int(image["width"]), int(image["height"]))
    assert picture.mode == "P" and len(picture.getcolors()) <= 16
    drawn = pipeline([WORDS[0]], [WRITERS[0]])[0]
    seen = 255 - np.asarray(picture.convert("RGBA"))[:, :, 3].astype(int)
    assert np.abs(seen - drawn[:, : seen.shape[1]]).max() <= 9


def test_a_hand_says_how_it_is_sorted_and_what_writes_in_it(text):
    hand, button = Page(text).elements["li"][0], Page(text).elements["button"][1]
    numbers = [float(hand[f"data-{key.replace('_', '-')}"]) for key in gallery.SORTED_BY]
    assert np.isfinite(numbers).all() and 0 < numbers[3] <= 1
    assert button["data-command"].startswith("python3 inference.py --models_path ")
    assert button["data-command"].endswith(f"--writer {WRITERS[0]} --words {' '.join(WORDS)}")


def test_names_and_texts_are_no_markup(pipeline, make, tmp_path):
    names = ('<b>"x" & it\'s', "$(rm)", *WRITERS[2:])
    config = replace(pipeline.config, writers=names)
    HandwritingPipeline(pipeline.unet, pipeline.vae, config).save_pretrained(tmp_path)
    page = Page(make("--words", "bead", models_path=tmp_path))
    assert "b" not in page.elements and {hand["data-name"] for hand in page.elements["li"]} == set(names)
    assert any("'$(rm)'" in button.get("data-command", "") for button in page.elements["button"])


def test_some_hands_can_be_chosen(make):
    page = Page(make("--words", "bead", "--writers", WRITERS[1], WRITERS[0]))
    assert [hand["data-name"] for hand in page.elements["li"]] == [WRITERS[1], WRITERS[0]]


def test_a_model_without_the_usual_words_writes_others(make, pipeline, tmp_path):
    config = replace(pipeline.config, sample_texts=("fade", "too long a text"))
    HandwritingPipeline(pipeline.unet, pipeline.vae, config).save_pretrained(tmp_path)
    known = Page(make("--writers", WRITERS[0], models_path=tmp_path))
    assert [image["alt"] for image in known.elements["img"]] == ["fade"]


@pytest.mark.parametrize("is_of_lines", [True, False])
def test_a_model_of_lines_shows_one_and_others_when_asked(make, pipeline, tmp_path, monkeypatch, is_of_lines):
    monkeypatch.setattr(gallery, "LINE", "bad fade")
    extra = {**pipeline.config.extra, LINES: is_of_lines}
    config = replace(pipeline.config, extra=extra, sample_texts=("a bed",))
    HandwritingPipeline(pipeline.unet, pipeline.vae, config).save_pretrained(tmp_path)
    flags = ("--words", "bead", "--writers", WRITERS[0])
    images = Page(make(*flags, models_path=tmp_path)).elements["img"]
    assert len(images) == 1  # its charset has no space
    if not is_of_lines:
        images = Page(make(*flags, "--line", "a bed", models_path=tmp_path)).elements["img"]
        assert images[1]["alt"] == "a bed" and int(images[1]["width"]) > int(images[0]["width"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--words", "bäd"), r"--words bäd: 'ä'"),
        (("--line", " "), "--line ' ': nothing but white space"),
        (("--writers", "nobody"), "--writers: writer 'nobody'"),
    ],
)
def test_what_the_model_does_not_know_is_named(make, flags, message):
    with pytest.raises(UserError, match=message):
        make(*flags)


def test_a_file_that_is_there_is_kept(checkpoint, tmp_path):
    path = tmp_path / "mine.html"
    path.write_text("kept")
    flags = ["--models_path", str(checkpoint), "--save_path", str(path)]
    with pytest.raises(UserError, match=r"mine\.html: is there already"):
        gallery.main(gallery.parse_args(flags))
    assert path.read_text() == "kept"
    with pytest.raises(UserError, match="is a folder"):
        gallery.main(gallery.parse_args([*flags[:-1], str(tmp_path)]))
