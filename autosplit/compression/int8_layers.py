"""The layers of an int8 network: integers in float32, so that no sum depends on the order it is taken in.

See `autosplit.compression.int8` for the arithmetic and for when it is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["LEVELS", "MIN_SCALE", "ChannelAffine", "Int8Conv2d", "Int8Layer", "Int8Linear", "Lookup", "Requantise"]

LEVELS = 256
MIN_SCALE = 2.0**-60  # so that a product of two scales is a normal float32
_WEIGHT_LIMIT = 127
_EXACT = 2**24  # every integer below this is a float32
_BIAS_LIMIT = 2**23


class Requantise(nn.Module):
    """Rounds real values to 256 evenly spaced levels, zero among them.

    Scale and zero are the requantisation parameters of Jacob et al. 2018: level q stands for `(q - zero) * scale`.

    Args:
        scale: Distance of two levels.
        zero: Level of the value zero, 0 to 255.
    """

    counts_as = "nothing"  # as work: fused with what gives the values

    scale: Tensor
    zero: Tensor

    def __init__(self, scale: float = 1.0, zero: int = 0) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.register_buffer("zero", torch.tensor(zero, dtype=torch.int32))

    def forward(self, x: Any) -> Any:
        """Nearest values that have a level, any shape, float32; what is no floating-point tensor passes as it is."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        low = -int(self.zero)
        return torch.round(x / self.scale).clamp_(low, low + LEVELS - 1).mul_(self.scale)


class Lookup(Requantise):
    """An elementwise function from levels to levels, as a table of 256 bytes (`scale` and `zero` are the output's).

    Args:
        function: The function; called with float64.
        source: Parameters of the input.
        target: Parameters of the output.
    """

    table: Tensor
    in_scale: Tensor
    in_zero: Tensor

    def __init__(self, function: Callable[[Tensor], Tensor], source: Requantise, target: Requantise) -> None:
        super().__init__(float(target.scale), int(target.zero))
        self.register_buffer("in_scale", source.scale.clone())
        self.register_buffer("in_zero", source.zero.clone())
        inputs = (torch.arange(LEVELS) - source.zero) * source.scale.double()
        levels = torch.round(function(inputs) / target.scale.double()) + target.zero
        self.register_buffer("table", levels.clamp(0, LEVELS - 1).to(torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        """Values of the input's levels -> values of the output's."""
        values = (self.table.to(torch.float32) - self.zero) * self.scale
        return values[torch.round(x / self.in_scale).to(torch.int64) + self.in_zero]


class ChannelAffine(nn.Module):
    """A batch norm that no layer could take in: `x * factor + shift`, one of each a channel (dimension 1)."""

    counts_as = "nothing"  # as every batch norm

    factor: Tensor
    shift: Tensor

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__()
        if norm.running_mean is None or norm.running_var is None:
            raise ValueError("a batch norm without running statistics is no fixed map")
        factor = torch.rsqrt(norm.running_var.double() + norm.eps)
        shift = -norm.running_mean.double() * factor
        if norm.affine:
            factor, shift = factor * norm.weight, shift * norm.weight + norm.bias
        self.register_buffer("factor", factor.float())
        self.register_buffer("shift", shift.float())

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> the same shape."""
        shape = (-1, *(1 for _ in x.shape[2:]))
        return x * self.factor.view(shape) + self.shift.view(shape)


class Int8Layer(nn.Module):
    """Weighted sums of integers: what is common to convolution and linear layer.

    Args:
        layer: The float layer, whose weights are of no meaning here; see `fill`.
        own_bias: Whether the layer had a bias before a batch norm was folded into it; only these are counted as work.

    Attributes:
        weight: int8, the shape of the float layer's.
        scale: float32 (outputs,), value of one step of a weight.
        bias: int32 (outputs,), in units of `in_scale * scale`.
        in_scale: float32, the scale of the input's levels.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor
    in_scale: Tensor

    def __init__(self, layer: nn.Conv2d | nn.Linear, own_bias: bool) -> None:
        super().__init__()
        outputs = layer.weight.shape[0]
        self.own_bias, self.groups = own_bias, getattr(layer, "groups", 1)
        self.register_buffer("weight", torch.zeros(layer.weight.shape, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(outputs))
        self.register_buffer("bias", torch.zeros(outputs, dtype=torch.int32))
        self.register_buffer("in_scale", torch.ones(()))

    def fill(self, weight: Tensor, bias: Tensor | None, in_scale: float) -> None:
        """Quantise weights of a float layer for inputs of a given scale.

        A channel of weights so small that its bias would not fit gets coarser ones, which its bias outweighs anyway.

        Args:
            weight: Real, of the layer's shape.
            bias: Real (outputs,), or `None`.
            in_scale: Scale of the input's levels.
        """
        offset = torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias.double()
        self.in_scale.fill_(in_scale)
        step = self.in_scale.double()
        finest = offset.abs() / (step * _BIAS_LIMIT)
        scale = torch.maximum(weight.abs().flatten(1).amax(1) / _WEIGHT_LIMIT, finest).clamp_min(MIN_SCALE)
        self.scale.copy_(scale)  # to float32 first: weights are rounded by the scale that will be multiplied with
        rounded = torch.round(weight / self.scale.view(-1, *(1 for _ in weight.shape[1:])))
        self.weight.copy_(rounded.clamp(-_WEIGHT_LIMIT, _WEIGHT_LIMIT))
        self.bias.copy_(torch.round(offset / (self.scale * step)).clamp(-_BIAS_LIMIT, _BIAS_LIMIT))

    def product(self, levels: Tensor, weight: Tensor) -> Tensor:
        """The layer's sums of products, without bias; each kind of layer has its own."""
        raise NotImplementedError

    def accumulate(self, x: Tensor, dim: int) -> Tensor:
        """Sums of products of levels and weights, in pieces of the input's channels (dimension `dim`)."""
        levels, weight, pieces = torch.round(x / self.in_scale), self.weight.to(torch.float32), 1
        reach = weight.abs().flatten(2).sum(2) if weight.dim() > 2 else weight.abs()
        # float32 holds every integer below 2**24: no partial sum of a piece may reach that, whatever the levels are
        while self.groups == 1 and pieces < reach.shape[1] and any(
                float(part.sum(1).max()) * (LEVELS - 1) >= _EXACT for part in reach.chunk(pieces, 1)):
            pieces *= 2
        parts = zip(levels.chunk(pieces, dim), weight.chunk(pieces, 1), strict=True)
        total = self.product(*next(parts))
        for part in parts:
            total = total + self.product(*part)
        return total


class Int8Conv2d(Int8Layer):
    """An int8 convolution with zero padding."""

    counts_as = "conv"

    def __init__(self, layer: nn.Conv2d, own_bias: bool) -> None:
        super().__init__(layer, own_bias)
        self.stride, self.padding, self.dilation = layer.stride, layer.padding, layer.dilation

    def forward(self, x: Tensor) -> Tensor:
        """Values of the input's levels (N, C, H, W) -> real values, not rounded yet."""
        total = self.accumulate(x, -3) + self.bias.view(-1, 1, 1)
        return total * (self.in_scale * self.scale).view(-1, 1, 1)

    def product(self, levels: Tensor, weight: Tensor) -> Tensor:
        """See `Int8Layer.product`."""
        return F.conv2d(levels, weight, None, self.stride, self.padding, self.dilation, self.groups)


class Int8Linear(Int8Layer):
    """An int8 linear layer."""

    counts_as = "linear"

    def forward(self, x: Tensor) -> Tensor:
        """Values of the input's levels (..., inputs) -> real values (..., outputs), not rounded yet."""
        return (self.accumulate(x, -1) + self.bias) * (self.in_scale * self.scale)

    def product(self, levels: Tensor, weight: Tensor) -> Tensor:
        """See `Int8Layer.product`."""
        return F.linear(levels, weight)
