"""train_diffusion.py --distil_from, run for real: a few steps of a tiny student on 24 words."""

import json

import numpy as np
import pytest

from diffusion.pipeline import HandwritingPipeline
from tests.helpers import assert_equal_states, clone_checkpoint, run_script

COURSE = ("--batch_size", 4, "--save_every", 2, "--log_every", 1, "--keep_checkpoints", 5)


@pytest.fixture(scope="module")
def distil(words_folder, tiny_run, tmp_path_factory):
    """Distil in this process from the tiny run; returns the student's run."""

    def run(*argv, save_path=None):
        run = save_path or tmp_path_factory.mktemp("runs") / "student"
        given = ("--dataset_path", words_folder, "--save_path", run)
        run_script("train_diffusion", *given, "--distil_from", tiny_run, *COURSE, *argv)
        return run

    return run


@pytest.fixture(scope="module")
def student_run(distil):
    """Two steps of guided velocities, then two on the grid."""
    return distil("--max_train_steps", 4, "--guidance_steps", 2)


def read_config(checkpoint):
    return json.loads((checkpoint / "config.json").read_text())


def test_the_config_says_that_it_is_a_student(student_run, tiny_run):
    config, teacher = (read_config(run / "step_00000004") for run in (student_run, tiny_run))
    assert config["format_version"] == 2 and teacher["format_version"] == 1 and "student" not in teacher
    student = config["student"]
    assert len(student["grid"]) == 4 and student["guidance_scale"] == student["writer_guidance_scale"] == 3.0
    assert student["teacher"]["step"] == 4
    for name in ("charset", "writers", "width_model", "vae", "schedule", "unet"):
        assert config[name] == teacher[name]


def test_a_drawing_takes_as_many_passes_as_the_grid_has_levels(student_run):
    pipeline, rows = HandwritingPipeline.from_pretrained(student_run), []
    pipeline.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    assert np.ptp(pipeline(["bead", "cafe"], ["01", None])) > 0
    assert rows == [2, 2, 2, 2]


def test_a_resumed_distillation_goes_on_bit_for_bit(distil, student_run, tmp_path):
    run = clone_checkpoint(student_run / "step_00000002", tmp_path / "run")
    distil("--resume", save_path=run)
    assert_equal_states(run / "step_00000004", student_run / "step_00000004")
