"""Backbones by name: the package's own small networks, torchvision's classifiers, and the user's own.

Importing this package does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from autosplit.plugins import Registry

if TYPE_CHECKING:
    from autosplit.backbones.loading import backbone_source_hash, build_backbone, load_weights

__all__ = ["BACKBONES", "TORCHVISION", "backbone_source_hash", "build_backbone", "list_backbones", "load_weights"]

TORCHVISION = "torchvision:"
"""Prefix of the names of torchvision's classifiers."""

BACKBONES = Registry(
    kind="backbone",
    group="autosplit.backbones",
    builtin={
        **{name: f"autosplit.backbones.zoo:{name}" for name in ("resnet8", "resnet20", "resnet56")},
        "resnet18-32": "autosplit.backbones.zoo:resnet18_32",
        "efficientnet-lite0": "autosplit.backbones.efficientnet_lite:efficientnet_lite0",
    },
)
"""Factories `(num_classes, in_channels) -> nn.Module` by name; other packages add theirs as entry points."""

_LAZY = ("backbone_source_hash", "build_backbone", "load_weights")


def list_backbones(torchvision: bool = False) -> list[str]:
    """Names that `build_backbone` knows, sorted.

    Args:
        torchvision: Also every `torchvision:<name>`, which takes the seconds that importing torchvision takes.
    """
    names = BACKBONES.names()
    if torchvision:
        from autosplit.backbones.loading import torchvision_names

        names += [TORCHVISION + name for name in torchvision_names()]
    return sorted(names)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module("autosplit.backbones.loading"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
