"""Hands: vectors in files, and as writers of a model."""

from dataclasses import replace

import pytest
import torch

from diffusion.hands import STYLE_SPACE, Hand, add_hands, hand_of_writer
from diffusion.presets import make_config
from unet import UNet
from utils.errors import UserError

STYLE_DIM = 6


@pytest.fixture(scope="module")
def model(pipeline):
    torch.manual_seed(0)
    config = pipeline.config
    unet = UNet(
        make_config(
            "tiny",
            num_writers=len(config.writers),
            vocabulary_size=config.charset.vocabulary_size,
            max_length=8,
            style_dim=STYLE_DIM,
        )
    )
    unet.writer_styles[:-1] = torch.nn.functional.normalize(torch.randn(len(config.writers), STYLE_DIM))
    return unet, replace(config, extra={**config.extra, STYLE_SPACE: "abc"})


def make_hand(model, **changes):
    style = torch.nn.functional.normalize(torch.arange(1.0, STYLE_DIM + 1), dim=0)
    return Hand(**{"style": style, "width_scale": 1.25, "style_space": "abc"} | changes)


def test_a_hand_is_the_same_after_its_file(model, tmp_path):
    hand = make_hand(model, offset=torch.arange(5.0), space_scale=1.5)
    hand.save(tmp_path / "me.safetensors")
    read = Hand.load(tmp_path / "me.safetensors")
    assert torch.equal(read.style, hand.style) and torch.equal(read.offset, hand.offset)
    assert (read.width_scale, read.space_scale, read.style_space) == (1.25, 1.5, "abc")
    assert (tmp_path / "me.safetensors").stat().st_size < 4096


def test_a_hand_joins_a_model_as_a_writer_and_the_others_stay(model):
    unet, config = model
    offset = torch.full((unet.writer_embedding.weight.shape[1],), 0.5)
    grown, new = add_hands(unet, config, {"me": make_hand(model, offset=offset, space_scale=1.5)})
    count = len(config.writers)
    assert new.writers == (*config.writers, "me") and new.width_model.writer_scales["me"] == 1.25
    assert torch.equal(grown.writer_styles[:count], unet.writer_styles[:count])
    assert torch.equal(grown.writer_embedding.weight[:count], unet.writer_embedding.weight[:count])
    assert torch.equal(grown.writer_embedding.weight[-1], unet.writer_embedding.weight[-1])  # the null writer
    found = hand_of_writer(grown, new, "me")
    assert (found.width_scale, found.space_scale) == (1.25, 1.5)
    assert torch.equal(found.style, make_hand(model).style) and torch.equal(found.offset, offset)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"style_space": "other"}, "another model's style encoder"),
        ({"style": torch.ones(3)}, "another model's style encoder"),
        ({"offset": torch.ones(3)}, "another size"),
    ],
)
def test_a_hand_of_another_model_is_refused(model, changes, message):
    with pytest.raises(UserError, match=message):
        add_hands(*model, {"me": make_hand(model, **changes)})


def test_a_hand_with_the_name_of_a_writer_is_refused(model):
    with pytest.raises(UserError, match="Give the hand another"):
        add_hands(*model, {model[1].writers[0]: make_hand(model)})


@pytest.mark.parametrize("content", [b"", b"{}", b"x" * 100])
def test_a_damaged_hand_is_refused_by_name(tmp_path, content):
    path = tmp_path / "me.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"me\.safetensors: damaged, or not a hand"):
        Hand.load(path)
