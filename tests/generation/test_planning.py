"""What inference is asked to write: words where none are given, jobs without memory, new words."""

from dataclasses import replace

import pytest

from generation.jobs import MAX_JOBS, JobList, check_jobs, fingerprint, jobs_of_records, jobs_of_texts
from generation.planning import DEFAULT_WORDS, Request, default_texts, plan_jobs
from utils.charset import Charset
from utils.text_images import TextImage

GREEK = "αβγδεζηθικλμνξοπρσςτυφχψω"


@pytest.fixture
def config(pipeline):
    """The config of a checkpoint with another charset and sample texts."""

    def call(characters, sample_texts=()):
        return replace(
            pipeline.config, charset=Charset(characters=tuple(characters)), sample_texts=tuple(sample_texts)
        )

    return call


# Words where none are given


def test_texts_of_the_training_come_first(config):
    texts = ["λογος", "φως", "too long for it", "Ω"]
    assert default_texts(config(GREEK, texts), max_length=8) == ["λογος", "φως"]


def test_sixteen_of_the_training_texts_are_enough(config):
    assert len(default_texts(config("0123456789", map(str, range(64))), max_length=8)) == 16


def test_common_words_are_those_that_the_charset_can_spell(config):
    without_q = "abcdefghijklmnoprstuvwxyz"
    words = default_texts(config(without_q), max_length=8)
    assert words == [word for word in DEFAULT_WORDS if word != "quick"]
    assert default_texts(config(without_q), max_length=3) == [w for w in words if len(w) <= 3]


@pytest.mark.parametrize("characters", ["0123456789", GREEK, " x"])
def test_strings_are_made_where_no_common_word_can_be_spelled(config, characters):
    words = default_texts(config(characters), max_length=4)
    assert words and len(set(words)) == len(words) and max(map(len, words)) <= 4
    assert set("".join(words)) <= set(characters.strip())
    assert words == default_texts(config(characters), max_length=4)


# Jobs


def test_a_job_is_the_same_however_often_it_is_asked_for():
    jobs = jobs_of_texts(["one", "two"], None, ["a", "b", "c"], num_per_word=3, seed=5)
    assert len(jobs) == 6 and list(jobs) == [jobs[i] for i in range(6)] and jobs[-1] == jobs[5]
    assert list(jobs[1::2]) == [jobs[1], jobs[3], jobs[5]] and list(jobs.select([4, 0])) == [jobs[4], jobs[0]]


def test_texts_writers_and_images_of_a_word_are_numbered_in_this_order():
    jobs = jobs_of_texts(["one", "two"], ["a", {"a": 0.5, "b": 0.5}], ["a", "b"], num_per_word=2)
    found = [(job.index, job.record.text, job.record.writer) for job in jobs]
    assert found[:4] == [
        (0, "one", "a"),
        (1, "one", "a:0.50+b:0.50"),
        (2, "one", "a"),
        (3, "one", "a:0.50+b:0.50"),
    ]
    assert found[4][:2] == (4, "two") and len(found) == 8


def test_a_million_jobs_need_little_memory():
    import tracemalloc

    tracemalloc.start()
    jobs = jobs_of_texts([f"word{i}" for i in range(10)], ["a"], ["a"], num_per_word=100_000)
    part = jobs[1::2].select(range(0, 500_000, 2))
    assert part[-1].index == 999_997 and len(part) == 250_000
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_more_jobs_than_can_end_are_refused():
    with pytest.raises(
        ValueError, match=r"--num_per_word 1000000000: makes 2,000,000,000 images; one job holds"
    ):
        jobs_of_texts(["one", "two"], ["a"], ["a"], num_per_word=10**9)
    with pytest.raises(ValueError, match=f"at most {MAX_JOBS:,}"):
        jobs_of_records([TextImage(file_name="images/a.png", text="a", writer="w")], num_per_word=10**9)


@pytest.mark.parametrize("name", ["sheet.png", "sheet.jpg", "sheets/0000-word.png"])
def test_an_image_that_a_sheet_would_overwrite_is_named(name):
    with pytest.raises(ValueError, match="has the name of a sheet"):
        jobs_of_records([TextImage(file_name=name, text="a", writer="w")])


def test_jobs_of_other_texts_have_another_fingerprint():
    one, same, other = (jobs_of_texts([text], ["a"], ["a"]) for text in ("one", "one", "two"))
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)


def test_what_the_model_cannot_write_is_counted_and_the_rest_keeps_its_numbers(pipeline, capsys):
    jobs = jobs_of_texts(["cab", "café", "ace"], ["01"], pipeline.config.writers)
    kept = check_jobs(pipeline, jobs, True, "--words")
    assert [(job.index, job.record.text) for job in kept] == [(0, "cab"), (2, "ace")]
    assert "skipped     1 of 3 words" in capsys.readouterr().out
    assert check_jobs(pipeline, JobList.of(list(kept)), False, "--words")[1].record.text == "ace"


def test_messages_name_the_flags_that_were_given(tmp_path):
    assert (
        Request().flag == "the built-in words"
        and Request(words=["a"], mix=["b"]).flag == "--words with --mix"
    )
    assert Request(dataset_path=tmp_path, writer=["a"]).flag == f"--dataset_path {tmp_path} with --writer"


def test_without_words_a_request_is_for_what_the_model_can_spell(pipeline):
    assert {job.record.text for job in plan_jobs(Request(), pipeline)} == set(DEFAULT_WORDS)
