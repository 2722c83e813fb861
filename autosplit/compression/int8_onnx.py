"""Int8 networks in a form that torch exports to ONNX with integer arithmetic: QuantizeLinear, ConvInteger.

Requantisation and layers are operators of their own, one node each (`autosplit.compression.integer_operators`).

`autosplit.compression.int8` computes with integers in float32; here the same numbers are integers. Requantisation
becomes QuantizeLinear and DequantizeLinear, a layer ConvInteger or MatMulInteger with an int32 bias and one
multiplication by its scale, so that every sum is exact whatever engine takes it, and what follows is elementwise in the
same order: the codes are equal, not merely close. QLinearConv, which engines make of
quantise-dequantise pairs, multiplies by one rounded factor instead of multiplying and dividing, and now and then gives
the level beside.

Weights are stored as uint8 around 128: engines on processors without VNNI add pairs of products of uint8 and int8 in
16 bits, which overflows; pairs of uint8 they add in 32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from autosplit.compression.int8 import as_function
from autosplit.compression.int8_layers import Int8Conv2d, Int8Layer, Int8Linear, Requantise
from autosplit.compression.integer_operators import OPERATORS, WEIGHT_ZERO
from autosplit.core.errors import ConfigError
from autosplit.models.splitting import float_shapes

__all__ = ["IntegerConv", "IntegerLayer", "integer_form"]

_INTEGER = (Requantise, Int8Layer)
_WINDOWS = {"avg_pool2d", "adaptive_avg_pool2d", "AvgPool2d", "AdaptiveAvgPool2d"}


def integer_form(network: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """A copy of an int8 network for `torch.onnx.export`; it does not compute outside of it.

    Args:
        network: As of `autosplit.compression.int8.quantise_int8`; any other module is given back as it is.
        shape: Of an input without the batch dimension.
    """
    if not isinstance(network, fx.GraphModule) or not any(isinstance(m, _INTEGER) for m in network.modules()):
        return network
    return _Form(network, shape).build()


class _Form:
    """One network on its way to the integer form.

    Args:
        network: The int8 network.
        shape: Of an input without the batch dimension.
    """

    def __init__(self, network: fx.GraphModule, shape: tuple[int, ...]) -> None:
        self.network, self.graph = network, fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        self.graph.output(self.graph.graph_copy(network.graph, copies))
        self.sizes = {copies[n]: size for n, size in float_shapes(network, shape).items() if n in copies}
        self.modules: dict[str, nn.Module] = {}
        self.levels: dict[fx.Node, fx.Node] = {}  # uint8 of what was requantised, by its real values

    def build(self) -> fx.GraphModule:
        """The network in integer form."""
        for node in list(self.graph.nodes):
            module = self._module(node)
            if type(module) is Requantise:
                self._split(node, module)
            elif isinstance(module, Int8Layer):
                self._use_levels(node, module)
            elif self._is_window(node):
                (source,), name = node.all_input_nodes, f"{node.name}_windows"
                self.modules[name] = _Windows(as_function(node, {node.name: module}), self.sizes[source])
                node.op, node.target, node.args, node.kwargs = "call_module", name, (source,), {}
        attributes = {}
        for target in {str(n.target) for n in self.network.graph.nodes if n.op == "get_attr"}:
            path, _, name = target.rpartition(".")
            attributes[target] = getattr(self.network.get_submodule(path), name)
        parts = {**dict(self.network.named_modules(remove_duplicate=False)), **attributes, **self.modules}
        result = fx.GraphModule(parts, self.graph)
        result.graph.eliminate_dead_code()
        result.recompile()
        return result.eval()

    def _module(self, node: fx.Node) -> nn.Module | None:
        if node.op != "call_module":
            return None
        name = str(node.target)
        return self.modules.get(name) or self.network.get_submodule(name)

    def _split(self, node: fx.Node, given: Requantise) -> None:
        """Make two nodes of a requantisation: to levels, and back to real values."""
        name = str(node.target)
        self.modules[f"{name}_levels"], self.modules[f"{name}_values"] = _Quantise(given), _Dequantise(given)
        with self.graph.inserting_after(node):
            rounded = self.graph.create_node("call_module", f"{name}_levels", node.args)
        with self.graph.inserting_after(rounded):
            values = self.graph.create_node("call_module", f"{name}_values", (rounded,))
        node.replace_all_uses_with(values)
        self.graph.erase_node(node)
        self.levels[values] = rounded

    def _use_levels(self, node: fx.Node, layer: Int8Layer) -> None:
        """Feed a layer with levels: those right before it, else its input's, rounded anew without error."""
        name, source = str(node.target), node.all_input_nodes[0]
        given = self._given(source)
        if source not in self.levels:
            self.modules[f"{name}_levels"] = _Quantise(given)
            with self.graph.inserting_before(node):
                self.levels[source] = self.graph.create_node("call_module", f"{name}_levels", (source,))
        self.modules[name] = (IntegerConv if isinstance(layer, Int8Conv2d) else _IntegerLinear)(layer, given)
        node.args, node.kwargs = (self.levels[source],), {}

    def _given(self, node: fx.Node) -> Requantise:
        """How a layer's input was requantised: only operations that keep to its levels stand between."""
        found = self._module(node)
        if isinstance(found, _Dequantise):
            return found.source
        if isinstance(found, Requantise):
            return found
        if not node.all_input_nodes:
            raise ConfigError(f"the int8 network rounds nothing before {node.name!r}; quantise it again")
        return self._given(node.all_input_nodes[0])

    def _is_window(self, node: fx.Node) -> bool:
        """Whether this averages over windows in float64, for which engines have no operator."""
        module = self._module(node)
        name = getattr(node.target, "__name__", "") if module is None else type(module).__name__
        if name not in _WINDOWS or node.all_input_nodes[0].target != "double":
            return False
        return not (name.lower().startswith("adaptive") and self.sizes[node][-2:] == (1, 1))  # that one is a plain mean


class _Quantise(nn.Module):
    """Requantisation up to the levels.

    Args:
        source: Its parameters.
    """

    def __init__(self, source: Requantise) -> None:
        super().__init__()
        self.source, self.scale, self.zero = source, float(source.scale), int(source.zero)

    def forward(self, x: Tensor) -> Tensor:
        """Real values -> levels, uint8."""
        found: Tensor = OPERATORS.quantise(x, self.scale, self.zero)
        return found


class _Dequantise(_Quantise):
    """From the levels back."""

    def forward(self, x: Tensor) -> Tensor:
        """Levels -> real values, float32."""
        found: Tensor = OPERATORS.dequantise(x, self.scale, self.zero)
        return found


class IntegerLayer(nn.Module):
    """Weights, bias and scale of an int8 layer.

    Args:
        layer: The layer.
        given: How its input was requantised.
    """

    weight: Tensor
    bias: Tensor
    scale: Tensor

    def __init__(self, layer: Int8Layer, given: Requantise) -> None:
        super().__init__()
        weight = (layer.weight.to(torch.int32) + WEIGHT_ZERO).to(torch.uint8)
        self.register_buffer("weight", weight.contiguous())
        self.register_buffer("bias", layer.bias.detach().clone())
        self.register_buffer("scale", (layer.in_scale * layer.scale).detach().clone())
        self.input_zero = int(given.zero)


class IntegerConv(IntegerLayer):
    """A convolution of levels."""

    def __init__(self, layer: Int8Layer, given: Requantise) -> None:
        assert isinstance(layer, Int8Conv2d)
        super().__init__(layer, given)
        self.stride, self.dilation, self.groups = list(layer.stride), list(layer.dilation), layer.groups
        self.begin, self.end = [0, 0], [0, 0]  # zeros before and behind each of the two dimensions
        if layer.padding == "same":
            total = [d * (k - 1) for d, k in zip(layer.dilation, layer.weight.shape[2:], strict=True)]
            self.begin, self.end = [n // 2 for n in total], [n - n // 2 for n in total]  # the odd one behind
        elif not isinstance(layer.padding, str):
            self.begin = self.end = [int(p) for p in layer.padding]
        self.bias.data, self.scale.data = self.bias.view(-1, 1, 1), self.scale.view(-1, 1, 1)

    def forward(self, levels: Tensor) -> Tensor:
        """Levels (N, C, H, W) -> real values, not rounded yet."""
        found: Tensor = OPERATORS.integer_conv(
            levels, self.weight, self.bias, self.scale, self.input_zero, self.stride, [*self.begin, *self.end],
            self.dilation, self.groups)
        return found


class _IntegerLinear(IntegerLayer):
    """A linear layer on levels."""

    def __init__(self, layer: Int8Layer, given: Requantise) -> None:
        assert isinstance(layer, Int8Linear)
        super().__init__(layer, given)
        self.weight.data = self.weight.t().contiguous()

    def forward(self, levels: Tensor) -> Tensor:
        """Levels (..., inputs) -> real values (..., outputs), not rounded yet."""
        found: Tensor = OPERATORS.integer_linear(levels, self.weight, self.bias, self.scale, self.input_zero)
        return found


class _Windows(nn.Module):
    """Averages over windows as two products of matrices in float64.

    Such an average is separable: what it makes of ones in a row (or column) alone is its weights along the other side.

    Args:
        average: Features (N, C, H, W) -> their averages.
        size: Shape of what comes in.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, average: Callable[[Tensor], Tensor], size: tuple[int, ...]) -> None:
        super().__init__()
        height, width = size[-2:]
        by_row = torch.eye(height, dtype=torch.float64).view(height, 1, height, 1).expand(-1, -1, -1, width)
        by_column = torch.eye(width, dtype=torch.float64).view(width, 1, 1, width).expand(-1, -1, height, -1)
        both = average(torch.ones(1, 1, height, width, dtype=torch.float64))[0, 0, 0, 0]
        self.register_buffer("rows", (average(by_row)[:, 0, :, 0] / both).t().contiguous())
        self.register_buffer("columns", average(by_column)[:, 0, 0, :].contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, h, w), float64."""
        return self.rows @ x @ self.columns
