"""The export of a checkpoint: half the size, the same words."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from diffusion.latent_recogniser import LatentRecogniser, LatentRecogniserConfig
from diffusion.new_autoencoder import make_small_decoder
from diffusion.pipeline import HandwritingPipeline
from feature_extractor import StyleEncoder, StyleEncoderConfig
from tests.helpers import IMG_SIZE, WRITERS, nudge_zeros
from unet import UNet

ROOT = Path(__file__).parents[2]


def export(*args):
    command = [sys.executable, str(ROOT / "scripts" / "export_checkpoint.py"), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_export_is_half_as_large_and_writes_the_same(tiny_run, tmp_path):
    result = export("--models_path", tiny_run, "--save_path", tmp_path / "small")
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "small" / "training_state").exists()
    whole, half = (
        HandwritingPipeline.from_pretrained(tiny_run),
        HandwritingPipeline.from_pretrained(tmp_path / "small"),
    )
    text, writer = whole.config.charset.characters[0], whole.config.writers[0]
    images = [p([text], [writer], num_inference_steps=2).astype(int) for p in (whole, half)]
    assert np.abs(images[0] - images[1]).max() <= 8


def test_a_distilled_decoder_takes_the_place_of_the_vae(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "checkpoint")
    small = make_small_decoder(pipeline.vae, decoder_channels=(16, 32), decoder_layers=1)
    small.save_pretrained(tmp_path / "fast")
    arguments = ("--models_path", tmp_path / "checkpoint", "--save_path", tmp_path / "small")
    assert export(*arguments, "--dtype", "fp32", "--vae", tmp_path / "fast").returncode == 0
    exported = HandwritingPipeline.from_pretrained(tmp_path / "small")
    assert exported.vae.config.decoder_channels == [16, 32]


def test_a_reader_is_exported_along(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "checkpoint")
    reader = LatentRecogniser(
        LatentRecogniserConfig(
            vocabulary_size=pipeline.config.charset.vocabulary_size, channels=(8, 16, 16, 32)
        )
    )
    reader.save_pretrained(tmp_path / "checkpoint" / "reader")
    assert export("--models_path", tmp_path / "checkpoint", "--save_path", tmp_path / "small").returncode == 0
    files = (tmp_path / name / "reader" / "latent_reader.safetensors" for name in ("checkpoint", "small"))
    weights, half = (path.stat().st_size for path in files)
    assert half < 0.6 * weights
    latents = torch.randn(1, 4, 8, 6)
    exported = LatentRecogniser.from_pretrained(tmp_path / "small" / "reader")
    torch.testing.assert_close(exported(latents), reader(latents), atol=1e-2, rtol=1e-2)


def test_an_export_of_8_bits_is_a_third_as_large_and_writes_nearly_the_same(pipeline, tmp_path):
    config = StyleEncoderConfig(backbone="resnet18", style_dim=6, writers=WRITERS, img_size=IMG_SIZE)
    changes = {"latent_channels": pipeline.unet.config.latent_channels, "style_dim": 6}
    torch.manual_seed(0)
    unet_config = replace(pipeline.unet.config, **changes)
    unet = nudge_zeros(UNet(unet_config)).eval()
    unet.writer_styles.normal_()
    whole = HandwritingPipeline(
        unet, pipeline.vae, pipeline.config, style_encoder=StyleEncoder(config).eval()
    )
    whole.save_pretrained(tmp_path / "whole")
    arguments = ("--models_path", tmp_path / "whole", "--save_path", tmp_path / "small", "--dtype", "int8")
    result = export(*arguments)
    assert result.returncode == 0, result.stderr
    sizes = [
        sum(path.stat().st_size for path in (tmp_path / name).rglob("*.safetensors"))
        for name in ("whole", "small")
    ]
    assert sizes[1] < 0.33 * sizes[0]
    small = HandwritingPipeline.from_pretrained(tmp_path / "small")
    images = [p(["bead"], [WRITERS[0]], num_inference_steps=2).astype(int) for p in (whole, small)]
    assert np.abs(images[0] - images[1]).mean() <= 2
    vectors = [p.style_encoder.embed(images[0].astype(np.uint8))[0] for p in (whole, small)]
    assert float((vectors[0] * vectors[1]).sum()) > 0.99


def test_export_overwrites_nothing(tiny_run, tmp_path):
    (tmp_path / "mine").write_text("kept")
    result = export("--models_path", tiny_run, "--save_path", tmp_path)
    assert result.returncode == 2 and "--save_path" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_file_in_place_of_the_folder_is_named(tiny_run, tmp_path):
    (tmp_path / "mine").write_text("kept")
    result = export("--models_path", tiny_run, "--save_path", tmp_path / "mine")
    assert result.returncode == 2 and f"--save_path {tmp_path / 'mine'}: is a file" in result.stderr
