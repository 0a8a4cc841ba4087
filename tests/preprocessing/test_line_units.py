"""Lines of data sets that have words, too: IAM, George Washington, tables of line images, fonts."""

import itertools
import json
import random
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from preprocessing import process_dataset
from preprocessing.cleaning import FitSettings
from preprocessing.raw_word import DROP_REASONS, DroppedWord
from preprocessing.readers import fonts, gw, iam
from preprocessing.readers.font_texts import split_keys, split_of
from preprocessing.readers.line_texts import LENGTHS, LineSource, break_lines, corpus_lines, split_of_line
from tests.helpers import IAM_LAYOUTS, IAM_LINE_ROWS, draw_word, make_gw, make_iam
from utils.errors import UserError
from utils.images import ink_box
from utils.line_images import VISIBLE
from utils.text_images import LINE_BASELINE, LINE_X_HEIGHT, read_text_images

SETTINGS = FitSettings(img_size=(64, 2048))
CORPUS = (
    "It was late in the year when the ferry stopped, and no one who lived by the river could say why it had"
    " not gone on.\n\nTwo days after that a boy came up the hill with a letter in his coat."
)


def call(*flags):
    argv = [*map(str, flags), "--num_workers", "1"]
    process_dataset.main(process_dataset.parse_args(argv))


def read(reader, root, **options):
    items = list(reader.iter_words(root, unit="line", **options))
    kept = {item.source_id: item for item in items if not isinstance(item, DroppedWord)}
    return kept, {item.source_id: item.reason for item in items if isinstance(item, DroppedWord)}


def sizes_of(folder):
    return [Image.open(folder / record.file_name).size for record in read_text_images(folder)]


# --- IAM ---


@pytest.mark.parametrize("layout", IAM_LAYOUTS)
def test_iam_lines_have_spaces_where_their_rows_have_bars(tmp_path, layout):
    make_iam(tmp_path / "deep", layout=layout, lines=IAM_LINE_ROWS)
    kept, dropped = read(iam, tmp_path)
    assert {name: (line.text, line.writer) for name, line in kept.items()} == {
        "a01-000u-00": ("A MOVE to stop", "000"),
        "a01-000u-01": ("any more M Ps ,", "000"),
        "a01-000x-00": ("# Mr. Gaitskell", "001"),
        "b02-013-00": ('" Gait " .', "038"),
    }
    assert not dropped
    assert all(line.image.path.stem == name and line.image.path.is_file() for name, line in kept.items())


def test_iam_lines_are_found_wherever_they_were_unpacked(tmp_path):
    root = make_iam(tmp_path, lines=IAM_LINE_ROWS)
    for path in sorted((root / "lines").rglob("*.png")):
        shutil.move(path, root / "words" / path.relative_to(root / "lines"))
    shutil.move(root / "words/b02/b02-013/b02-013-00.png", root / "b02-013-00.png")
    assert len(read(iam, root)[0]) == 4
    assert len(list(iam.iter_words(root))) == 10  # the words are as they were


def test_iam_lines_need_no_words(tmp_path):
    root = make_iam(tmp_path, lines=IAM_LINE_ROWS)
    (root / "ascii/words.txt").unlink()
    shutil.rmtree(root / "words")
    assert process_dataset.recognise(root) == "iam"
    assert len(read(iam, root)[0]) == 4
    with pytest.raises(FileNotFoundError, match=r"no words\.txt.*There is lines\.txt: give --unit line"):
        next(iam.iter_words(root))
    with pytest.raises(FileNotFoundError, match=r"no lines\.txt.*There is words\.txt: give --unit word"):
        read(iam, make_iam(tmp_path / "words_alone"))


def test_lines_marked_err_are_kept_unless_only_ok_is_asked(tmp_path):
    root = make_iam(tmp_path, lines=IAM_LINE_ROWS)
    _, dropped = read(iam, root, segmentation="ok")
    assert dropped == {"a01-000u-01": "err_segmentation"}


def test_iam_lines_with_struck_out_words_are_left_out_where_asked(tmp_path):
    _, dropped = read(iam, make_iam(tmp_path, lines=IAM_LINE_ROWS), drop_lines_with="#")
    assert dropped == {"a01-000x-00": "marked"} and "marked" in DROP_REASONS


def test_iam_lists_of_lines_and_of_forms_are_splits_of_lines_and_lists_of_words_are_not(tmp_path):
    root = make_iam(tmp_path / "iam", lines=IAM_LINE_ROWS)
    for name, ids in {
        "lines": {"trainset": ["a01-000u-00"], "validationset2": ["a01-000u-01"], "testset": ["b02-013-00"]},
        "forms": {"train": ["a01-000u"], "test": ["b02-013"]},
        "words": {"train": ["a01-000u-00-00"]},
    }.items():
        (tmp_path / name).mkdir()
        for split, rows in ids.items():
            (tmp_path / name / f"{split}.txt").write_text("\n".join(rows))
    kept, dropped = read(iam, root, splits=tmp_path / "lines")
    assert [line.split for line in kept.values()] == ["train", "val", "test"]
    assert dropped == {"a01-000x-00": "not_in_split"}
    kept, _ = read(iam, root, splits=tmp_path / "forms")
    assert [line.split for line in kept.values()] == ["train", "train", "test"]
    with pytest.raises(UserError, match=r"--splits .*words: lists words\. --unit line needs lists of lines"):
        read(iam, root, splits=tmp_path / "words")


@pytest.mark.parametrize(
    "row",
    [
        "a01-000u-00-00 ok 154 408 768 27 51 AT A",
        "a01-000u-05 ok 154 408 746 1661 89 A|MOVE",
        "a01-000u-05 er 154 19 408 746 1661 89 A|MOVE",
        "a01-000u-00 ok 154 19 408 746 1661 89 twice",
    ],
)
def test_bad_rows_of_lines_are_counted(tmp_path, row):
    _, dropped = read(iam, make_iam(tmp_path, lines=[*IAM_LINE_ROWS, row]))
    assert Counter(dropped.values()) == {"bad_row": 1}


# --- George Washington ---


def test_gw_lines_are_spelled_like_words_and_split_by_the_fold(tmp_path):
    kept, dropped = read(gw, make_gw(tmp_path))
    assert {name: (line.text, line.split) for name, line in kept.items()} == {
        "270-01": ("270. Letters, Orders", "train"),
        "270-03": ("particu- lar", "val"),
        "271-01": ("G.W. 1st &c.", "train"),
        "272-01": ("Assign", "test"),
    }
    assert not dropped
    assert all("line_images_normalized" in line.image.path.parts for line in kept.values())


def test_gw_lines_are_asked_of_a_copy_that_has_words_alone(tmp_path):
    root = make_gw(tmp_path)
    (root / "washingtondb-v1.0/ground_truth/transcription.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"transcription\.txt.*labels words: give --unit word"):
        read(gw, root)


def test_an_unknown_token_of_a_line_names_file_and_line(tmp_path):
    root = make_gw(tmp_path)
    path = root / "washingtondb-v1.0/ground_truth/transcription.txt"
    path.write_text("270-01 a|b\n270-03 a|s_xy\n")
    with pytest.raises(UserError, match=r"transcription\.txt line 2: unknown token"):
        read(gw, root)


@pytest.mark.parametrize("make", [lambda root: make_iam(root, lines=IAM_LINE_ROWS), make_gw])
def test_lines_become_a_folder_of_their_own_width(tmp_path, make):
    call("--dataset_path", make(tmp_path / "in"), "--unit", "line", "--save_dir", tmp_path / "out")
    report = json.loads((tmp_path / "out/preprocessing.json").read_text())
    assert report["settings"]["img_size"] == [80, 2560] and report["reader"]["unit"] == "line"
    records = read_text_images(tmp_path / "out")
    assert len(records) == 4 and any(" " in record.text for record in records)
    for record in records:
        image = np.asarray(Image.open(tmp_path / "out" / record.file_name))
        left, top, right, bottom = ink_box(image)
        assert 48 <= bottom - top <= 74 and right - left > 1.5 * (bottom - top)
        assert image.shape[1] % 8 == 0 and image.shape[1] - right <= 13


# --- tables ---


def test_an_image_of_a_whole_line_keeps_its_proportions_up_to_the_width(tmp_path):
    source = tmp_path / "scans"
    source.mkdir()
    texts = ["a whole line of writing as it was scanned, with some more words", "short line", "long " * 60]
    for number, text in enumerate(texts):
        Image.fromarray(draw_word(text.strip(), font_size=60)).save(source / f"{number}.png")
    rows = "".join(f"{number}.png\t{text.strip()}\n" for number, text in enumerate(texts))
    (source / "lines.tsv").write_text("file_name\ttext\n" + rows)
    call("--dataset_path", source, "--save_dir", tmp_path / "out", "--img_size", 64, 2048)
    for number, text in enumerate(texts):
        before = ink_box(draw_word(text.strip(), font_size=60))
        after = ink_box(np.asarray(Image.open(tmp_path / f"out/images/{number}.png")))
        shapes = [(box[2] - box[0]) / (box[3] - box[1]) for box in (before, after)]
        assert shapes[1] == pytest.approx(shapes[0], rel=0.12)
        width = Image.open(tmp_path / f"out/images/{number}.png").width
        assert width % 8 == 0 and after[2] <= width <= min(after[2] + 13, 2048)
    assert after[2] - after[0] > 1900  # the longest is as wide as the canvas allows


# --- fonts ---


@pytest.fixture(scope="module")
def lines():
    pytest.importorskip("fontpkg")
    pytest.importorskip("spellchecker")
    return list(fonts.iter_words(None, unit="line", num_words=200, seed=1))


def test_lines_of_sentences_have_natural_lengths_and_marks():
    pytest.importorskip("spellchecker")
    texts = list(itertools.islice(LineSource(0), 1000))
    assert {len(text) for text in texts} == set(range(LENGTHS[0], LENGTHS[1] + 1))
    characters = Counter("".join(texts))
    assert all(characters[character] >= 10 for character in "aäzßAZ0123456789.,;:!?'\"-()&")
    assert 4 < characters.total() / (characters[" "] + len(texts)) - 1 < 8  # letters a word
    assert len(set(texts)) == 1000
    assert list(itertools.islice(LineSource(0), 50)) == texts[:50]


def test_no_word_of_a_training_line_is_in_a_held_out_line():
    pytest.importorskip("spellchecker")
    words, counts = {"train": set(), "val": set(), "test": set()}, Counter()
    for text in itertools.islice(LineSource(3), 1500):
        counts[split_of(text)] += 1
        words[split_of(text)] |= split_keys(text)
    assert not words["train"] & words["test"] and not words["train"] & words["val"]
    assert not words["val"] & words["test"]
    assert 40 < counts["val"] < 120 and 40 < counts["test"] < 120


def test_a_text_is_broken_into_lines_between_words():
    words = [f"w{number}" for number in range(200)]
    broken = list(break_lines(words, random.Random(0)))
    assert " ".join(broken).split() == words
    assert all(LENGTHS[0] <= len(line) <= LENGTHS[1] for line in broken[:-1])
    assert list(break_lines(["x" * 90, "y"], random.Random(0))) == ["x" * 90, "y"]


def test_a_corpus_gives_the_same_lines_and_splits_for_every_seed(tmp_path):
    pytest.importorskip("fontpkg")
    path = tmp_path / "corpus.txt"
    path.write_text("\ufeff" + CORPUS, encoding="utf-8")
    broken = corpus_lines(path)
    assert " ".join(broken) == " ".join(CORPUS.split())
    assert any(line.startswith("Two days") for line in broken)
    drawn = [
        {line.text: line.split for line in fonts.iter_words(None, unit="line", words_file=path, **options)}
        for options in ({"num_words": len(broken)}, {"num_words": len(broken), "seed": 5})
    ]
    assert drawn[0] == drawn[1] and set(drawn[0]) == set(broken)
    assert split_of_line("Ein Straßenname, kurz.") == split_of_line("EIN STRASSENNAME KURZ")


def test_font_lines_stand_on_one_baseline_at_their_fonts_size(lines):
    tall, flat = "Half of the old hotel hid behind", "a sum can even use numerous means"
    for line in {line.writer: line for line in lines}.values():
        images = [replace(line.image, text=text, seed=(7,)).draw(SETTINGS) for text in (tall, flat)]
        # Rows with much ink are those of small letters.
        bodies = [np.flatnonzero(row >= 0.5 * row.max()) for row in ((i < 160).sum(axis=1) for i in images)]
        assert all(image.shape[0] == 64 and image.shape[1] % 8 == 0 for image in images)
        assert abs(bodies[1][-1] + 1 - LINE_BASELINE * 64) <= 4, line.writer
        assert np.ptp(bodies[1]) + 1 <= 1.3 * LINE_X_HEIGHT * 64, line.writer


def test_a_font_line_is_as_wide_as_its_ink(lines):
    for line in lines[:40]:
        image = line.image.draw(SETTINGS)
        visible = np.flatnonzero((image < 255 - VISIBLE).any(axis=0))
        assert 3 <= visible[0] <= 6 and image.shape[1] - visible[-1] - 1 <= 13, line.text
        assert (image[:, 0] == 255).all() and image.shape[1] > 8 * len(line.text) / 2


def test_a_font_line_is_the_same_for_the_same_seed_and_wider_than_the_canvas_it_is_left_out(lines):
    drawing = lines[0].image
    assert np.array_equal(drawing.draw(SETTINGS), replace(drawing).draw(SETTINGS))
    other = replace(drawing, seed=(9, 9)).draw(SETTINGS)
    assert other.shape != drawing.draw(SETTINGS).shape or (other != drawing.draw(SETTINGS)).any()
    assert drawing.draw(FitSettings(img_size=(64, 64))) == "too_wide"


def test_process_dataset_draws_lines_in_fonts(tmp_path):
    pytest.importorskip("fontpkg")
    call("--dataset", "fonts", "--unit", "line", "--num_words", 12, "--save_dir", tmp_path / "out")
    records = read_text_images(tmp_path / "out")
    assert len(records) == 12 and all(LENGTHS[0] <= len(record.text) <= LENGTHS[1] for record in records)
    assert len(set(sizes_of(tmp_path / "out"))) > 3


# --- flags ---


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--dataset", "fonts", "--unit", "line", "--align", "center"),
            "--align center: is for images of si",
        ),
        (("--dataset", "fonts", "--unit", "line", "--remove_rules"), "--remove_rules True: is for images of"),
        (("--dataset", "fonts", "--unit", "line", "--split_words"), "--split_words True: is for images of"),
    ],
)
def test_flags_that_change_nothing_on_lines_of_fonts_are_refused(flags, message):
    with pytest.raises(UserError, match=message):
        call(*flags, "--dry_run")


def test_the_published_filter_of_words_is_refused_for_lines(tmp_path):
    source = make_iam(tmp_path, lines=IAM_LINE_ROWS)
    with pytest.raises(UserError, match="--preset wordstylist: is for images of single words"):
        call("--dataset_path", source, "--unit", "line", "--preset", "wordstylist", "--dry_run")


def test_unit_is_refused_where_a_data_set_has_one_kind_of_image(tmp_path):
    with pytest.raises(UserError, match="--unit line: is for --dataset iam or gw or pages or fonts"):
        call("--dataset", "table", "--dataset_path", tmp_path, "--unit", "line", "--dry_run")
