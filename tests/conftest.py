"""What many tests share and none changes: a tiny VAE, a word folder, a random model, a run of four steps."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffusion.autoencoder import CompactAutoencoder, hash_vae, load_vae
from diffusion.config import CheckpointConfig
from diffusion.hands import STYLE_SPACE
from diffusion.latent_recogniser import LatentRecogniser, LatentRecogniserConfig
from diffusion.layout import CANVAS_STEP, WidthModel
from diffusion.noise_schedule import RectifiedFlow
from diffusion.pipeline import HandwritingPipeline
from diffusion.presets import make_config
from feature_extractor import StyleEncoder, StyleEncoderConfig
from tests.helpers import IMG_SIZE, TINY_TRAINING, WORDS, WRITERS, make_word_folder, nudge_zeros, run_script
from unet import UNet
from utils.charset import Charset


@pytest.fixture(scope="session")
def vae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compact VAE of random weights, 58,000 of them."""
    folder = tmp_path_factory.mktemp("vae")
    torch.manual_seed(0)
    vae = CompactAutoencoder(
        block_out_channels=(16, 16), layers_per_block=1, scaling_factor=3.0, shift_factor=0.1
    )
    vae.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def words_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 words of three hands, 32x64 pixels."""
    folder = tmp_path_factory.mktemp("data") / "words"
    make_word_folder(folder, WORDS, WRITERS, img_size=IMG_SIZE)
    return folder


@pytest.fixture(scope="session")
def pipeline(vae_folder: Path) -> HandwritingPipeline:
    """A model of random weights, none of them zero, so that everything that it is given changes its
    images.
    """
    characters = tuple("ABZabcdefghijklmnopqrstuvwxyz")
    torch.manual_seed(1)
    unet = nudge_zeros(
        UNet(make_config("tiny", num_writers=3, vocabulary_size=len(characters) + 1, max_length=8))
    )
    vae = load_vae(vae_folder)
    width_model = WidthModel(
        character_widths=dict.fromkeys(characters, 7.0),
        writer_scales=dict(zip(WRITERS, (0.9, 1.0, 1.1), strict=True)),
        left=2.0,
        room=60.0,
    )
    config = CheckpointConfig(
        charset=Charset(characters=characters),
        writers=WRITERS,
        schedule=RectifiedFlow(),
        img_size=IMG_SIZE,
        width_model=width_model,
        vae={"name": str(vae_folder), "hash": hash_vae(vae)},
        canvas_step=CANVAS_STEP,
        extra={"preset": "tiny", "step": 0},
    )
    return HandwritingPipeline(unet, vae, config)


@pytest.fixture(scope="session")
def styled_pipeline(pipeline: HandwritingPipeline) -> HandwritingPipeline:
    """A model of random weights that takes hands from images, whose hands vary in style and widths, with a
    latent recogniser.
    """
    torch.manual_seed(2)
    config = pipeline.config
    vocabulary_size, style_dim = config.charset.vocabulary_size, 6
    encoder = StyleEncoderConfig(
        backbone="resnet18", style_dim=style_dim, writers=WRITERS, img_size=config.img_size
    )
    unet = nudge_zeros(
        UNet(
            make_config(
                "tiny",
                num_writers=len(WRITERS),
                vocabulary_size=vocabulary_size,
                max_length=8,
                style_dim=style_dim,
            )
        )
    )
    unet.writer_styles[:-1] = torch.nn.functional.normalize(torch.randn(len(WRITERS), style_dim), dim=1)
    torch.nn.init.normal_(unet.writer_embedding.weight.data[:-1], std=0.1)
    unet.style_spread.copy_(0.3 * torch.eye(style_dim))
    recogniser = LatentRecogniser(
        LatentRecogniserConfig(vocabulary_size=vocabulary_size, latent_height=4, channels=(8, 8, 8, 16))
    )
    return HandwritingPipeline(
        unet,
        pipeline.vae,
        replace(
            config,
            width_model=replace(config.width_model, spread=0.2),
            extra={**config.extra, STYLE_SPACE: "abc"},
        ),
        recogniser.eval().requires_grad_(False),
        StyleEncoder(encoder).eval().requires_grad_(False),
    )


@pytest.fixture(scope="session")
def styled_checkpoint(styled_pipeline: HandwritingPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``styled_pipeline`` as a checkpoint folder."""
    folder = tmp_path_factory.mktemp("styled")
    styled_pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(pipeline: HandwritingPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``pipeline`` as a checkpoint folder."""
    folder = tmp_path_factory.mktemp("checkpoint")
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_run(words_folder: Path, vae_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of train_diffusion.py: four steps, checkpoints at 2 and 4."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    run_script(
        "train_diffusion",
        "--dataset_path",
        words_folder,
        "--vae",
        vae_folder,
        "--save_path",
        run,
        "--max_train_steps",
        4,
        *TINY_TRAINING,
    )
    return run
