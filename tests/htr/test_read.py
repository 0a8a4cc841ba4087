"""htr/read.py: files and folders, on the screen and in files, with error rates where texts are known."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from htr.crnn import CRNN, CRNNConfig
from htr.pictures import clean_line, is_text_image, read_picture
from htr.read import main, parse_args
from htr.reading import Reading
from tests.helpers import draw_word, make_word_folder, run_script
from utils.errors import UserError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = CRNNConfig(characters=tuple("abcdef"), img_height=32, channels=(4, 8, 8, 8), hidden=8, layers=1)
    CRNN(config).save_pretrained(folder, {}, dtype=torch.float16)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "words"
    make_word_folder(folder, ("cab", "abe", "deaf"), splits=("train", "test", "test"), img_size=(80, 160))
    return folder


def read(model, *argv):
    main(parse_args([*map(str, argv), "--recogniser", str(model), "--device", "cpu"]))


def test_a_folder_with_texts_is_read_and_measured(model, folder, capsys):
    read(model, folder, "--split", "test")
    captured = capsys.readouterr()
    rows = [line.split("\t") for line in captured.out.splitlines()]
    assert len(rows) == 2 and all(0 <= float(confidence) <= 1 for _, confidence, _ in rows)
    assert "CER" in captured.err and "2 images" in captured.err


def test_readings_go_to_a_file(model, folder, tmp_path):
    read(model, folder, "--output", tmp_path / "out.jsonl")
    values = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [value["truth"] for value in values] == ["cab", "abe", "deaf"]
    read(model, folder / "images", "--output", tmp_path / "out.tsv")
    assert [line.split("\t")[2] for line in (tmp_path / "out.tsv").read_text().splitlines()] == [
        value["text"] for value in values
    ]


def test_what_is_wrong_is_named(model, folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing: no such file"):
        read(model, tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no picture there"):
        read(model, tmp_path / "empty")
    with pytest.raises(UserError, match=r"--split test: .*knows splits"):
        read(model, folder / "images", "--split", "test")
    with pytest.raises(SystemExit):
        read(model, folder, "--output", "x.csv")
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"bad\.png: not a readable image"):
        read(model, tmp_path / "bad.png")


def test_a_line_on_grey_paper_becomes_a_text_image(tmp_path):
    word = draw_word("cab deaf", font_size=48)
    photo = (np.pad(word, 20, constant_values=255) * 0.6 + 20).astype(np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    line = read_picture(tmp_path / "photo.png")
    assert is_text_image(line) and line.shape[0] == 80 and line.min() < 120
    blank = np.full((40, 90), 128, np.uint8)
    assert np.array_equal(clean_line(blank), blank)


def test_the_confidence_of_a_character_does_not_fall_with_the_length():
    assert Reading(text="ab", confidence=0.25).character_confidence == pytest.approx(0.5)
    assert Reading(text="", confidence=0.0).character_confidence == 0


def test_the_recogniser_that_ships_reads_lines_of_fonts(tmp_path, capsys):
    pytest.importorskip("fontpkg")
    given = ("--dataset", "fonts", "--fonts", "kalam", "--unit", "line", "--num_words", "8")
    run_script("preprocessing/process_dataset", *given, "--save_dir", tmp_path / "lines")
    capsys.readouterr()
    run_script("htr/read", tmp_path / "lines", "--device", "cpu")
    cer = float(re.search(r"CER ([\d.]+) %", capsys.readouterr().err)[1])
    assert cer < 15
