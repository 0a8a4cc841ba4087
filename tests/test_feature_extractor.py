"""The style encoder: shapes, ink pooling, files."""

import json

import numpy as np
import pytest
import torch

from feature_extractor import BACKBONES, STYLE_WEIGHTS_NAME, StyleEncoder, StyleEncoderConfig, ink_width
from utils.errors import UserError


def make_encoder(**changes) -> StyleEncoder:
    torch.manual_seed(0)
    return StyleEncoder(StyleEncoderConfig(writers=("01", "02", "03"), img_size=(32, 64), **changes)).eval()


def draw(left: int, right: int, width: int = 128, height: int = 32) -> np.ndarray:
    image = np.full((height, width), 255, np.uint8)
    image[8:24, left:right:3] = 0
    return image


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_gives_vectors_of_length_one_and_logits(backbone):
    encoder = make_encoder(backbone=backbone, style_dim=16)
    style, logits = encoder(torch.rand(2, 1, 32, 64) * 2 - 1)
    assert style.shape == (2, 16) and logits.shape == (2, 3)
    assert torch.allclose(style.norm(dim=1), torch.ones(2), atol=1e-5)


def test_an_unknown_backbone_is_named():
    with pytest.raises(ValueError, match="--backbone vgg: not one of mobilenet_v3_small"):
        make_encoder(backbone="vgg")


def test_the_white_tail_changes_no_style():
    encoder = make_encoder()
    short = encoder.embed([draw(4, 50, width=64)])[0]
    long = encoder.embed([draw(4, 50, width=256)])[0]
    assert np.allclose(short, long, atol=1e-5)


def test_a_style_does_not_depend_on_the_batch():
    encoder = make_encoder()
    images = [draw(4, 20), draw(4, 120), draw(8, 60)]
    together = encoder.embed(images)[0]
    alone = np.concatenate([encoder.embed([image])[0] for image in images])
    assert np.allclose(together, alone, atol=1e-5)


def test_an_empty_image_has_a_finite_style():
    style, logits = make_encoder().embed([np.full((32, 64), 255, np.uint8)])
    assert np.isfinite(style).all() and np.isfinite(logits).all()


def test_the_image_of_another_height_is_named_and_not_the_first():
    images = [draw(4, 20), np.full((64, 64), 255, np.uint8)]
    with pytest.raises(
        UserError, match="image 2 of 2: 64 pixels high; this style encoder was trained on images"
    ):
        make_encoder().embed(images)


def test_a_line_has_the_style_that_it_has_alone_beside_words():
    encoder = make_encoder()
    line = draw(4, 1990, width=2000)
    together = encoder.embed([draw(4, 40), line, *[draw(4, 60)] * 40])[0]
    assert np.allclose(together[1], encoder.embed([line])[0][0], atol=1e-5)


@pytest.mark.parametrize(("right", "width"), [(1, 32), (32, 32), (33, 64), (127, 128)])
def test_ink_width_is_a_multiple_of_32_pixels(right, width):
    assert ink_width(draw(right - 1, right)) == width


def test_a_saved_encoder_gives_the_same_styles(tmp_path):
    encoder = make_encoder()
    encoder.save_pretrained(tmp_path / "style", {"step": 3})
    loaded = StyleEncoder.from_pretrained(tmp_path / "style")
    assert loaded.config == encoder.config
    assert np.array_equal(loaded.embed([draw(4, 50)])[0], encoder.embed([draw(4, 50)])[0])
    assert json.loads((tmp_path / "style" / "config.json").read_text())["step"] == 3


def test_a_missing_encoder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"--style_encoder .*: no style_encoder.safetensors there"):
        StyleEncoder.from_pretrained(tmp_path)


def test_a_damaged_encoder_is_named(tmp_path):
    make_encoder().save_pretrained(tmp_path, {})
    (tmp_path / STYLE_WEIGHTS_NAME).write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"--style_encoder .*: damaged"):
        StyleEncoder.from_pretrained(tmp_path)
