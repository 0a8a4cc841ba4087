"""Lines out of words: breaking texts, and words at their sizes on a baseline."""

from importlib.resources import files

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from diffusion.layout import WidthModel
from generation.lines import LineStyle, break_lines, place_words, word_width
from generation.word_measures import measure_words, text_extent

FONT = str(files("fontpkg_delius") / "files" / "Delius-Regular.ttf")
SIZE = 90


def draw_in_font(text: str) -> tuple[np.ndarray, float]:
    """A word cut to its ink, and its baseline's distance from the top, pixels."""
    font = ImageFont.truetype(FONT, SIZE)
    picture = Image.new("L", (round(font.getlength(text)) + 200, 3 * SIZE), 255)
    ImageDraw.Draw(picture).text((100, 2 * SIZE), text, fill=0, font=font, anchor="ls")
    image = np.asarray(picture)
    rows, columns = np.flatnonzero((image < 200).any(axis=1)), np.flatnonzero((image < 200).any(axis=0))
    cut = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return cut, 2 * SIZE - float(rows[0])


def as_high_as(image: np.ndarray, height: int) -> np.ndarray:
    """Scaled as a model of words draws it."""
    scale = height / len(image)
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


X_HEIGHT = float(len(draw_in_font("x")[0]))


WORDS = ("sea", "man", "hello", "Paris", "jumping", "type", "grey", "été", "weather", "years,", "hill", "it")


def test_words_scales_and_baselines_are_found_again():
    cuts, baselines = zip(*map(draw_in_font, WORDS), strict=True)
    x_heights, found = zip(*measure_words(cuts, WORDS), strict=True)
    assert np.array(x_heights) == pytest.approx(np.full(len(WORDS), X_HEIGHT), rel=0.15)
    assert np.array(found) == pytest.approx(np.array(baselines), abs=0.15 * X_HEIGHT)


def test_words_drawn_at_one_height_get_their_own_sizes_again():
    texts = ["sea", "hill", "gap", "jolly", "weather", "paper"]
    blown_up = [as_high_as(draw_in_font(text)[0], 56) for text in texts]
    line = place_words(blown_up, texts, LineStyle(unsteadiness=0.0, space=3.0), np.random.default_rng(0))
    dark = line.image < 128
    columns = np.flatnonzero(dark.any(axis=0))
    gaps = np.flatnonzero(np.diff(columns) > 16)
    pieces = np.split(columns, gaps + 1)
    heights = [np.ptp(np.flatnonzero(dark[:, piece].any(axis=1))) + 1 for piece in pieces]
    true = [len(draw_in_font(text)[0]) / X_HEIGHT for text in texts]
    assert len(heights) == len(texts)
    assert np.array(heights) / line.x_height == pytest.approx(np.array(true), rel=0.2)


def test_words_stand_on_the_baseline():
    texts = ["sea", "hill", "man"]
    line = place_words(
        [as_high_as(draw_in_font(text)[0], 56) for text in texts],
        texts,
        LineStyle(unsteadiness=0.0),
        np.random.default_rng(0),
    )
    columns = np.flatnonzero((line.image < 128).any(axis=0))
    bottoms = [np.flatnonzero(column < 128)[-1] + 1 for column in line.image[:, columns].T]
    assert max(bottoms) == pytest.approx(line.baseline, abs=2.5)


def test_marks_stand_where_they_belong():
    texts = ["a", "-", "b", ".", "c", "'", "d"]
    line = place_words(
        [as_high_as(draw_in_font(text)[0], 56) for text in texts],
        texts,
        LineStyle(unsteadiness=0.0),
        np.random.default_rng(0),
    )
    columns = np.flatnonzero((line.image < 128).any(axis=0))
    pieces = np.split(columns, np.flatnonzero(np.diff(columns) > 4) + 1)
    middles = [np.flatnonzero((line.image[:, piece] < 128).any(axis=1)).mean() for piece in pieces]
    assert len(middles) == 7
    dash, stop, apostrophe = (line.baseline - middles[i] for i in (1, 3, 5))
    assert 0.2 * line.x_height < dash < 0.9 * line.x_height
    assert stop < 0.3 * line.x_height and apostrophe > line.x_height


def test_a_line_is_as_wide_as_its_ink_and_of_the_asked_height():
    texts = ["one", "two"]
    words = [as_high_as(draw_in_font(text)[0], 56) for text in texts]
    line = place_words(words, texts, LineStyle(height=96), np.random.default_rng(0))
    columns = np.flatnonzero((line.image < 128).any(axis=0))
    assert line.image.shape[0] == 96 and line.image.shape[1] % 8 == 0
    assert line.image.shape[1] - columns[-1] < line.x_height


def test_the_same_generator_gives_the_same_line():
    texts = ["one", "two", "three"]
    words = [draw_in_font(text)[0] for text in texts]
    images = [place_words(words, texts, LineStyle(), np.random.default_rng(seed)).image for seed in (1, 1, 2)]
    assert np.array_equal(images[0], images[1])
    assert images[0].shape != images[2].shape or not np.array_equal(images[0], images[2])


def test_empty_images_are_passed_over_and_a_line_of_nothing_is_an_error():
    blank = np.full((64, 64), 255, np.uint8)
    line = place_words(
        [blank, draw_in_font("sea")[0]], ["lost", "sea"], LineStyle(), np.random.default_rng(0)
    )
    assert (line.image < 128).any()
    with pytest.raises(ValueError, match="without ink"):
        place_words([blank], ["lost"], LineStyle(), np.random.default_rng(0))


def test_right_to_left_words_stand_from_right_to_left():
    wide, narrow = np.zeros((40, 100), np.uint8), np.zeros((40, 20), np.uint8)
    padded = [np.pad(image, 5, constant_values=255) for image in (wide, narrow)]
    line = place_words(padded, ["אבגד", "א"], LineStyle(), np.random.default_rng(0)).image
    columns = np.flatnonzero((line < 128).any(axis=0))
    gap = np.flatnonzero(np.diff(columns) > 4)[0]
    assert gap + 1 < len(columns) - gap - 1  # the first word, the wide one, is at the right


def test_extents_follow_the_letters():
    assert text_extent("sea") == (1.0, 0.0)
    assert text_extent("hill")[0] > 1.5 and text_extent("gap")[1] < -0.5
    assert text_extent("É")[0] > text_extent("E")[0] and text_extent("é")[0] > 1.3
    assert text_extent("ç")[1] < 0


# Breaking


def test_a_text_comes_back_whole_and_paragraphs_begin_lines():
    texts = ["the quick brown fox jumps over the lazy dog " * 5, "a new one", "  "]
    lines = break_lines(texts, lambda _: len, length=30, rng=np.random.default_rng(0))
    assert " ".join(lines).split() == " ".join(texts).split()
    assert "a new one" in lines and "" not in lines


def test_lines_are_about_as_long_as_asked():
    words = ("the", "archive", "of", "handwriting", "is", "open", "to", "all") * 200
    lines = break_lines(
        [" ".join(words)], lambda _: len, length=50, spread=0.05, rng=np.random.default_rng(0)
    )
    lengths = np.array([len(line) for line in lines[:-1]])
    assert 43 < lengths.mean() < 50 and lengths.std() > 2 and lengths.max() < 60


def test_a_word_longer_than_the_line_stands_alone():
    lines = break_lines(["a " + "x" * 80 + " b"], lambda _: len, length=20, rng=np.random.default_rng(0))
    assert lines == ["a", "x" * 80, "b"]


def test_no_line_has_more_characters_than_the_model_writes():
    lines = break_lines(
        ["ab cd ef " * 40],
        lambda _: len,
        length=50,
        fits=lambda _, text: len(text) <= 12,
        rng=np.random.default_rng(0),
    )
    assert max(len(line) for line in lines) <= 12


def test_wide_hands_get_fewer_characters():
    model = WidthModel(
        character_widths=dict.fromkeys("abcdefgh", 10.0), writer_scales={"wide": 1.5, "narrow": 0.75}
    )
    text = "abc defg hab " * 60
    counts = {}
    for hand in ("wide", "narrow"):
        width = word_width(model, {hand: 1.0})
        lines = break_lines([text], lambda _, width=width: width, length=40, rng=np.random.default_rng(0))
        counts[hand] = np.mean([len(line) for line in lines[:-1]])
    assert counts["narrow"] > 1.5 * counts["wide"]
