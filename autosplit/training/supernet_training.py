"""Training of a supernet: every step trains two plans.

Each step draws a split point and trains two plans there. One is random; the other is the widest in every other step
(nothing pruned, the full code; the sandwich rule of Yu and Huang 2019, arXiv 1903.05134), else random too. Each loss is
divided by a constant plus its own size, so that hopeless plans do not drown the gradient of the good ones, and codes of
very few bits are drawn less often. What these choices bring is measured in `docs/comparison.md`. The teacher is the
untouched backbone.

For a search that prunes layer by layer, half of the random plans have one of some random profiles, a sparsity for each
group. A fixed number of them, because making each takes a while; the shared weights carry over to other
profiles, as they do between sparsities.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import torch
from torch import Tensor

from autosplit.core.plan import INPUT, OUTPUT, CodecSetting, Plan, split_of
from autosplit.core.scenario import TrainingSettings
from autosplit.data.base import ImageDataset
from autosplit.training.codecs import pretrain_codecs
from autosplit.training.injected import pretrain_injected
from autosplit.training.loop import Batch, Teacher, distillation_loss, parameter_groups, train
from autosplit.training.supernet import Supernet

__all__ = ["PlanDraws", "random_profiles", "relative_loss", "train_supernet"]

_CODEC_LR = 4.0  # codecs start from nothing, the backbone from its trained weights
_EQUAL = 1.0  # losses far below it keep their gradient, those far above have that of their logarithm
_SCALE = 1.3  # a loss of 0.3 keeps its gradient
_PROFILE_SHARE = 0.5  # of the random plans, where heads are pruned layer by layer
_SAMPLE_IMAGES = 256  # that show codecs which channels they use
_USUAL_BYTES = 24.0  # smaller codes are drawn in proportion to their size


def train_supernet(
    supernet: Supernet,
    teacher: Teacher,
    data: ImageDataset,
    settings: TrainingSettings,
    seed: int,
    on_step: Callable[[], None] = lambda: None,
    profiles: int = 0,
) -> None:
    """Train a supernet in place.

    Args:
        supernet: Fresh, with the backbone's weights.
        teacher: The untouched backbone.
        data: Its training part is used.
        settings: Epochs, learning rate, batch size.
        seed: Plans, order and augmentation.
        on_step: Called after each step.
        profiles: Heads with a sparsity of their own in each group that are trained at each split point, beside the
            uniform ones: every other random plan has one of them.
    """
    draws = PlanDraws(supernet, Random(seed), profiles)

    def loss(batch: Batch) -> Tensor:
        taught = teacher(batch)
        values = [distillation_loss(supernet(batch.images, plan), batch.labels, taught) + supernet.cost(plan)
                  for plan in draws.next()]
        return torch.stack([relative_loss(v) for v in values]).mean()

    supernet.to(memory_format=torch.channels_last)
    pretrain_injected(supernet, data, settings, seed, on_step)
    pretrain_codecs(supernet, data, settings, seed, on_step)
    supernet.train()
    groups = parameter_groups(supernet.trained_parameters(), supernet.new_parameters(), settings.supernet_lr,
                              _CODEC_LR)
    train(data, groups, loss, epochs=settings.supernet_epochs, batch_size=settings.batch_size, seed=seed,
          weight_decay=1e-4, name="supernet", on_step=on_step)
    supernet.settle(data.normalise(data.train.images[:_SAMPLE_IMAGES]))


def random_profiles(groups: int, most: float, count: int, rng: Random) -> list[tuple[float, ...]]:
    """Sparsities for each group of a head, all different.

    Each scatters around a centre of its own: independent ones would all remove about half of the work.

    Args:
        groups: Number of groups; with fewer than two every head is uniform.
        most: Highest sparsity.
        count: Number of profiles.
        rng: Draws them.
    """
    found = []
    for _ in range(count if groups > 1 else 0):
        centre = rng.uniform(0.0, most)
        found.append(tuple(min(max(centre + rng.uniform(-0.5, 0.5) * most, 0.0), most) for _ in range(groups)))
    return found


def relative_loss(loss: Tensor) -> Tensor:
    """A loss whose gradient is nearly as large for small as for large values; that of its logarithm, far above 1."""
    return loss / (loss.detach() + _EQUAL) * _SCALE


class PlanDraws:
    """The plans of each training step.

    Args:
        supernet: What is trained.
        rng: Draws the plans.
        profiles: As for `train_supernet`.
    """

    def __init__(self, supernet: Supernet, rng: Random, profiles: int = 0) -> None:
        self._supernet, self._rng = supernet, rng
        self._sparsities = {s: levels for s, levels in supernet.plan_space.sparsities.items() if s != INPUT}
        self._settings = {(split, codec.family): codec.settings()
                          for split in supernet.places for codec in supernet.codecs_at(split)}
        self._profiles = {split: random_profiles(len(pruner.groups), max(self._sparsities[split]),
                                                 profiles, Random(f"{split} {rng.random()}"))
                          for split, pruner in supernet.pruners.items()
                      if split in self._sparsities} if profiles else {}
        self._queue: list[str] = []
        self._steps = 0
        self._weights: dict[tuple[str, str], list[float]] = {}

    def next(self) -> tuple[Plan, Plan]:
        """Plans of the split point whose turn it is: all in turn, in random order."""
        if not self._queue:
            splits = list(self._sparsities)
            self._queue.extend(self._rng.sample(splits, len(splits)))
        split = self._queue.pop()
        self._steps += 1
        # the widest plan teaches the weights that all others share
        return (self.random(split) if self._steps % 2 else self._supernet.widest(split)), self.random(split)

    def random(self, split: str) -> Plan:
        """A random plan at a split point: every codec family as often as any other, however many settings it has."""
        sparsity: float | tuple[float, ...] = self._rng.choice(self._sparsities[split])
        if self._profiles.get(split) and self._rng.random() < _PROFILE_SHARE:
            sparsity = self._rng.choice(self._profiles[split])
        if split_of(split) == OUTPUT:
            return Plan.at(split, sparsity, CodecSetting(kind="none"))
        codec = self._rng.choice(self._supernet.codecs_at(split))
        key = (split, codec.family)
        settings = self._settings[key]
        if key not in self._weights:
            sizes = [math.prod(codec.code_shape(s)) * (s.bits or 0) / 8 for s in settings]
            self._weights[key] = [min(1.0, size / _USUAL_BYTES) for size in sizes]
        return Plan.at(split, sparsity, self._rng.choices(settings, self._weights[key])[0])
