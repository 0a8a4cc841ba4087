"""The evaluation as a command: what it writes, what it leaves out, and what can go wrong."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from evaluation import evaluate as evaluation
from evaluation import features
from evaluation.comparison import compare_folders
from evaluation.evaluate import main, parse_args
from evaluation.inception import load_inception
from feature_extractor import StyleEncoder, StyleEncoderConfig
from htr.reading import Reading
from tests.helpers import hash_tree, make_word_folder
from utils.cli import run
from utils.text_images import TextImage, read_text_images, write_metadata

WORDS = (
    "cab",
    "abe",
    "deaf",
    "bad",
    "ace",
    "face",
    "dab",
    "fed",
    "bead",
    "cafe",
    "deed",
    "fade",
    "gab",
    "beg",
    "cage",
    "edge",
)


class FakeRecogniser:
    """Reads every word as "cab", the surer the darker its image is."""

    name = "fake"

    def read(self, images, *, batch_size=64):
        return [Reading(text="cab", confidence=float((255 - image.mean()) / 255)) for image in images]


class TinyInception(nn.Module):
    """Random projections of an image that is reduced to 8x8."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(64, 8)

    def forward(self, pixels):
        return self.project(nn.functional.adaptive_avg_pool2d(pixels[:, :1].float() / 255, 8).flatten(1))


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No weights in the cache and none to be fetched."""
    monkeypatch.setattr("evaluation.inception.can_reach", lambda host: False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture
def real(tmp_path):
    """16 words of two hands and two splits, 32x64 pixels."""
    make_word_folder(
        tmp_path / "real", WORDS, ("01", "02"), splits=("train", "train", "test", "test"), img_size=(32, 64)
    )
    return tmp_path / "real"


@pytest.fixture
def generated(real, tmp_path):
    """The test words of ``real`` again, under their names, one pixel lower."""
    folder = tmp_path / "generated"
    (folder / "images").mkdir(parents=True)
    records = read_text_images(real, splits=["test"])
    for record in records:
        image = np.asarray(Image.open(real / record.file_name))
        Image.fromarray(np.roll(image, 1, axis=0)).save(folder / record.file_name)
    write_metadata(folder, records)
    return folder


@pytest.fixture
def style_encoder(tmp_path):
    torch.manual_seed(0)
    StyleEncoder(StyleEncoderConfig(writers=("01", "02"), img_size=(32, 64), style_dim=8)).save_pretrained(
        tmp_path / "style", {}
    )
    return tmp_path / "style"


@pytest.fixture
def evaluate(real, generated, tmp_path, monkeypatch):
    """Evaluate with more flags; returns metrics.json."""
    monkeypatch.setattr(evaluation, "load_recogniser", lambda name, **options: FakeRecogniser())

    def call(*flags, save_dir="out"):
        out = tmp_path / save_dir
        main(
            parse_args(
                [
                    "--real",
                    str(real),
                    "--generated",
                    str(generated),
                    "--save_dir",
                    str(out),
                    "--bootstrap",
                    "20",
                    *map(str, flags),
                ]
            )
        )
        return json.loads((out / "metrics.json").read_text(encoding="utf-8"))

    return call


def fail(capsys, evaluate, *flags, **options):
    """The message of an evaluation that fails as a command does."""
    with pytest.raises(SystemExit) as done:
        run(lambda flags: evaluate(*flags, **options), flags)
    assert done.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


# What it measures


def test_two_folders_alone_give_pixels_copies_and_counts(evaluate, capsys):
    found = evaluate()
    names = ("stroke_width", "slant", "darkness", "character_width", "x_height")
    assert set(found["measures"]) == {"nmae", "copies", *(f"strokes/{name}" for name in names)}
    nmae = found["measures"]["nmae"]["generated"]
    assert nmae["n"] == 8 and 0 < nmae["low"] <= nmae["value"] <= nmae["high"] < 0.3
    assert found["words"]["same records"] == "8 of 8 generated images"
    output = capsys.readouterr().out
    for flag in ("--inception_weights", "--style_encoder", "--recogniser", "--num_per_word"):
        assert any(flag in line for line in found["left_out"]) and flag in output


def test_everything_is_measured_where_everything_is_given(evaluate, style_encoder, vae_folder, monkeypatch):
    torch.manual_seed(0)
    network = TinyInception()
    monkeypatch.setattr(features, "load_inception", lambda weights: (network, "tiny weights"))
    found = evaluate("--style_encoder", style_encoder, "--vae", vae_folder, "--recogniser", "one", "two")
    measures = found["measures"]
    assert {
        "fid",
        "kid",
        "style_fid",
        "style_kid",
        "writer_accuracy",
        "retrieval_map",
        "nearest_writer",
        "cer/one",
        "wer/one",
        "confidence/one",
        "cer/two",
        "nmae",
        "copies",
    } <= set(measures)
    for key in ("fid", "kid", "style_fid", "style_kid"):
        columns = [measures[key][column] for column in ("generated", "real", "vae")]
        assert [column["n"] for column in columns] == [4, 4, 4], "equal numbers on all sides"
        assert all(column["low"] <= column["value"] <= column["high"] for column in columns)
        assert "seed 0" in measures[key]["protocol"] and "split test" in measures[key]["protocol"]
    assert "tiny weights; whole images of 32x64" in measures["fid"]["protocol"]
    assert (
        "style encoder" in measures["style_fid"]["protocol"]
        and "Inception" not in measures["style_fid"]["label"]
    )
    # The recogniser reads one text always, so that real and generated words are equally illegible to it.
    assert measures["cer/one"]["difference"]["value"] == 0 and measures["cer/one"]["real"]["n"] == 8


def test_a_metric_by_name_is_measured_alone_and_must_be_there(evaluate, capsys):
    assert set(evaluate("--metrics", "nmae")["measures"]) == {"nmae"}
    assert "get https://" in fail(capsys, evaluate, "--metrics", "inception", save_dir="other")
    with pytest.raises(SystemExit):
        parse_args(["--real", "a", "--generated", "b", "--save_dir", "c", "--metrics", "style"])
    assert "--metrics style: needs --style_encoder" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_numbers(evaluate, style_encoder):
    one, again = (evaluate("--style_encoder", style_encoder, save_dir=name) for name in ("one", "again"))
    assert one["measures"] == again["measures"]


def test_a_measure_does_not_depend_on_the_others(evaluate):
    assert (
        evaluate("--metrics", "copies", save_dir="one")["measures"]["copies"]
        == evaluate()["measures"]["copies"]
    )


def test_a_copy_of_a_training_word_is_found_and_listed(evaluate, real, generated):
    records = read_text_images(generated)
    source = read_text_images(real, splits=["train"])[2]
    shutil.copyfile(real / source.file_name, generated / "images" / "new.png")
    write_metadata(
        generated,
        [
            *records,
            TextImage(file_name="images/new.png", text=source.text, writer=source.writer, split="test"),
        ],
    )
    copies = evaluate()["details"]["copies"]
    found = {copy["file_name"]: copy for copy in copies}["images/new.png"]
    assert found["copy_of"] == source.file_name and found["distance"] < 0.01 < found["usual_distance"]


def test_words_are_paired_by_name_and_text_and_never_by_order(evaluate, real, generated):
    records = read_text_images(generated)
    write_metadata(generated, records[::-1])
    assert evaluate("--metrics", "nmae")["measures"]["nmae"]["generated"]["value"] < 0.3
    renamed = [
        TextImage(file_name=r.file_name, text="other" if i < 3 else r.text, writer=r.writer, split=r.split)
        for i, r in enumerate(records)
    ]
    write_metadata(generated, renamed)
    measure = evaluate("--metrics", "nmae", save_dir="again")["measures"]["nmae"]
    assert measure["generated"]["n"] == 5 and "3 generated images have no real partner" in measure["protocol"]


def test_words_of_other_records_are_compared_with_the_same_hands(evaluate, generated):
    for i, record in enumerate(records := read_text_images(generated)):
        (generated / record.file_name).rename(generated / "images" / f"new{i}.png")
    write_metadata(
        generated,
        [
            TextImage(file_name=f"images/new{i}.png", text=r.text, writer=r.writer, split=r.split)
            for i, r in enumerate(records)
        ],
    )
    found = evaluate("--recogniser", "fake")
    assert "nmae" not in found["measures"] and any("no file name" in line for line in found["left_out"])
    assert "of the same writers" in found["measures"]["cer/fake"]["protocol"]


def test_several_images_of_a_text_in_a_hand_give_diversity(evaluate, generated, style_encoder):
    records = read_text_images(generated)
    for record in records[:2]:
        shutil.copyfile(generated / record.file_name, generated / "images" / f"again-{record.file_name[7:]}")
    again = [
        TextImage(file_name=f"images/again-{r.file_name[7:]}", text=r.text, writer=r.writer, split=r.split)
        for r in records[:2]
    ]
    write_metadata(generated, [*records, *again])
    measures = evaluate("--style_encoder", style_encoder)["measures"]
    for key in ("diversity_pixels", "diversity_style"):
        assert (
            measures[key]["generated"]["value"] == pytest.approx(0, abs=1e-3)
            and measures[key]["generated"]["n"] == 2
        )


def test_the_equal_sets_are_disjoint_and_of_the_same_hands_and_records(real, generated):
    pair = compare_folders(real, generated, split=None, most=None, seed=0)
    sets, writers = pair.sets, pair.real.writers
    assert not set(sets.reference) & set(sets.real) and pair.split == "test"
    for rows in (sets.reference, sets.real):
        assert sorted(writers[rows]) == sorted(pair.generated.writers[sets.generated])
    assert (pair.partners[sets.generated] == sets.real).all() and sets.pairs == sets.size == 4
    whole = compare_folders(real, generated, split="all", most=3, seed=0)
    assert len(whole.rows) == 16 and len(whole.generated) == 3


# What it writes


def test_the_report_is_one_file_that_needs_nothing_else(evaluate, tmp_path, generated):
    records = read_text_images(generated)
    write_metadata(
        generated,
        [
            TextImage(file_name=records[0].file_name, text='<b>&"x', writer=records[0].writer, split="test"),
            *records[1:],
        ],
    )
    evaluate("--recogniser", "fake")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>") and "<script" not in page and "data:image/png;base64," in page
    assert "<svg" in page and "&lt;b&gt;&amp;&#34;x" in page and '<b>&"x' not in page
    sources = re.findall(r"(?:src|href)=['\"]([^'\"]+)", page)
    assert sources and "&lt;svg" not in page and all(source.startswith("data:") for source in sources)
    assert "read “cab” with confidence" in page and "real, the same record" in page


def test_an_output_is_not_overwritten_by_accident_and_foreign_files_stay(evaluate, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    before = hash_tree(tmp_path / "out")
    assert "not empty" in fail(capsys, evaluate)
    assert hash_tree(tmp_path / "out") == before
    evaluate("--overwrite")
    assert sorted(hash_tree(tmp_path / "out")) == ["metrics.json", "mine.txt", "report.html"]
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_the_words_are_only_read(evaluate, real, generated):
    before = [hash_tree(folder) for folder in (real, generated)]
    evaluate()
    assert [hash_tree(folder) for folder in (real, generated)] == before


# What can go wrong


def test_a_decompression_bomb_is_skipped_and_named(evaluate, generated, monkeypatch):
    name = read_text_images(generated)[0].file_name
    Image.new("L", (64 * 30, 32), 255).save(generated / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 32 * 4)
    (note,) = [line for line in evaluate()["left_out"] if "can't be read" in line]
    assert name in note and "decompression bomb" in note


@pytest.mark.parametrize("content", ["{", "[" * 100_000, "[]"])
def test_damaged_settings_of_the_generated_images_are_named(evaluate, generated, capsys, content):
    (generated / "inference.json").write_text(content)
    assert "inference.json: damaged" in fail(capsys, evaluate).replace("holds list, not an object", "damaged")


def test_words_and_lines_of_2000_pixels_are_measured_together(evaluate, real, generated, style_encoder):
    for folder in (real, generated):
        records = read_text_images(folder)
        for number in range(4):
            word = np.asarray(Image.open(folder / records[0].file_name))
            line = np.tile(word, (1, 2000 // word.shape[1]))
            Image.fromarray(line).save(folder / "images" / f"line{number}.png")
        lines = [
            TextImage(file_name=f"images/line{n}.png", text="cab " * 20, writer="01", split="test")
            for n in range(4)
        ]
        write_metadata(folder, [*records, *lines])
    measures = evaluate("--style_encoder", style_encoder, "--recogniser", "fake")["measures"]
    assert measures["nmae"]["generated"]["n"] == 12 and measures["cer/fake"]["generated"]["n"] == 12
    assert {"style_fid", "strokes/slant", "diversity_style", "nearest_writer"} <= set(measures)


def test_damaged_images_are_skipped_and_counted(evaluate, generated):
    (generated / read_text_images(generated)[0].file_name).write_bytes(b"\x89PNG not")
    found = evaluate()
    assert found["measures"]["nmae"]["generated"]["n"] == 7
    assert any("--generated: 1 images can't be read; the first" in line for line in found["left_out"])


def test_a_single_word_is_measured_where_one_is_enough(evaluate, generated, style_encoder):
    write_metadata(generated, read_text_images(generated)[:1])
    found = evaluate("--style_encoder", style_encoder, "--recogniser", "fake")
    assert found["measures"]["nmae"]["generated"]["low"] is None and "style_fid" not in found["measures"]
    assert any("style distances: need two generated images" in line for line in found["left_out"])


def test_folders_that_do_not_match_are_named(evaluate, tmp_path, generated, capsys):
    shutil.rmtree(generated)
    make_word_folder(generated, WORDS[:4], ("77",), img_size=(32, 64))
    assert re.search(
        r"none of its 1 writers \(77\) is in --real .*\(2 writers: 01, 02\)", fail(capsys, evaluate)
    )
    shutil.rmtree(generated)
    make_word_folder(generated, WORDS[:4], ("01",), img_size=(64, 128))
    assert "images 64 pixels high, but those of --real" in fail(capsys, evaluate)


@pytest.mark.parametrize(
    "content, expected", [(None, "no such folder"), ("", "no words"), ("whole", "none of 8 images can")]
)
def test_a_folder_without_words_is_named(evaluate, generated, capsys, content, expected):
    records = (generated / "metadata.jsonl").read_text()
    shutil.rmtree(generated)
    if content is not None:
        generated.mkdir()
        (generated / "metadata.jsonl").write_text(records if content == "whole" else content)
    message = fail(capsys, evaluate)
    assert message.startswith(f"error: --generated {generated}") and expected in message


def test_images_of_several_heights_are_named(evaluate, generated, capsys):
    name = read_text_images(generated)[0].file_name
    Image.new("L", (64, 40), 255).save(generated / name)
    assert f"32 pixels, but {name} has 40" in fail(capsys, evaluate)


def test_writers_that_the_real_words_do_not_have_are_counted(evaluate, generated):
    records = read_text_images(generated)
    write_metadata(
        generated,
        [
            TextImage(file_name=r.file_name, text=r.text, writer="new" if i == 0 else r.writer, split=r.split)
            for i, r in enumerate(records)
        ],
    )
    assert any(
        "1 generated images are of writers that --real does not have (new)" in line
        for line in evaluate()["left_out"]
    )


def test_a_style_encoder_of_another_height_is_named(evaluate, tmp_path, capsys):
    StyleEncoder(StyleEncoderConfig(writers=("01", "02"), img_size=(64, 64), style_dim=8)).save_pretrained(
        tmp_path / "high", {}
    )
    assert "trained on images 64 pixels high; those of --real" in fail(
        capsys, evaluate, "--style_encoder", tmp_path / "high"
    )


def test_an_unknown_recogniser_is_named(real, generated, tmp_path, capsys):
    flags = [
        "--real",
        str(real),
        "--generated",
        str(generated),
        "--save_dir",
        str(tmp_path / "out"),
        "--recogniser",
        "nobody",
    ]
    with pytest.raises(SystemExit):
        run(main, parse_args(flags))
    assert "--recogniser nobody" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_missing_split_is_named(evaluate, capsys):
    assert "--split val: --real" in fail(capsys, evaluate, "--split", "val")
    assert "--train_split" in fail(capsys, evaluate, "--train_split", "val", "--metrics", "copies")


# FID's network


@pytest.fixture(scope="module")
def random_inception(tmp_path_factory):
    """A file of random weights of the right shapes."""
    inception = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception, "load_state_dict_from_url", lambda *args, **options: {})
        patch.setattr(inception.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = inception.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(network.state_dict(), path)
    return path


def test_the_weights_of_fid_are_loaded_from_a_file(random_inception):
    loaded, description = load_inception(random_inception)
    assert "NOT the standard ones" in description
    with torch.inference_mode():
        assert loaded(torch.zeros(1, 3, 32, 64, dtype=torch.uint8)).shape == (1, 2048)


def test_the_features_of_fid_are_torch_fidelitys_own_and_torchmetrics_differs_by_its_resizing(
    random_inception,
):
    fid = pytest.importorskip("torchmetrics.image.fid")
    ours, _ = load_inception(random_inception)
    theirs = fid.NoTrainInceptionV3("inception-v3-compat", ["2048"], str(random_inception))
    torch.manual_seed(0)
    whole = torch.randint(0, 256, (1, 3, 299, 299), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.allclose(ours(whole), theirs(whole), atol=1e-5), "nothing to resize"


@pytest.mark.parametrize("content", [b"", b"not weights", None])
def test_other_files_than_weights_are_refused(tmp_path, content):
    path = tmp_path / "weights.pth"
    if content is None:
        torch.save({"weight": torch.zeros(2)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="not the weights of FID's Inception"):
        load_inception(path)


def test_a_pickle_with_code_is_never_executed(tmp_path):
    class Code:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"weight": Code()}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="not the weights"):
        load_inception(tmp_path / "weights.pth")
    assert not (tmp_path / "executed").exists()


def test_missing_weights_say_how_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"--inception_weights FILE: get https://.*\.pth \(92 MB\)"):
        load_inception(None)
    with pytest.raises(FileNotFoundError, match=r"gone\.pth: no such file"):
        load_inception(tmp_path / "gone.pth")
