"""A student: a model that was distilled to write in a few passes, each a step over a fixed grid of noise
levels, with the guidance of its teacher learnt.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffusion.guided_prediction import Guidance
from utils.errors import UserError

STUDENT = "student"  # entry of config.json
MOST_STEPS = 64


@dataclass(frozen=True, kw_only=True)
class Student:
    """What a student's drawing is fixed to.

    Attributes:
        grid: noise levels at which its UNet is asked, falling, from 1 (noise) to above 0 (clean).
        guidance: what its predictions have learnt.
        teacher: whose student it is: its data set, step and preset.
    """

    grid: tuple[float, ...]
    guidance: Guidance
    teacher: Mapping[str, object] = field(default_factory=dict)

    @property
    def num_steps(self) -> int:
        """Passes of the UNet that a drawing takes."""
        return len(self.grid)

    def to_dict(self) -> dict:
        """The entry ``student`` of ``config.json``."""
        return {
            "grid": list(self.grid),
            "guidance_scale": self.guidance.text,
            "writer_guidance_scale": self.guidance.writer,
            "guidance_interval": list(self.guidance.interval),
            "teacher": dict(self.teacher),
        }

    def check_sampling(self, settings: Mapping[str, object]) -> None:
        """Raise a UserError for settings that a student has no choice in.

        Args:
            settings: flags by name, None where not given.
        """
        steps = settings.get("num_steps")
        if steps not in (None, self.num_steps):
            raise UserError(
                f"--num_steps {steps}: this model is a student, which has learnt to draw in just"
                f" {self.num_steps} steps. Leave --num_steps out, or take its teacher"
                " (the folder teacher of its checkpoint, if there is one)."
            )
        for name, value in settings.items():
            if value is not None and name != "num_steps":
                shown = " ".join(map(str, value)) if isinstance(value, (tuple, list)) else value
                raise UserError(
                    f"--{name} {shown}: this model is a student, whose steps and guidance (scale"
                    f" {self.guidance.text:g}) are fixed by its training. Leave --{name} out, or take its"
                    " teacher (the folder teacher of its checkpoint, if there is one)."
                )

    @torch.no_grad()
    def walk(
        self, denoise: Callable[[Tensor, Tensor], Tensor], noise: Tensor, num_train_timesteps: int
    ) -> Tensor:
        """Latents (B, 4, H, W) from noise: one step of Euler's from each level of the grid to the next.

        Args:
            denoise: (noisy latents, timestep () on the CPU) to the mean velocity of a step.
        """
        latents = noise
        for level, following in zip(self.grid, (*self.grid[1:], 0.0), strict=True):
            velocity = denoise(latents, torch.tensor(level * num_train_timesteps))
            latents = latents + (following - level) * velocity
        return latents


def check_no_student(student: Student | None, where: str, way_out: str) -> None:
    """Raise a UserError for a student, which can't be trained as other models are: its UNet predicts the mean
    velocity of its steps with guidance, and not what the images say.

    Args:
        student: of a model, None for all others.
        where: the flag and its value, to name in the message.
        way_out: what to do instead, a sentence.
    """
    if student is not None:
        raise UserError(
            f"{where}: a student of {student.num_steps} steps, which learns from its teacher alone. {way_out}"
        )


def read_student(values: object, where: str) -> Student | None:
    """The student that ``config.json`` describes; None without such an entry.

    Args:
        where: the file and entry, to name in messages.
    Raises:
        UserError: if a value is missing or wrong.
    """
    if values is None:
        return None
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: {values!r:.80} is not an object")
    grid, interval = values.get("grid"), values.get("guidance_interval")
    scales = [values.get(name) for name in ("guidance_scale", "writer_guidance_scale")]
    teacher = values.get("teacher", {})
    if not _are_numbers(grid) or not 1 <= len(grid) <= MOST_STEPS:
        raise UserError(f"{where}: grid {grid!r:.80} is not a list of 1 to {MOST_STEPS} noise levels")
    if not all(a > b for a, b in zip((1.000001, *grid), (*grid, 0.0), strict=True)):
        raise UserError(f"{where}: grid {grid!r:.80} does not fall from 1 to above 0")
    if not _are_numbers(scales) or not _are_numbers(interval) or len(interval) != 2:
        raise UserError(f"{where}: its guidance {scales!r:.60} {interval!r:.60} is not two scales and ends")
    if not isinstance(teacher, Mapping):
        raise UserError(f"{where}: teacher {teacher!r:.80} is not an object")
    guidance = Guidance(text=scales[0], writer=scales[1], interval=tuple(interval))
    return Student(grid=tuple(grid), guidance=guidance, teacher=teacher)


def _are_numbers(values: object) -> bool:
    return isinstance(values, list) and all(
        type(value) in (int, float) and abs(value) < float("inf") for value in values
    )
