"""The width model and the text over the columns."""

import json

import numpy as np
import pytest
import torch

from diffusion.layout import (
    WidthModel,
    canvas_widths,
    fit_width_model,
    layout_columns,
    natural_widths,
    pad_edges,
    shape_class,
)
from utils.images import measure_ink

WIDTHS = dict(
    zip("abcdefghilmnorstuw", np.random.default_rng(3).permutation(np.linspace(5.0, 22.0, 18)), strict=True)
)
SCALES = {"wide": 1.3, "middle": 1.0, "narrow": 0.7}
MODEL = WidthModel(
    character_widths={"i": 4.0, "m": 20.0}, writer_scales={"wide": 1.5, "narrow": 0.5}, left=4.0, room=100.0
)


def make_words(count=600, *, room=248.0, is_centered=False, seed=0):
    """(texts, writers, ink): words as wide as WIDTHS and SCALES say, give or take 4 %; what is too wide is
    scaled down.
    """
    generator = np.random.default_rng(seed)
    texts = ["".join(generator.choice(list(WIDTHS), generator.integers(1, 9))) for _ in range(count)]
    writers = list(generator.choice(list(SCALES), count))
    widths = np.array([SCALES[w] * sum(WIDTHS[c] for c in t) for t, w in zip(texts, writers, strict=True)])
    widths *= generator.normal(1.0, 0.04, count)
    heights = 56.0 * np.minimum(1.0, room / widths)
    widths = np.minimum(widths, room)
    lefts = 128 - widths / 2 if is_centered else np.full(count, 4.0)
    ink = np.stack([lefts, 32 - heights / 2, lefts + widths, 32 + heights / 2], axis=1)
    return texts, writers, ink


@pytest.fixture(scope="module")
def fitted():
    return fit_width_model(*make_words(), 256)


# Columns


def test_shares_of_a_column_sum_to_its_coverage():
    edges = torch.tensor([[4.0, 9.0, 30.0, 30.0, 61.5]])
    share = layout_columns(edges, 8)[0, 0]
    assert share.sum(dim=0).tolist() == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 5.5 / 8])


def test_a_characters_shares_sum_to_its_width():
    edges = torch.tensor([[4.0, 9.0, 30.0, 30.0, 61.5]])
    assert (8 * layout_columns(edges, 8)[0, 0].sum(dim=1)).tolist() == pytest.approx([5, 21, 0, 31.5])


def test_narrow_characters_share_a_column_by_fractions():
    share = layout_columns(torch.tensor([[0.0, 2.0, 8.0]]), 2)[0, 0]
    assert share.tolist() == [[0.25, 0.0], [0.75, 0.0]]


def test_positions_rise_through_a_character():
    position = layout_columns(torch.tensor([[8.0, 40.0]]), 6)[0, 1, 0]
    assert position.tolist() == pytest.approx([0, 0.125, 0.375, 0.625, 0.875, 1])


def test_absent_characters_cover_nothing():
    edges = torch.from_numpy(pad_edges(MODEL.edges("mi", None), 5))[None]
    share = layout_columns(edges, 16)[0, 0]
    assert share[:2].sum(dim=1).all() and not share[2:].any()


def test_text_from_right_to_left_is_laid_out_from_the_right():
    model = WidthModel(character_widths=dict.fromkeys("بتאmi", 16.0), writer_scales={}, left=8.0)
    for text in ("بت", "אm"):  # Arabic; Hebrew before a Latin letter
        share, position = layout_columns(torch.from_numpy(pad_edges(model.edges(text, None), 3))[None], 8)[0]
        assert share[0].tolist() == [0, 0, 0, 1, 1, 0, 0, 0] and share[1].tolist() == [0, 1, 1, 0, 0, 0, 0, 0]
        assert not share[2].any() and position[0, 3:5].tolist() == [0.25, 0.75]
        assert model.expected_width(text) == 32
    assert (np.diff(model.edges("mi", None)) > 0).all() and (
        np.diff(model.edges("بت", None, (5, 9))) < 0
    ).all()


def test_empty_text_covers_nothing():
    edges = torch.from_numpy(pad_edges(MODEL.edges("", None), 5))[None]
    layout = layout_columns(edges, 16)
    assert layout.isfinite().all() and not layout[:, 0].any()


# The model's answers


def test_widths_follow_characters_and_hand():
    assert MODEL.expected_width("mi", {"wide": 1.0}) == pytest.approx(36.0)
    assert MODEL.edges("mi", {"narrow": 1.0}).tolist() == pytest.approx([4, 14, 16])


def test_null_writer_and_unknown_hands_have_the_mean_scale():
    assert MODEL.scale(None) == MODEL.scale({"stranger": 1.0}) == 1.0


def test_mixing_hands_mixes_their_scales():
    assert MODEL.scale({"wide": 0.25, "narrow": 0.75}) == pytest.approx(0.75)


def test_unseen_characters_have_the_mean_width():
    assert MODEL.expected_width("x") == pytest.approx(12.0)


def test_canvases_are_multiples_that_hold_the_ink_and_its_margin():
    widths = canvas_widths(np.array([0.0, 28.0, 28.1, 200.0, 255.0]), 4.0, 32, 256)
    assert widths.tolist() == [32, 32, 64, 224, 256]


def test_words_too_wide_for_the_canvas_are_squeezed_into_it():
    edges = MODEL.edges("mmmmmmmm", None)
    assert edges[-1] - edges[0] == pytest.approx(100.0)


def test_measured_ink_fixes_the_ends():
    assert MODEL.edges("mi", None, (10.0, 34.0)).tolist() == pytest.approx([10, 30, 34])


def test_centred_words_are_expected_in_the_middle():
    model = WidthModel(character_widths={"m": 20.0}, writer_scales={}, left=4.0, room=100.0, is_centered=True)
    assert model.edges("m", None).tolist() == pytest.approx([44, 64])


@pytest.mark.parametrize(
    ("text", "expected"), [("ace", 0), ("ja", 5), ("gap", 2), ("bed", 3), ("Egg", 5), ("Änd", 6)]
)
def test_heights_have_nine_classes(text, expected):
    assert shape_class(text) == expected


# Fitting


def test_character_widths_are_recovered(fitted):
    fitted_widths, true = (
        np.array([widths[c] for c in WIDTHS]) for widths in (fitted.character_widths, WIDTHS)
    )
    assert np.corrcoef(fitted_widths, true)[0, 1] > 0.95


def test_hands_are_recovered(fitted):
    for name, scale in SCALES.items():
        assert fitted.writer_scales[name] == pytest.approx(scale, rel=0.06)


def test_new_words_are_predicted(fitted):
    texts, writers, ink = make_words(seed=1)
    expected = [
        fitted.expected_width(text, {writer: 1.0}) for text, writer in zip(texts, writers, strict=True)
    ]
    assert np.corrcoef(expected, ink[:, 2] - ink[:, 0])[0, 1] > 0.95
    assert fitted.correlation > 0.95


def test_words_cut_down_to_the_canvas_do_not_shrink_their_letters():
    cut = fit_width_model(*make_words(room=90.0), 98)
    for character, width in WIDTHS.items():
        assert cut.character_widths[character] == pytest.approx(width, rel=0.2)


def test_a_full_words_natural_width_follows_from_its_height():
    ink = np.array([[4, 4, 252, 32], [4, 4, 104, 60]], np.float32)
    assert natural_widths(ink)[0] == pytest.approx(496, rel=0.02)


def test_a_wrong_label_moves_little(fitted):
    texts, writers, ink = make_words()
    texts[:30] = ["a" if len(text) > 4 else "mumumumu" for text in texts[:30]]
    damaged = fit_width_model(texts, writers, ink, 256)
    for character, width in fitted.character_widths.items():
        assert damaged.character_widths[character] == pytest.approx(width, rel=0.15)


def test_rare_characters_get_the_mean_width():
    texts, writers, ink = make_words()
    texts[0], ink[0] = "q", [4, 4, 9, 60]  # seen once, and very narrow there
    model = fit_width_model(texts, writers, ink, 256)
    mean = np.mean([width for character, width in model.character_widths.items() if character != "q"])
    assert 0.5 * mean < model.character_widths["q"] < 1.2 * mean


def test_centred_images_are_noticed(fitted):
    assert fit_width_model(*make_words(is_centered=True), 256).is_centered and not fitted.is_centered


def test_left_aligned_words_begin_where_they_were_measured(fitted):
    assert fitted.left == pytest.approx(4.0)


def test_one_word_is_enough():
    model = fit_width_model(["abc"], ["me"], np.array([[4.0, 4.0, 64.0, 60.0]]), 256)
    assert model.expected_width("abc", {"me": 1.0}) == pytest.approx(60, rel=0.05)


# Extension


@pytest.fixture(scope="module")
def extended(fitted):
    texts, writers, ink = make_words(60, seed=2)
    texts = [text.replace("a", "z") for text in texts]
    return fit_width_model(texts, ["new" if w == "wide" else w for w in writers], ink, 256, prior=fitted)


def test_extension_keeps_known_characters(fitted, extended):
    for character, width in fitted.character_widths.items():
        assert extended.character_widths[character] == pytest.approx(width, rel=0.08)


def test_extension_keeps_known_hands(fitted, extended):
    assert all(extended.writer_scales[name] == scale for name, scale in fitted.writer_scales.items())


def test_extension_fits_new_hands(extended):
    assert extended.writer_scales["new"] == pytest.approx(SCALES["wide"], rel=0.12)


def test_extension_fits_new_characters(extended):
    assert extended.character_widths["z"] == pytest.approx(WIDTHS["a"], rel=0.3)


def test_the_model_survives_json(fitted):
    assert WidthModel(**json.loads(json.dumps(fitted.to_dict()))) == fitted


def test_ink_is_measured_and_an_empty_image_spans_all():
    images = np.full((2, 32, 64), 255, np.uint8)
    images[0, 10:20, 8:40] = 0
    assert measure_ink(images).tolist() == [[8, 10, 40, 20], [0, 0, 64, 32]]
