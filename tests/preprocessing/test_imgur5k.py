"""The IMGUR5K reader: splits, duplicates, partial downloads, rotated boxes."""

import itertools
import json
from collections import Counter

import cv2
import numpy as np
import pytest
from PIL import Image

from preprocessing.raw_word import BadBoxError, DroppedWord, cut_straight
from preprocessing.readers import gw, iam, imgur5k
from tests.helpers import draw_page, draw_word, hash_tree, make_imgur5k


def read(root, **options):
    words = list(imgur5k.iter_words(root, **options))
    kept = {word.source_id: word for word in words if not isinstance(word, DroppedWord)}
    return kept, {word.source_id: word.reason for word in words if isinstance(word, DroppedWord)}


@pytest.mark.parametrize(
    "files",
    [
        ("whole", "lists", "hashes"),
        ("splits",),
        ("splits", "lists"),
        ("whole", "splits"),
        ("data", "lists", "hashes"),
        ("whole", "splits", "data", "lists", "hashes"),
    ],
)
def test_the_official_splits_from_any_of_the_files(tmp_path, files):
    root = make_imgur5k(tmp_path / "x", files=files)
    assert imgur5k.recognises(root) and not iam.recognises(root) and not gw.recognises(root)
    kept, dropped = read(root)
    assert {name: word.split for name, word in kept.items()} == {
        "aBcDe12_0": "train",
        "aBcDe12_1": "train",
        "XyZ9876_0": "val",
        "q1W2e_0": "test",
    }
    assert dropped == {
        "aBcDe12_2": "unannotated",
        "aBcDe12_3": "empty_text",
        "q1W2e_1": "bad_box",
        "q1W2e_2": "bad_box",
        "q1W2e_3": "bad_box",
    } | ({"null": "no_annotations"} if "lists" in files else {})
    assert kept["q1W2e_0"].text == "Étude"
    assert all(word.writer == name.rsplit("_", 1)[0] for name, word in kept.items())


def test_without_any_split_file_the_splits_are_open(tmp_path):
    kept, _ = read(make_imgur5k(tmp_path, files=("whole",)))
    assert {word.split for word in kept.values()} == {None}


def test_the_words_come_page_by_page(tmp_path):
    words = list(imgur5k.iter_words(make_imgur5k(tmp_path)))
    pages = [word.source_id.rsplit("_", 1)[0] for word in words]
    assert pages.pop() == "null"  # an id that the published list really has, and no annotation
    assert sum(a != b for a, b in itertools.pairwise(pages)) == 2


PAGE = [("word", "[80, 50, 110, 44, 0]")]


def test_an_id_in_two_splits_belongs_to_one(tmp_path):
    pages = {
        "a1": ("train+val", PAGE),
        "b2": ("train+test", PAGE),
        "c3": ("val+test", PAGE),
        "d4": ("train", PAGE),
    }
    for files in (("whole", "lists"), ("splits",)):
        kept, dropped = read(make_imgur5k(tmp_path / files[0], pages, files=files))
        assert {name: word.split for name, word in kept.items()} == {
            "a1_0": "val",
            "b2_0": "test",
            "c3_0": "test",
            "d4_0": "train",
        }
        assert set(dropped.values()) <= {"no_annotations"}


def test_one_image_belongs_to_one_split(tmp_path):
    pages = {
        "train1": ("train", PAGE),
        "train2": ("train", PAGE),
        "val1": ("val", PAGE),
        "test1": ("test", PAGE),
        "other": ("train", PAGE),
        "same1": ("train", PAGE),
        "same2": ("train", PAGE),
    }
    root = make_imgur5k(tmp_path, pages, files=("whole", "lists"))
    for group in (("test1", "train1", "val1"), ("same1", "same2")):
        for name in group[1:]:
            (root / f"images/{name}.jpg").write_bytes((root / f"images/{group[0]}.jpg").read_bytes())
    path = root / "dataset_info/imgur5k_annotations.json"
    values = json.loads(path.read_text())
    for group in (("test1", "train1", "val1"), ("same1", "same2")):
        for name in group:
            values["index_id"][name]["image_hash"] = values["index_id"][group[0]]["image_hash"]
    path.write_text(json.dumps(values))
    kept, dropped = read(root)
    assert dropped == {"train1_0": "duplicate_page", "val1_0": "duplicate_page", "null": "no_annotations"}
    assert kept["test1_0"].split == "test" and {"same1_0", "same2_0", "other_0"} <= set(kept)


def test_a_partial_download_is_accepted_and_counted(tmp_path):
    root = make_imgur5k(tmp_path)
    (root / "images/aBcDe12.jpg").unlink()
    draw_page(["gone"], seed=99).save(root / "images/XyZ9876.jpg")
    (root / "images/unlisted.jpg").write_bytes(b"")
    _, dropped = read(root)
    assert Counter(dropped.values()) == {
        "no_image": 2,
        "unannotated": 1,
        "empty_text": 1,
        "md5_mismatch": 1,
        "bad_box": 3,
        "no_annotations": 1,
        "unlisted_image": 1,
    }
    kept, dropped = read(root, verify_md5=False)
    assert "XyZ9876_0" in kept and "md5_mismatch" not in dropped.values()


def test_md5_of_a_page_is_computed_once(tmp_path, monkeypatch):
    calls = Counter()
    md5 = imgur5k._md5
    monkeypatch.setattr(imgur5k, "_md5", lambda path: calls.update([path.name]) or md5(path))
    read(make_imgur5k(tmp_path))
    assert set(calls.values()) == {1}


def test_images_elsewhere(tmp_path):
    root = make_imgur5k(tmp_path / "x")
    (root / "images").rename(tmp_path / "elsewhere")
    assert set(read(root)[1].values()) >= {"no_image"} and not read(root)[0]
    assert len(read(root, images=tmp_path / "elsewhere")[0]) == 4
    with pytest.raises(FileNotFoundError, match="--images"):
        read(root, images=tmp_path / "nowhere")


def test_ids_that_differ_in_case_are_different_pages(tmp_path):
    kept, _ = read(make_imgur5k(tmp_path, {"abc12": ("train", PAGE), "ABC12": ("train", PAGE)}))
    assert {word.image.path.stem for word in kept.values()} == {"abc12", "ABC12"}


def test_page_in_no_list_and_pages_without_annotations(tmp_path):
    root = make_imgur5k(tmp_path)
    (root / "dataset_info/train_index_ids.lst").write_text("null\nGone123\n")
    _, dropped = read(root)
    assert Counter(dropped.values())["not_in_split"] == 2


def test_broken_annotations_are_named(tmp_path):
    root = make_imgur5k(tmp_path)
    path = root / "dataset_info/imgur5k_annotations.json"
    path.write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        read(root)
    path.write_text('{"annotations": []}')
    with pytest.raises(ValueError, match="index_to_ann_map"):
        read(root)
    with pytest.raises(FileNotFoundError, match="imgur5k_annotations"):
        read(root / "images")


@pytest.mark.parametrize(
    "value",
    [
        None,
        5,
        "",
        "[1,2,3,4]",
        "[1,2,3,4,5,6]",
        "not json",
        "[1,2,0,4,5]",
        "[1,2,3,0.5,5]",
        "[1,2,NaN,4,5]",
        "[1,2,3,Infinity,5]",
        "[1,2,-3,4,5]",
        '["a",2,3,4,5]',
        "[1,2,3,1e9,0]",
        "{}",
    ],
)
def test_bad_boxes(value):
    assert imgur5k.parse_box(value) is None


def test_good_boxes():
    assert imgur5k.parse_box("[605.0, 739.5, 158.0, 64.0, -180.0]") == (605.0, 739.5, 158.0, 64.0, -180.0)


def smooth_page(width=320, height=240, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    blurred = cv2.GaussianBlur(noise, (0, 0), 4)
    return Image.fromarray(cv2.normalize(blurred, None, 0, 255, cv2.NORM_MINMAX))


def cut_with_opencv(page, box):
    """Rotate by minus the angle about the box's centre (OpenCV's positive angle is counter-clockwise), shift,
    cut.
    """
    x, y, width, height, angle = box
    matrix = cv2.getRotationMatrix2D((x, y), -angle, 1)
    matrix[:, 2] += (round(width) / 2 - x, round(height) / 2 - y)
    return cv2.warpAffine(
        np.asarray(page),
        matrix,
        (round(width), round(height)),
        flags=cv2.INTER_CUBIC,
        borderValue=(255, 255, 255),
    )


@pytest.mark.parametrize("angle", [0, 8.5, -8.5, 37, -60, 90, -90, 179, -180])
def test_straightening_agrees_with_opencv_and_only_with_this_sign(angle):
    page, box = smooth_page(), (160.0, 120.5, 101.0, 40.0, angle)
    ours = np.asarray(cut_straight(page, box)).astype(float)
    assert np.abs(ours - cut_with_opencv(page, box)).mean() < 1.0
    if 5 < abs(angle) < 175:
        other = cut_with_opencv(page, (*box[:4], -angle))
        assert np.abs(ours - other).mean() > 15.0


@pytest.mark.parametrize("angle", [25.0, -40.0, 90.0])
def test_a_word_written_uphill_comes_out_straight(angle):
    word = np.pad(draw_word("Handwriting", font_size=30), 4, constant_values=255)
    height, width = word.shape
    page = Image.new("L", (400, 400), 255)
    page.paste(Image.fromarray(word), ((400 - width) // 2, (400 - height) // 2))
    # Positive angles run counter-clockwise on screen: Pillow's rotate turns this way too.
    page = page.rotate(angle, Image.Resampling.BICUBIC, fillcolor=255).convert("RGB")
    straight = cut_straight(page, (200.0, 200.0, width, height, angle)).convert("L")
    assert np.abs(np.asarray(straight).astype(float) - word).mean() < 22
    upside_down = np.asarray(straight.rotate(180)).astype(float)
    assert np.abs(upside_down - word).mean() > 30


def test_beyond_the_page_is_white_and_nothing_is_clipped():
    page = Image.new("RGB", (50, 40), (10, 20, 30))
    cut = np.asarray(cut_straight(page, (0.0, 20.0, 40.0, 20.0, 0.0)))
    assert cut.shape == (20, 40, 3)
    assert (cut[:, :19] == 255).all() and (cut[:, 22:] == (10, 20, 30)).all()
    with pytest.raises(BadBoxError):
        cut_straight(page, (20, 20, 1000, 5, 0))


def test_the_source_is_only_read(tmp_path):
    root = make_imgur5k(tmp_path)
    before = hash_tree(root)
    for word in read(root)[0].values():
        word.image.load()
    assert hash_tree(root) == before
