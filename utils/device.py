"""The device: which one, in which precision, how it is named, and ``torch.compile`` where it works."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from utils.errors import UserError

SHAPES = 64  # graphs that are kept: canvases have many widths


def choose_device(
    name: str | torch.device | None = None, *, flag: str = "--device", local_rank: int = 0, mps: bool = False
) -> torch.device:
    """The device that a command computes on: the one asked for, else a GPU if there is one, else the CPU.

    Args:
        name: as torch writes it (``cpu``, ``cuda``, ``cuda:1``), or None.
        flag: the command line flag to name in messages.
        local_rank: which of a machine's processes this is; each takes a GPU of its own.
        mps: whether the GPU of an Apple computer will do; CTC, which all recognisers need, has no code there.
    Raises:
        UserError: if there is no such device here.
    """
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda", local_rank % torch.cuda.device_count())
        return torch.device("mps" if mps and torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        count = torch.cuda.device_count()
        has = f"{count} GPUs (cuda:0 to cuda:{count - 1})" if count else "no GPU that torch can use"
        raise UserError(f"{flag} {name}: no such device here. This machine has cpu and {has}.") from error
    return device


def choose_precision(name: str | None, device: torch.device, warn: Callable[[str], None] = print) -> str:
    """``no``, ``bf16`` or ``fp16``: the one asked for, else bf16 where it is native.

    Args:
        warn: takes a line of warning if bf16 was asked for and is only emulated. (Measured on a CPU with
            AVX2: products of bf16 matrices take 60 times as long as those of float32.)
    """
    is_native = has_fast_bf16(device)
    if name == "bf16" and not is_native:
        warn(
            f"note        --mixed_precision bf16: {device.type} has no such arithmetic here and emulates it,"
            " which takes many times as long as --mixed_precision no"
        )
    return name or ("bf16" if is_native else "no")


def compile_in_place(module: nn.Module, device: torch.device, warn: Callable[[str], None] = print) -> bool:
    """Compile a module's forward pass, if this machine can; its weights keep their names.

    Args:
        warn: takes a line of warning if it can't.
    Returns:
        Whether it is compiled.
    """
    try:
        probe = torch.compile(lambda x: x.sin() * 2)
        probe(torch.ones(8, device=device))
    except Exception as error:
        warn(
            f"note        --compile: torch.compile does not work here ({type(error).__name__}:"
            f" {str(error).strip()[:120]}); going on without"
        )
        return False
    torch._dynamo.config.cache_size_limit = max(torch._dynamo.config.cache_size_limit, SHAPES)
    module.compile()
    return True


def name_gpu(device: torch.device) -> str | None:
    """A GPU as ``CUDA_VISIBLE_DEVICES`` names it; the device counts among those that this process sees."""
    if device.type != "cuda":
        return None
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return seen.split(",")[device.index or 0] if seen else str(device.index or 0)


def has_fast_bf16(device: torch.device) -> bool:
    """True where bf16 arithmetic is native: recent NVIDIA GPUs, and CPUs with AVX-512 BF16 or AMX."""
    if device.type == "cuda":
        # Not is_bf16_supported: that is also true where bf16 is emulated, at a fraction of the speed.
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        check = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
        return bool(check and check()) and "avx512_bf16" in _cpu_flags()
    return False


def _cpu_flags() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="ascii", errors="ignore") as file:
            return next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return ""
