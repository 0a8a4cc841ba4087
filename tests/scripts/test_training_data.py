"""The data of models/demo: known hands beside unseen ones, a text held out in all hands."""

from scripts.training_data import share_out, split_of_text
from tests.helpers import make_word_folder
from utils.text_images import read_text_images


def test_a_text_is_in_one_split_however_it_is_written():
    assert split_of_text("L'Été.") == split_of_text("l ete") and split_of_text("") in ("train", "val", "test")
    splits = [split_of_text(f"text {number}") for number in range(500)]
    assert 0.9 < splits.count("train") / 500 < 0.98 and 0 < splits.count("val") < splits.count("test")


def test_hands_that_the_model_does_not_know_get_a_folder_of_their_own(tmp_path):
    raw, target = tmp_path / "raw", tmp_path / "out" / "pages"
    make_word_folder(raw, ("one", "two", "three", "four"), ("anna", "ben"))
    before = {record.file_name: record for record in read_text_images(raw)}
    share_out(raw, target, {"anna"}, keep_splits=False)
    for folder, writer in ((target, "anna"), (tmp_path / "out" / "pages_unseen", "ben")):
        records = read_text_images(folder)
        assert {record.writer for record in records} == {writer}
        assert all((folder / record.file_name).is_file() for record in records)
        assert all(before.pop(record.file_name).text == record.text for record in records)
        assert writer == "anna" or {record.split for record in records} == {"test"}
    assert not before


def test_words_and_lines_of_fonts_share_a_folder_and_their_writers(tmp_path):
    target = tmp_path / "fonts"
    for name in ("font_words", "font_lines"):
        make_word_folder(tmp_path / name, ("one", "two"), ("caveat",))
        share_out(tmp_path / name, target, {"caveat"}, keep_splits=True)
    records = read_text_images(target)
    assert len({record.file_name for record in records}) == 4
    assert all((target / record.file_name).is_file() for record in records)
    assert {record.writer for record in records} == {"caveat"}
