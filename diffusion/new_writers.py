"""Where the rows of writers start that a trained model has never seen: at the known hand that is nearest."""

import torch
import torch.nn.functional as F
from accelerate.utils import broadcast
from torch import Tensor

from diffusion.trainer import DiffusionTrainer
from utils.training import make_generator

MOST_WORDS = 12  # of a new writer, that tell which known hand is the nearest
MOST_HANDS = 64  # known ones that are tried, evenly spread over their rows
# Shares of noise that words are shown with, in turn: with less the hand is in the words, with more the text
# is not either.
NOISE_SHARES = (0.45, 0.75)


@torch.no_grad()
def start_from_nearest(trainer: DiffusionTrainer, known: int) -> dict[str, str]:
    """Start each writer behind the first ``known`` with the row of the known one with which the UNet predicts
    its words best.

    Raw and averaged weights change in place; it must be called before the first step.

    Returns:
        The name of the known writer that each new one starts as.

    Source: a diffusion model as a classifier, Li et al. 2023, https://arxiv.org/abs/2303.16203.
    """
    names = trainer.config.writers
    words: dict[str, list[int]] = {}
    for index in dict.fromkeys(trainer.train_indices):
        words.setdefault(trainer.words.records[index].writer, []).append(index)
    hands = torch.linspace(0, known - 1, min(known, MOST_HANDS)).round().long().to(trainer.device)
    nearest = torch.arange(len(names), device=trainer.device)
    for row in range(known, len(names)):
        nearest[row] = hands[errors_as(trainer, hands, torch.tensor(words[names[row]][:MOST_WORDS])).argmin()]
    nearest = broadcast(nearest)  # processes whose rows differ would train different models
    for unet in (trainer.bare_unet, trainer.ema.module):
        rows = unet.writer_embedding.weight
        rows[known : len(names)] = rows[nearest[known:]]
    return {names[row]: names[nearest[row]] for row in range(known, len(names))}


@torch.no_grad()
def errors_as(trainer: DiffusionTrainer, hands: Tensor, indices: Tensor) -> Tensor:
    """(H,) mean squared errors of the prediction on a few records, as if each of the writers ``hands`` had
    written them.

    Args:
        hands: (H,) rows of the writer embedding.
        indices: (B,) record numbers, on the CPU.
    """
    generator = make_generator(trainer.device, trainer.settings.seed, int(indices[0]), 0x4E)
    latents = trainer.draw_latents(indices, generator)
    noise = torch.randn(latents.shape, device=trainer.device, generator=generator)
    shares = torch.tensor(NOISE_SHARES, device=trainer.device).repeat(len(indices))[: len(indices)]
    timesteps = shares * trainer.schedule.num_train_timesteps
    noisy_latents, target = trainer.schedule.add_noise(latents, noise, timesteps)
    input_ids, _, layout = trainer.conditions.batch(indices.to(trainer.device), latents.shape[-1])
    errors = []
    for hand in hands:
        with trainer.accelerator.autocast():
            prediction = trainer.bare_unet(
                noisy_latents, timesteps, input_ids, hand.expand(len(indices)), layout
            )
        errors.append(F.mse_loss(prediction.float(), target))
    return torch.stack(errors)
