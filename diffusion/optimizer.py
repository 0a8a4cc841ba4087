"""The optimiser of a generator's training, and its learning rates."""

from itertools import groupby

import torch

from diffusion.training_settings import TrainingSettings
from unet import UNet
from utils.training import learning_rate_factor


def make_optimizer(unet: UNet, settings: TrainingSettings, device: torch.device) -> torch.optim.AdamW:
    """AdamW whose groups have a ``rate_factor``: 1, or for the writer embedding
    ``settings.writer_rate_factor``.
    """
    groups = []
    # Neighbours make a group, so that the optimiser numbers the parameters as the UNet does: a saved state
    # fits any groups.
    for is_writer, named in groupby(
        unet.named_parameters(), lambda item: item[0] == "writer_embedding.weight"
    ):
        has_own_rate = is_writer and settings.writer_rate_factor is not None
        groups.append(
            {
                "params": [parameter for _, parameter in named],
                "rate_factor": settings.writer_rate_factor if has_own_rate else 1.0,
                "weight_decay": 0.0 if has_own_rate else settings.weight_decay,
            }
        )
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=device.type in ("cpu", "cuda"))


def set_learning_rate(optimizer: torch.optim.Optimizer, settings: TrainingSettings, step: int) -> float:
    """Give each group of ``make_optimizer`` its learning rate of a step (from 0); returns that of most."""
    rate = settings.learning_rate * learning_rate_factor(
        step,
        warmup_steps=settings.lr_warmup_steps,
        horizon=settings.schedule_steps,
        schedule=settings.lr_schedule,
    )
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"]
    return rate
