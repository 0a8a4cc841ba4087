"""Going on with a run: from which checkpoint, and the state that only a resume needs."""

import json
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from utils.checkpoint import checkpoint_step, list_checkpoints, one_line, save_weights
from utils.errors import UserError
from utils.json_files import fill_dataclass, read_json
from utils.output import check_no_file, claim_folder
from utils.training import ExponentialMovingAverage

TRAINING_STATE = "training_state"
STATE_NAME = "state.json"
RAW_WEIGHTS_NAME = "raw_weights.safetensors"
OPTIMIZER_NAME = "optimizer.safetensors"
# What a run leaves that ended before its first checkpoint: nothing that could be lost.
RUN_TRACES = ("log.csv", "previews", "diffusionhtr", "wandb", "reader", "latent_cache")
Settings = TypeVar("Settings")
_OTHER_STEP = "Give --resume an older step, e.g. --resume 1000."


def choose_resume(run: Path, resume: bool | str) -> Path | None:
    """The checkpoint to go on from, or None for a fresh run.

    Args:
        resume: True for the newest checkpoint; a step, or a checkpoint's folder in the run, for an older one.
    Raises:
        UserError: if ``run`` is a file, or already holds a run and ``resume`` is off: a run is never
            overwritten.
        FileNotFoundError: if ``resume`` is on and there is nothing to resume, or only an export without
            training state.
    """
    checkpoints = list_checkpoints(run)
    if not resume:
        way_out = "Give --resume to go on with it, or another folder."
        claim_folder(
            run,
            "--save_path",
            ignore=RUN_TRACES,
            reason="not empty, and a run is never overwritten",
            way_out=way_out if checkpoints else "Give another folder.",
        )
        return None
    check_no_file(run, "--save_path")
    if not checkpoints:
        raise FileNotFoundError(
            f"--resume: no whole checkpoint in --save_path {run}. Start without --resume, in a new or "
            "empty folder."
        )
    checkpoint = checkpoints[-1] if resume is True else _named_checkpoint(run, str(resume), checkpoints)
    if not (checkpoint / TRAINING_STATE / STATE_NAME).is_file():
        raise FileNotFoundError(
            f"--resume: {checkpoint} has no {TRAINING_STATE}, so it can't be resumed (an export?)."
            " Start a new run from it with --init_from."
        )
    return checkpoint


def _named_checkpoint(run: Path, name: str, checkpoints: list[Path]) -> Path:
    for checkpoint in checkpoints:
        is_step = name.isdigit() and int(name) == checkpoint_step(checkpoint)
        if is_step or Path(name).expanduser().resolve() == checkpoint.resolve() or name == checkpoint.name:
            return checkpoint
    steps = ", ".join(str(checkpoint_step(checkpoint)) for checkpoint in checkpoints)
    raise FileNotFoundError(
        f"--resume {name}: no checkpoint of --save_path {run}, which has the steps {steps}."
    )


def save_training_state(
    folder: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: ExponentialMovingAverage,
    state: dict,
) -> None:
    """Write what only a resume needs: raw weights, optimiser moments, averages, and ``state`` as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(module, folder / RAW_WEIGHTS_NAME)
    tensors = ema.state_dict()
    for index, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            tensors[f"{index}.{key}"] = value.detach().cpu().contiguous()
    save_file(tensors, folder / OPTIMIZER_NAME)
    (folder / STATE_NAME).write_text(json.dumps(state, indent=2), encoding="utf-8")


def load_training_state(
    checkpoint: Path, module: nn.Module, optimizer: torch.optim.Optimizer, ema: ExponentialMovingAverage
) -> dict:
    """Load raw weights, optimiser moments and averages in place.

    Returns:
        The state as it was saved.
    Raises:
        UserError: if a file is missing, damaged, or of another model; the message names it.
    """
    folder = checkpoint / TRAINING_STATE
    path = folder / RAW_WEIGHTS_NAME
    try:
        module.load_state_dict(load_file(path))
        path = folder / OPTIMIZER_NAME
        tensors = load_file(path)
        moments = _read_moments(tensors, optimizer)
        ema.load_state_dict({key: value for key, value in tensors.items() if key.startswith("ema.")})
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise UserError(
            f"--resume: {path} is damaged, or of another model ({one_line(error)}). {_OTHER_STEP}"
        ) from error
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return read_state(checkpoint, "step")


def _read_moments(
    tensors: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> dict[int, dict[str, Tensor]]:
    """The optimiser's state by the numbers of its parameters.

    Raises:
        ValueError: if a parameter has none, or one of another shape.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        if index.isdigit():
            moments.setdefault(int(index), {})[name] = value
    # A parameter that no step has reached yet has no moments; a truncated file has fewer than the others.
    for index, values in moments.items():
        if index >= len(parameters):
            raise ValueError(f"moments of parameter {index} of {len(parameters)}")
        wrong = [name for name, value in values.items() if value.shape not in ((), parameters[index].shape)]
        if wrong or not {"step", "exp_avg", "exp_avg_sq"} <= values.keys():
            raise ValueError(f"the moments of parameter {index} are not those of its shape")
    return moments


def read_state(checkpoint: Path, *entries: str) -> dict:
    """A checkpoint's ``training_state/state.json``.

    Args:
        entries: what must be in it.
    Raises:
        UserError: if it is damaged; the message names the file.
    """
    path = checkpoint / TRAINING_STATE / STATE_NAME
    state = read_json(path, "--resume")
    missing = [name for name in entries if name not in state]
    if missing:
        raise UserError(f"--resume: {path} is damaged: no entry {', '.join(missing)}. {_OTHER_STEP}")
    if type(state.get("step", 0)) is not int or state.get("step", 0) < 0:
        raise UserError(f"--resume: {path} is damaged: step {state['step']!r}. {_OTHER_STEP}")
    return state


def read_settings(
    cls: type[Settings], values: dict, path: Path, former: dict[str, str] | None = None
) -> Settings:
    """A training's settings as a checkpoint has them; what other versions had besides is left out, with a
    note.

    Args:
        path: the file, to name in messages.
        former: settings that earlier versions saved under another name.
    Raises:
        UserError: if a value is missing or of a wrong type.
    """
    if not isinstance(values, dict):
        raise UserError(f"--resume: {path} is damaged: its settings are no object. {_OTHER_STEP}")
    values = {(former or {}).get(name, name): value for name, value in values.items()}
    unknown = sorted(set(values) - {field.name for field in fields(cls)})
    if unknown:
        print(
            f"note        {path} has settings of another version, which count no more: {', '.join(unknown)}"
        )
    return fill_dataclass(cls, values, f"--resume: {path}", drop_unknown=True)


def check_finite(modules: Iterable[nn.Module], what: str) -> None:
    """Raise a UserError if a weight of a model is not finite: such a checkpoint would be of no use."""
    for module in modules:
        tensors = [value for value in module.state_dict().values() if value.is_floating_point()]
        if not torch.stack([value.isfinite().all() for value in tensors]).all():
            raise UserError(what)
