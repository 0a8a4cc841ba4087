"""The training of the compact VAE: one step, PSNR of held-out images, checkpoints.

Everything random is a function of (seed, step), so that a resumed run goes on exactly as if it had not
stopped.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.autoencoder import DOWNSCALE, VAE_FOLDER, CompactAutoencoder
from diffusion.new_autoencoder import load_teacher
from diffusion.windows import Words, crop_batch
from utils.checkpoint import CONFIG_NAME, FORMAT_VERSION, one_line
from utils.errors import UserError
from utils.json_files import read_json
from utils.resume import TRAINING_STATE, load_training_state, read_settings, save_training_state
from utils.training import EpochSampler, ExponentialMovingAverage, learning_rate_factor, make_generator
from utils.training_loop import Column

SCALE_IMAGES = 512  # that measure the latents' scale, an even sample
LOG_COLUMNS = (
    Column(name="step", spec="d"),
    Column(name="loss", is_mean=True, is_shown=True),
    Column(name="l1", is_mean=True),
    Column(name="kl", spec=".3f", is_mean=True),
    Column(name="learning_rate", spec=".2e"),
    Column(name="val_psnr", spec=".3f", is_shown=True),
    Column(name="seconds", spec=".1f"),
)


@dataclass(frozen=True, kw_only=True)
class AutoencoderSettings:
    """What fixes the course of a training.

    Attributes:
        max_train_steps: step at which it ends, and by which the learning rate has come down.
        batch_size: windows a step.
        crop_width: width of the windows, pixels.
        learning_rate: peak of AdamW's.
        kl_weight: of the mean KL divergence of a latent element, beside the L1 of pixels in [-1, 1].
        seed: of weights, order, windows.
        distil_decoder: the VAE whose decoder a smaller one learns from; None trains a whole VAE.
    """

    max_train_steps: int = 10_000
    batch_size: int = 32
    crop_width: int = 128
    learning_rate: float = 1e-3
    kl_weight: float = 1e-4
    seed: int = 0
    distil_decoder: str | None = None


def reconstruction_loss(reconstruction: Tensor, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
    """L1 of pixels plus L1 of horizontal and vertical differences (strokes are edges); returns (loss, pixel
    L1).
    """
    error = reconstruction - pixel_values
    l1 = error.abs().mean()
    return l1 + 0.5 * (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()), l1


@torch.no_grad()
def measure_psnr(
    vae: CompactAutoencoder, images: Tensor, device: torch.device, batch_size: int = 32
) -> float:
    """Mean PSNR in dB over (N, H, W) uint8 images, peak 255, through the posterior's mean; fp32."""
    values = []
    for batch in images.split(batch_size):
        pixel_values = batch[:, None].to(device).float() / 127.5 - 1
        decoded = vae.decode(vae.encode(pixel_values).latent_dist.mode()).sample.clamp(-1, 1)
        # In units of the peak squared: the range of pixels is 2.
        mse = F.mse_loss(decoded, pixel_values, reduction="none").mean(dim=(1, 2, 3)) / 4
        values.append(-10 * torch.log10(mse.clamp_min(1e-10)))
    return torch.cat(values).mean().item()


@torch.no_grad()
def measure_scale(vae: CompactAutoencoder, pixel_values: Tensor, device: torch.device) -> tuple[float, float]:
    """(1 / standard deviation, mean) of the latents of (N, 1, H, W) pixels in [-1, 1]."""
    means = [vae.encode(batch.to(device)).latent_dist.mode() for batch in pixel_values.split(32)]
    latents = torch.cat(means)
    return 1.0 / max(latents.std().item(), 1e-6), latents.mean().item()


class AutoencoderTrainer:
    """Model, images and optimiser of one run; see ``utils.training_loop.Trainer``.

    With ``distil_decoder`` the decoder alone learns, to give what the larger one makes of the same latents
    (as Bohan 2023, https://github.com/madebyollin/taesd, distils one for Stable Diffusion).

    Attributes:
        teacher: the VAE of ``distil_decoder``, else None.
        psnr: dB, of the averaged weights at the last validation; None before the first.
    """

    accelerator = None

    def __init__(
        self,
        vae: CompactAutoencoder,
        words: Words,
        held_out: Tensor,
        settings: AutoencoderSettings,
        *,
        precision: str,
        device: torch.device,
    ) -> None:
        self.vae, self.words, self.held_out = (
            vae.to(device).to(memory_format=torch.channels_last),
            words,
            held_out,
        )
        self.settings, self.precision, self.device = settings, precision, device
        self.step, self.last_step, self.batch_size = 0, settings.max_train_steps, settings.batch_size
        self.seconds, self.learning_rate = 0.0, 0.0
        self.psnr: float | None = None
        self.crop_width = settings.crop_width // DOWNSCALE * DOWNSCALE
        self.teacher = None
        if settings.distil_decoder:
            self.teacher = load_teacher(settings.distil_decoder).to(device)
            vae.requires_grad_(False).autoencoder.decoder.requires_grad_(True)
        learned = vae.parameters() if self.teacher is None else vae.autoencoder.decoder.parameters()
        self.optimizer = torch.optim.AdamW(
            learned, lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4
        )
        self.ema = ExponentialMovingAverage(vae, 0.999)
        self.modules = (vae, self.ema.module)
        self.sampler = EpochSampler(range(len(words)), settings.batch_size, settings.seed)

    @property
    def is_finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.last_step

    def train_step(self) -> dict[str, Tensor | float]:
        """One optimiser step; returns loss, L1 of pixels and KL divergence, left on the device."""
        s = self.settings
        self.learning_rate = s.learning_rate * learning_rate_factor(
            self.step, warmup_steps=200, horizon=s.max_train_steps, schedule="cosine"
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        generator = make_generator("cpu", s.seed, self.step, 1)
        pixel_values = crop_batch(self.words, self.sampler.batch(self.step), self.crop_width, generator)
        pixel_values = pixel_values.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            posterior = self.vae.encode(pixel_values).latent_dist
            latents = posterior.sample(make_generator(self.device, s.seed, self.step, 2))
            reconstruction = self.vae.decode(latents).sample
            target = pixel_values if self.teacher is None else self.teacher.decode(latents).sample.float()
        loss, l1 = reconstruction_loss(reconstruction.float(), target)
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        loss = loss + s.kl_weight * kl
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.vae.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.ema.update(self.vae, self.step)
        return {"loss": loss.detach(), "l1": l1.detach(), "kl": kl.detach()}

    def validate(self) -> dict[str, float]:
        """PSNR of the averaged weights on the held-out images."""
        self.psnr = measure_psnr(self.ema.module, self.held_out, self.device)
        return {"val_psnr": self.psnr}

    def write_checkpoint(self, folder: Path) -> None:
        """Fill a checkpoint's folder: the averaged VAE with its latents' scale, and the training state."""
        count = len(self.words)
        chosen = torch.linspace(0, count - 1, min(SCALE_IMAGES, count)).long()
        generator = make_generator("cpu", self.settings.seed, 0, 3)
        sample = crop_batch(self.words, chosen, self.crop_width, generator)
        if self.teacher is None:
            scaling_factor, shift_factor = measure_scale(self.ema.module, sample, self.device)
        else:  # the latents are the teacher's
            scaling_factor = self.teacher.config.scaling_factor
            shift_factor = self.teacher.config.shift_factor
        self.ema.module.register_to_config(scaling_factor=scaling_factor, shift_factor=shift_factor)
        self.ema.module.save_pretrained(folder / VAE_FOLDER, safe_serialization=True)
        training = {**asdict(self.settings), "words": count, "val_psnr": self.psnr}
        state = {"step": self.step, **training}
        save_training_state(folder / TRAINING_STATE, self.vae, self.optimizer, self.ema, state)
        config = {
            "format_version": FORMAT_VERSION,
            "kind": "autoencoder",
            "step": self.step,
            "training": training,
        }
        (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2), encoding="utf-8")

    def write_preview(self, path: Path) -> None:
        """There are none."""

    def restore(self, checkpoint: Path) -> None:
        """Take over a checkpoint's state."""
        state = load_training_state(checkpoint, self.vae, self.optimizer, self.ema)
        self.step, self.psnr = state["step"], state.get("val_psnr")


def read_autoencoder_settings(checkpoint: Path) -> AutoencoderSettings:
    """The settings that a checkpoint was made with.

    Raises:
        UserError: if its ``config.json`` is damaged; the message names it.
    """
    path = checkpoint / CONFIG_NAME
    values = read_json(path, "--resume").get("training")
    if isinstance(values, dict):  # what was measured stands beside them
        values = {name: value for name, value in values.items() if name not in ("words", "val_psnr")}
    return read_settings(AutoencoderSettings, values, path)


def load_autoencoder(checkpoint: Path) -> CompactAutoencoder:
    """The VAE of a checkpoint to go on from, of the right sizes; its raw weights are loaded later.

    Raises:
        UserError: if its configuration is damaged; the message names it.
    """
    path = checkpoint / VAE_FOLDER / CONFIG_NAME
    try:
        config = {name: value for name, value in read_json(path, "--resume").items() if name[0] != "_"}
        return CompactAutoencoder(**config)
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise UserError(f"--resume: {path} is damaged ({one_line(error)})") from error
