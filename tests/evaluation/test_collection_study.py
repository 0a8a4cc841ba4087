"""The study of one collection, run whole at the smallest size, and its parts."""

import importlib
import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from evaluation import collection_generation, collection_steps, study
from evaluation.collection_lines import (
    corpus_pieces,
    draw_lines,
    page_of,
    read_collection,
    recombine,
    write_texts,
)
from evaluation.collection_report import correct_differences, relative_change
from evaluation.collection_steps import ARMS, FONTS, GENERATED, REAL, CollectionSettings, label_lines
from evaluation.error_classes import count_class_errors
from evaluation.htr_study import main, parse_args
from evaluation.study import RunErrors, summarise
from htr.crnn import CRNN, CRNNConfig
from htr.reading import Reading
from tests.helpers import make_word_folder
from utils.errors import UserError
from utils.text_images import TextImage, read_text_images, write_metadata

TEXTS = ("cab fed", "abe ace", "deaf bad", "ace dab", "face cab", "dab abe", "fed ace", "bead face")
FLAGS = ("--seeds", "1", "--htr_steps", "2", "--htr_batch_size", "2", "--synthetic", "4", "--rates", "0.001")


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """Eight lines of two writers, two a page, 32 pixels high; two pages test."""
    folder = tmp_path_factory.mktemp("data") / "lines"
    splits = ("train",) * 6 + ("test",) * 2
    make_word_folder(folder, TEXTS, ("p", "q"), splits=splits, img_size=(32, 64))
    records = []
    for number, record in enumerate(read_text_images(folder)):
        name = f"images/page_{number // 2}-line_{number}.png"
        (folder / record.file_name).rename(folder / name)
        records.append(TextImage(file_name=name, text=record.text, writer=record.writer, split=record.split))
    write_metadata(folder, records)
    return folder


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recogniser")
    config = CRNNConfig(characters=tuple("abcdef "), img_height=32, channels=(4, 8, 8, 8), hidden=8, layers=1)
    CRNN(config).save_pretrained(folder, {})
    return folder


def copy_as_drawn(name, arguments, log, device, **more):
    """Stands for the scripts, whose flags are parsed: what they would write is drawn."""
    script = importlib.import_module(name.removesuffix(".py").replace("/", "."))
    script.parse_args([str(value) for value in arguments])
    given = {str(a): arguments[i + 1] for i, a in enumerate(arguments[:-1]) if str(a).startswith("--")}
    if name == "train_diffusion.py":
        given["--fit_hand"].mkdir(parents=True, exist_ok=True)
        (given["--fit_hand"] / "collection.safetensors").write_bytes(b"")
        return
    texts = ["cab", "dab fed", "ace"]
    target = given.get("--save_dir") or given["--save_path"]
    make_word_folder(target, texts, ("w",), splits=("train",), img_size=(32, 64))


def test_a_whole_study(lines, recogniser, styled_checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(collection_generation, "call_script", copy_as_drawn)
    monkeypatch.setattr(study, "RESAMPLES", 50)
    given = ["--collection", lines, "--generator", styled_checkpoint, "--init_from", recogniser]
    given += ["--save_path", tmp_path / "study", *FLAGS, "--items"]
    main(parse_args([str(value) for value in (*given, 2)]))
    values = json.loads((tmp_path / "study" / "study.json").read_text())
    assert [(row["fraction"], row["arm"]["slug"]) for row in values["study"]["rows"]] == [
        (2, arm.slug) for arm in ARMS
    ]
    assert values["study"]["test_words"] == 2 and values["pretrained"] > 0
    part = read_text_images(tmp_path / "study" / "items_00002" / "lines")
    assert len(part) == 2 and {record.writer for record in part} == {"collection"}
    assert "Holm" in (tmp_path / "study" / "report.html").read_text()
    assert "| 2 | c: generated lines, then real against b" in (tmp_path / "study" / "report.md").read_text()
    capsys.readouterr()

    # Started again: nothing is done anew.
    before = (tmp_path / "study" / "items_00002" / "real-0" / "test_readings.json").stat().st_mtime_ns
    main(parse_args([str(value) for value in (*given, 2)]))
    assert (tmp_path / "study" / "items_00002" / "real-0" / "test_readings.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="holds a study with --synthetic 4, not 5"):
        main(parse_args([str(value) for value in (*given, 2, "--synthetic", 5)]))
    with pytest.raises(UserError, match="--items 7: the collection has only 6 lines"):
        main(parse_args([str(value) for value in (*given, 7)]))


def test_flags_that_do_not_fit_are_named(capsys):
    for argv, words in (
        (["--save_path", "x"], "--dataset_path: is needed, or --collection"),
        (
            ["--dataset_path", "d", "--generator", "g", "--save_path", "x", "--keep", "0.5"],
            "goes with --collection",
        ),
        (["--collection", "d", "--save_path", "x", "--keep", "2"], "--keep 2.0: a share"),
        (["--collection", "d", "--save_path", "x", "--items", "1"], "two lines are the least"),
    ):
        with pytest.raises(SystemExit):
            parse_args(argv)
        assert words in capsys.readouterr().err


def test_lines_are_drawn_page_after_page_and_fewer_lie_within_more(lines):
    records = [r for r in read_collection(lines, one_hand=True) if r.split == "train"]
    drawn = draw_lines(records, 4)
    assert len({page_of(record) for record in drawn}) == 2
    assert draw_lines(records, 3) == drawn[:3]


def test_texts_are_new_and_can_be_written(tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("one two three four five six seven eight nine ten\n" * 3)
    known = ["one two three", "four five"]
    for source in (corpus, None):
        texts = write_texts(known, 5, corpus=source, charset="abcdefghijklmnopqrstuvwxyz ", longest=40)
        assert len(texts) == len(set(texts)) == 5 and not set(texts) & set(known)
        assert all(set(text.split()) <= set(corpus.read_text().split()) for text in texts)
    rng = random.Random(0)
    assert len(next(recombine(known, [20], rng))) >= 20 and len(next(corpus_pieces(corpus, [20], rng))) >= 20


def test_errors_are_counted_by_class():
    tables = count_class_errors(["Ab 12 cab", "cab"], ["ab 13 cab", "cx"], ["cab " * 10])
    assert tables["capitals"][0].tolist() == [1, 0] and tables["digits"][1].tolist() == [2, 0]
    assert tables["frequent letters"][0].tolist() == [0, 2]
    assert tables["seen words"][0].tolist() == [0, 1] and tables["unseen words"][1].tolist() == [2, 0]
    assert np.sum([table[1] for name, table in tables.items() if "words" not in name]) == 12


def test_generated_lines_are_compared_with_real_and_with_font_lines(monkeypatch):
    monkeypatch.setattr(study, "RESAMPLES", 2000)  # the smallest p: 3 x 2 in 2,001

    def errors(arm, rate):
        counts = np.random.default_rng(ARMS.index(arm)).binomial(20, rate, 200)
        table = (counts, np.full(200, 20))
        return RunErrors(
            arm=arm, fraction=30, seed=0, characters=table, words=table, trained_on=30, seconds=1.0
        )

    rates = summarise([errors(REAL, 0.2), errors(FONTS, 0.2), errors(GENERATED, 0.1)], ARMS, (REAL, FONTS))
    pairs = [(d.arm, d.base) for d in rates.differences]
    assert pairs == [(FONTS, REAL), (GENERATED, REAL), (GENERATED, FONTS)]
    (_, p_same), (difference, p_better), _ = correct_differences(rates)
    assert p_better < 0.01 < p_same and relative_change(rates, difference) == pytest.approx(-0.5, abs=0.1)


class SureOfLong:
    """Stands for a recogniser: reads "n letters", surer the more there are; nothing in the first image."""

    def __init__(self, model):
        pass

    def read(self, images):
        texts = ["" if i == 0 else "a" * i for i in range(len(images))]
        return [Reading(text=text, confidence=0.5 if text else 0.0) for text in texts]


def test_other_lines_get_the_surest_readings_and_never_their_texts(lines, recogniser, tmp_path, monkeypatch):
    monkeypatch.setattr(collection_steps, "CRNNRecogniser", SureOfLong)
    settings = CollectionSettings(
        collection=lines, save_path=tmp_path, generator=lines, init_from=recogniser, sure=0.4
    )
    others = [replace(record, text="unknown", split="test") for record in read_text_images(lines)[:6]]
    folder = label_lines(settings, others, tmp_path, recogniser, torch.device("cpu"))
    read = read_text_images(folder)
    assert sorted(record.text for record in read) == ["aaaa", "aaaaa"]
    assert {record.split for record in read} == {"train"}
    assert label_lines(settings, [], tmp_path, recogniser, torch.device("cpu")) == folder  # done before


def test_without_other_lines_nothing_is_labelled(lines, recogniser, tmp_path):
    settings = CollectionSettings(collection=lines, save_path=tmp_path, generator=lines, init_from=recogniser)
    assert not label_lines(settings, [], tmp_path, recogniser, torch.device("cpu")).exists()
