"""Going on with a run: from which checkpoint, with which state; damaged ones are named."""

import json
import re
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from utils.checkpoint import CONFIG_NAME, save_checkpoint
from utils.resume import (
    STATE_NAME,
    TRAINING_STATE,
    check_finite,
    choose_resume,
    load_training_state,
    read_settings,
    read_state,
    save_training_state,
)
from utils.training import ExponentialMovingAverage


@dataclass(frozen=True, kw_only=True)
class Settings:
    steps: int
    rate: float = 0.5


def write_config(folder):
    (folder / CONFIG_NAME).write_text("{}")
    (folder / TRAINING_STATE).mkdir()
    (folder / TRAINING_STATE / STATE_NAME).write_text("{}")


def make_training(seed=0):
    torch.manual_seed(seed)
    module = nn.Linear(2, 2)
    return module, torch.optim.AdamW(module.parameters()), ExponentialMovingAverage(module, 0.9)


@pytest.fixture
def saved(tmp_path):
    """A module after a step, and its checkpoint."""
    module, optimizer, ema = make_training()
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    ema.update(module, 1)
    save_training_state(tmp_path / TRAINING_STATE, module, optimizer, ema, {"step": 7})
    return module, optimizer, ema, tmp_path


def test_training_state_comes_back(saved):
    module, optimizer, ema, checkpoint = saved
    other, restored, averages = make_training(seed=1)
    assert load_training_state(checkpoint, other, restored, averages) == {"step": 7}
    assert torch.equal(other.weight, module.weight)
    assert torch.equal(averages.module.weight, ema.module.weight)
    for one, two in zip(
        optimizer.state_dict()["state"].values(), restored.state_dict()["state"].values(), strict=True
    ):
        assert all(torch.equal(one[key], two[key]) for key in one)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-9])


def drop_averages(path):
    save_file({key: value for key, value in load_file(path).items() if not key.startswith("ema.")}, path)


def drop_a_moment(path):
    save_file({key: value for key, value in load_file(path).items() if key != "0.exp_avg"}, path)


def widen_moments(path):
    save_file(
        {key: torch.zeros(5) if "exp" in key else value for key, value in load_file(path).items()}, path
    )


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("raw_weights.safetensors", truncate),
        ("raw_weights.safetensors", lambda path: path.unlink()),
        ("raw_weights.safetensors", lambda path: save_file({"weight": torch.zeros(3, 3)}, path)),
        ("optimizer.safetensors", truncate),
        ("optimizer.safetensors", drop_averages),
        ("optimizer.safetensors", drop_a_moment),
        ("optimizer.safetensors", widen_moments),
        ("state.json", lambda path: path.write_text("{}")),
        ("state.json", lambda path: path.write_text("[1]")),
        ("state.json", lambda path: path.write_text('{"step": 7')),
        ("state.json", lambda path: path.write_text('{"step": "7"}')),
    ],
)
def test_a_damaged_state_is_named(saved, name, damage):
    checkpoint = saved[-1]
    damage(checkpoint / TRAINING_STATE / name)
    with pytest.raises(ValueError, match=rf"--resume: .*{re.escape(name)}"):
        load_training_state(checkpoint, *make_training())


def test_a_state_without_settings_is_named(saved):
    with pytest.raises(ValueError, match=r"state\.json is damaged: no entry settings"):
        read_state(saved[-1], "step", "settings")


def test_settings_of_other_versions_are_left_out_with_a_note(tmp_path, capsys):
    values = {"old_steps": 3, "gone": 1}
    settings = read_settings(Settings, values, tmp_path / STATE_NAME, {"old_steps": "steps"})
    assert settings == Settings(steps=3)
    assert "state.json has settings of another version, which count no more: gone" in capsys.readouterr().out


@pytest.mark.parametrize("values", [{}, {"steps": "3"}, {"steps": 3, "rate": None}, [], None])
def test_wrong_settings_are_named(tmp_path, values):
    with pytest.raises(ValueError, match=r"--resume: .*state\.json"):
        read_settings(Settings, json.loads(json.dumps(values)), tmp_path / STATE_NAME)


def test_weights_that_are_not_finite_are_refused():
    module = nn.BatchNorm1d(3)
    check_finite([module], "never")
    module.running_var[1] = torch.inf
    with pytest.raises(ValueError, match="not finite"):
        check_finite([nn.Linear(1, 1), module], "not finite")


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


def test_resume_takes_the_newest(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, write_config)
    assert choose_resume(tmp_path, True).name == "step_00000002"


def test_resume_may_name_an_older_step_or_its_folder(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, write_config)
    for name in ("2", "00000002", "step_00000002", str(tmp_path / "step_00000002")):
        assert choose_resume(tmp_path, name) == tmp_path / "step_00000002"
    with pytest.raises(FileNotFoundError, match=r"--resume 7: no checkpoint of .*the steps 1, 2, 3"):
        choose_resume(tmp_path, "7")


def test_resume_of_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="--resume: no whole checkpoint"):
        choose_resume(tmp_path, True)


def test_resume_of_an_export_is_an_error(tmp_path):
    save_checkpoint(tmp_path, 1, lambda folder: (folder / CONFIG_NAME).touch())
    with pytest.raises(FileNotFoundError, match=r"has no training_state.*--init_from"):
        choose_resume(tmp_path, True)


def test_a_file_in_place_of_the_run_is_named_before_any_work(tmp_path):
    file = tmp_path / "run"
    file.write_bytes(b"x")
    for run in (file, file / "below"):
        with pytest.raises(ValueError, match=r"--save_path .*is a file\. Name a folder"):
            choose_resume(run, False)
