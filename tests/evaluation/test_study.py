"""The study's numbers: fractions, intervals, tests, tables."""

import csv
from collections import Counter

import numpy as np
import pytest

from evaluation.fractions import choose_fraction, copy_images, hold_out_val
from evaluation.study import ARMS, RunErrors, correct_for_several, summarise
from evaluation.study_report import render_study, verdict, write_table
from tests.helpers import make_word_folder
from utils.text_images import TextImage, read_text_images

RECORDS = [
    TextImage(
        file_name=f"images/{i:03d}.png",
        text="word",
        writer=f"w{i % 3}",
        split=("train", "train", "train", "val", "test")[i % 5],
    )
    for i in range(150)
]
REAL, SYNTHETIC, MIXED, THEN, UPPER = ARMS


def make_runs(rates, *, words=200, fraction=10.0, seeds=3):
    """Runs whose recognisers misread each of five characters of a word with an arm's chance."""
    runs = []
    for arm, rate in rates.items():
        for seed in range(seeds):
            errors = np.random.default_rng([seed, ARMS.index(arm)]).binomial(5, rate, words)
            runs.append(make_run(arm, fraction, seed, errors, [5] * words))
    return runs


def make_run(arm, fraction, seed, errors, lengths):
    errors = np.asarray(errors)
    words = ((errors > 0).astype(int).tolist(), [1] * len(errors))
    return RunErrors(
        arm=arm,
        fraction=fraction,
        seed=seed,
        characters=(errors.tolist(), lengths),
        words=words,
        trained_on=30,
        seconds=60.0,
    )


def test_fractions_lie_in_each_other_and_take_of_each_writer_alike():
    tenth, half, whole = (choose_fraction(RECORDS, fraction) for fraction in (0.1, 0.5, 1.0))
    assert set(r.file_name for r in tenth) < set(r.file_name for r in half) < set(r.file_name for r in whole)
    assert Counter((r.split, r.writer) for r in half) == {("train", f"w{i}"): 15 for i in range(3)} | {
        ("val", f"w{i}"): 5 for i in range(3)
    }
    assert {r.split for r in whole} == {"train", "val"}  # the test words are nobody's
    assert len([r for r in choose_fraction(RECORDS, 0.001) if r.split == "train"]) == 1


def test_a_fraction_is_that_fraction_where_writers_have_few_words():
    records = [
        TextImage(file_name=f"images/{i:04d}.png", text="word", writer=f"page{i // 4}", split="train")
        for i in range(800)
    ]
    parts = [{r.file_name for r in choose_fraction(records, share)} for share in (0.05, 0.1, 0.25)]
    assert [len(part) for part in parts] == [40, 80, 200] and parts[0] < parts[1] < parts[2]
    most = Counter(r.writer for r in records if r.file_name in parts[2])
    assert max(most.values()) <= 2 and len(most) > 150


def test_without_a_val_split_a_tenth_of_train_becomes_it():
    records = [
        TextImage(
            file_name=r.file_name,
            text=r.text,
            writer=r.writer,
            split="test" if r.split == "test" else "train",
        )
        for r in RECORDS
    ]
    held_out = hold_out_val(records)
    assert Counter(r.split for r in held_out) == {"train": 108, "val": 12, "test": 30}
    assert hold_out_val(RECORDS) == RECORDS
    assert hold_out_val(records) == held_out


def test_a_part_is_a_word_folder_of_its_own(tmp_path):
    records = make_word_folder(tmp_path / "all", ("ab", "cd", "ef"))
    copy_images(tmp_path / "all", records[1:], tmp_path / "part")
    copy_images(tmp_path / "all", records[1:], tmp_path / "part")  # again, after a kill
    assert read_text_images(tmp_path / "part") == records[1:]
    assert (tmp_path / "part" / records[2].file_name).read_bytes() == (
        tmp_path / "all" / records[2].file_name
    ).read_bytes()


def test_rates_are_means_over_seeds_with_intervals():
    study = summarise(make_runs({REAL: 0.3, MIXED: 0.2}))
    real, mixed = study.rows
    assert (real.arm, mixed.arm, study.test_words, study.seeds) == (REAL, MIXED, 200, 3)
    assert real.cer.value == pytest.approx(np.mean(real.by_seed)) and real.cer.value == pytest.approx(
        0.3, abs=0.03
    )
    for rate in (real.cer, real.wer, mixed.cer):
        assert rate.low < rate.value < rate.high
    assert real.cer.high - real.cer.low < 0.08


def test_a_clear_difference_is_found_and_chance_is_not():
    (clear,) = summarise(make_runs({REAL: 0.3, MIXED: 0.2})).differences
    assert (
        clear.cer.high < 0 and clear.cer_p_value < 0.001 and clear.cer.value == pytest.approx(-0.1, abs=0.04)
    )
    p_values = []
    for number in range(40):
        rng = np.random.default_rng(number)
        runs = [
            make_run(arm, 10, seed, rng.binomial(5, 0.3, 100), [5] * 100)
            for arm in (REAL, MIXED)
            for seed in range(3)
        ]
        p_values.append(summarise(runs).differences[0].cer_p_value)
    assert 0 <= np.mean(np.array(p_values) < 0.05) <= 0.15 and 0.3 < np.mean(p_values) < 0.7


def test_seeds_that_differ_more_than_arms_prove_nothing():
    found = []
    for number in range(40):
        rng = np.random.default_rng(number)
        shifts = rng.choice([0, 1, 2], (2, 3))  # a recogniser's luck moves all of its words
        runs = [
            make_run(arm, 10, seed, rng.binomial(5, 0.2, 2000) + shifts[a, seed], [9] * 2000)
            for a, arm in enumerate((REAL, MIXED))
            for seed in range(3)
        ]
        found.append(summarise(runs).differences[0].cer_p_value < 0.05)
    assert (
        np.mean(found) < 0.35
    )  # three seeds tell little; words alone would call nearly all of these differences sure


def test_several_fractions_are_read_together():
    assert correct_for_several([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert correct_for_several([]) == [] and correct_for_several([0.9, 0.8]) == [1.0, 1.0]


def test_the_test_is_paired_by_word():
    hard = np.random.default_rng(0).integers(0, 5, 300)  # words differ far more than arms
    runs = [
        make_run(arm, 50, seed, hard + extra, [9] * 300)
        for arm, extra in ((REAL, 1), (MIXED, 0))
        for seed in range(3)
    ]
    (difference,) = summarise(runs).differences
    assert difference.cer_p_value < 0.001 and difference.cer.low == pytest.approx(difference.cer.high)


def test_table_and_page(tmp_path):
    rates = {REAL: 0.3, SYNTHETIC: 0.5, MIXED: 0.2, THEN: 0.15, UPPER: 0.1}
    runs = [run for fraction in (10.0, 100.0) for run in make_runs(rates, fraction=fraction)]
    study = summarise(runs)
    write_table(study, tmp_path / "study.csv")
    rows = list(csv.DictReader((tmp_path / "study.csv").open()))
    assert [row["trained_on"] for row in rows] == [arm.name for arm in ARMS] * 2
    assert [row["upper_bound"] for row in rows[:5]] == ["False"] * 4 + ["True"]
    assert float(rows[0]["cer_low"]) < float(rows[0]["cer"]) < float(rows[0]["cer_high"])
    assert "lowered the character error rate at 10 % (" in verdict(study) and "100 % (" in verdict(study)
    page = render_study(study, {"dataset_path": "<b>", "init_from": None})
    assert (
        page.count("<polyline") == 10
        and "&lt;b&gt;" in page
        and "upper bound" in page
        and "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    )
    assert "real+synthetic against real" in study.describe()


def test_the_verdict_does_not_hide_harm_or_chance():
    assert "raised the character error rate at 10 %" in verdict(summarise(make_runs({REAL: 0.2, MIXED: 0.3})))
    same = [make_run(arm, 10, seed, [1, 2] * 50, [5] * 100) for arm in (REAL, MIXED) for seed in range(2)]
    assert "no difference that this study can tell from chance at 10 %" in verdict(summarise(same))


def test_the_verdict_tells_words_beside_from_words_before():
    text = verdict(summarise(make_runs({REAL: 0.2, MIXED: 0.3, THEN: 0.1})))
    assert text.startswith("Generated images beside the real ones raised the character error rate at 10 %")
    assert "Generated images before the real ones lowered the character error rate at 10 %" in text
