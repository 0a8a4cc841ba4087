"""Statistics of strokes: those of drawn strokes of known width and slant, and what they tell of two
folders.
"""

import cv2
import numpy as np
import pytest
from PIL import Image

from evaluation.comparison import compare_folders
from evaluation.measures import LeftOut
from evaluation.strokes import NAMES, measure_image, measure_strokes
from tests.helpers import draw_word
from utils.bootstrap import Bootstrap
from utils.text_images import TextImage, write_metadata

BOOTSTRAP = Bootstrap(resamples=50)
FINE = 8  # times as large as they end, so that strokes have widths of parts of a pixel


def draw_strokes(
    *, width: float, slant: float = 0.0, ink: int = 0, count: int = 8, height: int = 64
) -> np.ndarray:
    """Parallel strokes of a third of the height, ``slant`` degrees from the vertical."""
    top, bottom, step = height // 3, 2 * height // 3, 20
    lean = np.tan(np.radians(slant)) * (bottom - top)
    canvas = np.full((height * FINE, (count * step + 80) * FINE), 255, np.uint8)
    for number in range(count):
        foot = 40 + step * number
        start, end = (round((foot + lean) * FINE), top * FINE), (foot * FINE, bottom * FINE)
        cv2.line(canvas, start, end, ink, round(width * FINE))
    size = (canvas.shape[1] // FINE, height)
    return cv2.resize(canvas, size, interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("width", [1.5, 2.0, 3.0, 4.0])
@pytest.mark.parametrize("slant", [-20, 0, 15, 30])
def test_the_width_of_strokes_is_measured_to_a_third_of_a_pixel(width, slant):
    strokes = measure_image(draw_strokes(width=width, slant=slant), "llllllll")
    assert strokes.stroke_width == pytest.approx(width, rel=0.1, abs=0.3)


@pytest.mark.parametrize("slant", [-30, -10, 0, 5, 12, 25, 40])
def test_the_slant_of_strokes_is_measured_to_two_degrees(slant):
    for width in (1.5, 3, 5):
        assert measure_image(draw_strokes(width=width, slant=slant), "l").slant == pytest.approx(slant, abs=2)


def test_darkness_is_that_of_the_ink_and_not_of_the_image():
    thin, thick = (measure_image(draw_strokes(width=width, ink=102), "l") for width in (3, 6))
    assert thin.darkness == pytest.approx(0.6, abs=0.02) == thick.darkness


def test_a_character_is_as_wide_as_its_part_of_the_ink():
    strokes = measure_image(draw_strokes(width=2, count=10), "l" * 10)
    assert strokes.character_width == pytest.approx((9 * 20 + 2) / 10, abs=0.3)


def test_small_letters_are_as_high_as_an_x_whatever_rises_above_them():
    x = draw_word("xxxxx", font_size=48, margin=0).shape[0]
    for text in ("xanvmrsexo", "hand lamp xenon", "minimum, only"):
        assert measure_image(draw_word(text, font_size=48), text).x_height == pytest.approx(x, abs=3)


def test_a_blank_image_has_no_strokes():
    assert measure_image(np.full((64, 100), 255, np.uint8), "abc") is None


def make_writers(folder, widths, *, images=4, shift=0.0):
    """A folder of text images: strokes of another width for each writer, in images of several widths."""
    (folder / "images").mkdir(parents=True)
    records = []
    for writer, width in widths.items():
        for number in range(images):
            name = f"images/{writer}-{number}.png"
            picture = draw_strokes(width=width + shift, count=4 + 3 * number)
            Image.fromarray(picture).save(folder / name)
            records.append(
                TextImage(file_name=name, text="l" * (4 + 3 * number), writer=writer, split="test")
            )
    write_metadata(folder, records)
    return folder


def test_writers_that_differ_alike_correlate_though_the_level_is_off(tmp_path):
    widths = {"a": 1.5, "b": 2.5, "c": 3.5, "d": 4.5}
    real = make_writers(tmp_path / "real", widths)
    same = make_writers(tmp_path / "same", widths, shift=1.0)
    other = make_writers(tmp_path / "other", dict(zip(widths, (4.5, 1.5, 3.5, 2.5), strict=True)))
    for folder, is_alike in ((same, True), (other, False)):
        pair = compare_folders(real, folder, split=None, most=None, seed=0)
        measures, details = measure_strokes(pair, BOOTSTRAP)
        by_key = {measure.key: measure for measure in measures}
        assert set(by_key) == {
            f"{kind}/{name}" for kind in ("stroke_correlation", "strokes") for name in NAMES
        }
        correlation = by_key["stroke_correlation/stroke_width"].values
        assert correlation["real"].value > 0.99 and correlation["real"].n == 4
        assert (correlation["generated"].value > 0.99) == is_alike
        level = by_key["strokes/stroke_width"].values["difference"].value
        assert level == pytest.approx(1.0 if is_alike else 0.0, abs=0.2)
        assert set(details) == set(widths) and set(details["a"]) == {"generated", "real"}


def test_a_writer_with_one_real_image_is_no_comparison(tmp_path):
    real = make_writers(tmp_path / "real", {"a": 2.0}, images=1)
    pair = compare_folders(real, real, split=None, most=None, seed=0)
    with pytest.raises(LeftOut, match="need two real images"):
        measure_strokes(pair, BOOTSTRAP)
