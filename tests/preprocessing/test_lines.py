"""Lines as they are cut out of a page."""

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from preprocessing.cleaning import FitSettings
from preprocessing.lines import LineImage, PageLines
from tests.preprocessing.page_files import SIZE, draw_page, ink_rows, line_of
from utils.line_shapes import LineShape
from utils.text_images import LINE_BASELINE, LINE_X_HEIGHT

SETTINGS = FitSettings(img_size=(64, 2048), remove_rules=True)
BASE = round(LINE_BASELINE * 64)
TEXTS = ["Hands and lamps", "ease a sense once", "gipsy jumps by", "Flat hill and field"]


def shape_of(line):
    return LineShape(polygon=tuple(line["polygon"] or ()), baseline=tuple(line["baseline"] or ()))


def cut(tmp_path, page, lines, *, size=SIZE, settings=SETTINGS, name="page.png"):
    path = tmp_path / name
    if not isinstance(page, bytes):
        page.save(path)
    else:
        path.write_bytes(page)
    place = PageLines(path=path, size=size, shapes=tuple(map(shape_of, lines)))
    return [LineImage(page=place, number=number).draw(settings) for number in range(len(lines))]


def cut_texts(tmp_path, texts=TEXTS, **drawing):
    return cut(tmp_path, draw_page(texts, **drawing), [line_of(i, text) for i, text in enumerate(texts)])


def difference(first, second):
    """The mean difference of two line images in grey levels, the second brought to the first one's ink."""
    boxes = [image[:, : np.flatnonzero((image < 200).any(axis=0))[-1] + 1] for image in (first, second)]
    size = boxes[0].shape[::-1]
    other = np.asarray(Image.fromarray(boxes[1]).resize(size, Image.Resampling.BICUBIC))
    return float(np.abs(boxes[0].astype(int) - other.astype(int)).mean())


def test_lines_are_as_wide_as_their_ink_and_stand_on_one_baseline(tmp_path):
    for image in cut_texts(tmp_path):
        assert image.dtype == np.uint8 and image.shape[0] == 64 and image.shape[1] % 8 == 0
        columns = np.flatnonzero((image < 200).any(axis=0))
        assert columns[0] <= 6 and image.shape[1] - columns[-1] <= 13
        assert image.max() == 255
    flat = cut_texts(tmp_path, ["Hands and lambs", "ease a sense once"])
    assert all(abs(ink_rows(image)[-1] + 1 - BASE) <= 1 for image in flat)


def test_a_line_without_tall_letters_is_not_blown_up(tmp_path):
    _, small, *_ = cut_texts(tmp_path)
    height = len(ink_rows(small))
    assert abs(height - LINE_X_HEIGHT * 64) <= 3


def test_a_slanting_page_gives_level_lines(tmp_path):
    straight = cut_texts(tmp_path)[0]
    angle, centre = np.deg2rad(7), np.array(SIZE) / 2
    page = draw_page(TEXTS).rotate(-7, fillcolor=255, resample=Image.Resampling.BICUBIC)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    lines = [
        {
            key: [tuple(turn @ (np.array(p) - centre) + centre) for p in line[key]]
            for key in ("polygon", "baseline")
        }
        for line in (line_of(i, text) for i, text in enumerate(TEXTS))
    ]
    turned = cut(tmp_path, page, lines, name="turned.png")[0]
    assert abs(turned.shape[1] - straight.shape[1]) <= 16 and difference(straight, turned) < 12


def test_a_bowed_baseline_becomes_level(tmp_path):
    text = "sense once ease a rose"
    grey = np.array(draw_page([text]))
    bow = (18 * np.sin(np.linspace(0, np.pi, grey.shape[1]))).astype(int)
    bent = np.stack([np.roll(grey[:, x], bow[x]) for x in range(grey.shape[1])], axis=1)
    line = line_of(0, text)
    (x0, y), (x1, _) = line["baseline"]
    xs = np.linspace(x0, x1, 9).astype(int)
    base = [(int(x), int(y + bow[x])) for x in xs]
    line |= {
        "baseline": base,
        "polygon": [(x, v - 38) for x, v in base] + [(x, v + 14) for x, v in base[::-1]],
    }
    image = cut(tmp_path, Image.fromarray(bent), [line])[0]
    lowest = [np.flatnonzero(column < 128)[-1] for column in image.T if (column < 128).any()]
    assert np.percentile(lowest, 95) - np.percentile(lowest, 50) <= 4


@pytest.mark.parametrize("grey", [120, 180, 60])
def test_rules_become_paper_and_letters_stay_whole(tmp_path, grey):
    plain = cut_texts(tmp_path)
    ruled = cut(
        tmp_path, draw_page(TEXTS, rules=grey), [line_of(i, t) for i, t in enumerate(TEXTS)], name="r.png"
    )
    for clean, image in zip(plain, ruled, strict=True):
        assert image.shape[1] <= clean.shape[1] + 8 and difference(clean, image) < 3
        # Between words there is nothing but the rule.
        is_ink = (clean < 250).any(axis=0)
        gaps = [x for x in range(8, clean.shape[1] - 16) if not is_ink[x - 3 : x + 4].any()]
        assert gaps and image[:, gaps].min() == 255


def test_dotted_rules_become_paper(tmp_path):
    texts = [f"{text} {text.lower()} once" for text in TEXTS]
    lines = [line_of(number, text) for number, text in enumerate(texts)]
    page = draw_page(texts)
    for line in lines:
        base = line["baseline"][0][1] + 4
        for x in range(0, SIZE[0], 9):
            ImageDraw.Draw(page).line((x, base, x + 2, base), fill=110, width=2)
    plain = cut(tmp_path, draw_page(texts), lines)
    for clean, image in zip(plain, cut(tmp_path, page, lines, name="dotted.png"), strict=True):
        assert image.shape[1] <= clean.shape[1] + 8 and difference(clean, image) < 4


def test_dense_writing_is_no_rule(tmp_path):
    page = Image.new("L", SIZE, 255)
    draw = ImageDraw.Draw(page)
    for x in range(40, 860, 9):  # minims joined at their feet, as a fast hand joins them
        draw.line((x, 90, x, 110), fill=20, width=3)
        draw.line((x, 109, x + 5, 109), fill=20, width=3)
    line = line_of(
        0, "", polygon=[(30, 70), (870, 70), (870, 125), (30, 125)], baseline=[(40, 110), (860, 110)]
    )
    kept = cut(tmp_path, page, [line])[0]
    plain = cut(tmp_path, page, [line], settings=FitSettings(img_size=(64, 2048)), name="plain.png")[0]
    assert difference(plain, kept) < 0.5


def test_shadow_and_stain_are_no_ink(tmp_path):
    plain = cut_texts(tmp_path)[0]
    grey = np.array(draw_page(TEXTS), float)
    y, x = np.mgrid[: grey.shape[0], : grey.shape[1]]
    paper = 0.5 + 0.45 * x / x.max()
    paper *= 1 - 0.25 * np.exp(-(((x - 300) / 90) ** 2 + ((y - 110) / 90) ** 2))
    image = cut(
        tmp_path, Image.fromarray((grey * paper).astype(np.uint8)), [line_of(0, TEXTS[0])], name="s.png"
    )[0]
    assert difference(plain, image) < 12 and (image == 255).mean() > 0.7


def test_a_tall_stroke_is_followed_beyond_the_outline(tmp_path):
    page, whole = draw_page(TEXTS), [line_of(i, text) for i, text in enumerate(TEXTS)]
    low = []
    for line in whole:  # these outlines cut the upper third of all tall letters
        (x0, top), (x1, _), *lower = line["polygon"]
        low.append(line | {"polygon": [(x0, top + 14), (x1, top + 14), *lower]})
    expected, followed = cut(tmp_path, page, whole)[3], cut(tmp_path, page, low, name="low.png")[3]
    assert abs(len(ink_rows(followed)) - len(ink_rows(expected))) <= 1 and difference(expected, followed) < 9
    pieces = [cv2.connectedComponents((image < 128).astype(np.uint8))[0] for image in (expected, followed)]
    assert pieces[0] == pieces[1]  # the dots of i and j, which these outlines leave out, are there


def test_tips_of_a_neighbours_strokes_are_left_out(tmp_path):
    texts = ["gypsy jumpy", "once"]
    page = draw_page(texts)
    lines = [line_of(i, text) for i, text in enumerate(texts)]
    alone = cut(tmp_path, draw_page(["", "once"]), lines)[1]
    x0, x1, base = 35, 300, lines[1]["baseline"][0][1]
    lines[1]["polygon"] = [(x0, base - 84), (x1, base - 84), (x1, base + 14), (x0, base + 14)]
    touched = cut(tmp_path, page, lines, name="tips.png")[1]
    assert len(ink_rows(touched)) <= len(ink_rows(alone)) + 1


def test_page_and_picture_of_different_size_are_scaled(tmp_path):
    lines = [line_of(i, text) for i, text in enumerate(TEXTS)]
    plain = cut(tmp_path, draw_page(TEXTS), lines)
    doubled = draw_page(TEXTS).resize((2 * SIZE[0], 2 * SIZE[1]), Image.Resampling.BICUBIC)
    for first, second in zip(plain, cut(tmp_path, doubled, lines, name="d.png"), strict=True):
        assert abs(first.shape[1] - second.shape[1]) <= 16 and difference(first, second) < 12


def test_a_large_page_is_reduced_before_it_is_cut(tmp_path):
    lines = [line_of(i, text) for i, text in enumerate(TEXTS)]
    plain = cut(tmp_path, draw_page(TEXTS), lines)
    large = draw_page(TEXTS).resize((8 * SIZE[0], 8 * SIZE[1]), Image.Resampling.BICUBIC)
    for name in ("large.jpg", "large.png"):
        for first, second in zip(plain, cut(tmp_path, large, lines, name=name), strict=True):
            assert abs(first.shape[1] - second.shape[1]) <= 16 and difference(first, second) < 14


def test_exif_turns_no_page(tmp_path):
    page, exif = draw_page(TEXTS), Image.Exif()
    exif[0x0112] = 6
    page.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    image = cut(tmp_path, (tmp_path / "turned.jpg").read_bytes(), [line_of(0, TEXTS[0])], name="turned.jpg")[
        0
    ]
    assert difference(cut_texts(tmp_path)[0], image) < 6


@pytest.mark.parametrize("lacking", ["polygon", "baseline"])
def test_a_line_without_outline_or_baseline_is_cut_by_the_other(tmp_path, lacking):
    plain = cut_texts(tmp_path)
    lines = [line_of(i, text, **{lacking: None}) for i, text in enumerate(TEXTS)]
    for first, second in zip(plain, cut(tmp_path, draw_page(TEXTS), lines, name="x.png"), strict=True):
        assert difference(first, second) < 25
        assert abs(first.shape[1] - second.shape[1]) <= 0.25 * first.shape[1]


def test_a_baseline_drawn_from_right_to_left_turns_nothing_round(tmp_path):
    lines = [line_of(i, text) for i, text in enumerate(TEXTS)]
    turned = [line | {"baseline": line["baseline"][::-1]} for line in lines]
    page = draw_page(TEXTS)
    assert difference(cut(tmp_path, page, lines)[0], cut(tmp_path, page, turned, name="t.png")[0]) < 3


def test_vertical_lines_lie_down(tmp_path):
    page = draw_page(TEXTS).transpose(Image.Transpose.ROTATE_270)  # a point (x, y) goes to (height - y, x)
    lines = [
        {key: [(SIZE[1] - y, x) for x, y in line[key]] for key in ("polygon", "baseline")}
        for line in (line_of(i, text) for i, text in enumerate(TEXTS))
    ]
    images = cut(tmp_path, page, lines, size=SIZE[::-1], name="v.png")
    for first, second in zip(cut_texts(tmp_path), images, strict=True):
        assert difference(first, second) < 12


@pytest.mark.parametrize(
    "polygon",
    [
        [(10, 10), (20, 20)],
        [(5000, 5000), (5100, 5000), (5100, 5050)],
        [(-500, -100), (-100, -100), (-100, -50)],
        [(100, 100), (100, 100), (101, 101)],
        [(1e9, 1e9), (2e9, 1e9), (2e9, 2e9)],
        [],
    ],
)
def test_outlines_that_outline_nothing_are_counted(tmp_path, polygon):
    lines = [line_of(0, TEXTS[0]), line_of(1, TEXTS[1], polygon=polygon, baseline=None)]
    good, bad = cut(tmp_path, draw_page(TEXTS), lines)
    assert not isinstance(good, str) and bad == "bad_box"


def test_an_outline_that_crosses_itself_or_leaves_the_page_is_cut(tmp_path):
    base = line_of(0, TEXTS[0])
    a, b, c, d = base["polygon"]
    crossing = base | {"polygon": [a, c, b, d]}
    leaving = base | {"polygon": [(-300, a[1]), (2000, b[1]), (2000, c[1]), (-300, d[1])]}
    for number, line in enumerate((crossing, leaving)):
        assert not isinstance(cut(tmp_path, draw_page(TEXTS), [line], name=f"{number}.png")[0], str)


def test_a_line_without_ink_is_counted(tmp_path):
    assert cut(tmp_path, draw_page([]), [line_of(0, "nothing")]) == ["empty_image"]


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_pictures_that_cannot_be_read_are_counted_once_a_line(tmp_path, damage):
    draw_page(TEXTS).save(tmp_path / "whole.jpg", quality=95)
    whole = (tmp_path / "whole.jpg").read_bytes()
    data = {"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"no picture"}[damage]
    lines = [line_of(i, text) for i, text in enumerate(TEXTS)]
    assert cut(tmp_path, data, lines, name="damaged.jpg") == ["unreadable_image"] * 4


def test_a_page_is_read_once_for_all_its_lines(tmp_path, monkeypatch):
    opened = []
    open_image = Image.open
    monkeypatch.setattr(Image, "open", lambda *args: opened.append(args) or open_image(*args))
    cut_texts(tmp_path)
    assert len(opened) == 1


def test_a_huge_page_warns_of_nothing(tmp_path, monkeypatch, recwarn):
    page = draw_page(TEXTS)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", page.width * page.height - 1)
    assert not any(isinstance(image, str) for image in cut(tmp_path, page, [line_of(0, TEXTS[0])]))
    assert not recwarn.list
