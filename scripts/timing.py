"""Timing that can be trusted: warm-up, interleaved rounds, medians with their spread, and what the machine
could do at most.
"""

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

MATRIX = {"cpu": 2048, "cuda": 8192}  # rows of the square matrices of the ceiling
COPY_BYTES = 1 << 28


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of one call: the median over rounds, and the fastest and slowest."""

    median: float
    low: float
    high: float
    rounds: int


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_seconds(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, on a GPU by its own clock."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def time_interleaved(
    calls: Mapping[str, Callable[[], object]], device: torch.device, *, rounds: int, warmup: int = 1
) -> dict[str, Timing]:
    """Each call once a round, in turn, so that what slows the machine for a while slows all alike."""
    for _ in range(warmup):
        for call in calls.values():
            call()
    synchronize(device)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            seconds[name].append(measure_seconds(call, device))
    return {
        name: Timing(median=float(np.median(of)), low=min(of), high=max(of), rounds=rounds)
        for name, of in seconds.items()
    }


def count_flops(call: Callable[[], object]) -> int:
    """Floating point operations of the matrix products and convolutions of a call (a multiply and an add are
    two).
    """
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        call()
    return counter.get_total_flops()


def matrix_ceiling(device: torch.device, dtype: torch.dtype, *, rounds: int = 5) -> float:
    """FLOP/s of a large square matrix product: what the machine's arithmetic gives at best."""
    size = MATRIX[device.type]
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    timing = time_interleaved({"product": lambda: one @ other}, device, rounds=rounds, warmup=2)["product"]
    return 2 * size**3 / timing.low


def copy_ceiling(device: torch.device, *, rounds: int = 5) -> float:
    """Bytes/s of a large copy, read and written."""
    source = torch.empty(COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    timing = time_interleaved({"copy": lambda: target.copy_(source)}, device, rounds=rounds, warmup=2)["copy"]
    return 2 * COPY_BYTES / timing.low


def peak_memory(device: torch.device) -> int:
    """Bytes that this process needed at most since the GPU's count was reset, on a CPU since it started."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def describe_machine(device: torch.device) -> dict[str, object]:
    """The machine's name and what a timing on it depends on."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        try:
            with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
                name = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
        except (OSError, StopIteration):
            name = platform.processor() or platform.machine()
    return {
        "device": device.type,
        "name": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
