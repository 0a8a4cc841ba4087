"""The word folder's files: written whole, read back as they were, merged from shards."""

import json

import numpy as np
import pytest
from PIL import Image

from generation.folder_writer import merge_shards, shard_metadata_name
from generation.output_folder import Part
from tests.helpers import make_word_folder
from utils.errors import UserError
from utils.output import save_image, write_atomically
from utils.text_images import METADATA_NAME, TextImage, read_metadata, read_text_images, write_metadata

RECORDS = [
    TextImage(file_name="images/a.png", text='Größe "so", it\'s', writer="007", split="train"),
    TextImage(file_name="images/b.png", text="b", writer="7", split="val"),
]


def test_records_come_back_as_they_were(tmp_path):
    write_metadata(tmp_path, RECORDS)
    assert read_metadata(tmp_path / METADATA_NAME) == RECORDS
    assert "Größe" in (tmp_path / METADATA_NAME).read_text(encoding="utf-8")


def test_writers_keep_their_zeros(tmp_path):
    write_metadata(tmp_path, RECORDS)
    assert [record.writer for record in read_text_images(tmp_path)] == ["007", "7"]


@pytest.mark.parametrize("strange", ["\u2028", "\x85", "\x0c", "\x1e", "\r"])
def test_only_line_feeds_end_a_line(tmp_path, strange):
    records = [TextImage(file_name="images/a.png", text="a", writer=f"who{strange}ever")]
    write_metadata(tmp_path, records)
    assert read_metadata(tmp_path / METADATA_NAME) == records


def test_unknown_fields_are_ignored_and_the_split_has_a_default(tmp_path):
    (tmp_path / METADATA_NAME).write_bytes(
        b'{"file_name": "x.png", "text": "x", "writer": "w", "score": 3}\r\n\r\n'
    )
    assert read_text_images(tmp_path) == [TextImage(file_name="x.png", text="x", writer="w", split="train")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"file_name": "x.png", "text": "x"}', "no text field 'writer'"),
        ("[1]", "not a JSON object"),
        ("{", "not a JSON"),
        ('{"file_name": "x.png", "text": "x", "writer": 7}', "no text field 'writer'"),
        (
            '{"file_name": "/data/x.png", "text": "x", "writer": "w"}',
            "file_name '/data/x.png' leads out of the folder",
        ),
        (
            '{"file_name": "a/../../x.png", "text": "x", "writer": "w"}',
            "file_name .* leads out of the folder",
        ),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    (tmp_path / METADATA_NAME).write_text(RECORDS[0].as_json() + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"line 2: {message}"):
        read_text_images(tmp_path)


def test_incomplete_folders_are_refused_with_the_flag(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"--iam_path .*no such folder"):
        read_text_images(tmp_path / "nowhere", flag="--iam_path")
    with pytest.raises(FileNotFoundError, match="not a complete word folder"):
        read_text_images(tmp_path)
    write_metadata(tmp_path, RECORDS)
    assert [record.text for record in read_text_images(tmp_path, splits=("val", "test"))] == ["b"]
    with pytest.raises(ValueError, match="no words of split test"):
        read_text_images(tmp_path, splits=("test",))
    write_metadata(tmp_path, RECORDS * 2)
    with pytest.raises(ValueError, match="2 images more than once"):
        read_text_images(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "x.json"
    write_atomically(path, "old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert [p.read_text() for p in path.parent.iterdir()] == ["old"]


def test_images_are_saved_without_loss_and_without_leftovers(tmp_path):
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    save_image(image, tmp_path / "x.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "x.png")), image)
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


def write_shards(folder, parts):
    for i, part in enumerate(parts):
        write_metadata(folder, part, name=shard_metadata_name(Part(number=i, count=len(parts))))


def test_shards_merge_in_the_order_of_the_job(tmp_path):
    expected = [record.file_name for record in RECORDS]
    write_metadata(tmp_path, RECORDS[1:], name=shard_metadata_name(Part(number=0, count=2)))
    assert not merge_shards(tmp_path, 2, expected)
    assert not (tmp_path / METADATA_NAME).exists()
    write_shards(tmp_path, [RECORDS[1:], RECORDS[:1]])
    assert merge_shards(tmp_path, 2, expected)
    assert read_text_images(tmp_path) == RECORDS
    assert [p.name for p in tmp_path.iterdir()] == [METADATA_NAME]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([RECORDS[:1], []], "1 records missing"),
        ([RECORDS, RECORDS[:1]], "1 twice"),
        ([RECORDS, [TextImage(file_name="images/c.png", text="c", writer="c")]], "1 of another job"),
    ],
)
def test_shards_that_do_not_add_up_are_refused(tmp_path, parts, message):
    write_shards(tmp_path, parts)
    with pytest.raises(ValueError, match=message):
        merge_shards(tmp_path, 2, [record.file_name for record in RECORDS])
    assert not (tmp_path / METADATA_NAME).exists()


def test_two_processes_may_merge_at_once(tmp_path, monkeypatch):
    write_shards(tmp_path, [RECORDS[:1], RECORDS[1:]])

    def read_too_late(path):
        write_metadata(tmp_path, RECORDS)
        path.unlink()
        return read_metadata(path)

    monkeypatch.setattr("utils.text_images.read_metadata", read_too_late)
    assert merge_shards(tmp_path, 2, [record.file_name for record in RECORDS])


def test_the_folder_is_hugging_faces_convention(tmp_path):
    records = make_word_folder(tmp_path / "x", ["one", "two", "three"], ["007", "8"], splits=["train", "val"])
    lines = (tmp_path / "x" / METADATA_NAME).read_text().splitlines()
    assert json.loads(lines[0]) == {
        "file_name": "images/0000.png",
        "text": "one",
        "writer": "007",
        "split": "train",
    }
    assert all(Image.open(tmp_path / "x" / record.file_name).size == (256, 64) for record in records)


@pytest.mark.parametrize("line", ["[" * 100_000, '{"file_name": 5', "[1]", "NaN"])
def test_a_damaged_line_is_named_by_its_number(tmp_path, line):
    record = TextImage(file_name="images/a.png", text="a", writer="me").as_json()
    (tmp_path / "metadata.jsonl").write_text(f"{record}\n{line}\n")
    with pytest.raises(UserError, match=r"metadata\.jsonl line 2: not a JSON object"):
        read_metadata(tmp_path / "metadata.jsonl")


def test_metadata_that_is_no_text_is_named(tmp_path):
    (tmp_path / "metadata.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"metadata\.jsonl: not a text file in UTF-8"):
        read_metadata(tmp_path / "metadata.jsonl")
