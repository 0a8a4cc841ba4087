"""Timings within this process: training, sampling, and what the machine could do at most."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from diffusion.autoencoder import CompactAutoencoder
from diffusion.noise_schedule import FULL_INTERVAL
from diffusion.pipeline import DEFAULT_STEPS, HandwritingPipeline
from scripts.benchmark_models import (
    IMG_SIZE,
    WORD_LENGTHS,
    draw_texts,
    make_checkpoint_config,
    make_sd_vae,
    make_unet,
    our_train_step,
    published_sampling,
    published_train_step,
    write_shipped,
)
from scripts.benchmark_rows import BenchmarkSettings, Row
from scripts.timing import copy_ceiling, count_flops, matrix_ceiling, peak_memory, time_interleaved
from utils.device import compile_in_place

SHIPPED_MODEL = Path(__file__).resolve().parents[1] / "models" / "demo"
PUBLISHED_STEPS = 999  # of two calls each


def benchmark_training(settings: BenchmarkSettings) -> list[Row]:
    """Images a second of a training step, both ways."""
    device, batch = settings.device, settings.train_batch
    ours = (settings.preset, settings.mixed_precision, device, batch)
    name = f"ours ({settings.preset}, {settings.mixed_precision}, latents cached, with the recognition loss)"
    calls = {
        "published (fp32, VAE in the step)": published_train_step(make_sd_vae().to(device), batch, device),
        f"{name}, whole canvas": our_train_step(*ours, is_full=True),
        f"{name}, canvas of the word": our_train_step(*ours, is_full=False),
    }
    if settings.compile:
        calls[f"{name}, whole canvas, compiled"] = our_train_step(*ours, is_full=True, is_compiled=True)
    # Steps of words of several widths differ: each timing is of several.
    times = {label: 1 if label.startswith("published") else 4 for label in calls}
    repeated = {label: repeat(call, times[label]) for label, call in calls.items()}
    timings = time_interleaved(repeated, device, rounds=settings.rounds)
    return [
        Row.of_rate("training", label, timing, batch * times[label], "images/s", f"batch {batch}")
        for label, timing in timings.items()
    ]


def repeat(call: Callable[[], object], times: int) -> Callable[[], None]:
    """A call that makes the call several times."""

    def repeated() -> None:
        for _ in range(times):
            call()

    return repeated


def benchmark_sampling(settings: BenchmarkSettings) -> list[Row]:
    """Seconds a word, both ways, two guidance branches and the decoding included."""
    device = settings.device
    vae = make_sd_vae().to(device)
    step, decode = published_sampling(vae, device)
    calls = {"step": repeat(step, settings.published_calls), "decode": decode}
    batches = settings.batch_sizes or ([1, 32, 128, 512] if device.type == "cuda" else [1, 8, 32])
    counts: dict[str, int] = {}
    for label, (call, count) in {
        **plan_our_sampling(settings, vae, batches),
        **plan_shipped_sampling(device, batches),
    }.items():
        calls[label], counts[label] = call, count
    timings = time_interleaved(calls, device, rounds=settings.rounds)
    one, last = timings.pop("step"), timings.pop("decode")
    scale = PUBLISHED_STEPS / settings.published_calls
    rows = [
        Row(
            part="sampling",
            what=f"published (fp32, {PUBLISHED_STEPS} steps of two calls, batch 1, decoding)",
            value=one.median * scale + last.median,
            low=one.low * scale + last.low,
            high=one.high * scale + last.high,
            unit="s/word",
            note=f"{settings.published_calls} steps timed, scaled",
        )
    ]
    for label, timing in timings.items():
        value, low, high = (seconds / counts[label] for seconds in (timing.median, timing.low, timing.high))
        rows.append(Row(part="sampling", what=label, value=value, low=low, high=high, unit="s/word"))
    return rows


def plan_our_sampling(
    settings: BenchmarkSettings, sd_vae: nn.Module, batches: Sequence[int]
) -> dict[str, tuple[Callable[[], None], int]]:
    """Calls that write words by our models, and the number of words of each, by label."""
    sd_name, compact_name = "Stable Diffusion's VAE", "compact VAE"
    vaes = {
        sd_name: sd_vae.to(memory_format=torch.channels_last),
        compact_name: CompactAutoencoder().eval().requires_grad_(False),
    }
    pipelines = {}
    for name, vae in vaes.items():
        unet, config = make_unet(settings.preset).eval(), make_checkpoint_config(vae, settings.preset)
        if settings.compile:
            compile_in_place(unet, settings.device)
        for is_full in (True, False):
            canvas = replace(config, canvas_step=None) if is_full else config
            pipelines[name, is_full] = HandwritingPipeline(unet, vae, canvas)
            pipelines[name, is_full].to(settings.device, settings.dtype)

    def write(name: str, count: int, steps: int, is_full: bool) -> Callable[[], None]:
        texts = draw_texts(count)
        return lambda: pipelines[name, is_full](
            texts, ["000"] * count, num_inference_steps=steps, guidance_interval=FULL_INTERVAL
        )

    middle, largest = settings.num_steps[len(settings.num_steps) // 2], batches[-1]
    plans = [(sd_name, count, middle, True) for count in batches]
    plans += [(sd_name, largest, steps, True) for steps in settings.num_steps if steps != middle]
    plans += [
        (sd_name, largest, middle, False),
        (compact_name, 1, middle, True),
        (compact_name, largest, middle, True),
        (compact_name, largest, middle, False),
    ]
    calls = {}
    for name, count, steps, is_full in plans:
        canvas = "whole canvas" if is_full else "canvas of the word"
        how = f"{settings.preset}, {settings.mixed_precision}{', compiled' if settings.compile else ''}"
        label = f"ours ({how}, each word drawn once), {name}, {steps} steps, batch {count}, {canvas}"
        calls[label] = write(name, count, steps, is_full), count
    return calls


def plan_shipped_sampling(
    device: torch.device, batches: Sequence[int]
) -> dict[str, tuple[Callable[[], None], int]]:
    """Calls that write words by the model that ships, as people get it: real words, real weights, and its
    latent recogniser's redraws.
    """
    if not SHIPPED_MODEL.is_dir():
        return {}
    shipped = HandwritingPipeline.from_pretrained(SHIPPED_MODEL)
    shipped.to(device)
    calls = {}
    for count in dict.fromkeys((1, batches[-1])):
        student = shipped.config.student
        steps = DEFAULT_STEPS if student is None else student.num_steps
        how = f"fp32, illegible words drawn again, {steps} steps"
        label = f"models/demo as it ships ({how}), batch {count}"
        calls[label] = write_shipped(shipped, count)
    return calls


def benchmark_machine(settings: BenchmarkSettings) -> list[Row]:
    """FLOP/s of the UNet, forward and in training, against those of a matrix product."""
    device, dtype, batch = settings.device, settings.dtype, settings.train_batch
    ceilings = {kind: matrix_ceiling(device, kind) for kind in dict.fromkeys((torch.float32, dtype))}
    rows = []
    for kind, flops in ceilings.items():
        name = f"matrix product, {str(kind).removeprefix('torch.')}"
        rows.append(Row.of_values("machine", name, [flops / 1e9], "GFLOP/s"))
    rows.append(Row.of_values("machine", "copy", [copy_ceiling(device) / 1e9], "GB/s"))
    unet = make_unet(settings.preset).to(device).eval()
    inputs = (
        torch.randn(batch, 4, IMG_SIZE[0] // 8, IMG_SIZE[1] // 8, device=device),
        torch.full((batch,), 500.0, device=device),
        torch.ones(batch, max(WORD_LENGTHS), dtype=torch.int64, device=device),
        torch.zeros(batch, dtype=torch.int64, device=device),
        torch.rand(batch, 2, max(WORD_LENGTHS), IMG_SIZE[1] // 8, device=device),
    )

    def forward() -> torch.Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return unet(*inputs)

    @torch.inference_mode()
    def infer() -> None:
        forward()

    def learn() -> None:
        forward().float().square().mean().backward()

    calls = {"UNet, forward": infer, "UNet, forward and backward": learn}
    flops = {what: count_flops(call) for what, call in calls.items()}
    timings = time_interleaved(calls, device, rounds=settings.rounds)
    for what, timing in timings.items():
        share = flops[what] / timing.median / ceilings[dtype]
        note = f"{flops[what] / batch / 1e9:.1f} GFLOP an image, {100 * share:.0f} % of the matrix product"
        rows.append(Row.of_rate("machine", what, timing, flops[what] / 1e9, "GFLOP/s", note))
    rows.append(Row.of_values("machine", "memory of this process", [peak_memory(device) / 2**20], "MiB"))
    return rows
