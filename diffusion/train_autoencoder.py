"""Train the compact VAE for handwriting on one or more word folders.

  python3 diffusion/train_autoencoder.py --dataset_path data/iam --save_path runs/vae
  python3 train_diffusion.py --dataset iam --iam_path data/iam --vae runs/vae

Reports the PSNR of held-out words (--max_train_steps 0 with --resume only measures). A run is resumed with
--resume.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if not __package__:
    sys.path[0] = str(
        Path(__file__).resolve().parents[1]
    )  # the project's root, from whichever folder this is run

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from diffusion.autoencoder import VAE_FOLDER, CompactAutoencoder
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
from utils.device import has_fast_bf16
from utils.errors import UserError
from utils.images import stack_images
from utils.sources import parse_sources, read_images, read_sources
from utils.training import (
    EpochSampler,
    ExponentialMovingAverage,
    StopFlag,
    learning_rate_factor,
    make_generator,
)

DEFAULTS = {
    "max_train_steps": 10_000,
    "batch_size": 32,
    "crop_width": 128,
    "learning_rate": 1e-3,
    "kl_weight": 1e-4,
    "seed": 0,
}
LOG_COLUMNS = ("step", "loss", "l1", "kl", "learning_rate", "val_psnr", "seconds")


@dataclass(frozen=True)
class Words:
    """Images in memory: ``images`` (N, H, W) uint8 and each one's ``ink_right``, the last column with ink, in
    pixels.
    """

    images: Tensor
    ink_right: Tensor


def load_words(paths: Sequence[Path]) -> Words:
    """Read images into memory."""
    images = stack_images(read_images(paths))
    columns = torch.arange(images.shape[2])
    # Part by part: the comparison of all at once would take as much memory as the images.
    return Words(
        images, torch.cat([((part < 200).any(dim=1) * columns).amax(dim=1) for part in images.split(1024)])
    )


def crop_batch(words: Words, indices: Tensor, crop_width: int, generator: torch.Generator) -> Tensor:
    """Random windows that begin inside the ink, as (B, 1, H, crop_width) pixels in [-1, 1]: white tails teach
    nothing.
    """
    width = words.images.shape[2]
    last = (words.ink_right[indices] - crop_width // 2).clamp(0, width - crop_width)
    left = (torch.rand(len(indices), generator=generator) * (last + 1)).long()
    columns = left[:, None] + torch.arange(crop_width)
    batch = words.images[indices].gather(2, columns[:, None, :].expand(-1, words.images.shape[1], -1))
    return batch[:, None].float() / 127.5 - 1


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
        mse = (
            F.mse_loss(decoded, pixel_values, reduction="none").mean(dim=(1, 2, 3)) / 4
        )  # in units of the peak squared
        values.append(-10 * torch.log10(mse.clamp_min(1e-10)))
    return torch.cat(values).mean().item()


@torch.no_grad()
def measure_scale(vae: CompactAutoencoder, images: Tensor, device: torch.device) -> tuple[float, float]:
    """(1 / standard deviation, mean) of the latents of (N, H, W) uint8 images."""
    means = [
        vae.encode(batch[:, None].to(device).float() / 127.5 - 1).latent_dist.mode()
        for batch in images.split(32)
    ]
    latents = torch.cat(means)
    return 1.0 / max(latents.std().item(), 1e-6), latents.mean().item()


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dataset_path",
        nargs="+",
        required=True,
        metavar="FOLDER[:SHARE]",
        help="word folders; FOLDER:2 counts twice, FOLDER:0.5 half of it",
    )
    parser.add_argument("--save_path", type=Path, required=True, help="the run's folder")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --save_path")
    parser.add_argument(
        "--max_train_steps",
        type=int,
        help=(
            f"steps in all; the learning rate has come down by then (default: {DEFAULTS['max_train_steps']})"
        ),
    )
    parser.add_argument(
        "--batch_size", type=positive_int, help=f"windows a step (default: {DEFAULTS['batch_size']})"
    )
    parser.add_argument(
        "--crop_width",
        type=positive_int,
        help=f"width of the training windows in pixels (default: {DEFAULTS['crop_width']})",
    )
    parser.add_argument(
        "--learning_rate", type=float, help=f"peak of AdamW's (default: {DEFAULTS['learning_rate']})"
    )
    parser.add_argument(
        "--kl_weight",
        type=float,
        help=(
            "weight of the mean KL divergence of a latent element, against the "
            f"L1 of pixels in [-1, 1] (default: {DEFAULTS['kl_weight']})"
        ),
    )
    parser.add_argument(
        "--max_words",
        type=positive_int,
        default=100_000,
        help="most words held in memory, 16 KB each; of more, an even sample (default: %(default)s)",
    )
    parser.add_argument(
        "--block_out_channels",
        type=positive_int,
        nargs=2,
        default=(64, 128),
        metavar=("A", "B"),
        help="channels of the two levels, multiples of 16; a resumed run keeps its own (default: 64 128)",
    )
    parser.add_argument(
        "--layers_per_block",
        type=positive_int,
        default=2,
        help="ResNet blocks a level; a resumed run keeps its own (default: %(default)s)",
    )
    parser.add_argument("--mixed_precision", choices=("no", "bf16"), help="default: bf16 where it is native")
    parser.add_argument(
        "--save_every",
        type=positive_int,
        default=1000,
        help="steps between checkpoints, each measured on held-out words (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, help=f"of weights, order, windows (default: {DEFAULTS['seed']})")
    args = parser.parse_args(argv)
    if args.max_train_steps is not None and args.max_train_steps < 1 and not args.resume:
        parser.error(f"--max_train_steps {args.max_train_steps}: at least 1, but with --resume")
    if args.crop_width is not None and args.crop_width < 8:
        parser.error(f"--crop_width {args.crop_width}: at least 8")
    return args


def write_checkpoint(
    folder: Path,
    vae: CompactAutoencoder,
    ema: ExponentialMovingAverage,
    optimizer: torch.optim.Optimizer,
    step: int,
    settings: dict,
    sample: Tensor,
) -> None:
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
    kept = (
        json.loads((checkpoint / CONFIG_NAME).read_text(encoding="utf-8"))["training"] if checkpoint else {}
    )
    for name, default in DEFAULTS.items():  # a resumed run keeps its own
        if getattr(args, name) is None:
            setattr(args, name, kept.get(name, default))

    # The words: held-out ones of split val measure, split test is never looked at.
    sources = read_sources(parse_sources(args.dataset_path))
    train, val = sources.train_indices(), sources.val_indices()
    train = train[:: math.ceil(len(train) / args.max_words)]
    words = load_words([sources.paths[i] for i in train])
    held_out = stack_images(read_images([sources.paths[i] for i in val[:256]]))
    width = words.images.shape[2]
    crop_width = min(args.crop_width, width) // 8 * 8
    print(
        f"words       {len(train)} to train on, {len(held_out)} held out, {words.images.shape[1]}x{width}"
        " pixels"
    )

    # The model.
    torch.manual_seed(args.seed)
    if checkpoint:
        vae = CompactAutoencoder.from_config(CompactAutoencoder.load_config(checkpoint / VAE_FOLDER))
    else:
        vae = CompactAutoencoder(
            block_out_channels=tuple(args.block_out_channels), layers_per_block=args.layers_per_block
        )
    vae.to(device)
    optimizer = torch.optim.AdamW(
        vae.parameters(), lr=args.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4
    )
    ema = ExponentialMovingAverage(vae, 0.999)
    step = 0
    if checkpoint:
        state, extra = load_training_state(checkpoint / TRAINING_STATE, vae, optimizer)
        ema.load_state_dict(extra)
        step = checkpoint_step(checkpoint)
        print(
            f"resumed     {checkpoint} at step {step}, last PSNR {state.get('val_psnr', float('nan')):.2f} dB"
        )
    precision = args.mixed_precision or ("bf16" if has_fast_bf16(device) else "no")
    print(
        f"model       {sum(p.numel() for p in vae.parameters()) / 1e6:.2f} M parameters on {device},"
        f" precision {precision}"
    )

    # The loop.
    log = args.save_path / "log.csv"
    truncate_csv(log, step, LOG_COLUMNS)
    sampler = EpochSampler(range(len(train)), args.batch_size, args.seed)
    settings = {name: getattr(args, name) for name in DEFAULTS} | {"words": len(train)}
    psnr = float("nan")

    def save() -> None:
        nonlocal psnr
        psnr = measure_psnr(ema.module, held_out, device)
        sample = words.images[torch.linspace(0, len(train) - 1, min(512, len(train))).long()]
        save_checkpoint(
            args.save_path,
            step,
            lambda folder: write_checkpoint(
                folder, vae, ema, optimizer, step, settings | {"val_psnr": psnr}, sample
            ),
            keep=2,
        )

    start, loss_value, is_stopped = time.monotonic(), float("nan"), False
    with StopFlag() as stop, tqdm(total=args.max_train_steps, initial=step, unit="step", desc="train") as bar:
        while step < args.max_train_steps and not is_stopped:
            rate = args.learning_rate * learning_rate_factor(
                step, warmup_steps=200, horizon=args.max_train_steps, schedule="cosine"
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            pixel_values = crop_batch(
                words, sampler.batch(step), crop_width, make_generator("cpu", args.seed, step, 1)
            )
            pixel_values = pixel_values.to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                reconstruction, posterior = vae(pixel_values, make_generator(device, args.seed, step, 2))
            loss, l1 = reconstruction_loss(reconstruction.float(), pixel_values)
            kl = posterior.latent_dist.kl().mean() / posterior.latent_dist.mean[0].numel()
            loss = loss + args.kl_weight * kl
            if not torch.isfinite(loss):
                raise UserError(
                    f"the loss is not finite at step {step}: lower --learning_rate {args.learning_rate}, "
                    "or --mixed_precision no"
                )
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
                row = (
                    step,
                    f"{loss_value:.5f}",
                    f"{l1.item():.5f}",
                    f"{kl.item():.3f}",
                    f"{rate:.2e}",
                    f"{psnr:.3f}" if is_saving else "",
                    f"{time.monotonic() - start:.1f}",
                )
                with log.open("a", encoding="utf-8") as file:
                    file.write(",".join(map(str, row)) + "\n")
    if psnr != psnr:
        psnr = measure_psnr(ema.module, held_out, device)
    if is_stopped and step < args.max_train_steps:
        print(f"stopped     at step {step}; --resume goes on", file=sys.stderr)
    print(f"PSNR        {psnr:.2f} dB on {len(held_out)} held-out words")
    print(f"saved       {args.save_path}: give it to train_diffusion.py as --vae {args.save_path}")


if __name__ == "__main__":
    run(main, parse_args())
