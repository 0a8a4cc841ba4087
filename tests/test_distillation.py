"""train_diffusion.py --distil_from, run for real: a few steps of a tiny student on 24 words."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diffusion.guided_prediction import GuidedPrediction
from diffusion.loading import find_teacher
from diffusion.pipeline import HandwritingPipeline
from diffusion.trainer import DiffusionTrainer
from scripts import export_checkpoint
from tests.helpers import (
    IMG_SIZE,
    WORDS,
    WRITERS,
    assert_equal_states,
    clone_checkpoint,
    forget_accelerator,
    make_word_folder,
    run_script,
)
from train_diffusion import make_accelerator, make_distillation, parse_args
from utils.errors import UserError

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


def test_hands_stay_what_they_are_for_the_teacher(student_run, tiny_run):
    student, teacher = (load_file(run / "step_00000004/unet.safetensors") for run in (student_run, tiny_run))
    assert torch.equal(student["writer_embedding.weight"], teacher["writer_embedding.weight"])
    assert not torch.equal(student["conv_in.weight"], teacher["conv_in.weight"])


def test_a_resume_finds_the_teacher_in_the_run(distil, student_run, tmp_path, words_folder):
    run = clone_checkpoint(student_run / "step_00000002", tmp_path / "run")
    run_script("train_diffusion", "--dataset_path", words_folder, "--save_path", run, *COURSE, "--resume")
    assert_equal_states(run / "step_00000004", student_run / "step_00000004")


def make_trainer(words_folder, teacher, save_path, *argv):
    given = ("--dataset_path", words_folder, "--save_path", save_path, "--distil_from", teacher)
    args = parse_args([str(value) for value in (*given, *COURSE, "--max_train_steps", 4, *argv)])
    forget_accelerator()
    return make_distillation(args, make_accelerator("no", None, save_path), None)


@pytest.fixture(scope="module")
def trainer(words_folder, tiny_run, tmp_path_factory):
    return make_trainer(words_folder, tiny_run, tmp_path_factory.mktemp("run"), "--guidance_steps", 0)


def test_a_step_is_the_mean_velocity_of_the_teachers_guided_steps(trainer, tiny_run):
    teacher = HandwritingPipeline.from_pretrained(tiny_run)
    conditions = trainer.draw_conditions(torch.tensor([0, 1]), 8, None, None)
    guided = GuidedPrediction(
        trainer._ask_teacher, conditions, trainer.student.guidance, trainer.teacher.config, 1000
    )
    levels, generator = trainer.levels, torch.Generator().manual_seed(1)
    start, velocity = trainer._take_steps(guided, 1000 * levels[[0, 1]], 8, generator)
    texts, writers = (
        [getattr(trainer.samples.records[i], name) for i in (0, 1)] for name in ("text", "writer")
    )
    edges = [row[row.isfinite()].numpy() for row in trainer.conditions._edges[:2]]
    edges = [row[: len(text) + 1] for row, text in zip(edges, texts, strict=True)]
    denoise = teacher.make_denoiser(texts, writers, 3.0, 3.0, 64, (0.25, 0.9), edges=edges)
    for row, number in enumerate((0, 1)):
        first, length = float(levels[number]), float(levels[number] - levels[number + 1])
        latents, last = start, None
        for part in range(3):
            found = denoise(latents, torch.tensor(1000 * (first - part * length / 3)))
            latents = latents - length / 3 * (found if last is None else 1.5 * found - 0.5 * last)
            last = found
        expected = (start - latents)[row] / length
        assert torch.allclose(velocity[row], expected, atol=1e-3 * float(expected.abs().max()))


def test_a_step_begins_where_the_student_comes_to_by_itself(trainer):
    conditions = trainer.draw_conditions(torch.tensor([0, 1]), 8, None, None)
    noise = torch.randn(2, 4, 4, 8, generator=torch.Generator().manual_seed(2))
    found = trainer._come_to(torch.tensor([0, 2]), noise, conditions)
    assert torch.equal(found[0], noise[0])
    latents = noise
    for number in range(2):
        length = trainer.levels[number + 1] - trainer.levels[number]
        latents = latents + length * trainer.ema.module(
            latents, 1000 * trainer.levels[number].expand(2), *conditions
        )
    assert torch.allclose(found[1], latents[1], atol=1e-3 * float(latents.abs().max()))


def test_padding_that_no_text_of_a_batch_needs_is_left_out_and_changes_nothing(trainer):
    indices = torch.tensor([0, 1])
    short = trainer.draw_conditions(indices, 8, None, None)
    whole = DiffusionTrainer.draw_conditions(trainer, indices, 8, None, None)
    longest = max(len(trainer.samples.records[i].text) for i in (0, 1))
    assert short[0].shape == (2, longest) and short[2].shape == (2, 2, longest, 8)
    noise, levels = torch.randn(2, 4, 4, 8), torch.tensor([900.0, 300.0])
    one, other = (trainer.teacher(noise, levels, *conditions) for conditions in (short, whole))
    assert torch.allclose(one, other, rtol=1e-4, atol=1e-4 * float(one.abs().max()))


def test_each_level_of_the_grid_is_learnt_as_often(trainer):
    drawn = trainer.draw_timesteps(8, torch.Generator().manual_seed(0))
    assert sorted(drawn.tolist()) == pytest.approx(sorted((1000 * trainer.levels[:4].repeat(2)).tolist()))


def test_images_of_writers_that_the_teacher_does_not_know_are_left_out(tiny_run, tmp_path, capsys):
    make_word_folder(tmp_path / "words", WORDS, (*WRITERS, "99"), img_size=IMG_SIZE)
    trainer = make_trainer(tmp_path / "words", tiny_run, tmp_path / "run")
    assert "left out: 6 images" in capsys.readouterr().out
    assert "99" not in {trainer.samples.records[i].writer for i in trainer.train_indices}


# What is refused


def test_a_student_has_no_students(distil, student_run, words_folder, tmp_path):
    for flag, way_out in (
        ("--distil_from", "Take the model that it was distilled from"),
        ("--init_from", "distil that again with --distil_from"),
    ):
        with pytest.raises(UserError, match=f"{flag} .*: a student of 4 steps.*{way_out}"):
            run_script(
                "train_diffusion", "--dataset_path", words_folder, "--save_path", tmp_path, flag, student_run
            )


def test_no_hand_is_fitted_to_a_student(student_run, words_folder, tmp_path):
    with pytest.raises(UserError, match=r"--init_from .*: a student of 4 steps.*Fit the hand to the model"):
        run_script(
            "train_diffusion",
            "--dataset_path",
            words_folder,
            "--init_from",
            student_run,
            "--fit_hand",
            tmp_path / "me.safetensors",
        )


@pytest.mark.parametrize(
    "argv",
    [
        ("--distil_from", "x", "--preset", "tiny"),
        ("--distil_from", "x", "--init_from", "y"),
        ("--distil_from", "x", "--recogniser_steps", "3"),
        ("--student_steps", "2"),
        ("--distil_from", "x", "--guidance_steps", "-1"),
        ("--distil_from", "x", "--guidance_scale", "-1.0"),
        ("--writer_guidance_scale", "2.0"),
    ],
)
def test_flags_that_do_not_go_together_are_named(argv, capsys):
    with pytest.raises(SystemExit):
        parse_args(["--dataset_path", "data", *argv])
    assert f"{argv[-2]} {argv[-1]}: " in capsys.readouterr().err


def test_a_run_keeps_its_number_of_steps(distil, student_run, tmp_path):
    run = clone_checkpoint(student_run / "step_00000002", tmp_path / "run")
    with pytest.raises(UserError, match="--student_steps 2: the run to --resume has 4"):
        distil("--resume", "--student_steps", 2, save_path=run)


def test_a_student_learns_the_guidance_that_is_asked_for(distil, tmp_path):
    run = distil("--max_train_steps", 2, "--guidance_scale", 1.5, "--writer_guidance_scale", 2)
    student = read_config(run / "step_00000002")["student"]
    assert (student["guidance_scale"], student["writer_guidance_scale"]) == (1.5, 2.0)
    with pytest.raises(UserError, match=r"--guidance_scale 3: the run to --resume has 1\.5"):
        distil("--resume", "--guidance_scale", 3, save_path=run)


def test_an_ordinary_run_does_not_go_on_as_a_distillation(distil, tiny_run, tmp_path):
    run = clone_checkpoint(tiny_run / "step_00000002", tmp_path / "run")
    with pytest.raises(UserError, match="is no distillation's"):
        distil("--resume", save_path=run)


def test_inference_names_the_flag_that_a_student_does_not_take(student_run, tmp_path):
    write = ("--models_path", student_run, "--words", "bead", "--save_path", tmp_path / "out")
    with pytest.raises(UserError, match="--scheduler euler: this model is a student"):
        run_script("inference", *write, "--scheduler", "euler")
    run_script("inference", *write)
    assert len(list((tmp_path / "out/images").glob("*.png"))) == 1


def test_a_student_that_has_its_teacher_with_it_is_trained_through_it(
    student_run, tiny_run, words_folder, tmp_path
):
    both = tmp_path / "both"
    paths = ["--models_path", str(student_run), "--save_path", str(both), "--teacher", str(tiny_run)]
    export_checkpoint.main(export_checkpoint.parse_args([*paths, "--dtype", "fp32"]))
    teacher = HandwritingPipeline.from_pretrained(both / "teacher")
    before = HandwritingPipeline.from_pretrained(tiny_run)
    assert HandwritingPipeline.from_pretrained(both).config.student and teacher.config.student is None
    drawn = [p(["abc"], [WRITERS[0]], num_inference_steps=2) for p in (teacher, before)]
    assert np.array_equal(*drawn)
    assert find_teacher(both, flag="--init_from") == both / "teacher"
    assert find_teacher(tiny_run, flag="--init_from") == tiny_run
    for number, flag in enumerate(("--init_from", "--distil_from")):
        given = ("--dataset_path", words_folder, "--save_path", tmp_path / f"run{number}", flag, both)
        run_script("train_diffusion", *given, *COURSE[:2], "--max_train_steps", 1)
        config = read_config(tmp_path / f"run{number}" / "step_00000001")
        assert ("student" in config) == (flag == "--distil_from")


def test_a_teacher_goes_with_a_student_alone(tiny_run, tmp_path):
    paths = ["--models_path", str(tiny_run), "--save_path", str(tmp_path / "x"), "--teacher", str(tiny_run)]
    with pytest.raises(UserError, match=r"--teacher .*is no student"):
        export_checkpoint.main(export_checkpoint.parse_args(paths))
