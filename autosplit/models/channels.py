"""Which channels of a network go together, and which cannot go at all.

`autosplit.models.following` runs a recorded network and ties channels by what each operation does; here the groups are
read off.

This is the dependency graph of DepGraph (Fang et al. 2023, arXiv 2301.12900), read off recorded operations with their
sizes instead of off the autograd graph, so that reshaping, slicing, weights that are shared and layers with more
outputs than inputs a group are followed exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx

from autosplit.models.following import Follower, Patch
from autosplit.models.inference import evaluation_mode
from autosplit.models.unions import STAYS, Ids, Unions

__all__ = ["ChannelMap", "channel_map"]


@dataclass
class ChannelMap:
    """The channels of a network.

    Attributes:
        groups: For each layer that prunable channels are named after, in the order of execution, its path and the
            channel of each of its outputs that can go.
        tensors: For each parameter and buffer, by name, its channels along the first two dimensions; `None` where
            nothing of a dimension can go.
        patches: Arguments that hold a number of channels.
        kept: Layers whose outputs all stay, by path, with the operation that is the reason; layers that lead to the
            output are not among them.
    """

    groups: list[tuple[str, Ids, Ids]]
    tensors: dict[str, tuple[Ids | None, Ids | None]]
    patches: list[Patch] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)


def channel_map(network: fx.GraphModule, shape: tuple[int, ...]) -> ChannelMap:
    """Follow the channels of a traced network from node to node.

    Args:
        network: As `trace` gives it, or the head of a cut.
        shape: Shape of one input image without the batch dimension.
    """
    follower = Follower(network)
    with evaluation_mode(network), torch.no_grad():
        follower.run(torch.zeros(1, *shape))
    return _found(follower)


def _found(follower: Follower) -> ChannelMap:
    """What a follower that has run says of its network."""
    unions = follower.unions
    tensors = {key: unions.resolved(ids) for key, ids in follower.parameters.items()}
    used = _uses(tensors.values(), follower.patches, unions)
    taken: set[int] = set()
    groups, kept = [], {}
    for path, outs in follower.roots.items():
        roots = unions.resolved(outs)
        if (roots == STAYS).all() and (why := unions.reason(int(outs[0]))):
            kept[path] = why
        # a channel that stands twice among the outputs of one layer is one channel
        places = {c: i for i, c in reversed(list(enumerate(roots.tolist()))) if c != STAYS and c not in taken}
        taken |= places.keys()
        # channels of which one layer reads some and another all are groups of their own: so the sizes of all
        # layers follow from how many channels each group keeps, whichever they are
        alike: dict[tuple[tuple[int, int], ...], list[int]] = {}
        for channel, place in sorted(places.items(), key=lambda item: item[1]):
            alike.setdefault(used[channel], []).append(place)
        groups += [(path, np.array(at), roots[at]) for at in alike.values() if len(at) > 1]
    names: dict[str, tuple[Ids | None, Ids | None]] = {
        name: (tensors.get((id(tensor), 0)), tensors.get((id(tensor), 1)))
        for name, tensor in follower.tensors.items()}
    return ChannelMap(groups, names, [Patch(p.node, _resolving(p, unions)) for p in follower.patches], kept)


def _uses(
    tensors: Iterable[Ids], patches: Iterable[Patch], unions: Unions
) -> dict[int, tuple[tuple[int, int], ...]]:
    """How often each channel stands in each dimension of a parameter, and in each number that is an argument."""
    found: dict[int, list[tuple[int, int]]] = {}
    pieces: list[Ids] = []

    def note(ids: Ids) -> Ids:
        pieces.append(unions.resolved(ids))
        return ids

    for patch in patches:
        patch.arguments(note)
    for number, ids in enumerate([*tensors, *pieces]):
        for channel, times in Counter(ids.tolist()).items():
            found.setdefault(channel, []).append((number, times))
    return {channel: tuple(uses) for channel, uses in found.items()}


def _resolving(patch: Patch, unions: Unions) -> Callable[[Callable[[Ids], Ids]], tuple[Any, ...]]:
    def arguments(left: Callable[[Ids], Ids]) -> tuple[Any, ...]:
        return patch.arguments(lambda ids: left(unions.resolved(ids)))

    return arguments
