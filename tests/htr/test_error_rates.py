"""Error rates of readings."""

import pytest

from htr.error_rates import measure_errors


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
    assert rates.cer_interval is None and rates.describe() == "CER 33.3 %, WER 100.0 %, 1 words"
