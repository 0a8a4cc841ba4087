"""The training of a handwriting generator: one step, validation, previews, checkpoints.

Everything random is a function of (seed, step, rank), so that a resumed run goes on exactly as if it had not
stopped.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from diffusion.autoencoder import DOWNSCALE
from diffusion.conditions import TrainingConditions
from diffusion.config import CheckpointConfig
from diffusion.dataset import LatentCache, LatentColumns
from diffusion.latent_recogniser import LatentRecogniser, add_some_noise
from diffusion.optimizer import make_optimizer, set_learning_rate
from diffusion.pipeline import HandwritingPipeline
from diffusion.previews import write_preview
from diffusion.samples import TrainingSamples, whole_images
from diffusion.styles import StyleReferences
from diffusion.training_settings import TrainingSettings
from feature_extractor import StyleEncoder
from unet import UNet
from utils.resume import TRAINING_STATE, load_training_state, save_training_state
from utils.sources import TrainingSet
from utils.training import EpochSampler, ExponentialMovingAverage, make_generator
from utils.training_loop import Column

GPU_SHARE = 0.3  # of a GPU's free memory that latents may take
LOG_COLUMNS = (
    Column(name="step", spec="d"),
    Column(name="epoch", spec=".3f"),
    Column(name="loss", is_mean=True, is_shown=True),
    Column(name="val_loss", is_shown=True),
    Column(name="learning_rate", spec=".3e"),
    Column(name="grad_norm", spec=".4f"),
    Column(name="words_per_second", spec=".1f", is_shown=True),
    Column(name="seconds", spec=".1f"),
)


class TrainingBatch(NamedTuple):
    """Samples of a step: what the UNet gets, and what it is to predict."""

    noisy_latents: Tensor
    target: Tensor
    conditions: tuple[Tensor | None, ...]


class DiffusionTrainer:
    """Model, data and optimiser of one run."""

    def __init__(
        self,
        accelerator: Accelerator,
        unet: UNet,
        config: CheckpointConfig,
        vae: nn.Module,
        words: TrainingSet,
        cache: LatentCache,
        settings: TrainingSettings,
        style_encoder: StyleEncoder | None = None,
        styles: StyleReferences | None = None,
    ) -> None:
        self.style_encoder, self.styles = style_encoder, styles
        self.accelerator, self.settings = accelerator, settings
        self.config, self.vae, self.words = config, vae, words
        self.device = accelerator.device
        self.step, self.last_step, self.batch_size = 0, settings.max_train_steps, settings.batch_size
        self.seconds, self.learning_rate = 0.0, 0.0
        self.texts_an_epoch = len(words.train_indices())
        self.schedule = config.schedule
        self.has_null = unet.config.has_null_condition
        self.ema = ExponentialMovingAverage(unet, settings.ema_decay)
        self.ema.module.to(self.device)
        self.unet, self.optimizer = accelerator.prepare(unet, make_optimizer(unet, settings, self.device))
        self.unet.train()
        self.bare_unet: UNet = accelerator.unwrap_model(self.unet)
        self.modules = (self.bare_unet, self.ema.module)
        self.latent_recogniser: LatentRecogniser | None = None  # see recogniser_training
        # On a GPU all latents live there (44,000 words are 180 MB) as far as they fit; else they stay
        # memory-mapped on disk.
        in_memory = (
            self.device.type == "cuda"
            and cache.columns.nbytes < GPU_SHARE * torch.cuda.mem_get_info(self.device)[0]
        )
        self.latents = LatentColumns(cache, self.device, in_memory=in_memory)
        self.use_samples(whole_images(words, cache, config))

    def use_samples(self, samples: TrainingSamples) -> None:
        """Train on these samples of the images from now on."""
        config, unet_config = self.config, self.bare_unet.config
        self.samples, self.canvases = samples, samples.canvases
        self.train_indices, self.val_indices = samples.train_indices, samples.val_indices
        # Batches of texts of similar width, on canvases that just hold them.
        sizes = None if config.canvas_step is None else self.canvases[self.train_indices]
        self.sampler = EpochSampler(self.train_indices, self.settings.batch_size, self.settings.seed, sizes)
        self.latents.choose(samples.columns)
        self.conditions = TrainingConditions(
            samples.records,
            charset=config.charset,
            max_length=unet_config.max_length,
            writers={name: row for row, name in enumerate(config.writers)},
            null_writer=unet_config.null_writer_id if self.has_null else None,
            width_model=config.width_model if unet_config.text_layout else None,
            ink=self.latents.cache.ink,
            edges=samples.edges,
            styles=self.styles,
            device=self.device,
        )

    @property
    def epoch(self) -> float:
        """Samples drawn so far, for each text image to train on."""
        return self.step * self.settings.batch_size / self.texts_an_epoch

    @property
    def is_finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.last_step

    def draw_latents(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """(B, 4, h, w) fresh samples of the images' posteriors, on the canvas that holds the widest of them.

        Args:
            indices: (B,) on the CPU, where they come from and the canvases are: a GPU would have to be waited
                for.
        """
        moments = self.latents.batch(indices, int(self.canvases[indices].max()) // DOWNSCALE)
        means, deviations = moments.unbind(dim=1)
        return means + deviations * torch.randn(means.shape, device=self.device, generator=generator)

    def loss(
        self,
        model: nn.Module,
        indices: Tensor,
        timesteps: Tensor,
        generator: torch.Generator,
        dropped: tuple[Tensor, Tensor] | None = None,
        *,
        recognition_weight: float = 0.0,
    ) -> Tensor:
        """Mean squared error of the prediction on records at given timesteps, and what can't be read in it;
        scalar.
        """
        batch = self.make_batch(indices, timesteps, generator, dropped)
        with self.accelerator.autocast():
            prediction = model(batch.noisy_latents, timesteps, *batch.conditions).float()
        loss = F.mse_loss(prediction, batch.target)
        if recognition_weight:
            clean, share = self.schedule.predict_clean(batch.noisy_latents, prediction, timesteps)
            with self.accelerator.autocast():
                illegibility = self.latent_recogniser.loss(
                    add_some_noise(clean, generator),
                    self.conditions.reading_ids[indices.to(self.device)],
                    self.conditions.lengths[indices],
                )
            if dropped is not None:
                share = share.masked_fill(dropped[0], 0.0)  # null text has nothing to read
            # Where there is more noise than signal, the clean latents are a guess that nobody could read.
            loss = loss + recognition_weight * (share * illegibility).mean()
        return loss

    def make_batch(
        self,
        indices: Tensor,
        timesteps: Tensor,
        generator: torch.Generator,
        dropped: tuple[Tensor, Tensor] | None,
    ) -> TrainingBatch:
        """What the UNet gets of records at given timesteps, and what it is to predict; see ``loss``."""
        latents = self.draw_latents(indices, generator)
        noise = torch.randn(latents.shape, device=self.device, generator=generator)
        noisy_latents, target = self.schedule.add_noise(latents, noise, timesteps)
        conditions = self.draw_conditions(indices, latents.shape[-1], dropped, generator)
        return TrainingBatch(noisy_latents, target, conditions)

    def draw_conditions(
        self,
        indices: Tensor,
        columns: int,
        dropped: tuple[Tensor, Tensor] | None,
        generator: torch.Generator,
    ) -> tuple[Tensor | None, ...]:
        """Conditions of records on a canvas; where none is dropped, as sampling has them."""
        return self.conditions.batch(
            indices.to(self.device), columns, dropped, generator if dropped else None
        )

    def draw_timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """(count,) timesteps of a step's samples."""
        return self.schedule.draw_timesteps(count, self.device, generator)

    def spread_timesteps(self, count: int) -> Tensor:
        """(count,) timesteps of samples to validate on."""
        return self.schedule.spread_timesteps(count, self.device)

    def draw_dropped(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor] | None:
        """Which of a step's samples lose their text, and which their writer: (B,) bool each; None: none does,
        and each is in its writer's hand as sampling has it.
        """
        if not self.has_null:
            return None
        chances = torch.rand(2, count, device=self.device, generator=generator)
        return chances[0] < self.settings.text_dropout, chances[1] < self.settings.writer_dropout

    def train_step(self) -> dict[str, Tensor | float]:
        """One optimiser step; returns loss and gradient norm, both left on the device, and the epoch."""
        s, accelerator = self.settings, self.accelerator
        self.learning_rate = set_learning_rate(self.optimizer, s, self.step)
        rank, ranks = accelerator.process_index, accelerator.num_processes
        indices = self.sampler.batch(self.step, rank, ranks)
        # Those of the next step, during this one.
        self.latents.prefetch(self.sampler.batch(self.step + 1, rank, ranks).tolist())
        generator = make_generator(self.device, s.seed, self.step, rank, 0x11)
        timesteps = self.draw_timesteps(len(indices), generator)
        dropped = self.draw_dropped(len(indices), generator)
        loss = self.loss(
            self.unet, indices, timesteps, generator, dropped, recognition_weight=s.recognition_weight
        )
        accelerator.backward(loss)
        grad_norm = accelerator.clip_grad_norm_(self.unet.parameters(), s.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.ema.update(self.bare_unet, self.step)
        return {"loss": loss.detach(), "grad_norm": grad_norm, "epoch": self.epoch}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss of the averaged weights on fixed words, noise and evenly spread timesteps."""
        total = 0.0
        for first in range(0, len(self.val_indices), 64):
            indices = torch.tensor(self.val_indices[first : first + 64])
            generator = make_generator(self.device, self.settings.seed, first, 0x7A1)
            # Shuffled, since the words are in the order of their widths.
            order = torch.randperm(len(indices), device=self.device, generator=generator)
            timesteps = self.spread_timesteps(len(indices))[order]
            total += self.loss(self.ema.module, indices, timesteps, generator).item() * len(indices)
        return {"val_loss": total / len(self.val_indices)}

    def write_checkpoint(self, folder: Path) -> None:
        """Fill a checkpoint's folder: what sampling needs, and the training state."""
        s = self.settings
        dropout = (
            {"text": s.text_dropout, "writer": s.writer_dropout}
            if self.has_null
            else {"text": 0.0, "writer": 0.0}
        )
        config = replace(
            self.config,
            extra={
                **self.config.extra,
                "step": self.step,
                "epoch": round(self.epoch, 2),
                "condition_dropout": dropout,
                "training": asdict(s),
            },
        )
        HandwritingPipeline(
            self.ema.module, self.vae, config, self.latent_recogniser, self.style_encoder
        ).save_pretrained(folder)
        state = {"step": self.step, "settings": asdict(self.settings)}
        if self.accelerator.scaler is not None:
            state["grad_scaler"] = self.accelerator.scaler.state_dict()
        save_training_state(
            folder / TRAINING_STATE, self.bare_unet, self.optimizer.optimizer, self.ema, state
        )

    def restore(self, checkpoint: Path) -> None:
        """Take over a checkpoint's state.

        Raises:
            UserError: if it is damaged, or another model's.
        """
        state = load_training_state(checkpoint, self.bare_unet, self.optimizer.optimizer, self.ema)
        if self.accelerator.scaler is not None and "grad_scaler" in state:
            self.accelerator.scaler.load_state_dict(state["grad_scaler"])
        self.step = state["step"]

    def write_preview(self, path: Path) -> None:
        """Save a sheet of validation words by their writers."""
        pipeline = HandwritingPipeline(self.ema.module, self.vae, self.config).to(self.device)
        records = [self.samples.records[i] for i in self.val_indices]
        write_preview(pipeline, records, path, seed=self.settings.seed)
        self.vae.to("cpu")
