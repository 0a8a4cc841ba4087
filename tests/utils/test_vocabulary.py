"""Out-of-vocabulary words: new, writable, with rare characters."""

import random
from collections import Counter
from itertools import islice

import pytest

from utils.vocabulary import choose_oov_words, dictionary_words, shuffled_forever

LOWER = "abcdefghijklmnopqrstuvwxyz"


def choose(texts, known=(), count=5, **options):
    return choose_oov_words(
        shuffled_forever(texts, 0), known, count, charset=LOWER, **{"max_length": 10, **options}
    )


def test_known_words_never_come():
    words = [a + b for a in LOWER for b in LOWER]
    assert not set(choose(words, known=words[:300], count=200)) & set(words[:300])


def test_no_word_comes_twice():
    chosen = choose([a + b for a in LOWER for b in LOWER], count=300)
    assert len(set(chosen)) == len(chosen) == 300


def test_words_that_cannot_be_written_are_passed_over():
    assert set(choose(["good", "Über", "toolongforthis", "fine", "x"])) == {"good", "fine"}


def test_a_list_that_is_used_up_gives_what_it_has():
    assert sorted(choose(["ab", "cd", "ef"], known=["cd"], count=10)) == ["ab", "ef"]
    assert choose(["ab"], known=["ab"]) == []


def test_rare_characters_get_their_share():
    words = (
        ["see"] + [a + b + c for a in "etan" for b in "etan" for c in "etan"] * 3 + ["quiz", "jinx", "vex"]
    )
    characters = Counter("".join(choose(words, count=12)))
    assert all(characters[c] for c in "qzjv")


def test_lengths_are_those_that_were_asked_for():
    draw = random.Random(0)
    words = ["".join(draw.choices(LOWER, k=draw.choice((2, 2, 2, 2, 2, 3, 4, 5, 6, 9)))) for _ in range(4000)]
    of_any, wanted = choose(words, count=200), choose(words, count=200, lengths=[4, 9, 9, 9])
    assert sum(map(len, of_any)) / 200 < 4
    assert abs(sum(map(len, wanted)) / 200 - 7.75) < 1.5 and max(map(len, wanted)) == 9


def test_rare_characters_get_their_share_at_each_length():
    words = [a + b + c for a in "etan" for b in "etan" for c in "etan"] * 3 + ["quiz", "jinx", "vext"] * 3
    characters = Counter("".join(choose(words, count=24, lengths=[3, 3, 3, 4])))
    assert all(characters[c] for c in "qzjv")


def test_counts_go_on_over_hands():
    counts = Counter()
    choose(["ab", "cd"], count=1, counts=counts)
    choose(["ab", "cd"], count=1, counts=counts)
    assert counts == Counter("abcd")


def test_the_same_seed_gives_the_same_words():
    one, other = (list(islice(dictionary_words(LOWER, 3), 20)) for _ in range(2))
    assert one == other and one != list(islice(dictionary_words(LOWER, 4), 20))


@pytest.mark.parametrize(("charset", "has_german"), [(LOWER, False), (LOWER + "äöüß", True)])
def test_german_comes_where_its_letters_are_known(charset, has_german):
    words = "".join(islice(dictionary_words(charset, 0), 500)).lower()
    assert ("ß" in words or "ü" in words) == has_german
