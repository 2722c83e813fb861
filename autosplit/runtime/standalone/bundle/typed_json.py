"""JSON as dataclasses: the annotations are the format. It stands in for pydantic, which a device need not have."""

from __future__ import annotations

import dataclasses
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

__all__ = ["value_of"]


def value_of(kind: Any, data: Any, where: str) -> Any:
    """JSON data as a value of an annotated type.

    Args:
        kind: A dataclass, a scalar type, `Literal`, `tuple`, `dict`, one of them or `None`, or `Any`.
        data: What `json.loads` gave.
        where: Name of the field, for the error; empty for the whole.

    Raises:
        ValueError: The data are not of this type; the message names the field. Unknown fields are refused as well.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return data
    if origin in (Union, types.UnionType):  # of a type and None: the manifest has no others
        return None if data is None else value_of(arguments[0], data, where)
    if origin is Literal:
        if data not in arguments:
            raise ValueError(f"{where} is {data!r}, expected one of {', '.join(map(repr, arguments))}")
        return data
    if origin is tuple:
        if not isinstance(data, (list, tuple)):
            raise ValueError(f"{where} is no list")
        kinds = [arguments[0]] * len(data) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(data):
            raise ValueError(f"{where} has {len(data)} entries, expected {len(kinds)}")
        return tuple(value_of(kind, item, f"{where}[{i}]")
                     for i, (kind, item) in enumerate(zip(kinds, data, strict=True)))
    if origin is dict or dataclasses.is_dataclass(kind):
        if not isinstance(data, dict):
            raise ValueError(f"{where} is no object")
        return _fields(kind, data, where) if origin is not dict else {
            name: value_of(arguments[1], value, f"{where}.{name}") for name, value in data.items()}
    fits = isinstance(data, (int, float)) if kind is float else isinstance(data, kind)
    if not fits or isinstance(data, bool):  # which Python takes for an int
        raise ValueError(f"{where} is {data!r}, expected {kind.__name__}")
    try:
        return kind(data)
    except OverflowError:
        raise ValueError(f"{where} is too large a number") from None


def _fields(kind: Any, data: dict[str, Any], where: str) -> Any:
    hints = get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    if set(names) != set(data):
        wrong = sorted(set(names) ^ set(data))
        raise ValueError(f"{where or 'the manifest'} lacks, or does not know, {', '.join(wrong)}")
    return kind(**{name: value_of(hints[name], data[name], f"{where}.{name}" if where else name) for name in names})
