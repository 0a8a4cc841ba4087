"""The style encoder's training: it learns, saves, resumes, and names what is wrong."""

import json

import numpy as np
import pytest
import torch

from diffusion.windows import Words
from evaluation.train_style_encoder import augment, cut_segments, main, parse_args
from feature_extractor import StyleEncoder
from tests.helpers import make_word_folder
from utils.images import measure_ink

FLAGS = [
    "--batch_size",
    "4",
    "--style_dim",
    "16",
    "--window",
    "32",
    "--mixed_precision",
    "no",
    "--save_every",
    "2",
]


@pytest.fixture
def folder(tmp_path):
    make_word_folder(tmp_path / "words", ["abc", "cab", "bad", "fed"], ("01", "02"), img_size=(32, 64))
    return tmp_path / "words"


def train(folder, run, *flags):
    main(parse_args(["--dataset_path", str(folder), "--save_path", str(run), *FLAGS, *flags]))


def test_a_run_can_be_loaded_and_says_how_good_it_is(folder, tmp_path, capsys):
    train(folder, tmp_path / "run", "--max_train_steps", "3")
    encoder = StyleEncoder.from_pretrained(tmp_path / "run")
    assert encoder.config.writers == ("01", "02") and encoder.config.img_size == (32, 64)
    assert "held-out images (by chance 50.0 %)" in capsys.readouterr().out
    config = json.loads((tmp_path / "run" / "step_00000003" / "config.json").read_text())
    assert config["step"] == 3 and 0 <= config["val_accuracy"] <= 1


def test_a_resumed_run_is_the_same_as_one_without_a_stop(folder, tmp_path):
    train(folder, tmp_path / "whole", "--max_train_steps", "4")
    train(folder, tmp_path / "parts", "--max_train_steps", "2")
    # The rate comes down by --max_train_steps, so the first part needs the same horizon; it ends by hand
    # instead.
    train(folder, tmp_path / "again", "--max_train_steps", "4")
    whole, again = (StyleEncoder.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "again"))
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    import shutil

    shutil.rmtree(tmp_path / "again" / "step_00000004")
    train(folder, tmp_path / "again", "--resume")
    resumed = StyleEncoder.from_pretrained(tmp_path / "again").state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_finished_run_is_only_measured(folder, tmp_path, capsys):
    train(folder, tmp_path / "run", "--max_train_steps", "2")
    train(folder, tmp_path / "run", "--resume", "--max_train_steps", "0")
    assert "accuracy" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "run").glob("step_*")] == ["step_00000002"]


def test_a_run_is_not_overwritten(folder, tmp_path):
    train(folder, tmp_path / "run", "--max_train_steps", "1")
    with pytest.raises(ValueError, match="--resume"):
        train(folder, tmp_path / "run", "--max_train_steps", "1")


def test_one_writer_is_not_enough(tmp_path):
    make_word_folder(tmp_path / "words", ["abc", "cab"], ("01",), img_size=(32, 64))
    with pytest.raises(ValueError, match=r"one writer alone \(01\)"):
        train(tmp_path / "words", tmp_path / "run", "--max_train_steps", "1")


def test_another_backbone_on_resume_is_refused(folder, tmp_path):
    train(folder, tmp_path / "run", "--max_train_steps", "1")
    with pytest.raises(ValueError, match="--backbone resnet18: the run to --resume has mobilenet_v3_small"):
        train(folder, tmp_path / "run", "--resume", "--backbone", "resnet18")


def test_other_writers_on_resume_are_refused(folder, tmp_path):
    train(folder, tmp_path / "run", "--max_train_steps", "1")
    make_word_folder(tmp_path / "other", ["abc", "cab", "bad"], ("01", "03"), img_size=(32, 64))
    with pytest.raises(ValueError, match="other writers"):
        train(tmp_path / "other", tmp_path / "run", "--resume")


@pytest.mark.parametrize(
    "flags",
    [["--max_train_steps", "0"], ["--learning_rate", "nan"], ["--weight_decay", "-1"], ["--backbone", "vgg"]],
)
def test_bad_flags_are_named(flags, capsys):
    with pytest.raises(SystemExit):
        parse_args(["--dataset_path", "x", "--save_path", "y", *flags])
    assert flags[0] in capsys.readouterr().err


def test_measured_extent_is_the_inks():
    image = np.full((1, 16, 64), 255, np.uint8)
    image[0, 4:8, 10:21] = 0
    assert measure_ink(image)[:, [0, 2]].tolist() == [[10.0, 21.0]]


def test_windows_show_ink_on_white_and_follow_the_generator():
    images = torch.full((8, 32, 128), 255, dtype=torch.uint8)
    images[:, 10:20, 8:100] = 0
    extent = measure_ink(images.numpy())[:, [0, 2]]
    one, other, third = (
        augment(images, extent, 48, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert one.shape == (8, 1, 32, 48) and one.min() >= -1 and one.max() <= 1
    assert torch.equal(one, other) and not torch.equal(one, third)
    assert (one < 0).any(dim=(1, 2, 3)).all()


def test_a_segment_lies_anywhere_in_a_line_and_a_word_is_taken_whole():
    strip = torch.full((32, 350), 255, dtype=torch.uint8)
    strip[16] = torch.arange(350) // 2  # tells where a segment begins
    images = Words(strip=strip, starts=torch.tensor([0, 300]), widths=torch.tensor([300, 50]))
    segments = cut_segments(images, torch.tensor([0] * 20 + [1]), 48, torch.Generator().manual_seed(0))
    assert segments.shape == (21, 32, 64)
    first = segments[:20, 16, 0]
    assert first.min() < 40 and first.max() > 80 and segments[:20, 16, -1].max() < 150
    assert (segments[20, 16, :50] == strip[16, 300:]).all() and (segments[20, :, 50:] == 255).all()
