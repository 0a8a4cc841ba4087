"""The training of a handwriting generator: one step, validation, previews, checkpoints.

Everything random is a function of (seed, step, rank), so that a resumed run goes on exactly as if it had not
stopped.
"""

import json
import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from diffusion.autoencoder import DOWNSCALE
from diffusion.config import CheckpointConfig
from diffusion.dataset import LatentCache, LatentColumns, TrainingConditions
from diffusion.latent_recogniser import (
    LatentRecogniser,
    LatentRecogniserConfig,
    add_some_noise,
    train_latent_recogniser,
)
from diffusion.pipeline import DEFAULT_STEPS, HandwritingPipeline
from unet import UNet
from utils.charset import Charset
from utils.checkpoint import CONFIG_NAME, TRAINING_STATE, save_checkpoint, save_training_state
from utils.errors import UserError
from utils.images import make_sheet
from utils.sources import TrainingSet
from utils.text_images import TextImage
from utils.training import EpochSampler, ExponentialMovingAverage, learning_rate_factor, make_generator

VALIDATION_WORDS = 256
# Settings that earlier versions saved under another name.
FORMER_NAMES = {"legibility_weight": "recognition_weight", "reader_steps": "recogniser_steps"}
GPU_SHARE = 0.3  # of a GPU's free memory that latents may take


@dataclass(frozen=True)
class TrainingSettings:
    """What fixes the course of a training.

    Attributes:
        max_train_steps: step at which it ends.
        schedule_steps: step at which the learning rate has come down, whenever it ends.
        batch_size: words a step over all processes.
        learning_rate: peak of AdamW's.
        lr_schedule: ``cosine`` or ``constant``, after ``lr_warmup_steps``.
        writer_rate_factor: of the learning rate, for the rows of the writer embedding, which then have no
            weight decay: what no word of the training calls up stays exactly where it is. None is a run of
            before there was such a factor, whose rows learn like all other weights.
        text_dropout, writer_dropout: chances that a sample's text or writer is replaced by null.
        recognition_weight: of the loss for what a latent recogniser can't read in the clean latents that a
            prediction implies, in nats a character, beside the squared error; 0 does without.
        recogniser_steps: steps that the latent recogniser learns for, before the generator does; a fifth of
            them if one comes with the model that the run starts from.
    """

    max_train_steps: int
    schedule_steps: int
    batch_size: int
    learning_rate: float
    lr_schedule: str = "cosine"
    lr_warmup_steps: int = 200
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema_decay: float = 0.9995
    text_dropout: float = 0.1
    writer_dropout: float = 0.1
    recognition_weight: float = 0.0
    recogniser_steps: int = 2500
    writer_rate_factor: float | None = None
    seed: int = 0


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
    ) -> None:
        self.accelerator, self.config, self.vae, self.words, self.settings = (
            accelerator,
            config,
            vae,
            words,
            settings,
        )
        self.device = accelerator.device
        self.step = 0
        self.train_indices = words.train_indices()
        # A model that others' words taught may have wider images than these.
        self.canvases = config.canvas_widths(cache.ink[:, 2])
        # Batches of words of similar width, on canvases that just hold them.
        self.val_indices = sorted(words.val_indices()[:VALIDATION_WORDS], key=self.canvases.__getitem__)
        sizes = None if config.canvas_step is None else self.canvases[self.train_indices]
        self.sampler = EpochSampler(self.train_indices, settings.batch_size, settings.seed, sizes)
        self.schedule, self.noise_scheduler = config.schedule, config.schedule.make_noise_scheduler()
        self.has_null = unet.config.has_null_condition
        self.ema = ExponentialMovingAverage(unet, settings.ema_decay)
        self.ema.module.to(self.device)
        self.unet, self.optimizer = accelerator.prepare(unet, make_optimizer(unet, settings, self.device))
        self.bare_unet: UNet = accelerator.unwrap_model(self.unet)
        self.conditions = TrainingConditions(
            words.records,
            charset=config.charset,
            max_length=unet.config.max_length,
            writers={name: row for row, name in enumerate(config.writers)},
            null_writer=unet.config.null_writer_id if self.has_null else None,
            width_model=config.width_model if unet.config.text_layout else None,
            ink=cache.ink,
            device=self.device,
        )
        self.latent_recogniser: LatentRecogniser | None = None  # see prepare_latent_recogniser
        # On a GPU all latents live there (44,000 words are 180 MB) as far as they fit; else they stay
        # memory-mapped on disk.
        in_memory = (
            self.device.type == "cuda"
            and cache.columns.nbytes < GPU_SHARE * torch.cuda.mem_get_info(self.device)[0]
        )
        self.latents = LatentColumns(cache, self.device, in_memory=in_memory)

    @property
    def epoch(self) -> float:
        """Passes over the training words so far."""
        return self.step * self.settings.batch_size / len(self.train_indices)

    def learning_rate(self) -> float:
        """The rate of the step to come."""
        s = self.settings
        return s.learning_rate * learning_rate_factor(
            self.step, warmup_steps=s.lr_warmup_steps, horizon=s.schedule_steps, schedule=s.lr_schedule
        )

    def draw_latents(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """(B, 4, h, w) fresh samples of the records' posteriors, on the canvas that holds the widest of them.

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
        latents = self.draw_latents(indices, generator)
        lengths, indices = self.conditions.lengths[indices], indices.to(self.device)
        noise = torch.randn(latents.shape, device=self.device, generator=generator)
        noisy_latents, target = self.schedule.add_noise(self.noise_scheduler, latents, noise, timesteps)
        with self.accelerator.autocast():
            prediction = model(
                noisy_latents, timesteps, *self.conditions.batch(indices, latents.shape[-1], dropped)
            ).float()
        loss = F.mse_loss(prediction, target)
        if recognition_weight:
            clean, share = self.schedule.predict_clean(
                self.noise_scheduler, noisy_latents, prediction, timesteps
            )
            with self.accelerator.autocast():
                illegibility = self.latent_recogniser.loss(
                    add_some_noise(clean, generator), self.conditions.reading_ids[indices], lengths
                )
            if dropped is not None:
                share = share.masked_fill(dropped[0], 0.0)  # null text has nothing to read
            # Where there is more noise than signal, the clean latents are a guess that nobody could read.
            loss = loss + recognition_weight * (share * illegibility).mean()
        return loss

    def prepare_latent_recogniser(self, folder: Path, start: Path | None = None) -> None:
        """Teach a latent recogniser this run's words, on the main process, and save it in ``folder``; a run
        that goes on keeps its own.

        Args:
            start: folder of a latent recogniser that knows the letters already: it learns for a fifth of the
                steps. Of a run that goes on, that of its checkpoint: it is taken as it is.
        Raises:
            ValueError: for published weights, whose padding is a letter too.
        """
        accelerator, s = self.accelerator, self.settings
        if self.config.charset.pad_id:
            raise UserError(
                "--recognition_weight: published weights have one symbol for padding and z, which no"
                " recogniser can tell apart. Give --recognition_weight 0."
            )
        is_own = bool(self.step and (folder / CONFIG_NAME).is_file())
        if accelerator.is_main_process and self.step and start and not is_own:
            shutil.copytree(start, folder)
        elif accelerator.is_main_process and not is_own:

            def draw(step: int) -> tuple[Tensor, Tensor, Tensor]:
                indices = self.sampler.batch(step)
                latents = self.draw_latents(indices, make_generator(self.device, s.seed, step, 0xDA7A))
                return (
                    latents,
                    self.conditions.reading_ids[indices.to(self.device)],
                    self.conditions.lengths[indices],
                )

            torch.manual_seed(s.seed)
            steps, vocabulary_size = s.recogniser_steps, self.config.charset.vocabulary_size
            if start is None:
                cache = self.latents.cache
                recogniser = LatentRecogniser(
                    LatentRecogniserConfig(vocabulary_size, cache.channels, cache.height)
                )
            else:
                steps, recogniser = (
                    -(-steps // 5),
                    LatentRecogniser.from_pretrained(start).grow(vocabulary_size),
                )
            # fp16 would need its loss scaled.
            autocast = nullcontext if accelerator.mixed_precision == "fp16" else accelerator.autocast
            loss = train_latent_recogniser(
                recogniser.to(self.device), draw, steps, seed=s.seed, autocast=autocast
            )
            recogniser.save_pretrained(folder)
            print(f"recogniser  {steps} steps, loss {loss:.3f} nats a character")
        accelerator.wait_for_everyone()
        self.latent_recogniser = LatentRecogniser.from_pretrained(folder).to(self.device)

    def train_step(self) -> tuple[Tensor, Tensor]:
        """One optimiser step; returns (loss, gradient norm), both left on the device."""
        s, accelerator = self.settings, self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate() * group["rate_factor"]
        rank, ranks = accelerator.process_index, accelerator.num_processes
        indices = self.sampler.batch(self.step, rank, ranks)
        # Those of the next step, during this one.
        self.latents.prefetch(self.sampler.batch(self.step + 1, rank, ranks).tolist())
        generator = make_generator(self.device, s.seed, self.step, rank, 0x11)
        timesteps = self.schedule.draw_timesteps(len(indices), self.device, generator)
        dropped = None
        if self.has_null:
            chances = torch.rand(2, len(indices), device=self.device, generator=generator)
            dropped = (chances[0] < s.text_dropout, chances[1] < s.writer_dropout)
        loss = self.loss(
            self.unet, indices, timesteps, generator, dropped, recognition_weight=s.recognition_weight
        )
        accelerator.backward(loss)
        grad_norm = accelerator.clip_grad_norm_(self.unet.parameters(), s.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.ema.update(self.bare_unet, self.step)
        return loss.detach(), grad_norm

    @torch.no_grad()
    def validate(self) -> float:
        """Loss of the averaged weights on fixed words, noise and evenly spread timesteps."""
        total = 0.0
        for first in range(0, len(self.val_indices), 64):
            indices = torch.tensor(self.val_indices[first : first + 64])
            generator = make_generator(self.device, self.settings.seed, first, 0x7A1)
            # Shuffled, since the words are in the order of their widths.
            order = torch.randperm(len(indices), device=self.device, generator=generator)
            timesteps = self.schedule.spread_timesteps(len(indices), self.device)[order]
            total += self.loss(self.ema.module, indices, timesteps, generator).item() * len(indices)
        return total / len(self.val_indices)

    def save(self, run: Path, keep: int) -> Path:
        """Save the run's state as its newest checkpoint, whole or not at all."""
        return save_checkpoint(run, self.step, self._write, keep=keep)

    def _write(self, folder: Path) -> None:
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
        HandwritingPipeline(self.ema.module, self.vae, config, self.latent_recogniser).save_pretrained(folder)
        state = {"step": self.step, "settings": asdict(self.settings)}
        if self.accelerator.scaler is not None:
            state["grad_scaler"] = self.accelerator.scaler.state_dict()
        save_training_state(
            folder / TRAINING_STATE, self.bare_unet, self.optimizer.optimizer, state, self.ema.state_dict()
        )

    def restore(self, state: dict, averages: dict[str, Tensor]) -> None:
        """Take over what ``utils.checkpoint.load_training_state`` read; the weights are loaded already."""
        self.ema.load_state_dict(averages)
        if self.accelerator.scaler is not None and "grad_scaler" in state:
            self.accelerator.scaler.load_state_dict(state["grad_scaler"])
        self.step = state["step"]

    def write_preview(self, path: Path) -> None:
        """Save a sheet of validation words in their writers' hands."""
        texts, writers = pick_previews(
            self.words.records,
            self.val_indices,
            self.config.writers,
            self.config.charset,
            self.bare_unet.config.max_length,
        )
        if not texts:
            return
        pipeline = HandwritingPipeline(self.ema.module, self.vae, self.config).to(self.device)
        images = pipeline(texts, writers, num_inference_steps=DEFAULT_STEPS, seed=self.settings.seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        captions = [f"{text} ({writer})" for text, writer in zip(texts, writers, strict=True)]
        make_sheet(images, captions=captions).save(path)
        self.vae.to("cpu")


class TrainingLog:
    """``log.csv`` and, if asked for, a tracker: mean loss since the last row, and the speed since the
    start.
    """

    COLUMNS = (
        "step",
        "epoch",
        "loss",
        "val_loss",
        "learning_rate",
        "grad_norm",
        "words_per_second",
        "seconds",
    )

    def __init__(self, path: Path, trainer: DiffusionTrainer) -> None:
        self.path, self.trainer = path, trainer
        self.start, self.first_step = time.monotonic(), trainer.step
        self.total, self.count = torch.zeros((), device=trainer.device), 0
        self.last: dict[str, object] = {}

    def add(self, loss: Tensor) -> None:
        """Count a step's loss; stays on the device."""
        self.total, self.count = self.total + loss, self.count + 1

    def mean_loss(self) -> float:
        """Mean loss since the last row; waits for the device."""
        return (self.total / max(self.count, 1)).item()

    def write(self, *, learning_rate: float, grad_norm: float, val_loss: float | None) -> dict[str, object]:
        """Append a row, and start a new mean."""
        trainer, seconds = self.trainer, time.monotonic() - self.start
        words = (trainer.step - self.first_step) * trainer.settings.batch_size
        self.last = {
            "step": trainer.step,
            "epoch": round(trainer.epoch, 3),
            "loss": round(self.mean_loss(), 5),
            "val_loss": "" if val_loss is None else round(val_loss, 5),
            "learning_rate": f"{learning_rate:.3e}",
            "grad_norm": round(grad_norm, 4),
            "words_per_second": round(words / seconds, 1),
            "seconds": round(seconds, 1),
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(",".join(str(self.last[column]) for column in self.COLUMNS) + "\n")
        tracked = {
            key: float(value)
            for key, value in self.last.items()
            if key not in ("step", "seconds") and value != ""
        }
        trainer.accelerator.log(tracked, step=trainer.step)
        self.total, self.count = torch.zeros((), device=trainer.device), 0
        return {
            key: self.last[key] for key in ("loss", "val_loss", "words_per_second") if self.last[key] != ""
        }


def read_settings(state_file: Path) -> TrainingSettings:
    """The settings that a checkpoint's ``training_state/state.json`` was made with."""
    values = json.loads(state_file.read_text(encoding="utf-8"))["settings"]
    return TrainingSettings(**{FORMER_NAMES.get(name, name): value for name, value in values.items()})


def pick_previews(
    records: Sequence[TextImage],
    val: Sequence[int],
    writers: Sequence[str],
    charset: Charset,
    max_length: int,
    count: int = 16,
) -> tuple[list[str], list[str]]:
    """(texts, writers) for preview sheets: validation words of as many different writers as there are."""
    known = set(writers)
    candidates = [r for r in (records[i] for i in val) if r.writer in known and len(r.text) <= max_length]
    candidates = [record for record in candidates if not charset.unknown(record.text)]
    first_of_each = {record.writer: record for record in reversed(candidates)}
    others = [record for record in candidates if first_of_each[record.writer] is not record]
    chosen = [*first_of_each.values(), *others][:count]
    return [record.text for record in chosen], [record.writer for record in chosen]
