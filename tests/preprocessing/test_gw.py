"""The George Washington reader, on labels in the published spelling."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from preprocessing.raw_word import DroppedWord, PolygonImage
from preprocessing.readers import gw, iam, imgur5k
from tests.helpers import draw_word, hash_tree, make_gw
from utils.images import to_grey


def read(root, **options):
    words = list(gw.iter_words(root, **options))
    kept = {word.source_id: word for word in words if not isinstance(word, DroppedWord)}
    return kept, {word.source_id: word.reason for word in words if isinstance(word, DroppedWord)}


@pytest.mark.parametrize(
    ("spelling", "text"),
    [
        ("s_2-s_7-s_0-s_pt", "270."),
        ("L-e-t-t-e-r-s-s_cm", "Letters,"),
        ("p-a-r-t-i-c-u-s_mi", "particu-"),
        ("s_mi", "-"),
        ("s_sq", ";"),
        ("s_qo", ":"),
        ("M-a-j-o-r-s_qt-s", "Major's"),
        ("s_bl-a-s_br", "(a)"),
        ("s_et-c-s_pt", "&c."),
        ("s_lb-s_1-s_0-s_0-s_0", "£1000"),
        ("s_sl", "/"),
        ("s_GW", "G.W."),
        ("A-s_s-s_s-i-g-n", "Assign"),
        ("s_1st", "1st"),
        ("s_2nd", "2nd"),
        ("s_0th", "0th"),
        ("s_3rd", "3rd"),
        ("s_1-s_0th", "10th"),
        ("l-b-s-p-t", "lbspt"),
        ("s_7", "7"),
    ],
)
def test_spelling(spelling, text):
    assert gw.read_spelling(spelling) == text


@pytest.mark.parametrize("spelling", ["s_xy", "a-bc-d", "a--b", "a-", "s_", "s_12"])
def test_unknown_tokens_are_an_error_that_names_the_line(tmp_path, spelling):
    with pytest.raises(ValueError, match=r"word_labels\.txt line 2: unknown token"):
        read(make_gw(tmp_path, ["270-01-01 a", f"270-01-02 {spelling}"]))


def test_fold_gives_the_splits_of_lines(tmp_path):
    root = make_gw(tmp_path)
    assert gw.recognises(root) and not iam.recognises(root) and not imgur5k.recognises(root)
    kept, dropped = read(root)
    assert Counter(word.split for word in kept.values()) == {"train": 6, "val": 2, "test": 1}
    assert not dropped
    assert {word.writer for word in kept.values()} == {"gw"}
    assert kept["270-01-02"].text == "Letters,"
    assert all("word_images_normalized" in word.image.path.parts for word in kept.values())


def test_no_sets_leave_the_splits_open(tmp_path):
    assert {word.split for word in read(make_gw(tmp_path, sets=None))[0].values()} == {None}


def test_an_absent_fold_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"--fold cv2: no such folder in sets; there is cv1"):
        read(make_gw(tmp_path), fold="cv2")


def test_a_line_of_no_set_is_counted(tmp_path):
    _, dropped = read(make_gw(tmp_path, sets={"train": ["270-01"], "test": ["272-01"]}))
    assert Counter(dropped.values()) == {"not_in_split": 5}


def test_pages_as_writers(tmp_path):
    kept, _ = read(make_gw(tmp_path), writer_from="page")
    assert Counter(word.writer for word in kept.values()) == {"270": 5, "271": 3, "272": 1}


def test_missing_images_and_bad_rows_are_counted(tmp_path):
    rows = ["270-01-01 a", "270-01-02 b"]
    root = make_gw(tmp_path, rows)
    base = root / "washingtondb-v1.0"
    (base / "data/word_images_normalized/270-01-02.png").unlink()
    with (base / "ground_truth/word_labels.txt").open("a") as file:
        file.write("270-01-03\n270-01-01 a\n\n")
    kept, dropped = read(root)
    assert list(kept) == ["270-01-01"]
    assert dropped == {"270-01-02": "no_image", "270-01-03": "bad_row", "270-01-01": "bad_row"}


def test_bilevel_images_are_grey_before_they_are_scaled(tmp_path):
    kept, _ = read(make_gw(tmp_path))
    image = kept["270-01-03"].image.load()
    assert image.mode == "1"
    assert set(np.unique(to_grey(image))) == {0, 255}


def make_pages(root):
    """The keyword spotting copy: pages, svg outlines, and words in a file with the name of washingtondb's
    lines.
    """
    for folder in ("ground-truth/locations", "images", "task"):
        (root / folder).mkdir(parents=True)
    (root / "ground-truth/transcription.txt").write_text(
        "270-01-01 L-e-t-t-e-r-s-s_cm\n270-01-02 O-r-d-e-r-s\n270-01-03 a\n"
    )
    page = np.full((120, 300), 200, np.uint8)
    for text, left in (("Letters", 10), ("Orders", 160)):
        word = draw_word(text, font_size=26, paper=200)
        page[40 : 40 + word.shape[0], left : left + word.shape[1]] = word
    Image.fromarray(page).save(root / "images/270.jpg")
    paths = [(10, 140, "270-01-01"), (160, 290, "270-01-02"), (400, 500, "270-01-03")]
    svg = "".join(
        f'<path fill="none" d="M {a}.00 36.00 L {a}.00 75.50 L {b}.00 75.50 L {b}.00 36.00 Z"'
        f' stroke-width="1" id="{name}" stroke="black"/>\n'
        for a, b, name in paths
    )
    (root / "ground-truth/locations/270.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg">{svg}</svg>'
    )
    return root


def test_words_are_told_from_lines_by_their_ids(tmp_path):
    root = make_pages(tmp_path)
    assert gw.recognises(root)
    kept, dropped = read(root)
    assert kept["270-01-01"].text == "Letters," and not dropped
    assert isinstance(kept["270-01-01"].image, PolygonImage)
    image = kept["270-01-02"].image.load()
    assert image.size == (130, 40)
    assert to_grey(image).min() < 100
    with pytest.raises(ValueError, match="does not fit"):
        kept["270-01-03"].image.load()


def test_outside_of_a_polygon_is_paper(tmp_path):
    page = np.full((60, 60, 3), 190, np.uint8)
    page[:20, :20] = 0  # a neighbour's ink in the corner of the box, outside of the triangle
    Image.fromarray(page).save(tmp_path / "p.png")
    image = PolygonImage(path=tmp_path / "p.png", points=((50.0, 5.0), (50.0, 50.0), (5.0, 50.0))).load()
    assert np.abs(np.asarray(image).astype(int) - 190).max() == 0


def test_labels_of_lines_alone_are_an_error(tmp_path):
    root = make_gw(tmp_path)
    (root / "washingtondb-v1.0/ground_truth/word_labels.txt").unlink()
    assert gw.recognises(root)
    with pytest.raises(ValueError, match=r"labels lines.*word_labels\.txt"):
        read(root)
    with pytest.raises(FileNotFoundError, match="word_labels"):
        read(tmp_path / "washingtondb-v1.0" / "sets")


def test_the_source_is_only_read(tmp_path):
    root = make_gw(tmp_path)
    before = hash_tree(root)
    read(root)
    assert hash_tree(root) == before
