"""Training of an exit's classifier, behind a head that stays as it is.

The exit changes nothing else: what is sent is answered as without it. So it can be fitted when head and tail are done,
on features of training images that are computed once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from autosplit.data.base import ImageDataset
from autosplit.models.exits import build_classifier, pooled
from autosplit.models.inference import evaluation_mode
from autosplit.training.loop import distillation_loss, logits_of, train_alone

__all__ = ["fit_classifier"]

_STEPS = 500
_BATCH = 64
_LEARNING_RATE = 3e-3
_WEIGHT_DECAY = 0.02
_MOST_IMAGES = 8192
_MOST_BYTES = 256e6


def fit_classifier(
    head: nn.Module, structure: Mapping[str, Any], data: ImageDataset, taught: Tensor | None, seed: int
) -> fx.GraphModule:
    """Fit the classifier of an exit to a head.

    Args:
        head: Normalised images -> feature; frozen.
        structure: Of the classifier.
        data: Its training part is used.
        taught: The backbone's logits of all training images, (N, classes); `None` = labels alone teach.
        seed: Start and order.

    Returns:
        In evaluation mode, on the data's accelerator, as the head is.
    """
    def features(images: Tensor) -> Tensor:
        return logits_of(lambda x: pooled(structure, head(x)), data, images)

    with evaluation_mode(head):
        size = 4.0 * features(data.train.images[:1]).numel()
        part = data.train.first(max(2, min(_MOST_IMAGES, int(_MOST_BYTES / size))))
        given, labels = features(part.images), data.moved(part.labels)
    torch.manual_seed(seed)
    classifier, generator = build_classifier({**structure, "pool": 1}), torch.Generator().manual_seed(seed)
    classifier.to(data.accelerator.device).train()

    def loss() -> Tensor:
        pick = torch.randint(len(given), (min(_BATCH, len(given)),), generator=generator)
        x = given[pick]
        if data.augment and torch.rand((), generator=generator) < 0.5:  # mirrored pictures have mirrored features
            x = x.flip(3)
        logits = classifier(x)
        if taught is None:
            return F.cross_entropy(logits.float(), labels[pick])
        return distillation_loss(logits, labels[pick], taught[pick], temperature=2.0, hard=0.5)

    train_alone(classifier.parameters(), loss, _STEPS, _LEARNING_RATE, data.accelerator, weight_decay=_WEIGHT_DECAY)
    whole = build_classifier(structure)
    whole.load_state_dict(classifier.state_dict())
    return whole.to(data.accelerator.device).eval().requires_grad_(False)
