"""The IAM reader, on rows in the grammar of words.txt."""

import zipfile
from collections import Counter

import pytest

from preprocessing.raw_word import DroppedWord
from preprocessing.readers import gw, iam, imgur5k
from preprocessing.readers.split_lists import read_split_lists, split_of_name
from tests.helpers import IAM_LAYOUTS, IAM_ROWS, hash_tree, make_iam


def read(root, **options):
    words = list(iam.iter_words(root, **options))
    kept = {word.source_id: word for word in words if not isinstance(word, DroppedWord)}
    return kept, {word.source_id: word.reason for word in words if isinstance(word, DroppedWord)}


@pytest.mark.parametrize("layout", IAM_LAYOUTS)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_layout_is_found_and_only_by_its_reader(tmp_path, layout, newline):
    make_iam(tmp_path / "deep" / "er", layout=layout, newline=newline)
    assert iam.recognises(tmp_path) and not gw.recognises(tmp_path) and not imgur5k.recognises(tmp_path)
    kept, dropped = read(tmp_path)
    assert len(kept) == 8
    assert dropped == {"a01-000u-00-02": "err_segmentation", "a01-000x-00-02": "unannotated"}
    assert all(word.image.path.is_file() and word.image.path.stem == name for name, word in kept.items())
    assert {word.split for word in kept.values()} == {None}


def test_last_field_keeps_its_spaces_and_signs(tmp_path):
    kept, _ = read(make_iam(tmp_path))
    assert kept["a01-000x-00-01"].text == "M Ps"
    assert kept["a01-000u-01-01"].text == "."
    assert kept["b02-013-00-01"].text == "-"
    assert iam.parse_row('a01-020-00-00 ok 1 -1 -1 -1 -1 " "') == ("a01-020-00-00", True, '"')


@pytest.mark.parametrize(
    "row",
    [
        "a01-000u-00-00 ok 154 1 408 768 27 51",  # a field is missing
        "a01-000u-00-00 er 154 408 768 27 51 AT A",  # the header's spelling of err
        "a01-000u-00 ok 154 19 408 746 1661 89 A|MOVE",  # a row of lines.txt
        "a01-000u-00-00 ok x 408 768 27 51 AT A",
        "a01-000u-00-00 ok 154 408 768 27 51 AT caf\ufffd",
    ],
)
def test_bad_rows_are_counted(tmp_path, row):
    _, dropped = read(make_iam(tmp_path, [*IAM_ROWS, row], images=False))
    assert Counter(dropped.values())["bad_row"] == 1


def test_header_example_with_a_component_count_is_no_row_of_ours():
    # The ten-field example parses as nine fields with one number too many; its text shows it.
    assert iam.parse_row("a01-000u-00-00 ok 154 1 408 768 27 51 AT A")[2] == "AT A"


def test_segmentation_all_keeps_err_rows(tmp_path):
    kept, dropped = read(make_iam(tmp_path), segmentation="all")
    assert kept["a01-000u-00-02"].text == "to"
    assert "err_segmentation" not in dropped.values()


@pytest.mark.parametrize("writers", ["forms", "xml"])
def test_writers_are_strings_with_their_zeros(tmp_path, writers):
    kept, _ = read(make_iam(tmp_path, writers=writers))
    assert kept["a01-000u-00-00"].writer == "000"
    assert kept["a01-000x-00-00"].writer == "001"
    assert kept["b02-013-00-00"].writer == "038"


def test_missing_writers_are_an_error_and_an_unknown_form_is_not(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"forms\.txt.*xml"):
        read(make_iam(tmp_path / "none", writers="none"))
    _, dropped = read(make_iam(tmp_path / "one", ["c03-000a-00-00 ok 154 408 768 27 51 AT A"]))
    assert dropped == {"c03-000a-00-00": "unknown_writer"}


def test_missing_words_txt_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"words\.txt"):
        read(tmp_path)


def test_missing_images_are_counted_and_lines_are_not_taken_for_words(tmp_path):
    make_iam(tmp_path)
    (tmp_path / "words/a01/a01-000u/a01-000u-00-00.png").unlink()
    lines = tmp_path / "lines/a01/a01-000u"
    lines.mkdir(parents=True)
    (lines / "a01-000u-00.png").write_bytes(b"")
    kept, dropped = read(tmp_path)
    assert dropped["a01-000u-00-00"] == "no_image"
    assert all("words" in word.image.path.parts for word in kept.values())


def write_lists(folder, **lists):
    folder.mkdir(parents=True)
    for name, ids in lists.items():
        (folder / name.replace("__", ".")).write_text("".join(f"{i}\n" for i in ids))
    return folder


def test_form_lists_as_aachen_has_them(tmp_path):
    lists = write_lists(
        tmp_path / "aachen",
        train__uttlist=["a01-000u"],
        validation__uttlist=["a01-000x"],
        test__uttlist=["b02-0130"],
        README__txt=["Lists of forms"],
    )
    (lists / "test.uttlist").write_text("b02-013x\r\n")
    kept, dropped = read(make_iam(tmp_path / "iam"), splits=lists)
    assert Counter(word.split for word in kept.values()) == {"train": 4, "val": 2}
    assert dropped["b02-013-00-00"] == "not_in_split"  # b02-013x is another form


def test_line_lists_in_the_official_zip(tmp_path):
    path = tmp_path / "largeWriterIndependentTextLineRecognitionTask.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("task/trainset.txt", "a01-000u-00\r\n")
        archive.writestr("task/validationset1.txt", "a01-000u-01\r\n")
        archive.writestr("task/validationset2.txt", "a01-000x-00\r\n")
        archive.writestr("task/testset.txt", "b02-013-00\r\n")
        archive.writestr("__MACOSX/task/testset.txt", "junk")
    kept, _ = read(make_iam(tmp_path / "iam"), splits=path)
    by_line = {"-".join(name.split("-")[:3]): word.split for name, word in kept.items()}
    assert by_line == {
        "a01-000u-00": "train",
        "a01-000u-01": "val",
        "a01-000x-00": "val",
        "b02-013-00": "test",
    }


def test_word_lists_of_ganwriting_name_the_writers_too(tmp_path):
    lists = tmp_path / "gt"
    lists.mkdir()
    (lists / "gan.iam.tr_va.gt.filter27").write_text("000,a01-000u-00-01 MOVE\n000,a01-000u-01-00 stop\n")
    (lists / "gan.iam.test.gt.filter27").write_text("038,b02-013-00-00 Gait\n")
    kept, dropped = read(make_iam(tmp_path / "iam", writers="none"), splits=lists)
    assert {name: (word.split, word.writer) for name, word in kept.items()} == {
        "a01-000u-00-01": ("train", "000"),
        "a01-000u-01-00": ("train", "000"),
        "b02-013-00-00": ("test", "038"),
    }
    assert Counter(dropped.values())["not_in_split"] >= 2


def test_one_list_is_enough_and_its_name_says_the_split(tmp_path):
    root = make_iam(tmp_path / "iam")
    path = tmp_path / "test.lst"
    path.write_text("b02-013\n")
    kept, dropped = read(root, splits=path)
    assert {word.split for word in kept.values()} == {"test"} and len(kept) == 2
    assert Counter(dropped.values())["not_in_split"] == 6
    with pytest.raises(ValueError, match="must say which split"):
        read(root, splits=path.rename(tmp_path / "mine.lst"))


def test_what_is_tested_on_is_never_trained_on(tmp_path):
    lists = write_lists(
        tmp_path / "x", tr__lst=["a01-000u", "a01-000x"], va__lst=["a01-000x"], te__lst=["a01-000x"]
    )
    assert read_split_lists(lists, iam._ANY_ID).splits == {"a01-000u": "train", "a01-000x": "test"}


def test_split_lists_that_contend_or_fail_are_named(tmp_path):
    root = make_iam(tmp_path / "iam")
    for folder in ("laia/aachen", "laia/original"):
        write_lists(tmp_path / folder, tr__lst=["a01-000u"])
    with pytest.raises(ValueError, match="several folders"):
        read(root, splits=tmp_path / "laia")
    mixed = write_lists(tmp_path / "mixed", train__txt=["a01-000u"], test__txt=["a01-000x-00"])
    with pytest.raises(ValueError, match="different kinds"):
        read(root, splits=mixed)
    wrong = write_lists(tmp_path / "wrong", train__txt=["a01-000u", "what is this"])
    with pytest.raises(ValueError, match=r"train\.txt line 2"):
        read(root, splits=wrong)
    with pytest.raises(ValueError, match="no split list"):
        read(root, splits=write_lists(tmp_path / "empty", notes__txt=["hello"]))
    with pytest.raises(FileNotFoundError, match="no such file"):
        read(root, splits=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("trainset.txt", "train"),
        ("validationset1.txt", "val"),
        ("validationset2.txt", "val"),
        ("testset.txt", "test"),
        ("tr.lst", "train"),
        ("va.lst", "val"),
        ("te.lst", "test"),
        ("train.uttlist", "train"),
        ("valid.txt", "val"),
        ("gan.iam.tr_va.gt.filter27", "train"),
        ("gan.iam.test.gt.filter27", "test"),
        ("keywords.txt", None),
        ("forms.txt", None),
    ],
)
def test_split_of_name(name, split):
    assert split_of_name(name) == split


def test_the_source_is_only_read(tmp_path):
    root = make_iam(tmp_path)
    before = hash_tree(root)
    read(root)
    assert hash_tree(root) == before


def test_lines_unpacked_into_the_words_folders_hide_no_word(tmp_path):
    make_iam(tmp_path)
    first = tmp_path / "words/a01/a01-000a"  # a form of lines alone, before all others
    first.mkdir()
    for form in [first, *sorted((tmp_path / "words/a01").iterdir())]:
        for number in range(8):
            (form / f"{form.name}-{number:02}.png").write_bytes(b"")
    kept, dropped = read(tmp_path)
    assert len(kept) == len(read(make_iam(tmp_path / "clean"))[0]) and "no_image" not in dropped.values()


def test_forms_can_stand_for_writers(tmp_path):
    kept, _ = read(make_iam(tmp_path, writers="none"), writer_from="page")
    assert kept["a01-000u-00-00"].writer == "a01-000u" and kept["a01-000x-00-00"].writer == "a01-000x"


def test_forms_outside_the_lists_are_not_in_split_whoever_wrote_them(tmp_path):
    lists = write_lists(tmp_path / "lists", train__uttlist=["a01-000u"], test__uttlist=["a01-000x"])
    root = make_iam(
        tmp_path / "iam",
        ["c03-000a-00-00 ok 154 408 768 27 51 AT A", "a01-000u-00-00 ok 154 408 768 27 51 AT A"],
    )
    _, dropped = read(root, splits=lists)
    assert dropped["c03-000a-00-00"] == "not_in_split"
