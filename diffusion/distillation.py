"""Distillation of a finished model into a student that writes in a few passes without guidance.

First the student learns the teacher's guided velocity in one pass, at all noise levels (Meng et al. 2023,
https://arxiv.org/abs/2210.03142, section 3.1). Then it learns a fixed grid of a few steps: the mean velocity
of several guided steps of its teacher, as in progressive distillation (Salimans and Ho 2022,
https://arxiv.org/abs/2202.00512, section 3), but for one grid at once. That the mean over a step is the one
of its parts is the consistency of shortcut models (Frans et al. 2024, https://arxiv.org/abs/2410.12557,
section 3); where only the grid's own steps are learnt, the UNet need not be told their length. A step begins
where the student comes to by itself, from noise (Kohler et al. 2024, https://arxiv.org/abs/2405.05224): so it
learns to mend what its steps before left wrong, and needs no images.
"""

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from diffusion.autoencoder import DOWNSCALE, hash_vae
from diffusion.cache_folder import encode_training_set
from diffusion.distillation_settings import (
    DistillationSettings,
    make_distillation_settings,
    read_distillation_settings,
)
from diffusion.guided_prediction import GuidedPrediction
from diffusion.pipeline import DEFAULT_STEPS
from diffusion.styles import embed_styles
from diffusion.teacher import TEACHER_NAME, Lesson
from diffusion.trainer import DiffusionTrainer, TrainingBatch
from unet import UNet
from utils.checkpoint import save_weights
from utils.errors import UserError
from utils.resume import TRAINING_STATE
from utils.sources import TrainingSet

FROZEN = ("writer_embedding.", "style_projection.")  # a hand stays what it is for the teacher


class DistillationTrainer(DiffusionTrainer):
    """Trains a student, which begins with its teacher's weights.

    Args:
        teacher: whose UNet has the student's sizes.
        others: as for ``DiffusionTrainer``; the config says what student it is to be.
    """

    settings: DistillationSettings

    def __init__(self, *others: object, teacher: UNet) -> None:
        unet: UNet = others[1]
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(not name.startswith(FROZEN))
        super().__init__(*others)
        self.teacher = teacher.eval().requires_grad_(False).to(self.device)
        self.student = self.config.student
        self.levels = torch.tensor([*self.student.grid, 0.0], device=self.device)
        self.teacher_steps = math.ceil(DEFAULT_STEPS / self.student.num_steps)  # for one of the student's

    @property
    def is_on_grid(self) -> bool:
        """Whether it is the grid's steps that are learnt by now, and no longer guidance at all levels."""
        return self.step >= self.settings.guidance_steps

    def draw_conditions(
        self,
        indices: Tensor,
        columns: int,
        dropped: tuple[Tensor, Tensor] | None,
        generator: torch.Generator,
    ) -> tuple[Tensor | None, ...]:
        """See ``DiffusionTrainer.draw_conditions``; without padding that no text of the batch needs, which
        each of the many passes would encode anew.
        """
        input_ids, rows, layout, *others = super().draw_conditions(indices, columns, dropped, generator)
        if self.bare_unet.config.mask_padding:
            longest = max(1, int(self.conditions.lengths[indices].max()))
            input_ids = input_ids[:, :longest]
            layout = None if layout is None else layout[:, :, :longest]
        return input_ids, rows, layout, *others

    def draw_timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """(count,) timesteps of a step's samples: of the grid, each of its levels as often as the others."""
        if not self.is_on_grid:
            return super().draw_timesteps(count, generator)
        return self.spread_timesteps(count)[torch.randperm(count, device=self.device, generator=generator)]

    def spread_timesteps(self, count: int) -> Tensor:
        """(count,) timesteps of samples to validate on."""
        if not self.is_on_grid:
            return super().spread_timesteps(count)
        numbers = torch.arange(count, device=self.device) % self.student.num_steps
        return self.levels[numbers] * self.schedule.num_train_timesteps

    def make_batch(
        self,
        indices: Tensor,
        timesteps: Tensor,
        generator: torch.Generator,
        dropped: tuple[Tensor, Tensor] | None,
    ) -> TrainingBatch:
        """See ``DiffusionTrainer.make_batch``; to be predicted is what the teacher does."""
        columns = int(self.canvases[indices].max()) // DOWNSCALE
        conditions = self.draw_conditions(indices, columns, dropped, generator)
        with torch.no_grad():
            guided = GuidedPrediction(
                self._ask_teacher,
                conditions,
                self.student.guidance,
                self.teacher.config,
                self.schedule.num_train_timesteps,
            )
            if self.is_on_grid:
                noisy_latents, target = self._take_steps(guided, timesteps, columns, generator)
            else:
                latents = self.draw_latents(indices, generator)
                noise = torch.randn(latents.shape, device=self.device, generator=generator)
                noisy_latents, _ = self.schedule.add_noise(latents, noise, timesteps)
                target = guided(noisy_latents, timesteps)
        return TrainingBatch(noisy_latents, target, conditions)

    def _ask_teacher(self, latents: Tensor, timesteps: Tensor, *conditions: Tensor | None) -> Tensor:
        with self.accelerator.autocast():
            return self.teacher(latents, timesteps, *conditions).float()

    def _take_steps(
        self, guided: GuidedPrediction, timesteps: Tensor, columns: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Noisy latents at timesteps of the grid, and the teacher's mean velocity from there to the grid's
        next level: (B, 4, h, columns) both.
        """
        most = self.schedule.num_train_timesteps
        numbers = (timesteps[:, None] - self.levels[:-1] * most).abs().argmin(dim=1)
        cache = self.latents.cache
        noise = torch.randn(
            (len(numbers), cache.channels, cache.height, columns), device=self.device, generator=generator
        )
        start = self._come_to(numbers, noise, guided.conditions)
        level, following = (self.levels[rows][:, None, None, None] for rows in (numbers, numbers + 1))
        length = (level - following) / self.teacher_steps
        latents, last, total = start, None, 0.0
        for number in range(self.teacher_steps):
            velocity = guided(latents, (level - number * length).flatten() * most)
            # Adams and Bashforth's method of second order, after a step of Euler's.
            slope = velocity if last is None else 1.5 * velocity - 0.5 * last
            latents, last, total = latents - length * slope, velocity, total + slope
        return start, total / self.teacher_steps

    def _come_to(self, numbers: Tensor, noise: Tensor, conditions: tuple[Tensor | None, ...]) -> Tensor:
        """(B, 4, h, w) noisy latents where the averaged student begins its step of each number (B,)."""
        latents = noise
        for number in range(int(numbers.max())):
            rows = (numbers > number).nonzero().flatten()
            timesteps = (self.levels[number] * self.schedule.num_train_timesteps).expand(len(rows))
            chosen = (None if part is None else part[rows] for part in conditions)
            with self.accelerator.autocast():
                velocity = self.ema.module(latents[rows], timesteps, *chosen).float()
            length = self.levels[number + 1] - self.levels[number]
            latents = latents.index_copy(0, rows, latents[rows] + length * velocity)
        return latents

    def write_checkpoint(self, folder: Path) -> None:
        """See ``DiffusionTrainer.write_checkpoint``; the teacher goes with what a resume needs."""
        super().write_checkpoint(folder)
        save_weights(self.teacher, folder / TRAINING_STATE / TEACHER_NAME)


def make_distillation_trainer(
    accelerator: Accelerator,
    lesson: Lesson,
    words: TrainingSet,
    given: Mapping[str, object],
    checkpoint: Path | None,
    *,
    epochs: int | None,
    cache_root: Path,
    is_shared: bool,
) -> DistillationTrainer:
    """A student's training, at the point where it stopped.

    Args:
        words: that the teacher knows; see ``teacher.choose_known``.
        given: flags by the names of ``DistillationSettings``, None where not given.
        checkpoint: of the run that goes on, if one does.
        cache_root: folder of encoded images; ``is_shared`` with other runs.
    Raises:
        UserError: if a flag or the images don't fit the teacher.
    """
    start = lesson.start
    cache = encode_training_set(
        words, start.vae, hash_vae(start.vae), accelerator, root=cache_root, is_shared=is_shared
    )
    height, needed = cache.canvas_size[0], start.config.img_size[0]
    if height != needed:
        raise UserError(
            f"{words.flag}: images of {height} pixels of height, but the teacher's have {needed}. Preprocess"
            f" with --img_size {needed} {start.config.img_size[1]}."
        )
    settings = make_distillation_settings(
        given,
        epochs,
        len(words.train_indices()),
        accelerator.num_processes,
        read_distillation_settings(checkpoint) if checkpoint else None,
        can_read=start.latent_recogniser is not None,
        is_aligned="alignment" in start.config.extra,
    )
    encoder = start.style_encoder
    trainer = DistillationTrainer(
        accelerator,
        deepcopy(start.unet),
        replace(start.config, student=lesson.student),
        start.vae,
        words,
        cache,
        settings,
        encoder,
        embed_styles(encoder, words, cache.folder) if encoder else None,
        teacher=lesson.teacher,
    )
    if start.latent_recogniser is not None:
        trainer.latent_recogniser = start.latent_recogniser.to(trainer.device)
    if checkpoint:
        trainer.restore(checkpoint)
    return trainer
