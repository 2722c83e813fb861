"""Counting the work of a network: multiply-accumulates by operator type, elements moved, operators launched.

Counted as an inference engine would run it: batch norm is folded into the convolution before it, activations,
dropout and reshaping are fused or free; convolutions, linear layers, pooling and the joining of tensors count.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from autosplit.plan import StageCost

__all__ = ["stage_cost"]

_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_JOINS = {operator.add, operator.iadd, operator.mul, operator.imul, torch.add, torch.mul, torch.cat,
          nn.functional.adaptive_avg_pool2d, nn.functional.max_pool2d, nn.functional.avg_pool2d,
          nn.functional.interpolate}


class _Counter(fx.Interpreter):
    """Runs a graph once and adds up what each node costs."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.totals = dict.fromkeys(StageCost.model_fields, 0.0)

    def run_node(self, n: fx.Node) -> Any:
        out = super().run_node(n)
        if isinstance(out, Tensor):
            if n.op == "call_module":
                self._module(self.fetch_attr(str(n.target)), out)
            elif (n.op == "call_function" and n.target in _JOINS) or (
                n.op == "call_method" and n.target in {"add", "mul", "mean"}
            ):
                self._operator(out)
        return out

    def _module(self, module: nn.Module, out: Tensor) -> None:
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)):
            # a transposed convolution uses each weight once per *input* position
            positions = out[0, 0].numel()
            if isinstance(module, nn.ConvTranspose2d):
                positions //= int(module.stride[0]) * int(module.stride[1])
            macs = float(module.weight.numel() * positions)
            depthwise = module.groups > 1 and module.groups == module.in_channels
            self.totals["depthwise_macs" if depthwise else "conv_macs"] += macs
        elif isinstance(module, nn.Linear):
            self.totals["linear_macs"] += float(module.weight.numel() * (out[0].numel() // module.out_features))
        elif not isinstance(module, _POOLS):
            return
        self.totals["weight_elements"] += sum(p.numel() for p in module.parameters())
        self._operator(out)

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
    graph = module if isinstance(module, fx.GraphModule) else fx.symbolic_trace(module)
    was_training = graph.training
    graph.eval()
    counter = _Counter(graph)
    device = next((p.device for p in graph.parameters()), None)
    with torch.inference_mode():
        counter.run(torch.zeros(1, *shape, device=device))
    graph.train(was_training)
    totals: dict[str, Any] = dict(counter.totals)
    totals["operators"] = int(totals["operators"])
    return StageCost(**totals)
