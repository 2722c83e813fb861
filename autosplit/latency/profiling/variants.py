"""Versions of a backbone with layers of other shapes, so that a regression sees several of each type."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx

from autosplit.core.errors import PruningError
from autosplit.models.loading import build_backbone
from autosplit.models.pruning import HeadPruner
from autosplit.models.tracing import trace

__all__ = ["DRAWN", "LEVELS", "Variant", "variants_of"]

LEVELS = (0.0, 0.25, 0.5, 0.75)
"""Sparsities of all groups together."""

DRAWN = 4
"""Versions with a sparsity drawn for each group: also layers of which one side keeps its channels, as next to a cut."""

_MOST = 0.9
_CLASSES = 10


@dataclass(frozen=True)
class Variant:
    """One version of a backbone.

    Attributes:
        label: Its sparsity, such as `50%` or `drawn 2`.
        network: Traced, with weights drawn at random: time does not depend on them.
    """

    label: str
    network: fx.GraphModule


def variants_of(backbone: str, shape: tuple[int, ...]) -> Iterator[Variant]:
    """The whole network, then pruned ones; the whole one alone where torch-pruning refuses the network.

    Args:
        backbone: As for `build_backbone`.
        shape: Shape of one input image without the batch dimension.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_backbone(backbone, _CLASSES, shape[0], (shape[1], shape[2]), pretrained=False)
    network = trace(network.eval(), shape)
    yield Variant("0%", network)
    try:
        pruner = HeadPruner(network, shape)
        rng = np.random.default_rng(0)
        versions: list[tuple[str, float | tuple[float, ...]]] = [(f"{100 * s:g}%", s) for s in LEVELS[1:]]
        versions += [(f"drawn {i + 1}", tuple(rng.uniform(0, _MOST, len(pruner.groups)).tolist()))
                     for i in range(DRAWN)]
        for label, sparsity in versions if pruner.groups else ():
            keep = pruner.keep_counts(sparsity)
            yield Variant(label, pruner.sub_network(keep).materialise(network).eval())
    except PruningError:
        return
