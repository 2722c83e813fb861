"""Training of injected heads alone: each imitates the backbone's feature at its split point.

The squared error of the restored feature, over that feature's variance, is all that is minimised; neither codec nor
tail takes part, so a step costs little. What comes out is where the joint training begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import torch
from torch import Tensor
from torch.nn import functional as F

from autosplit.core.plan import head_of
from autosplit.core.scenario import TrainingSettings
from autosplit.data.base import ImageDataset
from autosplit.training.loop import Batch, batches, train_alone
from autosplit.training.supernet import Supernet

__all__ = ["injected_steps", "pretrain_injected"]

_LEARNING_RATE = 2e-3
_SAMPLE_IMAGES = 256


def injected_steps(supernet: Supernet, settings: TrainingSettings) -> int:
    """Steps that `pretrain_injected` takes."""
    return len(_injected(supernet)) * settings.injected_steps


def pretrain_injected(
    supernet: Supernet, data: ImageDataset, settings: TrainingSettings, seed: int,
    on_step: Callable[[], None] = lambda: None,
) -> None:
    """Train every injected head of a supernet to imitate the backbone, and start its codecs from its features anew.

    Args:
        supernet: Fresh; the backbone's weights stay as they are.
        data: Its training part is used, without labels.
        settings: Steps and batch size.
        seed: Order and augmentation.
        on_step: Called after each step.
    """
    sample = data.normalise(data.train.images[:_SAMPLE_IMAGES])
    for place in _injected(supernet) if settings.injected_steps else ():
        networks = supernet.injected_parts(place)
        parameters = [p for network in networks for p in network.parameters()]
        generator = torch.Generator().manual_seed(seed)
        for network in networks:
            network.train()
        endless = (batch for _ in count() for batch in batches(data, settings.batch_size, generator))

        def loss(place: str = place, endless: Iterator[Batch] = endless) -> Tensor:
            restored, target = supernet.imitate(place, next(endless).images)
            return F.mse_loss(restored.float(), target.float()) / target.float().var().clamp_min(1e-12)

        train_alone(parameters, loss, settings.injected_steps, _LEARNING_RATE, data.accelerator, clip=5.0,
                    on_step=on_step)
        supernet.restart_codecs(place, sample)


def _injected(supernet: Supernet) -> list[str]:
    """Places with an injected head."""
    return [place for place in supernet.places if head_of(place) == "injected"]
