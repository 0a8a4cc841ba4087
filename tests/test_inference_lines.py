"""Lines that the model draws as one text, and those that are put together out of words."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion.config import LINES, CheckpointConfig, hold_lines
from diffusion.fresh_model import FreshModel
from diffusion.layout import WidthModel
from diffusion.pipeline import HandwritingPipeline
from diffusion.presets import make_config
from generation.word_lines import LinesFromWords, choose_line_source, line_rows
from inference import parse_args
from preprocessing.readers import pages
from tests.helpers import WRITERS, nudge_zeros, run_script
from unet import UNet
from utils.charset import Charset
from utils.errors import UserError
from utils.images import trim_tail
from utils.text_images import read_text_images

CHARACTERS = " ABZabcdefghijklmnopqrstuvwxyz"
MAX_LENGTH, ROOM = 30, 150.0
FAST = ("--num_steps", 1, "--guidance_scale", 1, "--device", "cpu")
LINE = "the archive is open to everybody"


@pytest.fixture(scope="module")
def line_model(pipeline):
    """A model of random weights that says that it was trained on lines; its canvases are up to 160 wide."""
    torch.manual_seed(0)
    sizes = {"num_writers": 3, "vocabulary_size": len(CHARACTERS) + 1, "max_length": MAX_LENGTH}
    widths = WidthModel(
        character_widths=dict.fromkeys(CHARACTERS, 7.0),
        writer_scales=dict(zip(WRITERS, (0.7, 1.0, 1.4), strict=True)),
        left=2.0,
        room=ROOM,
    )
    config = replace(
        pipeline.config,
        charset=Charset(characters=tuple(CHARACTERS)),
        img_size=(32, 160),
        width_model=widths,
        extra={**pipeline.config.extra, LINES: True},
    )
    return HandwritingPipeline(nudge_zeros(UNet(make_config("tiny", **sizes))), pipeline.vae, config)


@pytest.fixture(scope="module")
def checkpoint_of_lines(line_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lines") / "model"
    line_model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("a bad cab faced a dead deaf bee and hid\n\nbed fade cafe\n" * 4, encoding="utf-8")
    return path


def write(model, folder, *flags):
    flags = ("--models_path", model, "--unit", "line", *FAST, *flags)
    run_script("inference", *flags, "--save_path", folder)
    return folder


# What a model says of itself


def test_a_tenth_of_lines_makes_a_model_of_lines():
    assert hold_lines([LINE] + ["word"] * 9) and not hold_lines([LINE] + ["word"] * 10)
    assert not hold_lines([]) and not hold_lines(["of it", "Handwritten", "x" * 40])


def test_a_checkpoint_without_the_entry_tells_by_its_sample_texts(line_model):
    without = {name: value for name, value in line_model.config.extra.items() if name != LINES}
    config = replace(line_model.config, extra=without)
    assert not config.writes_lines
    assert replace(config, sample_texts=("word", LINE)).writes_lines
    assert not replace(config, sample_texts=("word", LINE), extra={LINES: False}).writes_lines


def fresh(texts):
    ink = np.tile(np.array([2.0, 4.0, 120.0, 28.0]), (len(texts), 1))
    return FreshModel(
        texts=texts,
        writers=["000"] * len(texts),
        ink=ink,
        img_size=(32, 160),
        max_length=None,
        vae={"name": "vae", "hash": "0"},
        latent_channels=4,
        extra={"dataset": "test"},
    )


def test_a_training_notes_whether_it_is_one_on_lines():
    unet, words = fresh(["word", "page"]).build("tiny", "flow_prediction")
    assert words.extra[LINES] is False
    assert fresh([LINE, "page"]).build("tiny", "flow_prediction")[1].extra[LINES] is True
    _, grown = fresh([LINE]).grow(unet, words)
    assert grown.writes_lines
    read, _ = CheckpointConfig.from_dict(json.loads(json.dumps(words.to_dict(unet.config))))
    assert read.extra[LINES] is False


def test_a_model_of_lines_that_learns_words_still_writes_lines():
    unet, lines = fresh([LINE]).build("tiny", "flow_prediction")
    assert fresh(["word"]).grow(unet, lines)[1].writes_lines


def test_lines_come_from_the_model_that_knows_them(line_model, pipeline):
    assert choose_line_source(None, line_model.config) == "model"
    assert choose_line_source("words", line_model.config) == "words"
    assert choose_line_source(None, pipeline.config) == "words"


def test_a_model_without_a_space_draws_no_lines(checkpoint, corpus, tmp_path):
    with pytest.raises(UserError, match=r"--line_from model: .* Give --line_from words"):
        write(checkpoint, tmp_path / "out", "--corpus", corpus, "--line_from", "model")
    assert not (tmp_path / "out").exists()


def test_line_from_goes_with_lines(capsys):
    with pytest.raises(SystemExit):
        parse_args(["--line_from", "words"])
    assert "--line_from words: goes with --unit line" in capsys.readouterr().err


# What is drawn


def test_a_line_of_the_model_is_one_drawing(checkpoint_of_lines, line_model, tmp_path):
    folder = write(checkpoint_of_lines, tmp_path / "out", "--words", "bed fade cafe", "--writer", WRITERS[1])
    (record,) = read_text_images(folder)
    drawn = line_model([record.text], [WRITERS[1]], num_inference_steps=1, guidance_scale=1)
    assert (np.asarray(Image.open(folder / record.file_name)) == trim_tail(drawn[0])).all()


def test_another_source_of_lines_is_another_setting(checkpoint_of_lines, tmp_path):
    flags = ("--words", "bed fade cafe", "--writer", WRITERS[1])
    first = write(checkpoint_of_lines, tmp_path / "out", *flags)
    with pytest.raises(UserError, match="other settings"):
        write(checkpoint_of_lines, tmp_path / "out", *flags, "--line_from", "words")
    other = write(checkpoint_of_lines, tmp_path / "words", *flags, "--line_from", "words")
    images = [
        Image.open(folder / record.file_name)
        for folder in (first, other)
        for record in read_text_images(folder)
    ]
    assert images[0].size != images[1].size or images[0].tobytes() != images[1].tobytes()


def test_lines_of_a_corpus_are_no_longer_than_the_model_can_write(
    checkpoint_of_lines, line_model, corpus, tmp_path
):
    flags = ("--corpus", corpus, "--line_length", 60, "--writer", "all")
    records = read_text_images(write(checkpoint_of_lines, tmp_path / "out", *flags))
    assert " ".join(record.text for record in records).split() == corpus.read_text().split()
    widths = line_model.config.width_model
    assert all(len(record.text) <= MAX_LENGTH for record in records)
    assert all(widths.has_room(record.text, {record.writer: 1.0}) for record in records)
    longest = {writer: max(len(r.text) for r in records if r.writer == writer) for writer in WRITERS}
    assert longest[WRITERS[2]] < longest[WRITERS[0]] and longest[WRITERS[0]] > 20  # it fills its canvas
    assert all(Image.open(tmp_path / "out" / record.file_name).width <= 160 for record in records)


@pytest.mark.parametrize("line_from", ["model", "words"])
@pytest.mark.parametrize("xml_format", ["page", "alto"])
def test_pages_of_either_kind_of_lines_are_read_again(
    checkpoint_of_lines, corpus, tmp_path, xml_format, line_from
):
    flags = ("--corpus", corpus, "--output_format", xml_format, "--line_from", line_from)
    folder = write(checkpoint_of_lines, tmp_path / "out", *flags)
    read = list(pages.iter_words(folder))
    assert " ".join(line.text for line in read).split() == corpus.read_text().split()


def test_the_baseline_is_where_lines_are_cut(line_model):
    assert line_rows(line_model) == pytest.approx((0.62 * 32, 0.28 * 32))
    words = LinesFromWords(line_model, words_at_once=4)
    assert line_rows(words) == (words.style.baseline, words.style.x_height)
