"""The latent recogniser of a training: it learns from the same images, before the generator does."""

import math
import shutil
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from diffusion.latent_recogniser import LatentRecogniser, LatentRecogniserConfig, train_latent_recogniser
from diffusion.trainer import DiffusionTrainer
from utils.checkpoint import CONFIG_NAME
from utils.errors import UserError
from utils.training import make_generator


def prepare_latent_recogniser(trainer: DiffusionTrainer, folder: Path, start: Path | None = None) -> None:
    """Teach a latent recogniser a run's texts, on the main process, and save it in ``folder``; a run that
    goes on keeps its own.

    Args:
        start: folder of a latent recogniser that knows the letters already: it learns for a fifth of the
            steps. Of a run that goes on, that of its checkpoint: it is taken as it is.
    Raises:
        UserError: for published weights, whose padding is a letter too.
    """
    if trainer.config.charset.pad_id:
        raise UserError(
            "--recognition_weight, --alignment: published weights have one symbol for padding and z, which no"
            " recogniser can tell apart. Give --recognition_weight 0, and leave --alignment out."
        )
    if trainer.accelerator.is_main_process:
        has_one = bool(trainer.step and (folder / CONFIG_NAME).is_file())
        if trainer.step and start and not has_one:
            shutil.copytree(start, folder)
        elif not has_one:
            _teach(trainer, folder, start)
    trainer.accelerator.wait_for_everyone()
    trainer.latent_recogniser = LatentRecogniser.from_pretrained(folder).to(trainer.device)


def _teach(trainer: DiffusionTrainer, folder: Path, start: Path | None) -> None:
    s, vocabulary_size = trainer.settings, trainer.config.charset.vocabulary_size
    torch.manual_seed(s.seed)
    if start is None:
        steps = s.recogniser_steps
        cache = trainer.latents.cache
        config = LatentRecogniserConfig(
            vocabulary_size=vocabulary_size, latent_channels=cache.channels, latent_height=cache.height
        )
        recogniser = LatentRecogniser(config)
    else:
        steps = math.ceil(s.recogniser_steps / 5)
        recogniser = LatentRecogniser.from_pretrained(start).grow(vocabulary_size)

    def draw(step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, ids in the order along the line, and lengths, for a step."""
        indices = trainer.sampler.batch(step)
        latents = trainer.draw_latents(indices, make_generator(trainer.device, s.seed, step, 0xDA7A))
        ids = trainer.conditions.reading_ids[indices.to(trainer.device)]
        return latents, ids, trainer.conditions.lengths[indices]

    # fp16 would need its loss scaled.
    autocast = nullcontext if trainer.accelerator.mixed_precision == "fp16" else trainer.accelerator.autocast
    loss = train_latent_recogniser(recogniser.to(trainer.device), draw, steps, seed=s.seed, autocast=autocast)
    recogniser.save_pretrained(folder)
    print(f"recogniser  {steps} steps, loss {loss:.3f} nats a character")
