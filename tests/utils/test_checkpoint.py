"""Checkpoint folders: whole or not at all, pruned, resumed, readable."""

import os

import pytest
import torch
from torch import nn

from utils.checkpoint import (
    CONFIG_NAME,
    STATE_NAME,
    TRAINING_STATE,
    choose_resume,
    clean_state_dict,
    list_checkpoints,
    load_training_state,
    save_checkpoint,
    save_training_state,
    save_weights,
    truncate_csv,
)


def write_config(folder):
    (folder / CONFIG_NAME).write_text("{}")
    (folder / TRAINING_STATE).mkdir()
    (folder / TRAINING_STATE / STATE_NAME).write_text("{}")


def test_checkpoints_are_listed_oldest_first(tmp_path):
    for step in (100000000, 2, 10):
        save_checkpoint(tmp_path, step, write_config)
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "step_00000002",
        "step_00000010",
        "step_100000000",
    ]


def test_half_written_checkpoints_are_not_listed(tmp_path):
    (tmp_path / "step_00000003").mkdir()
    (tmp_path / ".tmp-step_00000004-77").mkdir()
    write_config(tmp_path / ".tmp-step_00000004-77")
    assert list_checkpoints(tmp_path) == []


def test_an_error_while_saving_leaves_nothing(tmp_path):
    def fail(folder):
        write_config(folder)
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        save_checkpoint(tmp_path, 1, fail)
    assert list(tmp_path.iterdir()) == []


def test_only_the_newest_are_kept(tmp_path):
    for step in range(1, 6):
        save_checkpoint(tmp_path, step, write_config, keep=2)
    assert [path.name for path in tmp_path.iterdir()] and [
        p.name[-1] for p in list_checkpoints(tmp_path)
    ] == ["4", "5"]


def test_the_same_step_can_be_saved_again(tmp_path):
    for text in ("old", "new"):
        save_checkpoint(tmp_path, 1, lambda folder, text=text: (folder / CONFIG_NAME).write_text(text))
    assert (tmp_path / "step_00000001" / CONFIG_NAME).read_text() == "new"


def test_saved_files_have_the_mode_of_other_new_files(tmp_path):
    (tmp_path / "plain").touch()
    folder = save_checkpoint(
        tmp_path, 1, lambda folder: (write_config(folder), save_weights(nn.Linear(1, 1), folder / "w"))
    )
    modes = {path.stat().st_mode for path in folder.rglob("*") if path.is_file()}
    assert modes == {(tmp_path / "plain").stat().st_mode}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrappers_prefixes_are_stripped(prefix):
    assert list(clean_state_dict({f"{prefix}conv.weight": torch.zeros(1)})) == ["conv.weight"]


def test_training_state_comes_back(tmp_path):
    torch.manual_seed(0)
    module = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    save_training_state(tmp_path, module, optimizer, {"step": 7}, {"ema.weight": torch.full((1,), 3.0)})
    other = nn.Linear(2, 2)
    restored = torch.optim.AdamW(other.parameters())
    assert load_training_state(tmp_path, other, restored) == (
        {"step": 7},
        {"ema.weight": torch.full((1,), 3.0)},
    )
    assert torch.equal(other.weight, module.weight)
    moments = zip(
        optimizer.state_dict()["state"].values(), restored.state_dict()["state"].values(), strict=True
    )
    assert all(torch.equal(one[key], two[key]) for one, two in moments for key in one)


def test_a_new_run_starts_in_an_absent_or_empty_folder(tmp_path):
    assert choose_resume(tmp_path, False) is None and choose_resume(tmp_path / "new", False) is None


def test_a_run_is_never_overwritten(tmp_path):
    save_checkpoint(tmp_path, 1, write_config)
    with pytest.raises(ValueError, match=r"a run is never overwritten\. Give --resume"):
        choose_resume(tmp_path, False)


def test_a_folder_without_checkpoints_is_not_offered_to_resume(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"never overwritten\. Give another folder"):
        choose_resume(tmp_path, False)


def test_a_run_that_ended_before_its_first_checkpoint_starts_anew(tmp_path):
    (tmp_path / "log.csv").touch()
    (tmp_path / "previews").mkdir()
    assert choose_resume(tmp_path, False) is None


def test_resume_takes_the_newest_and_removes_leftovers(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, write_config)
    (tmp_path / ".tmp-step_00000003-77").mkdir()
    assert choose_resume(tmp_path, True).name == "step_00000002"
    assert not (tmp_path / ".tmp-step_00000003-77").exists()


def test_resume_of_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="--resume: no whole checkpoint"):
        choose_resume(tmp_path, True)


def test_resume_of_an_export_is_an_error(tmp_path):
    save_checkpoint(tmp_path, 1, lambda folder: (folder / CONFIG_NAME).touch())
    with pytest.raises(FileNotFoundError, match=r"has no training_state.*--init_from"):
        choose_resume(tmp_path, True)


def test_a_logs_rows_after_the_resumed_step_are_dropped(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n1,0.5\n2,0.4\n3,0.3\n3,")
    truncate_csv(path, 2, ("step", "loss"))
    assert path.read_text() == "step,loss\n1,0.5\n2,0.4\n"


def test_a_new_log_gets_its_header(tmp_path):
    truncate_csv(tmp_path / "run" / "log.csv", 0, ("step", "loss"))
    assert (tmp_path / "run" / "log.csv").read_text() == "step,loss\n"


def test_checkpoints_survive_a_process_killed_while_saving(tmp_path):
    save_checkpoint(tmp_path, 1, write_config)
    child = os.fork()
    if child == 0:
        save_checkpoint(tmp_path, 2, lambda folder: (write_config(folder), os._exit(9)))
    os.waitpid(child, 0)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000001"]


def test_a_file_in_place_of_the_run_is_named_before_any_work(tmp_path):
    file = tmp_path / "run"
    file.write_bytes(b"x")
    for run in (file, file / "below"):
        with pytest.raises(ValueError, match=r"--save_path .*is a file\. Name a folder"):
            choose_resume(run, False)
