"""The operations of an integer program: what a device without an inference engine runs, one after the other.

A program works on *buffers* of 8-bit levels, channels last, and holds no floating-point number but what its end makes
real values of. All shapes are (height, width, channels); there is no batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from autosplit.compression.lowering.fixed_point import PairStaircase, Quotient, Staircase

__all__ = ["Average", "Channels", "Convolution", "Decision", "Gather", "Join", "Maximum", "Operation", "Pixels",
           "Pooling", "Product", "Program", "Readout", "Sum", "Symbols", "Table", "Window", "column_length"]

Shape = tuple[int, int, int]
Bytes = NDArray[np.uint8]
_SUM_BYTES = 4  # int32


def column_length(values: int) -> int:
    """Bytes of the inputs of one output of a convolution, filled up so that a word is never read in part."""
    return -(-values // 4) * 4


@dataclass(kw_only=True)
class Operation:
    """One step of a program.

    Attributes:
        name: Of the network's operation, for comments and errors.
        reads: Numbers of the buffers that it reads.
        writes: Number of the buffer that it writes, `None` where it writes none.
    """

    in_place: ClassVar[bool] = False
    """Whether the output may lie where an input of as many bytes lies that nobody reads afterwards."""

    name: str
    reads: tuple[int, ...]
    writes: int | None

    @property
    def scratch_bytes(self) -> int:
        """Memory that it needs while it runs, beside its buffers."""
        return 0

    @property
    def constant_bytes(self) -> int:
        """Of flash, for its weights and tables; exceptions of staircases left out."""
        return 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return 0


@dataclass(kw_only=True)
class Pixels(Operation):
    """The image, uint8, to levels: a table of 256 for each channel, (channels, 256)."""

    table: Bytes

    @property
    def constant_bytes(self) -> int:
        """See `Operation.constant_bytes`."""
        return self.table.size


@dataclass(frozen=True)
class Window:
    """What of the input belongs to an output of a convolution or pooling.

    Attributes:
        kernel: Height and width.
        stride: Down and right.
        dilation: Down and right.
        begin: Rows and columns of padding above and to the left.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    begin: tuple[int, int] = (0, 0)


@dataclass(kw_only=True)
class Convolution(Operation):
    """A convolution or, with a window of 1 x 1, a linear layer.

    Attributes:
        shape: Of the input.
        output: Shape of the output.
        window: See `Window`.
        groups: As in torch.
        weight: int8, (outputs, kernel height, kernel width, inputs of a group).
        zero: Level of the input that stands for zero, which paddings have.
        levels: Sums of products of levels and weights to output levels; `None` where the output is real.
        bias: int32 (outputs,): what makes real values of those sums, `(sum + bias) * scale`.
        scale: float32 (outputs,).
        by_channel: Whether the output is written channel by channel, as the payload coder reads symbols.
    """

    shape: Shape
    output: Shape
    window: Window
    groups: int
    weight: NDArray[np.int8]
    zero: int
    levels: Staircase | None
    bias: NDArray[np.int64]
    scale: NDArray[np.float32]
    by_channel: bool = False

    @property
    def depthwise(self) -> bool:
        """Whether each output channel sees the input channel of its number alone."""
        return self.groups == self.shape[2] == self.output[2] and self.groups > 1

    @property
    def column(self) -> int:
        """Bytes of the inputs of one output, filled up to words."""
        height, width = self.window.kernel
        return column_length(height * width * self.shape[2] // self.groups)

    @property
    def scratch_bytes(self) -> int:
        """The inputs of three positions widened, and of one as it is.

        Of a depthwise layer a sum of each channel, which padding adds something to, or the inputs of an output with all
        channels where they cannot be read in place. Levels of zero make no difference: memory is predicted before they
        are known.
        """
        if not self.depthwise:
            return 7 * self.column
        if self.levels is None or max(self.window.dilation) > 1:
            return column_length(prod(self.window.kernel) * self.shape[2])
        return _SUM_BYTES * self.shape[2]

    @property
    def constant_bytes(self) -> int:
        """Weights, filled up to words and pairs of channels, and 12 bytes a channel for its staircase."""
        outputs = self.output[2]
        if self.depthwise:
            return self.weight.size + 12 * outputs
        pairs = self.groups * -(-(outputs // self.groups) // 2)
        return 2 * pairs * self.column + (8 if self.levels is None else 12) * outputs

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return prod(self.output) * int(self.weight[0].size)


@dataclass(kw_only=True)
class Sum(Operation):
    """Two tensors of one shape added."""

    in_place: ClassVar[bool] = True
    elements: int
    pairs: PairStaircase


@dataclass(kw_only=True)
class Product(Operation):
    """Two tensors multiplied; the second may have one value a channel, for all positions.

    Attributes:
        shape: Of the first and of the output.
        by_channel: Whether the second has one value a channel.
        zeros: Levels of the two that stand for zero.
        pairs: The result.
    """

    in_place: ClassVar[bool] = True
    shape: Shape
    by_channel: bool
    zeros: tuple[int, int]
    pairs: PairStaircase


@dataclass(kw_only=True)
class Pooling(Operation):
    """What of the input belongs to each output of a pooling.

    Attributes:
        shape: Of the input.
        output: Shape of the output.
        rows: First row of each output row's window, and the one behind its last, within the input, (height, 2).
        columns: Likewise, (width, 2).
    """

    shape: Shape
    output: Shape
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]


@dataclass(kw_only=True)
class Maximum(Pooling):
    """Max pooling; paddings are left out."""


@dataclass(kw_only=True)
class Average(Pooling):
    """Average pooling; paddings are zeros or left out, as `divisors` says.

    Attributes:
        divisors: Of each output, (height, width).
        zero: Level of the input that stands for zero.
        scale: Value of one level of the input, a float32 number.
        step: Value of one level of the output, likewise; one for all channels, or one for each, (1,) or (channels,).
        shift: What is taken off a mean, in levels, before it is rounded: 0.5 where a code has two levels.
        target: Level of the output that stands for zero.
        low: Lowest level of the output.
        high: Highest level of the output.
        quotients: For each divisor one for each step.
        by_channel: Whether the output is written channel by channel, as the payload coder reads symbols.
    """

    divisors: NDArray[np.int64]
    zero: int
    scale: float
    step: NDArray[np.float32]
    shift: float
    target: int
    low: int
    high: int
    quotients: tuple[Quotient, ...]
    by_channel: bool = False

    @property
    def constant_bytes(self) -> int:
        """24 bytes a quotient, 4 a step."""
        return 24 * len(self.quotients) + 4 * self.step.size


@dataclass(kw_only=True)
class Table(Operation):
    """A function of each level: tables (1 or channels, 256)."""

    in_place: ClassVar[bool] = True
    elements: int
    table: Bytes

    @property
    def constant_bytes(self) -> int:
        """See `Operation.constant_bytes`."""
        return self.table.size


@dataclass(kw_only=True)
class Channels(Operation):
    """Some channels of a tensor, or the same in another order, each by its number: the output has as many."""

    positions: int
    inputs: int
    order: NDArray[np.int64]

    @property
    def constant_bytes(self) -> int:
        """See `Operation.constant_bytes`."""
        return 2 * self.order.size


@dataclass(kw_only=True)
class Gather(Operation):
    """Any other rearrangement: each output value by its place in the input; -1 stands for zero.

    Attributes:
        places: Into the input buffer, in the order of the output buffer.
        zero: Level that stands for zero.
    """

    places: NDArray[np.int64]
    zero: int

    @property
    def constant_bytes(self) -> int:
        """See `Operation.constant_bytes`."""
        return 4 * self.places.size


@dataclass(kw_only=True)
class Join(Operation):
    """Tensors one after the other by channels, each rounded anew by a table (256,)."""

    positions: int
    channels: tuple[int, ...]
    tables: tuple[Bytes, ...]

    @property
    def constant_bytes(self) -> int:
        """See `Operation.constant_bytes`."""
        return sum(table.size for table in self.tables)


@dataclass(kw_only=True)
class Symbols(Operation):
    """The end of a program that encodes: a buffer of symbols goes to the payload coder.

    Attributes:
        shape: Of the code, (channels, height, width), as the symbols lie.
    """

    shape: Shape

    @property
    def scratch_bytes(self) -> int:
        """What the payload coder needs where the code has contexts (`AUTOSPLIT_SCRATCH` in payload.h)."""
        channels, height, width = self.shape
        return channels * (height * (-(-width // 2)) + 1) + 10 * (-(-height * width // 2))


@dataclass(kw_only=True)
class Readout(Operation):
    """Real values of levels, `(level - zero) * scale`: logits that were rounded, or a feature's.

    Attributes:
        elements: How many.
        zero: Level that stands for zero.
        scale: A float32 number.
    """

    elements: int
    zero: int
    scale: float


@dataclass(kw_only=True)
class Decision(Operation):
    """Logits are there: a device that is sure enough of them ends here.

    Attributes:
        threshold: Least probability of the likeliest class that is sure enough; 0 = always.
        temperature: Logits are divided by it first; `None` = they are not.
        classes: Number of logits.
    """

    threshold: float
    temperature: float | None
    classes: int


@dataclass
class Program:
    """Operations and the buffers between them.

    Attributes:
        image: Shape of the image.
        buffers: Shape of each buffer.
        operations: In the order in which they run.
    """

    image: Shape
    buffers: list[Shape] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)

    def buffer(self, shape: Shape) -> int:
        """A new buffer's number."""
        self.buffers.append(shape)
        return len(self.buffers) - 1

    def add(self, operation: Operation) -> int:
        """Take in an operation; the number of the buffer that it writes, -1 if none."""
        self.operations.append(operation)
        return -1 if operation.writes is None else operation.writes

    @property
    def constant_bytes(self) -> int:
        """Of flash, for weights and tables."""
        return sum(operation.constant_bytes for operation in self.operations)
