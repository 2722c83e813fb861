"""Backbones by name: the package's own small networks, those of torchvision, timm and transformers, the user's own.

Importing this module does not import torch.
"""

from __future__ import annotations

from autosplit.core.plugins import Registry

__all__ = ["BACKBONES", "HF", "TIMM", "TORCHVISION", "list_backbones"]

TORCHVISION = "torchvision:"
"""Prefix of the names of torchvision's classifiers."""

TIMM = "timm:"
"""Prefix of the names of timm's networks."""

HF = "hf:"
"""Prefix of names of Hugging Face's hub, and of folders with a network of transformers."""

BACKBONES = Registry(
    kind="backbone",
    group="autosplit.backbones",
    builtin={
        **{name: f"autosplit.models.zoo:{name}" for name in ("resnet8", "resnet20", "resnet56")},
        "resnet18-32": "autosplit.models.zoo:resnet18_32",
        "efficientnet-lite0": "autosplit.models.efficientnet_lite:efficientnet_lite0",
    },
)
"""Factories `(num_classes, in_channels) -> nn.Module` by name; other packages add theirs as entry points."""


def list_backbones() -> list[str]:
    """Names of the built-in backbones and of those that installed packages register, sorted."""
    return BACKBONES.names()
