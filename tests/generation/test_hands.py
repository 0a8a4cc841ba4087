"""Whose hand inference writes in: hand files, new hands, pictures; saved, and told apart by a rerun."""

from argparse import Namespace

import numpy as np
import pytest
from PIL import Image

from diffusion.hands import Hand
from diffusion.pipeline import HandwritingPipeline
from generation.hands import gather_hands
from inference import main, parse_args
from tests.helpers import WRITERS, draw_word, hash_tree
from utils.errors import UserError
from utils.text_images import read_text_images


@pytest.fixture
def write(styled_checkpoint, tmp_path):
    """Run the script in this process; returns the folder that it wrote."""

    def call(*argv, save_path=tmp_path / "out", models_path=styled_checkpoint):
        fixed = ("--models_path", models_path, "--save_path", save_path, "--num_steps", 2, "--redraws", 0)
        main(parse_args([str(value) for value in (*fixed, "--device", "cpu", *argv)]))
        return save_path

    return call


@pytest.fixture
def pictures(tmp_path):
    """A folder of two pictures of someone's writing."""
    folder = tmp_path / "anna"
    folder.mkdir()
    for name in ("bead", "cafe"):
        Image.fromarray(draw_word(name, paper=210)).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def gather(styled_checkpoint):
    """``gather_hands`` for the model with style vectors."""
    pipeline = HandwritingPipeline.from_pretrained(styled_checkpoint)

    def call(writer=None, mix=None, style_images=None, seed=0):
        return gather_hands(pipeline, writer=writer, mix=mix, style_images=style_images, seed=seed)

    return call


def writers_of(folder):
    return {record.writer for record in read_text_images(folder)}


def images_of(folder):
    return [
        np.asarray(Image.open(folder / record.file_name)).tobytes() for record in read_text_images(folder)
    ]


def test_pictures_become_the_hand_that_is_written_in(write, pictures):
    assert writers_of(write("--words", "bead", "--style_images", pictures)) == {"anna"}


def test_a_saved_hand_writes_the_same_as_its_pictures(write, pictures, tmp_path):
    hand = tmp_path / "anna.safetensors"
    words = ("--words", "bead", "cafe")
    first = write(*words, "--style_images", pictures, "--save_hand", hand)
    again = write(*words, "--writer", hand, save_path=tmp_path / "again")
    assert hand.stat().st_size < 4096 and writers_of(again) == {"anna"}
    assert hash_tree(first / "images") == hash_tree(again / "images")


def test_a_new_hand_repeats_by_its_number_and_differs_by_it(write, tmp_path, capsys):
    folders = {
        name: write("--words", "bead", *flags, save_path=tmp_path / name)
        for name, flags in {
            "seven": ("--writer", "new:7"),
            "again": ("--writer", "new:7"),
            "eight": ("--writer", "new:8"),
        }.items()
    }
    assert images_of(folders["seven"]) == images_of(folders["again"]) != images_of(folders["eight"])
    assert writers_of(folders["eight"]) == {"new-8"}
    assert "hand        new-7: nearest trained writer 0" in capsys.readouterr().out


def test_new_alone_is_the_hand_of_the_seeds_number(gather):
    by_seed, by_number = gather(["new"], seed=5), gather(["new:5"], seed=1)
    assert by_seed.fingerprints() == by_number.fingerprints() and list(by_seed.added) == ["new-5"]


def test_hands_join_writers_by_name_and_a_mix(write, pictures, tmp_path):
    hand = tmp_path / "anna.safetensors"
    write("--words", "bead", "--style_images", pictures, "--save_hand", hand)
    several = write("--words", "bead", "--writer", hand, WRITERS[0], save_path=tmp_path / "several")
    assert writers_of(several) == {"anna", WRITERS[0]}
    mixed = write("--words", "bead", "--mix", f"{hand}:1", f"{WRITERS[0]}:3", save_path=tmp_path / "mixed")
    assert writers_of(mixed) == {f"anna:0.25+{WRITERS[0]}:0.75"}


def test_a_hand_with_the_name_of_a_writer_gets_another(gather, tmp_path, pictures):
    folder = pictures.rename(tmp_path / WRITERS[0])
    hands = gather(style_images=[folder])
    assert hands.writer == [f"{WRITERS[0]}-2"] and "is called" in hands.notes[0]


def test_lines_of_words_are_written_in_a_hand(write, pictures):
    corpus = pictures.parent / "corpus.txt"
    corpus.write_text("bead cafe bead\n")
    folder = write("--corpus", corpus, "--unit", "line", "--style_images", pictures)
    assert [(record.text, record.writer) for record in read_text_images(folder)] == [
        ("bead cafe bead", "anna")
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--writer", "none.safetensors"), "--writer none.safetensors: no such file, and no writer"),
        (("--mix", "none.safetensors:1", "01:1"), "--mix none.safetensors: no such file, and no writer"),
        (("--writer", "nobody"), "'nobody' is not in this checkpoint"),
    ],
)
def test_a_hand_that_is_not_there_is_refused_by_flag_and_name(write, flags, message):
    with pytest.raises(UserError, match=message):
        write("--words", "bead", *flags)


def test_pictures_that_the_writers_leave_out_are_no_silent_gift(write, pictures):
    with pytest.raises(UserError, match="its hand is called 'anna', which --writer does not name"):
        write("--words", "bead", "--style_images", pictures, "--writer", WRITERS[0])
    folder = write("--words", "bead", "--style_images", pictures, "--writer", "anna", WRITERS[0])
    assert writers_of(folder) == {"anna", WRITERS[0]}


def test_a_model_of_rows_takes_no_pictures_and_saves_no_hand(write, pictures, checkpoint, tmp_path):
    for flags in (
        ("--style_images", pictures),
        ("--writer", "new"),
        ("--writer", WRITERS[0], "--save_hand", tmp_path / "hand"),
    ):
        with pytest.raises(UserError, match="knows its writers by name alone"):
            write("--words", "bead", *flags, models_path=checkpoint)


# Saving


def test_a_writer_and_a_mix_are_saved_as_one_hand(write, tmp_path):
    one, mixed = tmp_path / "one.safetensors", tmp_path / "mixed.safetensors"
    write("--words", "bead", "--writer", WRITERS[0], "--save_hand", one)
    shares = (f"{WRITERS[0]}:1", f"{WRITERS[1]}:1")
    write("--words", "bead", "--mix", *shares, "--save_hand", mixed, save_path=tmp_path / "2")
    assert Hand.load(one).width_scale == pytest.approx(0.9)
    assert Hand.load(mixed).width_scale == pytest.approx(0.95)
    assert Hand.load(mixed).offset is not None


@pytest.mark.parametrize(
    "writer", [(), ("--writer", "all"), ("--writer", "01", "02"), ("--writer", "random")]
)
def test_several_hands_are_not_saved_as_one(write, tmp_path, writer):
    with pytest.raises(UserError, match=r"--save_hand .*hand\.safetensors: .* to save\. Name one"):
        write("--words", "bead", *writer, "--save_hand", tmp_path / "hand.safetensors")
    assert not (tmp_path / "hand.safetensors").exists()


def test_another_hand_and_other_files_are_not_written_over(write, tmp_path):
    path = tmp_path / "hand.safetensors"
    write("--words", "bead", "--writer", "01", "--save_hand", path)
    write("--words", "bead", "--writer", "01", "--save_hand", path)  # the same again
    with pytest.raises(UserError, match="holds another hand"):
        write("--words", "bead", "--writer", "02", "--save_hand", path, save_path=tmp_path / "2")
    flags = ("--save_hand", path, "--overwrite")
    write("--words", "bead", "--writer", "02", *flags, save_path=tmp_path / "2")
    path.write_text("a letter")
    with pytest.raises(UserError, match="not a hand"):
        write("--words", "bead", "--writer", "02", *flags, save_path=tmp_path / "2")
    assert path.read_text() == "a letter"


# Reruns


def test_a_rerun_with_another_hand_of_the_same_name_is_another_job(write, pictures, tmp_path):
    hand = tmp_path / "anna.safetensors"
    write("--words", "bead", "--style_images", pictures, "--save_hand", hand)
    folder = write("--words", "bead", "--writer", hand, save_path=tmp_path / "2")
    write("--words", "bead", "--writer", hand, save_path=folder)
    write(
        "--words", "bead", "--writer", "new:3", "--save_hand", hand, "--overwrite", save_path=tmp_path / "3"
    )
    with pytest.raises(UserError, match="words of other settings"):
        write("--words", "bead", "--writer", hand, save_path=folder)


def test_variation_is_part_of_the_job_and_0_takes_it_away(write, tmp_path):
    words = ("--words", "bead", "--writer", "01")
    first = write(*words)
    with pytest.raises(UserError, match="words of other settings"):
        write(*words, "--variation", 1)
    still = [write(*words, "--variation", 0, save_path=tmp_path / name) for name in ("still", "once more")]
    assert images_of(still[0]) == images_of(still[1]) != images_of(first)


def test_a_negative_variation_is_refused(capsys):
    with pytest.raises(SystemExit):
        parse_args(["--variation", "-1"])
    assert "--variation -1.0: at least 0" in capsys.readouterr().err
    assert isinstance(parse_args([]), Namespace)
