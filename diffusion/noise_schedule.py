"""Noise schedules for training and diffusers' schedulers for sampling; any callable can be the denoiser."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from utils.errors import UserError

PREDICTION_TYPES = ("epsilon", "v_prediction", "flow_prediction")
SCHEDULERS = ("dpmsolver++", "unipc", "ddim", "ddpm", "euler")
_FLOW_SCHEDULERS = ("dpmsolver++", "unipc", "euler")
_NOISE_SCHEDULERS = ("dpmsolver++", "unipc", "ddim", "ddpm")


@dataclass(frozen=True)
class NoiseSchedule:
    """The forward process of training, and what the UNet predicts.

    ``epsilon`` and ``v_prediction`` use the published variance schedule (linear betas over 1,000 timesteps;
    Ho et al. 2020, https://arxiv.org/abs/2006.11239, section 4; v: Salimans and Ho 2022,
    https://arxiv.org/abs/2202.00512, section 4). ``flow_prediction`` is rectified flow, x_t = (1 - t) x + t
    noise with target noise - x and logit-normal t (Esser et al. 2024, https://arxiv.org/abs/2403.03206,
    sections 2 and 3.1); its timesteps are t * 1000.
    """

    prediction_type: str = "flow_prediction"
    num_train_timesteps: int = 1000
    beta_schedule: str = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def __post_init__(self) -> None:
        if self.prediction_type not in PREDICTION_TYPES:
            raise UserError(
                f"--prediction_type {self.prediction_type}: not one of {', '.join(PREDICTION_TYPES)}"
            )

    def to_dict(self) -> dict:
        """The fields as a dictionary for ``config.json``."""
        return asdict(self)

    @property
    def is_flow(self) -> bool:
        """True for rectified flow."""
        return self.prediction_type == "flow_prediction"

    def _betas(self) -> dict:
        return {
            "num_train_timesteps": self.num_train_timesteps,
            "beta_schedule": self.beta_schedule,
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
        }

    def make_noise_scheduler(self) -> DDPMScheduler | None:
        """The scheduler that noises training latents; None for flow, which needs no table."""
        if self.is_flow:
            return None
        return DDPMScheduler(
            prediction_type=self.prediction_type,
            clip_sample=False,
            timestep_spacing="leading",
            **self._betas(),
        )

    def draw_timesteps(self, count: int, device: torch.device, generator: torch.Generator) -> Tensor:
        """(count,) timesteps: whole ones in [0, 1000) with equal chance, or for flow floats in (0, 1000)."""
        if self.is_flow:
            return torch.randn(count, device=device, generator=generator).sigmoid() * self.num_train_timesteps
        return torch.randint(0, self.num_train_timesteps, (count,), device=device, generator=generator)

    def spread_timesteps(self, count: int, device: torch.device) -> Tensor:
        """(count,) fixed timesteps, evenly spread, for validation."""
        spread = (torch.arange(count, device=device) + 0.5) / count * self.num_train_timesteps
        return spread if self.is_flow else spread.long()

    def add_noise(
        self, noise_scheduler: DDPMScheduler | None, latents: Tensor, noise: Tensor, timesteps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Noisy latents and the target of the prediction, both (B, 4, H, W)."""
        if self.is_flow:
            t = (timesteps / self.num_train_timesteps).to(latents.dtype)[:, None, None, None]
            return (1 - t) * latents + t * noise, noise - latents
        noisy_latents = noise_scheduler.add_noise(latents, noise, timesteps)
        if self.prediction_type == "epsilon":
            return noisy_latents, noise
        return noisy_latents, noise_scheduler.get_velocity(latents, noise, timesteps)

    def predict_clean(
        self,
        noise_scheduler: DDPMScheduler | None,
        noisy_latents: Tensor,
        prediction: Tensor,
        timesteps: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The clean latents (B, 4, H, W) that a prediction implies, and (B,) the signal's share of the noisy
        ones' power.
        """
        if self.is_flow:
            t = (timesteps / self.num_train_timesteps).to(noisy_latents.dtype)
            share = (1 - t) ** 2 / ((1 - t) ** 2 + t**2)
            return noisy_latents - t[:, None, None, None] * prediction, share
        share = noise_scheduler.alphas_cumprod.to(noisy_latents.device)[timesteps]
        signal, noise = share.sqrt()[:, None, None, None], (1 - share).sqrt()[:, None, None, None]
        if self.prediction_type == "epsilon":
            return (noisy_latents - noise * prediction) / signal, share
        return signal * noisy_latents - noise * prediction, share

    def make_scheduler(self, name: str = "dpmsolver++"):
        """A fresh diffusers scheduler for one batch: multistep ones keep state.

        Raises:
            ValueError: if this schedule can't be sampled by it.
        """
        known = _FLOW_SCHEDULERS if self.is_flow else _NOISE_SCHEDULERS
        if name not in known:
            raise UserError(
                f"--scheduler {name}: a model of {self.prediction_type} is sampled by {', '.join(known)}"
            )
        if name == "euler":
            return FlowMatchEulerDiscreteScheduler(num_train_timesteps=self.num_train_timesteps)
        if name in ("ddim", "ddpm"):
            # clip_sample would clamp latents to [-1, 1] and ruin them.
            kind = DDIMScheduler if name == "ddim" else DDPMScheduler
            return kind(
                prediction_type=self.prediction_type,
                clip_sample=False,
                timestep_spacing="trailing",
                **self._betas(),
            )
        extra = {"solver_order": 2, "prediction_type": self.prediction_type, "timestep_spacing": "trailing"}
        if self.is_flow:
            extra |= {"use_flow_sigmas": True, "flow_shift": 1.0}
        if name == "unipc":
            return UniPCMultistepScheduler(**extra, **self._betas())
        return DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", **extra, **self._betas())


def draw_noise(shape: Sequence[int], generators: Sequence[torch.Generator], device: torch.device) -> Tensor:
    """(B, *shape) noise, each row from its own CPU generator: the same at any batch size and on any
    device.
    """
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)


@torch.no_grad()
def sample_latents(
    denoise: Callable[[Tensor, Tensor], Tensor],
    scheduler,
    noise: Tensor,
    num_inference_steps: int,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Run a scheduler from noise to latents.

    Args:
        denoise: (noisy latents (B, 4, H, W), timestep () on the CPU) to the prediction (B, 4, H, W).
        scheduler: a fresh one.
        generators: one per image, for schedulers that add noise on the way.
    """
    scheduler.set_timesteps(num_inference_steps, device=noise.device)
    latents = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    takes_generator = isinstance(scheduler, (DDPMScheduler, DDIMScheduler))
    for timestep, on_cpu in zip(
        scheduler.timesteps, scheduler.timesteps.cpu(), strict=True
    ):  # one wait for the GPU, not one a step
        extra = {"generator": list(generators)} if takes_generator else {}
        latents = scheduler.step(denoise(latents, on_cpu), timestep, latents, **extra).prev_sample
    return latents
