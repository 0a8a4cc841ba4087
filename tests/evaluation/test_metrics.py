"""Distances, intervals, errors, retrieval, copies: exact where the maths is, and equal to others' code where
there is any.
"""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from evaluation.comparison import compare_folders
from evaluation.copies import choose_controls, find_neighbours, nearest
from evaluation.distances import frechet_distance, kernel_distance
from evaluation.image_sets import make_thumbnail
from evaluation.legibility import compare_readings, group_error_rates, length_names, measure_legibility
from evaluation.measures import LeftOut, measure_distances
from evaluation.pixel_measures import class_pairs, measure_variety, thumbnail_distance
from evaluation.styles import (
    StyledImages,
    average_precisions,
    measure_retrieval,
    measure_writer_accuracy,
    nearest_writers,
)
from htr.error_rates import character_error_rates, count_errors, keep_letters
from htr.reading import Reading
from utils.bootstrap import Bootstrap
from utils.images import pixel_difference
from utils.text_images import TextImage, write_metadata

BOOTSTRAP = Bootstrap(resamples=200, seed=0)


class Identity(nn.Module):
    """Features are what they are given; the attribute is how torchmetrics learns their number."""

    num_features = 6

    def forward(self, features):
        return features


def make_features(n, m, *, dimensions=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, dimensions)).astype("f"), (
        1.3 * rng.normal(size=(m, dimensions)) + 0.4
    ).astype("f")


# Distances


def test_the_frechet_distance_is_that_of_torchmetrics():
    from torchmetrics.image.fid import FrechetInceptionDistance

    one, other = make_features(40, 30)
    metric = FrechetInceptionDistance(feature=Identity()).set_dtype(torch.float64)
    metric.update(torch.from_numpy(one), real=True)
    metric.update(torch.from_numpy(other), real=False)
    assert frechet_distance(one, other).value == pytest.approx(metric.compute().item(), rel=1e-4)


def test_the_kernel_distance_is_that_of_torchmetrics_on_one_subset_of_all():
    from torchmetrics.image.kid import KernelInceptionDistance

    one, other = make_features(40, 40)
    metric = KernelInceptionDistance(feature=Identity(), subsets=1, subset_size=40)
    metric.update(torch.from_numpy(one), real=True)
    metric.update(torch.from_numpy(other), real=False)
    assert kernel_distance(one, other).value == pytest.approx(metric.compute()[0].item(), rel=1e-3)


def test_the_frechet_distance_of_normal_distributions_is_known():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(20000, 2)), rng.normal(size=(20000, 2)) * 2 + (3, 0)
    assert frechet_distance(one, other).value == pytest.approx(9 + 2 * (2 - 1) ** 2, rel=0.03)


def test_fewer_words_than_dimensions_have_a_frechet_distance_and_equal_sets_none():
    one, other = make_features(10, 10, dimensions=64)
    assert frechet_distance(one, other).value > 0
    assert frechet_distance(one, one).value == pytest.approx(0, abs=1e-9)


def test_an_influence_is_the_derivative_of_the_distance():
    one, other = make_features(40, 40)
    for compute in (frechet_distance, kernel_distance):
        # A word twice and another one not at all, in a set so large that this is a small step.
        many = np.concatenate([one] * 50)
        found = compute(many, other)
        changed = many.copy()
        changed[3] = many[7]
        step = compute(changed, other).value - compute(many, other).value
        predicted = (found.reference[7] - found.reference[3]) / len(many)
        assert step == pytest.approx(predicted, rel=0.1), compute.__name__


def test_blocks_of_the_kernel_add_up(monkeypatch):
    one, other = make_features(40, 30)
    whole = kernel_distance(one, other)
    monkeypatch.setattr("evaluation.distances.KERNEL_ROWS", 7)
    parts = kernel_distance(one, other)
    assert parts.value == pytest.approx(whole.value) and np.allclose(parts.other, whole.other)


def test_a_distance_needs_two_words_on_each_side():
    with pytest.raises(ValueError, match="here are 1 and 4"):
        frechet_distance(np.zeros((1, 2)), np.zeros((4, 2)))


def test_intervals_of_distances_are_as_wide_as_repeated_draws_are_apart():
    pairs = [make_features(150, 150, seed=seed) for seed in range(40)]
    for compute in (frechet_distance, kernel_distance):
        found = [compute(*pair) for pair in pairs]
        apart = np.std([distance.value for distance in found])
        intervals = [BOOTSTRAP.distance("name", distance, is_positive=True) for distance in found]
        width = np.mean([estimate.high - estimate.low for estimate in intervals]) / (2 * 1.96)
        assert 0.8 * apart < width < 1.6 * apart, compute.__name__


def test_distances_carry_their_columns_and_their_sizes():
    one, other = make_features(20, 20)
    frechet, _ = measure_distances(
        ("fid", "kid"), ("FID", "KID"), one, {"generated": other, "real": one + 0.01}, "p", BOOTSTRAP
    )
    assert set(frechet.values) == {"generated", "real"} and frechet.values["generated"].n == 20
    assert frechet.values["generated"].value > frechet.values["real"].value >= frechet.values["real"].low >= 0
    assert "mostly bias" not in frechet.protocol
    few = measure_distances(("fid", "kid"), ("FID", "KID"), one[:6], {"generated": other[:6]}, "p", BOOTSTRAP)
    assert ["mostly bias" in measure.protocol for measure in few] == [True, False]


# Intervals


def test_an_interval_is_the_same_again_and_another_with_another_seed():
    values = np.arange(20.0)
    one = Bootstrap(resamples=100, seed=0).ratio("name", values)
    assert (
        one == Bootstrap(resamples=100, seed=0).ratio("name", values)
        and one.value == 9.5
        and one.low < 9.5 < one.high
        and one.n == 20
    )
    assert one != Bootstrap(resamples=100, seed=1).ratio("name", values) and one != Bootstrap(
        resamples=100, seed=0
    ).ratio("other", values)


def test_a_ratio_is_of_sums_and_not_a_mean_of_ratios():
    assert Bootstrap(resamples=10, seed=0).ratio("name", np.array([1, 0]), np.array([1, 9])).value == 0.1


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [BOOTSTRAP.ratio("name", rng.random(50) < 0.3) for _ in range(200)]
    assert 0.88 < np.mean([estimate.low <= 0.3 <= estimate.high for estimate in found]) <= 1


def test_one_word_has_no_interval_and_none_no_value():
    single = BOOTSTRAP.ratio("name", np.array([0.5]))
    assert single.value == 0.5 and np.isnan(single.low) and single.as_json()["low"] is None
    with pytest.raises(ValueError, match="nothing to average"):
        BOOTSTRAP.ratio("name", np.array([]))


def test_a_paired_difference_is_surer_than_an_unpaired_one():
    rng = np.random.default_rng(0)
    base = rng.random(100)
    one, other = (base + 0.1, None), (base, None)
    paired = BOOTSTRAP.difference("name", one, other, is_paired=True)
    unpaired = BOOTSTRAP.difference("name", one, other, is_paired=False)
    assert paired.value == pytest.approx(0.1) and paired.high - paired.low < 1e-9
    assert unpaired.low < 0.1 < unpaired.high and unpaired.high - unpaired.low > 0.05


# Reading


def test_errors_are_counted_in_characters_and_in_words():
    texts, readings = ["Hallo", "du da", "abc"], ["Halo", "du", ""]
    assert [row.tolist() for row in count_errors(texts, readings, unit="characters")] == [
        [1, 3, 3],
        [5, 5, 3],
    ]
    assert [row.tolist() for row in count_errors(texts, readings, unit="words")] == [[1, 1, 1], [1, 2, 1]]


def test_letters_are_what_is_left_of_case_and_marks():
    assert keep_letters("Schönau-Berzdorf, 12_b!") == "schönauberzdorf12b"
    assert character_error_rates(["Ab-c", "."], ["abc", "x"], "letters").tolist() == [0, 0]
    assert character_error_rates(["Ab-c"], ["abc"], "exact").tolist() == [0.5]


def read(texts, readings, normalise="exact", confidence=0.5):
    return compare_readings(
        texts, ["w"] * len(texts), [Reading(text=text, confidence=confidence) for text in readings], normalise
    )


def test_the_readers_own_errors_are_subtracted():
    generated, real = (
        read(["abcd", "abcd"], ["abxx", "abcd"]),
        read(["abcd", "abcd"], ["abcx", "abcd"], confidence=0.75),
    )
    matches = np.array([[0, 0], [1, 1]])
    cer, wer, confidence = measure_legibility("reader", generated, real, matches, "exact", BOOTSTRAP)
    assert [cer.values[column].value for column in ("generated", "real", "difference")] == [
        0.25,
        0.125,
        0.125,
    ]
    assert wer.values["difference"].value == 0 and confidence.values["difference"].value == -0.25
    assert "of the same records" in cer.protocol and "product of the probabilities" in confidence.protocol


def test_words_without_anything_to_compare_are_left_out_and_counted():
    generated, real = read(["ab", "."], ["ab", "x"], "letters"), read(["ab"], ["ax"], "letters")
    cer = measure_legibility("reader", generated, real, np.zeros((0, 2), int), "letters", BOOTSTRAP)[0]
    assert cer.values["generated"].n == 1 and "1 generated images whose text has none" in cer.protocol
    assert "of the same writers" in cer.protocol


def test_error_rates_are_grouped_by_length():
    words = read(["a", "b", "abcdefghijklmnopqrst"], ["a", "x", "abcdefghijklmnopqrst"])
    groups = group_error_rates(words, length_names(words.texts), BOOTSTRAP)
    assert {name: estimate.value for name, estimate in groups.items()} == {"1": 0.5, "16+": 0.0}


# Style


def test_average_precision_is_the_textbook_one():
    gallery = np.array([[1, 0], [0.9, 0.1], [0.5, 0.5], [0, 1]], "f")
    # In order of the query: relevant, not, relevant, not.
    found = average_precisions(
        np.array([[1, 0]], "f"), np.array([0]), gallery, np.array([0, 1, 0, 1]), np.array([-1])
    )
    assert found == pytest.approx((1 + 2 / 3) / 2)


def test_a_query_does_not_find_itself():
    gallery = np.eye(3, dtype="f")
    found = average_precisions(gallery[:1], np.array([0]), gallery, np.array([0, 1, 0]), np.array([0]))
    assert found == pytest.approx(0.5)  # of two equally far ones, the other writer's comes first
    assert np.isnan(
        average_precisions(gallery[:1], np.array([0]), gallery, np.array([0, 1, 1]), np.array([0]))[0]
    )


def test_writer_accuracy_leaves_out_unknown_writers_and_names_them():
    def words(predicted, writers):
        return StyledImages(
            vectors=np.zeros((len(writers), 2)), predicted=np.array(predicted), writers=writers
        )

    measure = measure_writer_accuracy(
        words([0, 1, 0], ["a", "a", "z"]), words([0], ["a"]), ["a", "b"], False, BOOTSTRAP
    )
    assert measure.values["generated"].value == 0.5 and measure.values["real"].value == 1
    assert "1 images of 1 writers that it does not know (z)" in measure.protocol
    with pytest.raises(LeftOut, match=r"knows none of the writers \(z\)"):
        measure_writer_accuracy(words([0], ["z"]), words([0], ["a"]), ["a", "b"], False, BOOTSTRAP)


def test_retrieval_is_perfect_where_hands_are_apart():
    gallery = StyledImages(
        vectors=np.repeat(np.eye(2, dtype="f"), 3, axis=0),
        predicted=np.zeros(6),
        writers=["a"] * 3 + ["b"] * 3,
    )
    queries = {"generated": (gallery, np.full(6, -1)), "real": (gallery, np.arange(6))}
    for measure in measure_retrieval(queries, gallery, BOOTSTRAP):
        assert [estimate.value for estimate in measure.values.values()] == [1, 1]
        assert "50.0 %" in measure.protocol


def test_the_chance_of_a_retrieval_is_that_of_two_drawn_images():
    writers = ["a"] * 6 + ["b"] * 3 + ["c"]
    gallery = StyledImages(vectors=np.eye(10, dtype="f"), predicted=np.zeros(10), writers=writers)
    retrieval = measure_retrieval({"generated": (gallery, np.full(10, -1))}, gallery, BOOTSTRAP)[1]
    assert f"by chance about {100 * (0.36 + 0.09 + 0.01):.1f} %" in retrieval.protocol


def test_the_nearest_writer_is_found_without_the_image_itself():
    gallery = np.array([[1, 0], [0, 1], [0, 1], [0.8, 0.6]], "f")
    labels = np.array([0, 1, 1, 0])
    # Without itself, writer 0's only other image is the last one, and its mean is further than writer 1's.
    queries = np.array([[1, 0], [0, 1], [0.1, 0.995]], "f")
    found = nearest_writers(queries, np.array([0, 1, 0]), gallery, labels, np.array([0, 1, -1]))
    assert found.tolist() == [0, 1, 1]
    alone = nearest_writers(queries[:1], np.array([0]), gallery[:3], labels[:3], np.array([0]))
    assert alone.tolist() == [-1]


# Pixels


def test_the_pixel_difference_pads_the_narrower_image_with_white():
    image = np.zeros((4, 8), np.uint8)
    assert pixel_difference(image, image) == 0 and pixel_difference(image, image + 255) == 1
    assert pixel_difference(image, image[:, :4]) == 0.5


def make_words(count, *, seed=0):
    """Strokes at random places, one word each."""
    rng = np.random.default_rng(seed)
    words = np.full((count, 32, 96), 255, np.uint8)
    for word in words:
        for top, left in zip(rng.integers(4, 24, 8), rng.integers(4, 84, 8), strict=True):
            word[top : top + 6, left : left + 5] = 20
    return words


def thumbnails(words):
    return np.stack([make_thumbnail(word).ravel() for word in words])


def test_copies_are_found_though_they_are_moved_and_blurred_and_other_words_are_not_taken_for_them():
    import cv2

    train, fresh = make_words(60), make_words(30, seed=1)
    moved = np.stack([cv2.GaussianBlur(np.roll(word, (2, 6), (0, 1)), (0, 0), 0.8) for word in train[:10]])
    found = find_neighbours(
        thumbnails(np.concatenate([moved, fresh])), ["x"] * 40, thumbnails(train), ["x"] * 60
    )
    assert found.rows[:10].tolist() == list(range(10))
    assert found.is_copy.tolist() == [True] * 10 + [False] * 30


def test_full_stops_are_not_copies_of_each_other():
    dots = np.full((12, 32, 32), 255, np.uint8)
    for number, dot in enumerate(dots):
        dot[20 : 24 + number % 3, 10 : 14 + number % 4] = 20 + number
    found = find_neighbours(thumbnails(dots[:4]), ["."] * 4, thumbnails(dots[4:]), ["."] * 8)
    assert not found.is_copy.any()


def test_a_copy_under_another_text_is_found_too():
    train = make_words(20)
    found = find_neighbours(thumbnails(train[:1]), ["b"], thumbnails(train), ["a"] * 10 + ["b"] * 10)
    assert found.rows[0] == 0 and found.is_copy[0] and not found.is_same_text[0]
    found = find_neighbours(
        thumbnails(make_words(1, seed=2)), ["b"], thumbnails(train), ["a"] * 10 + ["b"] * 10
    )
    assert found.rows[0] >= 10 and found.is_same_text[0]


def test_neighbours_are_found_in_parts_as_at_once(monkeypatch):
    one, other = thumbnails(make_words(9)), thumbnails(make_words(20, seed=1))
    whole = nearest(one, other)
    monkeypatch.setattr("evaluation.copies._CELLS", 40)
    assert (nearest(one, other)[0] == whole[0]).all() and np.allclose(nearest(one, other)[1], whole[1])


def test_a_blank_image_is_far_from_everything():
    blank = thumbnails(np.full((1, 32, 96), 255, np.uint8))
    assert not blank.any() and nearest(blank, thumbnails(make_words(3)))[1][0] == 1
    assert nearest(blank, blank[:0])[0][0] == -1


def test_controls_are_never_compared_with_themselves():
    controls, train = choose_controls(["train"] * 20, "train", 0)
    assert len(controls) == 2 and not set(controls) & set(train) and len(train) == 18
    controls, train = choose_controls(["train"] * 3 + ["test"] * 2, "train", 0)
    assert sorted(controls) == [3, 4] and train.tolist() == [0, 1, 2]


def test_diversity_is_within_a_text_and_a_hand():
    pairs = class_pairs(["a", "a", "a", "b", "a"], ["1", "1", "2", "1", "1"], 0)
    assert sorted(map(sorted, pairs[0].tolist())) == [[0, 1], [0, 4], [1, 4]] and len(pairs) == 1
    words = thumbnails(make_words(2))
    assert thumbnail_distance(words, np.array([[0, 0]])) == pytest.approx(0, abs=1e-3)
    assert thumbnail_distance(words, np.array([[0, 1]])) > 0.2


def make_repeated(folder, blots, *, texts=("ab", "ab", "abcdef", "abcdef"), images=3, seed=0):
    """A folder in which each text is there several times by one writer, its images ``distance`` pixels of
    shift apart.
    """
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    records = []
    for number, text in enumerate(dict.fromkeys(texts)):
        base = make_words(1, seed=number)[0]
        for copy in range(images):
            image = base.copy()
            for _ in range(blots * len(text)):
                top, left = rng.integers(4, 24), rng.integers(4, 84)
                image[top : top + 4, left : left + 4] = 20
            name = f"images/{number}-{copy}.png"
            Image.fromarray(image).save(folder / name)
            records.append(TextImage(file_name=name, text=text, writer="w", split="test"))
    write_metadata(folder, records)
    return folder


def test_the_variety_is_a_share_of_that_of_real_texts_of_the_same_length(tmp_path):
    real = make_repeated(tmp_path / "real", 3, texts=("ab", "cd", "abcdef"))
    same = make_repeated(tmp_path / "same", 3, texts=("xy", "ghijkl"), seed=1)
    none = make_repeated(tmp_path / "none", 0, texts=("xy", "ghijkl"))
    for folder, low, high in ((same, 0.6, 1.4), (none, -0.01, 0.01)):
        pair = compare_folders(real, folder, split=None, most=None, seed=0)
        (measure,) = measure_variety(pair, {}, BOOTSTRAP)
        assert low < measure.values["ratio"].value < high and measure.values["ratio"].n == 2
    # Real texts count by the generated texts' lengths: two of two characters as much as one of six.
    by_length = []
    for text in ("xy", "ghijkl"):
        folder = make_repeated(tmp_path / text, 3, texts=(text,))
        (alone,) = measure_variety(
            compare_folders(real, folder, split=None, most=None, seed=0), {}, BOOTSTRAP
        )
        by_length.append(alone.values["real"])
    assert [estimate.n for estimate in by_length] == [2, 1]
    mean = np.mean([estimate.value for estimate in by_length])
    assert measure.values["real"].value == pytest.approx(mean)


def test_the_variety_of_style_is_measured_beside_that_of_shapes(tmp_path):
    folder = make_repeated(tmp_path / "real", 2)
    pair = compare_folders(folder, folder, split=None, most=None, seed=0)
    angles = np.linspace(0, 1, 6)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    measures = measure_variety(pair, {"generated": vectors, "real": vectors}, BOOTSTRAP)
    assert [measure.key for measure in measures] == ["diversity_pixels", "diversity_style"]
    assert measures[1].values["ratio"].value == pytest.approx(1)


def test_a_correlation_over_writers_has_an_interval_and_needs_three_of_them():
    rng = np.random.default_rng(0)
    one = rng.normal(size=40)
    estimate = BOOTSTRAP.correlation("name", one, one + 0.5 * rng.normal(size=40))
    assert estimate.value == pytest.approx(np.corrcoef(one, one + 0)[0, 1], abs=0.25) and estimate.n == 40
    assert estimate.low < estimate.value < estimate.high <= 1
    assert BOOTSTRAP.correlation("name", one, -one).value == pytest.approx(-1)
    assert np.isnan(BOOTSTRAP.correlation("name", one, np.ones(40)).value)
    with pytest.raises(ValueError, match="needs three of them; here are 2"):
        BOOTSTRAP.correlation("name", one[:2], one[:2])


def test_a_quotient_of_ratios_has_an_interval_and_is_nothing_over_zero():
    rng = np.random.default_rng(0)
    estimate = BOOTSTRAP.quotient("name", (rng.random(200) + 1, None), (rng.random(200) + 2, None))
    assert (
        estimate.value == pytest.approx(1.5 / 2.5, abs=0.05) and estimate.low < estimate.value < estimate.high
    )
    assert np.isnan(BOOTSTRAP.quotient("name", (np.ones(3), None), (np.zeros(3), None)).value)
