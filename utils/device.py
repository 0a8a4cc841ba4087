"""The device: what it computes fast, how it is named, and ``torch.compile`` where it works."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

SHAPES = 64  # graphs that are kept: canvases have many widths


def compile_in_place(module: nn.Module, device: torch.device, say: Callable[[str], None] = print) -> bool:
    """Compile a module's forward pass, if this machine can; its weights keep their names.

    Args:
        say: what a message goes to that it can't.
    Returns:
        Whether it is compiled.
    """
    try:
        probe = torch.compile(lambda x: x.sin() * 2)
        probe(torch.ones(8, device=device))
    except Exception as error:
        say(
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
