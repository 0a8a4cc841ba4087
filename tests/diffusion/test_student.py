"""A student: its steps are its own, and its checkpoint says so."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffusion.config import CheckpointConfig
from diffusion.guided_prediction import Guidance
from diffusion.pipeline import HandwritingPipeline
from diffusion.student import Student, read_student
from utils.errors import UserError

STUDENT = Student(
    grid=(1.0, 0.6, 0.3),
    guidance=Guidance(text=3.0, writer=2.0, interval=(0.25, 0.9)),
    teacher={"step": 7},
)


@pytest.fixture
def student(styled_pipeline):
    config = replace(styled_pipeline.config, student=STUDENT)
    return HandwritingPipeline(
        styled_pipeline.unet,
        styled_pipeline.vae,
        config,
        styled_pipeline.latent_recogniser,
        styled_pipeline.style_encoder,
    )


def test_a_drawing_is_eulers_walk_over_the_grid():
    asked = []

    def denoise(latents, timestep):
        asked.append(float(timestep))
        return torch.full_like(latents, float(timestep))

    drawn = STUDENT.walk(denoise, torch.zeros(1, 4, 2, 2), 1000)
    assert asked == pytest.approx([1000, 600, 300])
    assert drawn[0, 0, 0, 0] == pytest.approx(-(0.4 * 1000 + 0.3 * 600 + 0.3 * 300), rel=1e-5)


def test_a_student_asks_its_unet_once_a_step_without_guidance(student):
    rows = []
    hook = student.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    try:
        student(["cab", "bad"], ["01", None], redraws=0)
    finally:
        hook.remove()
    assert rows == [2, 2, 2]


def test_hands_mixes_variation_and_redraws_work_on_a_student(student):
    images = student(["cab", "bad"], ["01", {"01": 0.5, "02": 0.5}], redraws=1, variation=1.0, seed=3)
    assert images.shape == (2, *student.config.img_size) and np.ptp(images) > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_inference_steps": 12}, r"--num_steps 12: .* just 3 steps\. Leave --num_steps out"),
        ({"guidance_scale": 2.0}, r"--guidance_scale 2\.0: .*\(scale 3\).* Leave --guidance_scale out"),
        ({"writer_guidance_scale": 1.0}, r"--writer_guidance_scale 1\.0: "),
        ({"guidance_interval": (0.1, 0.5)}, r"--guidance_interval 0\.1 0\.5: "),
        ({"scheduler": "euler"}, r"--scheduler euler: .* or take its teacher"),
    ],
)
def test_what_training_has_fixed_is_refused(student, settings, message):
    with pytest.raises(UserError, match=message):
        student(["cab"], ["01"], **settings)


def test_a_students_own_number_of_steps_is_no_mistake(student):
    one, other = student(["cab"], ["01"]), student(["cab"], ["01"], num_inference_steps=3)
    assert np.array_equal(one, other)


def test_a_student_comes_back_from_its_config(student):
    values = student.config.to_dict(student.unet.config)
    assert values["format_version"] == 2  # programs that know no students must not draw it
    assert CheckpointConfig.from_dict(values)[0].student == STUDENT


def test_the_config_of_any_other_model_says_nothing_of_students(styled_pipeline):
    values = styled_pipeline.config.to_dict(styled_pipeline.unet.config)
    assert values["format_version"] == 1 and "student" not in values


@pytest.mark.parametrize("dtype", [torch.float16, torch.int8])
def test_a_small_copy_of_a_student_is_one_too(student, tmp_path, dtype):
    student.save_pretrained(tmp_path, dtype=dtype)
    copy = HandwritingPipeline.from_pretrained(tmp_path)
    assert copy.config.student == STUDENT and np.ptp(copy(["cab"], ["01"])) > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": []}, "grid"),
        ({"grid": [1.0, 1.0]}, "does not fall"),
        ({"grid": [1.2, 0.5]}, "does not fall"),
        ({"grid": [0.5, 0.0]}, "does not fall"),
        ({"grid": "four"}, "grid 'four'"),
        ({"guidance_scale": None}, "guidance"),
        ({"guidance_interval": [0.1]}, "guidance"),
        ({"teacher": 3}, "teacher 3"),
    ],
)
def test_a_damaged_entry_is_named(changes, message):
    with pytest.raises(UserError, match=f"config.json: student: .*{message}"):
        read_student({**STUDENT.to_dict(), **changes}, "config.json: student")
