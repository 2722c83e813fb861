"""Tensors in safetensors files of whatever origin."""

from __future__ import annotations

from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from autosplit.core.errors import AutosplitError, ConfigError
from autosplit.runtime.standalone.errors import printable
from autosplit.runtime.standalone.files import check_regular

__all__ = ["load_tensors"]


def load_tensors(path: str | Path, what: str = "", *, error: type[AutosplitError] = ConfigError) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name.

    Args:
        path: The file.
        what: How messages name it; its path when left out.
        error: Class of the error.

    Raises:
        AutosplitError: Of class `error`: the file is absent, no regular one, too large, no safetensors file, or
            holds NaN or infinite values.
    """
    check_regular(path, what, error=error)
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load_file(path)
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
                raise ValueError(f"tensor {name!r} holds NaN or infinite values")
    except Exception as e:  # beside its own errors those of torch, for types and shapes that it does not have
        raise error(f"{what or path}: cannot be read as safetensors ({printable(e)})") from e
    return tensors
