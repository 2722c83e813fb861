"""Weights as people have them: from a file into a network, whatever was wrapped around it when they were saved."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autosplit.core.errors import ConfigError
from autosplit.core.plugins import one_line
from autosplit.core.tensors import load_tensors
from autosplit.runtime.standalone.files import check_regular, reason_of

__all__ = ["load_weights"]

_log = logging.getLogger(__name__)

_SHOWN_KEYS = 3
_COUNTER = "num_batches_tracked"
_NESTED = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema", "ema", "net", "network", "module",
           "weights", "backbone")
"""Where training scripts keep the network's tensors in a checkpoint, beside the optimiser's."""


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load every weight of a network from a file; nothing is changed unless all of them are there and fit.

    A prefix that all names have in the file (`module.`, `_orig_mod.`, `model.`), or in the network, is taken off;
    checkpoints that hold the optimiser too are looked into; half and double precision are converted; counters that
    older files lack stay as they are. What else is in the file is left alone, and a note says so.

    Args:
        model: Changed in place. Values are converted to the types that it has.
        path: A safetensors file, or a file of `torch.save` that holds nothing but tensors and plain values: it is read
            with `weights_only=True`, so that no code in it runs.

    Raises:
        ConfigError: The file is absent or damaged, would run code, holds NaN, or does not fit; the message names the
            keys.
    """
    path = Path(path)
    what = f"weights {str(path)!r}"
    check_regular(path, what)
    tensors = _state_dict(_unpickled(path, what), what) if _is_pickle(path, what) else load_tensors(path, what)
    state = model.state_dict(keep_vars=True)
    tensors, rest = _renamed(tensors, state)
    shared: dict[int, str] = {id(state[name]): name for name in tensors}
    for name, parameter in state.items():  # files of safetensors hold weights that are shared once
        if name not in tensors and id(parameter) in shared:
            tensors[name] = tensors[shared[id(parameter)]]
    faults = {
        "missing": sorted(k for k in state if k not in tensors and not k.endswith(_COUNTER)),
        "of another shape": [f"{k} {tuple(tensors[k].shape)} instead of {tuple(state[k].shape)}"
                             for k in state if k in tensors and tensors[k].shape != state[k].shape],
        "with NaN or infinite values": [k for k, t in tensors.items()
                                        if t.is_floating_point() and not bool(torch.isfinite(t.float()).all())],
    }
    if faults["missing"]:  # of a network of another kind, which this tells
        faults["unexpected"] = rest
    # a network of another kind differs in hundreds of keys: the first few say which it is
    listed = [f"{kind}: {_some(keys)}" for kind, keys in faults.items() if keys]
    if listed:
        raise ConfigError(f"{what} do not fit {type(model).__name__}: {'; '.join(listed)}; "
                          "save them from the same network with the same number of classes")
    if rest:
        _log.warning("%s hold more than the network: %s; left out", what, _some(rest))
    model.load_state_dict(tensors, strict=False)


def _some(keys: list[str]) -> str:
    more = len(keys) - _SHOWN_KEYS
    return ", ".join(keys[:_SHOWN_KEYS]) + (f" and {more} more" if more > 0 else "")


def _is_pickle(path: Path, what: str) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as e:
        raise ConfigError(f"{what}: {reason_of(e)}") from e
    # safetensors: eight bytes of length, the first of which may look like a pickle's, then JSON
    return start[:2] == b"PK" or (start[:1] == pickle.PROTO and start[8:] != b"{")


def _unpickled(path: Path, what: str) -> Any:
    try:
        with path.open("rb") as file:  # of a path torch believes the suffix
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        target = path.with_name(f"{path.stem}-weights.pth")
        raise ConfigError(
            f"{what} hold objects beside tensors, which can run code when loaded; convert them where you trust them: "
            f"python -c \"import torch; c = torch.load('{path}', weights_only=False); torch.save(c['state_dict'] if "
            f"isinstance(c, dict) else c.state_dict(), '{target}')\"") from e
    except Exception as e:
        raise ConfigError(f"{what}: cannot be read as a file of torch.save ({one_line(e)[:200]})") from e


def _state_dict(content: Any, what: str) -> dict[str, Tensor]:
    """The network's tensors in what a file holds."""
    if isinstance(content, Mapping):
        plain = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
        inner = [content[key] for key in _NESTED if isinstance(content.get(key), Mapping)]
        inner += [v for k, v in content.items()
                  if isinstance(v, Mapping) and k not in _NESTED and "optim" not in str(k)]
        for part in inner:
            if len(found := {str(k): v for k, v in part.items() if isinstance(v, Tensor)}) > len(plain):
                return found
        if plain:
            return plain
        if inner:
            return _state_dict(inner[0], what)
    raise ConfigError(f"{what} hold no tensors by name, but a {type(content).__name__}; save `model.state_dict()`")


def _renamed(tensors: dict[str, Tensor], state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors under the network's names, and the names of those that are none of its."""
    best: dict[str, Tensor] = {}
    used: set[str] = set()
    for file_prefix, own_prefix in _prefixes(tensors, state):
        found = {own_prefix + k.removeprefix(file_prefix): k for k in tensors if k.startswith(file_prefix)}
        found = {name: k for name, k in found.items() if name in state}
        if len(found) > len(best):
            best, used = {name: tensors[k] for name, k in found.items()}, set(found.values())
    return best, sorted(k for k in tensors if k not in used)


def _prefixes(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Pairs of a prefix in the file and one in the network that may stand for one another; none comes first."""
    found = {("", ""): None}
    ends = {name.rpartition(".")[2] for name in state}
    for name in list(state)[:1] + list(state)[-1:]:
        for key in tensors:
            if key.rpartition(".")[2] not in ends:
                continue
            if key.endswith(f".{name}"):
                found[key[:-len(name)], ""] = None
            elif name.endswith(f".{key}"):
                found["", name[:-len(key)]] = None
            else:  # the end that both have in common
                ours, theirs = name.split("."), key.split(".")
                common = 0
                while common < min(len(ours), len(theirs)) and ours[-1 - common] == theirs[-1 - common]:
                    common += 1
                if common > 1:
                    tail = ".".join(ours[-common:])
                    found[key[:-len(tail)], name[:-len(tail)]] = None
    return list(found)
