"""Checkpoint folders: whole or not at all, pruned, resumed, readable."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.helpers import ROOT
from utils.checkpoint import (
    CONFIG_NAME,
    clean_state_dict,
    find_in_run,
    list_checkpoints,
    load_weights,
    read_shapes,
    remove_leftovers,
    save_checkpoint,
    save_weights,
    set_newer_aside,
)
from utils.resume import STATE_NAME, TRAINING_STATE


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


def test_a_path_means_itself_or_the_newest_checkpoint_that_has_the_file(tmp_path):
    assert find_in_run(tmp_path / "none", "w") is None
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, write_config)
    (tmp_path / "step_00000002" / "w").touch()
    (tmp_path / "step_00000001" / "w").touch()
    assert find_in_run(tmp_path, "w") == tmp_path / "step_00000002"
    assert find_in_run(tmp_path / "step_00000001", CONFIG_NAME, "w") == tmp_path / "step_00000001"
    (tmp_path / "w").touch()
    assert find_in_run(tmp_path, "w") == tmp_path


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    save_checkpoint(tmp_path, 1, write_config)
    (tmp_path / "previews").mkdir()
    (tmp_path / ".tmp-step_00000003-77").mkdir()
    (tmp_path / "previews" / ".step_00000003.png-77-ab.tmp").touch()
    (tmp_path / ".log.csv-77-ab.tmp").touch()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.rglob("*") if ".tmp" in path.name} == set()
    assert len(list_checkpoints(tmp_path)) == 1


def test_checkpoints_after_an_older_one_are_set_aside_not_lost(tmp_path):
    for _ in range(2):
        for step in (1, 2, 3):
            save_checkpoint(tmp_path, step, write_config)
        set_newer_aside(tmp_path, 1)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000001"]
    assert sorted(path.name for path in (tmp_path / "superseded").iterdir()) == [
        "step_00000002",
        "step_00000002-2",
        "step_00000003",
        "step_00000003-2",
    ]


FULL_DISK = """
import resource, sys
from pathlib import Path
from torch import nn
from utils.checkpoint import save_checkpoint, save_weights
from utils.cli import run
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
write = lambda folder: save_weights(nn.Linear(100, 100), folder / "w")
run(lambda run: save_checkpoint(run, 7, write), Path(sys.argv[1]))
"""


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    code = [sys.executable, "-c", FULL_DISK, str(tmp_path / "run")]
    done = subprocess.run(code, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "step_00000007: can't be written" in done.stderr and "go on with --resume" in done.stderr
    assert list((tmp_path / "run").iterdir()) == []


def test_checkpoints_survive_a_process_killed_while_saving(tmp_path):
    save_checkpoint(tmp_path, 1, write_config)
    child = os.fork()
    if child == 0:
        save_checkpoint(tmp_path, 2, lambda folder: (write_config(folder), os._exit(9)))
    os.waitpid(child, 0)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000001"]


# Weights


@pytest.fixture
def weights():
    generator = torch.Generator().manual_seed(0)
    return {
        "conv.weight": torch.randn(16, 8, 3, 3, generator=generator)
        * torch.logspace(-3, 3, 16)[:, None, None, None],
        "conv.bias": torch.randn(16, generator=generator),
        "small.weight": torch.randn(4, 4, generator=generator),
        "zeros": torch.zeros(32, 64),
        "count": torch.tensor(123_457),
    }


@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_weights_are_loaded_as_they_were_saved(weights, tmp_path, dtype):
    save_weights(weights, tmp_path / "w.safetensors", dtype=dtype)
    loaded = load_weights(tmp_path / "w.safetensors")
    assert set(loaded) == set(weights) and all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_weights_of_8_bits_are_off_by_half_a_step_of_their_row_at_most(weights, tmp_path):
    save_weights(weights, tmp_path / "w.safetensors", dtype=torch.int8)
    loaded, exact = load_weights(tmp_path / "w.safetensors")["conv.weight"], weights["conv.weight"]
    assert loaded.dtype == torch.float32
    steps = exact.flatten(1).abs().amax(dim=1) / 127
    assert ((loaded - exact).flatten(1).abs().amax(dim=1) <= 0.501 * steps).all()


def test_small_tensors_are_saved_in_16_bits_and_counts_exactly(weights, tmp_path):
    save_weights(weights, tmp_path / "w.safetensors", dtype=torch.int8)
    loaded = load_weights(tmp_path / "w.safetensors")
    for name in ("conv.bias", "small.weight"):
        assert torch.equal(loaded[name], weights[name].half().float())
    assert loaded["count"] == 123_457 and torch.equal(loaded["zeros"], weights["zeros"])


def test_weights_of_8_bits_take_a_quarter_and_tell_their_shapes(weights, tmp_path):
    large = {"weight": torch.randn(128, 512)}
    for name, dtype in (("whole", None), ("small", torch.int8)):
        save_weights(large, tmp_path / name, dtype=dtype)
    assert (tmp_path / "small").stat().st_size < 0.26 * (tmp_path / "whole").stat().st_size
    assert read_shapes(tmp_path / "whole") == read_shapes(tmp_path / "small") == {"weight": (128, 512)}


def test_weights_of_8_bits_without_scales_are_damaged(tmp_path):
    save_file({"weight": torch.ones(32, 32, dtype=torch.int8)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"weight has 8 bits and no weight\.scale"):
        load_weights(tmp_path / "w.safetensors")
