"""Objects that were handed over in Python: networks, data, functions. Files know them by a hash, not by content.

A scenario, and so a result, names such an object `memory:LABEL-HASH`. Whoever goes on with the result in another
process hands the object over again; it is recognised by its hash, and one that is not at hand is asked for.
"""

from __future__ import annotations

import hashlib
import inspect
import pickle
from typing import Any

from autosplit.core.errors import ConfigError

__all__ = ["HELD", "Held", "held_again", "held_objects", "hold", "is_held", "look_up", "object_hash"]

HELD = "memory:"
"""Prefix of the names of objects in memory."""

Held = dict[tuple[str, str], Any]
"""Objects by kind and name."""

_held: Held = {}


def hold(kind: str, thing: Any, digest: str, label: str = "") -> str:
    """Keep an object of this process under a name.

    Args:
        kind: What it is, for messages: `backbone`, `data set`, `latency model`, `objective`.
        thing: The object; it is not copied.
        digest: Hash of its content.
        label: For people.

    Returns:
        The name, `memory:LABEL-HASH`.
    """
    plain = "".join(c if c.isalnum() or c == "_" else "-" for c in label).strip("-") or "object"
    name = f"{HELD}{plain}-{digest[:12]}"
    _held[kind, name] = thing
    return name


def is_held(name: str) -> bool:
    """Whether a name is that of an object in memory."""
    return name.startswith(HELD)


def look_up(kind: str, name: str, argument: str) -> Any:
    """The object of a name.

    Args:
        kind: As given to `hold`.
        name: What `hold` gave.
        argument: Of `autosplit.search` and `autosplit.replay` that takes such an object, for the message.

    Raises:
        ConfigError: It was not handed over in this process.
    """
    if (kind, name) not in _held:
        known = [n for k, n in _held if k == kind]
        other = f" (the {kind} at hand is {known[-1].removeprefix(HELD)!r})" if known else ""
        raise ConfigError(f"{kind} {name.removeprefix(HELD)!r} was handed over in Python and is in no file{other}; "
                          f"hand the same one over again, in Python, as {argument}=...")
    return _held[kind, name]


def held_objects(data: bool = False) -> Held:
    """What is held, by kind and name; for other processes, in which `held_again` takes it.

    Args:
        data: Whether data sets are wanted too.
    """
    return {key: thing for key, thing in _held.items() if data or key[0] != "data set"}


def held_again(things: Held) -> None:
    """Hold what `held_objects` of another process gave."""
    _held.update(things)


def object_hash(thing: Any) -> str:
    """Hash of a function, a class or an instance: of its source, its defaults and what it closes over or holds.

    Two objects of one hash are taken for one another, so what cannot be looked into counts by its source alone.
    """
    digest = hashlib.sha256()
    for part in _parts(thing):
        digest.update(part)
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def _parts(thing: Any) -> list[bytes]:
    function = inspect.unwrap(thing) if callable(thing) else thing
    kind = function if inspect.isroutine(function) or isinstance(function, type) else type(function)
    try:
        parts = [inspect.getsource(kind).encode()]
    except (OSError, TypeError):  # typed into a prompt, or compiled
        code = getattr(function, "__code__", None)
        parts = [repr(kind).encode() if code is None else code.co_code + repr(code.co_consts).encode()]
    values: list[Any] = [getattr(function, "__defaults__", None), getattr(function, "__kwdefaults__", None)]
    values += [cell.cell_contents for cell in getattr(function, "__closure__", None) or () if _is_set(cell)]
    if kind is type(function):
        values.append(getattr(function, "__dict__", None))
    for value in values:
        try:
            parts.append(pickle.dumps(value))
        except Exception:  # whatever does not pickle
            parts.append(type(value).__name__.encode())
    return parts


def _is_set(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
