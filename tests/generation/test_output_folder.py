"""Whose an output folder is, and one process at a time in it."""

import json
import multiprocessing
import os
import signal

import pytest

from generation.output_folder import (
    Part,
    check_apart,
    lock_part,
    prepare_output,
    remove_leftovers,
    remove_leftovers_of_parts,
)

FLAG = "--save_path"


def prepare(folder, settings, overwrite=False):
    prepare_output(folder, settings, overwrite, marker="inference.json", flag=FLAG)


def test_a_new_folder_holds_its_settings_first(tmp_path):
    prepare(tmp_path / "out", {"seed": 0, "interval": (0.1, 0.9)})
    prepare(tmp_path / "out", {"seed": 0, "interval": (0.1, 0.9)})
    assert json.loads((tmp_path / "out" / "inference.json").read_text()) == {
        "seed": 0,
        "interval": [0.1, 0.9],
    }
    with pytest.raises(ValueError, match="holds words of other settings"):
        prepare(tmp_path / "out", {"seed": 1})


def test_damaged_settings_are_named_with_the_way_out(tmp_path):
    (tmp_path / "inference.json").write_text("{")
    with pytest.raises(ValueError, match=r"inference.json: damaged.*--overwrite"):
        prepare(tmp_path, {})
    prepare(tmp_path, {}, overwrite=True)
    prepare(tmp_path, {})


def test_overwriting_removes_only_outputs(tmp_path):
    prepare(tmp_path, {})
    for name in (
        "metadata.jsonl",
        "readings-00000-of-00001.jsonl",
        "words-000000.tar",
        "sheet.png",
        "mine.txt",
    ):
        (tmp_path / name).touch()
    prepare(tmp_path, {"seed": 1}, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inference.json", "mine.txt"]


def test_a_folder_is_neither_its_source_nor_in_it_nor_around_it(tmp_path):
    for one, other in (("a", "a"), ("a/b", "a"), ("a", "a/b"), ("a/../a/b", "a")):
        with pytest.raises(ValueError, match="Name a"):
            check_apart(tmp_path / one, "--save_dir", tmp_path / other, "--dataset_path")
    check_apart(tmp_path / "ab", "--save_dir", tmp_path / "a", "--dataset_path")


def test_two_processes_never_write_one_part(tmp_path):
    part = Part(number=1, count=2)
    with lock_part(tmp_path, part, FLAG):
        with (
            pytest.raises(ValueError, match="another process is writing there"),
            lock_part(tmp_path, part, FLAG),
        ):
            pass
        with lock_part(tmp_path, Part(number=0, count=2), FLAG):
            pass
        with (
            pytest.raises(ValueError, match="another process"),
            lock_part(tmp_path, Part(), FLAG, overwrite=True),
        ):
            pass
    assert not list(tmp_path.iterdir())


def _hold(folder, ready):
    with lock_part(folder, Part(), FLAG):
        ready.set()
        signal.pause()


def test_a_killed_process_leaves_no_lock(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_hold, args=(tmp_path, ready))
    process.start()
    assert ready.wait(30)
    with pytest.raises(ValueError, match="another process"), lock_part(tmp_path, Part(), FLAG):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    assert (tmp_path / ".lock").exists()
    with lock_part(tmp_path, Part(), FLAG):
        pass


def test_half_written_files_are_removed_when_nobody_writes_any_more(tmp_path):
    names = ["images/.a.png-7.tmp", "img/x/.b.png-7.tmp", ".metadata.jsonl-7.tmp"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    part = Part(number=0, count=2)
    with lock_part(tmp_path, Part(number=1, count=2), FLAG):
        remove_leftovers_of_parts(tmp_path, part, FLAG)
        assert all((tmp_path / name).exists() for name in names)
    remove_leftovers_of_parts(tmp_path, part, FLAG)
    assert not any((tmp_path / name).exists() for name in names)
    (tmp_path / names[0]).touch()
    remove_leftovers(tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))
