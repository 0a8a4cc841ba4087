"""Several word folders as one training set."""

import os
from pathlib import Path

import pytest

from tests.helpers import IMG_SIZE, make_word_folder
from utils.errors import UserError
from utils.sources import Source, TrainingSet, parse_sources, read_image, read_images, read_sources
from utils.text_images import TextImage


def make_words(splits, shares=None, writers=("a",)):
    records = tuple(
        TextImage(file_name=f"images/{i}.png", text="abc", writer=writers[i % len(writers)], split=split)
        for i, split in enumerate(splits)
    )
    return TrainingSet(
        records=records,
        paths=tuple(Path(r.file_name) for r in records),
        shares=tuple(shares or [1.0] * len(records)),
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("data/iam", Source(folder=Path("data/iam"))),
        ("data/iam:2", Source(folder=Path("data/iam"), share=2.0)),
        ("data/iam:0.5", Source(folder=Path("data/iam"), share=0.5)),
        ("c:words", Source(folder=Path("c:words"))),
    ],
)
def test_folders_may_have_a_share(value, expected):
    assert parse_sources([value]) == [expected]


@pytest.mark.parametrize("share", ["0", "-1", "nan", "inf"])
def test_a_share_is_a_positive_number(share):
    with pytest.raises(
        ValueError, match=f"--dataset_path data:{share}: the share {share} is not a positive number"
    ):
        parse_sources([f"data:{share}"])


def test_an_existing_folder_with_a_colon_is_taken_as_it_is(tmp_path):
    (tmp_path / "run:2").mkdir()
    assert parse_sources([str(tmp_path / "run:2")]) == [Source(folder=tmp_path / "run:2")]


def test_shares_count_in_an_epoch():
    words = make_words(["train"] * 400 + ["val"], shares=[2.0] * 200 + [0.5] * 200 + [1.0])
    indices = words.train_indices()
    assert all(indices.count(i) == 2 for i in range(200))
    half = [i for i in indices if i >= 200]
    assert 70 < len(half) < 130 and len(set(half)) == len(half)


def test_shares_that_leave_nothing_are_an_error():
    with pytest.raises(ValueError, match="the shares leave none of 3 words"):
        make_words(["train"] * 3 + ["val"], shares=[1e-9] * 4).train_indices()


def test_the_validation_split_validates():
    words = make_words(["train", "val", "test", "train"])
    assert words.val_indices() == [1] and words.train_indices() == [0, 3]


def test_without_validation_words_two_percent_are_held_out():
    words = make_words(["train"] * 200 + ["test"])
    held_out = words.val_indices()
    assert len(held_out) == 4 and not set(held_out) & set(words.train_indices()) and 200 not in held_out


def test_validation_words_of_unknown_hands_do_not_count():
    words = make_words(["train", "val"] * 50, writers=("a", "b"))
    assert all(words.records[i].split == "train" for i in words.val_indices())


def test_what_is_held_out_does_not_depend_on_the_order():
    words = make_words(["train"] * 100)
    shuffled = TrainingSet(records=words.records[::-1], paths=words.paths[::-1], shares=words.shares)
    assert {words.records[i] for i in words.val_indices()} == {
        shuffled.records[i] for i in shuffled.val_indices()
    }


def test_a_single_word_trains_and_validates():
    words = make_words(["train"])
    assert words.val_indices() == words.train_indices() == [0]


@pytest.fixture
def two_folders(tmp_path):
    make_word_folder(tmp_path / "one", ["abc", "de"], ("01", "02"), img_size=IMG_SIZE)
    make_word_folder(tmp_path / "two", ["fg", "hi"], ("02", "03"), img_size=IMG_SIZE)
    return tmp_path / "one", tmp_path / "two"


def test_colliding_writers_get_their_folders_name(two_folders):
    words = read_sources([Source(folder=folder) for folder in two_folders])
    assert [record.writer for record in words.records] == ["01", "one/02", "two/02", "03"]


def test_paths_point_into_their_folders(two_folders):
    words = read_sources([Source(folder=folder) for folder in two_folders])
    assert (
        all(path.is_file() for path in words.paths) and words.paths[2] == two_folders[1] / "images/0000.png"
    )


def test_the_same_folder_twice_is_an_error(two_folders):
    with pytest.raises(ValueError, match="two folders of one name share a writer's name"):
        read_sources([Source(folder=two_folders[0]), Source(folder=two_folders[0])])


def test_a_folder_without_training_words_is_an_error(tmp_path):
    make_word_folder(tmp_path / "test", ["abc"], splits=("test",), img_size=IMG_SIZE)
    with pytest.raises(ValueError, match="no word of split train"):
        read_sources([Source(folder=tmp_path / "test")])


def test_an_empty_text_is_an_error(tmp_path):
    make_word_folder(tmp_path / "words", ["abc", " "], img_size=IMG_SIZE)
    with pytest.raises(ValueError, match=r"images/0001\.png has an empty text"):
        read_sources([Source(folder=tmp_path / "words")])


def test_texts_are_read_in_nfc(tmp_path):
    make_word_folder(tmp_path / "words", ["cafe\u0301"], img_size=IMG_SIZE)
    assert read_sources([Source(folder=tmp_path / "words")]).records[0].text == "caf\u00e9"


def test_images_must_be_multiples_of_8_pixels(tmp_path):
    make_word_folder(tmp_path / "words", ["abc"], img_size=(36, 64))
    with pytest.raises(ValueError, match="36x64 pixels; height and width must be multiples of 8"):
        read_images([tmp_path / "words/images/0000.png"])


def test_images_of_two_heights_are_named(two_folders, tmp_path):
    make_word_folder(tmp_path / "high", ["abc"], img_size=(64, 96))
    with pytest.raises(UserError, match=r"high.*64 pixels high, but the images before it have 32"):
        read_images([two_folders[0] / "images/0000.png", tmp_path / "high/images/0000.png"])


def test_images_of_two_widths_are_read_as_they_are(two_folders, tmp_path):
    make_word_folder(tmp_path / "wide", ["abc"], img_size=(32, 96))
    images = read_images([two_folders[0] / "images/0000.png", tmp_path / "wide/images/0000.png"])
    assert [image.shape for image in images] == [(32, 64), (32, 96)]


@pytest.mark.parametrize("split", ["Train", "validation", 5, None])
def test_an_unknown_split_is_named(tmp_path, split):
    make_word_folder(tmp_path / "words", ["cab", "bad"], splits=("train", split))
    with pytest.raises(
        ValueError, match=rf"0001\.png is of split {split!r}, which is none of train, val, test"
    ):
        read_sources(parse_sources([str(tmp_path / "words")]))


def test_words_validate_whichever_folder_comes_last(tmp_path):
    make_word_folder(tmp_path / "one", ["cab"])
    make_word_folder(tmp_path / "two", ["bad", "ace"], splits=("test",))
    for order in (("one", "two"), ("two", "one")):
        words = read_sources(parse_sources([str(tmp_path / name) for name in order]))
        assert [words.records[i].text for i in words.val_indices()] == ["cab"]


def test_a_pipe_among_the_images_is_named_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png: not a file"):
        read_image(tmp_path / "a.png")
