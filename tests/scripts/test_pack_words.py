"""A word folder in one file, and back."""

import importlib.util

import numpy as np
import pytest
from PIL import Image

from tests.helpers import ROOT, make_word_folder
from utils.text_images import read_text_images


@pytest.fixture(scope="module")
def pack_words():
    spec = importlib.util.spec_from_file_location("pack_words", ROOT / "scripts" / "pack_words.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(module, *argv):
    module.main(module.parse_args([str(value) for value in argv]))


def test_words_come_back(pack_words, tmp_path):
    records = make_word_folder(tmp_path / "words", ("cab", "Ä b", "deaf"), splits=("train", "val", "test"))
    Image.new("L", (256, 64), 255).save(tmp_path / "words" / records[1].file_name)  # a blank one
    call(pack_words, "--dataset_path", tmp_path / "words", "--save_path", tmp_path / "one.pack")
    assert (tmp_path / "one.pack").stat().st_size < 4000
    call(pack_words, "--unpack", tmp_path / "one.pack", "--save_path", tmp_path / "again")
    assert read_text_images(tmp_path / "again") == records
    for record in records:
        one, other = (
            np.asarray(Image.open(tmp_path / name / record.file_name)).astype(int)
            for name in ("words", "again")
        )
        assert one.shape == other.shape and np.abs(one - other).max() <= 5


def test_nothing_is_overwritten_and_what_is_no_pack_is_named(pack_words, tmp_path):
    make_word_folder(tmp_path / "words", ("cab",))
    (tmp_path / "other").write_bytes(b"mine")
    with pytest.raises(ValueError, match="is there already"):
        call(pack_words, "--dataset_path", tmp_path / "words", "--save_path", tmp_path / "other")
    with pytest.raises(ValueError, match="not a file of packed words"):
        call(pack_words, "--unpack", tmp_path / "other", "--save_path", tmp_path / "again")
    with pytest.raises(FileNotFoundError, match="no such file"):
        call(pack_words, "--unpack", tmp_path / "none", "--save_path", tmp_path / "again")
