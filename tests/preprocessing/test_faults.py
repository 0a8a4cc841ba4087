"""What damaged files, kills and other processes may not do to preprocessing."""

import json
import os
import random
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from preprocessing.arguments import parse_args
from preprocessing.cleaning import FitSettings
from preprocessing.process_dataset import main
from preprocessing.raw_word import FileImage, RawWord, UnreadableImageError
from preprocessing.readers import gw, iam, imgur5k
from preprocessing.readers.search import walk
from preprocessing.readers.split_lists import read_split_lists
from preprocessing.selection import clean_text, filter_words
from preprocessing.writing import process_word
from scripts.fault_inputs import damage_bytes, make_bomb, strange_picture
from tests.helpers import ROOT, draw_word, make_gw, make_iam, make_imgur5k
from utils.errors import UserError
from utils.output import lock_folder
from utils.text_images import read_text_images


def call(*flags):
    main(parse_args([*map(str, flags), "--num_workers", "1"]))


def make_table(root, words=("one", "two", "three")):
    root.mkdir(parents=True)
    rows = ["file_name,text"]
    for number, word in enumerate(words):
        Image.fromarray(draw_word(word)).save(root / f"{number}.png")
        rows.append(f"{number}.png,{word}")
    (root / "words.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def word_of(path):
    image = FileImage(path=path, use_exif=True)
    return RawWord(image=image, text="word", writer="a", split=None, source_id="id", sources=(path,))


# --- pictures ---


@pytest.mark.parametrize("error", [TypeError, RuntimeError, NotImplementedError, MemoryError, KeyError])
def test_whatever_opening_a_picture_raises_is_an_unreadable_image(tmp_path, monkeypatch, error):
    source = make_table(tmp_path / "raw")
    opened = Image.open

    def fail(path, *rest):
        if Path(path).name == "1.png":
            raise error("deep inside a decoder")
        return opened(path, *rest)

    monkeypatch.setattr(Image, "open", fail)
    call("--dataset_path", source, "--save_dir", tmp_path / "out")
    assert [record.text for record in read_text_images(tmp_path / "out")] == ["one", "three"]
    report = json.loads((tmp_path / "out" / "preprocessing.json").read_text())
    assert report["dropped"] == {"unreadable_image": 1}


def test_damaged_pictures_and_bombs_give_an_image_or_a_reason(tmp_path):
    (tmp_path / "images").mkdir()
    path, rng = tmp_path / "x.png", random.Random(1)
    Image.fromarray(draw_word("word")).save(path)
    whole = path.read_bytes()
    seen = Counter()
    for number in range(100):
        content = strange_picture(whole, rng)
        path.write_bytes(damage_bytes(content, rng) if rng.random() < 0.6 else content)
        done = process_word(word_of(path), str(number), tmp_path, FitSettings(), False)
        seen[done if isinstance(done, str) else "written"] += 1
    assert set(seen) == {"written", "unreadable_image", "empty_image"}
    path.write_bytes(make_bomb(whole))
    with pytest.raises(UnreadableImageError, match="DecompressionBombError"):
        word_of(path).image.load()
    assert process_word(word_of(path), "bomb", tmp_path, FitSettings(), False) == "unreadable_image"


def test_a_pipe_among_the_images_is_not_waited_for(tmp_path):
    source = make_table(tmp_path / "raw")
    (source / "1.png").unlink()
    os.mkfifo(source / "1.png")
    assert all("1.png" not in files for _, _, files in walk(source))
    call("--dataset_path", source, "--save_dir", tmp_path / "out")
    assert len(read_text_images(tmp_path / "out")) == 2
    with pytest.raises(UnreadableImageError):
        FileImage(path=source / "1.png").load()
    (source / "words.csv").unlink()
    call("--dataset_path", source, "--save_dir", tmp_path / "bare")
    assert len(list((tmp_path / "bare" / "images").iterdir())) == 2


# --- interrupted runs ---


def unfinished(tmp_path):
    """A run that was stopped just before its end."""
    source, out = make_table(tmp_path / "raw"), tmp_path / "out"
    call("--dataset_path", source, "--save_dir", out)
    (out / "metadata.jsonl").unlink()
    return source, out


def test_an_empty_image_that_a_power_cut_left_is_made_again(tmp_path):
    source, out = unfinished(tmp_path)
    whole = (out / "images" / "1.png").read_bytes()
    for damage in (b"", whole[: len(whole) // 2]):
        (out / "images" / "1.png").write_bytes(damage)
        call("--dataset_path", source, "--save_dir", out)
        assert (out / "images" / "1.png").read_bytes() == whole
        (out / "metadata.jsonl").unlink()


def test_a_picture_or_table_corrected_before_a_restart_counts(tmp_path):
    source, out = unfinished(tmp_path)
    before = (out / "images" / "1.png").read_bytes()
    Image.fromarray(draw_word("new")).save(source / "1.png")
    os.utime(source / "1.png", (0, 0))  # as a copy that keeps its old time
    call("--dataset_path", source, "--save_dir", out)
    changed = (out / "images" / "1.png").read_bytes()
    assert changed != before
    (out / "metadata.jsonl").unlink()
    (source / "b").mkdir()
    (source / "0.png").rename(source / "b" / "1.png")
    (source / "words.csv").write_text("file_name,text\nb/1.png,one\n2.png,three\n")
    call("--dataset_path", source, "--save_dir", out)
    assert (out / "images" / "1.png").read_bytes() not in (before, changed)


def test_a_damaged_report_is_named(tmp_path):
    source, out = unfinished(tmp_path)
    for content in ("", "[]", '{"dataset":', "[" * 100_000):
        (out / "preprocessing.json").write_text(content)
        with pytest.raises(UserError, match=r"preprocessing\.json"):
            call("--dataset_path", source, "--save_dir", out)


def test_two_processes_do_not_write_to_one_folder(tmp_path):
    source, out = make_table(tmp_path / "raw"), tmp_path / "out"
    with lock_folder(out, "--save_dir"), pytest.raises(UserError, match="another process is writing"):
        call("--dataset_path", source, "--save_dir", out)
    call("--dataset_path", source, "--save_dir", out)
    assert sorted(path.name for path in out.iterdir()) == ["images", "metadata.jsonl", "preprocessing.json"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
@pytest.mark.parametrize("number", [9, 15])
def test_workers_end_with_their_parent_and_hold_its_output_no_longer(number):
    code = (
        "import time; from preprocessing.writing import bounded_map\n"
        "print('started', flush=True); list(bounded_map(time.sleep, iter([100] * 8), 2))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.readline() == "started\n"
    limit = time.monotonic() + 60
    while len(workers := children_of(process.pid)) < 2 and time.monotonic() < limit:
        time.sleep(0.1)
    assert len(workers) == 2
    time.sleep(0.5)  # they wait for work now
    process.send_signal(number)
    assert process.communicate(timeout=20)[0] == ""  # nobody holds the pipe any more


def children_of(parent):
    """The ids of a process's children."""
    children = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(status.read_text().rpartition(")")[2].split()[1]) == parent:
                children.append(int(status.parent.name))
        except OSError:  # it has ended
            continue
    return children


def test_a_worker_that_is_killed_is_an_error_with_a_way_out():
    code = (
        "import os; from preprocessing.writing import bounded_map\n"
        "try: list(bounded_map(lambda_kill, iter([9]), 2))\n"
        "except ValueError as error: print(error)"
    ).replace("lambda_kill", "os._exit")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--num_workers 2: a worker process was ended" in done.stdout


# --- texts ---


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("wo\u200brd\ufeff", "word"),
        ("\u202eabc\u202c", "abc"),
        ("a\x07b\x00", "ab"),
        ("two\twords\nhere", "two words here"),
        ("soft\u00adhyphen", "softhyphen"),
        ("a\u200db", "ab"),
        ("می\u200cخواهم", "می\u200cخواهم"),  # Persian: the sign keeps two letters apart
        ("क्\u200dष", "क्\u200dष"),
        ("e\u0301", "é"),
        ("\u200b", ""),
        ("a\ud800", None),
        ("a\ufffd", None),
    ],
)
def test_characters_that_leave_no_ink_are_no_letters(text, clean):
    assert clean_text(text) == clean


def test_a_text_or_writer_that_is_lost_is_a_bad_row():
    dropped = Counter()
    words = [word_of(Path("x")), *(word_of(Path("x")) for _ in range(3))]
    texts = [("fine", "a\u200b"), ("a\ud800", "a"), ("b", "\udc80"), ("\u200b", "a")]
    words = [
        RawWord(image=w.image, text=t, writer=by, split=None, source_id="i")
        for w, (t, by) in zip(words, texts, strict=True)
    ]
    kept = list(filter_words(iter(words), None, 1, None, dropped))
    assert [(word.text, word.writer) for word in kept] == [("fine", "a")]
    assert dropped == {"bad_row": 2, "empty_text": 1}


# --- flags that would change nothing ---


def test_flags_that_change_nothing_are_refused(tmp_path):
    source = make_table(tmp_path / "raw")
    with pytest.raises(UserError, match=r"--margin 6: changes nothing with --fit squeeze"):
        call("--dataset_path", source, "--dry_run", "--fit", "squeeze", "--margin", 6)
    call("--dataset_path", source, "--dry_run", "--preset", "wordstylist")
    (source / "train.csv").write_text((source / "words.csv").read_text())
    (source / "words.csv").unlink()
    with pytest.raises(UserError, match=r"--val_fraction.*names its own splits"):
        call("--dataset_path", source, "--dry_run", "--val_fraction", 0.3)
    (source / "train.csv").write_text("file_name,text,writer\n0.png,one,kim\n")
    with pytest.raises(UserError, match=r"--writer me2: every row of the table names its own writer"):
        call("--dataset_path", source, "--dry_run", "--writer", "me2")
    (source / "train.csv").unlink()
    with pytest.raises(UserError, match=r"--charset abc: is for images with texts"):
        call("--dataset_path", source, "--dry_run", "--charset", "abc")
    make_gw(tmp_path / "gw", sets=None)
    with pytest.raises(UserError, match=r"--fold cv2: .*changes nothing"):
        call("--dataset_path", tmp_path / "gw", "--dry_run", "--fold", "cv2")


@pytest.mark.parametrize("flags", [("--val_fraction", "nan"), ("--max_scale", "inf"), ("--min_length", "0")])
def test_numbers_that_are_none_are_refused(flags):
    with pytest.raises(SystemExit):
        parse_args(["--dataset_path", "x", "--dry_run", *flags])


# --- the readers' files ---


def test_split_lists_in_a_bad_zip_are_an_error(tmp_path):
    path = tmp_path / "lists.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train.txt", "a01-000u\n" * 100)
    whole = path.read_bytes()
    start = whole.index(b"train.txt") + 9
    path.write_bytes(whole[:start] + b"\xff" * 8 + whole[start + 8 :])
    with pytest.raises(UserError, match=r"--splits .*can't be read"):
        read_split_lists(path, iam._ANY_ID)
    encrypted = bytearray(whole)
    encrypted[6] |= 1
    encrypted[whole.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(encrypted))
    with pytest.raises(UserError, match=r"--splits .*can't be read .*(password|encrypted)"):
        read_split_lists(path, iam._ANY_ID)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train.txt", "a01-000u\n" * 4_000_000)
    with pytest.raises(UserError, match=r"train\.txt is larger than 16 MiB"):
        read_split_lists(path, iam._ANY_ID)


def test_an_iam_id_that_comes_twice_and_a_form_in_an_unknown_encoding(tmp_path):
    rows = ["a01-000u-00-00 ok 154 1 2 3 4 NN one", "a01-000u-00-00 ok 154 1 2 3 4 NN two"]
    words = list(iam.iter_words(make_iam(tmp_path / "twice", rows)))
    assert [getattr(word, "text", None) or word.reason for word in words] == ["one", "bad_row"]
    source = make_iam(tmp_path / "xml", rows[:1], writers="xml")
    form = source / "xml" / "a01-000u.xml"
    form.write_bytes(form.read_bytes().replace(b"ISO-8859-1", b"NO-SUCH-CODE"))
    assert [word.reason for word in iam.iter_words(source)] == ["unknown_writer"]


def test_an_outline_with_half_a_point_is_a_bad_box(tmp_path):
    source = tmp_path / "gw"
    source.mkdir()
    Image.fromarray(draw_word("x" * 20)).save(source / "270.png")
    (source / "transcription.txt").write_text("270-01-01 a-b\n270-01-02 c-d\n")
    paths = f'<path d="M 1 1 L 9" id="270-01-01"/><path d="M 1 1 L {"9" * 400} 1 L 5 5 Z" id="270-01-02"/>'
    (source / "270.svg").write_text(f"<svg>{paths}</svg>")
    words = list(gw.iter_words(source))
    assert [process_word(word, "x", tmp_path, FitSettings(), False) for word in words] == ["bad_box"] * 2


@pytest.mark.parametrize("content", [b"\xff\xfe{}", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b"{"])
def test_broken_imgur5k_json_is_named(tmp_path, content):
    source = make_imgur5k(tmp_path / "raw")
    (source / "dataset_info" / "imgur5k_annotations.json").write_bytes(content)
    with pytest.raises(UserError, match=r"imgur5k_annotations\.json: "):
        list(imgur5k.iter_words(source))


@pytest.mark.parametrize(
    "box", ["[" * 5000, f"[1, 1, 9{'0' * 400}, 4, 5]", "{}", "null", "[NaN, 1, 2, 3, 4]"]
)
def test_a_box_that_is_no_box(box):
    assert imgur5k.parse_box(box) is None
