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


_FUNCTIONS = {nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d, nn.functional.conv_transpose2d,
              nn.functional.linear}
_ARGUMENTS = {0: "input", 1: "weight", 2: "bias", 6: "groups"}


class _Recorder(fx.Interpreter):
    """Runs a graph once and notes what each node costs."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: dict[fx.Node, OperatorWork] = {}

    def run_node(self, n: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        self._node = n
        read = (self.env[i] for i in n.all_input_nodes if i.op != "get_attr")
        self._reads = sum(_outputs(t) for t in read if isinstance(t, Tensor))
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

    def _module(self, module: Any, inputs: Tensor, out: Tensor) -> None:
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            self._convolution(inputs, module.weight, module.bias, module.groups, out)
        elif isinstance(module, nn.ConvTranspose2d):
            self._convolution(inputs, module.weight, module.bias, module.groups, out, transposed=True)
        elif isinstance(module, nn.Linear):
            self._linear(module.weight, module.bias, out)
        elif hasattr(module, "counts_as"):  # a quantised layer says which layer of floats it stands for
            bias = module.bias if module.own_bias else None  # a folded batch norm counts as nothing, in float too
            if module.counts_as == "conv":
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
        self.found[self._node] = OperatorWork(
            "depthwise" if depthwise else "conv", weight.shape[0], weight.shape[1], weight[0, 0].numel(), positions,
            bias=_elements(bias), outputs=_outputs(out), groups=groups, inputs=inputs.shape[1], reads=self._reads)

    def _linear(self, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
        self.found[self._node] = OperatorWork(
            "linear", weight.shape[0], weight.shape[1], 1, out[0].numel() // weight.shape[0], bias=_elements(bias),
            outputs=_outputs(out), reads=self._reads)

    def _operator(self, out: Tensor) -> None:
        self.found[self._node] = OperatorWork("other", outputs=_outputs(out), reads=self._reads)


def _elements(bias: Tensor | None) -> int:
    return 0 if bias is None else bias.numel()


def _outputs(out: Tensor) -> int:
    return out.numel() // max(1, out.shape[0])


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
