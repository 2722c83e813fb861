"""Training of an exit behind a head that stays as it is.

The exit changes nothing else: what is sent is answered as without it. So it can be fitted when head and tail are done,
on features of training images that are computed once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from autosplit.data.base import ImageDataset
from autosplit.models.exits import build_exit, pooled
from autosplit.models.inference import evaluation_mode
from autosplit.training.loop import autocast, distillation_loss, logits_of

__all__ = ["fit_exit", "temperature"]

_STEPS = 500
_BATCH = 64
_LEARNING_RATE = 3e-3
_WEIGHT_DECAY = 0.02
_MOST_IMAGES = 8192
_MOST_BYTES = 256e6
_RANGE = (0.05, 20.0)  # of temperatures


def fit_exit(
    head: nn.Module, structure: Mapping[str, Any], data: ImageDataset, taught: Tensor | None, seed: int
) -> fx.GraphModule:
    """Fit an exit to a head, and calibrate its confidence.

    Args:
        head: Normalised images -> feature; frozen.
        structure: Of the exit.
        data: The exit is trained on its training part and calibrated on its calibration part.
        taught: The backbone's logits of all training images, (N, classes); `None` = labels alone teach.
        seed: Start and order.

    Returns:
        In evaluation mode; logits are divided by the temperature already.
    """
    def features(images: Tensor) -> Tensor:
        return logits_of(lambda x: pooled(structure, head(x)), data, images)

    with evaluation_mode(head):
        size = 4.0 * features(data.train.images[:1]).numel()
        part = data.train.first(max(2, min(_MOST_IMAGES, int(_MOST_BYTES / size))))
        given, calibration = features(part.images), features(data.calibration.images)
    torch.manual_seed(seed)
    exit_, generator = build_exit({**structure, "pool": 1}), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(exit_.parameters(), _LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _STEPS)
    exit_.train()
    for _ in range(_STEPS):
        pick = torch.randint(len(given), (min(_BATCH, len(given)),), generator=generator)
        x = given[pick]
        if data.augment and torch.rand((), generator=generator) < 0.5:  # mirrored pictures have mirrored features
            x = x.flip(3)
        with autocast():
            logits = exit_(x)
            loss = (F.cross_entropy(logits.float(), part.labels[pick]) if taught is None
                    else distillation_loss(logits, part.labels[pick], taught[pick], temperature=2.0, hard=0.5))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    exit_.eval().requires_grad_(False)
    with torch.inference_mode():
        scale = temperature(exit_(calibration), data.calibration.labels)
    whole = build_exit(structure)
    whole.load_state_dict(exit_.state_dict())
    last = [m for m in whole.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        last.weight.div_(scale)
        last.bias.div_(scale)
    return whole.eval().requires_grad_(False)


def temperature(logits: Tensor, labels: Tensor) -> float:
    """What logits are to be divided by so that the likelihood of the labels is highest (Guo et al. 2017).

    Args:
        logits: (N, classes).
        labels: (N,).
    """
    logits = logits.double()
    low, high = (math.log(t) for t in _RANGE)
    ratio = (math.sqrt(5) - 1) / 2

    def loss(at: float) -> float:
        return float(F.cross_entropy(logits / math.exp(at), labels))

    # the loss has one minimum in the inverse of the temperature: golden section
    for _ in range(40):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)
