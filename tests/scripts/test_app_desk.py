"""What the page does, without the page: hands, pictures in memory, sheets."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from scripts import app_desk
from scripts.app_desk import NEW, PICTURED, Choice, Desk, read_pictures
from scripts.app_views import show_hands, show_sheet
from tests.helpers import WRITERS, draw_word
from utils.errors import UserError


@pytest.fixture
def desk(styled_pipeline):
    return Desk(styled_pipeline)


def as_url(content):
    return "data:image/png;base64," + base64.b64encode(content).decode()


def picture_of(word, name="letter.png"):
    buffer = io.BytesIO()
    Image.fromarray(draw_word(word)).save(buffer, format="PNG")
    return {"name": name, "content": as_url(buffer.getvalue())}


def last_sheet(desk, text, choice, **settings):
    return list(desk.write(text, choice, **{"variation": 0.0, "seed": 0, **settings}))[-1]


def test_hands_are_found_by_parts_of_their_names(desk):
    assert sorted(desk.find_hands("")) == sorted(WRITERS)
    assert desk.find_hands(" 02 ") == ["02"]
    assert desk.find_hands("0 3") == ["03"] and desk.find_hands("anna") == []


def test_a_sample_is_drawn_once(desk, monkeypatch):
    first = desk.samples(["01", "02"])
    assert len(first) == 2 and all(image.dtype == np.uint8 and image.shape[0] == 32 for image in first)
    desk.pipeline = None  # whoever draws again fails
    assert [a is b for a, b in zip(first, desk.samples(["01", "02"]), strict=True)] == [True, True]


def test_pictures_make_a_hand_that_is_written_in(desk):
    hand, lines = desk.hand_of_pictures([picture_of("cab"), picture_of("bad")])
    assert lines == 2
    before = desk.pipeline.config.writers
    sheet = last_sheet(desk, "cab", Choice(shares={PICTURED: 1.0}, pictured=hand))
    assert [job.record.writer for job in sheet.jobs] == [PICTURED]
    assert desk.pipeline.config.writers == before  # another visitor's desk is as it was


def test_a_mix_takes_writers_pictures_and_new_hands(desk):
    hand, _ = desk.hand_of_pictures([picture_of("cab")])
    shares = {"01": 30, PICTURED: 30, NEW: 60, "02": 0}
    choice = Choice(shares=shares, pictured=hand, number=5)
    sheet = next(desk.write("cab", choice, variation=0.0, seed=0))
    assert sheet.jobs[0].writer == {"01": 0.25, PICTURED: 0.25, NEW: 0.5}


def test_seed_and_number_of_the_hand_change_the_drawing(desk):
    def first_line(number, seed):
        choice = Choice(shares={NEW: 1}, number=number)
        return next(desk.write("cab", choice, variation=0.0, seed=seed)).images[0]

    one = first_line(1, 0)
    assert np.array_equal(one, first_line(1, 0))
    assert not np.array_equal(one, first_line(2, 0)) and not np.array_equal(one, first_line(1, 1))


@pytest.mark.parametrize(
    ("choice", "settings", "message"),
    [
        (Choice(shares={PICTURED: 1}), {}, "drop some first"),
        (Choice(shares={"01": 0}), {}, "No hand is chosen"),
        (Choice(shares={"anna": 1}), {}, "anna"),
        (Choice(shares={"01": 1}), {"variation": float("nan")}, "Variation is 0 to 1"),
        (Choice(shares={"01": 1}), {"seed": -1}, "whole numbers"),
        (Choice(shares={NEW: 1}, number=2**31), {}, "whole numbers"),
    ],
)
def test_what_cant_be_drawn_is_said(desk, choice, settings, message):
    with pytest.raises(UserError, match=message):
        last_sheet(desk, "cab", choice, **settings)


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ([], "0 pictures"),
        ([picture_of("a")] * 11, "11 pictures"),
        ([{"name": "a.png", "content": as_url(b"x" * 1001)}], "a.png: .* at most"),
        ([{"name": "a.png", "content": as_url(b"x" * 1000)}] * 3, "taken together"),
        ([{"name": "a.png", "content": "data:image/png;base64,=="}], "a.png: did not arrive whole"),
        ([{"name": "a.png"}], "a.png: did not arrive whole"),
    ],
)
def test_pictures_are_limited_in_size_and_number(monkeypatch, pictures, message):
    monkeypatch.setattr(app_desk, "MOST_BYTES", 1000)
    monkeypatch.setattr(app_desk, "MOST_BYTES_TOGETHER", 2500)
    with pytest.raises(UserError, match=message):
        read_pictures(pictures)


def test_pictures_that_are_none_are_named(desk, monkeypatch):
    with pytest.raises(UserError, match=r"a\.png: not a readable picture \(UnidentifiedImageError\)"):
        desk.hand_of_pictures([{"name": "a.png", "content": as_url(b"nothing")}])
    monkeypatch.setattr(app_desk, "MOST_PIXELS", 100)
    with pytest.raises(UserError, match=r"letter\.png: .* pixels; at most 100 are taken"):
        desk.hand_of_pictures([picture_of("cab")])


def test_models_without_style_vectors_offer_their_writers_alone(pipeline):
    assert not Desk(pipeline).takes_hands
    with pytest.raises(UserError, match="by name alone"):
        Desk(pipeline).hand_of_pictures([picture_of("cab")])


def test_names_and_texts_are_no_html(desk):
    image = np.full((32, 64), 255, np.uint8)
    shown = show_hands(['"><script>'], [image], "")
    assert "<script" not in shown and "&lt;script" in shown
    sheet = next(desk.write("cab", Choice(shares={"01": 1}), variation=0.0, seed=0))
    assert show_sheet(sheet).count("<img") == 1 and 'alt="cab"' in show_sheet(sheet)
