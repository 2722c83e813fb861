"""Networks and images small enough to be trained in a second or two."""

from __future__ import annotations

import torch
from torch import nn

from autosplit.core.plan import DEFAULT_CODEC
from autosplit.core.scenario import SearchSpace, TrainingSettings
from autosplit.data.base import ImageDataset, Split, build_dataset
from autosplit.models.splitting import find_split_points, select_split_points
from autosplit.models.tracing import trace
from autosplit.models.zoo import ResNetSmall
from autosplit.training.supernet import Supernet

CLASSES = 3
SHAPE = (3, 16, 16)
SPACE = SearchSpace(
    sparsities=(0.0, 0.5), widths=(2, 4), grid_levels=2, bits=(2, 8), max_grid=4, jpeg_qualities=(50, 90),
    webp_qualities=(30,), avif_qualities=(), image_downscales=(1,),
)


def tiny_dataset(images: int = 256, seed: int = 0, augment: bool = False) -> ImageDataset:
    """Noise with a bright patch whose place gives the class."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {"train": images, "calibration": 32, "validation": 96, "test": 32}
    parts = {name: _part(n, generator) for name, n in sizes.items()}
    return build_dataset("tiny", tuple("abc"), augment=augment, **parts)


def _part(n: int, generator: torch.Generator) -> Split:
    labels = torch.arange(n) % CLASSES
    images = torch.randint(0, 160, (n, *SHAPE), generator=generator)
    for c in range(CLASSES):
        images[labels == c, :, 5 * c : 5 * c + 5, 4:12] += 80
    return Split(images.to(torch.uint8), labels)


def tiny_settings(epochs: int = 4) -> TrainingSettings:
    return TrainingSettings(backbone_epochs=epochs, supernet_epochs=epochs, batch_size=32)


def tiny_network(seed: int = 0) -> ResNetSmall:
    torch.manual_seed(seed)
    return ResNetSmall(1, CLASSES, width=4)


def tiny_supernet(
    network: nn.Module, data: ImageDataset, space: SearchSpace = SPACE, seed: int = 0,
    families: tuple[str, ...] = (DEFAULT_CODEC,),
) -> Supernet:
    graph = trace(network.eval(), data.shape)
    points = select_split_points(find_split_points(graph, data.shape), space.splits)
    torch.manual_seed(seed)
    return Supernet(graph, points, space, data.normalise(data.train.images[:16]), families)


def randomise_norms(network: nn.Module, seed: int = 0) -> None:
    """Batch norms with statistics, scales and shifts of their own, as after training; layer scales near one.

    A fresh batch norm is the identity, which would hide a channel that is taken from the wrong place.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(low: float, high: float, like: torch.Tensor) -> torch.Tensor:
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(draw(-0.5, 0.5, module.running_mean))
                module.running_var.copy_(draw(0.5, 1.5, module.running_var))
                module.weight.copy_(draw(0.5, 1.5, module.weight))
                module.bias.copy_(draw(-0.5, 0.5, module.bias))
            if hasattr(module, "layer_scale"):  # ConvNeXt's start at 1e-6
                module.layer_scale.copy_(draw(0.5, 1.0, module.layer_scale))
