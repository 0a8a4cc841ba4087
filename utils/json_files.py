"""JSON files: read with messages that name the file, and checked against the dataclass that they fill."""

import json
import types
import typing
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TypeVar

from utils.errors import UserError

Dataclass = TypeVar("Dataclass")


def read_json(path: Path, flag: str | None = None, *, kind: type = dict):
    """Read a JSON file.

    Args:
        flag: the command line flag to name in messages.
        kind: what the file must hold: ``dict`` or ``list``.
    Raises:
        FileNotFoundError: if it is not there.
        UserError: if it is not JSON, too deep, or holds something else; the message names the file.
    """
    where = f"{flag}: {path}" if flag else str(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: bytes that are no text, too
        reason = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise UserError(
            f"{where}: damaged, not JSON ({reason[:200]}). Copy it again, or remove it."
        ) from error
    if not isinstance(values, kind):
        names = {dict: "an object", list: "a list"}
        raise UserError(
            f"{where}: holds {type(values).__name__}, not {names[kind]}. Copy it again, or remove it."
        )
    return values


def fill_dataclass(
    cls: type[Dataclass], values: dict, where: str, *, drop_unknown: bool = False
) -> Dataclass:
    """Make a dataclass of what a JSON file holds, with each value's type checked.

    Args:
        where: the file, to name in messages.
        drop_unknown: leave out entries that the dataclass does not have, as other versions write them.
    Raises:
        UserError: that names the file and the entry, if one is unknown, missing, or of a wrong type or value.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: {values!r:.80} is not an object")
    types_of = typing.get_type_hints(cls)
    known = {field.name: field for field in fields(cls)}
    if not drop_unknown and (unknown := sorted(set(values) - set(known))):
        raise UserError(f"{where}: unknown entries {', '.join(unknown)[:200]}: written by a newer version?")
    missing = [
        name
        for name, field in known.items()
        if name not in values and field.default is MISSING and field.default_factory is MISSING
    ]
    if missing:
        raise UserError(f"{where}: no entry {', '.join(missing)}")
    kept = {name: values[name] for name in known if name in values}
    for name, value in kept.items():
        if not _fits(value, types_of[name]):
            raise UserError(f"{where}: {name} {value!r:.80} is not {_describe(types_of[name])}")
    try:
        return cls(**kept)
    except (ValueError, ArithmeticError) as error:
        raise UserError(f"{where}: {error}") from error


def _fits(value: object, annotation: object) -> bool:
    """Whether a JSON value can stand for a type: lists for tuples, whole numbers for floats."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if annotation in (None, type(None)):
        return value is None
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            return False
        if len(inner) == 2 and inner[1] is Ellipsis:
            return all(_fits(item, inner[0]) for item in value)
        return len(value) == len(inner) and all(map(_fits, value, inner))
    if origin is not None:  # mappings and sequences
        if issubclass(origin, typing.Mapping):
            return isinstance(value, dict) and all(
                _fits(key, inner[0]) and _fits(item, inner[1]) for key, item in value.items()
            )
        return isinstance(value, list) and all(_fits(item, inner[0]) for item in value)
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return annotation is object or isinstance(value, annotation)


def _describe(annotation: object) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return names.get(annotation, str(annotation).replace("typing.", ""))
