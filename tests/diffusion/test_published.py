"""The published weights: read without executing anything, and computing what the published code computes."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diffusion.pipeline import HandwritingPipeline
from diffusion.presets import make_config
from diffusion.published import load_published
from tests.helpers import PUBLISHED
from unet import UNet
from utils.json_files import read_json

WEIGHTS = PUBLISHED / "models" / "ema_ckpt.pt"


@pytest.fixture(scope="module")
def expected():
    with np.load(PUBLISHED / "expected.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="module")
def published(vae_folder):
    return HandwritingPipeline.from_pretrained(PUBLISHED, vae=vae_folder)


def predict(unet, expected):
    with torch.no_grad():
        return unet(*(expected[name] for name in ("latents", "timesteps", "input_ids", "writer_ids")))


def save_changed(tmp_path, change):
    """The published weights with a changed state dict, in the published layout."""
    path = tmp_path / "models" / "ema_ckpt.pt"
    path.parent.mkdir(parents=True)
    torch.save(change(torch.load(WEIGHTS, weights_only=True)), path)
    return path


def test_the_published_prediction_is_reproduced(published, expected):
    torch.testing.assert_close(predict(published.unet, expected), expected["noise_pred"], rtol=0, atol=1e-4)


def test_the_weights_alone_reproduce_it_too(expected):
    fields, state = load_published(WEIGHTS)
    unet = UNet(replace(make_config("wordstylist", num_writers=1, vocabulary_size=2, max_length=1), **fields))
    unet.load_state_dict(state)
    torch.testing.assert_close(predict(unet, expected), expected["noise_pred"], rtol=0, atol=1e-4)


def test_prefixes_of_data_parallel_are_stripped(tmp_path, vae_folder, expected):
    save_changed(tmp_path, lambda state: {f"module.{key}": value for key, value in state.items()})
    unet = HandwritingPipeline.from_pretrained(tmp_path, vae=vae_folder).unet
    torch.testing.assert_close(predict(unet, expected), expected["noise_pred"], rtol=0, atol=1e-4)


def test_sizes_follow_from_the_tensors(published):
    config = published.unet.config
    assert (config.num_writers, config.vocabulary_size, config.model_channels, config.max_length) == (
        7,
        53,
        32,
        10,
    )
    assert not (config.mask_padding or config.has_null_condition or config.text_layout)


def test_z_and_padding_are_one_symbol_there(published):
    assert published.config.charset.encode(["AZaz"], 6).tolist() == [[1, 26, 27, 52, 52, 52]]


def test_other_lengths_can_be_named(vae_folder):
    assert (
        HandwritingPipeline.from_pretrained(PUBLISHED, vae=vae_folder, max_length=20).unet.config.max_length
        == 20
    )


def test_unused_weights_are_left_out(published):
    kept = sum(parameter.numel() for parameter in published.unet.parameters())
    assert kept < sum(value.numel() for value in torch.load(WEIGHTS, weights_only=True).values())


def test_a_foreign_tensor_is_named(tmp_path, vae_folder):
    save_changed(tmp_path, lambda state: state | {"encoder.layer.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"unexpected tensor 'encoder\.layer\.weight'"):
        HandwritingPipeline.from_pretrained(tmp_path, vae=vae_folder)


def test_a_missing_tensor_is_named(tmp_path, vae_folder):
    save_changed(tmp_path, lambda state: {key: value for key, value in state.items() if key != "out.2.bias"})
    with pytest.raises(ValueError, match=r"not the published UNet's weights.*conv_out\.bias"):
        HandwritingPipeline.from_pretrained(tmp_path, vae=vae_folder)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))]
)
def test_code_in_a_weights_file_is_not_executed(tmp_path, save):
    save({"time_embed.0.weight": Trap(tmp_path / "sprung")}, tmp_path / "ema_ckpt.pt")
    with pytest.raises(ValueError, match="is not a plain PyTorch state dict"):
        load_published(tmp_path / "ema_ckpt.pt")
    assert not (tmp_path / "sprung").exists()


def test_without_a_vae_the_flag_is_named():
    with pytest.raises(ValueError, match="Give it with --vae"):
        HandwritingPipeline.from_pretrained(PUBLISHED)


def test_guidance_is_refused(published):
    with pytest.raises(ValueError, match=r"--guidance_scale 2\.0: .*without null conditions.*Leave it at 1"):
        published(["hand"], ["0"], guidance_scale=2.0)


def test_the_mean_hand_is_refused(published):
    with pytest.raises(ValueError, match="without null conditions"):
        published(["hand"], [None])


def test_an_empty_text_is_refused(published):
    with pytest.raises(ValueError, match="an empty text"):
        published([""], ["0"])


def test_words_are_written_without_guidance_by_default(published):
    assert published(["hand", "zzz"], ["0", "6"], num_inference_steps=2).shape == (2, 64, 256)


def test_writers_are_called_by_number(published):
    assert published.config.writers == tuple("0123456")


def test_writers_can_be_named(tmp_path, vae_folder):
    (tmp_path / "writers.json").write_text(json.dumps({"000": 2, "001": 0}))
    named = HandwritingPipeline.from_pretrained(
        PUBLISHED, vae=vae_folder, writer_dict=read_json(tmp_path / "writers.json", "--writer_dict")
    )
    assert named.config.writers == ("001", "1", "000", "3", "4", "5", "6")


@pytest.mark.parametrize("row", [7, -1, "2", 1.5])
def test_a_row_that_is_not_there_is_an_error(vae_folder, row):
    with pytest.raises(ValueError, match=r"--writer_dict: '000' has row .*the weights have 7 writers"):
        HandwritingPipeline.from_pretrained(PUBLISHED, vae=vae_folder, writer_dict={"000": row})


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_a_writer_dict_is_a_json_object(tmp_path, content):
    (tmp_path / "writers.json").write_text(content)
    with pytest.raises(ValueError, match=r"--writer_dict: .*writers\.json"):
        read_json(tmp_path / "writers.json", "--writer_dict")


def test_published_weights_become_a_checkpoint(published, tmp_path, expected):
    published.save_pretrained(tmp_path)
    again = HandwritingPipeline.from_pretrained(tmp_path)
    torch.testing.assert_close(predict(again.unet, expected), expected["noise_pred"], rtol=0, atol=1e-4)
    assert again.config.charset.pad_id == 52


def test_a_refused_pickle_does_not_advise_to_run_the_code_in_it(tmp_path):
    path = tmp_path / "ema_ckpt.pt"
    torch.save({"model": Path}, path)  # a class, which only code can bring back
    with pytest.raises(ValueError, match="is not a plain PyTorch state dict") as refusal:
        load_published(path)
    assert "weights_only" not in str(refusal.value) and "never run" in str(refusal.value)
