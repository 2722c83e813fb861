"""Counting the work of a network: multiply-accumulates by operator type, elements moved, operators launched.

Counted as an inference engine would run it: batch norm is folded into the convolution before it, activations,
dropout and reshaping are fused or free; convolutions, linear layers, pooling and the joining of tensors count.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from autosplit.compression.int8_layers import Int8Conv2d, Int8Layer
from autosplit.modes import evaluation_mode
from autosplit.plan import StageCost

__all__ = ["stage_cost"]

_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample)
_JOINS = {operator.add, operator.iadd, operator.mul, operator.imul, torch.add, torch.mul, torch.cat,
          nn.functional.adaptive_avg_pool2d, nn.functional.max_pool2d, nn.functional.avg_pool2d,
          nn.functional.interpolate}


_FUNCTIONS = {nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d, nn.functional.conv_transpose2d,
              nn.functional.linear}
_ARGUMENTS = {0: "input", 1: "weight", 2: "bias", 6: "groups"}


class _Counter(fx.Interpreter):
    """Runs a graph once and adds up what each node costs."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.totals = dict.fromkeys(StageCost.model_fields, 0.0)

    def run_node(self, n: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        out = super().run_node(n)
        if isinstance(out, Tensor):
            if n.op == "call_module":
                self._module(self.fetch_attr(str(n.target)), next(iter((*args, *kwargs.values()))), out)
            elif n.op == "call_function" and n.target in _FUNCTIONS:
                self._function(n.target, args, kwargs, out)
            elif (n.op == "call_function" and n.target in _JOINS) or (
                n.op == "call_method" and n.target in {"add", "mul", "mean"}
            ):
                self._operator(out)
        return out

    def _module(self, module: nn.Module, inputs: Tensor, out: Tensor) -> None:
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            self._convolution(inputs, module.weight, module.bias, module.groups, out)
        elif isinstance(module, nn.ConvTranspose2d):
            self._convolution(inputs, module.weight, module.bias, module.groups, out, transposed=True)
        elif isinstance(module, nn.Linear):
            self._linear(module.weight, module.bias, out)
        elif isinstance(module, Int8Layer):
            bias = module.bias if module.own_bias else None  # a folded batch norm counts as nothing, in float too
            if isinstance(module, Int8Conv2d):
                self._convolution(inputs, module.weight, bias, module.groups, out)
            else:
                self._linear(module.weight, bias, out)
        elif isinstance(module, _POOLS):
            self._operator(out)

    def _function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> None:
        """A layer written as a function of its weights; torch's convolutions agree on the places of these arguments."""
        by_place = {_ARGUMENTS[i]: a for i, a in enumerate(args) if i in _ARGUMENTS}
        given = {"bias": None, "groups": 1, **by_place, **kwargs}
        if target is nn.functional.linear:
            self._linear(given["weight"], given["bias"], out)
        else:
            transposed = target is nn.functional.conv_transpose2d
            self._convolution(given["input"], given["weight"], given["bias"], given["groups"], out, transposed)

    def _convolution(
        self, inputs: Tensor, weight: Tensor, bias: Tensor | None, groups: int, out: Tensor, transposed: bool = False
    ) -> None:
        # a transposed convolution uses each weight once per *input* position
        positions = (inputs if transposed else out)[0, 0].numel()
        depthwise = groups > 1 and groups == inputs.shape[1]
        self.totals["depthwise_macs" if depthwise else "conv_macs"] += float(weight.numel() * positions)
        self._weights(weight, bias)
        self._operator(out)

    def _linear(self, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
        self.totals["linear_macs"] += float(weight.numel() * (out[0].numel() // weight.shape[0]))
        self._weights(weight, bias)
        self._operator(out)

    def _weights(self, weight: Tensor, bias: Tensor | None) -> None:
        self.totals["weight_elements"] += weight.numel() + (bias.numel() if bias is not None else 0)

    def _operator(self, out: Tensor) -> None:
        self.totals["activation_elements"] += float(out.numel() // max(1, out.shape[0]))
        self.totals["operators"] += 1


def stage_cost(module: nn.Module, shape: tuple[int, ...]) -> StageCost:
    """Work of a network for one input.

    Args:
        module: A traceable network in any mode; it is run once in evaluation mode and left as it was.
        shape: Shape of one input without the batch dimension.

    Returns:
        Counts for batch size 1.
    """
    with evaluation_mode(module), torch.inference_mode():  # traced as it will run: noise is for training
        # a lone layer would be traced into, down to the functions that it is made of
        graph = module if isinstance(module, fx.GraphModule) else fx.symbolic_trace(nn.Sequential(module))
        counter = _Counter(graph)
        device = next((p.device for p in graph.parameters()), None)
        counter.run(torch.zeros(1, *shape, device=device))
    totals: dict[str, Any] = dict(counter.totals)
    totals["operators"] = int(totals["operators"])
    return StageCost(**totals)
