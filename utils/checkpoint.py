"""Checkpoint folders: written whole or not at all, found, pruned, and models that describe themselves."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from utils.errors import UserError
from utils.json_files import read_json
from utils.output import new_file_mode, remove_temporary_files

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "unet.safetensors"
# Of a student that has its teacher with it: a checkpoint that shares the student's other parts.
TEACHER_FOLDER = "teacher"
SUPERSEDED = "superseded"  # folder of a run with checkpoints that a resume from an older one left behind
FORMAT_VERSION = 1
SCALE_SUFFIX = ".scale"  # after the name of a tensor of 8 bits: its scales, one for each row
LEAST_QUANTISED = 1024  # values of a tensor that is saved in 8 bits; smaller ones cost next to nothing
Module = TypeVar("Module", bound=nn.Module)
_STEP_FOLDER = re.compile(r"step_(\d{8,})$")


def list_checkpoints(run: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first. A folder gets its final name only when it is whole."""
    if not run.is_dir():
        return []
    whole = [
        path for path in run.iterdir() if _STEP_FOLDER.match(path.name) and (path / CONFIG_NAME).is_file()
    ]
    return sorted(whole, key=checkpoint_step)


def find_in_run(path: Path, *names: str) -> Path | None:
    """The folder that a path to a checkpoint or a run means: itself, or else the newest checkpoint in it.

    Args:
        names: files, relative to the folder, that make it the one looked for.
    Returns:
        The folder, or None if neither has them all.
    """
    folders = [path, *reversed(list_checkpoints(path))]
    return next((folder for folder in folders if all((folder / name).is_file() for name in names)), None)


def find_part(folder: Path, name: str) -> Path:
    """The folder of a checkpoint's part; a teacher shares those of the student that it lies in."""
    shared = folder.parent / name
    is_shared = folder.name == TEACHER_FOLDER and (folder.parent / WEIGHTS_NAME).is_file() and shared.is_dir()
    return shared if is_shared and not (folder / name).is_dir() else folder / name


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
    Raises:
        UserError: if it can't be written, e.g. on a full disk; nothing is left of it then.
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
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, (OSError, SafetensorError)):
            raise UserError(
                f"{target}: can't be written ({one_line(error)}). Earlier checkpoints are whole: make room,"
                " and go on with --resume."
            ) from error
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
    mode = new_file_mode(folder)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def remove_leftovers(run: Path) -> None:
    """Remove half-written checkpoints and files of a killed process; only under the run's lock."""
    for path in run.glob(".tmp-step_*"):
        shutil.rmtree(path, ignore_errors=True)
    for folder in (run, run / "previews"):
        remove_temporary_files(folder)


def set_newer_aside(run: Path, step: int) -> list[Path]:
    """Move the checkpoints after ``step`` into the run's folder ``superseded``: a run that goes on from an
    older checkpoint would else count them as its newest.

    Returns:
        Where they are now.
    """
    moved = []
    for checkpoint in list_checkpoints(run):
        if checkpoint_step(checkpoint) > step:
            target, count = run / SUPERSEDED / checkpoint.name, 1
            while target.exists():
                count += 1
                target = run / SUPERSEDED / f"{checkpoint.name}-{count}"
            target.parent.mkdir(exist_ok=True)
            checkpoint.rename(target)
            moved.append(target)
    return moved


def clean_state_dict(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Strip the prefixes of DataParallel (``module.``) and ``torch.compile`` (``_orig_mod.``) from the
    keys.
    """
    return {key.replace("_orig_mod.", "").removeprefix("module."): value for key, value in state_dict.items()}


def save_weights(
    module: nn.Module | dict[str, Tensor], path: Path, *, dtype: torch.dtype | None = None
) -> None:
    """Save a module's weights as safetensors, prefixes stripped; ``load_weights`` reads them.

    Args:
        dtype: of the floating-point weights; None is their own. ``torch.int8`` saves tensors of at least two
            dimensions and ``LEAST_QUANTISED`` values as whole numbers from -127 to 127 with a float32 scale
            for each row, ``NAME.scale``, and the others in float16.
    """
    state = clean_state_dict(module.state_dict() if isinstance(module, nn.Module) else module)
    tensors = {}
    for name, value in state.items():
        value = value.detach().cpu()
        if not value.is_floating_point():
            tensors[name] = value
        elif dtype != torch.int8:
            tensors[name] = value.to(dtype or value.dtype)
        elif value.ndim < 2 or value.numel() < LEAST_QUANTISED:
            tensors[name] = value.half()
        else:
            tensors[name], tensors[name + SCALE_SUFFIX] = _quantise(value.float())
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)


def _quantise(value: Tensor) -> tuple[Tensor, Tensor]:
    """(R, ...) float32 as int8 and (R,) float32 scales, whose product it is but for rounding."""
    rows = value.flatten(1)
    scales = (rows.abs().amax(dim=1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
    return (rows / scales[:, None]).round().to(torch.int8).view(value.shape), scales


def load_weights(path: Path) -> dict[str, Tensor]:
    """What ``save_weights`` saved, floating-point numbers in float32, on the CPU.

    Raises:
        SafetensorError, ValueError, RuntimeError: if the file is damaged.
    """
    tensors = load_file(path)
    weights = {}
    for name in _names_of_weights(tensors):
        value = tensors[name]
        if value.dtype == torch.int8:
            if name + SCALE_SUFFIX not in tensors:
                raise ValueError(f"{name} has 8 bits and no {name + SCALE_SUFFIX}")
            value = (value.flatten(1).float() * tensors[name + SCALE_SUFFIX][:, None]).view(value.shape)
        weights[name] = value.float() if value.is_floating_point() else value
    return weights


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of what ``load_weights`` would load, without loading it; raises as it does."""
    with safe_open(path, framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in _names_of_weights(file.keys())}


def _names_of_weights(names: Iterable[str]) -> list[str]:
    """The names of tensors without those of scales, which stand beside the tensor that they belong to."""
    known = set(names)
    scales = {name + SCALE_SUFFIX for name in known}
    return sorted(known - scales)


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
    """Write a model's folder: its weights, optionally as ``dtype`` (see ``save_weights``), and
    ``config.json`` with its ``config`` under the name of its ``kind``; ``extra`` are further entries."""
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
        FileNotFoundError: if there is none.
        UserError: if it is damaged, or something else.
    """
    folder = find_in_run(path, weights_name)
    if folder is None:
        raise FileNotFoundError(f"{flag} {path}: no {weights_name} there. Give the --save_path of {script}.")
    try:
        model = build(read_json(folder / CONFIG_NAME, flag)[kind])
        model.load_state_dict(load_weights(folder / weights_name))
    except UserError:
        raise
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{flag} {folder}: damaged ({one_line(error)})") from error
    return model.eval().requires_grad_(False)


def one_line(error: Exception, most: int = 200) -> str:
    """An error's message on one line, cut after ``most`` characters: torch lists every tensor."""
    return " ".join(str(error).split())[:most]
