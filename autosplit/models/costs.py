"""Counting the work of a network: multiply-accumulates by operator type, elements moved, operators launched.

The network runs once on one input, and every operator that torch dispatches meanwhile is looked at. So it makes no
difference whether an operation is written as a module, a function or a method, or hidden in a function of the user's.
Counted as an inference engine would run it:

- Convolutions and products of matrices count by their multiply-accumulates, those of attention included. Where both
  matrices depend on the input, the second one stands for the weight. Attention is two products and a softmax, however
  it is written.
- Whatever else reads and writes whole tensors (sums and products of two tensors, pooling, concatenation, layer norm,
  softmax) counts by the elements that it moves.
- Batch norm and padding by zeros are folded into the layer beside them, functions of single elements are fused with
  what comes before, reshaping and changing the layout in memory are free, and what does not depend on the input is
  computed beforehand. `not_counted` names these for a given network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import flop_registry

from autosplit.core.measurement import StageCost
from autosplit.core.operators import OperatorWork, TypeSums
from autosplit.models.dispatch import Watch, name_of, watched

__all__ = ["OperatorWork", "not_counted", "operators", "operators_by_node", "stage_cost"]

_FROM_INPUT = "_autosplit_from_input"  # on tensors: which of the works so far gave it, -1 for none of them
_CONVOLUTIONS = {"convolution", "_convolution", "cudnn_convolution", "convolution_overrideable"}
# where the two factors stand among the arguments, and what is added to the product
_PRODUCTS = {"mm": (0, 1, None), "addmm": (1, 2, 0), "bmm": (0, 1, None), "baddbmm": (1, 2, 0), "mv": (0, 1, None),
             "addmv": (1, 2, 0), "dot": (0, 1, None), "vdot": (0, 1, None), "_int_mm": (0, 1, None)}
_BATCH_NORMS = {"native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm", "_batch_norm_with_update",
                "_native_batch_norm_legit_no_training", "_batch_norm_no_update"}
_COPIES = {"clone", "_to_copy"}
_RESHAPING = {"_unsafe_view", "_reshape_alias", "lift_fresh", "unsafe_chunk", "unsafe_split", "unsafe_split_with_sizes"}
# functions of single elements that torch does not mark as such
_ACTIVATIONS = {"hardswish", "_prelu_kernel", "log_sigmoid_forward", "rsub", "rrelu_with_noise", "celu", "selu"}
_FUSED, _FOLDED, _FREE = "a function of single elements, fused", "folded into the layer beside it", "moves nothing"
_COPIED = "a change of layout or type, done by what reads it"


def operators(module: nn.Module, shape: tuple[int, ...]) -> list[OperatorWork]:
    """The operators of a network with their work for one input, in the order of execution.

    Args:
        module: As for `stage_cost`.
        shape: Shape of one input without the batch dimension.
    """
    return _counted(module, shape).works


def operators_by_node(graph: fx.GraphModule, shape: tuple[int, ...]) -> dict[fx.Node, tuple[OperatorWork, ...]]:
    """The same for a traced network, by its nodes; those that count as nothing are absent."""
    places: dict[fx.Node, slice] = {}
    with _counting(graph, shape) as (counter, image):

        class Recorder(fx.Interpreter):
            def run_node(self, n: fx.Node) -> Any:
                before = len(counter.works)
                out = super().run_node(n)
                places[n] = slice(before, len(counter.works))
                return out

        Recorder(graph).run(image)
    found = {node: tuple(counter.works[place]) for node, place in places.items()}
    return {node: works for node, works in found.items() if works}


def not_counted(module: nn.Module, shape: tuple[int, ...]) -> dict[str, str]:
    """The operators of a network that count as nothing, or not in full, by torch's name, each with the reason.

    Args:
        module: As for `stage_cost`.
        shape: Shape of one input without the batch dimension.
    """
    return _counted(module, shape).reasons


def stage_cost(module: nn.Module, shape: tuple[int, ...]) -> StageCost:
    """Work of a network for one input.

    Args:
        module: A network in any mode; it is run once in evaluation mode and left as it was.
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


def _counted(module: nn.Module, shape: tuple[int, ...]) -> _Counter:
    """What one run of a network brings."""
    with _counting(module, shape) as (counter, image):
        module(image)
    return counter


@contextmanager
def _counting(module: nn.Module, shape: tuple[int, ...]) -> Iterator[tuple[_Counter, Tensor]]:
    """What counts while it is entered, and the input to run the network on."""
    counter = _Counter()
    with watched(module, shape) as image, ExitStack() as stack:
        setattr(image, _FROM_INPUT, -1)
        for layer in module.modules():
            if hasattr(layer, "counts_as"):
                for handle in counter.stand_in(layer):
                    stack.callback(handle.remove)
        with counter:
            yield counter, image


class _Counter(Watch):
    """Notes what each operator costs that is dispatched while it is entered.

    Attributes:
        works: What was counted so far.
        reasons: Why operators count as nothing or not in full, by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.works: list[OperatorWork] = []
        self.reasons: dict[str, str] = {}
        self._inside = 0  # modules that stand for something else

    def stand_in(self, layer: nn.Module) -> Sequence[Any]:
        """Count a module as the layer of floats that it stands for (`counts_as`), whatever operators it runs."""

        def begin(*_: Any) -> None:
            self._inside += 1

        def end(module: Any, args: Sequence[Any], out: Any) -> None:
            self._inside -= 1
            if not self._inside and module.counts_as in {"conv", "linear"}:
                # a folded batch norm counts as nothing, in float too
                bias = module.bias if module.own_bias else None
                self._add(_convolution(args[0], module.weight, bias, out, groups=module.groups)
                          if module.counts_as == "conv" else _linear(args[0], module.weight, bias, out))

        return layer.register_forward_pre_hook(begin), layer.register_forward_hook(end)

    def see(self, func: Any, args: tuple[Any, ...], given: list[Tensor], results: list[Tensor]) -> None:
        """Note what an operator costs, unless it does not depend on the input."""
        moving = [t for t in given if hasattr(t, _FROM_INPUT)]
        if moving:
            constants = [t for t in given if not hasattr(t, _FROM_INPUT) and t.numel() > 1]
            owner = -1 if self._inside else self._note(func, args, moving, constants, results[0])
            for t in results:
                setattr(t, _FROM_INPUT, owner)

    def _add(self, *works: OperatorWork) -> int:
        self.works += works
        return len(self.works) - 1

    def _note(
        self, func: Any, args: tuple[Any, ...], moving: Sequence[Tensor], constants: Sequence[Tensor], out: Tensor
    ) -> int:
        """Count one operator; says which of the works gives its result."""
        name = name_of(func)
        owner = int(getattr(moving[0], _FROM_INPUT))
        if func.is_view or torch.Tag.inplace_view in func.tags or name in _RESHAPING | _COPIES:
            self.reasons[name] = _COPIED if name in _COPIES else _FREE
            return owner
        named = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False))
        if ((name in _BATCH_NORMS and not named.get("training"))
                or (name == "constant_pad_nd" and not named.get("value"))):
            self.reasons[name] = _FOLDED
            return -1
        if multiplying := _multiplying(func, name, args, constants, out):
            return self._add(*multiplying)
        if torch.Tag.pointwise in func.tags or name in _ACTIVATIONS:
            if (name == "add" and owner >= 0 and len(moving) == len(constants) == 1
                    and constants[0].shape == (self.works[owner].rows,)):
                self.works[owner] = replace(self.works[owner], bias=self.works[owner].bias + constants[0].numel())
                self.reasons["add of a bias"] = _FOLDED
                return owner
            if len(moving) == 1 and (not constants or name in _ACTIVATIONS):
                self.reasons[name] = _FUSED
                return -1
        if func.namespace != "aten":
            self.reasons[f"{func.namespace}::{name}"] = "its arithmetic is not known; what it moves is counted"
        return self._add(OperatorWork("other", bias=_parameters(constants), outputs=out.numel(),
                                      reads=sum(t.numel() for t in {id(t): t for t in moving}.values())))


def _multiplying(
    func: Any, name: str, args: tuple[Any, ...], constants: Sequence[Tensor], out: Tensor
) -> list[OperatorWork]:
    """What a convolution or a product of matrices consists of; nothing for other operators."""
    if name in _CONVOLUTIONS:
        return [_convolution(args[0], args[1], args[2], out, transposed=bool(args[6]), groups=args[8])]
    if name in _PRODUCTS:
        left, right, added = _PRODUCTS[name]
        return [_product(args[left], args[right], None if added is None else args[added], out)]
    if name.startswith("_scaled_dot_product"):
        return _attention(args[0], args[1], args[2], constants, out)
    if name == "mkldnn_rnn_layer":
        return _recurrent(args[0], args[1], args[2], constants, out)
    if func.overloadpacket in flop_registry:
        formula: Callable[..., int] = flop_registry[func.overloadpacket]
        return [OperatorWork("linear", 1, 1, 1, formula(*args, out_val=out) // 2, outputs=out.numel(),
                             reads=args[0].numel())]
    return []


def _parameters(constants: Sequence[Tensor]) -> int:
    return sum(t.numel() for t in constants if t.is_floating_point())


def _elements(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.numel()


def _convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, *, transposed: bool = False, groups: int = 1
) -> OperatorWork:
    """A convolution of any number of dimensions; a transposed one uses each weight once per *input* position."""
    inputs = x.shape[1]
    return OperatorWork(
        "depthwise" if groups > 1 and groups == inputs else "conv", weight.shape[0], weight.shape[1],
        weight[0, 0].numel(), (x if transposed else out)[0, 0].numel(), _elements(bias), out.numel(), groups, inputs,
        x.numel())


def _product(left: Tensor, right: Tensor, added: Tensor | None, out: Tensor) -> OperatorWork:
    """A product of matrices (M, K) (K, N), or of batches of them; the one that stays the same is the weight."""
    left = left if left.dim() > 1 else left[None]
    right = right if right.dim() > 1 else right[:, None]
    if not hasattr(left, _FROM_INPUT):
        left, right = right.mT, left.mT
    batch = left.shape[0] if left.dim() > 2 else 1
    bias = _elements(added) if added is not None and not hasattr(added, _FROM_INPUT) else 0
    return OperatorWork("linear", right.shape[-1], right.shape[-2], batch, left.shape[-2], bias, out.numel(),
                        reads=left.numel())


def _attention(
    query: Tensor, key: Tensor, value: Tensor, masks: Sequence[Tensor], out: Tensor
) -> list[OperatorWork]:
    """Attention as an engine without a kernel of its own runs it: two products, between them a mask and a softmax."""
    batch, length = query.shape[:-2].numel(), query.shape[-2]
    scores = batch * length * key.shape[-2]
    between = [OperatorWork("other", bias=sum(map(_elements, part)), outputs=scores, reads=scores)
               for part in ((masks, ()) if masks else ((),))]
    return [
        OperatorWork("linear", key.shape[-2], key.shape[-1], batch, length, outputs=scores, reads=query.numel()),
        *between,
        OperatorWork("linear", value.shape[-1], value.shape[-2], batch, length, outputs=out.numel(), reads=scores),
    ]


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> OperatorWork:
    """A layer that multiplies its last dimension by a weight."""
    rows, columns = weight.shape
    return OperatorWork("linear", rows, columns, 1, x.numel() // columns, _elements(bias), out.numel(),
                        reads=x.numel())


def _recurrent(
    x: Tensor, inner: Tensor, state: Tensor, constants: Sequence[Tensor], out: Tensor
) -> list[OperatorWork]:
    """A recurrent layer that runs as one operator: products of inputs and of states with their weights."""
    first = _linear(x, inner, None, out)
    bias = max(0, _parameters(constants) - inner.numel() - state.numel())
    return [first, OperatorWork("linear", state.shape[0], state.shape[1], 1, first.positions, bias, out.numel(),
                                reads=out.numel())]
