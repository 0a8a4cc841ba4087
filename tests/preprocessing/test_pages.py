"""Transcribed pages: which picture, whose hand, which split, and what is left out."""

from collections import Counter

import pytest
from PIL import Image

from preprocessing import process_dataset
from preprocessing.page_splits import split_by_page
from preprocessing.raw_word import DROP_REASONS, DroppedWord, RawWord
from preprocessing.readers import pages
from preprocessing.selection import choose_splits
from tests.helpers import hash_tree
from tests.preprocessing.page_files import alto, draw_page, line_of, make_collection, page_xml
from utils.errors import UserError
from utils.text_images import read_text_images

TEXTS = ["Some words here", "no more", "gap jumps"]


def read(root, **options):
    return list(pages.iter_words(root, **options))


def reasons(items):
    return Counter(item.reason for item in items if isinstance(item, DroppedWord))


def writers(root, **options):
    return {item.page: item.writer for item in read(root, **options) if isinstance(item, RawWord)}


def call(*flags):
    process_dataset.main(process_dataset.parse_args([str(flag) for flag in flags]))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_collection_becomes_text_images_of_lines(tmp_path, capsys, workers):
    source, target = tmp_path / "c", tmp_path / "out"
    make_collection(source, {f"will_{i:04}-{j}": TEXTS for i in range(4) for j in range(2)})
    before = hash_tree(source)
    assert process_dataset.recognise(source) == "pages"
    call("--dataset_path", source, "--save_dir", target, "--num_workers", workers)
    records = read_text_images(target)
    assert len(records) == 24 and {record.text for record in records} == set(TEXTS)
    assert {record.writer for record in records} == {f"will_{i:04}" for i in range(4)}
    images = [Image.open(target / record.file_name) for record in records]
    assert {image.height for image in images} == {80} and len({image.width for image in images}) > 1
    assert all(image.width % 8 == 0 for image in images)
    assert hash_tree(source) == before and "found       pages" in capsys.readouterr().out


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch):
    make_collection(tmp_path / "c", {"p1": TEXTS, "p2": TEXTS})
    flags = ("--dataset_path", tmp_path / "c", "--save_dir", tmp_path / "out", "--num_workers", 1)
    monkeypatch.setattr(
        process_dataset, "write_metadata", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        call(*flags)
    monkeypatch.undo()
    (tmp_path / "out" / "images" / "p1-l0.png").unlink()
    call(*flags)
    assert len(read_text_images(tmp_path / "out")) == 6


def test_lines_wider_than_the_canvas_are_counted(tmp_path, capsys):
    make_collection(tmp_path / "c", {"p1": TEXTS})
    call("--dataset_path", tmp_path / "c", "--save_dir", tmp_path / "out", "--img_size", 64, 176)
    assert "too_wide                  1" in capsys.readouterr().out
    assert len(read_text_images(tmp_path / "out")) == 2


def test_a_picture_is_found_by_name_wherever_it_lies_and_the_nearest_counts(tmp_path):
    for folder in ("a/page", "a/img", "b", "c"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("a/img/One Two.JPG", "b/One Two.jpg", "c/three.v2.tif"):
        draw_page(["x"]).save(tmp_path / name)
    lines = [line_of(0, "x")]
    (tmp_path / "a/page/1.xml").write_text(
        page_xml(lines, "https://archive.org/iiif/One%20Two.jpg?download=1")
    )
    (tmp_path / "c/2.xml").write_text(alto(lines, r"D:\scans\three.v2.png"))
    (tmp_path / "c/three.v2.xml").write_text(alto(lines, "renamed.png"))
    (tmp_path / "c/4.xml").write_text(alto(lines, "nowhere.png"))
    items = read(tmp_path)
    found = {item.page: item.image.page.path for item in items if isinstance(item, RawWord)}
    assert found == {"1": tmp_path / "a/img/One Two.JPG", "2": tmp_path / "c/three.v2.tif"}
    assert reasons(items) == {"no_image": 1, "duplicate_page": 1}


def test_a_page_that_lies_there_in_both_formats_is_read_once(tmp_path):
    for folder in ("alto", "page"):
        (tmp_path / folder).mkdir()
    draw_page(TEXTS).save(tmp_path / "x.png")
    (tmp_path / "alto/x.xml").write_text(alto([line_of(0, "from alto")], "x.png"))
    (tmp_path / "page/x.xml").write_text(page_xml([line_of(0, "from page")], "x.png"))
    items = read(tmp_path)
    assert [item.text for item in items if isinstance(item, RawWord)] == ["from page"]
    assert reasons(items) == {"duplicate_page": 1}


def test_every_line_that_is_left_out_has_a_reason(tmp_path):
    lines = [line_of(0, "good"), line_of(1, " "), line_of(2, "a >b< c"), line_of(3, "two # one")]
    draw_page(["good"]).save(tmp_path / "x.png")
    (tmp_path / "x.xml").write_text(alto(lines, "x.png"))
    (tmp_path / "broken.xml").write_text("<alto><Layout>")
    (tmp_path / "other.xml").write_text("<mets/>")
    items = read(tmp_path, drop_lines_with="#⋎")
    assert reasons(items) == {"empty_text": 1, "struck_out": 1, "marked": 1, "bad_xml": 1}
    assert set(reasons(items)) <= set(DROP_REASONS)
    assert [item.text for item in read(tmp_path) if isinstance(item, RawWord)] == ["good", "two # one"]


@pytest.mark.parametrize(
    ("page", "document"),
    [
        ("wikitexte_0066_1", "wikitexte_0066"),
        ("imp_wikitexte_0219", "imp_wikitexte_0219"),
        ("will_AD78_0005-0", "will_AD78_0005"),
        ("MS 12 f. 3v", "MS 12"),
        ("0003", "0003"),
        ("letter", "letter"),
    ],
)
def test_a_document_is_what_comes_before_a_pages_number(page, document):
    assert pages.document_of(page) == document


def test_whose_hand_a_page_is_can_be_said_in_five_ways(tmp_path):
    make_collection(tmp_path / "box", {"d_01_1": ["a"], "d_01_2": ["b"], "e_02_1": ["c"]})
    assert set(writers(tmp_path).values()) == {"d_01", "e_02"}
    assert set(writers(tmp_path, writer_from="folder").values()) == {"box"}
    assert set(writers(tmp_path, writer_from="page").values()) == {"d_01_1", "d_01_2", "e_02_1"}
    assert set(writers(tmp_path, writer_pattern=r"(\w)_\d").values()) == {"d", "e"}
    table = tmp_path / "hands.csv"
    table.write_text("page;writer\nd_01_1.jpg;Ann\nalto/e_02_1.xml;Ben\n")
    items = read(tmp_path, writer_table=table)
    assert {item.writer for item in items if isinstance(item, RawWord)} == {"Ann", "Ben"}
    assert reasons(items) == {"unknown_writer": 1}


def test_tables_and_patterns_that_say_nothing_are_errors(tmp_path):
    make_collection(tmp_path, {"d_01_1": ["a"]})
    (tmp_path / "t.csv").write_text("name,hand\nd,Ann\n")
    with pytest.raises(UserError, match=r"--writer_table .*page and writer"):
        read(tmp_path, writer_table=tmp_path / "t.csv")
    with pytest.raises(FileNotFoundError, match="--writer_table"):
        read(tmp_path, writer_table=tmp_path / "missing.csv")
    with pytest.raises(UserError, match="--writer_pattern"):
        read(tmp_path, writer_pattern="(")
    with pytest.raises(FileNotFoundError, match="PAGE or ALTO"):
        read(tmp_path / "jpg")


def test_words_are_cut_where_the_file_outlines_them(tmp_path):
    draw_page(["two words", "whole line"]).save(tmp_path / "x.png")
    strings = [("two", (38, 70, 80, 50)), ("words", (124, 70, 130, 50))]
    (tmp_path / "x.xml").write_text(
        alto([line_of(0, "", strings=strings), line_of(1, "whole line")], "x.png")
    )
    items = read(tmp_path, unit="word")
    assert [item.text for item in items if isinstance(item, RawWord)] == ["two", "words"]
    assert reasons(items) == {"no_words": 1}
    call("--dataset_path", tmp_path, "--save_dir", tmp_path.with_name("out"), "--unit", "word")
    assert len(read_text_images(tmp_path.with_name("out"))) == 2


def test_words_of_a_file_of_lines_are_refused(tmp_path):
    make_collection(tmp_path, {"p": TEXTS})
    with pytest.raises(UserError, match=r"--unit word: no file .* outlines single words\. Take --unit line"):
        read(tmp_path, unit="word")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--background", "keep"), "--background keep: is for images of single words"),
        (("--split_words",), "--split_words True"),
        (("--preset", "wordstylist"), "--preset wordstylist"),
        (("--fold", "cv2"), "--fold cv2"),
        (("--unseen_writers", "0.5"), "--unseen_writers 0.5: there is one writer"),
    ],
)
def test_flags_of_single_words_and_of_other_readers_are_refused(tmp_path, flags, message):
    make_collection(tmp_path / "c", {"p1": TEXTS, "p2": TEXTS})
    with pytest.raises(UserError, match=message):
        call(
            "--dataset_path",
            tmp_path / "c",
            "--save_dir",
            tmp_path / "out",
            "--writer_from",
            "folder",
            *flags,
        )
    assert not (tmp_path / "out").exists()


def line(page, text, writer):
    return RawWord(image=None, text=text, writer=writer, split=None, source_id=f"{page}-0", page=page)


def splits_of(words, val=0.1, test=0.2, unseen=0.0):
    found = {}
    for word in split_by_page(words, val, test, unseen):
        assert found.setdefault(word.page, word.split) == word.split
    return found


def collection(hands, pages_a_hand, lines=5):
    return [
        line(f"{hand}-{page}", f"w{hand} x{page} y{hand} z{number} q{hand} r{page} s{number}", f"h{hand}")
        for hand in range(hands)
        for page in range(pages_a_hand)
        for number in range(lines)
    ]


def test_a_page_is_in_one_split_and_each_hand_has_a_page_in_train():
    splits = splits_of(collection(10, 4))
    assert Counter(splits.values()) == {"train": 28, "test": 8, "val": 4}
    assert {page.split("-")[0] for page, split in splits.items() if split == "train"} == set("0123456789")
    assert splits_of(collection(10, 4)[::-1]) == splits


def test_hands_of_one_page_each_are_split_by_hands():
    assert Counter(splits_of(collection(20, 1)).values()) == {"train": 14, "test": 4, "val": 2}


def test_a_single_page_is_for_training():
    assert splits_of(collection(1, 1), 0.4, 0.5) == {"0-0": "train"}


def test_unseen_hands_are_in_test_alone():
    words = choose_splits(collection(10, 4), 0.1, 0.2, 0.3)
    by_writer = {}
    for word in words:
        by_writer.setdefault(word.writer, set()).add(word.split)
    assert sum(splits == {"test"} for splits in by_writer.values()) == 3
    assert sum("train" in splits for splits in by_writer.values()) == 7


def test_unseen_hands_are_kept_for_data_sets_of_words_too():
    words = [
        RawWord(image=None, text="a", writer=f"w{i % 5}", split=None, source_id=str(i)) for i in range(50)
    ]
    test = [word for word in choose_splits(words, 0, 0, 0.2) if word.split == "test"]
    assert len(test) == 10 and len({word.writer for word in test}) == 1


def test_a_text_that_two_hands_copied_stays_on_one_side():
    text = [f"copied word{i} of text{i} by all{i} hands{i}" for i in range(12)]
    for unseen in (0.0, 0.2):
        words = collection(12, 2)
        words += [line("a-1", row, "a") for row in text[:6]] + [line("a-2", row, "a") for row in text[6:]]
        words += [line("b-1", row, "b") for row in text[:9]] + [line("b-2", row, "b") for row in text[9:]]
        splits = splits_of(words, 0.2, 0.3, unseen)
        assert len({splits[page] for page in ("a-1", "a-2", "b-1", "b-2")}) == 1


def test_a_sentence_on_all_forms_ties_no_pages():
    words = collection(10, 2)
    words += [
        line(f"{hand}-0", "I have read this form and sign it with my own hand", f"h{hand}")
        for hand in range(10)
    ]
    assert len(set(splits_of(words).values())) == 3
