"""Lines cut into words: where a cut goes, what a word keeps of its line, what is left out."""

import contextlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from diffusion.autoencoder import load_vae
from diffusion.dataset import encode_images
from diffusion.latent_recogniser import (
    LATENT_RECOGNISER_FOLDER,
    LatentRecogniser,
    LatentRecogniserConfig,
    train_latent_recogniser,
)
from generation.cut_words import main, parse_args
from generation.word_cuts import cut_line, find_cut
from tests.helpers import IMG_SIZE, make_word_folder
from utils.charset import Charset
from utils.checkpoint import CONFIG_NAME
from utils.cli import run
from utils.images import INK, stack_images
from utils.sources import read_image
from utils.text_images import read_jsonl, read_text_images, write_metadata

HEIGHT = 32


def bars(*columns, width=96):
    """A line of upright strokes, 4 pixels wide, that begin at these columns."""
    image = np.full((HEIGHT, width), 255, np.uint8)
    for column in columns:
        image[8:24, column : column + 4] = 0
    return image


def ink_columns(image):
    return int((image < INK).any(axis=0).sum())


def test_a_cut_goes_to_the_clear_gap_beside_the_space():
    image = bars(4, 12, 40, 48)  # the gap is from 16 to 40
    words = cut_line(image, "ab cd", np.array([4.0, 10.0, 15.0, 18.0, 44.0, 52.0]))
    assert [ink_columns(word) for word in words] == [8, 8]
    assert all(word.shape[0] == HEIGHT and word.shape[1] % 8 == 0 for word in words)


def test_a_cut_without_a_gap_is_in_the_middle_of_the_space():
    is_inked = np.ones(96, bool)
    assert find_cut(is_inked, 30.0, 40.0, height=HEIGHT) == 35


def test_the_widest_of_two_gaps_takes_the_cut():
    is_inked = np.ones(96, bool)
    is_inked[28:31] = is_inked[36:46] = False
    assert find_cut(is_inked, 30.0, 38.0, height=HEIGHT) == 41


def test_the_white_around_a_line_is_no_gap():
    image = bars(20, 28, width=96)
    words = cut_line(image, "i i", np.array([20.0, 24.0, 28.0, 32.0]))
    assert [ink_columns(word) for word in words] == [4, 4]


def test_a_tail_that_reaches_over_the_cut_stays_with_its_stroke():
    image = bars(4, 40, width=64)
    image[24:31, 40:42] = 0
    image[30, 9:40] = 0  # from the foot of the second stroke to below the first word; the cut is at 14
    words = cut_line(image, "a b", np.array([4.0, 8.0, 20.0, 44.0]))
    assert [ink_columns(word) for word in words] == [4, 35]


def test_a_stroke_that_joins_two_words_is_cut():
    image = bars(4, 60, width=96)
    image[16, 4:60] = 0
    words = cut_line(image, "a b", np.array([4.0, 20.0, 28.0, 64.0]))
    assert [ink_columns(word) for word in words] == [20, 40]


def test_a_line_with_a_word_that_gets_no_ink_is_not_cut():
    assert cut_line(bars(4, 60), "a b c", np.array([4.0, 8.0, 20.0, 30.0, 40.0, 64.0])) is None
    assert cut_line(bars(), "a", np.array([0.0, 9.0])) is None


def test_words_from_right_to_left_come_in_the_order_of_the_text():
    image = bars(4, 40, 48)
    words = cut_line(image, "שם א", np.array([52.0, 46.0, 40.0, 10.0, 4.0]))
    assert [ink_columns(word) for word in words] == [8, 4]


# The command


LINES = ("ab ba", "b aab a", "aa bb ab", "bba", "ba b", "ab aa b", "abab", "a bb")


def make_reader(checkpoint, model, folder):
    """A copy of a checkpoint that spells a space in place of Z, and has a latent recogniser that has learnt a
    folder's lines by heart.
    """
    shutil.copytree(checkpoint, model)
    config = json.loads((model / CONFIG_NAME).read_text())
    config["charset"] = config["charset"].replace("Z", " ")
    config["width_model"]["character_widths"][" "] = 9.0
    (model / CONFIG_NAME).write_text(json.dumps(config))
    charset = Charset(characters=tuple(config["charset"]))
    records = read_text_images(folder)
    vae = load_vae(model / "vae")
    images = stack_images([read_image(folder / record.file_name) for record in records])
    with torch.no_grad():
        latents = encode_images(vae, images, vae.in_channels, torch.device("cpu"))[:, 0].float()
    lengths = torch.tensor([len(record.text) for record in records])
    ids = charset.encode([record.text for record in records], int(lengths.max()))
    torch.manual_seed(0)
    recogniser = LatentRecogniser(
        LatentRecogniserConfig(
            vocabulary_size=charset.vocabulary_size, latent_height=IMG_SIZE[0] // 8, channels=(16, 16, 16, 32)
        )
    )
    loss = train_latent_recogniser(
        recogniser,
        lambda step: (latents, ids, lengths),
        250,
        seed=0,
        autocast=contextlib.nullcontext,
        learning_rate=1e-2,
    )
    assert loss < 0.5
    recogniser.save_pretrained(model / LATENT_RECOGNISER_FOLDER)


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "lines"
    make_word_folder(folder, LINES, ("01", "02"), splits=("train", "test"), img_size=(HEIGHT, 128))
    return folder


@pytest.fixture(scope="module")
def reader(checkpoint, lines, tmp_path_factory):
    """The tiny model with a latent recogniser that reads ``lines``."""
    model = tmp_path_factory.mktemp("model") / "reader"
    make_reader(checkpoint, model, lines)
    return model


def call(*flags):
    main(parse_args([str(flag) for flag in flags]))


def test_lines_become_their_words(reader, lines, tmp_path, capsys):
    command = ("--models_path", reader, "--dataset_path", lines, "--save_dir", tmp_path / "words")
    call(*command)
    source = {record.file_name: record for record in read_text_images(lines)}
    words = read_text_images(tmp_path / "words")
    assert len(words) >= 10
    by_line = {
        name: [w for w in words if w.extra["line"] == name] for name in {w.extra["line"] for w in words}
    }
    for name, of_line in by_line.items():
        line = source[name]
        assert [word.text for word in of_line] == line.text.split()
        assert {(word.writer, word.split) for word in of_line} == {(line.writer, line.split)}
        images = [read_image(tmp_path / "words" / word.file_name) for word in of_line]
        assert sum(int((image < INK).sum()) for image in images) == int(
            (read_image(lines / name) < INK).sum()
        )
    dropped = read_jsonl(tmp_path / "words" / "dropped.jsonl")
    assert len(dropped) + len(by_line) == len(source)
    assert f"into {len(words)} words" in capsys.readouterr().out
    call(*command)
    assert "holds these words already" in capsys.readouterr().out


def test_what_can_not_be_cut_is_counted_by_its_reason(reader, lines, tmp_path, capsys):
    folder = shutil.copytree(lines, tmp_path / "mixed")
    records = read_text_images(folder)
    texts = {0: "a§ b", 1: " ", 2: "mmmm kkkk"}
    changed = [replace(record, text=texts.get(i, record.text)) for i, record in enumerate(records)]
    write_metadata(folder, changed)
    call("--models_path", reader, "--dataset_path", folder, "--save_dir", tmp_path / "words")
    dropped = {note["file_name"]: note["reason"] for note in read_jsonl(tmp_path / "words" / "dropped.jsonl")}
    reasons = [dropped[records[i].file_name] for i in range(3)]
    assert reasons == ["unknown_characters", "empty_text", "not_aligned"]
    assert "unknown_characters        1" in capsys.readouterr().out


def test_lines_of_one_stem_give_words_of_different_names(reader, lines, tmp_path):
    folder = shutil.copytree(lines, tmp_path / "twins")
    records = read_text_images(folder)
    for kind in ("png", "PNG"):
        shutil.copyfile(folder / records[0].file_name, folder / f"images/twin.{kind}")
    twins = [replace(records[0], file_name=f"images/twin.{kind}") for kind in ("png", "PNG")]
    write_metadata(folder, [*records, *twins])
    call("--models_path", reader, "--dataset_path", folder, "--save_dir", tmp_path / "words")
    names = [word.file_name.casefold() for word in read_text_images(tmp_path / "words")]
    assert len(set(names)) == len(names)


def test_a_model_without_a_latent_recogniser_is_named(checkpoint, words_folder, tmp_path, capsys):
    flags = ("--models_path", checkpoint, "--dataset_path", words_folder, "--save_dir", tmp_path / "words")
    with pytest.raises(SystemExit):
        run(main, parse_args([str(flag) for flag in flags]))
    message = capsys.readouterr().err
    assert f"--models_path {checkpoint}" in message and "--recognition_weight" in message
    assert not (tmp_path / "words" / "metadata.jsonl").exists()
