"""Text images in the formats of trainers, read back as the trainers read them."""

import json
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers import draw_word, hash_tree, run_script
from utils.output import save_image
from utils.text_images import TextImage, write_metadata

TEXTS = (
    "Tom & Ann",
    "a < b > c",
    'he said "no"',
    "où est l'été ?",
    "single",
    "tab\tand\nbreak",
    "e\u0301te\u0301",
)


def make_lines(
    folder: Path, texts=TEXTS, names=None, writers=("a", "b"), splits=("train", "train", "val")
) -> list[TextImage]:
    (folder / "images").mkdir(parents=True)
    records = []
    for i, text in enumerate(texts):
        name = f"images/{names[i] if names else f'{i:03d}.png'}"
        record = TextImage(
            file_name=name,
            text=text,
            writer=writers[i % len(writers)],
            split=splits[i % len(splits)],
            extra={"cer": 0.25},
        )
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        save_image(draw_word(text.split("\n")[0] or "x", font_size=20), folder / name)
        records.append(record)
    write_metadata(folder, records)
    return records


def export(source: Path, target: Path, name: str, *flags) -> dict:
    run_script("generation.export", "--dataset_path", source, "--save_dir", target, "--format", name, *flags)
    return json.loads((target / "export.json").read_text(encoding="utf-8"))


def expected_text(text: str) -> str:
    return unicodedata.normalize("NFC", " ".join(text.split()))


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lines") / "lines"
    make_lines(folder)
    return folder


def test_kraken_gets_pairs_in_a_folder_a_split(lines, tmp_path):
    counts = export(lines, tmp_path / "out", "kraken")
    assert counts["exported"] == {"train": 5, "val": 2}
    found = {}
    for path in (tmp_path / "out").rglob("*.png"):
        text = path.with_suffix(".gt.txt").read_text(encoding="utf-8")
        assert text.count("\n") == 1 and text.endswith("\n")
        found[f"{path.parent.name}/{path.stem}"] = text[:-1]
    splits = ["train", "train", "val"] * 3
    assert found == {
        f"{split}/{i:03d}": expected_text(text)
        for i, (split, text) in enumerate(zip(splits, TEXTS, strict=False))
    }


def test_texts_are_one_line_of_nfc_and_what_was_changed_is_counted(lines, tmp_path):
    counts = export(lines, tmp_path / "out", "kraken")
    assert counts["changed_texts"] == 2
    manifest = [
        json.loads(line)
        for line in (tmp_path / "out" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [line["text"] for line in manifest][-2:] == ["tab and break", "été"]
    assert manifest[0] == {
        "file_name": "train/000.png",
        "source": "images/000.png",
        "text": "Tom & Ann",
        "writer": "a",
        "split": "train",
        "cer": 0.25,
    }


def test_the_source_is_only_read(lines, tmp_path):
    before = hash_tree(lines)
    for name in ("kraken", "pylaia", "paddleocr", "hwd"):
        export(lines, tmp_path / name, name)
    assert hash_tree(lines) == before


def test_names_lose_their_dots_and_stay_apart(tmp_path):
    names = [
        "a.b.png",
        "a_b.png",
        "A_B.png",
        "sub/x.png",
        "sub-x.png",
        "x.png",
        "x.jpg",
        "#1 é.png",
        "-rf.png",
    ]
    make_lines(tmp_path / "lines", ["t"] * len(names), names, splits=("train",))
    export(tmp_path / "lines", tmp_path / "out", "kraken")
    stems = [path.stem for path in (tmp_path / "out" / "train").glob("*.png")]
    assert len(stems) == len(names) == len({stem.casefold() for stem in stems})
    assert all(stem.replace("_", "").replace("-", "").isalnum() and stem.isascii() for stem in stems)
    assert not any(stem.startswith("-") for stem in stems)


def test_pylaia_gets_tables_ids_and_symbols(lines, tmp_path):
    export(lines, tmp_path / "out", "pylaia")
    out = tmp_path / "out"
    rows = dict(
        line.split(maxsplit=1) for line in (out / "train.txt").read_text(encoding="utf-8").splitlines()
    )
    assert rows["000"] == "T o m <space> & <space> A n n"
    symbols = [line.split() for line in (out / "syms.txt").read_text(encoding="utf-8").splitlines()]
    assert symbols[:2] == [["<ctc>", "0"], ["<space>", "1"]]
    assert [int(number) for _, number in symbols] == list(range(len(symbols)))
    tokens = {
        token
        for name in ("train", "val")
        for line in (out / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        for token in line.split()[1:]
    }
    assert tokens <= {symbol for symbol, _ in symbols}
    assert (out / "val_ids.txt").read_text() == "002\n005\n"
    assert {Image.open(path).height for path in (out / "images").glob("*.png")} == {128}


def test_a_height_scales_the_width_alike(lines, tmp_path):
    export(lines, tmp_path / "out", "pylaia", "--height", 64)
    before, after = Image.open(lines / "images/000.png"), Image.open(tmp_path / "out/images/000.png")
    assert after.height == 64 and after.width == pytest.approx(before.width * 64 / before.height, abs=1)


def test_images_that_need_no_change_are_copied_as_they_are(lines, tmp_path):
    export(lines, tmp_path / "out", "kraken")
    assert (tmp_path / "out/train/000.png").read_bytes() == (lines / "images/000.png").read_bytes()


def test_paddleocr_gets_paths_and_texts_apart_by_a_tab(lines, tmp_path):
    export(lines, tmp_path / "out", "paddleocr")
    rows = [
        line.split("\t") for line in (tmp_path / "out/train.txt").read_text(encoding="utf-8").splitlines()
    ]
    assert [text for _, text in rows] == [expected_text(TEXTS[i]) for i in (0, 1, 3, 4, 6)]
    assert all((tmp_path / "out" / path).is_file() for path, _ in rows)
    characters = (tmp_path / "out/dict.txt").read_text(encoding="utf-8").splitlines()
    assert set(characters) == set("".join(map(expected_text, TEXTS))) - {" "}


def test_lmdb_holds_images_and_labels_from_one_on(lines, tmp_path):
    lmdb = pytest.importorskip("lmdb")
    export(lines, tmp_path / "out", "lmdb")
    with (
        lmdb.open(str(tmp_path / "out/train"), readonly=True, lock=False) as database,
        database.begin() as transaction,
    ):
        assert transaction.get(b"num-samples") == b"5"
        assert transaction.get(b"label-000000003").decode() == "où est l'été ?"
        assert transaction.get(b"image-000000001") == (lines / "images/000.png").read_bytes()
        assert transaction.get(b"image-000000006") is None


def test_doctr_gets_words_and_lines_are_counted(lines, tmp_path):
    counts = export(lines, tmp_path / "out", "doctr")
    assert counts["left_out"] == {"several_words": 5}
    assert json.loads((tmp_path / "out/train/labels.json").read_text(encoding="utf-8")) == {
        "004.png": "single",
        "006.png": "été",
    }
    assert (tmp_path / "out/train/images/004.png").is_file()


def test_doctr_refuses_a_folder_of_lines(tmp_path):
    make_lines(tmp_path / "lines", ["two words"])
    with pytest.raises(
        ValueError, match=r"--format doctr: none of 1 images.*several_words.*[Cc]ut lines into words"
    ):
        export(tmp_path / "lines", tmp_path / "out", "doctr")
    assert [path.name for path in tmp_path.iterdir()] == ["lines"]


def test_hwd_gets_a_folder_an_author(tmp_path):
    make_lines(tmp_path / "lines", ["one", "two", "three"], writers=("a/b", "a_b", "c"), splits=("test",))
    export(tmp_path / "lines", tmp_path / "out", "hwd")
    texts = json.loads((tmp_path / "out/test/transcriptions.json").read_text(encoding="utf-8"))
    assert texts == {"a_b/000.png": "one", "a_b-2/001.png": "two", "c/002.png": "three"}
    assert all((tmp_path / "out/test" / path).is_file() for path in texts)


def test_what_is_left_out_is_counted_by_reason(tmp_path):
    records = make_lines(tmp_path / "lines", ["good", " \t ", "bell\a", "gone", "broken"], splits=("train",))
    (tmp_path / "lines" / records[3].file_name).unlink()
    (tmp_path / "lines" / records[4].file_name).write_bytes(b"\x89PNG no more")
    counts = export(tmp_path / "lines", tmp_path / "out", "kraken")
    assert counts["exported"] == {"train": 1}
    assert counts["left_out"] == {
        "empty_text": 1,
        "control_character": 1,
        "missing_image": 1,
        "damaged_image": 1,
    }


def test_only_the_chosen_splits_are_written(lines, tmp_path):
    assert export(lines, tmp_path / "out", "kraken", "--split", "val")["exported"] == {"val": 2}
    assert not (tmp_path / "out/train").exists()


def test_the_same_command_again_finds_its_work_done(lines, tmp_path, capsys):
    export(lines, tmp_path / "out", "kraken")
    before = hash_tree(tmp_path / "out")
    export(lines, tmp_path / "out", "kraken")
    assert "finished" in capsys.readouterr().out and hash_tree(tmp_path / "out") == before


def test_another_export_is_replaced_only_when_asked(lines, tmp_path):
    export(lines, tmp_path / "out", "kraken")
    with pytest.raises(ValueError, match=r"--save_dir .*another export.*--overwrite"):
        export(lines, tmp_path / "out", "paddleocr")
    export(lines, tmp_path / "out", "paddleocr", "--overwrite")
    assert (tmp_path / "out/train.txt").is_file() and not (tmp_path / "out/train").exists()


def test_files_of_others_are_never_replaced(lines, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"--save_dir .*not made by this command"):
        export(lines, tmp_path / "out", "kraken", "--overwrite")
    export(lines, tmp_path / "own", "kraken")
    (tmp_path / "own/train/model.safetensors").write_text("days of training")
    with pytest.raises(ValueError, match=r"--save_dir .*files that this command did not write"):
        export(lines, tmp_path / "own", "paddleocr", "--overwrite")
    assert (tmp_path / "own/train/model.safetensors").is_file()


def test_an_interrupted_export_leaves_nothing(lines, tmp_path, monkeypatch):
    import generation.export as script

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "load_png", stop)
    with pytest.raises(KeyboardInterrupt):
        export(lines, tmp_path / "out", "kraken")
    assert list(tmp_path.iterdir()) == []


def test_the_output_may_not_lie_in_the_source(lines):
    with pytest.raises(ValueError, match="--save_dir lies in --dataset_path"):
        export(lines, lines / "out", "kraken")
