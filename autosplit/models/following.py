"""What each operation does to channels: the rules, and a run of a network that goes by them.

Every dimension of a parameter has as many *channels* as elements, and so has every dimension of a feature. Where an
operation ties two channels (a sum, a batch norm, a depthwise convolution, the inputs of the layer behind) they can only
be removed together; the operations of a recorded graph say so one by one, at the sizes they had when it was recorded.
Whatever an operation does that is not known here, its channels stay: nothing is ever guessed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx, nn

from autosplit.models.calls import RegionMaxPool
from autosplit.models.reshapes import apart, blocks_of
from autosplit.models.unions import Ids, Unions, staying

__all__ = ["DimChannels", "Follower", "Patch", "is_depthwise"]

_log = logging.getLogger(__name__)

_log = logging.getLogger(__name__)

DimChannels = dict[int, Ids]
"""Channel of each element along the dimensions of a feature in which some can go; `STAYS` where one cannot."""

_ELEMENTWISE = {
    "add", "sub", "rsub", "mul", "truediv", "div", "pow", "maximum", "minimum", "where", "neg", "abs", "exp", "log",
    "sqrt", "rsqrt", "square", "reciprocal", "sigmoid", "tanh", "relu", "relu6", "silu", "gelu", "elu", "selu",
    "celu", "leaky_relu", "hardtanh", "hardswish", "hardsigmoid", "mish", "softplus", "softsign", "logsigmoid",
    "clamp", "clip", "clamp_min", "clamp_max", "erf", "sign", "round", "floor", "contiguous", "clone", "detach", "to",
    "float", "type_as", "dropout", "masked_fill", "lerp", "addcmul", "hardshrink", "softshrink", "threshold", "lt",
    "le", "gt", "ge", "eq", "ne", "zeros_like", "ones_like", "full_like", "positive", "pos"}
_ELEMENTWISE_LAYERS = (
    nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.ELU, nn.SELU, nn.CELU, nn.LeakyReLU, nn.Hardtanh, nn.Hardswish,
    nn.Hardsigmoid, nn.Mish, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Sigmoid, nn.Tanh, nn.Identity, nn.Hardshrink,
    nn.Softshrink, nn.Threshold, nn.modules.dropout._DropoutNd)
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
_SPATIAL = {"max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "lp_pool2d", "interpolate",
            "upsample", "max_pool1d", "avg_pool1d", "adaptive_avg_pool1d"}
_SPATIAL_LAYERS = (nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd,
                   nn.modules.pooling._AdaptiveMaxPoolNd, nn.modules.pooling._LPPoolNd, nn.Upsample, RegionMaxPool,
                   nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ConstantPad2d)
_REDUCTIONS = {"mean", "sum", "amax", "amin", "var", "std", "prod"}
_RESHAPES = {"reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "reshape_as", "view_as"}


def is_depthwise(module: nn.Module) -> bool:
    """Whether this is a convolution of one group a channel, with one or more outputs for each."""
    return isinstance(module, nn.Conv2d) and module.groups > 1 and module.groups == module.in_channels


@dataclass(frozen=True)
class Patch:
    """An argument of a node that is a number of channels: what it has to be when channels are gone.

    Attributes:
        node: Name of the node.
        arguments: From the channels that stay (a function from channels to those that are left) to the new arguments.
    """

    node: str
    arguments: Callable[[Callable[[Ids], Ids]], tuple[Any, ...]]


class Follower(fx.Interpreter):
    """Runs the network on one image and follows the channels beside it.

    A channel is a number, and operations say which are one (`Unions`).

    Args:
        network: As `trace` gives it, or the head of a cut.

    Attributes:
        tensors: Parameters and buffers of the network, by name.
        parameters: Channels of each of them, by its identity and dimension.
        roots: Channels of each layer's outputs, by path, in the order of execution.
        patches: Arguments that hold a number of channels.
        unions: Which channels are one.
    """

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.unions = Unions()
        self._layouts: dict[fx.Node, Any] = {}
        self._values: dict[fx.Node, Any] = {}
        self.parameters: dict[tuple[int, int], Ids] = {}
        self.tensors = {**dict(network.named_parameters(remove_duplicate=False)),
                         **dict(network.named_buffers(remove_duplicate=False))}
        self.roots: dict[str, Ids] = {}
        self.patches: list[Patch] = []
        self._modules = dict(network.named_modules(remove_duplicate=False))

    # --- channels

    def _keep_all(self, layout: Any, why: str) -> None:
        """No channel of a feature, or of several, can go."""
        if isinstance(layout, dict):
            for channels in layout.values():
                self.unions.keep(channels, why)
        elif isinstance(layout, (tuple, list)):
            for part in layout:
                self._keep_all(part, why)

    def _of_tensor(self, tensor: Tensor, dim: int) -> Ids:
        """The channels of a parameter or buffer along a dimension."""
        key = (id(tensor), dim)
        if key not in self.parameters:
            self.parameters[key] = self.unions.new(tensor.shape[dim])
        return self.parameters[key]

    def _tie_tensor(self, tensor: Tensor | None, dim: int, channels: Ids, why: str) -> None:
        """A parameter's channels are those of a feature."""
        if tensor is None:
            return
        key = (id(tensor), dim)
        if key not in self.parameters:
            self.parameters[key] = channels
        else:
            self.unions.join(self.parameters[key], channels, why)

    # --- the run

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, and follow the channels through it."""
        value = super().run_node(n)
        self._values[n] = value
        layout: Any = {}
        if n.op == "get_attr":
            tensor = self.tensors.get(str(n.target))
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                layout = {d: self._of_tensor(tensor, d) for d, size in enumerate(tensor.shape) if size > 1 and d < 2}
                for d in range(2, tensor.dim()):  # only the first two dimensions of a parameter are taken apart
                    layout[d] = staying(tensor.shape[d])
        elif n.op in {"call_module", "call_function", "call_method"}:
            try:
                layout = self._layer(n, self._modules[str(n.target)]) if n.op == "call_module" else self._call(n)
            except Exception as e:  # arguments that nobody thought of: its channels stay, all others are followed
                _log.debug("channels of %s: %r", n.name, e)
                layout = self._give_up(n)
        elif n.op == "output":
            for source in n.all_input_nodes:
                self._keep_all(self._layouts.get(source, {}), "")
        if isinstance(layout, dict):
            layout = {d: ids for d, ids in layout.items() if not self.unions.stay(ids)}
        self._layouts[n] = layout
        return value

    def _input(self, node: fx.Node) -> DimChannels:
        source = node.args[0] if node.args else None
        found = self._layouts.get(source, {}) if isinstance(source, fx.Node) else {}
        return found if isinstance(found, dict) else {}

    def _give_up(self, node: fx.Node) -> DimChannels:
        why = _name(node) if node.op != "call_module" else type(self._modules[str(node.target)]).__name__
        for source in node.all_input_nodes:
            self._keep_all(self._layouts.get(source, {}), why)
        return {}

    # --- layers

    def _layer(self, node: fx.Node, layer: nn.Module) -> Any:
        given = self._input(node)
        alone = len(node.args) == 1 and isinstance(node.args[0], fx.Node) and not node.kwargs
        if not alone or getattr(layer, "return_indices", False):
            return self._give_up(node)
        if not any(True for _ in layer.parameters()) and self._is_identity(node):
            return given  # stochastic depth, say, which does something in training
        follow: Callable[[], DimChannels]
        for kinds, follow in (
            (_ELEMENTWISE_LAYERS, lambda: given),
            ((nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d), lambda: self._convolution(node, layer, given)),
            (nn.Linear, lambda: self._linear(node, cast(nn.Linear, layer), given)),
            (_NORMS, lambda: self._norm(node, layer, given)),
            (nn.PReLU, lambda: self._prelu(cast(nn.PReLU, layer), given)),
            (_SPATIAL_LAYERS, lambda: self._spatial(node, given)),
            (nn.Flatten, lambda: self._reshape(node, given)),
            (nn.PixelShuffle, lambda: self._pixel_shuffle(given, cast(nn.PixelShuffle, layer).upscale_factor)),
            (nn.PixelUnshuffle, lambda: self._pixel_unshuffle(given, cast(
                nn.PixelUnshuffle, layer).downscale_factor)),
            ((nn.Softmax, nn.LogSoftmax), lambda: self._softmax(node, given, cast(nn.Softmax, layer).dim)),
        ):
            if isinstance(layer, kinds):
                return follow()
        return self._give_up(node)

    def _is_identity(self, node: fx.Node) -> bool:
        before, after = self._values[node.args[0]], self._values[node]  # type: ignore[index]
        return isinstance(after, Tensor) and before.shape == after.shape and torch.equal(before, after)

    def _norm(self, node: fx.Node, layer: Any, given: DimChannels) -> DimChannels:
        """Batch norm and instance norm, which treat each channel alone."""
        why = type(layer).__name__
        self._keep_all({d: ids for d, ids in given.items() if d != 1}, why)
        channels = given.get(1, staying(self._values[node].shape[1]))
        for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
            self._tie_tensor(tensor, 0, channels, why)
        return {1: channels}

    def _prelu(self, layer: nn.PReLU, given: DimChannels) -> DimChannels:
        if layer.num_parameters > 1:
            self._tie_tensor(layer.weight, 0, given.get(1, staying(layer.num_parameters)), "PReLU")
        return given

    def _convolution(self, node: fx.Node, layer: Any, given: DimChannels) -> DimChannels:
        self._keep_all({d: ids for d, ids in given.items() if d != 1}, "convolution over channels")
        transposed = isinstance(layer, nn.ConvTranspose2d)
        ins = given.get(1, staying(layer.in_channels))
        weight = layer.weight
        if is_depthwise(layer):
            outs = np.repeat(ins, layer.out_channels // layer.in_channels)
            self._tie_tensor(weight, 0, outs, "depthwise convolution")
        elif layer.groups > 1:
            self.unions.keep(ins, "grouped convolution")
            outs = staying(layer.out_channels)
            self._tie_tensor(weight, 0, staying(weight.shape[0]), "grouped convolution")
        else:
            into, out = (0, 1) if transposed else (1, 0)
            self._tie_tensor(weight, into, ins, "a layer that is used twice")
            outs = self._of_tensor(weight, out)
            self.roots.setdefault(str(node.target), outs)
        self._tie_tensor(layer.bias, 0, outs, "a bias that is shared")
        return {1: outs}

    def _linear(self, node: fx.Node, layer: nn.Linear, given: DimChannels) -> DimChannels:
        last = self._values[node].dim() - 1
        ins = given.get(last, staying(layer.in_features))
        self._tie_tensor(layer.weight, 1, ins, "a layer that is used twice")
        outs = self._of_tensor(layer.weight, 0)
        self.roots.setdefault(str(node.target), outs)
        self._tie_tensor(layer.bias, 0, outs, "a bias that is shared")
        return {**{d: ids for d, ids in given.items() if d != last}, last: outs}

    def _spatial(self, node: fx.Node, given: DimChannels) -> DimChannels:
        """Pooling and the like work on what comes after the channels."""
        self._keep_all({d: ids for d, ids in given.items() if d > 1}, _name(node))
        return {d: ids for d, ids in given.items() if d <= 1}

    def _pixel_shuffle(self, given: DimChannels, factor: int) -> DimChannels:
        self._keep_all({d: ids for d, ids in given.items() if d != 1}, "pixel_shuffle")
        if 1 not in given:
            return {}
        blocks = given[1].reshape(-1, factor**2)
        for column in range(1, factor**2):
            self.unions.join(blocks[:, 0], blocks[:, column], "pixel_shuffle")
        return {1: blocks[:, 0].copy()}

    def _pixel_unshuffle(self, given: DimChannels, factor: int) -> DimChannels:
        self._keep_all({d: ids for d, ids in given.items() if d != 1}, "pixel_unshuffle")
        return {1: np.repeat(given[1], factor**2)} if 1 in given else {}

    def _softmax(self, node: fx.Node, given: DimChannels, dim: int | None) -> DimChannels:
        value = self._values[node]
        over = dim % value.dim() if dim is not None else 1
        self._keep_all({d: ids for d, ids in given.items() if d == over}, "softmax")
        return {d: ids for d, ids in given.items() if d != over}

    # --- functions and methods

    def _call(self, node: fx.Node) -> Any:
        if not any(self._layouts.get(source) for source in node.all_input_nodes):
            return {}
        name, given = _name(node), self._input(node)
        if name in {"size", "dim", "numel"}:
            return {}
        one_tensor = isinstance(self._values[node], Tensor)
        follow: Callable[[], DimChannels]
        for names, follow in (
            (_ELEMENTWISE, lambda: self._elementwise(node)), (_SPATIAL, lambda: self._spatial(node, given)),
            (_REDUCTIONS, lambda: self._reduction(node, given)), (_RESHAPES, lambda: self._reshape(node, given)),
            ({"cat", "concat"}, lambda: self._cat(node)), ({"permute"}, lambda: self._permute(node)),
            ({"transpose", "swapaxes"}, lambda: self._transpose(node)), ({"getattr"}, lambda: self._getattr(node)),
            ({"expand"}, lambda: self._expand(node)), ({"pad"}, lambda: self._pad(node)),
            ({"softmax", "log_softmax"}, lambda: self._softmax(node, given, _argument(node, 1, "dim"))),
            ({"pixel_shuffle"}, lambda: self._pixel_shuffle(given, int(_argument(node, 1, "upscale_factor")))),
            ({"pixel_unshuffle"}, lambda: self._pixel_unshuffle(given, int(_argument(node, 1, "downscale_factor")))),
            ({"roll"}, lambda: self._roll(node, given)),
        ):
            if name in names and one_tensor:
                return follow()
        if name == "getitem":
            return self._getitem(node)
        return self._split(node) if name in {"split", "chunk"} else self._give_up(node)

    def _roll(self, node: fx.Node, given: DimChannels) -> DimChannels:
        dims = _argument(node, 2, "dims")
        moved = {d % self._values[node].dim() for d in _tuple(dims)} if dims is not None else set(given)
        self._keep_all({d: ids for d, ids in given.items() if d in moved}, "roll")
        return {d: ids for d, ids in given.items() if d not in moved}

    def _elementwise(self, node: fx.Node) -> DimChannels:
        out = self._values[node]
        if not isinstance(out, Tensor):
            return self._give_up(node)
        tensors = [n for n in node.all_input_nodes if isinstance(self._values.get(n), Tensor)]
        if any(not isinstance(self._layouts.get(n, {}), dict) for n in tensors):
            return self._give_up(node)
        result: DimChannels = {}
        for dim, size in enumerate(out.shape):
            found: list[Ids] = []
            for source in tensors:
                value = self._values[source]
                own = dim - (out.dim() - value.dim())
                if own >= 0 and value.shape[own] == size and size > 1:
                    found.append(self._layouts.get(source, {}).get(own, staying(size)))
                elif own >= 0 and own in self._layouts.get(source, {}):  # one channel that is broadcast
                    self.unions.keep(self._layouts[source][own], _name(node))
            for other in found[1:]:
                self.unions.join(found[0], other, _name(node))
            if found:
                result[dim] = found[0]
        return result

    def _cat(self, node: fx.Node) -> DimChannels:
        parts = list(node.args[0])  # type: ignore[arg-type]
        out = self._values[node]
        along = int(_argument(node, 1, "dim", 0)) % out.dim()
        result: DimChannels = {}
        for dim, size in enumerate(out.shape):
            rows = [self._layouts.get(p, {}).get(dim, staying(self._values[p].shape[dim])) for p in parts]
            if dim == along:
                result[dim] = np.concatenate(rows)
            elif size > 1:
                for row in rows[1:]:
                    self.unions.join(rows[0], row, "cat")
                result[dim] = rows[0]
        return result

    def _reduction(self, node: fx.Node, given: DimChannels) -> DimChannels:
        source = self._values[node.args[0]]  # type: ignore[index]
        dims = _argument(node, 1, "dim")
        keepdim = bool(_argument(node, 2, "keepdim", False))
        over = {d % source.dim() for d in _tuple(dims)} if dims is not None else set(range(source.dim()))
        self._keep_all({d: ids for d, ids in given.items() if d in over}, _name(node))
        rest = {d: ids for d, ids in given.items() if d not in over}
        return rest if keepdim else {d - sum(o < d for o in over): ids for d, ids in rest.items()}

    def _permute(self, node: fx.Node) -> DimChannels:
        given = self._input(node)
        order = node.args[1] if isinstance(node.args[1], (tuple, list)) else node.args[1:]
        dims: list[int] = [int(cast(int, old)) % len(order) for old in order]
        return {new: given[old] for new, old in enumerate(dims) if old in given}

    def _transpose(self, node: fx.Node) -> DimChannels:
        dims = self._values[node].dim()
        one, other = (int(_argument(node, i, f"dim{i - 1}")) % dims for i in (1, 2))
        return {{one: other, other: one}.get(d, d): ids for d, ids in self._input(node).items()}

    def _getattr(self, node: fx.Node) -> DimChannels:
        given, dims = self._input(node), self._values[node]
        if node.args[1] in {"T", "mT"} and isinstance(dims, Tensor) and dims.dim() >= 2:
            last = dims.dim() - 1
            swap = {last: last - 1, last - 1: last} if node.args[1] == "mT" or dims.dim() == 2 else None
            if swap is not None:
                return {swap.get(d, d): ids for d, ids in given.items()}
        return self._give_up(node)

    def _expand(self, node: fx.Node) -> DimChannels:
        source, out = self._values[node.args[0]], self._values[node]  # type: ignore[index]
        shift = out.dim() - source.dim()
        result = {d + shift: ids for d, ids in self._input(node).items() if out.shape[d + shift] == source.shape[d]}
        self._sized(node, result)
        return result

    def _pad(self, node: fx.Node) -> DimChannels:
        given, widths = self._input(node), _argument(node, 1, "pad")
        if not isinstance(widths, (tuple, list)):
            return self._give_up(node)
        dims = self._values[node].dim()
        padded = {dims - 1 - i for i in range(len(widths) // 2) if any(widths[2 * i:2 * i + 2])}
        self._keep_all({d: ids for d, ids in given.items() if d in padded}, "pad")
        return {d: ids for d, ids in given.items() if d not in padded}

    def _split(self, node: fx.Node) -> Any:
        given, parts = self._input(node), self._values[node]
        source = self._values[node.args[0]]  # type: ignore[index]
        dim = int(_argument(node, 2, "dim", 0)) % source.dim()
        bounds = np.cumsum([0, *(p.shape[dim] for p in parts)])
        if dim in given:
            pieces = [given[dim][a:b] for a, b in pairwise(bounds.tolist())]
            self.patches.append(Patch(node.name, lambda left: (
                node.args[0], [len(left(piece)) for piece in pieces], dim)))
        return [{d: (ids[bounds[i]:bounds[i + 1]] if d == dim else ids) for d, ids in given.items()}
                for i in range(len(parts))]

    def _getitem(self, node: fx.Node) -> Any:
        source_node, index = node.args[0], node.args[1]
        layout = self._layouts.get(source_node, {})  # type: ignore[arg-type]
        if isinstance(layout, (tuple, list)):
            return layout[index] if isinstance(index, int) else self._give_up(node)
        value, out = self._values[source_node], self._values[node]  # type: ignore[index]
        if not isinstance(value, Tensor) or not isinstance(out, Tensor):
            return self._give_up(node)
        items = list(index) if isinstance(index, tuple) else [index]
        if any(not isinstance(i, (int, slice, type(None), type(Ellipsis))) or isinstance(i, bool) for i in items):
            return self._give_up(node)
        if Ellipsis in items:
            at = items.index(Ellipsis)
            taken = sum(i is not None for i in items) - 1
            items[at:at + 1] = [slice(None)] * (value.dim() - taken)
        items += [slice(None)] * (value.dim() - sum(i is not None for i in items))
        return self._sliced(node, items, value, layout)

    def _sliced(self, node: fx.Node, items: list[Any], value: Tensor, layout: DimChannels) -> DimChannels:
        """An index of slices, integers and new dimensions, one for each dimension."""
        result: DimChannels = {}
        parts: dict[int, tuple[Ids, int, int]] = {}
        dim = new = 0
        for place, item in enumerate(items):
            ids = layout.get(dim) if item is not None else None
            if ids is not None and isinstance(item, slice) and item.step in {None, 1}:
                start, stop, _ = item.indices(value.shape[dim])
                result[new] = ids[start:stop]
                if stop - start < len(ids):
                    parts[place] = (ids, start, stop)
            elif ids is not None:
                self.unions.keep(ids, "an index")
            dim += item is not None
            new += item is None or isinstance(item, slice)
        if parts:
            def arguments(left: Callable[[Ids], Ids]) -> tuple[Any, ...]:
                fresh = list(items)
                for place, (ids, start, stop) in parts.items():
                    before = len(left(ids[:start]))
                    fresh[place] = slice(before, before + len(left(ids[start:stop])))
                return node.args[0], tuple(fresh)

            self.patches.append(Patch(node.name, arguments))
        return result

    def _reshape(self, node: fx.Node, given: DimChannels) -> DimChannels:
        """Follow channels through blocks of dimensions that become blocks of dimensions."""
        source, out = self._values[node.args[0]], self._values[node]  # type: ignore[index]
        if _name(node) == "squeeze" and len(node.args) == 1 and not node.kwargs:
            return self._give_up(node)  # the last channel that is left would be squeezed too
        result: DimChannels = {}
        for ins, outs in blocks_of(tuple(source.shape), tuple(out.shape)):
            labelled = [d for d in ins if d in given]
            if not labelled:
                continue
            full = [d for d in outs if out.shape[d] > 1]
            long = [d for d in ins if source.shape[d] > 1]
            if len(labelled) == 1 and len(full) == 1:  # dimensions are merged into one, or it stays alone
                (dim,) = labelled
                before = math.prod(source.shape[d] for d in long if d < dim)
                after = math.prod(source.shape[d] for d in long if d > dim)
                result[full[0]] = np.tile(np.repeat(given[dim], after), before)
            elif len(labelled) == 1 and len(long) == 1 and len(full) > 1:
                # one dimension becomes several: as a repetition of channels it may come apart again
                (dim,) = labelled
                found = apart(given[dim], [out.shape[d] for d in full])
                if found is None:
                    self.unions.keep(given[dim], _name(node))
                else:
                    result[full[found[0]]] = found[1]
            else:
                for d in labelled:
                    self.unions.keep(given[d], _name(node))
        if result and _name(node) not in {"flatten", "squeeze", "unsqueeze"}:
            self._sized(node, result)
        return result

    def _sized(self, node: fx.Node, layout: DimChannels) -> None:
        """Note the sizes that a node has as arguments and that go with channels."""
        if node.op == "call_module":
            return
        rest = node.args[1:]
        packed = len(rest) == 1 and isinstance(rest[0], (tuple, list))
        sizes: Sequence[Any] = rest[0] if packed else rest  # type: ignore[assignment]
        dims = self._values[node].dim()
        if _name(node) in {"reshape_as", "view_as", "unflatten"} or len(sizes) != dims:
            for ids in layout.values():
                self.unions.keep(ids, _name(node))
            return

        def arguments(left: Callable[[Ids], Ids]) -> tuple[Any, ...]:
            fresh = [len(left(layout[d])) if d in layout and isinstance(s, int) and s != -1 else s
                     for d, s in enumerate(sizes)]
            return (node.args[0], tuple(fresh)) if packed else (node.args[0], *fresh)

        self.patches.append(Patch(node.name, arguments))


def _name(node: fx.Node) -> str:
    if node.op == "call_method":
        return str(node.target)
    name = getattr(node.target, "__name__", str(node.target))
    return "an assignment to a part" if name == "set_item" else str(name)


def _argument(node: fx.Node, place: int, name: str, default: Any = None) -> Any:
    return node.args[place] if place < len(node.args) else node.kwargs.get(name, default)


def _tuple(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (int(value),)


