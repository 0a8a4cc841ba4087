"""How fast this program is, beside the published procedure, in one run on one machine.

  python3 scripts/benchmark.py --save_path benchmark.json
  python3 scripts/benchmark.py --parts sampling machine --batch_sizes 1 8 --rounds 5

Parts: training (images a second), sampling (seconds a word), preprocessing (words a second, memory),
peers (seconds a word of HiGAN+'s and VATr's generators and of models/demo), first_word (seconds and memory of
a fresh process), machine (work done against what a matrix product reaches).
The published procedure is written anew from its description: in training the whole UNet in fp32 and the VAE
of Stable Diffusion's size encoding each image in the step; in sampling 999 steps of two UNet calls for one
word at a time in fp32, of which a few are timed and scaled up. All weights are random: speed doesn't depend
on them. Let nothing else run meanwhile.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the project, from whichever folder this is run

import torch

from scripts.benchmark_commands import benchmark_first_word, benchmark_preprocessing
from scripts.benchmark_peers import benchmark_peers
from scripts.benchmark_rows import BenchmarkSettings, Row
from scripts.benchmark_steps import (
    PUBLISHED_STEPS,
    benchmark_machine,
    benchmark_sampling,
    benchmark_training,
)
from scripts.timing import describe_machine
from utils.cli import HelpFormatter, positive_int, run
from utils.device import choose_device, choose_precision
from utils.output import write_atomically

BENCHMARKS = {
    "training": benchmark_training,
    "sampling": benchmark_sampling,
    "peers": benchmark_peers,
    "preprocessing": benchmark_preprocessing,
    "first_word": benchmark_first_word,
    "machine": benchmark_machine,
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("--save_path", type=Path, help="JSON file for all figures (default: they are only printed)")
    add("--parts", nargs="+", choices=tuple(BENCHMARKS), default=tuple(BENCHMARKS), help="what is measured")
    add("--preset", default="base", choices=("base", "small", "tiny"), help="size of our model")
    add("--rounds", type=positive_int, default=3, help="timings of each figure")
    add(
        "--train_batch_size",
        type=positive_int,
        help="images a step, both ways (default: 16 on a CPU, 224 on a GPU)",
    )
    add(
        "--batch_sizes",
        type=positive_int,
        nargs="+",
        help="words written at once (default: 1 8 32 on a CPU, 1 32 128 512 on a GPU)",
    )
    add("--num_steps", type=positive_int, nargs="+", default=(10, 20, 50), help="denoising steps")
    add(
        "--published_calls",
        type=positive_int,
        default=2,
        help=f"steps of the published sampling that are timed, of {PUBLISHED_STEPS}",
    )
    add(
        "--num_words", type=positive_int, default=20_000, help="words of the made-up IAM that is preprocessed"
    )
    add("--compile", action="store_true", help="time our models behind torch.compile (training both ways)")
    add(
        "--mixed_precision",
        choices=("no", "bf16"),
        help="precision of ours (default: bf16 where it is native)",
    )
    add("--device", help="e.g. cpu or cuda:1 (default: a GPU if there is one)")
    return parser.parse_args(argv)


def read_settings(args: argparse.Namespace) -> BenchmarkSettings:
    """The flags as settings, with the device and the precision chosen."""
    device = choose_device(args.device)
    values = {field.name: getattr(args, field.name) for field in fields(BenchmarkSettings)}
    precision = choose_precision(args.mixed_precision, device)
    return BenchmarkSettings(**{**values, "device": device, "mixed_precision": precision})


def compare(rows: Sequence[Row]) -> list[str]:
    """How many times faster than published, a line for each figure of training and sampling with a model of
    --preset.
    """
    lines = []
    for part, is_rate in (("training", True), ("sampling", False)):
        of_part = [row for row in rows if row.part == part]
        base = next((row for row in of_part if row.what.startswith("published")), None)
        for row in of_part:
            if base and row.what.startswith("ours"):  # not the model that ships, which is smaller
                factor = row.value / base.value if is_rate else base.value / row.value
                lines.append(f"{factor:8.1f} x  {part}: {row.what}")
    return lines


def main(args: argparse.Namespace) -> None:
    """Measure the parts, print the table, write the file."""
    settings = read_settings(args)
    device = settings.device
    if device.type == "cuda":
        torch.cuda.set_device(device)  # the timing's events and the training go there too
    machine = describe_machine(device)
    print(f"machine     {machine['name']}, {machine['cores']} cores, torch {machine['torch']}")
    rows: list[Row] = []
    start = time.monotonic()
    for part in args.parts:
        measured = BENCHMARKS[part](settings)
        rows += measured
        for row in measured:
            span = f"({row.low:.4g} to {row.high:.4g})"
            print(
                f"{row.part:<14}{row.value:>10.4g}"
                f" {row.unit:<9}{span:<24}{row.what}{f' [{row.note}]' if row.note else ''}",
                flush=True,
            )
    factors = compare(rows)
    print("\n".join(factors))
    if args.save_path:
        content = {
            "machine": machine,
            "settings": {**asdict(settings), "parts": args.parts, "device": str(device)},
            "seconds": round(time.monotonic() - start, 1),
            "rows": [asdict(row) for row in rows],
            "factors": factors,
        }
        write_atomically(args.save_path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        print(f"saved       {args.save_path}")


if __name__ == "__main__":
    run(main, parse_args())
