"""The augmentation study, run whole at the smallest size: nothing leaks, everything is resumed, the answer is
written.
"""

import json

import pytest

from evaluation import htr_study
from evaluation.htr_study import main, parse_args
from htr import trainer as htr_trainer
from tests.helpers import IMG_SIZE, WORDS, make_word_folder
from utils.text_images import read_text_images

FLAGS = [
    "--fractions",
    "50",
    "100",
    "--seeds",
    "2",
    "--generator_steps",
    "1",
    "--generator_batch_size",
    "2",
    "--synthetic",
    "0.5",
    "--num_steps",
    "1",
    "--htr_steps",
    "2",
    "--validate_every",
    "2",
    "--htr_batch_size",
    "2",
    "--mixed_precision",
    "no",
]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "real"
    make_word_folder(
        folder,
        WORDS * 2,
        ("p", "q"),
        splits=("train", "train", "train", "train", "val", "val", "test", "test"),
        img_size=IMG_SIZE,
    )
    return folder


@pytest.fixture(autouse=True)
def tiny_recogniser(monkeypatch):
    config = htr_trainer.CRNNConfig
    monkeypatch.setattr(
        htr_trainer, "CRNNConfig", lambda **given: config(**given, channels=(4, 8, 8, 8), hidden=8, layers=1)
    )


def study(real, checkpoint, path, *flags):
    main(
        parse_args(
            [
                "--dataset_path",
                str(real),
                "--generator",
                str(checkpoint),
                "--save_path",
                str(path),
                *FLAGS,
                *map(str, flags),
            ]
        )
    )


def test_a_whole_study(real, checkpoint, tmp_path, capsys, monkeypatch):
    study(real, checkpoint, tmp_path / "study")
    out = capsys.readouterr().out
    assert "real+synthetic against real: CER" in out
    results = json.loads((tmp_path / "study" / "study.json").read_text())
    assert [(row["fraction"], row["arm"]["name"]) for row in results["rows"]] == [
        (fraction, name)
        for fraction in (50.0, 100.0)
        for name in ("real", "synthetic", "real+synthetic", "synthetic, then real")
    ]
    assert results["test_words"] == 12 and results["seeds"] == 2
    assert (tmp_path / "study" / "report.html").is_file() and (tmp_path / "study" / "study.csv").is_file()

    # Nothing leaks: a fraction's generator saw this fraction, and its words are none of the data set's
    # training words.
    test = {record.file_name for record in read_text_images(real, splits=["test"])}
    for name, share in (("fraction_050.00", 0.5), ("fraction_100.00", 1.0)):
        part = read_text_images(tmp_path / "study" / name / "real")
        assert sum(r.split == "train" for r in part) == 24 * share and not {r.file_name for r in part} & test
        checkpoint_config = next((tmp_path / "study" / name / "generator").glob("step_*")) / "config.json"
        config = json.loads(checkpoint_config.read_text())
        assert config["words"] == 24 * share and config["init_from"] is not None
        synthetic = read_text_images(tmp_path / "study" / name / "synthetic")
        assert len(synthetic) == 12 and not {r.text for r in synthetic} & {
            r.text for r in part if r.split == "train"
        }
        assert {r.writer for r in synthetic} == {"p", "q"}
        counts = {
            row["arm"]["slug"]: row["words"] for row in results["rows"] if row["fraction"] == 100 * share
        }
        assert counts == {
            "real": 24 * share,
            "synthetic": 12,
            "mixed": 24 * share + 12,
            "then_real": 24 * share,
        }
        log = tmp_path / "study" / name / "recognisers"
        state = next((log / "then_real-1").glob("step_*/training_state/*.json")).read_text()
        assert str(log / "synthetic-1") in state

    # Started again with another seed: what is done stays, the rest is added.
    calls = []
    monkeypatch.setattr(htr_study, "call_script", lambda name, *rest: calls.append(name))
    trained = []
    original = htr_study.train_recogniser
    monkeypatch.setattr(
        htr_study, "train_recogniser", lambda *given, **named: trained.append(1) or original(*given, **named)
    )
    study(real, checkpoint, tmp_path / "study", "--seeds", 3)
    assert calls == [] and len(trained) == 8
    with pytest.raises(ValueError, match="holds a study with --htr_steps 2, not 3"):
        study(real, checkpoint, tmp_path / "study", "--htr_steps", 3)


def test_the_upper_bound_is_marked(real, checkpoint, tmp_path):
    study(real, checkpoint, tmp_path / "study", "--fractions", 100, "--seeds", 1)
    full = tmp_path / "study" / "fraction_100.00" / "generator"
    study(real, checkpoint, tmp_path / "bound", "--fractions", 50, "--seeds", 1, "--full_generator", full)
    rows = json.loads((tmp_path / "bound" / "study.json").read_text())["rows"]
    assert [row["arm"]["is_upper_bound"] for row in rows] == [False, False, False, False, True]
    assert "it is no fair comparison below 100 %" in (tmp_path / "bound" / "report.html").read_text()
    with pytest.raises(ValueError, match=r"was trained on writers of --dataset_path .* would leak"):
        study(real, full, tmp_path / "leak")


def test_bad_input_is_named(real, checkpoint, tmp_path):
    with pytest.raises(SystemExit):
        parse_args(["--dataset_path", "a", "--generator", "b", "--save_path", "c", "--fractions", "0"])
    with pytest.raises(SystemExit):
        parse_args(["--dataset_path", "a", "--generator", "b", "--save_path", "c", "--max_cer", "0.1"])
    with pytest.raises(FileNotFoundError, match=r"--generator .*nothing: no config\.json"):
        study(real, tmp_path / "nothing", tmp_path / "study")
    make_word_folder(tmp_path / "no_test", WORDS, img_size=IMG_SIZE)
    with pytest.raises(ValueError, match="no word of split test"):
        study(tmp_path / "no_test", checkpoint, tmp_path / "other")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("")
    with pytest.raises(ValueError, match="not empty, and no study"):
        study(real, checkpoint, tmp_path / "full")


def test_a_failing_step_says_what_and_where(real, checkpoint, tmp_path):
    (tmp_path / "words.txt").write_text("cab\n")  # too few for all hands
    with pytest.raises(ValueError, match=r"inference.py ended with 2: error: .*synthetic\.log"):
        study(real, checkpoint, tmp_path / "study", "--words_file", tmp_path / "words.txt")


def test_what_is_needed_hours_later_is_looked_at_first(real, checkpoint, tmp_path):
    for flag, value in (
        ("--words_file", tmp_path / "words.txt"),
        ("--recogniser", "nowhere"),
        ("--init_from", tmp_path),
    ):
        with pytest.raises(FileNotFoundError, match=flag):
            study(real, checkpoint, tmp_path / "study", flag, value)
    assert not (tmp_path / "study").exists()
