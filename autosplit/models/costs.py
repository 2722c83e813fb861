"""Counting the work of a network: multiply-accumulates by operator type, elements moved, operators launched.

Counted as an inference engine would run it: batch norm is folded into the convolution before it, activations,
dropout and reshaping are fused or free; convolutions, linear layers, pooling and the joining of tensors count.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from autosplit.core.operators import OperatorWork, TypeSums
from autosplit.core.plan import StageCost
from autosplit.models.inference import evaluation_mode

__all__ = ["OperatorWork", "operators", "operators_by_node", "stage_cost"]

_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample)
_JOINS = {operator.add, operator.iadd, operator.mul, operator.imul, torch.add, torch.mul, torch.cat,
          nn.functional.adaptive_avg_pool2d, nn.functional.max_pool2d, nn.functional.avg_pool2d,
          nn.functional.interpolate}


_FUNCTIONS = {nn.functional.conv1d: "conv", nn.functional.conv2d: "conv", nn.functional.conv3d: "conv",
              nn.functional.conv_transpose2d: "transposed", nn.functional.linear: "linear"}
_MODULES = {nn.Conv1d: "conv", nn.Conv2d: "conv", nn.Conv3d: "conv", nn.ConvTranspose2d: "transposed",
            nn.Linear: "linear"}
_ARGUMENTS = {0: "input", 1: "weight", 2: "bias", 6: "groups"}  # on these places torch's functions agree


class _Recorder(fx.Interpreter):
    """Runs a graph once and notes what each node costs."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: dict[fx.Node, OperatorWork] = {}

    def run_node(self, n: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        read = [self.env[i] for i in n.all_input_nodes if i.op != "get_attr"]  # here, as the run frees what is used up
        out = super().run_node(n)
        if not isinstance(out, Tensor):
            return out
        moved = {"outputs": _for_one(out), "reads": sum(_for_one(t) for t in read if isinstance(t, Tensor))}
        layer = self._layer(n, args, kwargs)
        if layer is None:
            counted: Any = {"call_function": _JOINS, "call_method": {"add", "mul", "mean"}}.get(n.op, ())
            if n.target in counted or (n.op == "call_module" and isinstance(self.fetch_attr(str(n.target)), _POOLS)):
                self.found[n] = OperatorWork("other", **moved)
            return out
        kind, given = layer
        weight, bias = given["weight"], given["bias"]
        rows, columns, elements = weight.shape[0], weight.shape[1], 0 if bias is None else bias.numel()
        if kind == "linear":
            self.found[n] = OperatorWork("linear", rows, columns, 1, out[0].numel() // rows, bias=elements, **moved)
        else:
            # a transposed convolution uses each weight once per *input* position
            positions = (given["input"] if kind == "transposed" else out)[0, 0].numel()
            groups, inputs = given["groups"], given["input"].shape[1]
            self.found[n] = OperatorWork(
                "depthwise" if groups > 1 and groups == inputs else "conv", rows, columns, weight[0, 0].numel(),
                positions, bias=elements, groups=groups, inputs=inputs, **moved)
        return out

    def _layer(self, n: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
        """Kind, input, weight, bias and groups of a layer, be it a module or a function; `None` for anything else."""
        if n.op == "call_function" and n.target in _FUNCTIONS:
            by_place = {_ARGUMENTS[i]: a for i, a in enumerate(args) if i in _ARGUMENTS}
            return _FUNCTIONS[n.target], {"bias": None, "groups": 1, **by_place, **kwargs}
        if n.op != "call_module":
            return None
        module: Any = self.fetch_attr(str(n.target))
        kind = next((kind for layer, kind in _MODULES.items() if isinstance(module, layer)), None)
        kind = kind or getattr(module, "counts_as", None)  # a quantised layer says which layer of floats it stands for
        if kind is None:
            return None
        # a folded batch norm counts as nothing, in float too
        bias = module.bias if getattr(module, "own_bias", True) else None
        return kind, {"input": next(iter((*args, *kwargs.values()))), "weight": module.weight, "bias": bias,
                      "groups": getattr(module, "groups", 1)}


def _for_one(tensor: Tensor) -> int:
    """Elements of a batch's tensor for one input; a number without dimensions is no batch."""
    return tensor.numel() // max(1, tensor.shape[0] if tensor.dim() else 1)


def operators(module: nn.Module, shape: tuple[int, ...]) -> list[OperatorWork]:
    """The operators of a network with their work for one input, in the order of execution.

    Args:
        module: As for `stage_cost`.
        shape: Shape of one input without the batch dimension.
    """
    with evaluation_mode(module):  # traced as it will run: noise is for training
        # a lone layer would be traced into, down to the functions that it is made of
        graph = module if isinstance(module, fx.GraphModule) else fx.symbolic_trace(nn.Sequential(module))
        return list(operators_by_node(graph, shape).values())


def operators_by_node(graph: fx.GraphModule, shape: tuple[int, ...]) -> dict[fx.Node, OperatorWork]:
    """The same for a traced network, by its nodes; those that count as nothing are absent."""
    with evaluation_mode(graph), torch.inference_mode():
        recorder = _Recorder(graph)
        device = next((p.device for p in graph.parameters()), None)
        recorder.run(torch.zeros(1, *shape, device=device))
    return recorder.found


def stage_cost(module: nn.Module, shape: tuple[int, ...]) -> StageCost:
    """Work of a network for one input.

    Args:
        module: A traceable network in any mode; it is run once in evaluation mode and left as it was.
        shape: Shape of one input without the batch dimension.

    Returns:
        Counts for batch size 1.
    """
    found = operators(module, shape)
    macs = {kind: float(sum(w.macs for w in found if w.kind == kind)) for kind in ("conv", "depthwise", "linear")}
    return StageCost(
        conv_macs=macs["conv"], depthwise_macs=macs["depthwise"], linear_macs=macs["linear"],
        weight_elements=float(sum(w.weights for w in found)),
        activation_elements=float(sum(w.outputs for w in found)), operators=len(found),
        by_type=TypeSums.of(found) if found else None)
