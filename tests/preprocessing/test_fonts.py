import itertools
import pickle
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from preprocessing import process_dataset
from preprocessing.raw_word import DroppedWord
from preprocessing.readers.font_drawing import draw_plain, open_font
from preprocessing.readers.font_texts import TextSource, split_keys, split_of
from preprocessing.readers.fonts import FAMILIES, find_cuts, font_files, has_glyphs, iter_words, recognises
from utils.charset import read_texts
from utils.text_images import read_text_images
from utils.vocabulary import MAX_LENGTH

fontpkg = pytest.importorskip("fontpkg")
pytest.importorskip("spellchecker")


def change_font(source: Path, target: Path, change=lambda cmap: None, flavor: str | None = None) -> Path:
    """A copy of a font with another table of characters (code point -> glyph name)."""
    tt_lib = pytest.importorskip("fontTools.ttLib")
    font = tt_lib.TTFont(source)
    for table in font["cmap"].tables:
        change(table.cmap)
    font.flavor = flavor
    font.save(target)
    return target


@pytest.fixture(scope="module")
def delius() -> Path:
    return Path(fontpkg.path("delius"))


@pytest.fixture(scope="module")
def words() -> list:
    return list(iter_words(None, num_words=300, seed=1))


def test_the_same_seed_gives_the_same_words_and_pixels(words):
    again = list(iter_words(None, num_words=300, seed=1))
    assert again == words
    for first, second in zip(words[:20], again[:20], strict=True):
        assert np.array_equal(first.image.load(), pickle.loads(pickle.dumps(second.image)).load())


def test_fewer_words_are_the_beginning_of_more(words):
    assert list(iter_words(None, num_words=50, seed=1)) == words[:50]


def test_another_seed_gives_other_words(words):
    other = list(iter_words(None, num_words=300, seed=2))
    assert len({word.text for word in other} & {word.text for word in words}) < 60


def test_no_two_drawings_of_a_text_are_alike(words):
    drawing = words[0].image
    shapes = {replace(drawing, text="word", seed=(0, i)).load().tobytes() for i in range(10)}
    assert len(shapes) == 10


def test_ink_stays_clear_of_the_border(words):
    for word in words:
        picture = np.asarray(word.image.load()).astype(int)
        border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        assert picture.min() < 150 < border.min(), word.text


def test_every_cut_writes_as_many_words(words):
    counts = Counter(word.writer for word in words)
    assert max(counts.values()) - min(counts.values()) <= 2
    assert {name.split("-")[0] for name in counts} == {family.split("-")[0] for family in FAMILIES}


def test_variable_weights_and_light_and_bold_files_are_writers_of_their_own():
    cuts = {cut.name: cut for cut in find_cuts(font_files(None))}
    assert {"caveat-400", "caveat-700", "dancing-script-400", "dancing-script-700"} <= set(cuts)
    assert {"kalam", "kalam-light", "kalam-bold", "zeyada"} <= set(cuts)
    light, bold = (
        np.asarray(draw_plain(open_font(cuts[name].path, cuts[name].axes), "mmm", 9, 9)).mean()
        for name in ("caveat-400", "caveat-700")
    )
    assert bold > 1.2 * light


def test_source_ids_are_unique_and_begin_with_the_writer(words):
    assert len({word.source_id for word in words}) == len(words)
    assert all(word.source_id == f"{word.writer}-{index:06d}" for index, word in enumerate(words))


def test_what_is_drawn_is_the_label(words):
    assert all(word.image.text == word.text for word in words)


def test_every_glyph_is_there(words):
    cuts = {cut.name: cut for cut in find_cuts(font_files(None))}
    assert all(has_glyphs(cuts[word.writer], word.text) for word in words)


def test_a_missing_glyph_sends_the_text_to_another_cut(tmp_path, delius):
    change_font(delius, tmp_path / "poor.ttf", lambda cmap: cmap.pop(ord("ß"), None))
    (poor,) = find_cuts([tmp_path / "poor.ttf"])
    assert has_glyphs(poor, "Strasse") and not has_glyphs(poor, "Straße")
    shutil.copy(fontpkg.path("zeyada"), tmp_path / "rich.ttf")
    (tmp_path / "words.txt").write_text("Straße\n", encoding="utf-8")
    drawn = list(iter_words(tmp_path, num_words=4, words_file=tmp_path / "words.txt"))
    assert [word.writer for word in drawn] == ["zeyada"] * 4


def test_a_text_that_no_cut_can_draw_is_dropped(tmp_path):
    (tmp_path / "words.txt").write_text("Wort\n中文\n" + "x" * 101, encoding="utf-8")
    found = list(iter_words(None, num_words=3, words_file=tmp_path / "words.txt"))
    assert sorted(word.reason for word in found if isinstance(word, DroppedWord)) == ["charset", "length"]


def test_a_caps_only_font_gets_upper_case_labels(tmp_path, delius):
    def only_capitals(cmap):
        cmap |= {code + 32: cmap[code] for code in range(ord("A"), ord("Z") + 1) if code in cmap}

    change_font(delius, tmp_path / "capitals.ttf", only_capitals)
    assert [cut.is_caps_only for cut in find_cuts([tmp_path / "capitals.ttf"])] == [True]
    (tmp_path / "words.txt").write_text("Straße\n", encoding="utf-8")
    (word,) = iter_words(tmp_path, num_words=1, words_file=tmp_path / "words.txt")
    assert word.text == word.image.text == "STRASSE"


def test_no_installed_font_is_taken_for_caps_only():
    assert not [cut.name for cut in find_cuts(font_files(None)) if cut.is_caps_only]


def test_swash_capitals_never_stand_in_a_row():
    found = [
        word
        for word in iter_words(None, num_words=200, fonts=["great-vibes"])
        if not isinstance(word, DroppedWord)
    ]
    assert found and not any(
        a.isupper() and b.isupper() for word in found for a, b in itertools.pairwise(word.text)
    )


def test_woff2_is_read_and_the_same_cut_counts_once(tmp_path, delius):
    pytest.importorskip("brotli")
    change_font(delius, tmp_path / "delius.woff2", flavor="woff2")
    shutil.copy(delius, tmp_path / "delius.ttf")
    assert len(find_cuts([tmp_path / "delius.woff2"])) == 1
    assert [cut.path.suffix for cut in find_cuts(font_files(tmp_path))] == [".ttf"]


def test_a_broken_font_file_is_named_and_left_out(tmp_path, delius, capsys):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    shutil.copy(delius, tmp_path / "delius.ttf")
    assert [cut.name for cut in find_cuts(font_files(tmp_path))] == ["delius"]
    assert "broken.ttf" in capsys.readouterr().err


def test_a_folder_of_fonts_is_recognised(tmp_path, delius):
    assert not recognises(tmp_path)
    shutil.copy(delius, tmp_path / "Hand.TTF")
    assert recognises(tmp_path) and process_dataset.recognise(tmp_path) == "fonts"


def test_fonts_are_chosen_by_cut_or_family():
    def writers(*names):
        return {word.writer for word in iter_words(None, num_words=12, fonts=names)}

    assert writers("kalam-light") == {"kalam-light"}
    assert writers("Kalam", "zeyada") == {"kalam", "kalam-light", "kalam-bold", "zeyada"}
    with pytest.raises(ValueError, match=r"--fonts kalam-thin.*kalam-bold, kalam-light"):
        writers("kalam-thin")
    with pytest.raises(FileNotFoundError, match="pip install fontpkg-no-such-hand"):
        writers("no-such-hand")


def test_missing_packages_are_named_with_their_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "spellchecker", None)
    with pytest.raises(FileNotFoundError, match="pip install pyspellchecker"):
        next(iter_words(None, num_words=1))
    monkeypatch.setitem(sys.modules, "fontpkg", None)
    with pytest.raises(FileNotFoundError, match="pip install fontpkg-caveat fontpkg-dancing-script"):
        next(iter_words(None, num_words=1))


@pytest.mark.parametrize("wrong", [{"num_words": 0}, {"seed": -1}])
def test_numbers_that_are_too_small_are_refused(wrong):
    with pytest.raises(ValueError, match="at least"):
        next(iter_words(None, **wrong))


def test_texts_cover_the_alphabet_and_vary_in_length():
    texts = list(itertools.islice(TextSource(0), 10_000))
    counts = Counter(character for text in texts for character in text)
    wanted = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789ÄÖÜäöüß.,;:!?'\"-()&+%/=#* "
    assert set(counts) == set(wanted)
    assert min(counts.values()) >= 10
    assert len(set(texts)) > 9000
    assert {len(text) for text in texts} == set(range(1, MAX_LENGTH + 1))


def test_no_word_of_a_training_text_is_in_a_held_out_text():
    words_by_split = {"train": set(), "val": set(), "test": set()}
    splits = Counter()
    for text in itertools.islice(TextSource(3), 10_000):
        splits[split_of(text)] += 1
        words_by_split[split_of(text)] |= split_keys(text)
    assert not words_by_split["train"] & words_by_split["test"]
    assert not words_by_split["train"] & words_by_split["val"]
    assert not words_by_split["val"] & words_by_split["test"]
    assert 300 < splits["val"] < 800 and 300 < splits["test"] < 800


def test_the_split_is_the_same_on_every_machine():
    assert [split_of(text) for text in ("birth", "tenuto", "dove", "Got", "1888")] == [
        "train",
        "test",
        "val",
        "test",
        "train",
    ]


def test_case_and_punctuation_do_not_change_the_split():
    assert split_keys("(Don't)") == split_keys("DONT,") == {"dont"}
    assert split_keys("STRASSE 12,5") == split_keys("Straße 125") == {"strasse", "125"}
    assert split_keys("Re-do/12") == {"re", "do"}
    assert split_of("birth tenuto") == split_of("birth-tenuto") == "test"


def test_a_words_file_is_drawn_evenly(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("\ufeffApfel\n\n  Birne \nzwei  Wörter\nApfel\n", encoding="utf-8")
    assert read_texts(path) == ["Apfel", "Birne", "zwei Wörter", "Apfel"]
    counts = Counter(word.text for word in iter_words(None, num_words=9, words_file=path))
    assert counts == {"Apfel": 3, "Birne": 3, "zwei Wörter": 3}


def test_an_empty_words_file_is_refused(tmp_path):
    (tmp_path / "words.txt").write_text("\n \n")
    with pytest.raises(ValueError, match="no words in it"):
        read_texts(tmp_path / "words.txt")


def test_process_dataset_writes_a_word_folder(tmp_path):
    arguments = [
        "--dataset",
        "fonts",
        "--num_words",
        "30",
        "--num_workers",
        "1",
        "--save_dir",
        str(tmp_path / "words"),
    ]
    process_dataset.main(process_dataset.parse_args(arguments))
    records = read_text_images(tmp_path / "words")
    assert [(r.text, r.writer, r.split) for r in records] == [
        (word.text, word.writer, word.split) for word in iter_words(None, num_words=30)
    ]
    assert all((tmp_path / "words" / record.file_name).is_file() for record in records)
