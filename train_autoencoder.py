"""Train the compact VAE for handwriting on one or more word folders.

  python3 train_autoencoder.py --dataset_path data/iam --save_path runs/vae
  python3 train_diffusion.py --dataset iam --iam_path data/iam --vae runs/vae

Reports the PSNR of held-out words (--max_train_steps 0 with --resume only measures). A run is resumed with --resume.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from autoencoder import DOWNSCALE, VAE_FOLDER, CompactAutoencoder, load_vae
from utils.checkpoint import (
    CONFIG_NAME,
    FORMAT_VERSION,
    TRAINING_STATE,
    checkpoint_step,
    choose_resume,
    load_training_state,
    save_checkpoint,
    save_training_state,
    truncate_csv,
)
from utils.cli import positive_int, run
from utils.sources import parse_sources, read_image, read_sources
from utils.training import (
    EpochSampler,
    ExponentialMovingAverage,
    StopFlag,
    has_fast_bf16,
    learning_rate_factor,
    make_generator,
)

DEFAULTS = {"max_train_steps": 10_000, "batch_size": 32, "crop_width": 128, "learning_rate": 1e-3, "kl_weight": 1e-4,
            "seed": 0}  # fmt: skip
INK_LEVEL = 200  # of 255: darker pixels are ink
FIRST_LOG_VARIANCE = -6.0  # of the posterior, before training
SCALE_IMAGES = 512  # by which the latents' scale is measured
HELD_OUT_IMAGES, HELD_OUT_WIDTH = 256, 512  # that are measured, and pixels of each
LOG_COLUMNS = ("step", "loss", "l1", "kl", "learning_rate", "val_psnr", "seconds")


@dataclass(frozen=True)
class Words:
    """Images of words or lines in memory, each without the white at its right.

    ``strip`` (H, total width) uint8 holds one beside the other; image i has the ``widths[i]`` columns from ``starts[i]``.
    """

    strip: Tensor
    starts: Tensor
    widths: Tensor

    def __len__(self) -> int:
        return len(self.widths)


def load_words(paths: Sequence[Path], *, chunk: int = 1024) -> Words:
    """Read images of one height, of any width, into memory.

    Raises:
        ValueError: if an image is damaged, or of another height than the first, or that is not a multiple of 8 pixels.
    """
    parts, widths = [], []
    for first in range(0, len(paths), chunk):
        with ThreadPoolExecutor() as pool:
            images = list(pool.map(read_image, paths[first : first + chunk]))
        height = parts[0].shape[0] if parts else images[0].shape[0]
        for path, image in zip(paths[first:], images):
            if image.shape[0] != height or height % DOWNSCALE:
                raise ValueError(f"--dataset_path: {path} is {image.shape[0]} pixels high, {paths[0]} {height}; all images must "
                                 f"have one height, a multiple of {DOWNSCALE}")  # fmt: skip
        images = [trim_right(image) for image in images]
        widths += [image.shape[1] for image in images]
        parts.append(np.concatenate(images, axis=1))
    width = torch.tensor(widths)
    return Words(torch.from_numpy(np.concatenate(parts, axis=1)), width.cumsum(0) - width, width)


def trim_right(image: np.ndarray) -> np.ndarray:
    """(H, W) uint8 without the white columns at its right, at least ``DOWNSCALE`` wide: white tails teach nothing."""
    columns = np.flatnonzero((image < INK_LEVEL).any(axis=0))
    return image[:, : max(DOWNSCALE, int(columns[-1]) + 1 if len(columns) else 0)]


def crop_batch(words: Words, indices: Tensor, crop_width: int, generator: torch.Generator) -> Tensor:
    """Random windows that begin inside the ink, as (B, 1, H, crop_width) pixels in [-1, 1]; beyond an image it is white."""
    widths = words.widths[indices]
    last = (widths - crop_width // 2).clamp_min(0)
    left = (torch.rand(len(indices), generator=generator) * (last + 1)).long()
    columns = left[:, None] + torch.arange(crop_width)
    inside = columns < widths[:, None]
    places = (words.starts[indices][:, None] + columns).clamp_max(words.strip.shape[1] - 1)
    batch = words.strip[:, places].transpose(0, 1).masked_fill(~inside[:, None], 255)
    return batch[:, None].float() / 127.5 - 1


def reconstruction_loss(reconstruction: Tensor, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
    """L1 of pixels plus L1 of horizontal and vertical differences (strokes are edges); returns (loss, pixel L1)."""
    error = reconstruction - pixel_values
    l1 = error.abs().mean()
    return l1 + 0.5 * (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()), l1


def held_out_windows(words: Words, width: int) -> Tensor:
    """The first ``width`` pixels of each image, as (N, H, width) uint8; beyond an image it is white."""
    columns = torch.arange(width)
    places = (words.starts[:, None] + columns).clamp_max(words.strip.shape[1] - 1)
    return words.strip[:, places].transpose(0, 1).masked_fill(~(columns < words.widths[:, None])[:, None], 255)


@torch.no_grad()
def measure_psnr(vae: CompactAutoencoder, images: Tensor, device: torch.device, batch_size: int = 32) -> float:
    """Mean PSNR in dB over (N, H, W) uint8 images, peak 255, through the posterior's mean; fp32."""
    values = []
    for batch in images.split(batch_size):
        pixel_values = batch[:, None].to(device).float() / 127.5 - 1
        decoded = vae.decode(vae.encode(pixel_values).latent_dist.mode()).sample.clamp(-1, 1)
        mse = F.mse_loss(decoded, pixel_values, reduction="none").mean(dim=(1, 2, 3)) / 4  # in units of the peak squared
        values.append(-10 * torch.log10(mse.clamp_min(1e-10)))
    return torch.cat(values).mean().item()


@torch.no_grad()
def measure_scale(vae: CompactAutoencoder, pixel_values: Tensor, device: torch.device) -> tuple[float, float]:
    """(1 / standard deviation, mean) of the latents of (N, 1, H, W) pixels in [-1, 1]."""
    means = [vae.encode(batch.to(device)).latent_dist.mode() for batch in pixel_values.split(32)]
    latents = torch.cat(means)
    return 1.0 / max(latents.std().item(), 1e-6), latents.mean().item()


def widen_latents(vae: CompactAutoencoder, source: CompactAutoencoder) -> None:
    """Take over the weights of a VAE of the same shape with as many latent channels or fewer: further channels are new.

    Raises:
        ValueError: if another part of the shape differs.
    """
    old, new = source.config.latent_channels, vae.config.latent_channels
    state = vae.state_dict()
    given = source.state_dict()
    if old > new or state.keys() != given.keys():
        raise ValueError(f"--init_from: a VAE of another shape ({old} latent channels, this one has {new})")
    for name, value in given.items():
        target = state[name]
        if target.shape == value.shape:
            target.copy_(value)
        elif not _copy_latents(target, value, old, new):
            raise ValueError(f"--init_from: a VAE of another shape ({name} is {tuple(value.shape)}, here {tuple(target.shape)})")


def _copy_latents(target: Tensor, value: Tensor, old: int, new: int) -> bool:
    """Copy rows and columns of latent channels; an axis of twice as many holds means and log-variances."""
    for axis in (0, 1)[: target.dim()]:
        if target.shape[axis] != value.shape[axis] and (value.shape[axis], target.shape[axis]) not in ((old, new),
                                                                                          (2 * old, 2 * new)):  # fmt: skip
            return False
    if target.shape[2:] != value.shape[2:]:
        return False

    def places(axis: int) -> Tensor:
        count = value.shape[axis]
        if target.shape[axis] == 2 * new and count == 2 * old:
            return torch.cat([torch.arange(old), new + torch.arange(old)])
        return torch.arange(count)

    if target.dim() == 1:
        target[places(0)] = value
    else:
        target[places(0)[:, None], places(1)] = value
    return True


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_path", nargs="+", required=True, metavar="FOLDER[:SHARE]",
                        help="word folders; FOLDER:2 counts twice, FOLDER:0.5 half of it")  # fmt: skip
    parser.add_argument("--save_path", type=Path, required=True, help="the run's folder")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --save_path")
    parser.add_argument("--max_train_steps", type=int, help="steps in all; the learning rate has come down by then (default: "
                        f"{DEFAULTS['max_train_steps']})")  # fmt: skip
    parser.add_argument("--batch_size", type=positive_int, help=f"windows a step (default: {DEFAULTS['batch_size']})")
    parser.add_argument("--crop_width", type=positive_int, help="width of the training windows in pixels (default: "
                        f"{DEFAULTS['crop_width']})")  # fmt: skip
    parser.add_argument("--learning_rate", type=float, help=f"peak of AdamW's (default: {DEFAULTS['learning_rate']})")
    parser.add_argument("--kl_weight", type=float, help="weight of the mean KL divergence of a latent element, against the "
                        f"L1 of pixels in [-1, 1] (default: {DEFAULTS['kl_weight']})")  # fmt: skip
    parser.add_argument("--max_words", type=positive_int, default=100_000, help="most words held in memory, 16 KB each; of "
                        "more, an even sample (default: %(default)s)")  # fmt: skip
    parser.add_argument("--block_out_channels", type=positive_int, nargs=2, default=(64, 128), metavar=("A", "B"),
                        help="channels of the two levels, multiples of 16; a resumed run keeps its own "
                        "(default: 64 128)")  # fmt: skip
    parser.add_argument("--layers_per_block", type=positive_int, default=2, help="ResNet blocks a level; a resumed run keeps "
                        "its own (default: %(default)s)")  # fmt: skip
    parser.add_argument("--latent_channels", type=positive_int, help="channels of the latents, 8x smaller than the image "
                        "each way; a resumed run keeps its own (default: 4, or those of --init_from)")  # fmt: skip
    parser.add_argument("--init_from", metavar="VAE", help="compact VAE to begin with, of the same channels and blocks and "
                        "at most as many latent channels")  # fmt: skip
    parser.add_argument("--mixed_precision", choices=("no", "bf16"), help="default: bf16 where it is native")
    parser.add_argument("--save_every", type=positive_int, default=1000, help="steps between checkpoints, each measured on "
                        "held-out words (default: %(default)s)")  # fmt: skip
    parser.add_argument("--seed", type=int, help=f"of weights, order, windows (default: {DEFAULTS['seed']})")
    args = parser.parse_args(argv)
    if args.max_train_steps is not None and args.max_train_steps < 1 and not args.resume:
        parser.error(f"--max_train_steps {args.max_train_steps}: at least 1, but with --resume")
    if args.crop_width is not None and args.crop_width < 8:
        parser.error(f"--crop_width {args.crop_width}: at least 8")
    return args


def make_vae(args: argparse.Namespace) -> CompactAutoencoder:
    """A new VAE, or one that begins with the weights of another.

    Raises:
        FileNotFoundError, ValueError: if there is none at --init_from, or its shape is another.
    """
    source = load_vae(args.init_from, flag="--init_from") if args.init_from else None
    if source is not None and not isinstance(source, CompactAutoencoder):
        raise ValueError(f"--init_from {args.init_from}: not a compact VAE")
    latent_channels = args.latent_channels or (source.config.latent_channels if source else 4)
    vae = CompactAutoencoder(block_out_channels=tuple(args.block_out_channels), layers_per_block=args.layers_per_block,
                             latent_channels=latent_channels)  # fmt: skip
    # Channels begin with little noise: at the usual unit noise they carry nothing for thousands of steps.
    bias = vae.autoencoder.quant_conv.bias.data
    bias[latent_channels:] = FIRST_LOG_VARIANCE
    if source is not None:
        widen_latents(vae, source)
    return vae


def write_checkpoint(folder: Path, vae: CompactAutoencoder, ema: ExponentialMovingAverage, optimizer: torch.optim.Optimizer,
                     step: int, settings: dict, sample: Tensor) -> None:  # fmt: skip
    """Fill a checkpoint folder: the averaged VAE with its latents' scale, and the training state."""
    scaling_factor, shift_factor = measure_scale(ema.module, sample, ema.module.device)
    ema.module.register_to_config(scaling_factor=scaling_factor, shift_factor=shift_factor)
    ema.module.save_pretrained(folder / VAE_FOLDER, safe_serialization=True)
    save_training_state(folder / TRAINING_STATE, vae, optimizer, {"step": step, **settings}, ema.state_dict())
    config = {"format_version": FORMAT_VERSION, "kind": "autoencoder", "step": step, "training": settings}
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2), encoding="utf-8")


def main(args: argparse.Namespace) -> None:
    """Train, measure, save."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    checkpoint = choose_resume(args.save_path, args.resume)
    kept = json.loads((checkpoint / CONFIG_NAME).read_text(encoding="utf-8"))["training"] if checkpoint else {}
    for name, default in DEFAULTS.items():  # a resumed run keeps its own
        if getattr(args, name) is None:
            setattr(args, name, kept.get(name, default))

    # The words: held-out ones of split val measure, split test is never looked at.
    sources = read_sources(parse_sources(args.dataset_path))
    train, val = sources.train_indices(), sources.val_indices()
    train = train[:: math.ceil(len(train) / args.max_words)]
    words = load_words([sources.paths[i] for i in train])
    validation = load_words([sources.paths[i] for i in val[:HELD_OUT_IMAGES]])
    widest = min(HELD_OUT_WIDTH, -(-int(validation.widths.max()) // DOWNSCALE) * DOWNSCALE)
    held_out = held_out_windows(validation, widest)
    crop_width = args.crop_width // DOWNSCALE * DOWNSCALE
    print(f"images      {len(train)} to train on, {len(held_out)} held out, {words.strip.shape[0]} pixels high, "
          f"{words.widths.float().mean():.0f} wide")  # fmt: skip

    # The model.
    torch.manual_seed(args.seed)
    if checkpoint:
        vae = CompactAutoencoder.from_config(CompactAutoencoder.load_config(checkpoint / VAE_FOLDER))
    else:
        vae = make_vae(args)
    vae.to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=args.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    ema = ExponentialMovingAverage(vae, 0.999)
    step = 0
    if checkpoint:
        state, extra = load_training_state(checkpoint / TRAINING_STATE, vae, optimizer)
        ema.load_state_dict(extra)
        step = checkpoint_step(checkpoint)
        print(f"resumed     {checkpoint} at step {step}, last PSNR {state.get('val_psnr', float('nan')):.2f} dB")
    precision = args.mixed_precision or ("bf16" if has_fast_bf16(device) else "no")
    print(f"model       {sum(p.numel() for p in vae.parameters()) / 1e6:.2f} M parameters on {device}, precision {precision}")

    # The loop.
    log = args.save_path / "log.csv"
    truncate_csv(log, step, LOG_COLUMNS)
    sampler = EpochSampler(range(len(train)), args.batch_size, args.seed)
    settings = {name: getattr(args, name) for name in DEFAULTS} | {"words": len(train)}
    psnr = float("nan")

    def save() -> None:
        nonlocal psnr
        psnr = measure_psnr(ema.module, held_out, device)
        rows = torch.linspace(0, len(train) - 1, min(SCALE_IMAGES, len(train))).long()
        sample = crop_batch(words, rows, crop_width, make_generator("cpu", args.seed, 0, 3))
        save_checkpoint(args.save_path, step, lambda folder: write_checkpoint(
            folder, vae, ema, optimizer, step, settings | {"val_psnr": psnr}, sample), keep=2)  # fmt: skip

    start, loss_value, is_stopped = time.monotonic(), float("nan"), False
    with StopFlag() as stop, tqdm(total=args.max_train_steps, initial=step, unit="step", desc="train") as bar:
        while step < args.max_train_steps and not is_stopped:
            rate = args.learning_rate * learning_rate_factor(step, warmup_steps=200, horizon=args.max_train_steps,
                                                             schedule="cosine")  # fmt: skip
            for group in optimizer.param_groups:
                group["lr"] = rate
            pixel_values = crop_batch(words, sampler.batch(step), crop_width, make_generator("cpu", args.seed, step, 1))
            pixel_values = pixel_values.to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                reconstruction, posterior = vae(pixel_values, make_generator(device, args.seed, step, 2))
            loss, l1 = reconstruction_loss(reconstruction.float(), pixel_values)
            kl = posterior.latent_dist.kl().mean() / posterior.latent_dist.mean[0].numel()
            loss = loss + args.kl_weight * kl
            if not torch.isfinite(loss):
                raise ValueError(f"the loss is not finite at step {step}: lower --learning_rate {args.learning_rate}, "
                                 "or --mixed_precision no")  # fmt: skip
            loss.backward()
            torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            ema.update(vae, step)
            bar.update()
            is_stopped = stop.is_set  # read once: a signal later in this step must not end the loop unsaved
            is_saving = step % args.save_every == 0 or step == args.max_train_steps or is_stopped
            if is_saving:
                save()
            if is_saving or step % 50 == 0:
                loss_value = loss.item()
                bar.set_postfix(loss=f"{loss_value:.4f}", psnr=f"{psnr:.2f}")
                row = (step, f"{loss_value:.5f}", f"{l1.item():.5f}", f"{kl.item():.3f}", f"{rate:.2e}",
                       f"{psnr:.3f}" if is_saving else "", f"{time.monotonic() - start:.1f}")  # fmt: skip
                with log.open("a", encoding="utf-8") as file:
                    file.write(",".join(map(str, row)) + "\n")
    if psnr != psnr:
        psnr = measure_psnr(ema.module, held_out, device)
    if is_stopped and step < args.max_train_steps:
        print(f"stopped     at step {step}; --resume goes on", file=sys.stderr)
    print(f"PSNR        {psnr:.2f} dB on {len(held_out)} held-out images")
    print(f"saved       {args.save_path}: give it to train_diffusion.py as --vae {args.save_path}")


if __name__ == "__main__":
    run(main, parse_args())
