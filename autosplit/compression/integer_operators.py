"""Integer layers as operators of torch, and what they are in ONNX.

The exporter's time goes with the number of nodes and of tensors. So a layer is one node here, whose scalars are
arguments, and becomes ConvInteger, Add, Cast and Mul only when the ONNX file is written. The operators have shapes and
types, and no arithmetic.
"""

# ruff: noqa: ARG001 (operators without arithmetic)

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["OPERATORS", "WEIGHT_ZERO", "translations"]

WEIGHT_ZERO = 128
"""The level that stands for a weight of zero."""


def _quantise(x: Tensor, scale: float, zero: int) -> Tensor:
    return torch.empty_like(x, dtype=torch.uint8)


def _dequantise(levels: Tensor, scale: float, zero: int) -> Tensor:
    return torch.empty_like(levels, dtype=torch.float32)


def _integer_linear(levels: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, zero: int) -> Tensor:
    return levels.new_empty((*levels.shape[:-1], weight.shape[1]), dtype=torch.float32)


def _integer_conv(
    levels: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, zero: int, strides: Sequence[int],
    pads: Sequence[int], dilations: Sequence[int], group: int,
) -> Tensor:
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, weight.shape[2:], strict=True)]
    sides = [(levels.shape[2 + i] + pads[i] + pads[2 + i] - reach[i]) // strides[i] + 1 for i in (0, 1)]
    return levels.new_empty((levels.shape[0], weight.shape[0], *sides), dtype=torch.float32)


_LAYER = "Tensor levels, Tensor weight, Tensor bias, Tensor scale, int zero"
for _name, _arguments, _shape in (
    ("quantise", "Tensor x, float scale, int zero", _quantise),
    ("dequantise", "Tensor levels, float scale, int zero", _dequantise),
    ("integer_linear", _LAYER, _integer_linear),
    ("integer_conv", f"{_LAYER}, int[] strides, int[] pads, int[] dilations, int group", _integer_conv),
):
    torch.library.define(f"autosplit::{_name}", f"({_arguments}) -> Tensor")
    torch.library.register_fake(f"autosplit::{_name}", _shape)

OPERATORS: Any = torch.ops.autosplit
"""`quantise`, `dequantise`, `integer_linear` and `integer_conv`; pads are (top, left, bottom, right)."""


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For each operator the function that writes it as ONNX operators, as `torch.onnx.export` takes them.

    The packages of the extra `deploy` must be installed.
    """
    import onnxscript
    from onnxscript import ir

    op: Any = onnxscript.opset18  # the exporter converts to the opset that was asked for

    def level(number: int) -> Any:
        return op.Constant(value=ir.tensor(number, dtype=ir.DataType.UINT8))

    def real(total: Any, bias: Any, scale: Any) -> Any:
        return op.Mul(op.Cast(op.Add(total, bias), to=ir.DataType.FLOAT), scale)

    def quantise(x: Any, scale: float, zero: int) -> Any:
        return op.QuantizeLinear(x, op.Constant(value_float=scale), level(zero))

    def dequantise(levels: Any, scale: float, zero: int) -> Any:
        return op.DequantizeLinear(levels, op.Constant(value_float=scale), level(zero))

    def linear(levels: Any, weight: Any, bias: Any, scale: Any, zero: int) -> Any:
        return real(op.MatMulInteger(levels, weight, level(zero), level(WEIGHT_ZERO)), bias, scale)

    def convolution(levels: Any, weight: Any, bias: Any, scale: Any, zero: int, strides: Sequence[int],
                    pads: Sequence[int], dilations: Sequence[int], group: int) -> Any:
        total = op.ConvInteger(levels, weight, level(zero), level(WEIGHT_ZERO), strides=strides, pads=pads,
                               dilations=dilations, group=group)
        return real(total, bias, scale)

    return {OPERATORS.quantise.default: quantise, OPERATORS.dequantise.default: dequantise,
            OPERATORS.integer_linear.default: linear, OPERATORS.integer_conv.default: convolution}
