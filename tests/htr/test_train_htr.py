"""The recogniser's training: it learns, keeps its best, resumes, measures, and names what is wrong."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from htr import trainer as htr_trainer
from htr import training as htr_training
from htr.crnn import CRNN, PRESETS, RECOGNISER_WEIGHTS_NAME, CRNNConfig
from htr.dataset import read_split
from htr.error_rates import ErrorRates
from htr.recogniser import load_recogniser
from htr.train_htr import main, parse_args
from htr.trainer import HTRSettings, HTRTrainer
from htr.training import make_model, train_recogniser
from tests.helpers import assert_equal_files, make_word_folder
from utils.checkpoint import save_checkpoint
from utils.errors import UserError
from utils.sources import parse_sources, read_image, read_sources

WORDS = ("cab", "abe", "deaf", "bad", "ace", "face", "dab", "fed", "bead", "cafe")
SPLITS = ("train", "train", "train", "val", "test")
FLAGS = ["--batch_size", "4", "--mixed_precision", "no", "--validate_every", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "words"
    make_word_folder(folder, WORDS, splits=SPLITS, img_size=(32, 64))
    return folder


@pytest.fixture(autouse=True)
def tiny_model(monkeypatch):
    """New models of 5,000 parameters."""
    config = htr_training.CRNNConfig
    monkeypatch.setattr(
        htr_training, "CRNNConfig", lambda **given: config(**given, channels=(4, 8, 8, 8), hidden=8, layers=1)
    )


def train(folder, run, *flags):
    main(parse_args(["--train", str(folder), "--save_path", str(run), *FLAGS, *map(str, flags)]))


def make_rates(cer):
    return ErrorRates(words=2, cer=cer, cer_interval=(0, 1), wer=1.0, wer_interval=(0, 1))


def make_trainer(folder, **changes):
    words = read_sources(parse_sources([str(folder)]))
    settings = HTRSettings(**{"batch_size": 4, "validate_every": 2, **changes})
    valid = read_split(folder, "val", flag="--valid")
    return HTRTrainer(
        make_model(words, None, None, 0), words, valid, settings, precision="no", device=torch.device("cpu")
    )


# A run


def test_a_run_is_a_recogniser_and_says_how_good_it_is(folder, tmp_path, capsys):
    train(folder, tmp_path / "run", "--max_train_steps", 3, "--test", folder, "--valid", folder)
    readings = load_recogniser(str(tmp_path / "run")).read([read_image(folder / "images" / "0000.png")])
    assert len(readings) == 1
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["words"] == 6 and results["train"] == {str(folder): 6} and results["step"] == 3
    for name in ("valid", "test"):
        low, high = results[name]["cer_interval"]
        assert results[name]["words"] == 2 and low <= results[name]["cer"] <= high
    assert "test        CER" in capsys.readouterr().out
    log = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert log[0].startswith("step,loss") and [row.split(",")[0] for row in log[1:]] == ["2", "3"]


def test_training_lowers_the_loss(folder):
    trainer = make_trainer(folder, max_train_steps=200, learning_rate=1e-2, augment=False)
    losses = [float(trainer.train_step()["loss"]) for _ in range(60)]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_the_best_weights_are_kept_and_loaded(folder, tmp_path, monkeypatch):
    rates = iter([0.5, 0.2, 0.4])
    measure = htr_trainer.measure_errors
    monkeypatch.setattr(
        htr_trainer,
        "measure_errors",
        lambda *given: make_rates(next(rates)),
    )
    trainer = make_trainer(folder)
    averages = []
    for _ in range(3):
        trainer.train_step()
        trainer.validate()
        averages.append(trainer.ema.module.head.weight.clone())
    save_checkpoint(tmp_path / "run", trainer.step, trainer.write_checkpoint)
    monkeypatch.setattr(htr_trainer, "measure_errors", measure)
    assert (trainer.best_step, trainer.stale) == (2, 1)
    assert torch.equal(CRNN.from_pretrained(tmp_path / "run").head.weight, averages[1])


def test_training_ends_when_validations_stop_getting_better(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(htr_trainer, "measure_errors", lambda *given: make_rates(1.0))
    train(folder, tmp_path / "run", "--max_train_steps", 100, "--patience", 2)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (results["best_step"], results["step"]) == (2, 6)


# Going on


def test_a_resumed_run_is_the_same_as_one_without_a_stop(folder, tmp_path):
    train(folder, tmp_path / "whole", "--max_train_steps", 6)
    train(folder, tmp_path / "parts", "--max_train_steps", 6)
    shutil.rmtree(tmp_path / "parts" / "step_00000006")  # two are kept: as if it had been stopped at step 4
    train(folder, tmp_path / "parts", "--resume")
    names = (
        "recogniser.safetensors",
        "training_state/raw_weights.safetensors",
        "training_state/optimizer.safetensors",
    )
    assert_equal_files(tmp_path / "whole" / "step_00000006", tmp_path / "parts" / "step_00000006", names)
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "parts")]
    assert results[0]["valid"] == results[1]["valid"] and results[0]["best_step"] == results[1]["best_step"]


def test_a_signal_saves_and_stops_and_changes_nothing(folder, tmp_path, monkeypatch, capsys):
    train(folder, tmp_path / "whole", "--max_train_steps", 4)
    step = HTRTrainer.train_step

    def interrupt(trainer):
        loss = step(trainer)
        if trainer.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    monkeypatch.setattr(HTRTrainer, "train_step", interrupt)
    train(folder, tmp_path / "parts", "--max_train_steps", 4)
    assert (
        "--resume goes on" in capsys.readouterr().err and not (tmp_path / "parts" / "results.json").exists()
    )
    assert (tmp_path / "parts" / "step_00000003").is_dir()  # between validations
    monkeypatch.setattr(HTRTrainer, "train_step", step)
    train(folder, tmp_path / "parts", "--resume")
    names = ("recogniser.safetensors", "training_state/raw_weights.safetensors")
    assert_equal_files(tmp_path / "whole" / "step_00000004", tmp_path / "parts" / "step_00000004", names)


def test_a_finished_run_is_only_measured(folder, tmp_path):
    train(folder, tmp_path / "run", "--max_train_steps", 2)
    train(folder, tmp_path / "run", "--resume", "--test", folder)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["step"] == 2 and results["test"]["words"] == 2


def test_a_run_is_not_overwritten(folder, tmp_path):
    train(folder, tmp_path / "run", "--max_train_steps", 1)
    with pytest.raises(ValueError, match="--resume"):
        train(folder, tmp_path / "run", "--max_train_steps", 1)


def test_a_run_starts_from_another_and_learns_its_new_characters(folder, tmp_path):
    train(folder, tmp_path / "run", "--max_train_steps", 1)
    make_word_folder(tmp_path / "other", ["xyz", "cab", "zab"], img_size=(32, 64))
    train(tmp_path / "other", tmp_path / "next", "--max_train_steps", 1, "--init_from", tmp_path / "run")
    old, new = CRNN.from_pretrained(tmp_path / "run"), CRNN.from_pretrained(tmp_path / "next")
    assert new.config.characters[: len(old.config.characters)] == old.config.characters
    assert set("xyz") & set(new.config.characters)
    # A run that goes on knows where it came from.
    train(tmp_path / "other", tmp_path / "next", "--resume", "--max_train_steps", 2)
    assert json.loads((tmp_path / "next" / "results.json").read_text())["init_from"] == str(tmp_path / "run")


def test_new_characters_on_resume_are_refused(folder, tmp_path):
    train(folder, tmp_path / "run", "--max_train_steps", 1)
    make_word_folder(tmp_path / "other", ["xyz", "cab", "zab"], img_size=(32, 64))
    with pytest.raises(ValueError, match="characters that the run does not know"):
        train(tmp_path / "other", tmp_path / "run", "--resume")


# Words


def test_folders_of_several_widths_and_shares_train_together(folder, tmp_path):
    make_word_folder(tmp_path / "wide", ["feed"] * 40, img_size=(32, 256))
    args = [
        "--train",
        str(folder),
        "--train",
        f"{tmp_path / 'wide'}:0.5",
        "--save_path",
        str(tmp_path / "run"),
    ]
    main(parse_args([*args, *FLAGS, "--max_train_steps", "1"]))
    counts = json.loads((tmp_path / "run" / "results.json").read_text())["train"]
    assert counts[str(folder)] == 6 and 5 < counts[str(tmp_path / "wide")] < 33


def test_a_study_trains_on_word_lists_without_a_word_printed(folder, tmp_path):
    words, said = read_sources(parse_sources([str(folder)])), []
    results = train_recogniser(
        words,
        tmp_path / "run",
        valid=read_split(folder, "val", flag="--valid"),
        test=read_split(folder, "test", flag="--test"),
        mixed_precision="no",
        report=said.append,
        settings=HTRSettings(max_train_steps=1, batch_size=2),
    )
    assert results == json.loads((tmp_path / "run" / "results.json").read_text(), object_hook=_with_tuples)
    assert said[0].startswith("images      6 to train on (6 an epoch), 2 to validate on, 2 to test on")


def _with_tuples(values):
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def test_characters_that_no_training_word_has_are_counted_and_said(folder, tmp_path, capsys):
    make_word_folder(tmp_path / "test", ["xay", "cab"], splits=("test",), img_size=(32, 64))
    train(folder, tmp_path / "run", "--max_train_steps", 1, "--test", tmp_path / "test")
    assert "1 of 2 test texts can't be read right: no training text has their x y" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "results.json").read_text())["unknown_characters"]["test"] == {
        "x": 1,
        "y": 1,
    }


def test_words_too_narrow_for_their_text_are_skipped_and_counted(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "words")
    Image.new("L", (64, 32), 255).save(
        tmp_path / "words" / "images" / "0002.png"
    )  # deaf: 16 pixels of white have 4 frames
    Image.new("L", (64, 32), 255).save(tmp_path / "words" / "images" / "0005.png")
    metadata = tmp_path / "words" / "metadata.jsonl"
    metadata.write_text(metadata.read_text().replace('"face"', '"faace"'))
    train(tmp_path / "words", tmp_path / "run", "--max_train_steps", 1)
    assert "skipped     1 images that are too narrow for their text, e.g. 'faace'" in capsys.readouterr().out


def test_one_image_is_enough(tmp_path):
    make_word_folder(tmp_path / "words", ["cab"], img_size=(32, 64))
    train(tmp_path / "words", tmp_path / "run", "--max_train_steps", 2)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["valid"]["cer_interval"] is None


# Bad input


def test_a_height_that_does_not_divide_is_named(folder, tmp_path):
    with pytest.raises(SystemExit):
        train(folder, tmp_path / "run", "--height", 40)


def test_a_damaged_image_is_named_before_the_training(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "words")
    (tmp_path / "words" / "images" / "0004.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"0004\.png: not a readable image"):
        train(folder, tmp_path / "run", "--max_train_steps", 1, "--test", tmp_path / "words")
    assert not (tmp_path / "run").exists()


def test_a_decompression_bomb_is_named_before_the_training(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match=r"images.*png: not a readable image .*decompression bomb"):
        train(folder, tmp_path / "run", "--max_train_steps", 1)


def test_a_split_without_words_is_named_with_the_way_out(tmp_path, folder):
    make_word_folder(tmp_path / "words", ["cab"], img_size=(32, 64))
    with pytest.raises(
        ValueError, match=r"--valid .*: no words of split val in metadata.jsonl. --valid_split names another"
    ):
        train(folder, tmp_path / "run", "--valid", tmp_path / "words")


def test_a_missing_folder_is_named_with_its_flag(folder, tmp_path):
    for flag in ("--train", "--valid", "--test"):
        with pytest.raises(FileNotFoundError, match=f"{flag} missing: no such folder"):
            train(folder, tmp_path / "run", flag, "missing")


def test_shares_that_leave_no_word_are_named(folder, tmp_path):
    with pytest.raises(ValueError, match="--train: the shares leave none of 6 words"):
        main(parse_args(["--train", f"{folder}:1e-9", "--save_path", str(tmp_path / "run")]))


@pytest.mark.parametrize(
    "flags", [["--max_train_steps", "0"], ["--learning_rate", "nan"], ["--valid_split", "dev"]]
)
def test_bad_flags_are_named(flags, capsys):
    with pytest.raises(SystemExit):
        parse_args(["--train", "x", "--save_path", "y", *flags])
    assert flags[0] in capsys.readouterr().err


def test_a_large_recogniser_of_its_own_height_is_exported_in_16_bits(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(PRESETS, "large", {"channels": (4, 8, 8, 8), "hidden": 8, "has_shortcut": True})
    monkeypatch.setattr(htr_training, "CRNNConfig", CRNNConfig)
    flags = ("--preset", "large", "--height", 16, "--warmup_steps", 1, "--max_train_steps", 2)
    train(folder, tmp_path / "run", *flags, "--export", tmp_path / "small")
    model = CRNN.from_pretrained(tmp_path / "small")
    assert model.config.img_height == 16 and model.config.has_shortcut
    assert load_file(tmp_path / "small" / RECOGNISER_WEIGHTS_NAME)["head.weight"].dtype == torch.float16
    assert "exported" in capsys.readouterr().out
    train(folder, tmp_path / "run", "--resume", "--export", tmp_path / "again")
    assert_equal_files(tmp_path / "small", tmp_path / "again", (RECOGNISER_WEIGHTS_NAME,))
