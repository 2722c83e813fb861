r"""Uniform affine quantiser of the code, with a straight-through gradient and a learnable range.

A value is clipped to [-limit, limit] and rounded to one of `2**bits` equally spaced levels, a *symbol*.
The spacing is `step = limit / 2**(bits - 1)`, and level `s` stands for `(s - 2**(bits - 1)) * step`:

| bits | levels, in units of the limit |
| --- | --- |
| 1 | -1/2, 1/2 |
| 2 | -1, -1/2, 0, 1/2 |
| 3 | -1, -3/4, -1/2, -1/4, 0, 1/4, 1/2, 3/4 |

**Why a level at zero (mid-tread) although that makes the range lopsided.** An even number of symmetric levels
(mid-rise) has a decision threshold at zero, in the middle of a peaked code, so no choice of the limit brings a
symmetric code below 1 bit a symbol; with a level at zero the entropy goes down to nothing. Mean squared error of
the two at their best limit, entropy held below a target (unit-variance samples, 2 bits, 200,000 draws):

| bits per symbol | Laplace mid-rise | Laplace mid-tread | Gauss mid-rise | Gauss mid-tread |
| --- | --- | --- | --- | --- |
| 0.6 | impossible | 0.57 | impossible | 0.75 |
| 1.5 | 0.27 | 0.21 | 0.26 | 0.22 |
| 2.0 | 0.20 | 0.21 | 0.12 | 0.15 |

Mid-rise wins only where the entropy coder has nothing left to gain. One bit is the exception: its two levels are
symmetric, since a zero level would leave nothing for positive values.

The step is the limit times a power of two and a level is one multiplication away from its symbol, so two machines
that share symbols and limit dequantise to the same bits. The topmost half step of the range is clipped to the
highest level; its gradient still passes, so that a value there can come back when the limit or the bits change.

Sources: straight-through estimator, Bengio et al. 2013 (arXiv 1308.3432); learned range, Choi et al. 2018 (PACT,
arXiv 1805.06085) and Esser et al. 2020 (LSQ, arXiv 1902.08153), whose gradient of the step is used here.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from autosplit.core.errors import ConfigError
from autosplit.runtime.standalone.payload.frequencies import levels

__all__ = ["MIN_LIMIT", "dequantise", "fake_quantise", "levels", "quantise"]

MIN_LIMIT = 1e-6
"""Smallest range; a learnable limit that training pushes below it (or below zero) is taken as this."""


def quantise(code: Tensor, bits: int, limit: Tensor | float) -> Tensor:
    """Nearest level of each value; a value half way between two goes to the even one (`torch.round`).

    Args:
        code: Real values, any shape.
        bits: Bits of a symbol, 1 to 8.
        limit: Largest magnitude kept; a number, or a tensor that broadcasts to `code` ((K, 1, 1) for one a channel).

    Returns:
        int32 symbols in [0, 2**bits - 1], the shape of `code`. NaN becomes -1, which is no symbol: frequency tables
        and payload coder refuse it, so a diverged encoder never sends a plausible code.

    Raises:
        ConfigError: `bits` out of range, or a number `limit` that is not positive and finite.
    """
    bound = _limit_tensor(limit, code.device)
    cells = _cells(code.to(bound.dtype), bits, bound) + levels(bits) // 2
    return cells.nan_to_num(nan=-1.0).to(torch.int32)


def dequantise(symbols: Tensor, bits: int, limit: Tensor | float) -> Tensor:
    """The value each symbol stands for.

    Args:
        symbols: Symbols in [0, 2**bits - 1], any shape, any integer type.
        bits: Bits of a symbol, 1 to 8.
        limit: As given to `quantise`.

    Returns:
        Real values, the shape of `symbols`, in the floating type of `limit` (float32 for a number).

    Raises:
        ConfigError: `bits` out of range, or a number `limit` that is not positive and finite.
    """
    bound = _limit_tensor(limit, symbols.device)
    return _values(symbols.to(torch.int32).to(bound.dtype) - levels(bits) // 2, bits, bound)


def fake_quantise(code: Tensor, bits: int, limit: Tensor | float) -> Tensor:
    """`dequantise(quantise(code))` bit for bit, with a gradient; what training runs in place of the two.

    The gradient to `code` passes unchanged inside [-limit, limit] and is zero outside. The gradient to a tensor
    `limit` is `(output - code) / limit` inside and `output / limit` outside (LSQ), summed over the values that
    share it. It grows with their number; LSQ divides it by the root of that number times `2**(bits - 1)`, which
    is left to the learning rate of the limit's parameter group. NaN stays NaN.

    Args:
        code: Real values, any shape.
        bits: Bits of a symbol, 1 to 8.
        limit: As given to `quantise`; a tensor that requires a gradient is learnt.

    Returns:
        Dequantised values, the shape of `code`, in the floating type of `limit` (float32 for a number).

    Raises:
        ConfigError: `bits` out of range, or a number `limit` that is not positive and finite.
    """
    bound = _limit_tensor(limit, code.device)
    result: Tensor = _FakeQuantise.apply(code.to(bound.dtype), bound, bits)
    return result


class _FakeQuantise(torch.autograd.Function):
    """Quantise and dequantise with the gradients that `fake_quantise` describes."""

    @staticmethod
    def forward(ctx: Any, code: Tensor, limit: Tensor, bits: int) -> Tensor:
        output = _values(_cells(code, bits, limit), bits, limit)
        ctx.save_for_backward(code, limit, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (grad,) = grads
        code, limit, output = ctx.saved_tensors
        bound = limit.clamp_min(MIN_LIMIT)
        inside = code.abs() <= bound  # values in the topmost half step are clipped, but their gradient passes
        to_code = grad * inside if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return to_code, None, None
        slope = torch.where(inside, output - code, output) / bound
        return to_code, (grad * slope).sum_to_size(limit.shape), None


def _limit_tensor(limit: Tensor | float, device: torch.device) -> Tensor:
    """The limit as a tensor; its type is the one that all arithmetic is done in."""
    if isinstance(limit, Tensor):
        return limit.to(device)
    if not (math.isfinite(limit) and limit > 0):
        raise ConfigError(f"the quantiser's limit must be positive and finite, got {limit}")
    return torch.tensor(limit, dtype=torch.float32, device=device)


def _step_and_offset(bits: int, limit: Tensor) -> tuple[Tensor, float]:
    """Distance of two levels, and where in its cell the level of symbol `2**(bits - 1)` lies: half up for 1 bit."""
    return limit.clamp_min(MIN_LIMIT) / (levels(bits) // 2), 0.5 if bits == 1 else 0.0


def _cells(code: Tensor, bits: int, limit: Tensor) -> Tensor:
    """Signed cell of each value, from -2**(bits - 1) to 2**(bits - 1) - 1, still as floating point."""
    half, (step, offset) = levels(bits) // 2, _step_and_offset(bits, limit)
    return torch.round(code / step - offset).clamp(-half, half - 1)


def _values(cells: Tensor, bits: int, limit: Tensor) -> Tensor:
    step, offset = _step_and_offset(bits, limit)
    return (cells + offset) * step
