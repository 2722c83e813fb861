"""Training a backbone from scratch, when the user gave no weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from autosplit.core.scenario import TrainingSettings
from autosplit.data.base import ImageDataset
from autosplit.training.loop import Batch, Group, train

__all__ = ["train_backbone"]


def train_backbone(
    model: nn.Module,
    data: ImageDataset,
    settings: TrainingSettings,
    seed: int,
    on_step: Callable[[], None] = lambda: None,
) -> None:
    """Train a classifier in place with cross-entropy.

    Args:
        model: Takes normalised images, gives logits; left in evaluation mode.
        data: Its training part is used.
        settings: Epochs, learning rate, batch size.
        seed: Order and augmentation; weights are as they come.
        on_step: Called after each step.
    """
    model.to(memory_format=torch.channels_last)
    model.train()

    def loss(batch: Batch) -> torch.Tensor:
        # in float32 also where the network computes in bfloat16
        return F.cross_entropy(model(batch.images).float(), batch.labels)

    train(data, [Group(list(model.parameters()), settings.backbone_lr)], loss, epochs=settings.backbone_epochs,
          batch_size=settings.batch_size, seed=seed, name="backbone", on_step=on_step)
    model.eval()
