"""Filtering: what is kept, what is dropped and why, and what can go wrong."""

import json

import numpy as np
import pytest
from PIL import Image

from generation import word_scores
from generation.filter_words import main, parse_args
from generation.word_scores import choose_best
from htr.recogniser import Reading
from tests.helpers import hash_tree, make_word_folder
from utils.cli import run
from utils.text_images import TextImage, read_text_images, write_metadata

WORDS = ["abc", "cab", "bad", "fed", "deaf"]


class FakeRecogniser:
    """Reads every word as "cab", the surer the darker its image is."""

    name = "fake"

    def read(self, images, *, batch_size=64):
        return [Reading(text="cab", confidence=float((255 - image.mean()) / 255)) for image in images]


@pytest.fixture
def folder(tmp_path):
    make_word_folder(tmp_path / "words", WORDS * 2, ("01", "02"), img_size=(32, 64))
    return tmp_path / "words"


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(word_scores, "load_recogniser", lambda name, **options: FakeRecogniser())


@pytest.fixture
def keep(folder, tmp_path, fake):
    """Run the script; returns the output folder."""

    def call(*flags, save_dir=tmp_path / "out"):
        main(parse_args(["--dataset_path", str(folder), "--save_dir", str(save_dir), *map(str, flags)]))
        return save_dir

    return call


@pytest.fixture
def fail(folder, tmp_path, fake, capsys):
    """Run the script with bad arguments; returns its message."""

    def call(*flags):
        with pytest.raises(SystemExit):
            run(
                main,
                parse_args(
                    ["--dataset_path", str(folder), "--save_dir", str(tmp_path / "out"), *map(str, flags)]
                ),
            )
        return capsys.readouterr().err

    return call


def dropped(folder):
    return [json.loads(line) for line in (folder / "dropped.jsonl").read_text().splitlines()]


BY_CONFIDENCE = ("--by", "confidence", "--recogniser", "fake")
BY_CER = ("--by", "cer", "--recogniser", "fake")


def test_the_surest_words_are_kept_with_their_scores(keep, folder):
    out = keep(*BY_CONFIDENCE, "--top", 50)
    kept = read_text_images(out)
    assert len(kept) == 5 == len(dropped(out))
    assert min(r.extra["confidence"] for r in kept) >= max(r["confidence"] for r in dropped(out))
    assert {r["reason"] for r in dropped(out)} == {"not_in_top_50_percent"}
    for record in kept:
        assert (out / record.file_name).read_bytes() == (folder / record.file_name).read_bytes()


def test_a_threshold_on_errors_keeps_what_is_read(keep):
    out = keep(*BY_CER, "--threshold", 0)
    assert {record.text for record in read_text_images(out)} == {"cab"}
    assert {r["reason"] for r in dropped(out)} == {"cer_over_0"}
    summary = json.loads((out / "filter_summary.json").read_text())
    assert (
        summary["kept"] == 2 and summary["dropped"] == {"cer_over_0": 8} and summary["recogniser"] == "fake"
    )
    assert summary["mean_cer_after"] == 0 < summary["mean_cer_before"]


def test_balanced_by_writer_each_hand_keeps_its_share(keep):
    kept = read_text_images(keep(*BY_CONFIDENCE, "--top", 40, "--balance", "writer"))
    assert sorted(record.writer for record in kept) == ["01", "01", "02", "02"]


def test_small_groups_keep_the_share_of_all():
    records = [
        TextImage(file_name=f"{i}.png", text="x" * (1 + i % 50), writer=f"w{i % 7}") for i in range(350)
    ]
    scores = {record.file_name: {"cer": i / 350} for i, record in enumerate(records)}
    chosen = choose_best(records, scores, "cer", 50, ["writer", "length"])
    assert len(chosen) == 175


def test_the_nearest_words_to_the_real_ones_are_kept(keep, folder, tmp_path):
    make_word_folder(tmp_path / "real", WORDS * 2, ("01", "02"), img_size=(32, 96))
    records = read_text_images(folder)
    Image.fromarray(np.zeros((32, 64), np.uint8)).save(folder / records[0].file_name)
    out = keep("--by", "nmae", "--reference", tmp_path / "real", "--top", 90)
    assert [r["file_name"] for r in dropped(out)] == [records[0].file_name] and dropped(out)[0]["nmae"] > 0.3


def test_words_without_a_real_one_are_counted(keep, folder, tmp_path):
    make_word_folder(tmp_path / "real", WORDS, ("01",), img_size=(32, 64))
    out = keep("--by", "nmae", "--reference", tmp_path / "real", "--top", 100)
    assert json.loads((out / "filter_summary.json").read_text())["dropped"] == {"no_reference": 5}


def test_damaged_images_are_counted(keep, folder):
    (folder / read_text_images(folder)[0].file_name).write_bytes(b"not a picture")
    out = keep(*BY_CONFIDENCE, "--top", 100)
    assert [r["reason"] for r in dropped(out)] == ["damaged_image"]


def test_scores_of_the_metadata_need_no_recogniser(keep, folder):
    records = read_text_images(folder)
    scored = [
        TextImage(file_name=r.file_name, text=r.text, writer=r.writer, split=r.split, extra={"cer": i / 10})
        for i, r in enumerate(records)
    ]
    write_metadata(folder, scored)
    (folder / "inference.json").write_text('{"recogniser": "runs/htr"}')
    out = keep("--by", "cer", "--threshold", 0.2)
    assert len(read_text_images(out)) == 3
    assert json.loads((out / "filter_summary.json").read_text())["recogniser"] == "runs/htr"


def test_the_source_stays_as_it_is(keep, folder):
    before = hash_tree(folder)
    keep(*BY_CONFIDENCE, "--top", 50)
    assert hash_tree(folder) == before


def test_an_interrupted_run_goes_on(keep, folder, tmp_path, monkeypatch):
    whole = keep(*BY_CONFIDENCE, "--top", 50)
    monkeypatch.setattr(word_scores, "CHUNK", 4)

    class Dying(FakeRecogniser):
        calls = 0

        def read(self, images, *, batch_size=64):
            self.calls += 1
            if self.calls > 1:
                raise KeyboardInterrupt
            return super().read(images)

    monkeypatch.setattr(word_scores, "load_recogniser", lambda name, **options: Dying())
    with pytest.raises(KeyboardInterrupt):
        keep(*BY_CONFIDENCE, "--top", 50, save_dir=tmp_path / "again")
    seen = []
    recogniser = FakeRecogniser()
    read = recogniser.read
    recogniser.read = lambda images, **options: seen.append(len(images)) or read(images)
    monkeypatch.setattr(word_scores, "load_recogniser", lambda name, **options: recogniser)
    again = keep(*BY_CONFIDENCE, "--top", 50, save_dir=tmp_path / "again")
    assert sum(seen) == 6 and (again / "metadata.jsonl").read_text() == (whole / "metadata.jsonl").read_text()


def test_a_finished_folder_is_left_alone(keep, capsys):
    out = keep(*BY_CONFIDENCE, "--top", 50)
    before = hash_tree(out)
    keep(*BY_CONFIDENCE, "--top", 50)
    assert hash_tree(out) == before and "--overwrite" in capsys.readouterr().out


def test_other_settings_need_overwrite(keep, fail):
    keep(*BY_CONFIDENCE, "--top", 50)
    assert "holds words of other settings" in fail(*BY_CONFIDENCE, "--top", 60)
    assert len(read_text_images(keep(*BY_CONFIDENCE, "--top", 60, "--overwrite"))) == 6


def test_a_threshold_that_keeps_nothing_names_the_range(fail):
    assert "--threshold 2: keeps none of 10 words, whose confidence is 0." in fail(
        *BY_CONFIDENCE, "--threshold", 2
    )


def test_a_share_that_keeps_nothing_is_named(fail):
    assert "--top 1: keeps none of 10 words" in fail(*BY_CONFIDENCE, "--top", 1)


def test_missing_scores_are_named(fail):
    assert "--by cer: the words of" in fail("--by", "cer", "--threshold", 0)


def test_a_reference_without_common_names_is_named(fail, tmp_path):
    make_word_folder(tmp_path / "real", ["abc"], ("01",), img_size=(32, 64))
    records = read_text_images(tmp_path / "real")
    (tmp_path / "real" / "images" / "other.png").write_bytes(
        (tmp_path / "real" / records[0].file_name).read_bytes()
    )
    write_metadata(tmp_path / "real", [TextImage(file_name="images/other.png", text="abc", writer="01")])
    assert "no record has the name of one" in fail(
        "--by", "nmae", "--reference", tmp_path / "real", "--top", 50
    )


@pytest.mark.parametrize(
    "flags",
    [
        [*BY_CER],
        [*BY_CER, "--top", "5", "--threshold", "1"],
        [*BY_CER, "--top", "0"],
        [*BY_CER, "--top", "101"],
        [*BY_CER, "--threshold", "0", "--balance", "writer"],
        ["--by", "nmae", "--top", "5"],
        [*BY_CER, "--top", "5", "--reference", "x"],
    ],
)
def test_bad_flags_are_named(flags, capsys):
    with pytest.raises(SystemExit):
        parse_args(["--dataset_path", "x", "--save_dir", "y", *flags])
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("save_dir", ["words", "words/best", "words/images/../best"])
def test_nothing_is_written_into_the_source(fail, folder, tmp_path, save_dir):
    before = hash_tree(folder)
    assert "Name a" in fail(*BY_CER, "--top", 50, "--save_dir", tmp_path / save_dir)
    assert hash_tree(folder) == before


@pytest.mark.parametrize("top", [float("nan"), -5, 0, 101])
def test_a_share_is_a_percentage_also_from_python(top):
    with pytest.raises(ValueError, match="a percentage above 0, at most 100"):
        choose_best([TextImage(file_name="a.png", text="a", writer="w")], {"a.png": {"cer": 0.0}}, "cer", top)
