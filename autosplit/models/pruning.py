"""Structured pruning of a head, in groups of channels that depend on one another.

Which channels go together is found by `autosplit.models.channels`; how much they matter is torch-pruning's group
importance. The channels of the feature at the cut are kept, so codec and tail fit whatever the sparsity, and so is
whatever cannot be followed. Within a group channels are ordered by importance once, so that the channels kept at one
sparsity contain those kept at a higher one.

`HeadPruner.sub_network` gives the structure of a pruned head together with the *indices* of the parameters
that remain. The supernet gathers its shared weights through these indices, which is the same network as the
full head with the other channels masked to zero, at the pruned cost; a deployment copies them out for good.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from autosplit.core.errors import PruningError
from autosplit.core.space import channels_kept
from autosplit.models.channels import ChannelMap, channel_map
from autosplit.models.inference import device_of
from autosplit.models.unions import STAYS, Ids

__all__ = ["HeadPruner", "PrunableGroup", "SubNetwork"]

_SCORED = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm)

_Indices = dict[str, tuple[Tensor | None, Tensor | None]]

# pruned heads that are kept, 2 MB each of a ResNet-20: more than a supernet is trained with, fewer than are measured
_KEPT = 64


@dataclass(frozen=True)
class PrunableGroup:
    """Channels that can only be removed together.

    Groups come in the order of execution of their roots.

    Attributes:
        root: Path of the layer whose output channels name the group.
        channels: Number of channels.
        order: Channel indices of the root layer, most important first.
    """

    root: str
    channels: int
    order: tuple[int, ...]

    def removed(self, keep: int) -> list[int]:
        """Indices to remove so that `keep` channels remain, ascending."""
        return sorted(self.order[keep:])


@dataclass(frozen=True)
class SubNetwork:
    """A pruned head whose weights are those of the full head, seen through indices.

    Attributes:
        module: The pruned structure on the `meta` device: shapes, no weights.
        indices: For each parameter and buffer (by name) the indices along its first and second dimension that
            remain; `None` where all do.
        keep: Channels kept in each group, in the order of `HeadPruner.groups`.
    """

    module: fx.GraphModule
    indices: _Indices
    keep: tuple[int, ...]
    _moved: dict[torch.device, _Indices] = field(default_factory=dict, init=False, repr=False, compare=False)

    def _on(self, device: torch.device) -> _Indices:
        """The indices on a device, moved there once."""
        if device not in self._moved:
            self._moved[device] = {name: (_on(rows, device), _on(columns, device))
                                   for name, (rows, columns) in self.indices.items()}
        return self._moved[device]

    def gather(self, head: nn.Module) -> dict[str, Tensor]:
        """The pruned parameters and buffers out of those of the full head, by name; differentiable."""
        tensors = {**dict(head.named_parameters(remove_duplicate=False)),
                   **dict(head.named_buffers(remove_duplicate=False))}
        picked = {}
        for name, indices in self._on(device_of(head)).items():
            tensor = tensors[name]
            for dim, index in enumerate(indices):
                if index is not None:
                    tensor = tensor.index_select(dim, index)
            picked[name] = tensor
        return picked

    def materialise(self, head: nn.Module) -> fx.GraphModule:
        """An independent pruned head that holds copies of the tensors of the full head."""
        module: fx.GraphModule = copy.deepcopy(self.module)
        module.to_empty(device=device_of(head))
        shared: dict[int, list[str]] = {}
        for name, tensor in self.module.named_parameters(remove_duplicate=False):
            shared.setdefault(id(tensor), []).append(name)
        for first, *others in shared.values():  # `to_empty` makes each layer weights of its own
            for name in others:
                path, _, leaf = name.rpartition(".")
                setattr(module.get_submodule(path), leaf, module.get_parameter(first))
        picked = self.gather(head)
        with torch.no_grad():
            for name, tensor in module.named_parameters():
                tensor.copy_(picked[name])
            for name, buffer in module.named_buffers():
                buffer.copy_(picked[name])
        return module


def _on(index: Tensor | None, device: torch.device) -> Tensor | None:
    return None if index is None else index.to(device)


class HeadPruner:
    """The prunable groups of one head, and pruned versions of it.

    Args:
        head: A traced head, trained (the importance of channels is read off its weights).
        shape: Shape of one input image without the batch dimension.
        prunable: `False` = nothing is looked for, and there are no groups.
        keep: Paths of modules whose channels stay.
        round_to: Groups keep a multiple of so many channels, or all.

    Attributes:
        groups: In the order of execution of their roots.
        unpruned: Layers that cannot lose channels by themselves, by path, with the operation that is the reason.
    """

    def __init__(
        self, head: fx.GraphModule, shape: tuple[int, ...], prunable: bool = True, keep: Sequence[str] = (),
        round_to: int = 1,
    ) -> None:
        self._head, self._shape = head, shape
        self._cache: OrderedDict[tuple[int, ...], SubNetwork] = OrderedDict()
        self._map = channel_map(head, shape) if prunable else ChannelMap([], {})
        self._channels: list[list[int]] = []  # of each group, most important first
        self.groups = tuple(self._ordered())
        self._round_to = round_to
        self._whole = self._named(keep)
        self.unpruned = dict(self._map.kept)

    def keep_counts(self, sparsity: float | tuple[float, ...]) -> tuple[int, ...]:
        """Channels kept in each group at a sparsity; at least one a group.

        Raises:
            PruningError: A tuple whose length is not the number of groups.
        """
        levels = sparsity if isinstance(sparsity, tuple) else (sparsity,) * len(self.groups)
        if len(levels) != len(self.groups):
            raise PruningError(f"{len(levels)} sparsities for a head of {len(self.groups)} prunable groups")
        channels = np.array([g.channels for g in self.groups], dtype=np.int64)
        counts = np.where(self._whole, channels, channels_kept(channels, levels, self._round_to))
        return tuple(counts.tolist())

    def sub_network(self, keep: tuple[int, ...]) -> SubNetwork:
        """The head with `keep` channels left in each group; those asked for last are kept for the next time."""
        if keep in self._cache:
            self._cache.move_to_end(keep)
            return self._cache[keep]
        gone = {c for channels, count in zip(self._channels, keep, strict=True) for c in channels[count:]}
        module = _structure(self._head)
        indices = _shrink(module, self._map, gone)
        module.train(self._head.training)
        self._cache[keep] = SubNetwork(module, indices, keep)
        if len(self._cache) > _KEPT:
            self._cache.popitem(last=False)
        return self._cache[keep]

    def shrinking(self, keep: tuple[int, ...]) -> Iterator[fx.GraphModule]:
        """The head whole, then with one group after the other cut down to its count: one more yield than groups.

        It is one module, without weights, that changes from one yield to the next.
        """
        module = _structure(self._head)
        module.train(self._head.training)
        whole = [(layer, {**layer._parameters, **layer._buffers},
                  {name: number for name, number in vars(layer).items() if isinstance(number, int)})
                 for layer in module.modules()]
        yield module
        gone: set[int] = set()
        for channels, count in zip(self._channels, keep, strict=True):
            gone.update(channels[count:])
            for layer, tensors, numbers in whole:
                for name, value in (*tensors.items(), *numbers.items()):
                    setattr(layer, name, value)
            _shrink(module, self._map, gone)
            yield module

    def masked(self, keep: tuple[int, ...]) -> fx.GraphModule:
        """The full head with the removed channels set to zero: gives what the pruned head gives.

        Used to check the pruning; exact wherever a channel of zeros stays one (convolution, batch norm,
        activations with f(0) = 0), which excludes layer norm over pruned channels.
        """
        module = copy.deepcopy(self._head)
        sub = self.sub_network(keep)
        for name, parameter in module.named_parameters():
            for dim, index in enumerate(sub.indices.get(name, ())):
                if index is not None:
                    mask = torch.zeros(parameter.shape[dim])
                    mask[index] = 1.0
                    parameter.data.mul_(mask.view([-1 if d == dim else 1 for d in range(parameter.dim())]))
        return module

    def _named(self, keep: Sequence[str]) -> NDArray[np.bool_]:
        """For each group, whether a layer that is to be kept holds some of its channels."""
        held: set[int] = set()
        for name, dims in self._map.tensors.items():
            if any(name.startswith(f"{path}.") for path in keep):
                held.update(c for ids in dims[:1] if ids is not None for c in ids.tolist())
        return np.array([not held.isdisjoint(channels) for channels in self._channels], dtype=np.bool_)

    def _ordered(self) -> Iterator[PrunableGroup]:
        """The groups with their channels by importance, which nests the pruned heads."""
        standing = _Standing(self._head, self._map)
        for root, outputs, channels in self._map.groups:
            score = standing.importance(channels)
            # stably, so that equal scores are the same everywhere
            order = torch.argsort(score.double(), descending=True, stable=True).tolist()
            self._channels.append([int(channels[i]) for i in order])
            yield PrunableGroup(root, len(order), tuple(int(outputs[i]) for i in order))


class _Standing:
    """Where each channel stands in the weights of a head.

    Args:
        head: Its layers hold the weights.
        channel_map_: Its channels.
    """

    def __init__(self, head: nn.Module, channel_map_: ChannelMap) -> None:
        self._sides: list[tuple[nn.Module, int]] = []  # layers and dimensions of their weights
        self._places: dict[int, list[tuple[int, int]]] = {}  # of a channel: sides and indices
        for path, layer in head.named_modules():
            dims = channel_map_.tensors.get(f"{path}.weight") if isinstance(layer, _SCORED) else None
            for dim, ids in enumerate(dims or ()):
                if ids is not None:
                    for index, channel in enumerate(ids.tolist()):
                        if channel != STAYS:
                            self._places.setdefault(channel, []).append((len(self._sides), index))
                    self._sides.append((layer, dim))

    def importance(self, channels: Ids) -> Tensor:
        """Torch-pruning's magnitude of a group: squared weights of each channel, mean over the layers that share it.

        Args:
            channels: Of the group, N.

        Returns:
            One score a channel, shape (N,).
        """
        import torch_pruning as tp

        members: dict[int, list[tuple[int, int]]] = {}
        for number, channel in enumerate(channels.tolist()):
            for side, index in self._places.get(channel, ()):
                members.setdefault(side, []).append((index, number))
        found = []
        for side, pairs in sorted(members.items()):
            layer, dim = self._sides[side]
            at, numbers = zip(*sorted(pairs), strict=True)
            found.append(_Member(layer, _pruning_function(layer, dim), list(at), list(numbers)))
        # torch-pruning takes the size of a group from its first member
        found.sort(key=lambda member: sorted(member.root_idxs) != list(range(len(channels))))
        score: Tensor | None = tp.importance.GroupMagnitudeImportance(
            p=2, group_reduction="mean", normalizer="mean")(found)
        return torch.zeros(len(channels)) if score is None or len(score) != len(channels) else score


@dataclass(frozen=True)
class _Member:
    """A layer of a group, with the attributes that torch-pruning's importance reads of its own."""

    layer: nn.Module
    pruning_fn: Any
    idxs: list[int]
    root_idxs: list[int]

    def __iter__(self) -> Iterator[Any]:
        return iter((self, self.idxs))


def _pruning_function(layer: nn.Module, dim: int) -> Any:
    """What torch-pruning calls losing channels along a dimension of a layer's weight."""
    import torch_pruning as tp

    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return tp.prune_batchnorm_out_channels
    outputs = (dim == 0) != isinstance(layer, nn.ConvTranspose2d)
    if isinstance(layer, nn.Linear):
        return tp.prune_linear_out_channels if outputs else tp.prune_linear_in_channels
    return tp.prune_conv_out_channels if outputs else tp.prune_conv_in_channels


def _shrink(
    module: fx.GraphModule, channel_map_: ChannelMap, gone: set[int]
) -> _Indices:
    """Take channels out of the layers of a structure; gives the indices of what stays of each parameter and buffer."""
    indices: _Indices = {
        name: (None, None) for name, _ in (*module.named_parameters(), *module.named_buffers())}
    if not gone:
        return indices

    lost = np.zeros(max(gone) + 2, dtype=np.bool_)
    lost[list(gone)] = True

    def left(ids: Ids) -> Ids:
        found: Ids = np.flatnonzero(~lost[np.minimum(ids, len(lost) - 1)])
        return found

    def stays(ids: Ids | None) -> Tensor | None:
        """Indices of what stays along a dimension; `None` where all does."""
        if ids is None or len(index := left(ids)) == len(ids):
            return None
        return torch.from_numpy(index)

    shrunk: dict[int, Tensor] = {}  # weights that are shared stay shared
    for path, layer in module.named_modules():
        for name, tensor in (*layer._parameters.items(), *layer._buffers.items()):
            full = f"{path}.{name}" if path else name
            if tensor is None or full not in channel_map_.tensors:
                continue
            if id(tensor) not in shrunk:
                rows, columns = map(stays, channel_map_.tensors[full])
                if rows is not None or columns is not None:
                    shape = [*(size if index is None else len(index)
                               for size, index in zip(tensor.shape, (rows, columns), strict=False)), *tensor.shape[2:]]
                    smaller = torch.empty(shape, dtype=tensor.dtype, device="meta")
                    shrunk[id(tensor)] = nn.Parameter(smaller) if isinstance(tensor, nn.Parameter) else smaller
                    indices[full] = (rows, columns)
                else:
                    shrunk[id(tensor)] = tensor
            setattr(layer, name, shrunk[id(tensor)])
        _resize(layer)
    nodes = {node.name: node for node in module.graph.nodes}
    for patch in channel_map_.patches:
        node = nodes[patch.node]
        arguments = fx.map_arg(patch.arguments(left), lambda n: nodes[n.name])  # they are another graph's
        if "chunk" in {node.target, getattr(node.target, "__name__", "")}:
            node.target = "split" if node.op == "call_method" else torch.split
        node.args, node.kwargs = arguments, {}
    module.recompile()
    return indices


def _resize(layer: nn.Module) -> None:
    """Bring the numbers that a layer says of itself into line with its weights."""
    weight = getattr(layer, "weight", None)
    if isinstance(layer, nn.ConvTranspose2d):
        layer.in_channels, layer.out_channels = layer.weight.shape[0], layer.weight.shape[1] * layer.groups
    elif isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        outputs = layer.weight.shape[0]
        if layer.groups > 1 and layer.groups == layer.in_channels:
            layer.groups = layer.in_channels = outputs // (layer.out_channels // layer.in_channels)
        else:
            layer.in_channels = layer.weight.shape[1] * layer.groups
        layer.out_channels = outputs
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)):
        statistics = next((t for t in (weight, layer.running_mean) if t is not None), None)
        if statistics is not None:
            layer.num_features = len(statistics)
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = layer.weight.numel()


def _structure(head: fx.GraphModule) -> fx.GraphModule:
    """A copy without weights, on the `meta` device."""
    # through the memo of deepcopy: what is shared stays shared
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in head.parameters()}
    memo |= {id(b): b.detach().to("meta") for b in head.buffers()}
    module: fx.GraphModule = copy.deepcopy(head, memo)
    return module
