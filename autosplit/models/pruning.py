"""Structured pruning of a head, along torch-pruning's dependency graph.

A head is pruned in groups of channels that depend on one another. The channels of the feature at the cut are
kept, so codec and tail fit whatever the sparsity. Within a group channels are ordered by importance once, so
that the channels kept at one sparsity contain those kept at a higher one.

`HeadPruner.sub_network` gives the structure of a pruned head together with the *indices* of the parameters
that remain. The supernet gathers its shared weights through these indices, which is the same network as the
full head with the other channels masked to zero, at the pruned cost; a deployment copies them out for good.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from autosplit.core.errors import PruningError
from autosplit.core.space import channels_kept
from autosplit.models.inference import evaluation_mode

__all__ = ["HeadPruner", "PrunableGroup", "SubNetwork", "is_depthwise"]

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
    indices: dict[str, tuple[Tensor | None, Tensor | None]]
    keep: tuple[int, ...]

    def gather(self, head: nn.Module) -> dict[str, Tensor]:
        """The pruned parameters and buffers out of those of the full head, by name; differentiable."""
        tensors = {**dict(head.named_parameters()), **dict(head.named_buffers())}
        picked = {}
        for name, indices in self.indices.items():
            tensor = tensors[name]
            for dim, index in enumerate(indices):
                if index is not None:
                    tensor = tensor.index_select(dim, index)
            picked[name] = tensor
        return picked

    def materialise(self, head: nn.Module) -> fx.GraphModule:
        """An independent pruned head that holds copies of the tensors of the full head."""
        module: fx.GraphModule = copy.deepcopy(self.module)
        module.to_empty(device="cpu")
        picked = self.gather(head)
        with torch.no_grad():
            for name, tensor in module.named_parameters():
                tensor.copy_(picked[name])
            for name, buffer in module.named_buffers():
                buffer.copy_(picked[name])
        return module


class HeadPruner:
    """The prunable groups of one head, and pruned versions of it.

    Args:
        head: A traced head, trained (the importance of channels is read off its weights).
        shape: Shape of one input image without the batch dimension.
        prunable: `False` = there are no groups and torch-pruning is never asked, for networks that it refuses.

    Raises:
        PruningError: torch-pruning cannot analyse this network.
    """

    def __init__(self, head: fx.GraphModule, shape: tuple[int, ...], prunable: bool = True) -> None:
        self._head, self._shape = head, shape
        self._cache: OrderedDict[tuple[int, ...], SubNetwork] = OrderedDict()
        with _autograd():
            self.groups = tuple(self._find_groups()) if prunable else ()

    def keep_counts(self, sparsity: float | tuple[float, ...]) -> tuple[int, ...]:
        """Channels kept in each group at a sparsity; at least one a group.

        Raises:
            PruningError: A tuple whose length is not the number of groups.
        """
        levels = sparsity if isinstance(sparsity, tuple) else (sparsity,) * len(self.groups)
        if len(levels) != len(self.groups):
            raise PruningError(f"{len(levels)} sparsities for a head of {len(self.groups)} prunable groups")
        return tuple(channels_kept([g.channels for g in self.groups], levels).tolist())

    def sub_network(self, keep: tuple[int, ...]) -> SubNetwork:
        """The head with `keep` channels left in each group; those asked for last are kept for the next time.

        Raises:
            PruningError: torch-pruning failed, or the feature at the cut is another one than before.
        """
        if keep in self._cache:
            self._cache.move_to_end(keep)
            return self._cache[keep]
        module = _shared_copy(self._head)
        indices: dict[str, tuple[Tensor | None, Tensor | None]] = {
            name: (None, None) for name, _ in (*module.named_parameters(), *module.named_buffers())
        }
        with _autograd():
            if any(count < group.channels for group, count in zip(self.groups, keep, strict=True)):
                graph = self._dependency_graph(module)
                # torch-pruning does not say which elements it keeps; so each carries its place, which moves along
                for _, tensor in _tensors(module):
                    tensor.data = _places(tensor.shape)
                for group, count in zip(self.groups, keep, strict=True):
                    self._remove(graph, module, group, count)
                full = {name: tensor.shape for name, tensor in _tensors(self._head)}
                indices |= {name: _axes(tensor.detach(), full[name]) for name, tensor in _tensors(module)}
            module.train(self._head.training).to("meta", torch.float32)  # the places are no weights
            shapes = []
            for part, device in ((module, "meta"), (self._head, "cpu")):
                with evaluation_mode(part), torch.no_grad():
                    try:
                        shapes.append(part(torch.zeros(2, *self._shape, device=device)).shape)
                    except Exception as e:
                        raise _refusal(e) from e
            # a codec is built for one feature: pruning may never touch the channels that cross
            if shapes[0] != shapes[1]:
                raise PruningError("pruning changed the feature at the cut; search with `space.sparsities: [0]`")
        self._cache[keep] = SubNetwork(module, indices, keep)
        if len(self._cache) > _KEPT:
            self._cache.popitem(last=False)
        return self._cache[keep]

    def shrinking(self, keep: tuple[int, ...]) -> Iterator[fx.GraphModule]:
        """The head whole, then with one group after the other cut down to its count: one more module than groups.

        It is one object all the time, changed between the steps: to be looked at, not kept. For telling what each group
        takes away, at a fraction of the time of one `sub_network` a group.
        """
        module = _shared_copy(self._head)
        yield module
        if self.groups:
            with _autograd():
                graph = self._dependency_graph(module)
        for group, count in zip(self.groups, keep, strict=True):
            with _autograd():
                self._remove(graph, module, group, count)
            yield module

    def masked(self, keep: tuple[int, ...]) -> fx.GraphModule:
        """The full head with the removed channels set to zero: gives what the pruned head gives.

        Used to check the pruning; exact wherever a channel of zeros stays one (convolution, batch norm,
        activations with f(0) = 0), which excludes layer norm over pruned channels.
        """
        module = copy.deepcopy(self._head)
        sub = self.sub_network(keep)
        for name, parameter in module.named_parameters():
            for dim, index in enumerate(sub.indices[name]):
                if index is not None:
                    mask = torch.zeros(parameter.shape[dim])
                    mask[index] = 1.0
                    parameter.data.mul_(mask.view([-1 if d == dim else 1 for d in range(parameter.dim())]))
        return module

    def _find_groups(self) -> Iterator[PrunableGroup]:
        import torch_pruning as tp

        module = _shared_copy(self._head)
        graph = self._dependency_graph(module)
        names = {m: n for n, m in module.named_modules()}
        importance = tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean", normalizer="mean")
        where = _suspect(self._head)
        try:
            found: list[tuple[str, int, tuple[int, ...], set[str]]] = []
            for group in graph.get_all_groups(ignored_layers=[], root_module_types=[nn.Conv2d, nn.Linear]):
                root = group[0].dep.target.module
                where = names[root]
                channels = int(graph.get_out_channels(root))
                layers = {item.dep.target.module for item in group}
                # channels that are normalised together, or convolved in groups, cannot go one by one
                if channels < 2 or any(isinstance(m, (nn.LayerNorm, nn.GroupNorm)) or (
                        isinstance(m, nn.Conv2d) and m.groups > 1 and not is_depthwise(m)) for m in layers):
                    continue
                score = importance(group)
                if score is None or len(score) != channels:
                    continue
                # ordered once, so that heads are nested, and stably, so that equal scores are the same everywhere
                order = torch.argsort(score.double(), descending=True, stable=True)
                # layers that lose outputs; the others only lose the inputs that no longer arrive
                giving = {item.dep.target.module for item in group
                          if "out_channels" in getattr(item.dep.handler, "__name__", "")}
                found.append((names[root], channels, tuple(int(i) for i in order),
                              {names[m] for m in layers & giving if m in names}))
        except Exception as e:
            raise _refusal(e, where) from e
        position = {str(n.target): i for i, n in enumerate(self._head.graph.nodes)}
        found.sort(key=lambda f: position[f[0]])  # torch-pruning's order is that of a set
        kept = _producers(self._head)
        yield from (PrunableGroup(root, n, order) for root, n, order, layers in found if not layers & kept)

    def _dependency_graph(self, module: nn.Module) -> Any:
        import torch_pruning as tp

        module.eval()
        for parameter in module.parameters():
            parameter.requires_grad_(True)  # dependencies are read off the autograd graph
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # every mutable default is passed: torch-pruning 1.6 shares them between calls
                # a bare tensor would be unpacked along its batch, so that the network runs on single images
                # one more operation at the end: a concatenation that is the output would be taken for a sum
                return tp.DependencyGraph().build_dependency(
                    module, example_inputs=(torch.zeros(1, *self._shape),), forward_fn=None,
                    output_transform=lambda feature: feature * 1.0, unwrapped_parameters=[], customized_pruners={},
                    ignored_layers=[], ignored_params=[], verbose=False,
                )
        except Exception as e:
            raise _refusal(e, _suspect(self._head)) from e

    @staticmethod
    def _remove(graph: Any, module: nn.Module, group: PrunableGroup, keep: int) -> None:
        import torch_pruning as tp

        if keep >= group.channels:
            return
        try:
            layer = module.get_submodule(group.root)
            prune = tp.prune_linear_out_channels if isinstance(layer, nn.Linear) else tp.prune_conv_out_channels
            if is_depthwise(layer):
                prune = tp.prune_depthwise_conv_out_channels
            graph.get_pruning_group(layer, prune, idxs=group.removed(keep)).prune()
        except Exception as e:
            raise _refusal(e, group.root) from e


@contextlib.contextmanager
def _autograd() -> Iterator[None]:
    """Gradients on, whatever the caller has switched off: torch-pruning reads dependencies off the autograd graph."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _shared_copy(head: fx.GraphModule) -> fx.GraphModule:
    """A copy of the structure whose parameters and buffers are new tensors in the memory of the old ones."""
    # through the memo of deepcopy: structure is copied, memory is shared
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach()) for p in head.parameters()}
    memo |= {id(b): b.detach() for b in head.buffers()}
    module: fx.GraphModule = copy.deepcopy(head, memo)
    return module


def _places(shape: torch.Size) -> Tensor:
    """Place of each element along the first two dimensions, `row * columns + column`, as floating point.

    Pruning removes along these two only, so the others are expanded, which takes no memory; and float32 holds
    every integer up to 2**24.
    """
    rows, columns = shape[0] if shape else 1, shape[1] if len(shape) > 1 else 1
    places = torch.arange(rows * columns, dtype=torch.float32 if rows * columns <= 2**24 else torch.float64)
    return places.view(*shape[:2], *(1 for _ in shape[2:])).expand(shape)


def _axes(places: Tensor, full: torch.Size) -> tuple[Tensor | None, Tensor | None]:
    """Indices along the first two dimensions, from the places that the remaining elements came from."""
    if places.shape[2:] != full[2:]:
        raise PruningError(f"pruning changed more than channels of a tensor of shape {tuple(full)}")
    found: list[Tensor | None] = [None, None]
    columns = full[1] if len(full) > 1 else 1
    for dim in range(min(2, len(full))):
        if places.shape[dim] != full[dim]:
            line = places[tuple(slice(None) if d == dim else 0 for d in range(places.dim()))].to(torch.int64)
            found[dim] = line % columns if dim else line // columns
    return found[0], found[1]


def _producers(head: fx.GraphModule) -> set[str]:
    """Layers whose output channels are channels of the feature at the cut."""
    output = next(n for n in head.graph.nodes if n.op == "output")
    found, seen, stack = set(), {output}, [*output.all_input_nodes]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        module = head.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, (nn.Conv2d, nn.Linear)) and not is_depthwise(module):
            found.add(str(node.target))
        else:
            stack.extend(node.all_input_nodes)
    return found


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and floating-point buffers by name."""
    yield from module.named_parameters()
    yield from ((n, b) for n, b in module.named_buffers() if b.is_floating_point())


def is_depthwise(module: nn.Module) -> bool:
    """Whether this is a convolution of one group a channel."""
    return isinstance(module, nn.Conv2d) and module.groups > 1 and module.groups == module.in_channels


def _suspect(head: fx.GraphModule) -> str:
    """The first layer that reshapes features, which torch-pruning follows least well; empty where none does."""
    for node in head.graph.nodes:
        if node.op == "call_method" and node.target in {"view", "reshape", "unflatten"}:
            stack = list(node.meta.get("nn_module_stack", {}).values())
            entry = stack[-1] if stack else ""
            return str(entry[0] if isinstance(entry, tuple) else entry) or str(node.name)
    return ""


def _refusal(error: Exception, layer: str = "") -> PruningError:
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    where = f" at layer {layer!r}" if layer else ""
    return PruningError(f"torch-pruning cannot prune this network{where}: {reason}; "
                        "search with `space.sparsities: [0]`")
