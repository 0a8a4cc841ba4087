"""The compact VAE, and the loading of any VAE."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch
from diffusers import AutoencoderKL
from torch.utils.flop_counter import FlopCounterMode

from diffusion.autoencoder import (
    DOWNSCALE,
    CompactAutoencoder,
    decode_latents,
    hash_vae,
    load_vae,
    vae_in_channels,
)
from diffusion.dataset import LatentCache, LatentColumns, build_latent_cache
from tests.helpers import ROOT


@pytest.fixture(scope="module")
def vae(vae_folder):
    return load_vae(vae_folder)


@pytest.fixture(scope="module")
def stable_diffusion_folder(tmp_path_factory):
    """A tiny VAE of Stable Diffusion's kind: RGB, four levels, in a ``vae`` subfolder."""
    folder = tmp_path_factory.mktemp("sd")
    torch.manual_seed(0)
    AutoencoderKL(
        3,
        3,
        ("DownEncoderBlock2D",) * 4,
        ("UpDecoderBlock2D",) * 4,
        (8, 8, 8, 8),
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.18215,
    ).save_pretrained(folder / "vae")
    return folder


def test_the_interface_is_that_of_stable_diffusions_vae(vae):
    posterior = vae.encode(torch.zeros(2, 1, 32, 64)).latent_dist
    latents = posterior.sample(torch.Generator().manual_seed(0))
    assert latents.shape == posterior.mode().shape == (2, 4, 4, 8)
    assert vae.decode(latents).sample.shape == (2, 1, 32, 64) and vae.config.scaling_factor == 3.0


@pytest.mark.parametrize("size", [(64, 256), (64, 512), (32, 40)])
def test_latents_are_8_times_smaller_at_any_size(vae, size):
    latents = vae.encode(torch.zeros(1, 1, *size)).latent_dist.mean
    assert latents.shape == (1, 4, size[0] // DOWNSCALE, size[1] // DOWNSCALE)


@torch.no_grad()
def test_decoding_costs_a_twentieth_of_stable_diffusions():
    vae = CompactAutoencoder()
    with FlopCounterMode(display=False) as counter:
        vae.decode(torch.zeros(1, 4, 8, 32))
    assert counter.get_total_flops() <= 155e9 / 20


def test_a_change_far_away_changes_little(vae):
    pixel_values = torch.zeros(1, 1, 32, 256)
    changed = pixel_values.clone()
    changed[..., 200:] = 1.0
    near, far = (vae.encode(x).latent_dist.mean[..., :8] for x in (pixel_values, changed))
    assert (near - far).abs().max() < 0.5  # normalisation alone reaches that far


def test_other_scales_than_8_are_refused():
    with pytest.raises(ValueError, match="space_to_depth 4 with 3 levels is not 8x smaller"):
        CompactAutoencoder(block_out_channels=(16, 16, 16))


# Loading


def test_a_folder_is_loaded_as_it_was_saved(vae, vae_folder):
    again = load_vae(vae_folder)
    assert isinstance(again, CompactAutoencoder) and hash_vae(again) == hash_vae(vae)
    assert not again.training and not any(parameter.requires_grad for parameter in again.parameters())


def test_a_half_precision_folder_is_loaded_in_full(vae_folder, tmp_path):
    load_vae(vae_folder).half().save_pretrained(tmp_path)
    assert load_vae(tmp_path).dtype == torch.float32


def test_a_runs_newest_vae_is_loaded(vae_folder, tmp_path):
    for step, factor in ((1, 1.0), (2, 2.0)):
        folder = tmp_path / f"step_{step:08d}"
        vae = CompactAutoencoder(block_out_channels=(16, 16), layers_per_block=1, scaling_factor=factor)
        vae.save_pretrained(folder / "vae")
        (folder / "config.json").write_text("{}")
    assert load_vae(tmp_path).config.scaling_factor == 2.0


def test_a_stable_diffusion_vae_is_loaded_from_its_subfolder(stable_diffusion_folder):
    vae = load_vae(stable_diffusion_folder)
    assert (
        isinstance(vae, AutoencoderKL) and vae_in_channels(vae) == 3 and vae.config.scaling_factor == 0.18215
    )


def test_a_stable_diffusion_vae_encodes_and_decodes_grey_words(
    stable_diffusion_folder, words_folder, tmp_path
):
    vae = load_vae(stable_diffusion_folder)
    paths = sorted((words_folder / "images").glob("*.png"))[:3]
    folder = build_latent_cache(paths, vae, hash_vae(vae), tmp_path, channels=3, device=torch.device("cpu"))
    latents = LatentColumns(LatentCache(folder), torch.device("cpu"), in_memory=False)
    means = latents.batch(torch.arange(3), 8)[:, 0]
    assert means.shape == (3, 4, 4, 8) and decode_latents(vae, means).shape == (3, 32, 64)


def test_the_hash_depends_on_weights_and_scale(vae_folder):
    changed, scaled = load_vae(vae_folder), load_vae(vae_folder)
    next(changed.parameters()).data[0, 0] += 1e-3
    scaled.register_to_config(scaling_factor=2.0)
    assert len({hash_vae(load_vae(vae_folder)), hash_vae(changed), hash_vae(scaled)}) == 3


def test_a_folder_without_a_vae_is_an_error_with_the_flag(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"--vae .*no VAE there"):
        load_vae(tmp_path)


@pytest.mark.parametrize("name", ["/nowhere/vae", "./vae", "vae", "a/b/c"])
def test_an_absent_folder_is_an_error_with_the_flag(name):
    with pytest.raises(FileNotFoundError, match=rf"--vae {name}: no such folder"):
        load_vae(name)


def test_damaged_weights_are_named(vae_folder, tmp_path):
    load_vae(vae_folder).save_pretrained(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"--vae .*not readable as a VAE"):
        load_vae(tmp_path)


def test_a_folder_of_another_model_is_no_vae(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(FileNotFoundError, match="no VAE there"):
        load_vae(tmp_path)


@pytest.mark.parametrize("environment", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_an_unreachable_hub_is_an_error_within_seconds(tmp_path, environment):
    code = (
        "import time\nfrom diffusion.autoencoder import load_vae\nstart = time.monotonic()\n"
        "try:\n    load_vae('owner/some-model')\n"
        "except FileNotFoundError as error:\n    print(round(time.monotonic() - start), error)"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HF_HOME": str(tmp_path), **environment},
    )
    seconds, _, message = done.stdout.partition(" ")
    assert message.startswith("--vae owner/some-model: no such folder; ") and "can't be reached" in message
    assert int(seconds) <= 8 and time.monotonic() - start < 120


def test_half_a_download_is_not_a_cached_vae(tmp_path, monkeypatch):
    snapshot = tmp_path / "models--owner--name" / "snapshots" / "0" / "vae"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    (tmp_path / "models--owner--name" / "refs").mkdir()
    (tmp_path / "models--owner--name" / "refs" / "main").write_text("0")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="can't be reached from here"):
        load_vae("owner/name")


def test_pickled_weights_of_a_vae_are_never_read(vae_folder, tmp_path):
    folder = tmp_path / "vae"
    folder.mkdir()
    (folder / "config.json").write_bytes((vae_folder / "config.json").read_bytes())
    torch.save(load_vae(vae_folder).state_dict(), folder / "diffusion_pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="no VAE there"):
        load_vae(folder)
    (folder / "other.safetensors").touch()
    with pytest.raises(ValueError, match="not readable as a VAE"):
        load_vae(folder)
