"""How long each operator of an ONNX file takes in onnxruntime, whose own profiler times the kernels that it made."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.parts import session_options
from ..errors import ConfigError

__all__ = ["attributed", "kernel_seconds", "owner_of", "shared"]

_WARM_UP = 5
_KERNEL = "_kernel_time"
_ENOUGH = 0.9  # of the operators that have kernels of their own must be found among them


def kernel_seconds(network: bytes | str, feed: Mapping[str, NDArray[Any]], threads: int,
                   passes: int) -> dict[str, float]:
    """Seconds of each kernel by name: the mean of the middle half, since the profiler counts whole microseconds.

    Args:
        network: An ONNX file, or its path.
        feed: What goes in.
        threads: Of onnxruntime.
        passes: Inferences that are timed.
    """
    import onnxruntime

    options = session_options(threads)
    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
        # the first inferences load code and memory
        for _ in range(_WARM_UP + passes):
            session.run(None, dict(feed))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    found: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            found.setdefault(event["name"][:-len(_KERNEL)], []).append(event["dur"])
    ordered = {name: sorted(durations[_WARM_UP:]) for name, durations in found.items()}
    return {name: 1e-6 * float(np.mean(d[len(d) // 4:len(d) - len(d) // 4])) for name, d in ordered.items()}


def attributed(moved: Sequence[float], owners: Mapping[str, int], kernels: Mapping[str, float],
               whole_s: float) -> NDArray[np.float64]:
    """Share the time of an inference among the operators of its network.

    Kernels are fused operators. What belongs to none (sums and poolings that are kernels of their own, changes of
    layout) goes to the operators without kernels of their own, by the elements that they move, and the time between
    kernels to all alike, so that the operators add up to the time of a whole inference.

    Args:
        moved: Activation elements that each operator reads and writes.
        owners: The operator of each name that a kernel may have, -1 for none; see `owner_of`.
        kernels: Seconds of each kernel.
        whole_s: Seconds of a whole inference.

    Returns:
        Seconds of each operator; their sum is `whole_s`.

    Raises:
        ConfigError: Too few operators have a kernel.
    """
    owned = {owner for owner in owners.values() if owner >= 0}
    seen = {owner_of(name, owners) for name in kernels} & owned
    if len(seen) < _ENOUGH * len(owned):
        raise ConfigError(f"only {len(seen)} of {len(owned)} layers are found among the kernels of this onnxruntime")
    seconds = shared(moved, owners, kernels)
    between = whole_s - seconds.sum()
    if between < 0:  # the profiler itself takes time
        return np.asarray(seconds * whole_s / seconds.sum())
    return np.asarray(seconds + between / len(moved))


def shared(moved: Sequence[float], owners: Mapping[str, int], kernels: Mapping[str, float]) -> NDArray[np.float64]:
    """Share the time of kernels among operators, without the time between them; arguments as of `attributed`."""
    owned = set(owners.values())
    seconds, rest = np.zeros(len(moved)), 0.0
    for name, spent in kernels.items():
        owner = owner_of(name, owners)
        if owner < 0:
            rest += spent
        else:
            seconds[owner] += spent
    others = np.array([0.0 if i in owned else float(elements) for i, elements in enumerate(moved)])
    others = others if others.any() else np.ones(len(moved))
    return np.asarray(seconds + rest * others / others.sum())


def owner_of(kernel: str, owners: Mapping[str, int]) -> int:
    """The operator that a kernel belongs to, -1 for none.

    A kernel is named after the node that it was made of or the value that it gives, sometimes with a word before it
    (`fused conv`) or behind it (`relu_1_nchwc`, `relu_1_token_4`); the longest name that is known counts.
    """
    name = kernel.rpartition(" ")[2]
    while name:
        if name in owners:
            return owners[name]
        name = name.rpartition("_")[0]
    return -1
