"""Forced alignment, the borders that follow from it, the width model refined by them, segments of lines."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diffusion.alignment import (
    Peaks,
    align,
    align_spacing,
    character_positions,
    columns_of_ink,
    find_gaps,
    fit_borders,
    measure_peak_place,
    refine_width_model,
)
from diffusion.config import CheckpointConfig
from diffusion.layout import WidthModel
from diffusion.noise_schedule import RectifiedFlow
from diffusion.samples import aligned_segments
from diffusion.segments import MARGIN, draw_segments
from utils.charset import Charset
from utils.sources import TrainingSet
from utils.text_images import TextImage

WIDTHS = {"i": 6.0, "a": 12.0, "m": 22.0, " ": 10.0}
MODEL = WidthModel(character_widths=WIDTHS, writer_scales={"x": 1.0, "broad": 1.5})
PLACE = -0.07  # of a character's width from its left border: where this recogniser's peaks sit
TEXTS = ("aim", "mama", "iii", "mai", "am", "miami")


def collapse(path):
    """The text that CTC reads in a path of classes; 0 is the blank."""
    return [label for label, _ in itertools.groupby(path) if label]


def expected_places(log_probs, text):
    """Mean places of a text's characters over all paths that read it, and its log-probability."""
    frames, classes = log_probs.shape
    total, sums, shares = 0.0, np.zeros(len(text)), np.zeros(len(text))
    for path in itertools.product(range(classes), repeat=frames):
        if collapse(path) == text:
            probability = float(np.exp(sum(log_probs[t, label] for t, label in enumerate(path))))
            total += probability
            character = -1
            for t, label in enumerate(path):
                character += bool(label) and (t == 0 or path[t - 1] != label)
                if label:
                    sums[character] += probability * (t + 0.5)
                    shares[character] += probability
    return sums / shares, np.log(total)


@pytest.mark.parametrize("text", [[1], [1, 2], [1, 1], [2, 1, 2]])
def test_places_are_means_over_all_paths(text):
    log_probs = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(len(text))).log_softmax(dim=2)
    ids = torch.tensor([[*text, 0, 0]] * 2)
    places, scores = character_positions(log_probs, ids, torch.tensor([len(text)] * 2))
    for row in range(2):
        expected, total = expected_places(log_probs[row].double().numpy(), text)
        assert places[row, : len(text)].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
        assert scores[row].item() == pytest.approx(total / len(text), abs=1e-6)
    assert places[:, len(text) :].isnan().all()


def test_a_text_with_too_few_frames_is_not_sure():
    log_probs = torch.zeros(1, 2, 3).log_softmax(dim=2)
    places, scores = character_positions(log_probs, torch.tensor([[1, 1]]), torch.tensor([2]))
    peaks = Peaks(text="aa", ink=(0.0, 9.0), places=places[0].numpy(), log_probability=float(scores[0]))
    assert not peaks.is_sure


def draw_text(text, *, seed=0, spread=0.15, score=-0.1):
    """The true borders of a text whose widths vary, and the peaks that a recogniser would see."""
    rng = np.random.default_rng([seed, len(text)])
    widths = np.array([WIDTHS[c] for c in text]) * np.exp(spread * rng.standard_normal(len(text)))
    borders = 4 + np.concatenate([[0.0], np.cumsum(widths)])
    places = borders[:-1] + PLACE * widths
    return borders, Peaks(text=text, ink=(borders[0], borders[-1]), places=places, log_probability=score)


def make_set(*, count=60, **options):
    texts = [TEXTS[i % len(TEXTS)] for i in range(count)]
    drawn = [draw_text(text, seed=seed, **options) for seed, text in enumerate(texts)]
    records = [TextImage(file_name=f"images/{i}.png", text=text, writer="x") for i, text in enumerate(texts)]
    ink = np.array([[*peaks.ink, 0, 0] for _, peaks in drawn])[:, [0, 2, 1, 3]]
    return records, ink, [borders for borders, _ in drawn], [peaks for _, peaks in drawn]


def border_error(found, true):
    """Mean error of the inner borders in pixels."""
    return np.mean([np.abs(f - t)[1:-1].mean() for f, t in zip(found, true, strict=True)])


def test_the_place_of_the_peaks_is_measured_at_the_inks_ends():
    records, _, _, peaks = make_set()
    widths = [np.array([WIDTHS[c] for c in record.text]) for record in records]
    assert measure_peak_place(peaks, widths) == pytest.approx(PLACE, abs=0.05)


def test_without_a_sure_text_peaks_are_taken_to_sit_in_the_middle():
    _, _, _, peaks = make_set(score=-3.0)
    assert measure_peak_place(peaks, [np.ones(len(peak.text)) for peak in peaks]) == 0.5


def test_measured_borders_are_nearer_than_expected_ones_and_than_those_between_peaks():
    records, ink, true, peaks = make_set()
    found = align(records, ink, peaks, MODEL)
    expected = align(records, ink, [None] * len(records), MODEL)
    midway = [np.array([p.ink[0], *(p.places[1:] + p.places[:-1]) / 2, p.ink[1]]) for p in peaks]
    error = border_error(found.edges, true)
    assert found.is_measured.all() and not expected.is_measured.any()
    assert error < 0.6 * border_error(expected.edges, true) and error < 0.3 * border_error(midway, true)


def test_the_outer_borders_are_the_inks():
    _, peaks = draw_text("mama")
    borders = fit_borders(peaks, np.array([WIDTHS[c] for c in "mama"]), PLACE)
    assert (borders[0], borders[-1]) == peaks.ink and (np.diff(borders) > 0).all()


def test_peaks_in_the_wrong_order_turn_no_character_around():
    peaks = Peaks(text="aaa", ink=(0.0, 30.0), places=np.array([28.0, 2.0, 1.0]), log_probability=-0.1)
    assert (np.diff(fit_borders(peaks, np.full(3, 10.0), 0.5)) >= 0).all()


def test_one_character_is_as_wide_as_the_ink():
    peaks = Peaks(text="m", ink=(3.0, 20.0), places=np.array([5.0]), log_probability=-0.1)
    assert fit_borders(peaks, np.array([9.0]), 0.5).tolist() == [3.0, 20.0]


def ink_of(*runs, width=100):
    """Columns that have ink from one to the other of each run."""
    has_ink = np.zeros(width, bool)
    for left, right in runs:
        has_ink[left:right] = True
    return has_ink


def test_a_space_is_as_wide_as_the_white_wherever_its_peak_is():
    ink = ink_of((0, 20), (60, 90))
    for place in (25.0, 40.0, 58.0):
        peaks = Peaks(text="m m", ink=(0.0, 90.0), places=np.array([1.0, place, 59.0]), log_probability=-0.1)
        seen = find_gaps(peaks, ink)
        assert seen.gaps[1].tolist() == [20, 60] and np.isnan(seen.gaps[[0, 2]]).all()
        borders = fit_borders(seen, np.array([30.0, 8.0, 30.0]), 0.0)
        assert borders.tolist() == pytest.approx([0, 22, 58, 90], abs=1.5)


def test_the_widest_white_between_the_neighbours_peaks_is_the_space():
    ink = ink_of((0, 8), (12, 20), (25, 26), (50, 70))  # a letter in two strokes, and a stain
    peaks = Peaks(text="m m", ink=(0.0, 70.0), places=np.array([1.0, 30.0, 49.0]), log_probability=-0.1)
    assert find_gaps(peaks, ink).gaps[1].tolist() == [26, 50]


def test_words_that_touch_keep_the_borders_of_peaks_and_widths():
    peaks = Peaks(text="m m", ink=(0.0, 70.0), places=np.array([1.0, 30.0, 39.0]), log_probability=-0.1)
    seen = find_gaps(peaks, ink_of((0, 70)))
    assert np.isnan(seen.gaps).all()
    widths = np.array([30.0, 8.0, 30.0])
    assert fit_borders(seen, widths, 0.0).tolist() == fit_borders(peaks, widths, 0.0).tolist()


def test_spaces_at_the_ends_of_a_text_have_no_white_of_their_own():
    peaks = Peaks(text=" m ", ink=(0.0, 70.0), places=np.array([1.0, 30.0, 60.0]), log_probability=-0.1)
    assert np.isnan(find_gaps(peaks, ink_of((20, 50))).gaps).all()


def test_a_single_dark_pixel_is_no_ink_of_a_column():
    image = np.full((10, 3), 255, np.uint8)
    image[4, 0] = image[4:6, 2] = 0
    assert columns_of_ink(image).tolist() == [False, False, True]


def test_borders_of_a_text_from_right_to_left_fall():
    peaks = Peaks(text="بت", ink=(0.0, 20.0), places=np.array([4.0, 14.0]), log_probability=-0.1)
    borders = fit_borders(peaks, np.array([10.0, 10.0]), 0.5)
    assert borders[0] == 20 and borders[-1] == 0 and (np.diff(borders) < 0).all()


def test_a_text_that_the_recogniser_does_not_see_keeps_the_expected_borders():
    records, ink, _, peaks = make_set(score=-3.0)
    alignment = align(records, ink, peaks, MODEL)
    assert not alignment.is_measured.any()
    assert alignment.edges[1].tolist() == MODEL.edges("mama", None, (ink[1, 0], ink[1, 2])).tolist()


# The width model


def test_widths_and_their_spread_are_refined_by_the_borders():
    records, _, true, _ = make_set(count=300)
    wrong = WidthModel(character_widths={"i": 9.0, "a": 12.0, "m": 16.0, " ": 10.0}, writer_scales={"x": 1.0})
    refined = refine_width_model(wrong, records, true)
    for character in "iam":
        assert refined.character_widths[character] == pytest.approx(WIDTHS[character], rel=0.06)
    assert refined.spread == pytest.approx(0.15, rel=0.25) and refined.writer_scales == {"x": 1.0}


def make_lines(hand, texts, rng):
    """Lines of a hand: records, ink, and peaks that scatter by a pixel."""
    records, ink, peaks = [], [], []
    for text in texts:
        borders = hand.edges(text, {"x": 1.0}, rng=rng)
        widths = np.diff(borders)
        places = borders[:-1] + PLACE * widths + rng.normal(size=len(text))
        records.append(TextImage(file_name="images/0.png", text=text, writer="x"))
        ink.append([borders[0], 10.0, borders[-1], 50.0])
        ends = (borders[0], borders[-1])
        peaks.append(Peaks(text=text, ink=ends, places=places, log_probability=-1.0))
    return records, np.array(ink), peaks


def test_a_hands_spaces_are_measured_beside_its_letters():
    rng = np.random.default_rng(0)
    hand = replace(MODEL, writer_scales={"x": 0.8}, space_scales={"x": 2.5}, spread=0.1, room=10**5)
    lines = make_lines(hand, ["mama aim miami am", "am iii mai mama", "aim aim mama"] * 5, rng)
    start = replace(MODEL, room=10**5)
    found = align_spacing(*lines, start)
    assert found.space_scale({"x": 1.0}) == pytest.approx(2.5, rel=0.15)
    assert found.scale({"x": 1.0}) == pytest.approx(0.8, rel=0.08)
    assert found.scale({"broad": 1.0}) == 1.5 and found.space_scale({"broad": 1.0}) == 1.0
    assert align_spacing(*lines, start, {"broad"}) == start
    mixed = {"x": 0.5, "broad": 0.5}
    assert found.space_scale(mixed) == pytest.approx((found.space_scale({"x": 1.0}) + 1) / 2)


def test_a_hands_words_keep_their_width_beside_a_few_lines():
    lines = make_lines(
        replace(MODEL, writer_scales={"x": 0.8}), ["mama aim", "am iii"], np.random.default_rng(0)
    )
    words = make_lines(MODEL, ["mama", "aim", "miami"] * 5, np.random.default_rng(1))
    records, ink, peaks = ([*a, *b] for a, b in zip(lines, words, strict=True))
    found = align_spacing(records, np.array(ink), peaks, MODEL)
    assert found.scale({"x": 1.0}) == pytest.approx(1, abs=0.02)


def test_words_say_nothing_of_spaces():
    lines = make_lines(MODEL, ["mama", "aim"], np.random.default_rng(0))
    assert align_spacing(*lines, MODEL) == MODEL


def test_characters_without_a_measured_border_keep_their_widths():
    refined = refine_width_model(
        MODEL, [TextImage(file_name="images/0.png", text="m", writer="x")], [np.array([4.0, 99.0])]
    )
    assert refined == MODEL


def test_drawn_widths_vary_as_much_as_the_spread_says_and_by_the_seed():
    model = WidthModel(character_widths=WIDTHS, writer_scales={}, spread=0.2, room=10**5)
    edges = [model.edges("m" * 2000, None, rng=np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert np.log(np.diff(edges[0])).std() == pytest.approx(0.2, rel=0.15)
    assert (edges[0] == edges[1]).all() and not (edges[0] == edges[2]).all()


def test_a_model_without_a_spread_is_saved_as_earlier_versions_read_it():
    assert "spread" not in MODEL.to_dict()
    model = WidthModel(character_widths=WIDTHS, writer_scales={}, spread=0.2)
    assert WidthModel(**model.to_dict()) == model


# Segments


LINE = "mama am aim iii miami mai am"


def align_line(text=LINE, *, score=-0.1):
    borders, peaks = draw_text(text, score=score)
    records = [TextImage(file_name="images/0.png", text=text, writer="x")]
    ink = np.array([[borders[0], 0, borders[-1], 32]])
    return records, ink, align(records, ink, [peaks], MODEL)


def cut(*, seed=0, cuts=True, **options):
    records, ink, alignment = align_line(**options)
    columns = int(-(-(ink[0, 2] + 8) // 32) * 4)
    texts = [record.text for record in records]
    return draw_segments(texts, alignment, [columns], seed=seed, cuts=cuts), alignment, columns


def test_a_line_is_cut_at_spaces_into_one_to_four_words():
    segments, _, columns = cut()
    parts = [segment for segment in segments if segment.text != LINE]
    assert len(parts) > 2 and all(segment.text in LINE for segment in parts)
    assert {segment.text.count(" ") for segment in parts} <= {0, 1, 2, 3}
    assert all(not segment.text.startswith(" ") and not segment.text.endswith(" ") for segment in parts)
    assert all(0 <= s.columns[0] < s.columns[1] <= columns for s in parts)


def test_all_words_of_a_line_are_in_its_segments():
    segments, _, _ = cut()
    words = sorted(word for segment in segments if segment.text != LINE for word in segment.text.split())
    assert words == sorted(LINE.split() * 2)  # it is cut twice


def test_a_segments_borders_are_the_lines_from_its_own_first_column():
    segments, alignment, _ = cut()
    segment = next(s for s in segments if s.text.startswith("miami") and s.text != LINE)
    begin = LINE.index("miami")
    assert (segment.edges + 8 * segment.columns[0]).tolist() == pytest.approx(
        alignment.edges[0][begin : begin + len(segment.text) + 1].tolist()
    )
    assert 0 <= segment.edges[0] <= MARGIN + 4  # a column is 8 pixels: the margin, give or take half of one


def test_a_line_that_was_not_measured_is_whole():
    segments, _, columns = cut(score=-3.0)
    assert [(s.text, s.columns) for s in segments] == [(LINE, (0, columns))]


def test_a_word_is_whole():
    segments, _, columns = cut(text="mama")
    assert [(s.text, s.columns) for s in segments] == [("mama", (0, columns))]


def test_the_seed_alone_says_where_lines_are_cut():
    texts = [[segment.text for segment in cut(seed=seed)[0]] for seed in (0, 0, 1, 2, 3)]
    assert texts[0] == texts[1] and len({tuple(t) for t in texts}) > 1


class MadeUpCache:
    """The places of one line in a cache of latents."""

    def __init__(self, ink, columns):
        self.ink, self.starts = ink, np.array([0, columns])


def make_samples(canvas_step):
    records, ink, alignment = align_line()
    columns = int(-(-(ink[0, 2] + 8) // 32) * 4)
    words = TrainingSet(
        records=tuple(records), paths=(Path("lines/images/0.png"),), shares=(1.0,), flag="--dataset_path"
    )
    config = CheckpointConfig(
        charset=Charset(characters=tuple(" aim")),
        writers=("x",),
        schedule=RectifiedFlow(),
        img_size=(32, columns * 8),
        width_model=MODEL,
        vae={},
        canvas_step=canvas_step,
    )
    return aligned_segments(words, MadeUpCache(ink, columns), config, alignment, seed=0), columns


def test_segments_have_canvases_that_just_hold_them():
    samples, columns = make_samples(32)
    counts = 8 * np.diff(samples.columns, axis=1)[:, 0]
    is_whole = counts == columns * 8
    assert len(samples.records) > 2 and not is_whole.all() and (samples.canvases % 32 == 0).all()
    assert (samples.canvases[~is_whole] - counts[~is_whole] < 32).all()
    assert (samples.canvases >= counts).all()


def test_nothing_is_cut_where_all_canvases_have_one_width():
    samples, columns = make_samples(None)
    assert [record.text for record in samples.records] == [LINE]
    assert samples.canvases.tolist() == [columns * 8]
