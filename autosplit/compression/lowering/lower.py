"""From int8 networks to a program of integer operations: what `autosplit export --target c` writes as C.

The levels that the program computes are those of the network, and of its ONNX form, for every image: each operation's
arithmetic is followed exactly (`autosplit.compression.lowering.fixed_point`).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from torch import Tensor, fx, nn

from autosplit.compression.int8_layers import (
    LEVELS,
)
from autosplit.compression.lowering.operations import (
    Decision,
    Gather,
    Program,
    Readout,
    Symbols,
)
from autosplit.compression.lowering.values import (
    REMEDY,
    Image,
    Levels,
    Real,
    Rounding,
    Value,
    channels_last,
)
from autosplit.compression.lowering.walk import Walk
from autosplit.compression.quantise import MIN_LIMIT
from autosplit.core.errors import ConfigError
from autosplit.models.constants import with_constants

__all__ = ["Lowering"]


class Lowering:
    """Makes one program of the networks that a device runs one behind the other.

    Args:
        image: Shape (C, H, W) of the images.
    """

    def __init__(self, image: tuple[int, int, int]) -> None:
        channels, height, width = image
        self.program = Program((height, width, channels))

    def image(self, mean: Sequence[float], std: Sequence[float]) -> Image:
        """The image as its network gets it, `(pixel / 255 - mean) / std`."""
        pixels = np.arange(LEVELS, dtype=np.float32) / np.float32(255)
        each = zip(mean, std, strict=True)
        return Image(np.stack([(pixels - np.float32(m)) / np.float32(s) for m, s in each]))

    def network(self, network: nn.Module, given: Value, shape: tuple[int, ...]) -> Value:
        """Add the operations of an int8 network.

        Args:
            network: As of `quantise_int8`.
            given: What goes in, of `image` or of another network.
            shape: Its shape without the batch dimension.

        Returns:
            What comes out.

        Raises:
            ConfigError: It has an operation that cannot be written as C.
        """
        if not isinstance(network, fx.GraphModule):
            raise ConfigError("only int8 networks can be written as C; choose a device profile whose arithmetic is "
                              "int8")
        graph = with_constants(network, shape)
        assert isinstance(graph, fx.GraphModule)
        return Walk(self.program, graph, given, shape).run()

    def symbols(self, value: Value, bits: int, limit: Tensor) -> None:
        """End with the symbols of a code.

        Args:
            value: The encoder's output.
            bits: Bits of a symbol.
            limit: Of the quantiser, (channels, 1, 1) or one number; see `autosplit.compression.quantise`.
        """
        if not isinstance(value, Real):
            raise ConfigError("an encoder that ends with levels instead of real values cannot be written as C"
                              f"{REMEDY}")
        half = 2 ** (bits - 1)
        step = (limit.detach().float().clamp_min(MIN_LIMIT) / half).reshape(-1).numpy()
        step = np.repeat(step, value.shape[0]) if len(step) == 1 else step
        rounding = Rounding(step, half, 0, 2 * half - 1, 0.5 if bits == 1 else 0.0)
        height, width, channels = channels_last(value.shape)
        buffer = value.emit(rounding.clamped(value.limits), True)
        self.program.add(Symbols(name="symbols", reads=(buffer,), writes=None, shape=(channels, height, width)))

    def logits(self, value: Value, threshold: float = 0.0, temperature: float | None = None) -> None:
        """Logits are there: end, or go on where the device is not sure enough.

        Args:
            value: A network's output.
            threshold: Least probability that is sure enough; 0 = any is.
            temperature: Logits are divided by it.
        """
        if isinstance(value, Real):
            if value.limits is not None:
                raise ConfigError(f"operation {value.name!r} cannot be written as C with its logits clamped{REMEDY}")
            value.emit(None, False)
        else:
            if not isinstance(value, Levels):
                raise ConfigError(f"a network without an operation that gives logits cannot be written as C{REMEDY}")
            buffer, order = value.buffer, value.places.reshape(-1).long().numpy() - 1
            if not np.array_equal(order, np.arange(prod(self.program.buffers[buffer]))):
                buffer = self.program.buffer((1, 1, len(order)))
                self.program.add(Gather(name="logits", reads=(value.buffer,), writes=buffer, places=order,
                                        zero=value.zero))
            self.program.add(Readout(name="logits", reads=(buffer,), writes=None, elements=len(order),
                                     zero=value.zero, scale=float(value.scale)))
        classes = prod(value.shape)
        self.program.add(Decision(name="decision", reads=(), writes=None, threshold=threshold,
                                  temperature=temperature, classes=classes))
