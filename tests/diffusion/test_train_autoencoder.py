"""The training of the compact VAE, run for real."""

import csv
import re
import signal
import time

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion.autoencoder import load_vae, scale_latents
from diffusion.autoencoder_trainer import AutoencoderSettings, AutoencoderTrainer, measure_psnr, measure_scale
from diffusion.new_autoencoder import make_autoencoder, make_small_decoder
from diffusion.train_autoencoder import parse_args
from diffusion.windows import crop_batch, crop_held_out, load_words
from tests.helpers import assert_equal_files, clone_checkpoint, run_script, start_script
from utils.checkpoint import list_checkpoints
from utils.images import stack_images, to_pixel_values
from utils.sources import read_images

OPTIONS = (
    "--block_out_channels",
    "16",
    "16",
    "--layers_per_block",
    "1",
    "--batch_size",
    "4",
    "--save_every",
    "2",
    "--mixed_precision",
    "no",
    "--crop_width",
    "40",
)
STATE = (
    "vae/diffusion_pytorch_model.safetensors",
    "training_state/raw_weights.safetensors",
    "training_state/optimizer.safetensors",
)


@pytest.fixture(scope="module")
def script(words_folder, tmp_path_factory):
    """(run folder, printed text) of four steps, run as a process of its own."""
    run = tmp_path_factory.mktemp("vae") / "run"
    process = start_script(
        "diffusion/train_autoencoder",
        "--dataset_path",
        words_folder,
        "--save_path",
        run,
        "--max_train_steps",
        4,
        *OPTIONS,
    )
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return run, output


@pytest.fixture
def train(words_folder, tmp_path):
    def run(*argv, save_path=tmp_path / "run"):
        run_script(
            "diffusion/train_autoencoder",
            "--dataset_path",
            words_folder,
            "--save_path",
            save_path,
            *OPTIONS,
            *argv,
        )
        return save_path

    return run


@pytest.fixture(scope="module")
def images(words_folder):
    return stack_images(read_images(sorted((words_folder / "images").glob("*.png"))))


def test_the_psnr_of_held_out_words_is_printed(script):
    assert re.search(r"PSNR +\d+\.\d\d dB on 1 held-out images", script[1])


def test_a_run_holds_checkpoints_and_a_log(script):
    with (script[0] / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [path.name for path in list_checkpoints(script[0])] == ["step_00000002", "step_00000004"]
    assert [row["step"] for row in rows] == ["2", "4"] and all(float(row["val_psnr"]) > 0 for row in rows)


def test_the_saved_vae_brings_latents_to_unit_variance(script, images):
    vae = load_vae(script[0])
    latents = scale_latents(vae, vae.encode(to_pixel_values(images[:-1], 1)).latent_dist.mean)
    assert latents.std().item() == pytest.approx(1.0, abs=0.1) and latents.mean().item() == pytest.approx(
        0.0, abs=0.1
    )


def test_a_resumed_run_goes_on_bit_for_bit(script, train, tmp_path):
    run = clone_checkpoint(script[0] / "step_00000002", tmp_path / "run")
    train("--resume", "--max_train_steps", 4, save_path=run)
    assert_equal_files(run / "step_00000004", script[0] / "step_00000004", STATE)


def test_a_resumed_run_keeps_its_sizes(script, words_folder, tmp_path):
    run = clone_checkpoint(script[0] / "step_00000002", tmp_path / "run")
    run_script(
        "diffusion/train_autoencoder",
        "--dataset_path",
        words_folder,
        "--save_path",
        run,
        "--resume",
        "--max_train_steps",
        0,
    )
    assert tuple(load_vae(run).config.block_out_channels) == (16, 16)


def test_zero_more_steps_only_measure(script, train, tmp_path, capsys):
    run = clone_checkpoint(script[0] / "step_00000004", tmp_path / "run")
    train("--resume", "--max_train_steps", 0, save_path=run)
    assert re.search(r"PSNR +\d+\.\d\d dB", capsys.readouterr().out) and len(list_checkpoints(run)) == 1


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (("--max_train_steps", "0"), "at least 1, but with --resume"),
        (("--crop_width", "7"), "at least 8"),
        (("--learning_rate", "nan"), "--learning_rate nan: must be above 0"),
        (("--learning_rate", "0"), "must be above 0"),
        (("--kl_weight", "-1"), "--kl_weight -1.0: must be at least 0"),
        (("--block_out_channels", "24", "32"), "--block_out_channels 24: must be a multiple of 16"),
    ],
)
def test_flags_out_of_range_are_refused(flag, message, capsys):
    with pytest.raises(SystemExit):
        parse_args(["--dataset_path", "x", "--save_path", "y", *flag])
    assert message in capsys.readouterr().err


def test_a_run_is_never_overwritten(script, train):
    with pytest.raises(ValueError, match="a run is never overwritten"):
        train("--max_train_steps", 1, save_path=script[0])


def test_sigterm_saves_and_stops(words_folder, tmp_path):
    process = start_script(
        "diffusion/train_autoencoder",
        "--dataset_path",
        words_folder,
        "--save_path",
        tmp_path / "run",
        *OPTIONS,
        "--max_train_steps",
        100000,
        "--save_every",
        1000000,
    )
    end = time.monotonic() + 120
    log = tmp_path / "run" / "log.csv"
    while not (log.is_file() and len(log.read_text().splitlines()) > 1):
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    step = int(list_checkpoints(tmp_path / "run")[-1].name[5:])
    assert process.returncode == 0 and f"stopped     at step {step} of 100000; --resume goes on" in errors


def test_a_loss_that_is_not_finite_ends_with_advice_and_is_not_saved(train, tmp_path):
    with pytest.raises(ValueError, match=r"the loss is not finite at step \d+\. .*lower --learning_rate"):
        train("--max_train_steps", 50, "--learning_rate", 1e30, "--save_every", 1000)
    assert list_checkpoints(tmp_path / "run") == []


def test_windows_begin_inside_the_ink(words_folder, images):
    words = load_words(sorted((words_folder / "images").glob("*.png")))
    indices = torch.arange(len(images)).repeat(5)
    batch = crop_batch(words, indices, 24, torch.Generator().manual_seed(0))
    assert batch.shape == (len(indices), 1, 32, 24) and (batch.amin(dim=(1, 2, 3)) < 0).all()


@torch.no_grad()
def test_psnr_is_that_of_grey_levels(vae_folder, images):
    vae = load_vae(vae_folder)
    decoded = vae.decode(vae.encode(to_pixel_values(images, 1)).latent_dist.mode()).sample.clamp(-1, 1)
    errors = (decoded[:, 0] + 1) * 127.5 - images
    expected = (20 * torch.log10(255 / errors.square().mean(dim=(1, 2)).sqrt())).mean().item()
    assert measure_psnr(vae, images, torch.device("cpu"), batch_size=5) == pytest.approx(expected, abs=1e-3)


def test_the_scale_is_one_over_the_deviation(vae_folder, images):
    vae = load_vae(vae_folder)
    pixel_values = to_pixel_values(images, 1)
    latents = vae.encode(pixel_values).latent_dist.mean
    factor, shift = measure_scale(vae, pixel_values, torch.device("cpu"))
    assert (factor, shift) == pytest.approx((1 / latents.std().item(), latents.mean().item()), abs=1e-3)


@pytest.fixture
def lines(tmp_path):
    """Paths of three images of 32 pixels height and different widths; the second is black up to its end."""
    paths = []
    for i, (ink, width) in enumerate(((40, 96), (64, 64), (100, 160))):
        image = np.full((32, width), 255, np.uint8)
        image[8:24, :ink] = 0
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(image).save(paths[-1])
    return paths


def test_lines_of_different_widths_are_held_without_the_white_at_their_right(lines):
    words = load_words(lines)
    assert words.widths.tolist() == [40, 64, 100] and words.strip.shape == (32, 204)


def test_beyond_a_line_a_window_is_white_and_never_the_next_line(lines):
    words = load_words(lines)
    windows = words.windows(torch.tensor([0, 2]), torch.tensor([30, 90]), 24)
    assert (windows[:, 12, :10] == 0).all() and (windows[:, :, 10:] == 255).all()


def test_held_out_lines_are_measured_from_their_beginning(lines):
    assert crop_held_out(load_words(lines)).shape == (3, 32, 104)


def test_images_of_another_height_are_named(lines, tmp_path):
    Image.new("L", (64, 40), 255).save(tmp_path / "high.png")
    with pytest.raises(ValueError, match=r"high.png: 40 pixels high"):
        load_words([*lines, tmp_path / "high.png"])


@torch.no_grad()
def test_a_vae_with_more_latent_channels_begins_as_the_one_it_comes_from(vae_folder, images):
    source = load_vae(vae_folder)
    shape = dict(source.config)
    wider = make_autoencoder(
        block_out_channels=shape["block_out_channels"],
        layers_per_block=shape["layers_per_block"],
        latent_channels=6,
        init_from=str(vae_folder),
    ).eval()
    pixel_values = to_pixel_values(images[:2], 1)
    latents, expected = (vae.encode(pixel_values).latent_dist.mode() for vae in (wider, source))
    assert latents.shape[1] == 6 and torch.allclose(latents[:, :4], expected, atol=1e-4)
    decoded = wider.decode(latents).sample, source.decode(expected).sample
    assert torch.allclose(*decoded, atol=1e-3)


def test_a_vae_with_fewer_latent_channels_or_other_blocks_is_refused(vae_folder):
    with pytest.raises(ValueError, match=r"--init_from .*another shape"):
        make_autoencoder(
            block_out_channels=(16, 16), layers_per_block=1, latent_channels=2, init_from=str(vae_folder)
        )
    with pytest.raises(ValueError, match="--init_from"):
        make_autoencoder(block_out_channels=(32, 32), layers_per_block=1, init_from=str(vae_folder))


def test_a_distilled_decoder_keeps_the_encoder_and_its_latents(vae_folder, train, images, capsys):
    sizes = ("--block_out_channels", 16, 32, "--layers_per_block", 1)
    run = train("--distil_decoder", vae_folder, *sizes, "--max_train_steps", 2)
    teacher, vae = load_vae(vae_folder), load_vae(run)
    pixel_values = to_pixel_values(images[:2], 1)
    latents = [scale_latents(v, v.encode(pixel_values).latent_dist.mode()) for v in (teacher, vae)]
    assert torch.equal(*latents) and vae.config.decoder_channels == [16, 32]
    assert vae.decode(latents[1]).sample.shape == pixel_values.shape
    train("--resume", "--max_train_steps", 3, save_path=run)  # it knows its teacher
    assert capsys.readouterr().out.count("teacher     ") == 2


def test_a_decoder_learns_from_its_teacher(vae_folder, words_folder, images):
    words = load_words(sorted((words_folder / "images").glob("*.png")))
    settings = AutoencoderSettings(
        max_train_steps=40, batch_size=4, crop_width=40, learning_rate=1e-2, distil_decoder=str(vae_folder)
    )
    torch.manual_seed(0)
    vae = make_small_decoder(load_vae(vae_folder), decoder_channels=(16, 16), decoder_layers=1)
    trainer = AutoencoderTrainer(vae, words, images, settings, precision="no", device=torch.device("cpu"))
    losses = [float(trainer.train_step()["l1"]) for _ in range(30)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
