"""Folders of authors, and the scores of several systems side by side."""

import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from evaluation import evaluate as evaluation
from evaluation import features, hwd
from evaluation.beside import add_implied, count_shared
from evaluation.evaluate import main, parse_args
from evaluation.features import start_square
from evaluation.image_sets import read_records
from generation.export import main as export
from generation.export import parse_args as parse_export_args
from htr.reading import Reading
from tests.helpers import draw_word, make_word_folder
from utils.errors import UserError

WORDS = ("cab", "abe", "deaf", "bad", "ace", "face", "dab", "fed")


class FakeRecogniser:
    """Reads every word as "cab"."""

    name = "fake"

    def read(self, images, *, batch_size=64):
        return [Reading(text="cab", confidence=0.5) for _ in images]


class TinyInception(nn.Module):
    """Random projections of images of 32x32."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.project = nn.Linear(64, 8)

    def forward(self, pixels):
        assert pixels.shape[1:] == (3, 32, 32)
        return self.project(nn.functional.adaptive_avg_pool2d(pixels[:, :1].float() / 255, 8).flatten(1))


def make_author_folder(folder, words, *, heights=(40, 48), authors=("01", "02")):
    """Images of several heights, as others publish them."""
    texts = {}
    for author in authors:
        (folder / author).mkdir(parents=True)
        for number, word in enumerate(words):
            image = cv2.resize(draw_word(word), (90, heights[number % len(heights)]))
            Image.fromarray(image).convert("RGB").save(folder / author / f"{number}.png")
            texts[f"{author}/{number}.png"] = word
    (folder / "transcriptions.json").write_text(json.dumps(texts), encoding="utf-8")
    return folder


@pytest.fixture
def real(tmp_path):
    make_word_folder(tmp_path / "real", WORDS, ("01", "02"), splits=("test",), img_size=(32, 64))
    return tmp_path / "real"


@pytest.fixture
def networks(monkeypatch):
    """Random networks in the place of VGG16 and Inception, and a recogniser."""

    def load_vgg(weights):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, hwd.CHANNELS, 32, stride=32), nn.ReLU())

    monkeypatch.setattr(hwd, "load_vgg", load_vgg)
    monkeypatch.setattr(features, "load_inception", lambda weights: (TinyInception(), "tiny weights"))
    monkeypatch.setattr(evaluation, "load_recogniser", lambda name, **options: FakeRecogniser())


def evaluate(tmp_path, *flags):
    main(parse_args(["--save_dir", str(tmp_path / "out"), "--bootstrap", "20", *map(str, flags)]))
    return json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))


def test_an_export_is_read_again_as_a_folder_of_authors(real, tmp_path):
    flags = ["--dataset_path", real, "--save_dir", tmp_path / "export", "--format", "hwd"]
    export(parse_export_args(list(map(str, flags))))
    records = read_records(tmp_path / "export" / "test", flag="--real")
    assert sorted((record.writer, record.text) for record in records) == sorted(
        (record.writer, record.text) for record in read_records(real, flag="--real")
    )


def test_transcriptions_may_be_missing_but_not_something_else(tmp_path):
    folder = make_author_folder(tmp_path / "authors", WORDS[:2])
    assert [record.text for record in read_records(folder, flag="--beside")] == [*WORDS[:2]] * 2
    (folder / "transcriptions.json").write_text('{"01/0.png": 3}')
    with pytest.raises(UserError, match=r"--beside .*transcriptions\.json: not a table"):
        read_records(folder, flag="--beside")
    (folder / "transcriptions.json").unlink()
    assert {record.text for record in read_records(folder, flag="--beside")} == {""}


def test_the_square_at_the_beginning_is_that_of_the_authors_code():
    image = draw_word("cab")
    square = np.asarray(
        Image.fromarray(image).crop((0, 0, image.shape[0], image.shape[0])).resize((32, 32), Image.NEAREST)
    )
    assert np.array_equal(start_square(image, is_binary=False), square)
    assert set(np.unique(start_square(image, is_binary=True))) == {0, 255}
    narrow = start_square(np.full((64, 32), 255, np.uint8), is_binary=False)
    assert (narrow[:, :16] == 255).all() and (narrow[:, 16:] == 0).all()


def test_one_command_scores_other_systems_beside_ours_at_equal_numbers(real, tmp_path, networks):
    others = make_author_folder(tmp_path / "emuru", WORDS[:3])
    flags = ("--real", real, "--generated", real, "--beside", others, "--metrics", "hwd")
    found = evaluate(tmp_path, *flags, "--hwd_weights", "vgg.pth", "--recogniser", "fake")["measures"]
    for key in ("hwd", "fid_squares", "kid_squares", "bfid_squares", "bkid_squares"):
        ours, theirs = found[key], found[f"{key}/emuru"]
        assert ours["generated"]["n"] == theirs["generated"]["n"] == (2 if key == "hwd" else 4)
        for score in (ours, theirs):
            assert score["real"]["value"] > 0 or "kid" in key, "a floor of real images"
            assert score["real"]["n"] == score["generated"]["n"]
    assert found["hwd"]["generated"]["value"] != found["hwd/emuru"]["generated"]["value"]
    assert {"cer/fake", "cer/fake/emuru"} <= set(found) and "difference" in found["cer/fake/emuru"]


def test_writers_that_one_system_lacks_are_left_out_of_all(real, tmp_path):
    others = make_author_folder(tmp_path / "emuru", WORDS[:3], authors=("02", "03"))
    assert count_shared([("--generated", real), ("--beside", others)]) == {"01": 0, "02": 3}


def test_folders_of_authors_are_compared_with_each_other(tmp_path, networks):
    folder = make_author_folder(tmp_path / "authors", WORDS)
    flags = ("--real", folder, "--generated", folder, "--metrics", "hwd", "--hwd_weights", "vgg.pth")
    assert set(evaluate(tmp_path, *flags)["measures"]) >= {"hwd", "fid_squares", "bfid_squares"}


def test_other_measures_of_folders_of_authors_are_refused(real, tmp_path):
    folder = make_author_folder(tmp_path / "authors", WORDS)
    with pytest.raises(UserError, match=r"--generated .*: a folder of authors, which --metrics hwd takes"):
        evaluate(tmp_path, "--real", real, "--generated", folder)


def test_two_systems_of_one_name_are_refused(real, tmp_path):
    folders = [make_author_folder(tmp_path / name / "emuru", WORDS[:1]) for name in ("a", "b")]
    flags = ("--metrics", "hwd", "--hwd_weights", "vgg.pth")
    with pytest.raises(UserError, match=r"--beside .*: another folder is called emuru, too"):
        evaluate(tmp_path, "--real", real, "--generated", real, "--beside", *folders, *flags)


def test_an_unfinished_folder_of_text_images_is_no_folder_of_authors(real):
    (real / "metadata.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"no metadata\.jsonl"):
        read_records(real, flag="--real")


def test_hwd_brings_what_is_reported_beside_it():
    assert add_implied(None, has_recogniser=True) is None
    assert add_implied(["nmae"], has_recogniser=True) == ("nmae",)
    assert add_implied(["hwd"], has_recogniser=False) == ("hwd", "squares")
    assert add_implied(["hwd"], has_recogniser=True) == ("hwd", "squares", "legibility")
