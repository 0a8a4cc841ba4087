"""Classifier-free guidance of a UNet's predictions, for sampling and as the target of a distillation."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.noise_schedule import FULL_INTERVAL
from unet import UNetConfig

# What ``UNet.forward`` takes behind latents and timesteps: input_ids, writer_ids, layout, writer_weights,
# styles.
Conditions = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How strong guidance is, and where.

    Attributes:
        text, writer: scales; 1 is none.
        interval: of timesteps, as shares from 0 (clean) to 1 (noise), in which there is guidance; in the
            others one branch does.
    """

    text: float
    writer: float
    interval: tuple[float, float] = FULL_INTERVAL

    @property
    def is_off(self) -> bool:
        """Whether the prediction stays as it is."""
        return self.text == self.writer == 1

    @property
    def has_middle(self) -> bool:
        """Whether the branch with the text alone is needed."""
        return self.text != self.writer


class GuidedPrediction:
    """A UNet's prediction with guidance on text and on writer, all branches in one batched call.

    ``e00 + s_text (e_t0 - e00) + s_writer (e_tw - e_t0)``, where e00 has neither, e_t0 only the text, e_tw
    both conditions. Equal scales need no e_t0; scales of 1 need one branch.

    Source: classifier-free guidance, Ho and Salimans 2022, https://arxiv.org/abs/2207.12598, equation 6; two
    conditions: Brooks et al. 2023, https://arxiv.org/abs/2211.09800, equation 3; on a part of the trajectory:
    Kynkäänniemi et al. 2024, https://arxiv.org/abs/2404.07724, section 3.

    Args:
        predict: the UNet, called as ``UNet.forward`` is, but that timesteps may be () for all.
        conditions: of a batch of B.
        num_train_timesteps: of the schedule.
    """

    def __init__(
        self,
        predict: Callable[..., Tensor],
        conditions: Conditions,
        guidance: Guidance,
        config: UNetConfig,
        num_train_timesteps: int,
    ) -> None:
        conditions = (*conditions, None, None)[:5]  # of a model that knows its writers by rows alone
        self.predict, self.conditions, self.guidance = predict, conditions, guidance
        self.least, self.most = (end * num_train_timesteps for end in guidance.interval)
        self.others = [] if guidance.is_off else _null_branches(config, conditions, guidance.has_middle)
        self._joined: list[Tensor | None] | None = None

    def __call__(self, latents: Tensor, timesteps: Tensor) -> Tensor:
        """(B, 4, H, W) prediction for noisy latents (B, 4, H, W).

        Args:
            timesteps: () on the CPU, one for all, so that no device is waited for; or (B,).
        """
        levels = timesteps.double()
        inside = (levels >= self.least) & (levels <= self.most)  # () or (B,)
        if not self.others or not inside.any():
            return self.predict(latents, timesteps, *self.conditions)
        if inside.all():
            count = len(self.others) + 1
            if self._joined is None:
                self._joined = _join([*self.others, self.conditions])
            times = timesteps if timesteps.ndim == 0 else timesteps.repeat(count)
            parts = self.predict(latents.repeat(count, 1, 1, 1), times, *self._joined).chunk(count)
            return self._combine(parts)
        rows = inside.nonzero().flatten()
        chosen = [tuple(None if part is None else part[rows] for part in other) for other in self.others]
        parts = self.predict(
            torch.cat([latents[rows]] * len(chosen) + [latents]),
            torch.cat([timesteps[rows]] * len(chosen) + [timesteps]),
            *_join([*chosen, self.conditions]),
        ).split([len(rows)] * len(chosen) + [len(latents)])
        return parts[-1].index_copy(0, rows, self._combine([*parts[:-1], parts[-1][rows]]))

    def _combine(self, parts: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
        """The guided prediction from those of the branches, the one with all conditions last."""
        guided = parts[0] + self.guidance.text * (parts[1] - parts[0])
        return guided + self.guidance.writer * (parts[2] - parts[1]) if len(parts) > 2 else guided


def _join(branches: list[Conditions]) -> list[Tensor | None]:
    return [None if parts[0] is None else torch.cat(parts) for parts in zip(*branches, strict=True)]


def _null_branches(config: UNetConfig, conditions: Conditions, has_middle: bool) -> list[Conditions]:
    """The conditions of the branches beside the one with all: null text and writer; the text alone, if
    ``has_middle``.
    """
    input_ids, rows, layout, shares, styles = conditions
    null_rows = torch.full_like(rows, config.null_writer_id)
    null_shares = None
    if shares is not None:
        null_shares = torch.zeros_like(shares)
        null_shares[:, 0] = 1.0
    null_styles = None if styles is None else torch.zeros_like(styles)
    null_layout = None if layout is None else torch.zeros_like(layout)
    null = (torch.full_like(input_ids, config.pad_id), null_rows, null_layout, null_shares, null_styles)
    text_alone = (input_ids, null_rows, layout, null_shares, null_styles)
    return [null, text_alone] if has_middle else [null]
