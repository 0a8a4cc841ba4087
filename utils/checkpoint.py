"""Runs and checkpoint folders: written whole or not at all, found, pruned, resumed."""

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from utils.errors import UserError
from utils.output import check_no_file

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "unet.safetensors"
TRAINING_STATE = "training_state"
STATE_NAME = "state.json"
FORMAT_VERSION = 1
Module = TypeVar("Module", bound=nn.Module)
_STEP_FOLDER = re.compile(r"step_(\d{8,})$")


def list_checkpoints(run: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first. A folder gets its final name only when it is whole."""
    if not run.is_dir():
        return []
    found = [
        path for path in run.iterdir() if _STEP_FOLDER.match(path.name) and (path / CONFIG_NAME).is_file()
    ]
    return sorted(found, key=checkpoint_step)


def checkpoint_step(checkpoint: Path) -> int:
    """The training step in a checkpoint folder's name; -1 for folders named otherwise."""
    match = _STEP_FOLDER.match(checkpoint.name)
    return int(match.group(1)) if match else -1


def save_checkpoint(run: Path, step: int, write: Callable[[Path], None], *, keep: int | None = None) -> Path:
    """Write ``run/step_XXXXXXXX`` by temporary name and rename, then remove all but the newest ``keep``
    checkpoints.

    Args:
        write: fills the folder that it is given; it must write ``config.json``.
    Returns:
        The checkpoint's folder.
    """
    run.mkdir(parents=True, exist_ok=True)
    target = run / f"step_{step:08d}"
    temporary = run / f".tmp-step_{step:08d}-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        write(temporary)
        share_files(temporary)
        for path in temporary.rglob("*"):
            _sync(path)
        if target.exists():  # the same step saved again, e.g. a signal right after an interval
            shutil.rmtree(target)
        os.replace(temporary, target)
        _sync(run)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if keep is not None:
        for old in list_checkpoints(run)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
    return target


def _sync(path: Path) -> None:
    """Flush a file or folder to disk, so that a rename never gets there before the content."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def share_files(folder: Path) -> None:
    """Give the files below a folder the mode that new files have: safetensors makes private ones, on shared
    disks too.
    """
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~umask)


def remove_leftovers(run: Path) -> None:
    """Remove half-written checkpoints of a killed process."""
    for path in run.glob(".tmp-step_*"):
        shutil.rmtree(path, ignore_errors=True)


def clean_state_dict(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Strip the prefixes of DataParallel (``module.``) and ``torch.compile`` (``_orig_mod.``) from the
    keys.
    """
    return {key.replace("_orig_mod.", "").removeprefix("module."): value for key, value in state_dict.items()}


def save_weights(
    module: nn.Module | dict[str, Tensor], path: Path, *, dtype: torch.dtype | None = None
) -> None:
    """Save a module's weights as safetensors, prefixes stripped, optionally cast to ``dtype``."""
    state = clean_state_dict(module.state_dict() if isinstance(module, nn.Module) else module)
    save_file(
        {key: value.detach().to("cpu", dtype or value.dtype).contiguous() for key, value in state.items()},
        path,
    )


def save_described(
    module: nn.Module,
    folder: Path,
    weights_name: str,
    kind: str,
    config: dict,
    extra: dict,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a model's folder: its weights, optionally cast to ``dtype``, and ``config.json`` with its
    ``config`` under the name of its ``kind``; ``extra`` are further entries."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(module, folder / weights_name, dtype=dtype)
    values = {"format_version": FORMAT_VERSION, "kind": kind, kind: config, **extra}
    (folder / CONFIG_NAME).write_text(json.dumps(values, indent=2, ensure_ascii=False), encoding="utf-8")
    share_files(folder)


def load_described(
    build: Callable[[dict], Module], path: Path, weights_name: str, kind: str, *, flag: str, script: str
) -> Module:
    """Load what ``save_described`` wrote, in evaluation mode, on the CPU.

    Args:
        build: makes the model of its config.
        path: the model's folder, or a run (its newest checkpoint).
        flag: the command line flag, and ``script``, what makes such a model, to name in messages.
    Raises:
        FileNotFoundError: if there is none; ValueError: if it is damaged, or something else.
    """
    folder = next(
        (p for p in [path, *reversed(list_checkpoints(path))] if (p / weights_name).is_file()), None
    )
    if folder is None:
        raise FileNotFoundError(f"{flag} {path}: no {weights_name} there. Give the --save_path of {script}.")
    try:
        model = build(json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))[kind])
        model.load_state_dict(load_file(folder / weights_name))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{flag} {folder}: damaged ({' '.join(str(error).split())[:200]})") from error
    return model.eval().requires_grad_(False)


def save_training_state(
    folder: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict,
    extra: dict[str, Tensor] | None = None,
) -> None:
    """Write what only a resume needs: raw weights, optimiser moments, and ``state`` (step, settings) as
    JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(module, folder / "raw_weights.safetensors")
    tensors = dict(extra or {})
    for index, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            tensors[f"{index}.{key}"] = value.detach().cpu().contiguous()
    save_file(tensors, folder / "optimizer.safetensors")
    (folder / STATE_NAME).write_text(json.dumps(state, indent=2), encoding="utf-8")


def load_training_state(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict, dict[str, Tensor]]:
    """Load raw weights and optimiser moments in place.

    Returns:
        (state, extra tensors) as they were saved.
    """
    module.load_state_dict(load_file(folder / "raw_weights.safetensors"))
    moments: dict[int, dict[str, Tensor]] = {}
    extra = {}
    for key, value in load_file(folder / "optimizer.safetensors").items():
        index, _, name = key.partition(".")
        if index.isdigit():
            moments.setdefault(int(index), {})[name] = value
        else:
            extra[key] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return json.loads((folder / STATE_NAME).read_text(encoding="utf-8")), extra


def choose_resume(run: Path, resume: bool) -> Path | None:
    """The checkpoint to go on from, or None for a fresh run.

    Raises:
        ValueError: if ``run`` is a file, or already holds a run and ``resume`` is off: a run is never
            overwritten.
        FileNotFoundError: if ``resume`` is on and there is nothing to resume, or only an export without
            training state.
    """
    check_no_file(run, "--save_path")
    checkpoints = list_checkpoints(run)
    if resume:
        if not checkpoints:
            raise FileNotFoundError(
                f"--resume: no whole checkpoint in --save_path {run}. Start without --resume, in a new or "
                "empty folder."
            )
        if not (checkpoints[-1] / TRAINING_STATE / STATE_NAME).is_file():
            raise FileNotFoundError(
                f"--resume: {checkpoints[-1]} has no {TRAINING_STATE}, so it can't be resumed (an export?)."
                " Start a new run from it with --init_from."
            )
        remove_leftovers(run)
        return checkpoints[-1]
    # What a run leaves that ended before its first checkpoint is nothing that could be lost.
    traces = ("log.csv", "previews", "diffusionhtr", "wandb", "reader")
    if run.is_dir() and any(
        path.name not in traces and not path.name.startswith(".tmp-") for path in run.iterdir()
    ):
        way_on = (
            "Give --resume to go on with it, or another folder." if checkpoints else "Give another folder."
        )
        raise UserError(f"--save_path {run}: not empty, and a run is never overwritten. {way_on}")
    return None


def truncate_csv(path: Path, last_step: int, columns: Sequence[str]) -> None:
    """Drop the rows of a log (first column: step) that come after ``last_step``; write the header if it is
    new.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else [",".join(columns)]
    kept = [
        line for line in lines[1:] if line.split(",")[0].isdigit() and int(line.split(",")[0]) <= last_step
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([lines[0], *kept]) + "\n", encoding="utf-8")
