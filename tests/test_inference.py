"""Writing words: what, in whose hand, where to; again, in parts, and what can go wrong."""

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion.latent_recogniser import LATENT_RECOGNISER_FOLDER, LatentRecogniser, LatentRecogniserConfig
from diffusion.layout import WidthModel
from diffusion.pipeline import HandwritingPipeline
from diffusion.presets import make_config
from generation.jobs import parse_mix
from generation.output_folder import Part, lock_part
from generation.planning import DEFAULT_WORDS
from htr.recogniser import Reading
from inference import main, parse_args
from tests.helpers import (
    IMG_SIZE,
    PUBLISHED,
    ROOT,
    TINY_TRAINING,
    WORDS,
    WRITERS,
    hash_tree,
    make_word_folder,
    run_script,
    start_script,
)
from unet import UNet
from utils.charset import Charset
from utils.cli import run
from utils.errors import UserError
from utils.text_images import read_text_images

FAST = ("--num_steps", "2", "--device", "cpu")


@pytest.fixture
def write(checkpoint, tmp_path):
    """Run the script in this process into tmp_path/out; returns that folder."""

    def call(*argv, save_path=tmp_path / "out", models_path=checkpoint):
        main(
            parse_args(
                ["--models_path", str(models_path), "--save_path", str(save_path), *FAST, *map(str, argv)]
            )
        )
        return save_path

    return call


@pytest.fixture
def fail(checkpoint, tmp_path, capsys):
    """Run the script with bad arguments; returns its message."""

    def call(*argv):
        with pytest.raises(SystemExit) as error:
            run(
                main,
                parse_args(
                    ["--models_path", str(checkpoint), "--save_path", str(tmp_path / "out"), *FAST, *argv]
                ),
            )
        message = capsys.readouterr().err
        assert error.value.code == 2 and "Traceback" not in message
        return message

    return call


def read_images(folder):
    return {r.file_name: np.asarray(Image.open(folder / r.file_name)) for r in read_text_images(folder)}


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


# What is written


def test_the_command_of_the_readme_writes_default_words_beside_the_model(checkpoint, tmp_path):
    model = shutil.copytree(checkpoint, tmp_path / "model")
    process = start_script("inference", "--models_path", model, "--single_image", "True", "--num_steps", 1)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    records = read_text_images(model / "samples")
    assert (
        tuple(record.text for record in records) == DEFAULT_WORDS
        and f"wrote       {len(DEFAULT_WORDS)} images" in output
    )


@pytest.mark.parametrize(
    "characters", ["0123456789", "αβγδεζηθικλμνξοπρστυφχψω", "abcdefghijklmnoprstuvwxyz"]
)
def test_a_model_of_any_charset_writes_without_being_given_words(pipeline, write, tmp_path, characters):
    charset = Charset(characters=tuple(characters))
    torch.manual_seed(0)
    unet = UNet(make_config("tiny", num_writers=3, vocabulary_size=len(characters) + 1, max_length=8))
    widths = WidthModel(
        character_widths=dict.fromkeys(characters, 7.0), writer_scales={}, left=2.0, room=60.0
    )
    config = replace(pipeline.config, charset=charset, width_model=widths)
    HandwritingPipeline(unet, pipeline.vae, config).save_pretrained(tmp_path / "model")
    records = read_text_images(write("--single_image", "True", models_path=tmp_path / "model"))
    assert records and set("".join(record.text for record in records)) <= set(characters)


def test_a_trained_model_writes_texts_of_its_training(tiny_run, write):
    records = read_text_images(write("--single_image", "True", models_path=tiny_run))
    assert records and {record.text for record in records} <= set(WORDS)


def test_nothing_is_written_beside_a_model_that_ships(monkeypatch):
    monkeypatch.chdir(ROOT)
    for argv in ([], ["--models_path", "models/demo"], ["--models_path", str(ROOT / "models" / "demo")]):
        assert parse_args(argv).save_path == Path("samples")
    assert parse_args(["--models_path", "runs/iam"]).save_path == Path("runs/iam/samples")


def test_the_output_is_a_word_folder(write):
    folder = write("--words", "cab", "zebra", "--writer", "01", "02")
    records = read_text_images(folder)
    assert [(r.text, r.writer, r.split) for r in records] == [
        ("cab", "01", "train"),
        ("cab", "02", "train"),
        ("zebra", "01", "train"),
        ("zebra", "02", "train"),
    ]
    for image in read_images(folder).values():
        assert image.dtype == np.uint8 and image.shape[0] == IMG_SIZE[0]
        assert image.shape[1] % 8 == 0 and image.shape[1] <= IMG_SIZE[1]


def test_the_output_can_be_trained_on(write, vae_folder, tmp_path):
    folder = write("--words", "cab", "bad", "ace", "--writer", "all")
    run_script(
        "train_diffusion",
        "--dataset_path",
        folder,
        "--vae",
        vae_folder,
        "--save_path",
        tmp_path / "run",
        "--max_train_steps",
        1,
        *TINY_TRAINING,
    )
    assert (tmp_path / "run" / "step_00000001").is_dir()


def test_a_picture_shows_the_first_words(write):
    folder = write("--words", "cab")
    (image,) = read_images(folder).values()
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.height > image.shape[0] and sheet.width > 8
        assert (np.asarray(sheet)[: image.shape[0] // 2] < 200).any()


def test_single_image_true_makes_no_sheets(write):
    assert not (write("--words", "cab", "--single_image", "True") / "sheets").exists()


def test_single_image_false_makes_a_sheet_of_all_hands_for_each_word(write):
    folder = write("--words", "cab", "ace", "--single_image", "False")
    assert sorted(path.name for path in (folder / "sheets").iterdir()) == ["0000-cab.png", "0001-ace.png"]
    assert [record.writer for record in read_text_images(folder)] == [*WRITERS, *WRITERS]


def test_single_image_takes_only_true_and_false(fail):
    assert "argument --single_image: 'maybe' is neither True nor False" in fail("--single_image", "maybe")


def test_several_images_of_a_word_differ(write):
    images = list(read_images(write("--words", "cab", "--writer", "01", "--num_per_word", 3)).values())
    assert len(images) == 3 and not np.array_equal(images[0], images[1])


def test_words_come_from_a_file(write, tmp_path):
    (tmp_path / "words.txt").write_text("\ufeffcab \r\n\n  bad ace\n", encoding="utf-8")
    assert [
        r.text for r in read_text_images(write("--words_file", tmp_path / "words.txt", "--skip_unknown"))
    ] == ["cab"]


def test_hands_are_drawn_for_each_image(write):
    assert len({r.writer for r in read_text_images(write("--words", "cab", "--num_per_word", 12))}) > 1


def test_a_mixed_hand_is_written_and_named(write):
    assert [r.writer for r in read_text_images(write("--words", "cab", "--mix", "01:3", "02:1"))] == [
        "01:0.75+02:0.25"
    ]


def test_a_mix_of_one_hand_is_that_hand(write, tmp_path):
    mixed = write("--words", "cab", "--mix", "01", save_path=tmp_path / "mixed")
    single = write("--words", "cab", "--writer", "01", save_path=tmp_path / "single")
    difference = [
        a.astype(int) - b
        for a, b in zip(read_images(mixed).values(), read_images(single).values(), strict=True)
    ]
    assert np.abs(difference).max() <= 2


@pytest.mark.parametrize(
    ("values", "shares"),
    [
        (["a:0.7", "b:0.3"], {"a": 0.7, "b": 0.3}),
        (["a", "b"], {"a": 0.5, "b": 0.5}),
        (["x:y:3", "b:1"], {"x:y": 0.75, "b": 0.25}),
    ],
)
def test_shares_of_a_mix_sum_to_one(values, shares):
    assert parse_mix(values) == pytest.approx(shares)


@pytest.mark.parametrize("value", ["a:0", "a:-1", "a:x", "a:inf", "a:nan"])
def test_a_share_of_a_mix_is_a_positive_number(value):
    with pytest.raises(ValueError, match=f"--mix {value}: the share .* is not a positive number"):
        parse_mix([value])


# A data set again


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "words"
    make_word_folder(folder, ["cab", "bad", "ace"], ("02", "01"), splits=("train", "test"), img_size=IMG_SIZE)
    return folder


def test_a_data_set_is_written_again_record_by_record(write, words):
    assert read_text_images(write("--dataset_path", words)) == read_text_images(words)


def test_one_split_of_a_data_set_can_be_written(write, words):
    assert [r.text for r in read_text_images(write("--dataset_path", words, "--split", "test"))] == ["bad"]


def test_a_data_set_can_be_written_in_another_hand(write, words):
    records = read_text_images(write("--dataset_path", words, "--writer", "03"))
    assert [(r.text, r.writer) for r in records] == [("cab", "03"), ("bad", "03"), ("ace", "03")]


def test_a_data_set_is_not_written_over_itself(fail, words, checkpoint):
    message = fail("--dataset_path", str(words), "--save_path", str(words))
    assert f"--save_path {words}: is --dataset_path" in message and len(read_text_images(words)) == 3


# Again


def test_the_second_start_writes_nothing(write, capsys):
    folder = write("--words", "cab", "ace")
    before = times(folder)
    write("--words", "cab", "ace")
    assert times(folder) == before and "finished    " in capsys.readouterr().out


def test_a_deleted_image_is_written_again_as_it_was(write):
    folder = write("--words", "cab", "ace", "bad", "--writer", "01")
    before = hash_tree(folder)
    sorted((folder / "images").iterdir())[1].unlink()
    write("--words", "cab", "ace", "bad", "--writer", "01")
    assert hash_tree(folder) == before


def test_an_image_that_a_power_cut_left_empty_is_written_again(write):
    folder = write("--words", "cab", "ace", "bad", "--writer", "01")
    before = hash_tree(folder)
    images = sorted((folder / "images").iterdir())
    for is_finished in (True, False):
        images[0].write_bytes(b"")
        images[1].write_bytes(images[1].read_bytes()[:-20])
        if not is_finished:
            (folder / "metadata.jsonl").unlink()
        write("--words", "cab", "ace", "bad", "--writer", "01")
        assert hash_tree(folder) == before


def test_half_written_files_of_a_killed_process_are_removed(write):
    folder = write("--words", "cab", "--writer", "01")
    before = hash_tree(folder)
    (folder / "images" / ".000000-cab-01.png-77.tmp").write_bytes(b"half")
    (folder / "metadata.jsonl").unlink()
    write("--words", "cab", "--writer", "01")
    assert hash_tree(folder) == before


def test_a_second_process_in_one_folder_is_refused(write, fail, tmp_path):
    with lock_part(tmp_path / "out", Part(), "--save_path"):
        assert "another process is writing there" in fail("--words", "cab")
    assert len(read_text_images(write("--words", "cab"))) == 1


def test_an_interrupted_job_is_finished(write):
    folder = write("--words", "cab", "ace", "bad", "--writer", "01")
    before = hash_tree(folder)
    images = sorted((folder / "images").iterdir())
    kept = images[0].stat().st_mtime_ns
    for path in (*images[1:], folder / "metadata.jsonl", folder / "sheet.png"):
        path.unlink()
    write("--words", "cab", "ace", "bad", "--writer", "01")
    assert hash_tree(folder) == before and images[0].stat().st_mtime_ns == kept


def test_the_batch_size_does_not_change_the_images(write, tmp_path):
    words = ("--words", "cab", "ace", "bad", "--writer", "01")
    one, other = (read_images(write(*words, "--batch_size", n, save_path=tmp_path / str(n))) for n in (1, 3))
    assert max(np.abs(one[name].astype(int) - other[name]).max() for name in one) <= 2


def test_other_settings_need_another_folder(write, fail):
    write("--words", "cab")
    assert "holds words of other settings (see inference.json)" in fail("--words", "cab", "--seed", "1")


def test_a_changed_words_file_is_another_job(write, fail, tmp_path):
    (tmp_path / "words.txt").write_text("cab\n")
    write("--words_file", tmp_path / "words.txt")
    (tmp_path / "words.txt").write_text("bad\n")
    assert "holds words of other settings" in fail("--words_file", str(tmp_path / "words.txt"))


def test_overwrite_writes_other_settings_anew(write):
    write("--words", "cab", "ace")
    folder = write("--words", "bad", "--overwrite")
    assert [r.text for r in read_text_images(folder)] == ["bad"] and len(
        list((folder / "images").iterdir())
    ) == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--recogniser", "nowhere"), "--recogniser nowhere: no such folder"),
        (("--redraws", "1"), "--redraws 1: this model has"),
        (("--scheduler", "ddim"), "--scheduler ddim: a model of"),
    ],
)
def test_overwriting_removes_nothing_when_something_is_wrong(write, fail, wrong, message):
    folder = write("--words", "cab", "--writer", "01")
    before = times(folder)
    assert message in fail("--words", "cab", "--writer", "02", "--overwrite", *wrong)
    assert times(folder) == before


def test_overwriting_first_takes_the_word_that_the_images_are_there(write, monkeypatch):
    folder = write("--words", "cab")

    def kill(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", kill)
    with pytest.raises(KeyboardInterrupt):
        write("--words", "cab", "--overwrite")
    assert not (folder / "metadata.jsonl").exists()


def test_a_folder_of_something_else_is_left_alone(fail, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    assert "not empty, and not made by this command" in fail("--words", "cab", "--overwrite")
    assert (tmp_path / "out" / "thesis.tex").is_file()


# Parts


def test_two_parts_together_are_the_whole(write, tmp_path):
    words = ("--words", "cab", "ace", "bad", "dad", "fed", "--writer", "01", "02")
    whole = write(*words, save_path=tmp_path / "whole")
    write(*words, "--shard", "1/2")
    parts = tmp_path / "out"
    assert not (parts / "metadata.jsonl").exists()
    write(*words, "--shard", "0/2")
    assert read_text_images(parts) == read_text_images(whole) and (parts / "sheet.png").is_file()
    one, other = read_images(parts), read_images(whole)
    assert max(np.abs(one[name].astype(int) - other[name]).max() for name in one) <= 2
    assert not list(parts.glob("metadata-*"))


def test_two_processes_part_the_words(checkpoint, tmp_path):
    process = start_script(
        "inference",
        "--models_path",
        checkpoint,
        "--save_path",
        tmp_path / "out",
        *FAST,
        prefix=("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        OMP_NUM_THREADS="1",
    )
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert tuple(record.text for record in read_text_images(tmp_path / "out")) == DEFAULT_WORDS


def test_a_clusters_count_of_processes_without_a_rank_is_one_process(write, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    assert len(read_text_images(write("--words", "cab", "ace"))) == 2


def test_a_part_does_not_mind_the_half_written_start_of_another(write, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".inference.json-x7.tmp").touch()
    assert (write("--words", "cab", "ace", "--shard", "0/2") / "metadata-00000-of-00002.jsonl").is_file()


def test_parts_do_not_overwrite(fail):
    assert "--overwrite: parts that run side by side" in fail(
        "--words", "cab", "--shard", "0/2", "--overwrite"
    )


@pytest.mark.parametrize("shard", ["2/2", "1", "-1/2", "a/b"])
def test_a_part_is_a_number_below_the_count(fail, shard):
    assert "is not I/N with I from 0 to N - 1" in fail(f"--shard={shard}")


# What can go wrong


def test_an_unknown_character_ends_with_one_line(checkpoint, tmp_path):
    process = start_script(
        "inference", "--models_path", checkpoint, "--save_path", tmp_path / "out", "--words", "café"
    )
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2 and "Traceback" not in errors and not (tmp_path / "out").exists()
    assert (
        "error: --words: 'é' (in 'café') is not in this checkpoint's charset (29 characters: ABZabc" in errors
    )


def test_unknown_words_can_be_skipped(write, capsys):
    assert [
        r.text for r in read_text_images(write("--words", "café", "cab", "alphabets", "--skip_unknown"))
    ] == ["cab"]
    assert "skipped     2 of 3 words" in capsys.readouterr().out


def test_skipped_words_do_not_change_the_others(write, tmp_path):
    some = write("--words", "café", "cab", "--writer", "01", "--skip_unknown", save_path=tmp_path / "some")
    all_ = write("--words", "cafe", "cab", "--writer", "01", save_path=tmp_path / "all")
    name = "images/000001-cab-01.png"
    assert np.abs(read_images(some)[name].astype(int) - read_images(all_)[name]).max() <= 2


def test_only_unknown_words_are_an_error(fail):
    assert "none of 1 words can be written" in fail("--words", "café", "--skip_unknown")


def test_an_unknown_hand_is_named_with_the_known_ones(fail):
    assert "writer '7' is not in this checkpoint. It knows 3: 01, 02, 03" in fail(
        "--words", "cab", "--writer", "7"
    )


def test_a_word_that_is_too_long_is_named(fail):
    assert "'alphabets' has 9 characters; this checkpoint writes at most 8" in fail("--words", "alphabets")


def test_a_scheduler_that_does_not_fit_is_named(fail):
    assert "--scheduler ddim: a model of flow_prediction is sampled by" in fail(
        "--words", "cab", "--scheduler", "ddim"
    )


def test_an_absent_words_file_is_named(fail):
    assert "--words_file nowhere.txt: no such file" in fail("--words_file", "nowhere.txt")


def test_an_empty_words_file_is_named(fail, tmp_path):
    (tmp_path / "words.txt").write_text(" \n")
    assert "words.txt: no words in it" in fail("--words_file", str(tmp_path / "words.txt"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ("--words", "a", "--words_file", "b"),
            "give one of --words, --words_file, --dataset_path and --corpus",
        ),
        (("--mix", "a", "--writer", "b"), "give --writer or --mix, not both"),
        (("--split", "test"), "goes with --dataset_path"),
        (("--words", " "), "--words: nothing but white space"),
        (("--oov", "2", "--dataset_path", "x", "--num_per_word", "2"), "--num_per_word 2: not with --oov"),
        (("--oov", "2", "--dataset_path", "x", "--single_image", "False"), "--single_image False: not with"),
        (("--oov_scope", "dataset"), "--oov_scope dataset: goes with --oov"),
        (("--words_per_tar", "7"), "--words_per_tar 7: goes with --output_format webdataset"),
        (("--normalise", "exact"), "--normalise exact: goes with --recogniser"),
        (("--max_length", "7"), "--max_length 7: only for published weights"),
        (("--batch_size", "0"), "0 is not at least 1"),
        (("--num_steps", "x"), "'x' is not a whole number"),
    ],
)
def test_flags_that_do_not_fit_are_refused(fail, argv, message):
    assert message in fail(*argv)


# The published weights


def test_published_weights_write_with_named_hands(vae_folder, tmp_path, write):
    (tmp_path / "writers.json").write_text(json.dumps({"000": 2}))
    folder = write(
        "--words",
        "hand",
        "--writer",
        "000",
        "--vae",
        vae_folder,
        "--writer_dict",
        tmp_path / "writers.json",
        models_path=PUBLISHED,
    )
    assert [(r.text, r.writer) for r in read_text_images(folder)] == [("hand", "000")]


def test_file_names_are_plain(write):
    names = [r.file_name for r in read_text_images(write("--words", "cab", "--mix", "01:1", "02:1"))]
    assert all(re.fullmatch(r"images/[\w\-]+\.png", name) for name in names)


# Only legible words


class FakeRecogniser:
    """Reads a word by the grey of its image: right where the last digit of the grey sum is in ``right``."""

    name = "fake"

    def __init__(self, right):
        self.right, self.seen = right, 0

    def read(self, images, *, batch_size=64):
        self.seen += len(images)
        return [
            Reading(text="cab" if int(image.astype(int).sum()) % 10 in self.right else "cob", confidence=0.5)
            for image in images
        ]


@pytest.fixture
def fake(monkeypatch):
    """Replace all recognisers by one that is right for images whose grey sum ends on certain digits."""

    def call(right):
        recogniser = FakeRecogniser(right)
        monkeypatch.setattr("inference.load_recogniser", lambda name, **options: recogniser)
        return recogniser

    return call


WORD = ("--words", "cab", "--num_per_word", "12", "--writer", "01")


def test_scores_stand_in_the_metadata(write, fake):
    fake(range(10))
    folder = write(*WORD, "--recogniser", "fake")
    assert all(
        record.extra == {"cer": 0.0, "confidence": 0.5, "reading": "cab", "variant": 0}
        for record in read_text_images(folder)
    )
    assert not list(folder.glob("readings-*")) and not (folder / "rejected.jsonl").exists()


def test_without_a_limit_every_word_is_kept(write, fake):
    fake(())
    assert len(read_text_images(write(*WORD, "--recogniser", "fake"))) == 12


def test_words_that_are_misread_are_left_out(write, fake, capsys):
    fake(range(5))
    folder = write(*WORD, "--recogniser", "fake", "--max_cer", "0")
    kept = read_text_images(folder)
    rejected = [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]
    assert 0 < len(kept) < 12 and len(kept) + len(rejected) == 12 == len(
        {r["file_name"] for r in rejected}
    ) + len(kept)
    assert all(outcome["cer"] == pytest.approx(1 / 3, abs=1e-3) for outcome in rejected)
    assert {path.relative_to(folder).as_posix() for path in folder.glob("images/*")} == {
        r.file_name for r in kept
    }
    assert f"left out    {len(rejected)} of 12 words" in capsys.readouterr().out


def test_where_every_word_is_rejected_the_job_is_done(write, fake, capsys):
    recogniser = fake(())
    flags = (*WORD, "--recogniser", "fake", "--max_cer", "0")
    folder = write(*flags)
    output = capsys.readouterr().out
    assert "left out    12 of 12 words" in output
    assert f"wrote       no images to {folder}: allow more errors with --max_cer" in output
    assert len((folder / "rejected.jsonl").read_text().splitlines()) == 12
    assert not (folder / "sheet.png").exists() and not (folder / "metadata.jsonl").read_text()
    seen = recogniser.seen
    write(*flags)
    assert recogniser.seen == seen and "held these 0 words already" in capsys.readouterr().out


def test_tars_of_which_every_word_is_rejected_are_done(write, fake, capsys):
    fake(())
    flags = (*WORD, "--recogniser", "fake", "--max_cer", "0", "--output_format", "webdataset")
    folder = write(*flags)
    index = json.loads((folder / "index.json").read_text())
    assert index == {"tars": {"words-000000.tar": 0}, "words": 0, "rejected": 12}
    write(*flags)
    assert "no word was kept" in capsys.readouterr().out


def test_further_variants_are_tried_until_one_is_read(write, fake):
    recogniser = fake(range(5))
    folder = write(*WORD, "--recogniser", "fake", "--max_cer", "0", "--best_of", "8")
    kept = read_text_images(folder)
    assert len(kept) > 9 and {record.extra["variant"] for record in kept} > {0}
    assert 12 < recogniser.seen < 12 * 8


def test_of_variants_with_as_many_errors_the_surest_is_kept(write, fake):
    recogniser = fake(())
    sureness = iter((0.3, 0.6, 0.5))
    recogniser.read = lambda images, **options: [
        Reading(text="cob", confidence=next(sureness)) for _ in images
    ]
    (record,) = read_text_images(
        write("--words", "cab", "--writer", "01", "--recogniser", "fake", "--best_of", "3")
    )
    assert record.extra["variant"] == 1 and record.extra["confidence"] == 0.6


def test_the_first_variant_is_what_is_written_without_a_recogniser(write, fake, tmp_path):
    fake(range(5))
    chosen = write(*WORD, "--recogniser", "fake", "--best_of", "3")
    plain = write(*WORD, save_path=tmp_path / "plain")
    first = {r.file_name for r in read_text_images(chosen) if r.extra["variant"] == 0}
    assert first and all(
        np.array_equal(read_images(chosen)[name], read_images(plain)[name]) for name in first
    )


def test_an_interrupted_choice_goes_on(write, fake, tmp_path):
    fake(range(5))
    flags = (*WORD, "--recogniser", "fake", "--max_cer", "0", "--best_of", "2", "--batch_size", "4")
    whole = write(*flags)

    class Killed(Exception):
        pass

    class Dying(FakeRecogniser):
        def read(self, images, *, batch_size=64):
            if self.seen > 6:
                raise Killed
            return super().read(images)

    import inference

    inference.load_recogniser = lambda name, **options: Dying(
        range(5)
    )  # the fixture's monkeypatch takes it back
    with pytest.raises(Killed):
        write(*flags, save_path=tmp_path / "again")
    inference.load_recogniser = lambda name, **options: FakeRecogniser(range(5))
    again = write(*flags, save_path=tmp_path / "again")
    assert (again / "metadata.jsonl").read_text() == (whole / "metadata.jsonl").read_text()
    assert (again / "rejected.jsonl").read_text() == (whole / "rejected.jsonl").read_text()


def test_parts_choose_what_one_process_chooses(write, fake, tmp_path):
    fake(range(5))
    flags = (*WORD, "--recogniser", "fake", "--max_cer", "0")
    whole = write(*flags)
    for part in ("1/2", "0/2"):
        parts = write(*flags, "--shard", part, save_path=tmp_path / "parts")
    assert read_text_images(parts) == read_text_images(whole)
    assert (parts / "rejected.jsonl").read_text() == (whole / "rejected.jsonl").read_text()


def test_a_finished_choice_is_left_alone(write, fake, capsys):
    fake(range(5))
    folder = write(*WORD, "--recogniser", "fake", "--max_cer", "0")
    before = times(folder)
    write(*WORD, "--recogniser", "fake", "--max_cer", "0")
    assert "but for 0 missing images" in capsys.readouterr().out
    assert {p: t for p, t in times(folder).items() if p.is_file()} == {
        p: t for p, t in before.items() if p.is_file()
    }


@pytest.mark.parametrize(
    "flags", [["--best_of", "2"], ["--max_cer", "0.1"], ["--recogniser", "x", "--max_cer", "-1"]]
)
def test_bad_flags_of_the_choice_are_named(flags, capsys):
    with pytest.raises(SystemExit):
        parse_args(flags)
    assert flags[-2] in capsys.readouterr().err


# Words that the model's own latent recogniser can't read


@pytest.fixture
def with_reader(checkpoint, tmp_path, pipeline):
    """The checkpoint with a latent recogniser that has learnt nothing, and so can read no word."""
    model = shutil.copytree(checkpoint, tmp_path / "with_reader")
    config = LatentRecogniserConfig(
        vocabulary_size=pipeline.config.charset.vocabulary_size,
        latent_height=IMG_SIZE[0] // 8,
        channels=(8, 16, 16, 32),
    )
    LatentRecogniser(config).save_pretrained(model / LATENT_RECOGNISER_FOLDER)
    return model


def test_illegible_words_are_drawn_again_unless_told_otherwise(write, with_reader, checkpoint, tmp_path):
    words = ("--words", "cab", "face", "deaf", "bead", "--writer", "01", "--redraws")
    plain = read_images(write(*words[:-1], save_path=tmp_path / "plain"))
    single = read_images(write(*words, "0", models_path=with_reader, save_path=tmp_path / "single"))
    redrawn = read_images(write(*words, "3", models_path=with_reader, save_path=tmp_path / "redrawn"))
    default = read_images(write(*words[:-1], models_path=with_reader, save_path=tmp_path / "default"))
    assert all(np.array_equal(plain[name], single[name]) for name in plain)
    assert any(not np.array_equal(single[name], redrawn[name]) for name in single)
    assert any(not np.array_equal(single[name], default[name]) for name in single)


def test_redraws_do_not_hang_on_the_batch_size(write, with_reader, tmp_path):
    words = ("--words", "cab", "face", "deaf", "bead", "--writer", "01")
    whole, single = (
        read_images(write(*words, "--batch_size", size, models_path=with_reader, save_path=tmp_path / size))
        for size in ("4", "1")
    )
    assert all(np.abs(whole[name].astype(int) - single[name]).max() <= 2 for name in whole)


def test_redraws_need_a_reader_and_a_number(fail, capsys):
    assert "--redraws 2: this model has no latent recogniser" in fail("--words", "cab", "--redraws", "2")
    with pytest.raises(SystemExit):
        parse_args(["--redraws", "-1"])
    assert "--redraws -1: at least 0" in capsys.readouterr().err


# Out-of-vocabulary words


@pytest.fixture
def training_words(tmp_path):
    make_word_folder(tmp_path / "words", ["cab", "bad"], ("01", "02"), img_size=IMG_SIZE)
    (tmp_path / "list.txt").write_text("cab\nbad\nace\nfed\nbee\n")
    return "--dataset_path", tmp_path / "words", "--words_file", tmp_path / "list.txt"


def test_each_hand_gets_words_that_it_has_not_written(write, training_words):
    train = {(r.writer, r.text) for r in read_text_images(training_words[1])}
    records = read_text_images(write("--oov", "2", *training_words))
    assert [record.writer for record in records] == ["01"] * 2 + ["02"] * 2
    assert not train & {(record.writer, record.text) for record in records}


def test_with_scope_dataset_no_hand_has_written_them(write, training_words):
    known = {r.text for r in read_text_images(training_words[1])}
    records = read_text_images(write("--oov", "2", "--oov_scope", "dataset", *training_words))
    assert not known & {record.text for record in records}


def test_too_few_new_words_are_named(fail, training_words):
    assert "--oov 9: the list has only" in fail("--oov", "9", *map(str, training_words))


def test_oov_needs_the_training_words(capsys):
    with pytest.raises(SystemExit):
        parse_args(["--oov", "3"])
    assert "--oov 3: goes with --dataset_path" in capsys.readouterr().err


# WebDataset


def read_tars(folder):
    """Texts, writers and images by number, in the tars' order."""
    import io
    import tarfile

    found = {}
    for path in sorted(folder.glob("words-*.tar")):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                number, kind = member.name.split(".")
                data = tar.extractfile(member).read()
                value = json.loads(data) if kind == "json" else np.asarray(Image.open(io.BytesIO(data)))
                found.setdefault(int(number), {})[kind] = value
    return found


TARS = (
    "--output_format",
    "webdataset",
    "--words_per_tar",
    2,
    "--words",
    "cab",
    "face",
    "bead",
    "--writer",
    "all",
    "--num_steps",
    1,
)


def test_tars_hold_the_same_words_as_a_folder(checkpoint, tmp_path):
    run_script("inference", "--models_path", checkpoint, "--save_path", tmp_path / "tars", *TARS)
    run_script("inference", "--models_path", checkpoint, "--save_path", tmp_path / "folder", *TARS[4:])
    records = read_text_images(tmp_path / "folder")
    found = read_tars(tmp_path / "tars")
    assert sorted(found) == list(range(9)) and len(list((tmp_path / "tars").glob("*.tar"))) == 5
    for number, record in enumerate(records):
        assert found[number]["json"] == json.loads(record.as_json())
        image = np.asarray(Image.open(tmp_path / "folder" / record.file_name)).astype(int)
        assert np.abs(found[number]["png"] - image).max() <= 2
    index = json.loads((tmp_path / "tars" / "index.json").read_text())
    assert index["words"] == 9 and list(index["tars"].values()) == [2, 2, 2, 2, 1]


def test_tars_are_readable_as_webdataset(checkpoint, tmp_path):
    wds = pytest.importorskip("webdataset")
    run_script("inference", "--models_path", checkpoint, "--save_path", tmp_path / "tars", *TARS)
    tars = [str(path) for path in sorted((tmp_path / "tars").glob("*.tar"))]
    samples = list(wds.WebDataset(tars, shardshuffle=False).decode("pil"))
    assert len(samples) == 9 and {sample["json"]["text"] for sample in samples} == {"cab", "face", "bead"}
    assert samples[0]["png"].height == IMG_SIZE[0] and samples[0]["png"].width <= IMG_SIZE[1]


def test_shards_of_tars_add_up_also_after_a_kill(checkpoint, tmp_path, capsys):
    flags = ("--models_path", checkpoint, "--save_path", tmp_path / "tars", *TARS)
    run_script("inference", *flags, "--shard", "1/2")
    assert not (tmp_path / "tars" / "index.json").exists()
    run_script("inference", *flags, "--shard", "0/2")
    assert json.loads((tmp_path / "tars" / "index.json").read_text())["words"] == 9
    # Killed in the middle of a tar: it is not there, its half-written file doesn't count.
    (tmp_path / "tars" / "words-000002.tar").rename(tmp_path / "tars" / ".words-000002.tar-1.tmp")
    others = {
        name: digest
        for name, digest in hash_tree(tmp_path / "tars").items()
        if not str(name).endswith(".tmp")
    }
    run_script("inference", *flags, "--shard", "0/2")
    assert "wrote       2 words of part 0 of 2" in capsys.readouterr().out
    assert sorted(read_tars(tmp_path / "tars")) == list(range(9))
    assert {name: digest for name, digest in hash_tree(tmp_path / "tars").items() if name in others} == others
    assert not list((tmp_path / "tars").glob(".*.tmp"))
    # Cut short by a machine that went down: its name alone doesn't count.
    tar = tmp_path / "tars" / "words-000002.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:1000])
    run_script("inference", *flags, "--shard", "0/2")
    assert "wrote       2 words of part 0 of 2" in capsys.readouterr().out and len(tar.read_bytes()) == len(
        whole
    )


def test_a_tar_whose_counts_are_damaged_is_written_again(checkpoint, tmp_path, capsys):
    flags = ("--models_path", checkpoint, "--save_path", tmp_path / "tars", *TARS)
    run_script("inference", *flags)
    whole = read_tars(tmp_path / "tars")
    for damage in ("{", "[]", "{}", '{"bytes": 1, "words": null, "jobs": 2, "rejected": []}'):
        (tmp_path / "tars" / "words-000002.json").write_text(damage)
        run_script("inference", *flags)
        assert "words-000002.json is damaged" in capsys.readouterr().err
        assert read_tars(tmp_path / "tars").keys() == whole.keys()


def test_without_webdataset_no_tar_is_removed(checkpoint, tmp_path, monkeypatch):
    flags = ("--models_path", checkpoint, "--save_path", tmp_path / "tars", *TARS)
    run_script("inference", *flags)
    before = hash_tree(tmp_path / "tars")
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(ValueError, match="pip install webdataset"):
        run_script("inference", *flags, "--overwrite")
    assert hash_tree(tmp_path / "tars") == before


def test_tars_and_sheets_exclude_each_other(checkpoint, tmp_path):
    with pytest.raises(SystemExit):
        run_script(
            "inference",
            "--models_path",
            checkpoint,
            "--save_path",
            tmp_path,
            *TARS,
            "--single_image",
            "False",
        )


# Guidance


def test_guidance_can_be_kept_to_a_part_of_the_way(pipeline):
    def write(**settings):
        return pipeline(["cab"], ["01"], num_inference_steps=4, guidance_scale=5.0, **settings).astype(int)

    whole = write(guidance_interval=(0.0, 1.0))
    none = pipeline(["cab"], ["01"], num_inference_steps=4, guidance_scale=1.0).astype(int)
    part = write(guidance_interval=(0.3, 0.8))
    assert np.array_equal(write(), write(guidance_interval=(0.25, 0.9)))  # a flow model's default
    assert not np.array_equal(part, whole) and not np.array_equal(part, none)
    calls = []
    original = pipeline._predict
    pipeline._predict = lambda key, latents, *rest: (
        calls.append(len(latents)) or original(key, latents, *rest)
    )
    try:
        write(guidance_interval=(0.3, 0.8))
    finally:
        del pipeline._predict
    assert sorted(set(calls)) == [1, 2] and calls[0] == 1


def test_a_wrong_interval_is_named(checkpoint, tmp_path, capsys):
    for interval in (("0.5", "0.2"), ("-1", "0.5"), ("0.5", "1.5")):
        with pytest.raises(SystemExit):
            run_script(
                "inference",
                "--models_path",
                checkpoint,
                "--save_path",
                tmp_path,
                "--guidance_interval",
                *interval,
            )
        assert "--guidance_interval" in capsys.readouterr().err


# Lines and pages


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("a bad cab faced a dead deaf bee\n\nbed fade cafe\n" * 3, encoding="utf-8")
    return path


LINES = ("--unit", "line", "--num_steps", 1, "--guidance_scale", 1, "--line_length", 12)


def corpus_words(corpus):
    return corpus.read_text(encoding="utf-8").split()


def test_a_corpus_becomes_lines_that_hold_all_its_words_in_order(checkpoint, corpus, tmp_path):
    run_script(
        "inference", "--models_path", checkpoint, "--corpus", corpus, *LINES, "--save_path", tmp_path / "out"
    )
    records = read_text_images(tmp_path / "out")
    assert " ".join(record.text for record in records).split() == corpus_words(corpus)
    sizes = {Image.open(tmp_path / "out" / record.file_name).size for record in records}
    assert {height for _, height in sizes} == {32} and len(sizes) > 1
    assert all(width % 8 == 0 for width, _ in sizes)


@pytest.mark.parametrize("xml_format", ["page", "alto"])
def test_a_corpus_becomes_pages_of_one_hand_each(checkpoint, corpus, tmp_path, xml_format):
    flags = ("--models_path", checkpoint, "--corpus", corpus, *LINES, "--output_format", xml_format)
    run_script("inference", *flags, "--save_path", tmp_path / "out")
    pages = [
        json.loads(line) for line in (tmp_path / "out/pages.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    texts = [line["text"] for page in pages for line in page["lines"]]
    assert " ".join(texts).split() == corpus_words(corpus)
    for page in pages:
        xml = (tmp_path / "out" / page["file_name"]).with_suffix(".xml").read_text(encoding="utf-8")
        assert page["lines"][0]["text"] in xml and page["writer"] in WRITERS


def test_pages_are_resumed_and_made_by_parts_alike(checkpoint, corpus, tmp_path):
    long = tmp_path / "long.txt"
    long.write_text(corpus.read_text() * 12)
    flags = ("--models_path", checkpoint, "--corpus", long, *LINES, "--output_format", "page")
    run_script("inference", *flags, "--save_path", tmp_path / "whole")
    for part in (1, 0):
        run_script("inference", *flags, "--save_path", tmp_path / "parts", "--shard", f"{part}/2")
    whole, parts = hash_tree(tmp_path / "whole"), hash_tree(tmp_path / "parts")
    assert len([name for name in whole if name.endswith(".png")]) > 1
    del whole["inference.json"], parts["inference.json"]
    assert whole == parts


def test_finished_pages_stay_and_other_pages_need_overwrite(checkpoint, corpus, tmp_path, capsys):
    flags = ("--models_path", checkpoint, "--corpus", corpus, *LINES, "--save_path", tmp_path / "out")
    run_script("inference", *flags, "--output_format", "page")
    before = hash_tree(tmp_path / "out")
    run_script("inference", *flags, "--output_format", "page")
    assert "finished" in capsys.readouterr().out and hash_tree(tmp_path / "out") == before
    with pytest.raises(ValueError, match="other settings"):
        run_script("inference", *flags, "--output_format", "alto")
    run_script("inference", *flags, "--output_format", "alto", "--overwrite")
    assert "<alto" in (tmp_path / "out/page-000000.xml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--corpus", "x.txt"), "--corpus x.txt: goes with --unit line"),
        (("--output_format", "page"), "pages are made of a --corpus"),
        (("--paper", "p.png"), "--paper p.png: goes with --output_format page or alto"),
        (("--line_length", "9"), "--line_length 9: goes with --corpus"),
        (("--unit", "line", "--corpus", "x", "--words", "a"), "give one of"),
        (
            ("--unit", "line", "--corpus", "x", "--num_per_word", "2"),
            "--num_per_word 2: a --corpus is written once",
        ),
    ],
)
def test_flags_of_lines_that_do_not_fit_are_named(flags, message, capsys):
    with pytest.raises(SystemExit):
        parse_args(flags)
    assert message in capsys.readouterr().err


def test_a_character_of_the_corpus_that_the_model_lacks_is_named(checkpoint, tmp_path):
    (tmp_path / "corpus.txt").write_text("a bäd cab")
    with pytest.raises(ValueError, match=r"--corpus .*'ä' \(in 'bäd'\)"):
        run_script(
            "inference",
            "--models_path",
            checkpoint,
            "--corpus",
            tmp_path / "corpus.txt",
            *LINES,
            "--save_path",
            tmp_path / "out",
        )
    assert not (tmp_path / "out").exists()


def test_an_unknown_writer_of_a_corpus_is_named_before_anything_is_drawn(checkpoint, corpus, tmp_path):
    flags = ("--models_path", checkpoint, "--corpus", corpus, *LINES, "--save_path", tmp_path / "out")
    with pytest.raises(UserError, match="nobody"):
        run_script("inference", *flags, "--writer", "nobody")
    assert not (tmp_path / "out").exists()
