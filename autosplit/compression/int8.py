"""A network in the arithmetic of an int8 device: post-training quantisation on a `torch.fx` graph.

Weights are symmetric int8 with one scale an output channel, activations affine 8 bit with one scale a tensor, biases
int32 of scale input x weight, as in Jacob et al. 2018 (arXiv 1712.05877) and Nagel et al. 2021 (arXiv 2106.08295).
Batch norm is folded into the layer before it, clamping activations into the rounding after it, and other activations
become tables of 256 entries. An operation that is not known here computes in float32 between two roundings.

**Why the result does not depend on batch size, threads, memory layout or machine.** Tensors between operations hold
`level * scale` with |level| <= 255, so `round(x / scale)` gives the level back without error. A layer multiplies
integers in float32, where every sum below 2**24 is exact in whatever order it is taken. Where the weights are such
that a sum could exceed that (255 times the absolute weights of an output channel), it is taken in pieces that cannot,
which are added in a fixed order; grouped convolutions are not split, they are surely exact up to 518 products a value.
Averages add up in float64, exact below 2**20 values. What remains is elementwise. All this needs convolutions that sum
products in float32, as torch's do on a CPU, not Winograd's transform; and it does not hold for unknown operations.
"""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from autosplit.compression.int8_layers import (
    LEVELS,
    MIN_SCALE,
    ChannelAffine,
    Int8Conv2d,
    Int8Linear,
    Lookup,
    Requantise,
)
from autosplit.core.errors import ConfigError
from autosplit.models.calls import SEVERAL
from autosplit.models.tracing import as_graph

__all__ = ["FloatGraph", "RangeObserver", "as_function", "int8_structure", "place_observers", "quantise_int8"]

_BINS = 8192  # of a histogram of values: fine enough that a range can be chosen from it
_CLIPS = tuple(i / 20 for i in range(20, 5, -1))  # shares of the range seen that are tried

# --- ranges ---------------------------------------------------------------------------------------------------------


class RangeObserver(nn.Module):
    """Stands where values will be requantised, lets them pass, and keeps a histogram of them.

    Args:
        name: Of the operation whose values it sees, for errors.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.limit, self.low, self.high = name, 0.0, 0.0, 0.0
        self.counts = torch.zeros(_BINS, dtype=torch.float64)

    def forward(self, x: Any) -> Any:
        """Count the values of a floating-point tensor, and give it back.

        Raises:
            ConfigError: Values that are NaN or infinite.
        """
        if isinstance(x, Tensor) and x.is_floating_point() and x.numel():
            low, high = (float(v) for v in torch.aminmax(x))
            if not (math.isfinite(low) and math.isfinite(high)):
                raise ConfigError(f"calibration for int8 met NaN or infinite values at {self.name!r}; "
                                  "check the images and the weights of the network")
            self.low, self.high = min(self.low, low), max(self.high, high)
            if self.high > self.low:
                bound = max(-self.low, self.high)
                if self.limit == 0.0:
                    self.limit = 2.0 ** math.ceil(math.log2(bound))
                # grows by doubling, two bins into one: the histogram does not depend on the order of the batches
                while self.limit < bound:
                    merged, quarter = self.counts.view(-1, 2).sum(1), _BINS // 4
                    self.counts = F.pad(merged, (quarter, quarter))
                    self.limit *= 2.0
                self.counts += torch.histc(x.to("cpu", torch.float32), _BINS, -self.limit, self.limit)
        return x

    def requantisation(self) -> Requantise:
        """The range of least squared error, each end moved inwards in turn (Nagel et al. 2021, section 3.1).

        Against the full range this gains 2 dB at the code of the reference deployment, and 2.5 dB at the logits of
        ResNet-8 where one image in a thousand has six times the contrast; without such an image it loses 1 dB there.
        """
        values = (torch.arange(_BINS, dtype=torch.float64) + 0.5) * (2.0 * self.limit / _BINS) - self.limit

        def best(lows: Tensor, highs: Tensor) -> Tensor:
            """Number of the range with the least squared error, summed over the values seen."""
            scale, zero = _scale_and_zero(lows.view(-1, 1), highs.view(-1, 1))
            rounded = torch.round(values / scale).clamp_(-zero, LEVELS - 1 - zero).mul_(scale)
            return (rounded.sub_(values).square_() @ self.counts).argmin()

        clips = torch.tensor(_CLIPS, dtype=torch.float64)
        lows, highs = self.low * clips, self.high * clips
        low, high = lows[0], highs[0]
        for _ in range(2):
            high = highs[best(low, highs)]
            low = lows[best(lows, high)]
        scale, zero = _scale_and_zero(low, high)
        return Requantise(float(scale), int(zero))


def _scale_and_zero(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Requantisation parameters for the range from `low` <= 0 to `high` >= 0, moved so that zero is a level.

    Zero must be exact: paddings are zeros, and so is most of what comes out of a ReLU.
    """
    scale = torch.where(high > low, ((high - low) / (LEVELS - 1)).clamp_min(MIN_SCALE), 1.0)
    return scale, torch.round(-low / scale).clamp(0, LEVELS - 1)


# --- what each node of a graph is -----------------------------------------------------------------------------------

_MODULES: dict[str, tuple[type[nn.Module], ...]] = {
    "identity": (nn.Identity, nn.modules.dropout._DropoutNd),
    "layer": (nn.Conv2d, nn.Linear),
    "norm": (nn.modules.batchnorm._BatchNorm,),
    "relu": (nn.ReLU,),
    "clamp": (nn.Hardtanh,),
    "average": (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.modules.pooling._AdaptiveAvgPoolNd),
    "keep": (nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd, nn.Flatten, nn.Unflatten,
             nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.PixelShuffle, nn.PixelUnshuffle,
             nn.ChannelShuffle, nn.UpsamplingNearest2d),
    "lookup": (nn.SiLU, nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid, nn.GELU, nn.ELU, nn.LeakyReLU, nn.Tanh, nn.Mish,
               nn.Softplus, nn.SELU, nn.CELU, nn.Softsign),
}
# functions of torch and torch.nn.functional, and methods of tensors, by name
_CALLS: dict[str, set[str]] = {
    "identity": {"dropout", "dropout2d", "stochastic_depth", "detach"},
    "relu": {"relu"},
    "clamp": {"relu6", "hardtanh", "clamp", "clip", "clamp_min", "clamp_max"},
    "average": {"avg_pool2d", "adaptive_avg_pool2d", "mean", "sum"},
    "keep": {"max_pool2d", "adaptive_max_pool2d", "flatten", "unflatten", "view", "reshape", "squeeze", "unsqueeze",
             "transpose", "permute", "chunk", "split", "unbind", "narrow", "expand", "getitem", "roll", "movedim",
             "channel_shuffle", "pixel_shuffle", "contiguous", "clone"},
    "lookup": {"silu", "sigmoid", "hardswish", "hardsigmoid", "gelu", "elu", "leaky_relu", "tanh", "mish", "softplus",
               "selu", "exp"},
    "size": {"size", "dim", "numel", "getattr", "ndimension"},
    # constants of a feature's type, and truths and numbers of places: no values to round
    "constant": {"new_zeros", "new_ones", "new_full", "new_empty", "new_tensor", "zeros_like", "ones_like", "full_like",
                 "empty_like", "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_not",
                 "logical_xor", "isnan", "isinf", "isfinite", "argmax", "argmin", "argsort", "bool", "long", "int"},
}


def _kind(node: fx.Node, modules: dict[str, Any]) -> str:
    """What an operation does to quantised values: a key of the tables above, `other` where it is in none."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        plain = not isinstance(module, nn.Conv2d) or module.padding_mode == "zeros"
        return next((k for k, types in _MODULES.items() if isinstance(module, types) and plain), "other")
    if node.op not in {"call_method", "call_function"}:
        return node.op
    function: Any = node.target
    name = str(function).rstrip("_") if node.op == "call_method" else getattr(function, "__name__", "")
    if node.op == "call_function" and not str(getattr(function, "__module__", "")).startswith("torchvision."):
        # a function of the user's own may be called `relu` too: it must be the one of torch or Python
        known = any(getattr(home, name, None) is function for home in (torch, F, operator, builtins))
        name = name if known else ""
    if name == "pad":  # with zeros it keeps to the levels, with any other value it may not
        return "other" if node.kwargs.get("value", node.args[3] if len(node.args) > 3 else None) else "keep"
    kind = next((k for k, names in _CALLS.items() if name in names), "other")
    return "other" if kind in {"clamp", "lookup"} and len(node.all_input_nodes) > 1 else kind


class FloatGraph:
    """The network to be quantised as a flat graph whose every node has a module of its own.

    Args:
        module: Any network that `torch.fx` can trace, with one input; it is left as it was.

    Attributes:
        graph: Batch norms folded, operations without effect left out.
        modules: By target of the graph.
    """

    def __init__(self, module: nn.Module) -> None:
        lone = type(module).__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential)
        traced = as_graph(nn.Sequential(module) if lone else module).eval()  # a lone layer would be traced into
        self.graph = traced.graph
        self.modules: dict[str, Any] = {}
        # a module that is called twice sees two ranges: each call becomes a module of its own, named as its node
        for node in self.graph.nodes:
            if node.op == "call_module":
                layer = traced.get_submodule(str(node.target))
                node.meta["own_bias"] = getattr(layer, "bias", None) is not None
                self.modules[node.name], node.target = layer.requires_grad_(False), node.name
            elif node.op == "get_attr":
                path, _, name = str(node.target).rpartition(".")
                value = getattr(traced.get_submodule(path), name)
                self.modules[node.name] = value.detach() if isinstance(value, Tensor) else value
                node.target = node.name
        for node in list(self.graph.nodes):
            if _kind(node, self.modules) == "identity":
                node.replace_all_uses_with(node.all_input_nodes[0])
                self.graph.erase_node(node)
        for node in list(self.graph.nodes):
            if _kind(node, self.modules) == "norm":
                self._fold(node)

    def _fold(self, node: fx.Node) -> None:
        """Fold a batch norm into the layer before it, also through average pooling, which commutes with it."""
        norm, source = self.modules[node.name], node.all_input_nodes[0]
        while len(source.users) == 1:
            pool = self.modules.get(source.name)
            # an average of as many values everywhere, none of them padding
            if not isinstance(pool, nn.AdaptiveAvgPool2d) and not (
                    isinstance(pool, nn.AvgPool2d) and pool.padding in (0, (0, 0)) and not pool.divisor_override):
                break
            source = source.all_input_nodes[0]
        layer: Any = self.modules.get(source.name)
        fits = (isinstance(norm, nn.BatchNorm2d) and isinstance(layer, nn.Conv2d)) or (
            isinstance(norm, nn.BatchNorm1d) and isinstance(layer, nn.Linear) and source is node.all_input_nodes[0])
        if norm.running_mean is None:
            return  # takes the statistics of each batch
        if fits and len(source.users) == 1 and len(norm.running_mean) == len(layer.weight):
            fuse: Any = fuse_conv_bn_eval if isinstance(layer, nn.Conv2d) else fuse_linear_bn_eval
            self.modules[source.name] = fuse(layer, norm).requires_grad_(False)
            node.replace_all_uses_with(node.all_input_nodes[0])
            self.graph.erase_node(node)
        else:
            self.modules[node.name] = ChannelAffine(norm)

    def build(self) -> fx.GraphModule:
        """The network that graph and modules make up now, in evaluation mode."""
        result = fx.GraphModule(self.modules, self.graph, class_name="Int8")
        result.graph.lint()
        result.requires_grad_(False)
        return result.eval()


def place_observers(net: FloatGraph) -> None:
    """Put an observer wherever values are to be requantised, by structure alone.

    A value is rounded right after the operation that made it, except where only a clamp follows, and at the end. The
    names of these places are part of the state dicts of stored deployments.

    Args:
        net: Changed in place.
    """
    graph, modules = net.graph, net.modules
    # values that leave the network without a further operation but clamping and reshaping stay real
    final: set[fx.Node] = set()
    stack = next(n for n in graph.nodes if n.op == "output").all_input_nodes
    while stack:
        node = stack.pop()
        if len(node.users) == 1:
            final.add(node)
            if _kind(node, modules) in {"keep", "relu", "clamp"}:
                stack.append(node.all_input_nodes[0])
    rounded_by: dict[fx.Node, str] = {}  # name of the observer that stands where a value was rounded
    tensors: set[fx.Node] = set()  # values that are, or may be, features
    for node in list(graph.nodes):
        kind = _kind(node, modules)
        inputs = [n for n in node.all_input_nodes if n in tensors]
        if kind in {"output", "size", "constant"} or not (inputs or kind == "placeholder"):
            continue
        given = rounded_by.get(inputs[0]) if inputs else None
        tensors.add(node)
        if kind in {"keep", "relu"} and given is not None:  # their values are levels already
            rounded_by[node] = given
            continue
        if node.meta.get(SEVERAL):  # each of what it gives is rounded when it is taken out
            continue
        value = node
        if kind == "average":  # in float64, where a sum of levels is exact in whatever order it is taken
            with graph.inserting_before(node):
                node.replace_input_with(inputs[0], graph.call_method("double", (inputs[0],)))
            with graph.inserting_after(node):
                value = graph.call_method("float", (node,))
            node.replace_all_uses_with(value, delete_user_cb=lambda user, value=value: user is not value)
            tensors.add(value)
        clamped = len(value.users) == 1 and _kind(next(iter(value.users)), modules) in {"relu", "clamp"}
        rounded = node not in final and not clamped
        if kind == "layer" or (kind in {"lookup", "clamp"} and rounded):
            node.meta["input_rounded_by"] = given
        if rounded:
            name = f"{value.name}_grid"
            with graph.inserting_after(value):
                observer = graph.create_node("call_module", name, (value,), name=name)
            observer.target = observer.name  # the graph makes names unique
            modules[observer.name] = RangeObserver(value.name)
            value.replace_all_uses_with(observer, delete_user_cb=lambda user, observer=observer: user is not observer)
            rounded_by[observer] = observer.name
            tensors.add(observer)


# --- the pass -------------------------------------------------------------------------------------------------------


def quantise_int8(module: nn.Module, batches: Iterable[Tensor]) -> fx.GraphModule:
    """The int8 version of a network in evaluation mode.

    The input is rounded to 8 bits too; the output is real, for the quantiser of a code or an argmax that follows.
    For `autosplit.models.costs.stage_cost` the work is that of the float network.

    Args:
        module: Any network that `torch.fx` can trace, with one input; it is left as it was.
        batches: Images (N, C, H, W) as the network gets them, normalised; a few hundred are enough. Read once.

    Returns:
        An independent network whose convolutions and linear layers have int8 buffers for weights. Only what stays in
        float32 has parameters, none of which requires a gradient.

    Raises:
        TraceError: `torch.fx` cannot trace it.
        ConfigError: No batches, or values that are NaN or infinite.
    """
    with torch.inference_mode(False), torch.no_grad():
        net = FloatGraph(module)
        place_observers(net)
        observed, images = net.build(), 0
        for batch in batches:
            if not batch.is_floating_point():
                raise ConfigError(f"calibration for int8 takes normalised images in floating point, got {batch.dtype}")
            images += len(batch)
            if len(batch):
                observed(batch)
        if not images:
            raise ConfigError("calibration for int8 got no images; give at least one batch")
        return _convert(net, {n: m.requantisation() for n, m in net.modules.items() if isinstance(m, RangeObserver)})


def int8_structure(module: nn.Module) -> fx.GraphModule:
    """A network with the state dict of `quantise_int8(module, ...)`, its buffers of no meaning.

    Args:
        module: A network of the same structure; its weights do not matter.

    Raises:
        TraceError: `torch.fx` cannot trace it.
    """
    with torch.inference_mode(False), torch.no_grad():
        net = FloatGraph(module)
        place_observers(net)
        blanks = {name: Requantise() for name, m in net.modules.items() if isinstance(m, RangeObserver)}
        return _convert(net, blanks, blank=True)


def _convert(net: FloatGraph, parameters: dict[str, Requantise], blank: bool = False) -> fx.GraphModule:
    """Put integer operations where float ones are, and requantisation where its observers stand."""
    net.modules.update(parameters)
    for node in list(net.graph.nodes):
        given = parameters.get(node.meta.get("input_rounded_by") or "")
        if given is None:
            continue
        if _kind(node, net.modules) == "layer":
            layer = net.modules[node.name]
            if not blank and not all(bool(torch.isfinite(p).all()) for p in layer.parameters()):
                raise ConfigError(f"layer {node.name!r} has weights that are NaN or infinite; train the network again")
            kind = Int8Conv2d if isinstance(layer, nn.Conv2d) else Int8Linear
            net.modules[node.name] = kind(layer, node.meta["own_bias"])
            if not blank:
                net.modules[node.name].fill(layer.weight, layer.bias, float(given.scale))
        else:  # 256 levels in, 256 levels out: the function and the rounding that follows become one table
            after = next(iter(node.users))
            after.args = tuple(node.all_input_nodes)
            net.modules[after.name] = Lookup(as_function(node, net.modules), given, parameters[after.name])
            net.graph.erase_node(node)
    return net.build()


def as_function(node: fx.Node, modules: Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
    """The operation of a node as a function of its one tensor.

    Args:
        node: Of a quantised graph, or one on the way there.
        modules: By name of the node.
    """
    def call(x: Tensor) -> Tensor:
        args = fx.node.map_arg(node.args, lambda _: x)
        kwargs = fx.node.map_arg(node.kwargs, lambda _: x)
        if node.op == "call_module":
            return modules[node.name](*args, **kwargs)  # type: ignore[no-any-return]
        function = getattr(Tensor, str(node.target)) if node.op == "call_method" else node.target
        return function(*args, **kwargs)  # type: ignore[no-any-return, operator]

    return call
