"""How fast this program is, beside the published procedure, in one run on one machine.

  python3 scripts/benchmark.py --save_path benchmark.json
  python3 scripts/benchmark.py --parts sampling machine --batch_sizes 1 8 --rounds 5

Parts: training (images a second), sampling (seconds a word), preprocessing (words a second, memory),
first_word (seconds and memory of a fresh process), machine (work done against what a matrix product reaches).
The published procedure is written anew
from its description: in training the whole UNet in fp32 and the VAE of Stable Diffusion's size encoding each
image in the step; in sampling 999 steps of two UNet calls for one word at a time in fp32, of which a few are
timed and scaled up. All weights are
random: speed doesn't depend on them. Let nothing else run meanwhile.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

if not __package__:
    sys.path[0] = str(
        Path(__file__).resolve().parents[1]
    )  # the project's root, from whichever folder this is run

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from diffusion.autoencoder import CompactAutoencoder, hash_vae
from diffusion.config import CheckpointConfig
from diffusion.latent_recogniser import LatentRecogniser, LatentRecogniserConfig
from diffusion.layout import CANVAS_STEP, WidthModel
from diffusion.noise_schedule import FULL_INTERVAL, RectifiedFlow, VarianceSchedule
from diffusion.pipeline import DEFAULT_STEPS, HandwritingPipeline
from diffusion.presets import make_config
from diffusion.trainer import DiffusionTrainer
from diffusion.training_settings import TrainingSettings
from generation.jobs import jobs_of_texts
from generation.sampling import SamplingSettings, write_batches
from scripts.timing import (
    Timing,
    copy_ceiling,
    count_flops,
    describe_machine,
    matrix_ceiling,
    peak_memory,
    time_interleaved,
)
from unet import UNet
from utils.charset import Charset
from utils.cli import positive_int, run
from utils.device import compile_in_place, has_fast_bf16
from utils.errors import UserError
from utils.output import write_atomically
from utils.sources import TrainingSet
from utils.text_images import TextImage
from utils.vocabulary import dictionary_words

ROOT = Path(__file__).resolve().parent.parent

SHIPPED_MODEL = ROOT / "models" / "demo"
PARTS = ("training", "sampling", "preprocessing", "first_word", "machine")
CHARACTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
WRITERS = 339  # of IAM's training set
IMG_SIZE = (64, 256)
PUBLISHED_STEPS = 999  # of two calls each
PIXELS_A_CHARACTER = 28  # of IAM words 64 pixels high
WORD_LENGTHS = (2, 3, 3, 4, 4, 4, 5, 5, 6, 7)  # about as IAM's words of 2 to 7 letters


@dataclass(frozen=True)
class Row:
    """A line of the table: a figure with its spread, in ``unit``."""

    part: str
    what: str
    value: float
    low: float
    high: float
    unit: str
    note: str = ""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--save_path", type=Path, help="JSON file for all figures (default: only print them)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument(
        "--preset",
        default="base",
        choices=("base", "small", "tiny"),
        help="of our model (default: %(default)s, the published model's size)",
    )
    parser.add_argument(
        "--rounds", type=positive_int, default=3, help="timings of each figure (default: %(default)s)"
    )
    parser.add_argument(
        "--train_batch_size",
        type=positive_int,
        help="images a step, both ways (default: 16 on a CPU, 224 on a GPU)",
    )
    parser.add_argument(
        "--batch_sizes",
        type=positive_int,
        nargs="+",
        help="words written at once (default: 1 8 32 on a CPU, 1 32 128 512 on a GPU)",
    )
    parser.add_argument(
        "--num_steps",
        type=positive_int,
        nargs="+",
        default=[10, 20, 50],
        help="of sampling (default: 10 20 50)",
    )
    parser.add_argument(
        "--published_calls",
        type=positive_int,
        default=2,
        help=f"steps of the published sampling that are timed, of {PUBLISHED_STEPS} (default: %(default)s)",
    )
    parser.add_argument(
        "--num_words",
        type=positive_int,
        default=20_000,
        help="of the made-up IAM that is preprocessed (default: %(default)s)",
    )
    parser.add_argument(
        "--compile", action="store_true", help="time our models behind torch.compile (training both ways)"
    )
    parser.add_argument(
        "--mixed_precision", choices=("no", "bf16"), help="of ours (default: bf16 where it is native)"
    )
    parser.add_argument("--device", help="default: a GPU if there is one")
    return parser.parse_args(argv)


# Models and words
# ------------------------------------------------------------------------------------------------------------


def make_sd_vae() -> AutoencoderKL:
    """A VAE of Stable Diffusion's architecture (83.7 M parameters), random weights."""
    blocks = (128, 256, 512, 512)
    torch.manual_seed(0)
    return (
        AutoencoderKL(
            in_channels=3,
            out_channels=3,
            latent_channels=4,
            layers_per_block=2,
            block_out_channels=blocks,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=32,
            sample_size=512,
            scaling_factor=0.18215,
        )
        .eval()
        .requires_grad_(False)
    )


def make_card(vae: nn.Module, preset: str) -> CheckpointConfig:
    """The config of a model for IAM; words are as wide as IAM's."""
    widths = WidthModel(
        dict.fromkeys(CHARACTERS, float(PIXELS_A_CHARACTER)), {}, left=4.0, room=IMG_SIZE[1] - 8.0
    )
    return CheckpointConfig(
        charset=Charset(CHARACTERS),
        writers=tuple(f"{i:03d}" for i in range(WRITERS)),
        schedule=RectifiedFlow(),
        img_size=IMG_SIZE,
        width_model=widths,
        vae={"name": "random", "hash": hash_vae(vae)},
        canvas_step=CANVAS_STEP,
        extra={"preset": preset},
    )


def make_unet(preset: str, **changes) -> UNet:
    """A UNet for IAM with random weights; ``changes`` override fields of its configuration."""
    torch.manual_seed(0)
    config = make_config(
        preset,
        num_writers=WRITERS,
        vocabulary_size=len(CHARACTERS) + 1,
        max_length=max(WORD_LENGTHS),
        **changes,
    )
    return UNet(config)


def draw_texts(count: int) -> list[str]:
    """Random letters in the lengths of IAM's words."""
    draw = random.Random(0)
    return [
        "".join(draw.choices(CHARACTERS[26:], k=WORD_LENGTHS[i % len(WORD_LENGTHS)])) for i in range(count)
    ]


# Training
# ------------------------------------------------------------------------------------------------------------


class MadeUpCache:
    """Random latents in place of a latent cache, as wide as IAM's words."""

    def __init__(self, texts: Sequence[str], is_full: bool) -> None:
        rng = np.random.default_rng(0)
        self.channels, self.height = 4, IMG_SIZE[0] // 8
        self.starts = np.arange(len(texts) + 1) * (IMG_SIZE[1] // 8)
        shape = (self.starts[-1] + 1, 2, self.channels, self.height)
        self.columns = rng.standard_normal(shape).astype(np.float16)
        self.columns[:, 1] = 0.1
        widths = [IMG_SIZE[1] - 8 if is_full else PIXELS_A_CHARACTER * len(text) for text in texts]
        self.ink = np.array([(4, 4, min(4 + width, IMG_SIZE[1] - 4), 60) for width in widths], np.float32)


def published_train_step(vae: nn.Module, batch_size: int, device: torch.device) -> Callable[[], None]:
    """A step as published: fp32, each image encoded in it, AdamW, averaged weights updated one by one."""
    unet = make_unet("wordstylist").to(device)
    averaged = make_unet("wordstylist").to(device).requires_grad_(False)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4)
    scheduler = VarianceSchedule().noise_scheduler
    images = torch.rand(batch_size, 3, *IMG_SIZE, device=device) * 2 - 1
    ids = torch.randint(0, len(CHARACTERS), (batch_size, max(WORD_LENGTHS)), device=device)
    writers = torch.randint(0, WRITERS, (batch_size,), device=device)

    def step() -> None:
        with torch.no_grad():
            latents = vae.encode(images).latent_dist.sample() * 0.18215
        noise = torch.randn_like(latents)
        timesteps = torch.randint(1, 1000, (batch_size,), device=device)
        loss = F.mse_loss(
            unet(scheduler.add_noise(latents, noise, timesteps), timesteps, ids, writers, None), noise
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for mean, current in zip(averaged.parameters(), unet.parameters(), strict=True):
                mean.copy_(mean * 0.995 + current * 0.005)
        loss.item()  # it is logged

    return step


def our_train_step(
    args: argparse.Namespace, batch_size: int, *, is_full: bool, is_compiled: bool = False
) -> Callable[[], None]:
    """A step of ``train_diffusion.py``; ``is_full``: all words fill the image."""
    texts = draw_texts(64 * batch_size)
    records = tuple(TextImage(f"images/{i}.png", text, f"{i % WRITERS:03d}") for i, text in enumerate(texts))
    words = TrainingSet(
        records, tuple(Path("benchmark") / r.file_name for r in records), (1.0,) * len(records)
    )
    accelerator = Accelerator(
        mixed_precision=args.mixed_precision, cpu=not torch.cuda.is_available() or args.device == "cpu"
    )
    vae = CompactAutoencoder()
    unet = make_unet(args.preset)
    settings = TrainingSettings(
        max_train_steps=10**6,
        schedule_steps=10**6,
        batch_size=batch_size,
        learning_rate=1e-4,
        recognition_weight=0.5,
    )
    trainer = DiffusionTrainer(
        accelerator, unet, make_card(vae, args.preset), vae, words, MadeUpCache(texts, is_full), settings
    )
    trainer.latent_recogniser = (
        LatentRecogniser(LatentRecogniserConfig(vocabulary_size=len(CHARACTERS) + 1))
        .requires_grad_(False)
        .to(trainer.device)
    )
    if is_compiled:
        compile_in_place(trainer.bare_unet, trainer.device)

    def step() -> None:
        trainer.train_step()["loss"].item()

    return step


def benchmark_training(args: argparse.Namespace, device: torch.device) -> list[Row]:
    """Images a second of a training step, both ways."""
    batch = args.train_batch_size or (224 if device.type == "cuda" else 16)
    name = f"ours ({args.preset}, {args.mixed_precision}, latents cached, with the recognition loss)"
    calls = {
        "published (fp32, VAE in the step)": published_train_step(make_sd_vae().to(device), batch, device),
        f"{name}, whole canvas": our_train_step(args, batch, is_full=True),
        f"{name}, canvas of the word": our_train_step(args, batch, is_full=False),
    }
    if args.compile:
        calls[f"{name}, whole canvas, compiled"] = our_train_step(args, batch, is_full=True, is_compiled=True)
    # Steps of words of several widths differ: each timing is of several.
    repeated = {key: _repeat(call, 1 if "published" in key else 4) for key, call in calls.items()}
    timings = time_interleaved(repeated, device, rounds=args.rounds)
    return [
        _rate("training", key, timing, batch * (1 if "published" in key else 4), "images/s", f"batch {batch}")
        for key, timing in timings.items()
    ]


def _repeat(call: Callable[[], object], times: int) -> Callable[[], None]:
    def repeated() -> None:
        for _ in range(times):
            call()

    return repeated


def _rate(part: str, what: str, timing: Timing, count: float, unit: str, note: str = "") -> Row:
    return Row(part, what, count / timing.median, count / timing.high, count / timing.low, unit, note)


# Sampling
# ------------------------------------------------------------------------------------------------------------


def published_sampling(vae: nn.Module, device: torch.device) -> tuple[Callable[[], None], Callable[[], None]]:
    """One step of the published sampling of one word (two calls), and the decoding that follows the last."""
    unet = make_unet("wordstylist").to(device).eval().requires_grad_(False)
    latents = torch.randn(1, 4, IMG_SIZE[0] // 8, IMG_SIZE[1] // 8, device=device)
    ids = torch.randint(0, len(CHARACTERS), (1, max(WORD_LENGTHS)), device=device)
    writer = torch.zeros(1, dtype=torch.int64, device=device)

    @torch.no_grad()
    def step() -> None:
        timesteps = torch.full((1,), 500, device=device)
        with_condition, without = (unet(latents, timesteps, ids, writer, None) for _ in range(2))
        torch.lerp(without, with_condition, 3.0)

    @torch.no_grad()
    def decode() -> None:
        vae.decode(latents / 0.18215)

    return step, decode


def write_shipped(pipeline: HandwritingPipeline, batch_size: int) -> tuple[Callable[[], None], int]:
    """A call that writes dictionary words at the defaults, as inference.py does, and the number of words."""
    count = 1 if batch_size == 1 else 4 * batch_size  # several batches: words of one width share one
    texts = list(islice(dictionary_words(pipeline.config.charset.characters, seed=0), count))
    jobs = jobs_of_texts(texts, None, pipeline.config.writers)
    settings = SamplingSettings(batch_size=batch_size)
    return lambda: list(write_batches(pipeline, jobs, settings)), count


def benchmark_sampling(args: argparse.Namespace, device: torch.device) -> list[Row]:
    """Seconds a word, both ways, two guidance branches and the decoding included."""
    vae = make_sd_vae().to(device)
    step, decode = published_sampling(vae, device)
    pipelines = {}
    for name, own in (
        ("Stable Diffusion's VAE", vae.to(memory_format=torch.channels_last)),
        ("compact VAE", CompactAutoencoder().eval().requires_grad_(False)),
    ):
        unet, config = make_unet(args.preset).eval(), make_card(own, args.preset)
        if args.compile:
            compile_in_place(unet, device)
        for is_full in (True, False):
            pipelines[name, is_full] = HandwritingPipeline(
                unet, own, replace(config, canvas_step=None) if is_full else config
            )
            pipelines[name, is_full].to(
                device, torch.bfloat16 if args.mixed_precision == "bf16" else torch.float32
            )
    batches = args.batch_sizes or ([1, 32, 128, 512] if device.type == "cuda" else [1, 8, 32])
    middle = args.num_steps[len(args.num_steps) // 2]

    def write(name: str, count: int, steps: int, is_full: bool) -> Callable[[], None]:
        texts = draw_texts(count)
        return lambda: pipelines[name, is_full](
            texts, ["000"] * count, num_inference_steps=steps, guidance_interval=FULL_INTERVAL
        )

    calls = {"step": _repeat(step, args.published_calls), "decode": decode}
    counts = {}
    plans = [("Stable Diffusion's VAE", count, middle, True) for count in batches]
    plans += [
        ("Stable Diffusion's VAE", batches[-1], steps, True) for steps in args.num_steps if steps != middle
    ]
    plans += [
        ("Stable Diffusion's VAE", batches[-1], middle, False),
        ("compact VAE", 1, middle, True),
        ("compact VAE", batches[-1], middle, True),
        ("compact VAE", batches[-1], middle, False),
    ]
    for name, count, steps, is_full in plans:
        canvas = "whole canvas" if is_full else "canvas of the word"
        how = f"{args.preset}, {args.mixed_precision}{', compiled' if args.compile else ''}"
        label = f"ours ({how}, each word drawn once), {name}, {steps} steps, batch {count}, {canvas}"
        calls[label], counts[label] = write(name, count, steps, is_full), count
    if (
        SHIPPED_MODEL.is_dir()
    ):  # as people get it: real words, real weights, and its latent recogniser's redraws
        shipped = HandwritingPipeline.from_pretrained(SHIPPED_MODEL)
        shipped.to(device)
        for count in dict.fromkeys((1, batches[-1])):
            label = (
                f"models/demo as it ships (fp32, illegible words drawn again), {DEFAULT_STEPS} steps, batch"
                f" {count}"
            )
            calls[label], counts[label] = write_shipped(shipped, count)
    timings = time_interleaved(calls, device, rounds=args.rounds)
    one, last = timings.pop("step"), timings.pop("decode")
    scale = PUBLISHED_STEPS / args.published_calls
    rows = [
        Row(
            "sampling",
            f"published (fp32, {PUBLISHED_STEPS} steps of two calls, batch 1, decoding)",
            one.median * scale + last.median,
            one.low * scale + last.low,
            one.high * scale + last.high,
            "s/word",
            f"{args.published_calls} steps timed, scaled",
        )
    ]
    for label, timing in timings.items():
        rows.append(
            Row(
                "sampling",
                label,
                *(value / counts[label] for value in (timing.median, timing.low, timing.high)),
                "s/word",
            )
        )
    return rows


# Preprocessing, and a process's first word
# -------------------------------------------------------------------------------


def make_iam(root: Path, num_words: int) -> None:
    """A made-up IAM: words.txt, forms.txt and word images of a few hundred pixels, as in the real one."""
    font = ImageFont.load_default(size=70)
    texts = draw_texts(num_words)
    (root / "ascii").mkdir(parents=True)
    drawn = {}
    for text in texts[:200]:  # enough to differ; drawing all would take longer than what is measured
        box = font.getbbox(text)
        size = (int(box[2] - box[0]) + 20, int(box[3] - box[1]) + 20)
        image = Image.effect_noise(size, 12).point(lambda value: min(255, value + 110))
        ImageDraw.Draw(image).text((10 - box[0], 10 - box[1]), text, fill=40, font=font)
        drawn[text] = image
    samples = list(drawn.items())
    lines, forms = [], []
    for i in range(num_words):
        form = f"{'abcdefghijklm'[i // 2000 % 13]}{i // 100 % 100:02d}-{i // 50 % 1000:03d}"
        if i % 50 == 0:
            forms.append(f"{form} {i // 100 % WRITERS:03d} 2 prt 7 5 52 36\n")
        text, image = samples[i % len(samples)]
        name = f"{form}-{i // 10 % 5:02d}-{i % 10:02d}"
        lines.append(f"{name} ok 154 408 768 {image.width} {image.height} AT {text}\n")
        path = root / "words" / form[:3] / form / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            image.save(path)
    (root / "ascii" / "words.txt").write_text("".join(lines), encoding="utf-8")
    (root / "ascii" / "forms.txt").write_text("".join(forms), encoding="utf-8")


def run_measured(arguments: Sequence[object]) -> tuple[float, int]:
    """Seconds and peak memory (bytes, the largest process) of a script in a process of its own.

    Raises:
        ValueError: if it fails; the message has its last words.
    """
    code = (
        "import resource, subprocess, sys, time; start = time.perf_counter(); done ="
        " subprocess.run(sys.argv[1:], capture_output=True, text=True); print(time.perf_counter() - start,"
        " resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, done.returncode); print(done.stderr[-500:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    first, *rest = done.stdout.splitlines()
    seconds, kilobytes, status = first.split()
    if status != "0":
        raise UserError(f"{arguments[0]} failed: {' '.join(rest)}")
    return float(seconds), int(kilobytes) * 1024


def benchmark_preprocessing(args: argparse.Namespace, device: torch.device) -> list[Row]:
    """Words a second of process_dataset.py with one process and with all cores, and its memory at two
    sizes.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        sizes = (args.num_words // 4, args.num_words)
        for size in sizes:
            make_iam(root / f"iam{size}", size)
        script = ROOT / "preprocessing" / "process_dataset.py"
        plans = [(sizes[1], 1), (sizes[1], os.cpu_count()), (sizes[0], os.cpu_count())]
        for size, workers in dict.fromkeys(plans):
            found = [
                run_measured(
                    [
                        script,
                        "--dataset",
                        "iam",
                        "--dataset_path",
                        root / f"iam{size}",
                        "--save_dir",
                        root / f"out{size}-{workers}-{i}",
                        "--num_workers",
                        workers,
                    ]
                )
                for i in range(args.rounds)
            ]
            seconds = [one for one, _ in found]
            what = f"{size} words, {workers} process{'es' if workers > 1 else ''}"
            rows.append(
                _rate(
                    "preprocessing",
                    what,
                    Timing(float(np.median(seconds)), min(seconds), max(seconds), args.rounds),
                    size,
                    "words/s",
                )
            )
            memory = [size_of / 2**20 for _, size_of in found]
            rows.append(
                Row(
                    "preprocessing",
                    f"{what}, largest process",
                    float(np.median(memory)),
                    min(memory),
                    max(memory),
                    "MiB",
                )
            )
    return rows


def benchmark_first_word(args: argparse.Namespace, device: torch.device) -> list[Row]:
    """Seconds and memory of inference.py writing one word in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        vae = CompactAutoencoder().eval()
        HandwritingPipeline(make_unet(args.preset), vae, make_card(vae, args.preset)).save_pretrained(
            root / "model"
        )
        models = {f"{args.preset}, compact VAE": root / "model", "models/demo": SHIPPED_MODEL}
        rows = []
        for name, model in models.items():
            if not model.is_dir():
                continue
            writer = json.loads((model / "config.json").read_text(encoding="utf-8"))["writers"][0]
            found = [
                run_measured(
                    [
                        "inference.py",
                        "--models_path",
                        model,
                        "--words",
                        "word",
                        "--writer",
                        writer,
                        "--device",
                        device,
                        "--save_path",
                        root / f"{model.name}{i}",
                    ]
                )
                for i in range(args.rounds)
            ]
            for what, values, unit in (
                ("first word, process start included", [s for s, _ in found], "s"),
                ("memory", [m / 2**20 for _, m in found], "MiB"),
            ):
                rows.append(
                    Row(
                        "first_word",
                        f"{name}: {what}",
                        float(np.median(values)),
                        min(values),
                        max(values),
                        unit,
                    )
                )
    return rows


# The machine
# ------------------------------------------------------------------------------------------------------------


def benchmark_machine(args: argparse.Namespace, device: torch.device) -> list[Row]:
    """FLOP/s of the UNet, forward and in training, against those of a matrix product."""
    dtype = torch.bfloat16 if args.mixed_precision == "bf16" else torch.float32
    ceilings = {kind: matrix_ceiling(device, kind) for kind in dict.fromkeys((torch.float32, dtype))}
    rows = [
        Row("machine", f"matrix product, {str(kind).removeprefix('torch.')}", *(value / 1e9,) * 3, "GFLOP/s")
        for kind, value in ceilings.items()
    ]
    copied = copy_ceiling(device) / 1e9
    rows.append(Row("machine", "copy", copied, copied, copied, "GB/s"))
    unet = make_unet(args.preset).to(device).eval()
    batch = args.train_batch_size or (224 if device.type == "cuda" else 16)
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

    flops = {"UNet, forward": count_flops(infer), "UNet, forward and backward": count_flops(learn)}
    timings = time_interleaved(
        {"UNet, forward": infer, "UNet, forward and backward": learn}, device, rounds=args.rounds
    )
    for what, timing in timings.items():
        row = _rate(
            "machine",
            what,
            timing,
            flops[what] / 1e9,
            "GFLOP/s",
            f"{flops[what] / batch / 1e9:.1f} GFLOP an image",
        )
        rows.append(
            replace(
                row, note=f"{row.note}, {100 * row.value * 1e9 / ceilings[dtype]:.0f} % of the matrix product"
            )
        )
    rows.append(Row("machine", "memory of this process", *(peak_memory(device) / 2**20,) * 3, "MiB"))
    return rows


BENCHMARKS = {
    "training": benchmark_training,
    "sampling": benchmark_sampling,
    "preprocessing": benchmark_preprocessing,
    "first_word": benchmark_first_word,
    "machine": benchmark_machine,
}


def compare(rows: Sequence[Row]) -> list[str]:
    """How many times faster than published, a line for each figure of training and sampling with a model of
    --preset.
    """
    lines = []
    for part, is_rate in (("training", True), ("sampling", False)):
        own = [row for row in rows if row.part == part]
        base = next((row for row in own if row.what.startswith("published")), None)
        for row in own:
            if base and row.what.startswith("ours"):  # not the model that ships, which is smaller
                factor = row.value / base.value if is_rate else base.value / row.value
                lines.append(f"{factor:8.1f} x  {part}: {row.what}")
    return lines


def main(args: argparse.Namespace) -> None:
    """Measure the parts, print the table, write the file."""
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    args.mixed_precision = args.mixed_precision or ("bf16" if has_fast_bf16(device) else "no")
    if device.type == "cuda":
        torch.cuda.set_device(device)  # the timing's events and the training go there too
    machine = describe_machine(device)
    print(f"machine     {machine['name']}, {machine['cores']} cores, torch {machine['torch']}")
    rows: list[Row] = []
    start = time.monotonic()
    for part in args.parts:
        found = BENCHMARKS[part](args, device)
        rows += found
        for row in found:
            span = f"({row.low:.4g} to {row.high:.4g})"
            print(
                f"{row.part:<14}{row.value:>10.4g}"
                f" {row.unit:<9}{span:<24}{row.what}{f' [{row.note}]' if row.note else ''}",
                flush=True,
            )
    factors = compare(rows)
    print("\n".join(factors))
    if args.save_path:
        settings = {key: value for key, value in vars(args).items() if key != "save_path"}
        content = {
            "machine": machine,
            "settings": settings,
            "seconds": round(time.monotonic() - start, 1),
            "rows": [asdict(row) for row in rows],
            "factors": factors,
        }
        write_atomically(args.save_path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        print(f"saved       {args.save_path}")


if __name__ == "__main__":
    run(main, parse_args())
