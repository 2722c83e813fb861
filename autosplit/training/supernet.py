"""The supernet: one set of weights that every plan is a part of.

Each step draws a split point and trains two plans there. One is random; the other is the widest in every other step
(nothing pruned, the full code; the sandwich rule of Yu and Huang 2019, arXiv 1903.05134), else random too. Each loss is
divided by a constant plus its own size, so that hopeless plans do not drown the gradient of the good ones, and codes of
very few bits are drawn less often. What these choices bring is measured in `docs/supernet.md`.

Channels of the head are ordered by importance and code channels are nested, so that plans share weights without
disturbing one another. The teacher is the untouched backbone.

For a search that prunes layer by layer, half of the random plans have one of some random profiles, a sparsity for each
group. A fixed number of them, because torch-pruning takes 0.1 to 0.5 s for each; the shared weights carry over to other
profiles, as they do between sparsities.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from random import Random

import torch
from torch import Tensor, fx, nn

from autosplit.backbones.splitting import SplitPoint, cut
from autosplit.compression import build_codec
from autosplit.compression.codecs.base import Codec, Offer
from autosplit.compression.network import SplitNetwork
from autosplit.compression.pruning import HeadPruner
from autosplit.datasets.base import ImageDataset, in_batches
from autosplit.errors import ConfigError
from autosplit.evaluation.base import PlanSpace
from autosplit.modes import evaluation_mode
from autosplit.plan import DEFAULT_CODEC, INPUT, OUTPUT, CodecSetting, Plan
from autosplit.scenario import SearchSpace, TrainingSettings
from autosplit.training.codecs import pretrain_codecs
from autosplit.training.loop import Batch, Teacher, distillation_loss, rate_groups, train

__all__ = ["Supernet", "random_profiles", "relative_loss", "train_supernet"]

_CODEC_LR = 4.0  # codecs start from nothing, the backbone from its trained weights
_SAMPLE_BATCH = 64
_EQUAL = 1.0
_SCALE = 1.3
_PROFILE_SHARE = 0.5  # of the random plans, where heads are pruned layer by layer
_USUAL_BYTES = 24.0  # smaller codes are drawn in proportion to their size


class Supernet(nn.Module):
    """Backbone and codecs whose weights all plans share.

    Args:
        backbone: Traced and trained; copied.
        points: Split points of the search space.
        space: Sparsities, widths, grids and bits on offer.
        sample: Some normalised images (N, C, H, W), whose features codecs start from.
        families: Names of the codecs at each split point.
    """

    def __init__(
        self,
        backbone: fx.GraphModule,
        points: Sequence[SplitPoint],
        space: SearchSpace,
        sample: Tensor,
        families: Sequence[str] = (DEFAULT_CODEC,),
    ) -> None:
        super().__init__()
        self.backbone: fx.GraphModule = copy.deepcopy(backbone)
        self.points = {p.name: p for p in points}
        self._space = space
        shape = tuple(sample.shape[1:])
        self._halves: dict[str, tuple[fx.GraphModule, nn.Module]] = {}
        self._families = tuple(families)
        codecs: dict[str, Codec] = {}
        for point in points:
            head, tail = cut(self.backbone, point)
            self._halves[point.name] = (head, tail)
            codecs |= {_key(point.name, c.family): c for c in _codecs(families, point, head, space, sample)}
        self.codecs = nn.ModuleDict(codecs)
        if space.whole_on_device:
            self._halves[OUTPUT] = (self.backbone, nn.Identity())
        prunable = max(space.sparsities) > 0
        self.pruners = {name: HeadPruner(head, shape, prunable) for name, (head, _) in self._halves.items()}
        self.plan_space = self._resolve(space)

    def _resolve(self, space: SearchSpace) -> PlanSpace:
        sparsities: dict[str, tuple[float, ...]] = {}
        codecs: dict[str, tuple[CodecSetting, ...]] = {}
        if space.whole_on_edge:
            sparsities[INPUT] = (0.0,)
            codecs[INPUT] = (
                CodecSetting(kind="png"),
                *(CodecSetting(kind="jpeg", quality=q) for q in reversed(space.jpeg_qualities)),
                *(CodecSetting(kind="jpeg-body", quality=q) for q in reversed(space.jpeg_qualities)),
            )
        for name in self.points:
            sparsities[name] = self._distinct(name)
            codecs[name] = tuple(s for family in self._families for s in self.codec(name, family).settings())
        if space.whole_on_device:
            sparsities[OUTPUT] = self._distinct(OUTPUT)
            codecs[OUTPUT] = (CodecSetting(kind="none"),)
        return PlanSpace(tuple(sparsities), sparsities, codecs)

    def _distinct(self, split: str) -> tuple[float, ...]:
        """The sparsities that give different heads here: where nothing can be pruned, only the lowest."""
        seen: dict[tuple[int, ...], float] = {}
        for s in self._space.sparsities:
            seen.setdefault(self.pruners[split].keep_counts(s), s)
        return tuple(seen.values())

    def codec(self, split: str, family: str | None = None) -> Codec:
        """A codec at a split point: the first family's, unless another is named."""
        codec = self.codecs[_key(split, family or self._families[0])]
        assert isinstance(codec, Codec)
        return codec

    def codecs_at(self, split: str) -> list[Codec]:
        """The codecs of all families at a split point."""
        return [self.codec(split, family) for family in self._families]

    def widest(self, split: str) -> Plan:
        """The plan that loses least at a split point."""
        codec = CodecSetting(kind="none") if split == OUTPUT else self.codec(split).widest
        return Plan(split=split, sparsity=0.0, codec=codec)

    def forward(self, images: Tensor, plan: Plan) -> Tensor:
        """Logits of a plan, differentiable down to the shared weights; batch norm uses the batch's statistics.

        Args:
            images: Normalised, (N, C, H, W).
            plan: With a learned codec, or the whole network on the device.
        """
        head, tail = self._halves[plan.split]
        pruner = self.pruners[plan.split]
        keep = pruner.keep_counts(plan.sparsity)
        if all(k == g.channels for k, g in zip(keep, pruner.groups, strict=True)):
            feature = head(images)
        else:
            sub = pruner.sub_network(keep)
            feature = torch.func.functional_call(sub.module.train(self.training), sub.gather(_tensors(head)), (images,))
        if plan.split != OUTPUT:
            feature = self.codec(plan.split, plan.codec.family)(feature, plan.codec)
        return tail(feature)  # type: ignore[no-any-return]

    def extract(self, plan: Plan) -> SplitNetwork:
        """A plan as an independent network with copies of the shared weights; batch norm is not recalibrated."""
        coded = plan.codec.kind == "code"
        parts = self.codec(plan.split, plan.codec.family).parts(plan.codec) if coded else (None, None, None)
        network = SplitNetwork(self.extract_head(plan), copy.deepcopy(self.tail(plan.split)), *parts)
        return network.to(memory_format=torch.channels_last).eval()

    def extract_head(self, plan: Plan) -> fx.GraphModule:
        """A plan's pruned head alone, with copies of the shared weights."""
        pruner = self.pruners[plan.split]
        sub = pruner.sub_network(pruner.keep_counts(plan.sparsity))
        head = sub.materialise(_tensors(self.head(plan.split)))
        return head.to(memory_format=torch.channels_last).eval()

    def head(self, split: str) -> fx.GraphModule:
        """The unpruned head at a split point, sharing the supernet's weights."""
        return self._halves[split][0]

    def tail(self, split: str) -> nn.Module:
        """The tail at a split point, sharing the supernet's weights."""
        return self._halves[split][1]


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _key(split: str, family: str) -> str:
    """Name of a module: without dots."""
    return f"{split}|{family}".replace(".", "/")


def _codecs(
    families: Sequence[str], point: SplitPoint, head: nn.Module, space: SearchSpace, sample: Tensor
) -> list[Codec]:
    """The codecs at one split point, started from the features of some images."""
    if len(point.shape) != 3:
        raise ConfigError(f"split point {point.name!r}: codecs take feature maps (C, H, W), "
                          f"this feature has shape {point.shape}")
    with evaluation_mode(head), torch.inference_mode():
        features = torch.cat([head(part) for part in in_batches(sample, _SAMPLE_BATCH)])
    features = features.clone()  # out here, so that it is no inference tensor
    shape = (point.shape[0], point.shape[1], point.shape[2])
    offer = Offer(space.widths, space.bits, space.max_grid, space.grid_levels)
    found = [build_codec(family, shape, offer, bool(features.min() >= 0)) for family in families]
    for codec in found:
        codec.fit(features)
    return found


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
    draws = _Draws(supernet, Random(seed), profiles)

    def loss(batch: Batch) -> Tensor:
        taught = teacher(batch)
        values = [distillation_loss(supernet(batch.images, p), batch.labels, taught) for p in draws.next()]
        return torch.stack([relative_loss(v) for v in values]).mean()

    supernet.to(memory_format=torch.channels_last)
    pretrain_codecs(supernet, data, settings, seed, on_step)
    supernet.train()
    groups = rate_groups(supernet.backbone.parameters(), supernet.codecs.named_parameters(), settings.supernet_lr,
                         _CODEC_LR)
    train(data, groups, loss, epochs=settings.supernet_epochs, batch_size=settings.batch_size, seed=seed,
          weight_decay=1e-4, name="supernet", on_step=on_step)
    supernet.eval()


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


class _Draws:
    """The plans of each step."""

    def __init__(self, supernet: Supernet, rng: Random, profiles: int = 0) -> None:
        self._supernet, self._rng = supernet, rng
        self._profiles = {split: random_profiles(len(pruner.groups), max(supernet.plan_space.sparsities[split]),
                                                 profiles, Random(f"{split} {rng.random()}"))
                          for split, pruner in supernet.pruners.items()} if profiles else {}
        self._queue: list[str] = []
        self._steps = 0
        self._weights: dict[tuple[str, str], list[float]] = {}

    def next(self) -> tuple[Plan, Plan]:
        """Plans of the split point whose turn it is: all in turn, in random order."""
        if not self._queue:
            splits = [s for s in self._supernet.plan_space.splits if s != INPUT]
            self._queue.extend(self._rng.sample(splits, len(splits)))
        split = self._queue.pop()
        self._steps += 1
        return (self._random(split) if self._steps % 2 else self._supernet.widest(split)), self._random(split)

    def _random(self, split: str) -> Plan:
        sparsity: float | tuple[float, ...] = self._rng.choice(self._supernet.plan_space.sparsities[split])
        if self._profiles.get(split) and self._rng.random() < _PROFILE_SHARE:
            sparsity = self._rng.choice(self._profiles[split])
        return Plan(split=split, sparsity=sparsity, codec=self._codec(split))

    def _codec(self, split: str) -> CodecSetting:
        """Every family as often as any other, however many settings it has."""
        if split == OUTPUT:
            return CodecSetting(kind="none")
        codec = self._rng.choice(self._supernet.codecs_at(split))
        settings, key = codec.settings(), (split, codec.family)
        if key not in self._weights:
            sizes = [math.prod(codec.code_shape(s)) * (s.bits or 0) / 8 for s in settings]
            self._weights[key] = [min(1.0, size / _USUAL_BYTES) for size in sizes]
        return self._rng.choices(settings, self._weights[key])[0]
