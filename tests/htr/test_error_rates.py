"""Error rates of readings."""

import random

import pytest

from htr.error_rates import count_errors, fold_letters, measure_errors


def test_rates_are_edits_over_all_characters_and_over_all_words_between_spaces():
    rates = measure_errors(["abcd", "ab", "New York"], ["abcx", "ab", "New"])
    assert rates.cer == pytest.approx(6 / 14) and rates.wer == pytest.approx(2 / 4) and rates.words == 3


def test_case_counts():
    assert measure_errors(["Ab", "cd"], ["ab", "cd"]).wer == 0.5


def test_nothing_read_is_all_wrong():
    rates = measure_errors(["ab", "cd"], ["", ""])
    assert (rates.cer, rates.wer) == (1, 1)


def test_the_interval_holds_the_rate():
    rates = measure_errors(["abc"] * 50, ["abc"] * 40 + ["abd"] * 10)
    assert rates.cer_interval[0] < rates.cer < rates.cer_interval[1]
    assert rates.wer_interval[0] < 0.2 < rates.wer_interval[1]


def test_a_single_word_has_no_interval():
    rates = measure_errors(["abc"], ["abd"])
    assert rates.cer_interval is None and rates.describe() == "CER 33.3 %, WER 100.0 %, 1 images"


def edit_distance(one, other):
    """Levenshtein's distance by the textbook's table."""
    row = list(range(len(other) + 1))
    for i, mine in enumerate(one, start=1):
        previous, row = row, [i]
        for j, theirs in enumerate(other, start=1):
            row.append(min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (mine != theirs)))
    return row[-1]


def test_errors_are_edit_distances_over_characters_and_over_words():
    rng = random.Random(0)
    texts, readings = (["".join(rng.choices("ab ", k=rng.randint(1, 12))) for _ in range(300)] for _ in "ab")
    texts, readings = ([" ".join(text.split()) for text in side] for side in (texts, readings))
    for unit, split in (("characters", list), ("words", str.split)):
        errors, lengths = count_errors(texts, readings, unit=unit)
        expected = [
            edit_distance(split(text), split(reading)) if text else 0
            for text, reading in zip(texts, readings, strict=True)
        ]
        assert errors.tolist() == expected
        assert lengths.tolist() == [len(split(text)) for text in texts]


def test_words_stand_between_spaces_whatever_the_normalisation():
    errors, lengths = count_errors(["The old-man — sat."], ["the oldman sot"], "letters", unit="words")
    assert (errors.tolist(), lengths.tolist()) == ([1], [3])
    errors, lengths = count_errors(["The old-man — sat."], ["the oldman sot"], "letters", unit="characters")
    assert (errors.tolist(), lengths.tolist()) == ([1], [12])


@pytest.mark.parametrize(
    ("text", "folded"), [("L’Été, cœur-là!", "letecoeurla"), ("Straße ÄÖ", "strasseao"), ("ﬁn №5", "finno5")]
)
def test_accents_are_folded_and_ligatures_spelt_out(text, folded):
    assert fold_letters(text) == folded
