"""What an operation of torch is to the lowering, by its name.

`autosplit.compression.int8` sorts operations by what they do to levels; here it is by what C computes them with.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

__all__ = ["kind_of"]

_ELEMENTWISE: dict[Any, str] = {
    operator.add: "add", torch.add: "add", "add": "add", operator.iadd: "add", "add_": "add",
    operator.sub: "sub", torch.sub: "sub", "sub": "sub",
    operator.mul: "mul", torch.mul: "mul", "mul": "mul", "mul_": "mul", operator.imul: "mul",
    operator.truediv: "div", torch.div: "div", "div": "div",
    operator.neg: "neg", torch.neg: "neg", "neg": "neg",
}
_JOINS = {torch.cat, torch.concat, torch.concatenate}
_CLAMPS = {"ReLU", "ReLU6", "Hardtanh", "relu", "relu_", "relu6", "hardtanh", "clamp", "clamp_", "clip", "clamp_min",
           "clamp_max"}
_IDENTITIES = {"Identity", "Dropout", "Dropout2d", "StochasticDepth", "DropPath", "stochastic_depth", "dropout"}
# of a tensor alone; most are tables of the network already
_TABLES = {"SiLU", "Sigmoid", "Hardswish", "Hardsigmoid", "GELU", "ELU", "LeakyReLU", "PReLU", "Tanh", "Mish",
           "Softplus", "SELU", "CELU", "Softsign", "silu", "sigmoid", "hardswish", "hardsigmoid", "gelu", "elu",
           "leaky_relu", "tanh", "mish", "softplus", "selu", "exp", "abs"}
_MAXIMA = {"MaxPool2d", "max_pool2d", "AdaptiveMaxPool2d", "adaptive_max_pool2d", "RegionMaxPool"}
_AVERAGES = {"AvgPool2d", "avg_pool2d", "AdaptiveAvgPool2d", "adaptive_avg_pool2d", "mean"}
_REARRANGE = {"Flatten", "Unflatten", "ZeroPad2d", "PixelShuffle", "PixelUnshuffle", "ChannelShuffle",
              "UpsamplingNearest2d", "ReflectionPad2d", "ReplicationPad2d", "flatten", "unflatten", "view", "reshape",
              "squeeze", "unsqueeze", "transpose", "permute", "chunk", "split", "unbind", "narrow", "getitem", "roll",
              "movedim", "channel_shuffle", "pixel_shuffle", "contiguous", "clone", "pad", "double", "float"}

_BY_NAME = {name: kind for kind, names in (
    ("identity", _IDENTITIES), ("clamp", _CLAMPS), ("maximum", _MAXIMA), ("average", _AVERAGES),
    ("rearrangement", _REARRANGE), ("table", _TABLES)) for name in names}


def kind_of(node: fx.Node, module: nn.Module | None) -> str:
    """What an operation is: a kind of `_BY_NAME`, `join`, or an elementwise one; empty where it is unknown.

    Args:
        node: Of an int8 network's graph.
        module: Its module, where it calls one.
    """
    if node.target in _JOINS:
        return "join"
    return _BY_NAME.get(_name(node, module)) or _ELEMENTWISE.get(node.target, "")


def _name(node: fx.Node, module: nn.Module | None) -> str:
    """What torch calls an operation; empty where it is a function of the user's, whatever name that has."""
    if module is not None:
        return type(module).__name__
    name = getattr(node.target, "__name__", str(node.target))
    if node.op == "call_method" or str(getattr(node.target, "__module__", "")).startswith("torchvision."):
        return name
    return name if any(getattr(home, name, None) is node.target for home in (torch, F, operator)) else ""
