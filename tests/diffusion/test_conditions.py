"""The conditions of training batches: text, writer and layout, and null where one is dropped."""

import numpy as np
import pytest
import torch

from diffusion.conditions import TrainingConditions
from diffusion.layout import WidthModel
from diffusion.previews import pick_previews
from utils.charset import Charset
from utils.text_images import TextImage

RECORDS = [
    TextImage(file_name=f"images/{i}.png", text=text, writer=writer)
    for i, (text, writer) in enumerate(
        [("ab", "x"), ("b", "y"), ("long", "x"), ("aé", "stranger"), ("ba", "x")]
    )
]
CHARSET = Charset(characters=("a", "b", "l", "n", "o", "g"))
INK = np.array([[4, 0, 36, 32], [8, 0, 24, 32], [0, 0, 64, 32], [0, 0, 64, 32], [0, 0, 32, 32]], np.float32)


@pytest.fixture(scope="module")
def conditions():
    width_model = WidthModel(character_widths={"a": 10.0, "b": 30.0}, writer_scales={"x": 2.0})
    return TrainingConditions(
        RECORDS,
        charset=CHARSET,
        max_length=3,
        writers={"x": 0, "y": 1},
        null_writer=2,
        width_model=width_model,
        ink=INK,
        device=torch.device("cpu"),
    )


def batch(conditions, indices, no_text=None, no_writer=None):
    dropped = None if no_text is None else (torch.tensor(no_text), torch.tensor(no_writer))
    return conditions.batch(torch.tensor(indices), 8, dropped)


def test_a_record_has_its_ids_and_row(conditions):
    input_ids, writer_ids, _ = batch(conditions, [0, 1])
    assert input_ids.tolist() == [[1, 2, 0], [2, 0, 0]] and writer_ids.tolist() == [0, 1]


def test_the_layout_has_the_images_own_extent(conditions):
    share = batch(conditions, [0])[2][0, 0]
    assert (8 * share.sum(dim=1)).tolist() == pytest.approx([8, 24, 0])  # 10 : 30 of the 32 pixels of ink
    assert share[:, 0].sum() == 0.5 and not share[:, 5:].any()


def test_a_dropped_text_is_null_in_ids_and_layout(conditions):
    input_ids, writer_ids, layout = batch(conditions, [0, 1], [True, False], [False, False])
    assert input_ids.tolist() == [[0, 0, 0], [2, 0, 0]] and writer_ids.tolist() == [0, 1]
    assert not layout[0].any() and layout[1].any()


def test_a_dropped_writer_is_null_and_leaves_the_text(conditions):
    input_ids, writer_ids, layout = batch(conditions, [0, 1], [False, False], [True, False])
    assert writer_ids.tolist() == [2, 1] and input_ids[0].tolist() == [1, 2, 0] and layout[0].any()


def test_dropping_does_not_change_the_records(conditions):
    before = [part.clone() for part in batch(conditions, [0])]
    batch(conditions, [0], [True], [True])
    assert all(torch.equal(one, other) for one, other in zip(batch(conditions, [0]), before, strict=True))


@pytest.mark.parametrize("index", [2, 3])
def test_what_the_model_cannot_spell_is_null_text(conditions, index):
    input_ids, _, layout = batch(conditions, [index])
    assert not input_ids.any() and not layout[0, 0].any()


def test_unknown_writers_are_the_null_writer(conditions):
    assert batch(conditions, [3])[1].tolist() == [2]


def test_previews_show_each_hand_first():
    texts, writers = pick_previews(RECORDS, ["x", "y"], CHARSET, 3)
    assert texts == ["b", "ab", "ba"] or texts == ["ab", "b", "ba"]
    assert set(writers[:2]) == {"x", "y"}


def test_previews_are_at_most_as_many_as_asked():
    assert len(pick_previews(RECORDS * 9, ["x", "y"], CHARSET, 3, count=5)[0]) == 5
