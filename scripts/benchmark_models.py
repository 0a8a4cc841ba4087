"""The models that the benchmark times: ours and the published procedure, with random weights, on made-up
words of IAM's lengths.
"""

import random
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL
from torch import nn

from diffusion.autoencoder import CompactAutoencoder, hash_vae
from diffusion.config import CheckpointConfig
from diffusion.latent_recogniser import LatentRecogniser, LatentRecogniserConfig
from diffusion.layout import CANVAS_STEP, WidthModel
from diffusion.noise_schedule import RectifiedFlow, VarianceSchedule
from diffusion.pipeline import HandwritingPipeline
from diffusion.presets import make_config
from diffusion.trainer import DiffusionTrainer
from diffusion.training_settings import TrainingSettings
from generation.jobs import jobs_of_texts
from generation.sampling import SamplingSettings, write_batches
from unet import UNet
from utils.charset import Charset
from utils.device import compile_in_place
from utils.sources import TrainingSet
from utils.text_images import TextImage
from utils.vocabulary import dictionary_words

CHARACTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
WRITERS = 339  # of IAM's training set
IMG_SIZE = (64, 256)
PIXELS_A_CHARACTER = 28  # of IAM words 64 pixels high
WORD_LENGTHS = (2, 3, 3, 4, 4, 4, 5, 5, 6, 7)  # about as IAM's words of 2 to 7 letters


def make_sd_vae() -> AutoencoderKL:
    """A VAE of Stable Diffusion's architecture (83.7 M parameters), random weights."""
    blocks = (128, 256, 512, 512)
    torch.manual_seed(0)
    return (
        AutoencoderKL(
            in_channels=3,
            out_channels=3,
            latent_channels=4,
            layers_per_block=2,
            block_out_channels=blocks,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=32,
            sample_size=512,
            scaling_factor=0.18215,
        )
        .eval()
        .requires_grad_(False)
    )


def make_checkpoint_config(vae: nn.Module, preset: str) -> CheckpointConfig:
    """The config of a model for IAM; words are as wide as IAM's."""
    widths = WidthModel(
        character_widths=dict.fromkeys(CHARACTERS, float(PIXELS_A_CHARACTER)),
        writer_scales={},
        left=4.0,
        room=IMG_SIZE[1] - 8.0,
    )
    return CheckpointConfig(
        charset=Charset(characters=CHARACTERS),
        writers=tuple(f"{i:03d}" for i in range(WRITERS)),
        schedule=RectifiedFlow(),
        img_size=IMG_SIZE,
        width_model=widths,
        vae={"name": "random", "hash": hash_vae(vae)},
        canvas_step=CANVAS_STEP,
        extra={"preset": preset},
    )


def make_unet(preset: str, **changes) -> UNet:
    """A UNet for IAM with random weights; ``changes`` override fields of its configuration."""
    torch.manual_seed(0)
    config = make_config(
        preset,
        num_writers=WRITERS,
        vocabulary_size=len(CHARACTERS) + 1,
        max_length=max(WORD_LENGTHS),
        **changes,
    )
    return UNet(config)


def draw_texts(count: int) -> list[str]:
    """Random letters in the lengths of IAM's words."""
    draw = random.Random(0)
    return [
        "".join(draw.choices(CHARACTERS[26:], k=WORD_LENGTHS[i % len(WORD_LENGTHS)])) for i in range(count)
    ]


class MadeUpCache:
    """Random latents in place of a latent cache, as wide as IAM's words."""

    def __init__(self, texts: Sequence[str], is_full: bool) -> None:
        rng = np.random.default_rng(0)
        self.channels, self.height = 4, IMG_SIZE[0] // 8
        self.starts = np.arange(len(texts) + 1) * (IMG_SIZE[1] // 8)
        shape = (self.starts[-1] + 1, 2, self.channels, self.height)
        self.columns = rng.standard_normal(shape).astype(np.float16)
        self.columns[:, 1] = 0.1
        widths = [IMG_SIZE[1] - 8 if is_full else PIXELS_A_CHARACTER * len(text) for text in texts]
        self.ink = np.array([(4, 4, min(4 + width, IMG_SIZE[1] - 4), 60) for width in widths], np.float32)


def published_train_step(vae: nn.Module, batch_size: int, device: torch.device) -> Callable[[], None]:
    """A step as published: fp32, each image encoded in it, AdamW, averaged weights updated one by one."""
    unet = make_unet("wordstylist").to(device)
    averaged = make_unet("wordstylist").to(device).requires_grad_(False)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4)
    scheduler = VarianceSchedule().noise_scheduler
    images = torch.rand(batch_size, 3, *IMG_SIZE, device=device) * 2 - 1
    ids = torch.randint(0, len(CHARACTERS), (batch_size, max(WORD_LENGTHS)), device=device)
    writers = torch.randint(0, WRITERS, (batch_size,), device=device)

    def step() -> None:
        with torch.no_grad():
            latents = vae.encode(images).latent_dist.sample() * 0.18215
        noise = torch.randn_like(latents)
        timesteps = torch.randint(1, 1000, (batch_size,), device=device)
        loss = F.mse_loss(
            unet(scheduler.add_noise(latents, noise, timesteps), timesteps, ids, writers, None), noise
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for mean, current in zip(averaged.parameters(), unet.parameters(), strict=True):
                mean.copy_(mean * 0.995 + current * 0.005)
        loss.item()  # it is logged

    return step


def our_train_step(
    preset: str,
    mixed_precision: str,
    device: torch.device,
    batch_size: int,
    *,
    is_full: bool,
    is_compiled: bool = False,
) -> Callable[[], None]:
    """A step of ``train_diffusion.py``; ``is_full``: all words fill the image."""
    texts = draw_texts(64 * batch_size)
    records = tuple(
        TextImage(file_name=f"images/{i}.png", text=text, writer=f"{i % WRITERS:03d}")
        for i, text in enumerate(texts)
    )
    words = TrainingSet(
        records=records,
        paths=tuple(Path("benchmark") / r.file_name for r in records),
        shares=(1.0,) * len(records),
    )
    accelerator = Accelerator(mixed_precision=mixed_precision, cpu=device.type == "cpu")
    vae = CompactAutoencoder()
    unet = make_unet(preset)
    settings = TrainingSettings(
        max_train_steps=10**6,
        schedule_steps=10**6,
        batch_size=batch_size,
        learning_rate=1e-4,
        recognition_weight=0.5,
    )
    trainer = DiffusionTrainer(
        accelerator,
        unet,
        make_checkpoint_config(vae, preset),
        vae,
        words,
        MadeUpCache(texts, is_full),
        settings,
    )
    trainer.latent_recogniser = (
        LatentRecogniser(LatentRecogniserConfig(vocabulary_size=len(CHARACTERS) + 1))
        .requires_grad_(False)
        .to(trainer.device)
    )
    if is_compiled:
        compile_in_place(trainer.bare_unet, trainer.device)

    def step() -> None:
        trainer.train_step()["loss"].item()

    return step


def published_sampling(vae: nn.Module, device: torch.device) -> tuple[Callable[[], None], Callable[[], None]]:
    """One step of the published sampling of one word (two calls), and the decoding that follows the last."""
    unet = make_unet("wordstylist").to(device).eval().requires_grad_(False)
    latents = torch.randn(1, 4, IMG_SIZE[0] // 8, IMG_SIZE[1] // 8, device=device)
    ids = torch.randint(0, len(CHARACTERS), (1, max(WORD_LENGTHS)), device=device)
    writer = torch.zeros(1, dtype=torch.int64, device=device)

    @torch.no_grad()
    def step() -> None:
        timesteps = torch.full((1,), 500, device=device)
        with_condition, without = (unet(latents, timesteps, ids, writer, None) for _ in range(2))
        torch.lerp(without, with_condition, 3.0)

    @torch.no_grad()
    def decode() -> None:
        vae.decode(latents / 0.18215)

    return step, decode


def write_shipped(pipeline: HandwritingPipeline, batch_size: int) -> tuple[Callable[[], None], int]:
    """A call that writes dictionary words at the defaults, as inference.py does, and the number of words."""
    count = 1 if batch_size == 1 else 4 * batch_size  # several batches: words of one width share one
    texts = list(islice(dictionary_words(pipeline.config.charset.characters, seed=0), count))
    jobs = jobs_of_texts(texts, None, pipeline.config.writers)
    settings = SamplingSettings(batch_size=batch_size)
    return lambda: list(write_batches(pipeline, jobs, settings)), count
