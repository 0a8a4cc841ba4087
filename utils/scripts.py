"""Running this program's other scripts from one of them, each in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent


def call_script(name: str, arguments: Sequence[object], log: Path, device: str | None) -> None:
    """Run another script of this program, its output in ``log``.

    Raises:
        ValueError: if it failed; the message has its last words.
    """
    # Not a part of this launch: the scripts would take its rank for their share of the work.
    env = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR",
           "MASTER_PORT", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK")}  # fmt: skip
    if device is not None:
        env["CUDA_VISIBLE_DEVICES"] = device
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        start = file.tell()
        process = subprocess.Popen([sys.executable, str(ROOT / name), *map(str, arguments)], stdout=file, stderr=file, env=env)
        try:
            code = process.wait()
        except BaseException:
            process.terminate()  # it saves and stops
            process.wait()
            raise
    if code:
        lines = log.read_bytes()[start:].decode("utf-8", errors="replace").strip().splitlines()
        last = next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1] if lines else "")
        raise ValueError(f"{name} ended with {code}: {last.rsplit(chr(13), 1)[-1]} (all of it in {log})")


def name_gpu(device: torch.device) -> str | None:
    """A GPU as ``CUDA_VISIBLE_DEVICES`` names it; the device counts among those that this process sees."""
    if device.type != "cuda":
        return None
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return seen.split(",")[device.index or 0] if seen else str(device.index or 0)


def flags(**values: object) -> list[str]:
    """``--name value`` of those that are not None."""
    return [part for name, value in values.items() if value is not None for part in (f"--{name}", str(value))]
