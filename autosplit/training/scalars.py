"""Curves of what is being trained, for TensorBoard where it is installed; nothing else depends on them.

Losses come up deep inside a training, the folder is known to the search: the one writes with `log_scalar` wherever it
is, the other says with `tensorboard_logs` where to. Without a folder, or without the package, nothing is written.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

__all__ = ["TENSORBOARD_FOLDER", "log_scalar", "tensorboard_logs"]

TENSORBOARD_FOLDER = "tensorboard"
"""Name of the folder inside a run directory; `tensorboard --logdir RUN/tensorboard` shows it."""


class _Logs:
    """Event files of one folder, begun with the first value."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def add(self, tag: str, value: float, step: int) -> None:
        if self._writer is None:
            from torch.utils.tensorboard.writer import SummaryWriter

            self._writer = SummaryWriter(str(self._folder))
        self._writer.add_scalar(tag, value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


_logs: ContextVar[_Logs | None] = ContextVar("autosplit_logs", default=None)


@contextmanager
def tensorboard_logs(folder: Path) -> Iterator[None]:
    """Write what is trained in this block to a folder, if the package `tensorboard` is installed.

    Args:
        folder: Made with the first value.
    """
    if importlib.util.find_spec("tensorboard") is None:
        yield
        return
    logs = _Logs(folder)
    token = _logs.set(logs)
    try:
        yield
    finally:
        _logs.reset(token)
        logs.close()


def log_scalar(tag: str, value: object, step: int) -> None:
    """Note one value of a curve; costs nothing where no logs are kept.

    Args:
        tag: Name of the curve, such as `supernet/loss`.
        value: A number, or a tensor of one.
        step: Place on the curve.
    """
    logs = _logs.get()
    if logs is not None:
        logs.add(tag, float(value), step)  # type: ignore[arg-type]
