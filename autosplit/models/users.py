"""What is said of a user's network: the logits in its answer, its name, and the line of it that a message is about."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from autosplit.core.errors import TraceError

__all__ = ["kind_of", "logits_in", "one_line", "user_line"]

_RECORDER = str(Path(__file__).with_name("recorder.py"))


def logits_in(result: Any, name: str) -> Tensor:
    """The logits in what `forward` returned."""
    if isinstance(result, Tensor):
        return result
    found = result.get("logits") if isinstance(result, Mapping) else getattr(result, "logits", None)
    if isinstance(found, Tensor):
        return found
    if isinstance(result, Mapping):
        what = f"a dict of {', '.join(map(repr, list(result)[:4]))}"
        if "out" in result:
            what += ", as networks for segmentation do"
    elif isinstance(result, (tuple, list)):
        what = f"a {type(result).__name__} of {len(result)}"
        if result and isinstance(result[0], Mapping) and "boxes" in result[0]:
            what += " dicts of boxes, as networks for detection do"
    else:
        what = f"{type(result).__name__}"
    raise TraceError(f"{name} returns {what}; autosplit needs a classifier that returns one tensor of logits, or a "
                     "dict or object with `logits`")


def kind_of(model: nn.Module) -> str:
    """Name of a network's class, for messages."""
    return type(model).__name__


def one_line(error: Exception) -> str:
    """What an error says, on one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def user_line(error: BaseException | None = None) -> str:
    """The innermost line that is neither torch's nor ours, as ` (net.py:12: if x.mean() > 0)`; empty without one."""
    frames = traceback.extract_tb(error.__traceback__) if error is not None else traceback.extract_stack(
        sys._getframe(1))
    ours = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]), "<frozen", mock.__file__)
    # a stack holds the callers of `trace` as well: only what lies behind the recorder's own frame is the network's
    last = max((i for i, f in enumerate(frames) if f.name == "record" and f.filename == _RECORDER), default=-1)
    theirs = [f for f in frames[last + 1:] if not f.filename.startswith(ours)]
    if not theirs:
        return ""
    frame = theirs[-1]
    return f" ({Path(frame.filename).name}:{frame.lineno}: {(frame.line or '').strip()[:100]})"
