"""Pictures of someone's writing as lines: found, cleaned, brought to the model's size."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from diffusion import pictures
from diffusion.line_finding import find_lines
from diffusion.pictures import cut_windows, read_lines
from tests.helpers import draw_word, make_word_folder
from utils.errors import UserError
from utils.images import INK
from utils.text_images import LINE_BASELINE, LINE_X_HEIGHT

HEIGHT = 64
TEXTS = ("the lamp in the hall", "was seen by nobody", "until a late hour")


def draw_lines(texts=TEXTS, *, font_size=40, pitch=1.6, paper=200, ink=50, slope=0.0, rules=False):
    """A picture of several lines in Pillow's own font on grey paper, (H, W) uint8."""
    font = ImageFont.load_default(size=font_size)
    width = round(max(font.getlength(text) for text in texts)) + 60
    picture = Image.new("L", (width, round(pitch * font_size * len(texts)) + 60), paper)
    for number, text in enumerate(texts):
        top = round(30 + pitch * font_size * number)
        if rules:
            ImageDraw.Draw(picture).line((0, top + font_size, width, top + font_size), fill=150, width=2)
        ImageDraw.Draw(picture).text((30, top), text, fill=ink, font=font)
    return np.asarray(picture.rotate(-np.degrees(np.arctan(slope)), fillcolor=paper, expand=bool(slope)))


def bottom_of_body(line):
    """The lowest row that is full of ink."""
    rows = (line < INK).sum(axis=1)
    return int(np.flatnonzero(rows >= 0.5 * np.percentile(rows[rows > 0], 90))[-1]) + 1


def test_three_lines_on_grey_paper_are_three_lines_on_white():
    lines = find_lines(draw_lines(), HEIGHT)
    assert len(lines) == 3
    for line in lines:
        assert line.dtype == np.uint8 and line.shape[0] == HEIGHT and line.shape[1] % 8 == 0
        assert (line == 255).mean() > 0.6 and (line < INK).any()
        assert abs(bottom_of_body(line) - LINE_BASELINE * HEIGHT) <= 3


def test_lines_keep_their_order_and_lengths():
    long, middle, short = find_lines(draw_lines(("wide and wider still", "less wide", "no")), HEIGHT)
    assert long.shape[1] > 1.7 * middle.shape[1] > 2 * short.shape[1]


@pytest.mark.parametrize(
    "drawing",
    [
        {"slope": 0.05},
        {"slope": -0.05},
        {"rules": True},
        {"font_size": 110},
        {"font_size": 22},
        {"paper": 245, "ink": 190},
    ],
)
def test_slope_rules_resolution_and_faint_ink_give_the_same_lines(drawing):
    plain, other = find_lines(draw_lines(), HEIGHT), find_lines(draw_lines(**drawing), HEIGHT)
    assert len(other) == 3
    for one, two in zip(plain, other, strict=True):
        assert two.shape[1] == pytest.approx(one.shape[1], rel=0.15)
        assert abs(bottom_of_body(one) - bottom_of_body(two)) <= 4


def test_a_shadow_over_the_paper_is_no_ink():
    page = draw_lines().astype(float) * np.linspace(1.0, 0.5, draw_lines().shape[1])
    assert len(find_lines(page.astype(np.uint8), HEIGHT)) == 3


def test_a_single_word_is_one_line_of_the_usual_size():
    (line,) = find_lines(draw_word("xenon", font_size=150, paper=220), HEIGHT)
    rows = np.flatnonzero((line < INK).any(axis=1))
    assert len(rows) == pytest.approx(LINE_X_HEIGHT * HEIGHT, abs=4)


def test_lines_that_the_edge_of_a_crop_cuts_are_left_out():
    texts = (*TEXTS, *TEXTS)
    page = draw_lines(texts)
    assert len(find_lines(page, HEIGHT)) == 6
    assert len(find_lines(page[55:], HEIGHT)) == 5


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_blank_picture_has_no_lines(value):
    assert find_lines(np.full((120, 300), value, np.uint8), HEIGHT) == []


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (7, 9)])
def test_odd_sizes_are_no_reason_to_fail(shape):
    rng = np.random.default_rng(0)
    assert isinstance(find_lines(rng.integers(0, 256, shape, dtype=np.uint8), HEIGHT), list)


# Windows


def test_a_long_line_is_cut_into_windows_where_it_has_no_ink():
    (line,) = find_lines(draw_lines(("the lamp in the hall was seen by nobody at all that night",)), HEIGHT)
    windows = list(cut_windows(line))
    assert len(windows) == round(line.shape[1] / (5 * HEIGHT)) > 1
    ink = sum(int((window < INK).sum()) for window in windows)
    assert ink == (line < INK).sum()
    for window in windows:
        assert window.shape[0] == HEIGHT and window.shape[1] % 8 == 0 and (window[:, :4] == 255).all()


def test_a_short_line_stays_whole():
    (line,) = find_lines(draw_lines(("lamp",)), HEIGHT)
    assert len(list(cut_windows(line))) == 1


# Files


def save(path, grey):
    Image.fromarray(grey).save(path)
    return path


def test_files_and_folders_give_all_their_lines(tmp_path):
    (tmp_path / "me").mkdir()
    save(tmp_path / "me" / "b.jpg", draw_lines())
    save(tmp_path / "me" / "a.png", draw_word("lamp"))
    (tmp_path / "me" / "notes.txt").write_text("no picture")
    alone = save(tmp_path / "c.png", draw_word("hall"))
    assert len(read_lines([tmp_path / "me", alone], HEIGHT)) == 5


def test_a_text_image_of_the_models_height_stays_as_it_is(tmp_path):
    (line,) = find_lines(draw_lines(TEXTS[:1]), HEIGHT)
    (read,) = read_lines([save(tmp_path / "line.png", line)], HEIGHT)
    assert np.array_equal(read, line)
    (other,) = read_lines([save(tmp_path / "grey.png", np.minimum(line, 220))], HEIGHT)
    assert other.max() == 255


def test_a_folder_of_text_images_gives_those_of_its_metadata(tmp_path):
    make_word_folder(tmp_path / "words", ["bead", "fade"])
    assert len(read_lines([tmp_path / "words"], HEIGHT)) == 2


def test_a_camera_picture_is_turned_as_its_file_says(tmp_path):
    image = Image.fromarray(draw_lines()).rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert len(read_lines([tmp_path / "turned.jpg"], HEIGHT)) == 3


def test_pictures_that_make_no_hand_are_refused_by_name(tmp_path, monkeypatch):
    def refuse(path, message, error=UserError):
        with pytest.raises(error, match=message):
            read_lines([path], HEIGHT)

    refuse(tmp_path / "none.png", r"--style_images .*none\.png: no such file", FileNotFoundError)
    (tmp_path / "empty").mkdir()
    refuse(tmp_path / "empty", r"--style_images .*empty: no picture there")
    (tmp_path / "text.png").write_text("not a picture")
    refuse(tmp_path / "text.png", r"text\.png: not a readable picture")
    refuse(save(tmp_path / "blank.png", np.full((50, 90), 240, np.uint8)), r"blank\.png: no ink")
    monkeypatch.setattr(pictures, "MOST_PIXELS", 100)
    refuse(save(tmp_path / "huge.png", draw_lines()), r"huge\.png: .* pixels; at most 100")
