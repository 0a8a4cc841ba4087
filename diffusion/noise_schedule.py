"""Noise schedules for training and diffusers' schedulers for sampling; any callable can be the denoiser."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import ClassVar

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
from utils.json_files import fill_dataclass

FLOW_PREDICTION = "flow_prediction"
VARIANCE_PREDICTIONS = ("epsilon", "v_prediction")
PREDICTION_TYPES = (*VARIANCE_PREDICTIONS, FLOW_PREDICTION)
SCHEDULERS = ("dpmsolver++", "unipc", "ddim", "ddpm", "euler")
DEFAULT_SCHEDULER = "dpmsolver++"
FULL_INTERVAL = (0.0, 1.0)
FLOW_INTERVAL = (0.25, 0.9)  # where guidance helps a flow model: as legible, and nearer to the hand
MULTISTEP = {"solver_order": 2, "timestep_spacing": "trailing"}


@dataclass(frozen=True, kw_only=True)
class NoiseSchedule(ABC):
    """The forward process of training, and what the UNet predicts.

    Attributes:
        prediction_type: what the UNet predicts, one of ``prediction_types``.
        scheduler_names: diffusers' schedulers that can sample it.
        guidance_interval: of timesteps, as shares from 0 (clean) to 1 (noise), in which guidance helps.
    """

    num_train_timesteps: int = 1000
    prediction_type: str
    prediction_types: ClassVar[tuple[str, ...]]
    scheduler_names: ClassVar[tuple[str, ...]]
    guidance_interval: ClassVar[tuple[float, float]]

    def __post_init__(self) -> None:
        if self.prediction_type not in self.prediction_types:
            raise UserError(
                f"--prediction_type {self.prediction_type}: not one of {', '.join(self.prediction_types)}"
            )

    def to_dict(self) -> dict:
        """The fields as a dictionary for ``config.json``."""
        return asdict(self)

    @abstractmethod
    def draw_timesteps(self, count: int, device: torch.device, generator: torch.Generator) -> Tensor:
        """(count,) random timesteps in [0, num_train_timesteps)."""

    @abstractmethod
    def spread_timesteps(self, count: int, device: torch.device) -> Tensor:
        """(count,) fixed timesteps, evenly spread, for validation."""

    @abstractmethod
    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Noisy latents and the target of the prediction, both (B, 4, H, W)."""

    @abstractmethod
    def predict_clean(
        self, noisy_latents: Tensor, prediction: Tensor, timesteps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The clean latents (B, 4, H, W) that a prediction implies, and (B,) the signal's share of the noisy
        ones' power.
        """

    @abstractmethod
    def _build_scheduler(self, name: str):
        """The scheduler of a name that is among ``scheduler_names``."""

    def make_scheduler(self, name: str = DEFAULT_SCHEDULER):
        """A fresh diffusers scheduler for one batch: multistep ones keep state.

        Raises:
            UserError: if this schedule can't be sampled by it.
        """
        if name not in self.scheduler_names:
            raise UserError(
                f"--scheduler {name}: a model of {self.prediction_type} is sampled by "
                f"{', '.join(self.scheduler_names)}"
            )
        return self._build_scheduler(name)


@dataclass(frozen=True, kw_only=True)
class RectifiedFlow(NoiseSchedule):
    """Rectified flow: x_t = (1 - t) x + t noise with target noise - x and logit-normal t.

    Its timesteps are t * 1000, floats in (0, 1000).

    Source: Esser et al. 2024, https://arxiv.org/abs/2403.03206, sections 2 and 3.1.
    """

    prediction_type: str = FLOW_PREDICTION
    prediction_types: ClassVar[tuple[str, ...]] = (FLOW_PREDICTION,)
    scheduler_names: ClassVar[tuple[str, ...]] = ("dpmsolver++", "unipc", "euler")
    guidance_interval: ClassVar[tuple[float, float]] = FLOW_INTERVAL

    def draw_timesteps(self, count: int, device: torch.device, generator: torch.Generator) -> Tensor:
        """(count,) floats in (0, 1000), more of them in the middle."""
        return torch.randn(count, device=device, generator=generator).sigmoid() * self.num_train_timesteps

    def spread_timesteps(self, count: int, device: torch.device) -> Tensor:
        """(count,) floats, evenly spread."""
        return (torch.arange(count, device=device) + 0.5) / count * self.num_train_timesteps

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """See ``NoiseSchedule.add_noise``."""
        t = (timesteps / self.num_train_timesteps).to(latents.dtype)[:, None, None, None]
        return (1 - t) * latents + t * noise, noise - latents

    def predict_clean(
        self, noisy_latents: Tensor, prediction: Tensor, timesteps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See ``NoiseSchedule.predict_clean``."""
        t = (timesteps / self.num_train_timesteps).to(noisy_latents.dtype)
        share = (1 - t) ** 2 / ((1 - t) ** 2 + t**2)
        return noisy_latents - t[:, None, None, None] * prediction, share

    def _build_scheduler(self, name: str):
        if name == "euler":
            return FlowMatchEulerDiscreteScheduler(num_train_timesteps=self.num_train_timesteps)
        settings = {
            **MULTISTEP,
            "num_train_timesteps": self.num_train_timesteps,
            "prediction_type": self.prediction_type,
            "use_flow_sigmas": True,
            "flow_shift": 1.0,
        }
        if name == "unipc":
            return UniPCMultistepScheduler(**settings)
        return DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", **settings)


@dataclass(frozen=True, kw_only=True)
class VarianceSchedule(NoiseSchedule):
    """The published variance schedule: linear betas over 1,000 timesteps, which are whole numbers.

    Source: Ho et al. 2020, https://arxiv.org/abs/2006.11239, section 4; ``v_prediction``: Salimans and Ho
    2022, https://arxiv.org/abs/2202.00512, section 4.
    """

    prediction_type: str = "epsilon"
    beta_schedule: str = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02
    prediction_types: ClassVar[tuple[str, ...]] = VARIANCE_PREDICTIONS
    scheduler_names: ClassVar[tuple[str, ...]] = ("dpmsolver++", "unipc", "ddim", "ddpm")
    guidance_interval: ClassVar[tuple[float, float]] = FULL_INTERVAL

    @cached_property
    def noise_scheduler(self) -> DDPMScheduler:
        """The table of variances that noises training latents."""
        return self._build(DDPMScheduler, clip_sample=False, timestep_spacing="leading")

    def draw_timesteps(self, count: int, device: torch.device, generator: torch.Generator) -> Tensor:
        """(count,) whole numbers in [0, 1000) with equal chance."""
        return torch.randint(0, self.num_train_timesteps, (count,), device=device, generator=generator)

    def spread_timesteps(self, count: int, device: torch.device) -> Tensor:
        """(count,) whole numbers, evenly spread."""
        spread = (torch.arange(count, device=device) + 0.5) / count * self.num_train_timesteps
        return spread.long()

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """See ``NoiseSchedule.add_noise``."""
        noisy_latents = self.noise_scheduler.add_noise(latents, noise, timesteps)
        if self.prediction_type == "epsilon":
            return noisy_latents, noise
        return noisy_latents, self.noise_scheduler.get_velocity(latents, noise, timesteps)

    def predict_clean(
        self, noisy_latents: Tensor, prediction: Tensor, timesteps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See ``NoiseSchedule.predict_clean``."""
        share = self.noise_scheduler.alphas_cumprod.to(noisy_latents.device)[timesteps]
        signal, noise = share.sqrt()[:, None, None, None], (1 - share).sqrt()[:, None, None, None]
        if self.prediction_type == "epsilon":
            return (noisy_latents - noise * prediction) / signal, share
        return signal * noisy_latents - noise * prediction, share

    def _build_scheduler(self, name: str):
        if name in ("ddim", "ddpm"):
            # clip_sample would clamp latents to [-1, 1] and ruin them.
            kind = DDIMScheduler if name == "ddim" else DDPMScheduler
            return self._build(kind, clip_sample=False, timestep_spacing="trailing")
        if name == "unipc":
            return self._build(UniPCMultistepScheduler, **MULTISTEP)
        return self._build(DPMSolverMultistepScheduler, algorithm_type="dpmsolver++", **MULTISTEP)

    def _build(self, kind: type, **settings):
        return kind(
            prediction_type=self.prediction_type,
            num_train_timesteps=self.num_train_timesteps,
            beta_schedule=self.beta_schedule,
            beta_start=self.beta_start,
            beta_end=self.beta_end,
            **settings,
        )


def make_schedule(prediction_type: str = FLOW_PREDICTION) -> NoiseSchedule:
    """The schedule of what a UNet predicts.

    Raises:
        UserError: if there is none of this name.
    """
    if prediction_type == FLOW_PREDICTION:
        return RectifiedFlow()
    if prediction_type in VARIANCE_PREDICTIONS:
        return VarianceSchedule(prediction_type=prediction_type)
    raise UserError(f"--prediction_type {prediction_type}: not one of {', '.join(PREDICTION_TYPES)}")


def read_schedule(values: Mapping[str, object], where: str) -> NoiseSchedule:
    """The schedule that ``config.json`` describes.

    Args:
        where: the file and entry, to name in messages.
    Raises:
        UserError: if a value is unknown or wrong.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: {values!r:.80} is not an object")
    prediction_type = values.get("prediction_type")
    if prediction_type not in PREDICTION_TYPES:
        raise UserError(
            f"{where}: prediction_type {prediction_type!r:.80} is none of {', '.join(PREDICTION_TYPES)}"
        )
    is_flow = prediction_type == FLOW_PREDICTION
    # A flow has no variances, though earlier versions wrote their usual ones beside it.
    unused = {"beta_schedule", "beta_start", "beta_end"} if is_flow else set()
    kept = {name: value for name, value in values.items() if name not in unused}
    schedule = fill_dataclass(RectifiedFlow if is_flow else VarianceSchedule, kept, where)
    if not 1 < schedule.num_train_timesteps <= 100_000:
        raise UserError(f"{where}: num_train_timesteps {schedule.num_train_timesteps} is not 2 to 100000")
    if isinstance(schedule, VarianceSchedule):
        if schedule.beta_schedule not in ("linear", "scaled_linear", "squaredcos_cap_v2"):
            raise UserError(f"{where}: beta_schedule {schedule.beta_schedule!r:.80} is unknown")
        if not 0 < schedule.beta_start <= schedule.beta_end < 1:
            raise UserError(
                f"{where}: beta_start {schedule.beta_start} and beta_end {schedule.beta_end} do not rise"
                " between 0 and 1"
            )
    return schedule


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
    extra = {"generator": list(generators)} if takes_generator else {}
    on_cpu = scheduler.timesteps.cpu()  # one wait for the GPU, not one a step
    for timestep, timestep_on_cpu in zip(scheduler.timesteps, on_cpu, strict=True):
        prediction = denoise(latents, timestep_on_cpu)
        latents = scheduler.step(prediction, timestep, latents, **extra).prev_sample
    return latents
