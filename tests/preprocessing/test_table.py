"""The reader for one's own tables."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from preprocessing.raw_word import DroppedWord
from preprocessing.readers import table
from preprocessing.readers.search import ids_of_paths
from tests.helpers import draw_word, hash_tree


def save_images(root, names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_word("word")).save(path)


def read(root, **options):
    return list(table.iter_words(root, **options))


def test_dhsd_needs_no_flag(tmp_path):
    save_images(
        tmp_path, ["german_hw_data/001/0.png", "german_hw_data/002/0.png", "german_hw_data/003/1.png"]
    )
    (tmp_path / "train.csv").write_text(
        'file_name,text,writer_id\ngerman_hw_data/001/0.png,Größe,001\ngerman_hw_data/002/0.png,"a,'
        ' ""b""",002\n'
    )
    (tmp_path / "test.csv").write_text("file_name,text,writer_id\ngerman_hw_data/003/1.png,Ähre,003\n")
    assert table.recognises(tmp_path)
    words = read(tmp_path)
    assert {word.source_id: (word.text, word.writer, word.split) for word in words} == {
        "003-1": ("Ähre", "003", "test"),
        "001-0": ("Größe", "001", "train"),
        "002-0": ('a, "b"', "002", "train"),
    }


@pytest.mark.parametrize("nested", [False, True])
def test_image_folder_convention(tmp_path, nested):
    folders = ["train", "test"] if nested else ["."]
    for folder in folders:
        save_images(tmp_path / folder, ["x.png", "y.png"])
        rows = [{"file_name": "x.png", "text": "ex", "writer": 0}, {"file_name": "y.png", "text": "why"}]
        (tmp_path / folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert table.recognises(tmp_path)
    words = read(tmp_path, writer="me")
    assert [word.writer for word in words] == ["0", "me"] * len(folders)
    assert {word.split for word in words} == ({"train", "test"} if nested else {None})


@pytest.mark.parametrize(
    ("name", "delimiter"), [("x.csv", ","), ("x.csv", ";"), ("x.csv", "\t"), ("x.tsv", "\t")]
)
def test_delimiters_and_quotes(tmp_path, name, delimiter):
    save_images(tmp_path, ["a.png", "b.png", "c.png"])
    rows = [
        ["image", "label", "split"],
        ["a.png", '"', "dev"],
        ["b.png", '5,5; "y"', "Test"],
        ["c.png", "plain", ""],
    ]
    with (tmp_path / name).open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    words = read(tmp_path)
    assert [word.text for word in words] == ['"', '5,5; "y"', "plain"]
    assert [word.split for word in words] == ["val", "test", None]


def test_a_lone_quotation_mark_in_a_tsv_swallows_nothing(tmp_path):
    save_images(tmp_path, ["a.png", "b.png", "c.png"])
    (tmp_path / "words.tsv").write_text('file_name\ttext\na.png\t"\nb.png\t"Yes\nc.png\t""""\n')
    assert [word.text for word in read(tmp_path)] == ['"', '"Yes', '"']


def test_rows_without_image_or_text_are_counted(tmp_path):
    save_images(tmp_path, ["a.png"])
    rows = [
        {"file_name": "a.png", "text": "a"},
        {"file_name": "gone.png", "text": "b"},
        {"file_name": "", "text": "c"},
        {"file_name": {"path": "a.png"}, "text": "d"},
        {"file_name": "a.png", "text": None},
        {"text": "e"},
    ]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = read(tmp_path)
    assert [word.reason for word in words if isinstance(word, DroppedWord)] == [
        "no_image",
        "bad_row",
        "bad_row",
        "empty_text",
        "bad_row",
    ]


def test_an_unquoted_comma_makes_a_bad_row_and_no_wrong_label(tmp_path):
    save_images(tmp_path, ["a.png", "b.png"])
    (tmp_path / "words.csv").write_text("file_name,text,writer\na.png,Hello, world,me\nb.png,fine,me,,\n")
    assert [getattr(word, "reason", None) for word in read(tmp_path)] == ["bad_row", None]


def test_paths_as_windows_writes_them(tmp_path):
    save_images(tmp_path, ["img/a.png"])
    (tmp_path / "words.csv").write_bytes(b"file_name;text\r\n img\\a.png;word\r\n")
    (word,) = read(tmp_path)
    assert word.image.path == tmp_path / "img/a.png" and word.source_id == "a"


def test_a_name_that_is_no_split_is_an_error(tmp_path):
    save_images(tmp_path, ["a.png", "b.png"])
    (tmp_path / "words.csv").write_text(
        "file_name,text,split,set\na.png,a,train,old\nb.png,b,evaluation,new\n"
    )
    with pytest.raises(ValueError, match=r"column split holds 'evaluation', which is no split"):
        read(tmp_path)
    with pytest.raises(ValueError, match=r"column set holds 'new', 'old'"):
        read(tmp_path, split_column="set")
    (tmp_path / "words.csv").write_text("file_name,text,set\na.png,a,old\nb.png,b,new\n")
    assert [word.split for word in read(tmp_path)] == [None, None]


def test_columns_and_tables_can_be_named(tmp_path):
    save_images(tmp_path, ["scans/a.png"])
    (tmp_path / "notes").mkdir()
    path = tmp_path / "notes" / "list.csv"
    path.write_text("scan,says,by\n../scans/a.png,hello,kim\n")
    word = read(tmp_path, table=path, image_column="scan", text_column="says", writer_column="by")[0]
    assert (word.text, word.writer) == ("hello", "kim")
    with pytest.raises(ValueError, match=r"no column by a usual name.*--image_column"):
        read(tmp_path, table=path)
    with pytest.raises(ValueError, match=r"--text_column text: .*Its columns: scan, says, by"):
        read(tmp_path, table=path, image_column="scan", text_column="text")
    with pytest.raises(FileNotFoundError, match="--table"):
        read(tmp_path, table=tmp_path / "none.csv")
    assert not table.recognises(tmp_path)
    with pytest.raises(FileNotFoundError, match="no CSV"):
        read(tmp_path)


def test_two_tables_are_not_guessed_between(tmp_path):
    save_images(tmp_path, ["a.png"])
    for name in ("one", "two"):
        (tmp_path / f"{name}.csv").write_text("file_name,text\na.png,a\n")
    assert table.recognises(tmp_path)
    with pytest.raises(ValueError, match=r"several tables \(one\.csv, two\.csv\)"):
        read(tmp_path)


def test_other_tables_and_encodings(tmp_path):
    (tmp_path / "prices.csv").write_text("item,price\nink,3\n")
    assert not table.recognises(tmp_path)
    path = tmp_path / "latin.csv"
    path.write_bytes("file_name,text\na.png,Größe\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.csv: not UTF-8"):
        read(tmp_path, table=path)
    assert table.recognises(tmp_path)  # not taken for a folder of images that nothing describes
    with pytest.raises(ValueError, match=r"latin\.csv: not UTF-8"):
        read(tmp_path)
    save_images(tmp_path, ["a.png"])
    path.write_bytes("file_name\ttext\na.png\tGröße\n".encode("utf-16"))
    assert [word.text for word in read(tmp_path)] == ["Größe"]
    (tmp_path / "x.jsonl").write_text('{"file_name": "a.png", "text": "a"}\nnonsense\n')
    with pytest.raises(ValueError, match="line 2"):
        read(tmp_path, table=tmp_path / "x.jsonl")


def test_repeated_stems_get_their_folders(tmp_path):
    assert ids_of_paths(["d/a/1.png", "d/b/1.png", "d/b/2.png"]) == ["a-1", "b-1", "b-2"]
    assert ids_of_paths(["d/1.png", "d/2.png"]) == ["1", "2"]


def test_phone_photos_are_turned_upright(tmp_path):
    image = Image.fromarray(draw_word("upright"))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    (tmp_path / "words.csv").write_text("file_name,text\na.png,upright\n")
    loaded = read(tmp_path)[0].image.load()
    assert np.array_equal(np.asarray(loaded), np.asarray(image))


def test_the_source_is_only_read(tmp_path):
    save_images(tmp_path, ["a.png"])
    (tmp_path / "words.csv").write_text("file_name,text\na.png,a\n")
    before = hash_tree(tmp_path)
    [word.image.load() for word in read(tmp_path)]
    assert hash_tree(tmp_path) == before
