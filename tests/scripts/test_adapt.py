"""From pages to a recogniser of their own, at the smallest size; the generator's part is faked."""

import importlib
from pathlib import Path

import pytest
import torch

from evaluation import collection_generation, collection_steps
from htr.crnn import CRNN, CRNNConfig
from htr.reading import Reading
from scripts import adapt
from tests.helpers import make_word_folder, run_script
from tests.preprocessing.page_files import alto, draw_page, line_of, make_collection
from utils.errors import UserError
from utils.json_files import read_json
from utils.text_images import read_text_images

PAGES = {f"page_{i}": ("cab fed", "abe deaf bad", "ace dab") for i in range(5)}


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Five transcribed pages and one without texts."""
    folder = tmp_path_factory.mktemp("data") / "pages"
    texts = {name: [f"{text} {name[-1]}" for text in lines] for name, lines in PAGES.items()}
    make_collection(folder, texts)
    draw_page(PAGES["page_0"]).save(folder / "jpg" / "empty.jpg")
    empty = [line_of(number, text) | {"text": ""} for number, text in enumerate(PAGES["page_0"])]
    (folder / "alto" / "empty.xml").write_text(alto(empty, "empty.jpg"))
    return folder


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recogniser")
    characters = tuple("abcdef 01234")
    torch.manual_seed(0)
    config = CRNNConfig(characters=characters, img_height=32, channels=(4, 8, 8, 8), hidden=8, layers=1)
    CRNN(config).save_pretrained(folder, {})
    return folder


def call_here(name, arguments, log, device, **more):
    """Scripts in this process; what the generator would write is drawn."""
    values = [str(value) for value in arguments]
    importlib.import_module(name.removesuffix(".py").replace("/", ".")).parse_args(values)
    if name == "train_diffusion.py":
        hands = arguments[arguments.index("--fit_hand") + 1]
        hands.mkdir(parents=True)
        (hands / "collection.safetensors").write_bytes(b"")
    elif name in ("inference.py", "generation/filter_words.py"):
        flag = "--save_path" if name == "inference.py" else "--save_dir"
        target = arguments[arguments.index(flag) + 1]
        make_word_folder(target, ["cab fed", "ace", "bad"], ("w",), splits=("train",), img_size=(80, 160))
    else:
        run_script(name.removesuffix(".py"), *values)


def test_a_collection_gets_its_recogniser_and_its_texts(
    collection, recogniser, styled_checkpoint, tmp_path, monkeypatch, capsys
):
    for module in (adapt, collection_generation):
        monkeypatch.setattr(module, "call_script", call_here)
    flags = ["--recogniser", recogniser, "--generator", styled_checkpoint, "--htr_steps", 2, "--synthetic", 3]
    argv = [str(value) for value in (collection, tmp_path / "out", *flags)]
    adapt.main(adapt.parse_args(argv))
    out = capsys.readouterr().out
    report = (tmp_path / "out" / "report.md").read_text()
    assert report.count("CER") == 3 and report in out and "8/8" in out and "of 3 lines kept" in out
    assert CRNN.from_pretrained(tmp_path / "out" / "recogniser").head.weight.dtype == torch.float32
    assert [path.name for path in (tmp_path / "out" / "pages").iterdir()] == ["empty.xml"]
    assert (tmp_path / "out" / "pylaia" / "syms.txt").is_file()
    kraken = list((tmp_path / "out" / "kraken" / "train").glob("*.gt.txt"))
    tested = list((tmp_path / "out" / "kraken" / "test").glob("*.gt.txt"))
    assert len(kraken) + len(tested) == 18 and tested

    adapt.main(adapt.parse_args(argv))  # nothing is done anew
    assert (tmp_path / "out" / "report.md").read_text() == report
    with pytest.raises(UserError, match="--synthetic 3, not 4"):
        adapt.main(adapt.parse_args([*argv, "--synthetic", "4"]))


class Reader:
    """Stands for a recogniser that reads something everywhere."""

    def __init__(self, model):
        pass

    def read(self, images):
        assert all(image.ndim == 2 and image.min() < 128 for image in images)
        return [Reading(text="cab"[: 1 + i % 3], confidence=0.9**i) for i in range(len(images))]


def test_what_is_read_in_lines_without_text_is_learnt(
    collection, recogniser, styled_checkpoint, tmp_path, monkeypatch, capsys
):
    for module in (adapt, collection_generation):
        monkeypatch.setattr(module, "call_script", call_here)
    monkeypatch.setattr(collection_steps, "CRNNRecogniser", Reader)
    flags = ["--recogniser", recogniser, "--generator", styled_checkpoint, "--htr_steps", 2, "--synthetic", 3]
    adapt.main(adapt.parse_args([str(value) for value in (collection, tmp_path / "out", *flags)]))
    assert "2 of 3 lines kept" in capsys.readouterr().out
    assert "generated and read lines, then real ones" in (tmp_path / "out" / "report.md").read_text()
    kept = read_text_images(tmp_path / "out" / "work" / "pseudo")
    assert len(kept) == 2 and all(record.text in ("c", "ca", "cab") for record in kept)
    trained_on = read_json(tmp_path / "out" / "work" / "both_lines-0" / "results.json")["train"]
    assert [Path(folder).name for folder in trained_on] == ["generated", "pseudo", "lines"]


def test_results_do_not_go_where_something_else_is(collection, recogniser, styled_checkpoint, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    flags = ["--recogniser", recogniser, "--generator", styled_checkpoint]
    for target, words in ((tmp_path / "full", "not empty"), (collection / "out", "lies in the collection")):
        with pytest.raises(UserError, match=words):
            adapt.main(adapt.parse_args([str(value) for value in (collection, target, *flags)]))
