"""Networks as they are used once training is over: evaluation mode, and batch norms folded away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import fx, nn
from torch.fx.experimental.optimization import fuse

__all__ = ["device_of", "evaluation_mode", "folded"]


def device_of(network: nn.Module) -> torch.device:
    """Where a network's first parameter or buffer is; the processor where it has none."""
    return next((t.device for t in (*network.parameters(), *network.buffers())), torch.device("cpu"))


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and afterwards every module of it back into its own.

    `module.train(was_training)` will not do: the halves of a cut network share layers with it, so that a half may
    say of itself that it is not training while its layers are.
    """
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for m, training in modes:
            m.training = training


def folded(network: nn.Module) -> nn.Module:
    """The same function for inference, with batch norms folded into the convolutions before them.

    On a CPU that halves the time of networks such as EfficientNet, whose batch norms wait for memory. Values differ in
    their last digits.

    Args:
        network: In evaluation mode; left as it is. Whatever is no traced network is given back unchanged.

    Returns:
        A copy without gradients.
    """
    if not isinstance(network, fx.GraphModule):
        return network
    with torch.no_grad():
        found: nn.Module = fuse(network, no_trace=True)
    return found.to(memory_format=torch.channels_last).eval().requires_grad_(False)
