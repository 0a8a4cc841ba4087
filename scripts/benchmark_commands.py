"""Timings of commands, each in a process of its own: preprocessing, and a fresh process's first word."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from diffusion.autoencoder import CompactAutoencoder
from diffusion.pipeline import HandwritingPipeline
from scripts.benchmark_models import WRITERS, draw_texts, make_checkpoint_config, make_unet
from scripts.benchmark_rows import BenchmarkSettings, Row
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
SHIPPED_MODEL = ROOT / "models" / "demo"


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


def benchmark_preprocessing(settings: BenchmarkSettings) -> list[Row]:
    """Words a second of process_dataset.py with one process and with all cores, and its memory at two
    sizes.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        sizes = (settings.num_words // 4, settings.num_words)
        for size in sizes:
            make_iam(root / f"iam{size}", size)
        plans = [(sizes[1], 1), (sizes[1], os.cpu_count()), (sizes[0], os.cpu_count())]
        for size, workers in dict.fromkeys(plans):
            command = [ROOT / "preprocessing" / "process_dataset.py", "--dataset", "iam"]
            command += ["--dataset_path", root / f"iam{size}", "--num_workers", workers, "--save_dir"]
            measured = [
                run_measured([*command, root / f"out{size}-{workers}-{i}"]) for i in range(settings.rounds)
            ]
            rates = [size / seconds for seconds, _ in measured]
            memory = [peak / 2**20 for _, peak in measured]
            what = f"{size} words, {workers} process{'es' if workers > 1 else ''}"
            rows.append(Row.of_values("preprocessing", what, rates, "words/s"))
            rows.append(Row.of_values("preprocessing", f"{what}, largest process", memory, "MiB"))
    return rows


def benchmark_first_word(settings: BenchmarkSettings) -> list[Row]:
    """Seconds and memory of inference.py writing one word in a fresh process."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        vae = CompactAutoencoder().eval()
        config = make_checkpoint_config(vae, settings.preset)
        HandwritingPipeline(make_unet(settings.preset), vae, config).save_pretrained(root / "model")
        models = {f"{settings.preset}, compact VAE": root / "model", "models/demo": SHIPPED_MODEL}
        for name, model in models.items():
            if not model.is_dir():
                continue
            writer = json.loads((model / "config.json").read_text(encoding="utf-8"))["writers"][0]
            command = ["inference.py", "--models_path", model, "--words", "word", "--writer", writer]
            command += ["--device", settings.device, "--save_path"]
            measured = [run_measured([*command, root / f"{model.name}{i}"]) for i in range(settings.rounds)]
            seconds, memory = [s for s, _ in measured], [peak / 2**20 for _, peak in measured]
            what = f"{name}: first word, process start included"
            rows.append(Row.of_values("first_word", what, seconds, "s"))
            rows.append(Row.of_values("first_word", f"{name}: memory", memory, "MiB"))
    return rows
