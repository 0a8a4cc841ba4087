"""The training of the generator, run for real: a few steps of a tiny model on 24 words."""

import csv
import json
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file

import diffusion.trainer
import train_diffusion
from diffusion.autoencoder import CompactAutoencoder
from diffusion.pipeline import HandwritingPipeline
from diffusion.training_settings import NEW_WRITERS_FACTOR, make_settings
from tests.helpers import (
    IMG_SIZE,
    PUBLISHED,
    TINY_TRAINING,
    WORDS,
    WRITERS,
    assert_equal_files,
    assert_equal_states,
    clone_checkpoint,
    make_word_folder,
    run_script,
    start_script,
)
from train_diffusion import choose_vae, make_accelerator, parse_args
from utils.checkpoint import list_checkpoints
from utils.training import learning_rate_factor


@pytest.fixture
def train(words_folder, vae_folder, tmp_path):
    """Train in this process into tmp_path/run; returns that folder."""

    def run(*argv, data=words_folder, save_path=tmp_path / "run", vae=vae_folder):
        given = ["--vae", vae] if vae else []
        run_script(
            "train_diffusion", "--dataset_path", data, "--save_path", save_path, *given, *TINY_TRAINING, *argv
        )
        return save_path

    return run


def start_training(words_folder, vae_folder, run, *argv, **options):
    return start_script(
        "train_diffusion",
        "--dataset_path",
        words_folder,
        "--vae",
        vae_folder,
        "--save_path",
        run,
        *TINY_TRAINING,
        *argv,
        **options,
    )


def read_log(run):
    with (run / "log.csv").open() as file:
        return list(csv.DictReader(file))


def read_config(checkpoint):
    return json.loads((checkpoint / "config.json").read_text())


def wait_for_checkpoint(run, process, seconds=120):
    end = time.monotonic() + seconds
    while not list_checkpoints(run):
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.05)


# What a run leaves


def test_a_run_holds_checkpoints_a_log_and_previews(tiny_run):
    assert {path.name for path in tiny_run.iterdir()} == {
        "step_00000002",
        "step_00000004",
        "log.csv",
        "previews",
        "latent_cache",
    }


def test_a_checkpoint_holds_all_that_sampling_and_resuming_need(tiny_run):
    files = {
        str(path.relative_to(tiny_run / "step_00000004"))
        for path in (tiny_run / "step_00000004").rglob("*.*")
    }
    assert files == {
        "config.json",
        "unet.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "training_state/raw_weights.safetensors",
        "training_state/optimizer.safetensors",
        "training_state/state.json",
    }


def test_the_config_says_what_was_trained(tiny_run):
    config = read_config(tiny_run / "step_00000004")
    assert config["step"] == 4 and config["preset"] == "tiny" and config["writers"] == list(WRITERS)
    assert config["charset"] == "abcdef" and config["img_size"] == list(IMG_SIZE)
    assert (
        config["condition_dropout"] == {"text": 0.1, "writer": 0.1} and "torch" in config["library_versions"]
    )


def test_the_log_has_a_row_a_step(tiny_run):
    rows = read_log(tiny_run)
    assert list(rows[0]) == [
        "step",
        "epoch",
        "loss",
        "val_loss",
        "learning_rate",
        "grad_norm",
        "words_per_second",
        "seconds",
    ]
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"] and all(
        float(row["loss"]) > 0 for row in rows
    )


def test_validation_is_logged_with_each_checkpoint(tiny_run):
    assert [bool(row["val_loss"]) for row in read_log(tiny_run)] == [False, True, False, True]


def test_the_learning_rate_moves_once_a_step(tiny_run):
    rates = [
        learning_rate_factor(step, warmup_steps=1, horizon=4, schedule="cosine") * 2e-3 for step in range(4)
    ]
    assert [float(row["learning_rate"]) for row in read_log(tiny_run)] == pytest.approx(rates, rel=1e-3)


def test_the_last_step_draws_a_preview(tiny_run):
    with Image.open(tiny_run / "previews" / "step_00000004.png") as sheet:
        assert sheet.width > IMG_SIZE[1] and sheet.height > IMG_SIZE[0]


def test_the_run_can_be_sampled_from(tiny_run):
    images = HandwritingPipeline.from_pretrained(tiny_run)(
        ["bead", "cafe"], ["01", None], num_inference_steps=2
    )
    assert images.shape == (2, *IMG_SIZE)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_other_predictions_train_too(train, prediction_type):
    run = train("--max_train_steps", 1, "--prediction_type", prediction_type)
    pipeline = HandwritingPipeline.from_pretrained(run)
    assert pipeline.config.schedule.prediction_type == prediction_type
    assert pipeline(["bead"], ["01"], num_inference_steps=2).shape == (1, *IMG_SIZE)


def test_the_published_architecture_trains_and_previews_without_guidance(train):
    run = train("--max_train_steps", 1, "--preset", "wordstylist", "--model_channels", 32)
    assert (run / "previews" / "step_00000001.png").is_file()
    assert read_config(run / "step_00000001")["condition_dropout"] == {"text": 0.0, "writer": 0.0}


def test_a_stable_diffusion_vae_trains_too_and_is_named_not_copied(train, tmp_path):
    AutoencoderKL(
        3,
        3,
        ("DownEncoderBlock2D",) * 4,
        ("UpDecoderBlock2D",) * 4,
        (8, 8, 8, 8),
        norm_num_groups=4,
        latent_channels=4,
    ).save_pretrained(tmp_path / "sd")
    run = train("--max_train_steps", 1, vae=tmp_path / "sd")
    checkpoint = run / "step_00000001"
    assert (
        read_config(checkpoint)["vae"]["name"] == str(tmp_path / "sd") and not (checkpoint / "vae").exists()
    )
    assert HandwritingPipeline.from_pretrained(run)(["bead"], ["01"], num_inference_steps=1).shape == (
        1,
        *IMG_SIZE,
    )


def test_unet_and_recogniser_take_their_channels_from_the_vae(train, tmp_path):
    CompactAutoencoder(block_out_channels=(16, 16), layers_per_block=1, latent_channels=8).save_pretrained(
        tmp_path / "vae"
    )
    flags = ("--recognition_weight", 0.5, "--recogniser_steps", 1)
    run = train("--max_train_steps", 1, *flags, vae=tmp_path / "vae")
    pipeline = HandwritingPipeline.from_pretrained(run)
    assert pipeline.unet.config.latent_channels == 8
    assert pipeline(["bead"], ["01"], num_inference_steps=2).shape == (1, *IMG_SIZE)


def test_a_vae_of_a_relative_folder_is_found_from_everywhere(vae_folder, monkeypatch):
    monkeypatch.chdir(vae_folder.parent)
    assert choose_vae(vae_folder.name, None, None)[1] == str(vae_folder.resolve())


def test_a_tracker_that_is_not_installed_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(train_diffusion, "get_available_trackers", list)
    with pytest.raises(ValueError, match=r"--log_with wandb: not installed"):
        make_accelerator("no", "wandb", tmp_path)


def test_tensorboard_gets_the_log(train):
    pytest.importorskip("tensorboard")
    run = train("--max_train_steps", 1, "--log_with", "tensorboard")
    assert list(run.rglob("events.out.tfevents.*"))


def test_another_seed_is_another_training(train, tiny_run):
    run = train("--max_train_steps", 2, "--seed", 1)
    weights = [load_file(r / "step_00000002/unet.safetensors")["conv_in.weight"] for r in (run, tiny_run)]
    assert not torch.allclose(*weights, atol=1e-3)


def test_the_same_command_trains_the_same(train, tiny_run):
    run = train("--max_train_steps", 4)
    assert_equal_states(run / "step_00000004", tiny_run / "step_00000004")


def test_conditions_are_dropped_as_often_as_asked(train):
    run = train("--max_train_steps", 4, "--text_dropout", 0.99999, "--writer_dropout", 0.99999)
    unet = HandwritingPipeline.from_pretrained(run).unet
    # The first steps only move what starts at zero, and nothing behind it.
    index = [name for name, _ in unet.named_parameters()].index("writer_embedding.weight")
    moments = load_file(run / "step_00000004/training_state/optimizer.safetensors")[f"{index}.exp_avg_sq"]
    assert moments[3].any() and not moments[:3].any()  # only the null writer was trained


# Resume


def test_a_resumed_run_goes_on_bit_for_bit(train, tiny_run, tmp_path):
    run = train("--resume", save_path=clone_checkpoint(tiny_run / "step_00000002", tmp_path / "run"))
    assert_equal_states(run / "step_00000004", tiny_run / "step_00000004")


def test_a_resumed_run_goes_on_bit_for_bit_in_bf16(train, tmp_path):
    whole = train("--max_train_steps", 4, "--mixed_precision", "bf16")
    part = clone_checkpoint(whole / "step_00000002", tmp_path / "part")
    train("--resume", "--mixed_precision", "bf16", save_path=part)
    assert_equal_states(part / "step_00000004", whole / "step_00000004")


def test_a_resumed_run_keeps_its_settings(train, tiny_run, tmp_path, words_folder):
    run = clone_checkpoint(tiny_run / "step_00000002", tmp_path / "run")
    run_script(
        "train_diffusion",
        "--dataset_path",
        words_folder,
        "--save_path",
        run,
        "--resume",
        "--mixed_precision",
        "no",
    )
    states = [
        json.loads((r / "step_00000004/training_state/state.json").read_text()) for r in (run, tiny_run)
    ]
    assert states[0] == states[1]


def test_the_log_goes_on_where_the_checkpoint_was(train, tiny_run, tmp_path):
    run = clone_checkpoint(tiny_run / "step_00000002", tmp_path / "run")
    shutil.copy(tiny_run / "log.csv", run)  # it is two steps ahead
    train("--resume", save_path=run)
    assert [row["step"] for row in read_log(run)] == ["1", "2", "3", "4"]


def test_a_finished_run_says_so(train, tiny_run, tmp_path, capsys):
    run = clone_checkpoint(tiny_run / "step_00000004", tmp_path / "run")
    train("--resume", save_path=run)
    assert "finished    at step 4 already" in capsys.readouterr().out


def test_stopping_early_does_not_shorten_the_schedule(train):
    run = train("--max_train_steps", 2, "--schedule_steps", 100)
    rates = [
        learning_rate_factor(step, warmup_steps=1, horizon=100, schedule="cosine") * 2e-3 for step in range(2)
    ]
    assert [float(row["learning_rate"]) for row in read_log(run)] == pytest.approx(rates, rel=1e-3)


def test_going_further_keeps_the_horizon_unless_told(train, tiny_run, tmp_path, capsys):
    run = clone_checkpoint(tiny_run / "step_00000004", tmp_path / "run")
    train("--resume", "--max_train_steps", 5, save_path=run)
    assert float(read_log(run)[-1]["learning_rate"]) == pytest.approx(0.02 * 2e-3, rel=1e-3)
    assert "--schedule_steps moves that" in capsys.readouterr().out


def test_a_run_is_never_overwritten(train, tiny_run):
    before = sorted(tiny_run.rglob("*"))
    with pytest.raises(ValueError, match="a run is never overwritten"):
        train("--max_train_steps", 1, save_path=tiny_run)
    assert sorted(tiny_run.rglob("*")) == before


@pytest.mark.parametrize(
    "flag",
    [("--preset", "small"), ("--max_length", 9), ("--prediction_type", "epsilon"), ("--no-text_layout",)],
)
def test_a_resumed_run_takes_no_other_sizes(train, tiny_run, tmp_path, flag):
    run = clone_checkpoint(tiny_run / "step_00000002", tmp_path / "run")
    with pytest.raises(ValueError, match=r"the run to --resume has .* Leave it out"):
        train("--resume", *flag, save_path=run)


def test_resume_refuses_another_vae(train, tiny_run, tmp_path):
    CompactAutoencoder(block_out_channels=(16, 16), layers_per_block=1, scaling_factor=1.5).save_pretrained(
        tmp_path / "other"
    )
    with pytest.raises(ValueError, match=r"--vae .*other: not the VAE that this run was trained with"):
        train(
            "--resume",
            save_path=clone_checkpoint(tiny_run / "step_00000002", tmp_path / "run"),
            vae=tmp_path / "other",
        )


@pytest.mark.parametrize(
    ("word", "writer", "message"),
    [
        ("Zoo", "01", "characters that the run does not know"),
        ("bad", "99", "writers that the run does not know"),
    ],
)
def test_resume_refuses_new_characters_and_writers(train, tiny_run, tmp_path, word, writer, message):
    make_word_folder(tmp_path / "data", [word] * 3, [writer], img_size=IMG_SIZE)
    run = clone_checkpoint(tiny_run / "step_00000002", tmp_path / "run")
    with pytest.raises(ValueError, match=rf"--resume: .*{message}.*--init_from"):
        train("--resume", data=tmp_path / "data", save_path=run)


def test_validation_and_previews_do_not_change_the_training(train, tiny_run, tmp_path):
    run = train("--max_train_steps", 4, "--validate_every", 1, "--preview_every", 1, "--log_every", 3)
    assert_equal_states(run / "step_00000004", tiny_run / "step_00000004")


@pytest.fixture
def resumable(tiny_run, tmp_path):
    return clone_checkpoint(tiny_run / "step_00000002", tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b"{", "not JSON"),
        ("config.json", b"{}", "no entry unet"),
        ("training_state/state.json", b"{}", "no entry step, settings"),
        ("training_state/state.json", b'{"step": 2, "settings": {"seed": "x"}}', "no entry max_train_steps"),
        ("training_state/raw_weights.safetensors", b"short", "damaged"),
        ("training_state/optimizer.safetensors", b"", "damaged"),
    ],
)
def test_resume_names_what_is_damaged(train, resumable, name, content, message):
    (resumable / "step_00000002" / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"--resume.*{name.split('/')[-1]}.*{message}"):
        train("--resume", save_path=resumable)


def test_resume_may_name_a_step_and_sets_later_ones_aside(train, tiny_run, tmp_path):
    run = clone_checkpoint(tiny_run / "step_00000002", tmp_path / "run")
    clone_checkpoint(tiny_run / "step_00000004", run)
    train("--resume", 2, save_path=run)
    assert_equal_states(run / "step_00000004", tiny_run / "step_00000004")
    assert [path.name for path in (run / "superseded").iterdir()] == ["step_00000004"]


def test_latents_lie_in_the_run_which_keeps_those_of_its_last_images(train, words_folder, tmp_path):
    data = shutil.copytree(words_folder, tmp_path / "data")
    files = sorted(path.name for path in data.iterdir())
    run = train("--max_train_steps", 1, data=data)
    first = [path.name for path in (run / "latent_cache").iterdir()]
    os.utime(data / "images" / "0000.png")  # another image, as far as names and times say
    (run / "latent_cache" / ".tmp-abc-77").mkdir()  # of a killed process
    train("--resume", "--max_train_steps", 2, data=data)
    second = [path.name for path in (run / "latent_cache").iterdir()]
    assert len(first) == len(second) == 1 and first != second
    assert sorted(path.name for path in data.iterdir()) == files


# Signals


def test_sigterm_saves_and_the_run_can_go_on(train, words_folder, vae_folder, tmp_path):
    run = tmp_path / "run"
    process = start_training(words_folder, vae_folder, run, "--max_train_steps", 100000)
    wait_for_checkpoint(run, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    newest = list_checkpoints(run)[-1]
    step = int(newest.name[5:])
    assert process.returncode == 0 and f"stopped     at step {step} of 100000; --resume goes on" in errors
    assert read_log(run)[-1]["step"] == str(step)
    train("--resume", "--max_train_steps", step + 1, save_path=run)
    assert list_checkpoints(run)[-1].name == f"step_{step + 1:08d}"


def test_a_killed_run_leaves_a_whole_checkpoint(train, words_folder, vae_folder, tmp_path):
    run = tmp_path / "run"
    process = start_training(words_folder, vae_folder, run, "--max_train_steps", 100000, "--save_every", 1)
    wait_for_checkpoint(run, process)
    time.sleep(0.7)
    process.kill()
    process.communicate(timeout=60)
    HandwritingPipeline.from_pretrained(run)
    newest = int(list_checkpoints(run)[-1].name[5:])
    train("--resume", "--max_train_steps", newest + 1, save_path=run)
    assert not list(run.glob(".tmp-*")) and list_checkpoints(run)[-1].name == f"step_{newest + 1:08d}"


# Several processes


# accelerate launch --cpu starts one process where there is no MPI; torchrun sets what accelerate reads.
TWO_PROCESSES = {
    "prefix": ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
    "OMP_NUM_THREADS": "1",
    "ACCELERATE_USE_CPU": "1",
}


def launch(words_folder, vae_folder, run, *argv):
    process = start_training(words_folder, vae_folder, run, *argv, **TWO_PROCESSES)
    output = process.communicate(timeout=180)
    assert process.returncode == 0, output
    return run


@pytest.fixture(scope="module")
def parallel_run(words_folder, vae_folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("parallel") / "run"
    return launch(words_folder, vae_folder, run, "--max_train_steps", 4)


def test_a_signal_to_one_process_stops_both(words_folder, vae_folder, tmp_path):
    run = tmp_path / "run"
    process = start_training(words_folder, vae_folder, run, "--max_train_steps", 100000, **TWO_PROCESSES)
    wait_for_checkpoint(run, process)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(workers[-1]), signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and "of 100000; --resume goes on" in errors


def test_two_processes_leave_no_prefix_in_the_files(parallel_run, tiny_run):
    for name in ("unet.safetensors", "training_state/raw_weights.safetensors"):
        assert (
            load_file(parallel_run / "step_00000004" / name).keys()
            == load_file(tiny_run / "step_00000004" / name).keys()
        )


def test_two_processes_share_one_schedule_and_double_the_batch(parallel_run, tiny_run):
    rows = read_log(parallel_run)
    assert [row["learning_rate"] for row in rows] == [row["learning_rate"] for row in read_log(tiny_run)]
    assert read_config(parallel_run / "step_00000004")["training"]["batch_size"] == 8


def test_two_processes_resume_bit_for_bit(parallel_run, words_folder, vae_folder, tmp_path):
    run = clone_checkpoint(parallel_run / "step_00000002", tmp_path / "run")
    launch(words_folder, vae_folder, run, "--resume")
    assert_equal_states(run / "step_00000004", parallel_run / "step_00000004")


def test_what_two_processes_trained_goes_on_in_one(train, parallel_run, tmp_path):
    run = clone_checkpoint(parallel_run / "step_00000002", tmp_path / "run")
    train("--resume", "--max_train_steps", 3, save_path=run)
    assert list_checkpoints(run)[-1].name == "step_00000003"


# New words for a trained model


@pytest.fixture
def new_words(tmp_path):
    make_word_folder(tmp_path / "new", ["Zeb", "Zac", "cab", "feed"], ("99", "01"), img_size=IMG_SIZE)
    return tmp_path / "new"


INIT_TRAINING = (
    "--batch_size",
    4,
    "--mixed_precision",
    "no",
    "--lr_warmup_steps",
    1,
    "--learning_rate",
    1e-9,
    "--max_train_steps",
    1,
    "--text_dropout",
    0,
    "--writer_dropout",
    0,
)


@pytest.fixture
def grown(new_words, tiny_run, tmp_path):
    run_script(
        "train_diffusion",
        "--dataset_path",
        new_words,
        "--init_from",
        tiny_run,
        "--save_path",
        tmp_path / "grown",
        *INIT_TRAINING,
    )
    return HandwritingPipeline.from_pretrained(tmp_path / "grown")


def test_new_writers_and_characters_come_behind_the_known_ones(grown):
    assert grown.config.writers == (*WRITERS, "99") and "".join(grown.config.charset.characters) == "abcdefZ"


def test_known_rows_and_widths_are_kept(grown, tiny_run):
    start = HandwritingPipeline.from_pretrained(tiny_run)
    old, new = (model.unet.writer_embedding.weight for model in (start, grown))
    torch.testing.assert_close(new[:3], old[:3], rtol=0, atol=1e-6)
    torch.testing.assert_close(new[4], old[3], rtol=0, atol=1e-6)  # the null writer
    for character, width in start.config.width_model.character_widths.items():
        assert grown.config.width_model.character_widths[character] == pytest.approx(width, rel=0.1)


def test_a_grown_model_writes_new_and_old_hands(grown):
    assert grown(["Zeb", "deaf"], ["99", "03"], num_inference_steps=1).shape == (2, *IMG_SIZE)


def test_a_grown_model_tells_where_it_came_from(grown):
    assert grown.config.extra["init_from"] == {"dataset": "words", "step": 4, "preset": "tiny"}


def read_rows(checkpoint):
    """Writer rows of the averaged and of the raw weights."""
    files = ("unet.safetensors", "training_state/raw_weights.safetensors")
    return [load_file(checkpoint / name)["writer_embedding.weight"] for name in files]


@pytest.fixture
def teach(new_words, tiny_run, tmp_path):
    """Go on from tiny_run with words of the writers 99 and 01; returns the last checkpoint."""

    def run(name, *argv):
        run_script(
            "train_diffusion",
            "--dataset_path",
            new_words,
            "--init_from",
            tiny_run,
            "--save_path",
            tmp_path / name,
            "--learning_rate",
            1e-3,
            "--writer_dropout",
            0.5,
            *TINY_TRAINING[2:],
            *argv,
        )
        return list_checkpoints(tmp_path / name)[-1]

    return run


def test_rows_of_writers_without_words_stay_exactly_where_they_are(teach, tiny_run):
    checkpoint = teach("run", "--max_train_steps", 4, "--weight_decay", 0.9)
    before = load_file(tiny_run / "step_00000004" / "unet.safetensors")["writer_embedding.weight"]
    for rows in read_rows(checkpoint):
        assert torch.equal(rows[1:3], before[1:3])
        assert not torch.equal(rows[0], before[0])
        assert not torch.equal(rows[4], before[3])  # the null writer's


def test_rows_of_writers_move_as_many_times_as_far_as_asked(teach, tiny_run):
    start = load_file(tiny_run / "step_00000004" / "unet.safetensors")["writer_embedding.weight"]
    once, often = (
        read_rows(teach(f"run-{factor}", "--max_train_steps", 1, "--writer_rate_factor", factor))[1]
        for factor in (1, 50)
    )
    assert (once[0] - start[0]).abs().max() > 0
    torch.testing.assert_close(often[0] - start[0], 50 * (once[0] - start[0]), rtol=0.01, atol=1e-5)


def test_other_weights_learn_at_the_rate_that_they_had(teach):
    once, often = (
        load_file(
            teach(f"run-{factor}", "--max_train_steps", 1, "--writer_rate_factor", factor)
            / "training_state/raw_weights.safetensors"
        )
        for factor in (1, 50)
    )
    assert [name for name in once if not torch.equal(once[name], often[name])] == ["writer_embedding.weight"]


def test_new_writers_learn_faster_where_a_trained_model_is_the_start():
    given = {field: None for field in ("batch_size", "max_train_steps")}
    config = type("Card", (), {"extra": {"preset": "small"}})()
    assert make_settings(given, 1, config, 640, 1, None).writer_rate_factor == 1
    config.extra["init_from"] = {"dataset": "words"}
    settings = make_settings(given, 1, config, 640, 1, None)
    assert settings.writer_rate_factor == NEW_WRITERS_FACTOR
    older = replace(settings, writer_rate_factor=None)
    assert make_settings(given, 1, config, 640, 1, older).writer_rate_factor is None


def test_a_run_of_before_writers_had_a_rate_of_their_own_goes_on_bit_for_bit(train, tmp_path, monkeypatch):
    def make_one_group(unet, settings, device):
        groups = [{"params": list(unet.parameters()), "rate_factor": 1.0}]
        return torch.optim.AdamW(
            groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )

    with monkeypatch.context() as patch:
        patch.setattr(diffusion.trainer, "make_optimizer", make_one_group)
        whole = train("--max_train_steps", 4, "--weight_decay", 0.5)
    part = clone_checkpoint(whole / "step_00000002", tmp_path / "part")
    file = part / "step_00000002" / "training_state" / "state.json"
    state = json.loads(file.read_text())
    del state["settings"]["writer_rate_factor"]
    file.write_text(json.dumps(state))
    train("--resume", save_path=part)
    names = (
        "unet.safetensors",
        "training_state/raw_weights.safetensors",
        "training_state/optimizer.safetensors",
    )
    assert_equal_files(part / "step_00000004", whole / "step_00000004", names)


def test_init_from_refuses_images_of_another_height(tiny_run, tmp_path):
    make_word_folder(tmp_path / "new", ["bad", "cab"], img_size=(64, 64))
    with pytest.raises(
        ValueError, match=r"its images have 32x64 pixels, those of --dataset_path 64x64.*--img_size 32 64"
    ):
        run_script(
            "train_diffusion",
            "--dataset_path",
            tmp_path / "new",
            "--init_from",
            tiny_run,
            "--save_path",
            tmp_path / "run",
            *INIT_TRAINING,
        )


@pytest.mark.parametrize(("width", "expected"), [(32, 64), (96, 96)])
def test_init_from_takes_images_of_another_width(tiny_run, tmp_path, width, expected):
    make_word_folder(tmp_path / "new", ["bad", "cab"], img_size=(32, width))
    run_script(
        "train_diffusion",
        "--dataset_path",
        tmp_path / "new",
        "--init_from",
        tiny_run,
        "--save_path",
        tmp_path / "run",
        *INIT_TRAINING,
    )
    config = HandwritingPipeline.from_pretrained(tmp_path / "run").config
    assert config.img_size == (32, expected) and config.width_model.room <= expected


def test_init_from_refuses_another_vae(new_words, tiny_run, tmp_path):
    CompactAutoencoder(block_out_channels=(16, 16), layers_per_block=1, scaling_factor=1.5).save_pretrained(
        tmp_path / "other"
    )
    with pytest.raises(ValueError, match=r"--vae .*other: not the VAE of --init_from"):
        run_script(
            "train_diffusion",
            "--dataset_path",
            new_words,
            "--init_from",
            tiny_run,
            "--save_path",
            tmp_path / "run",
            "--vae",
            tmp_path / "other",
            *INIT_TRAINING,
        )


@pytest.mark.parametrize("flag", [("--preset", "small"), ("--model_channels", "64"), ("--no-text_layout",)])
def test_init_from_takes_no_other_sizes(flag, capsys):
    with pytest.raises(SystemExit):
        parse_args(["--dataset_path", "x", "--init_from", "y", *flag])
    assert "--init_from brings its own" in capsys.readouterr().err


def test_published_weights_can_be_trained_on(train, vae_folder, tmp_path):
    make_word_folder(tmp_path / "data", ["Zeb", "öde"], ("3", "me"))
    run_script(
        "train_diffusion",
        "--dataset_path",
        tmp_path / "data",
        "--vae",
        vae_folder,
        "--init_from",
        PUBLISHED,
        "--save_path",
        tmp_path / "run",
        *INIT_TRAINING,
    )
    pipeline = HandwritingPipeline.from_pretrained(tmp_path / "run")
    assert (
        pipeline.config.writers == (*"0123456", "me")
        and pipeline.config.charset.encode(["ö"], 1).item() == 53
    )


# Data


def test_several_folders_train_together(train, words_folder, new_words, vae_folder, tmp_path):
    run_script(
        "train_diffusion",
        "--dataset_path",
        words_folder,
        f"{new_words}:2",
        "--save_path",
        tmp_path / "run",
        "--vae",
        vae_folder,
        "--max_train_steps",
        1,
        *TINY_TRAINING,
    )
    assert HandwritingPipeline.from_pretrained(tmp_path / "run").config.writers == (
        "02",
        "03",
        "99",
        "new/01",
        "words/01",
    )


def test_iam_path_is_the_same_flag(words_folder, vae_folder, tmp_path):
    args = parse_args(["--dataset", "iam", "--iam_path", "data/iam", "--epochs", "1000"])
    assert args.dataset_path == ["data/iam"] and args.save_path == Path("runs/iam") and args.epochs == 1000


def test_epochs_count_in_words(train):
    run = train("--epochs", 1)
    held_out = 1
    assert list_checkpoints(run)[-1].name == f"step_{-(-(len(WORDS) - held_out) // 4):08d}"


def test_a_max_length_that_is_too_small_names_the_word(train):
    with pytest.raises(ValueError, match=r"--max_length 3: 'deaf' has 4 characters"):
        train("--max_train_steps", 1, "--max_length", 3)


def test_the_latent_cache_can_lie_elsewhere(train, tmp_path):
    train("--max_train_steps", 1, "--latent_cache", tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("*/columns.f16"))) == 1


def test_a_loss_that_is_not_finite_ends_with_advice_and_saves_nothing_bad(train, tmp_path):
    with pytest.raises(
        ValueError, match=r"the loss is not finite at step \d.*--resume STEP\) and a lower --learning_rate"
    ):
        train(
            "--max_train_steps",
            9,
            "--learning_rate",
            1e30,
            "--save_every",
            1,
            "--log_every",
            1000,
            "--validate_every",
            1000,
        )
    for checkpoint in list_checkpoints(tmp_path / "run"):
        weights = load_file(checkpoint / "training_state/raw_weights.safetensors")
        assert all(value.isfinite().all() for value in weights.values())


def test_fp16_on_a_cpu_is_refused(train):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match="--mixed_precision fp16: needs a GPU"):
        train("--max_train_steps", 1, "--mixed_precision", "fp16")


@pytest.mark.parametrize("flag", ["--text_dropout", "--writer_dropout", "--ema_decay"])
def test_shares_lie_under_one(flag, capsys):
    with pytest.raises(SystemExit):
        parse_args(["--dataset_path", "x", flag, "1.5"])
    assert "must be at least 0 and under 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flag",
    [
        ("--learning_rate", "0"),
        ("--max_grad_norm", "-1"),
        ("--learning_rate", "nan"),
        ("--writer_rate_factor", "0"),
        ("--weight_decay", "-1"),
        ("--weight_decay", "nan"),
        ("--lr_warmup_steps", "-5"),
    ],
)
def test_rates_and_norms_are_positive(flag, capsys):
    with pytest.raises(SystemExit):
        parse_args(["--dataset_path", "x", *flag])
    assert f"{flag[0]} {flag[1]}" in capsys.readouterr().err.replace(".0:", ":")


# Legibility


@pytest.fixture(scope="module")
def legible_run(words_folder, vae_folder, tmp_path_factory):
    """Four steps with the recognition loss, checkpoints at 2 and 4."""
    run = tmp_path_factory.mktemp("legible") / "run"
    run_script(
        "train_diffusion",
        "--dataset_path",
        words_folder,
        "--vae",
        vae_folder,
        "--save_path",
        run,
        *TINY_TRAINING,
        "--max_train_steps",
        4,
        "--recognition_weight",
        1,
        "--recogniser_steps",
        3,
    )
    return run


def test_a_reader_is_taught_and_travels_with_the_checkpoints(legible_run, tiny_run):
    for checkpoint in list_checkpoints(legible_run):
        assert (checkpoint / "reader" / "latent_reader.safetensors").is_file()
    one, other = (
        load_file(list_checkpoints(run)[-1] / "unet.safetensors") for run in (legible_run, tiny_run)
    )
    assert not torch.equal(one["conv_in.weight"], other["conv_in.weight"])
    assert not (tiny_run / "reader").exists()


def test_legible_training_resumes_exactly(legible_run, words_folder, vae_folder, tmp_path, train):
    first, last = list_checkpoints(legible_run)
    run = clone_checkpoint(first, tmp_path / "run")
    shutil.copytree(legible_run / "reader", run / "reader")
    train("--resume", "--max_train_steps", 4)
    assert_equal_states(list_checkpoints(run)[-1], last)


def test_a_run_takes_its_reader_from_the_checkpoint_or_teaches_another(legible_run, tmp_path, train, capsys):
    first, last = list_checkpoints(legible_run)
    run = clone_checkpoint(first, tmp_path / "run")  # moved without the folder reader beside it
    train("--resume", "--max_train_steps", 4)
    assert_equal_states(list_checkpoints(run)[-1], last)
    assert "recogniser  " not in capsys.readouterr().out
    for folder in run.rglob("reader"):
        shutil.rmtree(folder)
    train("--resume", "--max_train_steps", 5)
    assert "recogniser  3 steps" in capsys.readouterr().out


def test_further_training_takes_the_reader_along(legible_run, tmp_path, capsys):
    make_word_folder(tmp_path / "new", ("zoo", "cab", "abz"), ("07",), img_size=IMG_SIZE)
    run_script(
        "train_diffusion",
        "--dataset_path",
        tmp_path / "new",
        "--init_from",
        legible_run,
        "--save_path",
        tmp_path / "run",
        "--max_train_steps",
        1,
        "--recognition_weight",
        0.5,
        "--recogniser_steps",
        10,
        *TINY_TRAINING[2:],
    )
    assert "recogniser  2 steps" in capsys.readouterr().out  # a fifth
    config = json.loads((tmp_path / "run" / "reader" / "config.json").read_text())
    assert config["latent_reader"]["vocabulary_size"] > 7


def test_the_presets_say_whether_legibility_counts(tmp_path):
    config = type("Card", (), {"extra": {"preset": "small"}})()
    given = {field: None for field in ("batch_size", "max_train_steps", "recognition_weight")}
    settings = make_settings(given, 1, config, 640, 1, None)
    assert settings.recognition_weight == 0.5
    config.extra["preset"] = "wordstylist"
    assert make_settings(given, 1, config, 640, 1, None).recognition_weight == 0
    with pytest.raises(SystemExit):
        parse_args(["--dataset_path", "a", "--recognition_weight", "-1"])
