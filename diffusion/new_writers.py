"""Where the rows of writers start that a trained model has never seen: at the known hand that is nearest."""

import torch
import torch.nn.functional as F
from accelerate.utils import broadcast
from torch import Tensor
from tqdm import tqdm

from diffusion.trainer import DiffusionTrainer
from utils.training import make_generator

# Text images of a new writer that tell which known hand is the nearest: fewer where many writers are new.
WORDS = (2, 12)
HANDS = (8, 64)  # known ones that are tried, evenly spread over their rows; likewise
MOST_PREDICTIONS = 20_000  # of all new writers together, about a minute on two cores
TELLING = 3  # characters of a text from which on it shows a hand
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
    num_words, num_hands = share_out(len(names) - known, known)
    hands = torch.linspace(0, known - 1, num_hands).round().long().to(trainer.device)
    nearest = torch.arange(len(names), device=trainer.device)
    for row in tqdm(range(known, len(names)), desc="nearest hands", unit="writer", leave=False):
        # Narrow images cost least; but for the shortest texts they tell as much as wide ones.
        own = sorted(words[names[row]], key=lambda i: (is_short(trainer, i), trainer.canvases[i]))
        nearest[row] = hands[errors_as(trainer, hands, torch.tensor(own[:num_words])).argmin()]
    nearest = broadcast(nearest)  # processes whose rows differ would train different models
    for unet in (trainer.bare_unet, trainer.ema.module):
        rows = unet.writer_embedding.weight
        rows[known : len(names)] = rows[nearest[known:]]
    return {names[row]: names[nearest[row]] for row in range(known, len(names))}


def is_short(trainer: DiffusionTrainer, index: int) -> bool:
    """Whether a record's text is too short to show a hand."""
    return len(trainer.words.records[index].text) < TELLING


def share_out(new: int, known: int) -> tuple[int, int]:
    """Words of each new writer and known hands that are tried with them, so that there are no more than
    ``MOST_PREDICTIONS``, but for the fewest of both.
    """
    new, known = max(new, 1), min(known, HANDS[1])
    words = min(WORDS[1], max(WORDS[0], MOST_PREDICTIONS // (new * known)))
    return words, min(known, max(HANDS[0], MOST_PREDICTIONS // (new * words)))


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
    # Whole ones: a schedule of variances has no others.
    timesteps = (shares * trainer.schedule.num_train_timesteps).round().long()
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
