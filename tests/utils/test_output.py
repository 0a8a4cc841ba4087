"""Output folders: atomic files, who may write, one process at a time."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from tests.helpers import ROOT
from utils.output import (
    claim_folder,
    lock_folder,
    new_file_mode,
    remove_temporary_files,
    save_image,
    write_atomically,
)


def test_a_file_is_whole_and_nothing_else_is_left(tmp_path):
    write_atomically(tmp_path / "new" / "a.txt", "é")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]
    assert (tmp_path / "new" / "a.txt").read_bytes() == "é".encode()


def test_an_image_that_can_not_be_saved_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        save_image(np.zeros((2, 2, 7)), tmp_path / "a.png")
    (tmp_path / "b.png").mkdir()
    with pytest.raises(OSError):
        save_image(np.zeros((2, 2), np.uint8), tmp_path / "b.png")
    assert [path.name for path in tmp_path.iterdir()] == ["b.png"]


def test_files_have_the_mode_of_the_umask_which_is_never_touched(tmp_path, monkeypatch):
    old = os.umask(0o027)
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask was changed"))
    try:
        write_atomically(tmp_path / "a.txt", "x")
        assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640 == new_file_mode(tmp_path)
    finally:
        monkeypatch.undo()
        os.umask(old)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_threads_may_write_one_file_at_a_time(tmp_path):
    contents = [str(i) * 10_000 for i in range(8)]
    threads = [
        threading.Thread(target=write_atomically, args=(tmp_path / "a.txt", content)) for content in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a.txt").read_text() in contents and len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_left_is_removed(tmp_path):
    write_atomically(tmp_path / "a.txt", "x")
    (tmp_path / ".a.txt-77-abc.tmp").touch()
    remove_temporary_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


# Who may write


@pytest.mark.parametrize("name", [None, ".settings.json-1.tmp", ".tmp-step_00000002-77", ".lock", "log.csv"])
def test_a_folder_without_content_may_be_written_to(tmp_path, name):
    if name:
        (tmp_path / name).touch()
    assert claim_folder(tmp_path, "--save_dir", marker="settings.json", ignore=("log.csv",)) is None
    assert claim_folder(tmp_path / "new", "--save_dir") is None


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"--save_dir .*: not empty, and not made by this command\. Name"):
        claim_folder(tmp_path, "--save_dir", marker="settings.json")
    with pytest.raises(ValueError, match=r"--save_path .*: not empty\. Give --overwrite"):
        claim_folder(tmp_path, "--save_path", way_out="Give --overwrite.")


def test_a_folder_that_the_command_made_gives_its_settings(tmp_path):
    write_atomically(tmp_path / "settings.json", '{"seed": 3}')
    (tmp_path / "images").mkdir()
    assert claim_folder(tmp_path, "--save_dir", marker="settings.json") == {"seed": 3}


def test_damaged_settings_are_named(tmp_path):
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(ValueError, match=r"--save_dir: .*settings\.json: damaged, not JSON"):
        claim_folder(tmp_path, "--save_dir", marker="settings.json")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=r"is a file\. Name a folder"):
            claim_folder(folder, "--save_dir")


# One process at a time

HOLDER = (
    "import sys, time; from pathlib import Path; from utils.output import lock_folder\n"
    "with lock_folder(Path(sys.argv[1]), '--save_path'): print('locked', flush=True); time.sleep(60)"
)


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused(tmp_path, holder):
    refusal = pytest.raises(ValueError, match=r"--save_path .*another process is writing there")
    with refusal, lock_folder(tmp_path, "--save_path"):
        pass
    with lock_folder(tmp_path, "--save_path", name=".lock-1"):  # another part
        pass


def test_a_killed_process_leaves_no_lock_held(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert (tmp_path / ".lock").is_file()
    with lock_folder(tmp_path, "--save_path"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_ends_with_an_error_inside_it(tmp_path):
    with pytest.raises(KeyError), lock_folder(tmp_path / "run", "--save_path"):
        raise KeyError
    assert not (tmp_path / "run").exists()
    with lock_folder(tmp_path / "run", "--save_path"):
        assert (tmp_path / "run" / ".lock").is_file()
        (tmp_path / "run" / "log.csv").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["log.csv"]


def test_a_system_without_locks_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with lock_folder(tmp_path, "--save_path"):
        pass
    assert "this system can't lock folders; let one process at a time write" in capsys.readouterr().out
