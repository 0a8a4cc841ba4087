"""Cropping and batching of word images, and the decoding of CTC."""

import numpy as np
import pytest
import torch

from htr.dataset import batch_by_width, crop_to_ink, make_batch
from htr.reading import Reading, decode_best_path, frames_needed
from utils.charset import Charset


def make_image(left: int, right: int, width: int = 128) -> np.ndarray:
    image = np.full((16, width), 255, np.uint8)
    image[4:12, left:right] = 0
    return image


@pytest.mark.parametrize(
    ("left", "right", "columns"), [(4, 50, (0, 56)), (40, 50, (34, 56)), (4, 127, (0, 128))]
)
def test_a_crop_keeps_a_margin_of_six_pixels_where_there_is_one(left, right, columns):
    image = make_image(left, right)
    assert np.array_equal(crop_to_ink(image), image[:, slice(*columns)])


def test_a_crop_of_a_crop_is_the_same():
    crop = crop_to_ink(make_image(40, 50))
    assert np.array_equal(crop_to_ink(crop), crop)


def test_a_blank_image_keeps_some_white():
    assert crop_to_ink(np.full((16, 64), 255, np.uint8)).shape == (16, 16)


def test_a_batch_is_white_at_the_right_and_has_widths_that_are_multiples_of_16():
    pixel_values, widths = make_batch([np.zeros((16, 20), np.uint8), np.zeros((16, 48), np.uint8)])
    assert pixel_values.shape == (2, 1, 16, 48) and widths.tolist() == [32, 48]
    assert (pixel_values[0, ..., :20] == -1).all() and (pixel_values[0, ..., 20:] == 1).all()


def test_batches_hold_similar_widths_and_few_of_the_wide_images():
    widths = [2000, 100, 120, 40_000, 2010, 90] + [2000] * 20
    batches = list(batch_by_width(widths, 4))
    assert sorted(row for batch in batches for row in batch) == list(range(26))
    assert batches[0] == [5, 1, 2, 0] and batches[-1] == [3]
    wide = list(batch_by_width(widths, 64))
    assert max(len(rows) for rows in wide) == 16 and [widths[row] for row in wide[-1]] == [40_000]


@pytest.mark.parametrize(("text", "frames"), [("a", 1), ("ab", 2), ("aa", 3), ("book", 5), ("aaa", 5)])
def test_a_repeated_character_needs_a_frame_more(text, frames):
    assert frames_needed(text) == frames


def make_log_probs(*frames: tuple[int, float]) -> torch.Tensor:
    """(1, T, 3) of frames with one class and its probability each."""
    probabilities = torch.empty(1, len(frames), 3)
    for frame, (chosen, probability) in enumerate(frames):
        probabilities[0, frame] = (1 - probability) / 2
        probabilities[0, frame, chosen] = probability
    return probabilities.log()


def test_runs_become_one_character_and_the_confidence_is_the_product_of_their_surest_frames():
    log_probs = make_log_probs((0, 0.9), (1, 0.5), (1, 0.8), (0, 0.6), (1, 0.5), (2, 0.7))
    (reading,) = decode_best_path(log_probs, torch.tensor([6]), Charset(characters=("a", "b")))
    assert reading.text == "aab" and reading.confidence == pytest.approx(0.8 * 0.5 * 0.7, rel=1e-5)


def test_frames_beyond_a_word_are_not_read():
    log_probs = make_log_probs((1, 0.9), (2, 0.9))
    assert decode_best_path(log_probs, torch.tensor([1]), Charset(characters=("a", "b")))[0].text == "a"


def test_nothing_read_has_no_confidence():
    assert decode_best_path(make_log_probs((0, 0.9)), torch.tensor([1]), Charset(characters=("a", "b"))) == [
        Reading(text="", confidence=0.0)
    ]


def test_what_is_written_from_right_to_left_is_read_from_left_to_right():
    log_probs = make_log_probs((1, 0.9), (2, 0.9))
    assert decode_best_path(log_probs, torch.tensor([2]), Charset(characters=("א", "ב")))[0].text == "בא"
