"""Cleaning and fitting word images."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from preprocessing.cleaning import (
    FitSettings,
    clean_word,
    crop_to_ink,
    erase_rules,
    fit_word,
    is_dark_ground,
    split_at_spaces,
    whiten_paper,
)
from tests.helpers import draw_word
from utils.images import ink_box, ink_mask, make_sheet, to_grey

WORD = draw_word("hand")


def as_alpha(word):
    """Black ink that only the alpha channel shows, on transparent black."""
    rgba = np.zeros((*word.shape, 4), np.uint8)
    rgba[..., 3] = 255 - word
    return Image.fromarray(rgba)


def as_palette(word, transparent):
    """Palette entry 0 is paper (transparent: any colour, here black), entry 1 is ink."""
    picture = Image.new("P", word.shape[::-1])
    picture.putdata((word < 128).astype(int).ravel().tolist())
    picture.putpalette([0, 0, 0, 20, 20, 20] if transparent else [255, 255, 255, 20, 20, 20])
    if transparent:
        picture.info["transparency"] = 0
    return picture


def file_modes():
    """One word in each pixel format, with the file type that holds it."""
    grey = Image.fromarray(WORD)
    return {
        "grey": (grey, "png"),
        "rgb": (grey.convert("RGB"), "png"),
        "rgba, opaque": (grey.convert("RGBA"), "png"),
        "rgba, ink in alpha": (as_alpha(WORD), "png"),
        "grey and alpha": (as_alpha(WORD).convert("LA"), "png"),
        "palette": (as_palette(WORD, False), "png"),
        "palette with transparency": (as_palette(WORD, True), "png"),
        "one bit": (grey.point(lambda v: 255 * (v > 128)).convert("1"), "png"),
        "16 bit": (Image.fromarray(WORD.astype(np.uint16) * 257), "png"),
        "16 bit tiff": (Image.fromarray(WORD.astype(np.uint16) * 257), "tiff"),
        "cmyk": (grey.convert("RGB").convert("CMYK"), "tiff"),
        "cmyk jpeg": (grey.convert("RGB").convert("CMYK"), "jpg"),
        "float": (Image.fromarray(WORD.astype(np.float32) / 255), "tiff"),
    }


@pytest.mark.parametrize("mode", file_modes())
def test_every_pixel_format_gives_dark_ink_on_white(tmp_path, mode):
    image, suffix = file_modes()[mode]
    image.save(tmp_path / f"x.{suffix}")
    with Image.open(tmp_path / f"x.{suffix}") as opened:
        grey = to_grey(opened)
    assert grey.dtype == np.uint8 and grey.shape == WORD.shape
    assert grey[0, 0] >= 250
    assert np.abs(grey.astype(int) - WORD).mean() < 14
    assert grey.flags.writeable


def test_paper_gets_white_and_ink_stays_dark():
    paper = np.linspace(130, 220, WORD.shape[1])[None, :].repeat(WORD.shape[0], 0)
    shaded = (WORD / 255 * paper).astype(np.uint8)
    white = whiten_paper(shaded)
    assert (white[WORD == 255] == 255).mean() > 0.97
    assert white[WORD < 60].mean() < 90


def test_grey_patches_on_white_filler_vanish():
    patchwork = np.full((60, 160), 255, np.uint8)
    patchwork[8:52, 10:80] = 205
    patchwork[20:46, 90:150] = 215
    patchwork[28:32, 20:70] = 60
    patchwork[24:44, 110:116] = 60
    white = whiten_paper(patchwork)
    background = patchwork > 100
    assert (white[background] > 245).mean() > 0.9
    assert (white[~background] < 130).mean() > 0.8


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 2), (3, 900)])
@pytest.mark.parametrize("value", [0, 255])
def test_tiny_and_empty_images_have_nothing_to_see(shape, value):
    image = Image.fromarray(np.full(shape, value, np.uint8))
    for settings in (
        FitSettings(),
        FitSettings(background="keep", crop=False),
        FitSettings(remove_rules=True),
    ):
        assert clean_word(image, settings) is None


def test_slivers_are_fitted():
    for shape in ((1000, 1), (1, 1000), (2, 2)):
        grey = np.zeros(shape, np.uint8)
        assert fit_word(grey, FitSettings(fit="squeeze")).shape == (64, 256)
        fitted = fit_word(grey, FitSettings())
        assert fitted.shape[0] == 64 and fitted.shape[1] % 8 == 0 and fitted.shape[1] <= 256


def test_ink_box_is_tight_and_ignores_specks():
    grey = np.full((60, 100), 250, np.uint8)
    grey[20:40, 30:70] = 20
    grey[2, 2] = 0
    assert ink_box(grey) == (30, 20, 70, 40)
    assert not ink_mask(grey)[2, 2]
    assert crop_to_ink(grey).shape == (22, 42)
    assert crop_to_ink(np.full((20, 20), 200, np.uint8)) is None


def test_dark_ground_is_turned_only_where_asked():
    negative = Image.fromarray(255 - WORD)
    assert is_dark_ground(255 - WORD) and not is_dark_ground(WORD)
    turned = clean_word(negative, FitSettings(invert_dark=True))
    assert np.abs(turned.astype(int) - clean_word(Image.fromarray(WORD), FitSettings())).mean() < 3


def test_rules_at_the_edges_go_and_words_stay():
    grey = np.full((80, 200), 255, np.uint8)
    grey[3:5, 10:190] = 90
    grey[76:78, 10:60] = 90
    grey[30:50, 40:160] = 20
    erased = erase_rules(grey)
    assert (erased[:10] == 255).all() and (erased[70:] == 255).all()
    assert np.array_equal(erased[20:60], grey[20:60])


def test_stubs_of_rules_further_in_go():
    grey = np.full((80, 200), 255, np.uint8)
    grey[30:50, 40:160] = 20
    kept = grey.copy()
    grey[60:62, 80:110] = 90  # below the word, touching nothing
    grey[12:14, 186:200] = 90  # cut off at the picture's side
    assert np.array_equal(erase_rules(grey), kept)


def test_a_rule_goes_and_what_crosses_it_stays():
    grey = np.full((80, 200), 255, np.uint8)
    grey[30:50, 40:160] = 20
    grey[50:72, 60:64] = 20  # a descender
    kept = grey.copy()
    grey[62:64, 20:180] = 90
    grey[50:72, 60:64] = 20
    erased = erase_rules(grey)
    assert (erased[kept == 20] == 20).all()
    assert (erased[60:66, 70:] == 255).all()


def test_flat_strokes_of_letters_stay():
    grey = np.full((80, 200), 255, np.uint8)
    grey[8:11, 20:70] = 20  # a T's bar that stands alone
    grey[14:70, 43:47] = 20
    grey[10:70, 100:104] = 20  # an L
    grey[67:70, 100:150] = 20
    grey[40:43, 160:190] = 20  # a dash
    assert np.array_equal(erase_rules(grey), grey)


def test_a_full_stop_stays_smaller_than_a_letter():
    stop = np.full((8, 8), 255, np.uint8)
    stop[1:7, 1:7] = 0
    left, top, right, bottom = ink_box(fit_word(stop, FitSettings()))
    assert max(right - left, bottom - top) <= 2 * 6 + 2


@pytest.mark.parametrize("text", ["i", "hand", "Donaudampfschifffahrt"])
@pytest.mark.parametrize("align", ["left", "center"])
def test_fit_keeps_the_shape_and_the_margin(text, align):
    grey = crop_to_ink(draw_word(text))
    fitted = fit_word(grey, FitSettings(align=align, max_scale=100))
    assert fitted.shape[0] == 64 and fitted.dtype == np.uint8
    border = np.concatenate(
        [fitted[:4].ravel(), fitted[-4:].ravel(), fitted[:, :4].ravel(), fitted[:, -4:].ravel()]
    )
    assert (border == 255).all()
    left, top, right, bottom = ink_box(fitted)
    scale = min(56 / grey.shape[0], 248 / grey.shape[1])
    assert abs((right - left) - scale * (grey.shape[1] - 2)) <= 3
    assert abs(top - (64 - bottom)) <= 2
    if align == "center":
        assert fitted.shape[1] == 256 and abs(left - (256 - right)) <= 2
    else:  # no blank tail
        assert left <= 7 and right + 4 <= fitted.shape[1] < right + 4 + 8 + 2


def publish(image):
    """The published procedure: scale to the height, squeeze what is too wide, else centre on white."""
    image = image.resize((int(image.width * 64 / image.height), 64), Image.LANCZOS)
    if image.width > 256:
        return image.resize((256, 64), Image.LANCZOS)
    return ImageOps.pad(image, size=(256, 64), color="white")


@pytest.mark.parametrize("text", ["it", "hand", "Donaudampfschifffahrt"])
def test_squeeze_is_the_published_fit_to_the_pixel(text):
    image = Image.fromarray(draw_word(text, paper=230))
    settings = FitSettings(background="keep", crop=False, fit="squeeze", align="center")
    assert np.array_equal(fit_word(clean_word(image, settings), settings), np.asarray(publish(image)))


def test_words_are_cut_at_clear_spaces_only():
    parts = [draw_word(text, margin=0) for text in ("two", "clear", "words")]
    height = max(part.shape[0] for part in parts)
    space = np.full((height, 30), 255, np.uint8)
    padded = [np.pad(p, ((height - p.shape[0], 0), (0, 0)), constant_values=255) for p in parts]
    line = np.hstack([padded[0], space, padded[1], space, padded[2]])
    cuts = split_at_spaces(line, "two clear words")
    assert [text for _, text in cuts] == ["two", "clear", "words"]
    assert all(abs(cut.shape[1] - part.shape[1]) < 8 for (cut, _), part in zip(cuts, parts, strict=True))
    assert split_at_spaces(line, "two clearwords") is None  # one space fewer than there are gaps as wide
    assert split_at_spaces(draw_word("solid"), "so lid") is None
    assert split_at_spaces(WORD, "hand")[0][1] == "hand"
    assert (
        split_at_spaces(line, "שתי מלים ברורות") is None
    )  # the first picture from the left holds the last word
    assert split_at_spaces(np.full((20, 20), 255, np.uint8), "a b") is None


def test_sheet_has_a_place_for_every_image():
    image = np.zeros((64, 256), np.uint8)
    sheet = make_sheet([image] * 3, captions=["first", "second", "a long one " * 20], columns=2)
    assert (np.asarray(sheet) == 0).sum() >= 3 * image.size
    assert make_sheet([image]).size == (256 + 12, 64 + 12)


def test_a_sheet_leaves_out_the_white_that_all_words_have_at_their_right():
    images = [np.full((64, 512), 255, np.uint8) for _ in range(2)]
    images[0][20:40, 10:200], images[1][20:40, 10:150] = 0, 0
    assert make_sheet(images, columns=2).size == (2 * (208 + 6) + 6, 64 + 12)
    assert make_sheet([np.full((64, 512), 255, np.uint8)]).size == (128 + 12, 64 + 12)


def test_cleaning_leaves_the_input_alone():
    image = Image.fromarray(WORD)
    clean_word(image, FitSettings(remove_rules=True, invert_dark=True))
    assert np.array_equal(np.asarray(image), WORD)
