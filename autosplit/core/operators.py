"""What one operator of a network costs, and the sums over operators from which its time can be predicted.

The time of an operator is taken as linear in a few terms of its shape, with prices of their own for each type. So a
stage needs no list of its operators: the sums of the terms by type say the same, are added as stages are joined, and
follow for a pruned head in closed form.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from pydantic import Field

from autosplit.core.arrays import Array
from autosplit.core.validation import Frozen

__all__ = ["KINDS", "LANES", "TERMS", "OperatorKind", "OperatorWork", "TermSums", "TypeSums", "padded"]

OperatorKind = Literal["conv", "depthwise", "linear", "other"]

KINDS: tuple[OperatorKind, ...] = get_args(OperatorKind)
"""The types of operators, in the order of `TypeSums`."""

TERMS = ("operators", "macs", "reads", "writes", "weights", "padded_macs", "patches")
"""What the time of an operator may depend on: its launch, its multiply-accumulates, the activation elements that it
reads and writes, its parameters, its multiply-accumulates with channels rounded up to `LANES`, and the elements of the
patches that a convolution gathers (im2col)."""

LANES = 16
"""Channels that kernels work on at once: sixteen floats fill a register of AVX-512, and engines pad to as many."""

N = TypeVar("N", int, Array)
TermSums = tuple[float, float, float, float, float, float, float]
_NOTHING: TermSums = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class OperatorWork:
    """What one operator of a network costs, for one input.

    Attributes:
        kind: What its multiply-accumulates count as; `other` has none.
        rows: First dimension of its weight; 0 without weight.
        columns: Second dimension of its weight.
        kernel: Weight elements of one row and column.
        positions: How often each weight element is used.
        bias: Elements of its bias.
        outputs: Activation elements that it writes.
        groups: Groups of a convolution, else 1.
        inputs: Input channels of a convolution, else 0.
        reads: Activation elements that it reads.
    """

    kind: OperatorKind
    rows: int = 0
    columns: int = 0
    kernel: int = 0
    positions: int = 0
    bias: int = 0
    outputs: int = 0
    groups: int = 1
    inputs: int = 0
    reads: int = 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.rows * self.columns * self.kernel * self.positions

    @property
    def weights(self) -> int:
        """Parameters read."""
        return self.rows * self.columns * self.kernel + self.bias

    @property
    def terms(self) -> tuple[int, ...]:
        """`TERMS` of this operator."""
        # a depthwise convolution has one column a row, which no kernel pads
        columns = self.columns if self.kind == "depthwise" else padded(self.columns)
        return (1, self.macs, self.reads, self.outputs, self.weights,
                padded(self.rows) * columns * self.kernel * self.positions,
                self.columns * self.groups * self.kernel * self.positions)


def padded(channels: N) -> N:
    """Channels rounded up to `LANES`, of a number or an array."""
    return -(-channels // LANES) * LANES


def _empty(terms: TermSums) -> bool:
    return not any(terms)


class TypeSums(Frozen):
    """Sums of `TERMS` over the operators of a stage, by type; types that do not occur are left out when written.

    Attributes:
        conv: Dense and grouped convolutions.
        depthwise: Depthwise convolutions.
        linear: Fully connected layers.
        other: Everything without weights: pooling, sums, concatenations.
    """

    conv: TermSums = Field(default=_NOTHING, exclude_if=_empty)
    depthwise: TermSums = Field(default=_NOTHING, exclude_if=_empty)
    linear: TermSums = Field(default=_NOTHING, exclude_if=_empty)
    other: TermSums = Field(default=_NOTHING, exclude_if=_empty)

    @classmethod
    def of(cls, works: Iterable[OperatorWork]) -> TypeSums:
        """The sums of some operators."""
        sums = {kind: [0.0] * len(TERMS) for kind in KINDS}
        for work in works:
            for i, term in enumerate(work.terms):
                sums[work.kind][i] += term
        return cls.from_flat([value for kind in KINDS for value in sums[kind]])

    @property
    def flat(self) -> tuple[float, ...]:
        """All sums in a row: types in the order of `KINDS`, each with its `TERMS`."""
        return (*self.conv, *self.depthwise, *self.linear, *self.other)

    @classmethod
    def from_flat(cls, values: Iterable[float]) -> TypeSums:
        """The inverse of `flat`, for floats that are known to be right: nothing is validated."""
        row, size = tuple(values), len(TERMS)
        return cls.model_construct(None, **{kind: row[i * size:(i + 1) * size] for i, kind in enumerate(KINDS)})

    def __add__(self, other: TypeSums) -> TypeSums:
        return TypeSums.from_flat(a + b for a, b in zip(self.flat, other.flat, strict=True))
