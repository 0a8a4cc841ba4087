"""Models with style vectors: a hand is what its vector says, and an offset."""

import pytest
import torch

from diffusion.config import CheckpointConfig
from diffusion.pipeline import HandwritingPipeline
from diffusion.presets import make_config
from feature_extractor import StyleEncoder, StyleEncoderConfig
from tests.helpers import (
    IMG_SIZE,
    TINY_TRAINING,
    WRITERS,
    assert_equal_states,
    clone_checkpoint,
    nudge_zeros,
    run_script,
)
from unet import UNet, grow_unet
from utils.errors import UserError

STYLE_DIM = 6


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    config = make_config("tiny", num_writers=3, vocabulary_size=30, max_length=8, style_dim=STYLE_DIM)
    unet = nudge_zeros(UNet(config)).eval()
    unet.writer_styles[:3] = torch.nn.functional.normalize(torch.randn(3, STYLE_DIM), dim=1)
    unet.writer_styles[3] = 0
    return unet


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    config = StyleEncoderConfig(backbone="resnet18", style_dim=STYLE_DIM, writers=WRITERS, img_size=IMG_SIZE)
    return StyleEncoder(config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def styled(unet, pipeline, encoder):
    return HandwritingPipeline(unet, pipeline.vae, pipeline.config, style_encoder=encoder)


def predict(unet, rows, styles):
    count, width = len(rows), 8
    latents = torch.randn(1, 4, 4, width, generator=torch.Generator().manual_seed(1)).expand(
        count, -1, -1, -1
    )
    ids = torch.ones(count, 8, dtype=torch.int64)
    layout = torch.full((count, 2, 8, width), 0.1)
    return unet(latents, torch.full((count,), 500.0), ids, torch.tensor(rows), layout, None, styles)


def test_another_vector_is_another_hand(unet):
    both = predict(unet, [0, 0], unet.writer_styles[:2])
    assert not torch.allclose(both[0], both[1], atol=1e-4)


def test_a_null_writers_vector_says_nothing(unet):
    assert not unet.style_projection(torch.zeros(2, STYLE_DIM)).any()


def test_styles_are_needed_by_a_model_that_has_them(unet):
    with pytest.raises(ValueError, match="styles must be given"):
        predict(unet, [0], None)


def test_rows_of_a_new_model_with_vectors_are_no_offset():
    unet = UNet(make_config("tiny", num_writers=3, vocabulary_size=30, max_length=8, style_dim=STYLE_DIM))
    assert not unet.writer_embedding.weight[:3].any() and unet.writer_embedding.weight[3].any()


def test_a_grown_model_keeps_vectors_and_its_new_writers_have_none(unet):
    grown = grow_unet(unet, num_writers=5, vocabulary_size=30, max_length=8)
    assert torch.equal(grown.writer_styles[:3], unet.writer_styles[:3]) and not grown.writer_styles[3:].any()
    assert not grown.writer_embedding.weight[3:5].any()
    assert torch.equal(grown.writer_embedding.weight[5], unet.writer_embedding.weight[3])


def test_a_checkpoint_with_vectors_writes_as_before_it_was_saved(styled, tmp_path):
    def write(pipeline):
        writers = [WRITERS[0], {WRITERS[0]: 0.4, WRITERS[1]: 0.6}, None]
        return pipeline(["bead", "cafe", "ab"], writers, num_inference_steps=2, writer_guidance_scale=2.0)

    styled.save_pretrained(tmp_path)
    loaded = HandwritingPipeline.from_pretrained(tmp_path)
    assert loaded.unet.config.style_dim == STYLE_DIM == loaded.style_encoder.config.style_dim
    images = write(loaded)
    assert (images == write(styled)).all() and images.shape == (3, *IMG_SIZE)


@pytest.mark.parametrize("style_dim", [0, -1, 10**6])
def test_a_checkpoint_with_a_senseless_style_dim_is_refused(styled, style_dim):
    values = styled.config.to_dict(styled.unet.config)
    values["unet"]["style_dim"] = style_dim
    with pytest.raises(ValueError, match=r"style_dim .* is not 1 to 8192"):
        CheckpointConfig.from_dict(values)


# Training


@pytest.fixture(scope="module")
def train(encoder, words_folder, vae_folder, tmp_path_factory):
    """Train in this process with the style encoder; returns the run's folder."""
    folder = tmp_path_factory.mktemp("style") / "encoder"
    encoder.save_pretrained(folder, {})

    def run(*argv, save_path=None):
        run = save_path or tmp_path_factory.mktemp("runs") / "run"
        given = ("--dataset_path", words_folder, "--vae", vae_folder, "--save_path", run)
        flags = TINY_TRAINING[2:] if "--init_from" in argv else TINY_TRAINING  # which brings its preset
        run_script("train_diffusion", *given, "--style_encoder", folder, *flags, *argv)
        return run

    return run


@pytest.fixture(scope="module")
def styled_run(train):
    return train("--max_train_steps", 4)


def test_a_run_with_a_style_encoder_keeps_it_and_its_writers_mean_vectors(styled_run):
    pipeline = HandwritingPipeline.from_pretrained(styled_run)
    vectors = pipeline.unet.writer_styles
    assert pipeline.style_encoder is not None and not vectors[3].any()
    assert vectors[:3].norm(dim=1).tolist() == pytest.approx([1.0] * 3, abs=1e-5)
    assert pipeline(["bead"], ["01"], num_inference_steps=1).shape == (1, *IMG_SIZE)


def test_a_resumed_run_with_styles_goes_on_bit_for_bit(train, styled_run, tmp_path):
    run = clone_checkpoint(styled_run / "step_00000002", tmp_path / "run")
    train("--resume", save_path=run)
    assert_equal_states(run / "step_00000004", styled_run / "step_00000004")


def test_a_model_of_rows_takes_no_style_encoder(train, tiny_run, tmp_path):
    run = clone_checkpoint(tiny_run / "step_00000002", tmp_path / "run")
    with pytest.raises(UserError, match="--style_encoder: not the one that the model to go on from"):
        train("--resume", save_path=run)


def test_a_model_of_rows_grows_into_one_of_vectors_and_its_writers_keep_their_hands(train, tiny_run):
    start = HandwritingPipeline.from_pretrained(tiny_run)
    grown = HandwritingPipeline.from_pretrained(
        train("--init_from", tiny_run, "--learning_rate", 1e-12, "--max_train_steps", 1)
    )
    shares = torch.ones(3, 1)
    with torch.no_grad():
        rows = grown.unet.embed_writers(torch.arange(3)[:, None], shares, grown.unet.writer_styles[:3])
    assert torch.allclose(rows, start.unet.writer_embedding.weight[:3], atol=1e-3)
    assert grown.unet.style_spread.any()
