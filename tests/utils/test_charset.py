"""Characters and their ids."""

import pytest

from utils.charset import Charset, normalise_text

CHARSET = Charset.from_texts(["zebra", "Äz"])


def test_pad_id_is_not_a_character():
    ids = {int(CHARSET.encode([c], 1)) for c in CHARSET.characters}
    assert CHARSET.pad_id == 0 and ids == set(range(1, CHARSET.vocabulary_size))


def test_the_last_letter_and_padding_differ():
    assert CHARSET.encode(["z"], 2).tolist() != CHARSET.encode([""], 2).tolist()


def test_texts_are_padded_at_the_right():
    assert CHARSET.encode(["ab", ""], 4).tolist() == [[1, 2, 0, 0], [0, 0, 0, 0]]


def test_characters_are_sorted_and_there_once():
    assert CHARSET.characters == tuple(sorted(set("zebraÄz")))


def test_a_letter_with_a_separate_mark_becomes_one_character():
    assert normalise_text("  cafe\u0301 \n noir ") == "caf\u00e9 noir"


def test_an_unknown_character_is_named_with_its_word_and_the_known_ones():
    with pytest.raises(
        ValueError, match=r"'é' \(in 'bré'\) is not in this checkpoint's charset \(6 characters: aberzÄ\)"
    ):
        CHARSET.encode(["zebra", "bré"], 8)


def test_a_text_that_is_too_long_is_named_with_the_limit():
    with pytest.raises(ValueError, match="'zebra' has 5 characters; this checkpoint writes at most 4"):
        CHARSET.encode(["zebra"], 4)


@pytest.mark.parametrize("characters", [("a", "a"), ("ab",), ("",)])
def test_a_charset_holds_single_characters_once(characters):
    with pytest.raises(ValueError, match="charset"):
        Charset(characters=characters)
