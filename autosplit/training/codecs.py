"""Training of codecs alone, with the backbone frozen: the steps that a family asks for before the joint training."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autosplit.compression.codecs.base import Codec, Phase
from autosplit.core.accelerator import CPU, Accelerator
from autosplit.core.scenario import TrainingSettings
from autosplit.data.base import ImageDataset, in_batches
from autosplit.models.inference import evaluation_mode
from autosplit.training.loop import distillation_loss, logits_of, train_alone

if TYPE_CHECKING:
    from autosplit.training.supernet import Supernet

__all__ = ["pretrain_codec", "pretrain_codecs", "pretraining_steps"]

_LEARNING_RATE = 2e-3
_MOST_IMAGES = 2048
_MOST_BYTES = 256e6


def pretraining_steps(supernet: Supernet, settings: TrainingSettings) -> int:
    """Steps that `pretrain_codecs` takes."""
    return sum(_steps(phase, settings) for place in supernet.places
               for codec in supernet.codecs_at(place) for phase in codec.phases())


def pretrain_codecs(
    supernet: Supernet, data: ImageDataset, settings: TrainingSettings, seed: int,
    on_step: Callable[[], None] = lambda: None,
) -> None:
    """Train every codec of a supernet that has phases of its own; the backbone's weights stay as they are."""
    for place in supernet.places:
        wanting = [c for c in supernet.codecs_at(place) if c.phases()]
        if wanting:
            head, tail = supernet.head(place), supernet.tail(place)
            features, labels = frozen_features(head, data, supernet.feature_shape(place))
            for codec in wanting:
                pretrain_codec(codec, tail, features, labels, settings, seed, data.accelerator, on_step)


def frozen_features(head: nn.Module, data: ImageDataset, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Features (N, C, H, W) of training images and their labels; as many as fit in some memory."""
    size = 4.0 * torch.Size(shape).numel()
    part = data.train.first(max(2, min(_MOST_IMAGES, int(_MOST_BYTES / size))))
    with evaluation_mode(head):
        return logits_of(head, data, part.images, 128), data.moved(part.labels)


def pretrain_codec(
    codec: Codec, tail: nn.Module, features: Tensor, labels: Tensor, settings: TrainingSettings, seed: int,
    accelerator: Accelerator = CPU, on_step: Callable[[], None] = lambda: None,
) -> None:
    """Take one codec through its phases, a random setting in each step.

    Args:
        codec: Trained in place.
        tail: Feature -> logits; frozen, and the teacher where it gets the untouched feature.
        features: Of training images, (N, C, H, W).
        labels: Of the same images, (N,).
        settings: Steps and batch size.
        seed: Images and settings.
        accelerator: Where all of these are.
        on_step: Called after each step.
    """
    rng, generator = Random(seed), torch.Generator().manual_seed(seed)
    choices = codec.settings()
    # the tail is the supernet's own: it is trained later, together with the codecs
    frozen = [p for p in tail.parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    with evaluation_mode(tail):
        with torch.no_grad():
            # the frozen backbone teaches: its answer to a feature never changes
            answers = torch.cat([tail(part).float() for part in in_batches(features, 128)])
        codec.train()
        for phase in codec.phases():
            def loss(phase: Phase = phase) -> Tensor:
                pick = torch.randint(len(features), (min(settings.batch_size, len(features)),), generator=generator)
                restored = phase.restore(features[pick], rng.choice(choices))
                value = (F.mse_loss(restored.float(), features[pick]) if phase.loss == "feature"
                         else distillation_loss(tail(restored), labels[pick], answers[pick]))
                return value if phase.penalty is None else value + phase.penalty()

            train_alone(phase.parameters, loss, _steps(phase, settings), _LEARNING_RATE, accelerator, on_step=on_step)
            phase.finish()
    for parameter in frozen:
        parameter.requires_grad_(True)


def _steps(phase: Phase, settings: TrainingSettings) -> int:
    return max(1, round(phase.share * settings.codec_steps))
