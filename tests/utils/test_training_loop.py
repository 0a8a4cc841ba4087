"""The loop that all trainings share, with a trainer of one weight."""

import csv
import os
import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

from tests.helpers import ROOT
from utils.checkpoint import CONFIG_NAME, list_checkpoints
from utils.resume import STATE_NAME, TRAINING_STATE
from utils.training_loop import Column, Intervals, TrainingLog, claim_run, run_training, truncate_log

COLUMNS = (
    Column(name="step", spec="d"),
    Column(name="loss", spec=".2f", is_mean=True, is_shown=True),
    Column(name="rate", spec=".1f"),
    Column(name="val", spec=".1f"),
    Column(name="seconds", spec=".1f"),
)


class Counter:
    """A training whose loss is its step."""

    accelerator = None

    def __init__(self, last_step=6, step=0):
        self.step, self.last_step, self.batch_size = step, last_step, 2
        self.seconds, self.learning_rate, self.best = 0.0, 0.1, 0
        self.module = nn.Linear(1, 1)
        self.modules = (self.module,)
        self.after_step = lambda: None
        self.val = lambda: 1.0
        self.validated = []

    @property
    def is_finished(self):
        return self.step >= self.last_step

    def train_step(self):
        self.step += 1
        self.after_step()
        return {"loss": torch.tensor(float(self.step)), "rate": self.step}

    def validate(self):
        self.validated.append(self.step)
        return {"val": self.val()}

    def write_checkpoint(self, folder):
        (folder / CONFIG_NAME).write_text("{}")
        (folder / TRAINING_STATE).mkdir()
        (folder / TRAINING_STATE / STATE_NAME).write_text("{}")

    def write_preview(self, path):
        path.parent.mkdir(exist_ok=True)
        path.touch()


def train(trainer, run, **changes):
    run.mkdir(exist_ok=True)
    intervals = {"save_every": 3, "validate_every": 3, "log_every": 2, "keep_checkpoints": 9} | changes
    return run_training(trainer, run, COLUMNS, Intervals(**intervals))


def read_log(run):
    with (run / "log.csv").open() as file:
        return list(csv.DictReader(file))


def names(run):
    return [path.name for path in list_checkpoints(run)]


def test_rows_have_the_means_since_the_last_one(tmp_path):
    last = train(Counter(), tmp_path)
    rows = read_log(tmp_path)
    assert [(row["step"], row["loss"], row["rate"], row["val"]) for row in rows] == [
        ("2", "1.50", "2.0", ""),
        ("3", "3.00", "3.0", "1.0"),
        ("4", "4.00", "4.0", ""),
        ("6", "5.50", "6.0", "1.0"),
    ]
    assert last == rows[-1] and names(tmp_path) == ["step_00000003", "step_00000006"]


def test_previews_come_at_their_steps_and_at_the_end(tmp_path):
    train(Counter(last_step=5), tmp_path, preview_every=2)
    assert sorted(path.name for path in (tmp_path / "previews").iterdir()) == [
        "step_00000002.png",
        "step_00000004.png",
        "step_00000005.png",
    ]


@pytest.mark.parametrize(("validates", "validated"), [(True, [3, 4]), (False, [3])])
def test_a_signal_saves_and_stops(tmp_path, capsys, validates, validated):
    trainer = Counter()
    trainer.after_step = lambda: trainer.step == 4 and os.kill(os.getpid(), signal.SIGTERM)
    train(trainer, tmp_path, validates_at_stop=validates)
    assert names(tmp_path)[-1] == "step_00000004" and trainer.validated == validated
    assert "stopped     at step 4 of 6; --resume goes on" in capsys.readouterr().err


def test_a_finished_training_does_nothing(tmp_path):
    assert train(Counter(step=6), tmp_path) == {} and names(tmp_path) == []


def break_weight(trainer):
    with torch.no_grad():
        trainer.module.weight.fill_(torch.nan)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda trainer: setattr(trainer, "after_step", lambda: break_weight(trainer)), "a weight is not"),
        (lambda trainer: setattr(trainer, "val", lambda: float("nan")), "val is not"),
        (lambda trainer: setattr(trainer, "val", lambda: float("inf")), "val is not"),
    ],
)
def test_what_is_not_finite_is_never_saved(tmp_path, broken, message):
    trainer = Counter()
    broken(trainer)
    with pytest.raises(ValueError, match=rf"{message} finite at step 3\. .*--resume STEP"):
        train(trainer, tmp_path)
    assert names(tmp_path) == [] and [row["step"] for row in read_log(tmp_path)] == ["2"]


def test_going_on_from_an_older_step_sets_later_checkpoints_aside(tmp_path, capsys):
    train(Counter(), tmp_path)
    with claim_run(tmp_path, "3") as checkpoint:
        assert checkpoint.name == "step_00000003"
        train(Counter(last_step=4, step=3), tmp_path)
    assert names(tmp_path) == ["step_00000003", "step_00000004"]
    assert [path.name for path in (tmp_path / "superseded").iterdir()] == ["step_00000006"]
    assert [row["step"] for row in read_log(tmp_path)] == ["2", "3", "4"]
    assert "its later checkpoint is now" in capsys.readouterr().out


# Several processes


class Processes:
    """Stands in for an accelerator of two processes: the other one is at twice the loss."""

    num_processes, is_main_process, is_local_main_process = 2, True, True
    device = torch.device("cpu")

    def __init__(self):
        self.asked, self.logged = 0, []

    def reduce(self, tensor, reduction="sum"):
        self.asked += reduction == "sum"
        return tensor * 1.5 if reduction == "mean" else tensor

    def log(self, values, step):
        self.logged.append(step)


def test_the_logged_loss_is_the_mean_over_processes(tmp_path):
    trainer = Counter(last_step=4)
    trainer.accelerator = Processes()
    train(trainer, tmp_path, log_every=4)
    assert float(read_log(tmp_path)[0]["loss"]) == 3.0  # steps 1 to 3, mean 2; the other's 4
    assert trainer.accelerator.logged == [3, 4]


def test_processes_ask_each_other_every_few_steps_whether_to_stop(tmp_path):
    trainer = Counter(last_step=20)
    trainer.accelerator = Processes()
    trainer.after_step = lambda: trainer.step == 9 and os.kill(os.getpid(), signal.SIGTERM)
    train(trainer, tmp_path)
    assert trainer.accelerator.asked == 2 and names(tmp_path)[-1] == "step_00000016"


# The log


def test_a_logs_rows_after_the_resumed_step_are_dropped(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n1,0.5\n2,0.4\n3,0.3\n3,")
    truncate_log(path, 2, ("step", "loss"))
    assert path.read_text() == "step,loss\n1,0.5\n2,0.4\n"


def test_a_torn_row_is_dropped(tmp_path):
    (tmp_path / "log.csv").write_text("step,loss,seconds\n1,0.5,3\n2,0.")
    truncate_log(tmp_path / "log.csv", 2, ("step", "loss", "seconds"))
    assert (tmp_path / "log.csv").read_text() == "step,loss,seconds\n1,0.5,3\n"


@pytest.mark.parametrize("content", [None, b""])
def test_a_new_or_empty_log_gets_its_header(tmp_path, content):
    if content is not None:
        (tmp_path / "log.csv").write_bytes(content)
    truncate_log(tmp_path / "log.csv", 0, ("step", "loss"))
    assert (tmp_path / "log.csv").read_text() == "step,loss\n"


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"thesis,notes\n1,2\n"])
def test_a_file_that_is_no_log_is_named_and_stays(tmp_path, content):
    (tmp_path / "log.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"log\.csv: no log of a training.*Move it away"):
        truncate_log(tmp_path / "log.csv", 2, ("step", "loss"))
    assert (tmp_path / "log.csv").read_bytes() == content


def test_a_column_without_a_value_is_empty(tmp_path):
    log = TrainingLog(tmp_path / "log.csv", COLUMNS, 0)
    assert log.write({"step": 1, "loss": 0.5, "seconds": 1.0}) == {"loss": "0.50"}
    assert (tmp_path / "log.csv").read_text() == "1,0.50,,,1.0\n"


# One process at a time

HOLDER = (
    "import sys, time; from pathlib import Path; from utils.training_loop import claim_run\n"
    "with claim_run(Path(sys.argv[1]), False): print('locked', flush=True); time.sleep(60)"
)


def test_two_trainings_in_one_folder_are_refused_a_killed_one_is_not(tmp_path):
    (tmp_path / ".tmp-step_00000003-77").mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "locked\n"
        refusal = pytest.raises(ValueError, match=r"--save_path .*another process is writing there")
        with refusal, claim_run(tmp_path, False):
            pass
        with claim_run(tmp_path, False, is_main=False):  # another process of the same training
            pass
    finally:
        holder.kill()
        holder.wait()
    with claim_run(tmp_path, False) as checkpoint:
        assert checkpoint is None
    assert list(tmp_path.iterdir()) == []
