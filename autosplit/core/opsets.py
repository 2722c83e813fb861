"""Versions of ONNX's operators that can be written, and what runs them."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["OPSET", "OPSETS", "Opset"]


class Opset(NamedTuple):
    """What belongs to a version of the operators.

    Attributes:
        ir_version: Of the file format, as the first release of onnx with this opset had it.
        onnxruntime: The first version that ran a bundle of it, an int8 head with its float tail; the one before did
            not (1.14, which the first opset should run on, was not tried). The table of onnxruntime's own documentation
            says more: 1.15 knows opset 19, but casts nothing in it.
    """

    ir_version: int
    onnxruntime: str


OPSET = 20
"""The version that is written unless another is asked for."""

OPSETS = {18: Opset(8, "1.15"), 19: Opset(9, "1.16"), 20: Opset(9, "1.17"), 21: Opset(10, "1.18"),
          22: Opset(10, "1.21"), 23: Opset(11, "1.24")}
"""The versions that can be asked for; torch writes no older ones."""
