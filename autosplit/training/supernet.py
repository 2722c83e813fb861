"""The supernet: one set of weights that every plan is a part of.

Each step draws a split point and trains two plans there: the widest (nothing pruned, the full code; the sandwich
rule of Yu and Huang 2019, arXiv 1903.05134) and a random one. Channels of the head are ordered by importance and
code channels are nested, so that plans share weights without disturbing one another. The teacher is the untouched
backbone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from random import Random

import torch
from torch import Tensor, fx, nn

from autosplit.backbones.splitting import SplitPoint, cut
from autosplit.compression.codecs import NestedCodec
from autosplit.compression.network import SplitNetwork
from autosplit.compression.pruning import HeadPruner
from autosplit.datasets.base import ImageDataset
from autosplit.errors import ConfigError
from autosplit.evaluation.base import PlanSpace
from autosplit.modes import evaluation_mode
from autosplit.plan import INPUT, OUTPUT, CodecSetting, Plan
from autosplit.scenario import SearchSpace, TrainingSettings
from autosplit.training.loop import Batch, Teacher, distillation_loss, train

__all__ = ["Supernet", "train_supernet"]

_CODEC_LR = 4.0  # codecs start from nothing, the backbone from its trained weights
_LIMIT_LR = 0.1


class Supernet(nn.Module):
    """Backbone and codecs whose weights all plans share.

    Args:
        backbone: Traced and trained; copied.
        points: Split points of the search space.
        space: Sparsities, widths, grids and bits on offer.
        sample: A few normalised images (N, C, H, W), from which the range of each feature is read.
        codec: Class of the codecs, with the interface of `NestedCodec`.
    """

    def __init__(
        self,
        backbone: fx.GraphModule,
        points: Sequence[SplitPoint],
        space: SearchSpace,
        sample: Tensor,
        codec: type[NestedCodec] = NestedCodec,
    ) -> None:
        super().__init__()
        self.backbone: fx.GraphModule = copy.deepcopy(backbone)
        self.points = {p.name: p for p in points}
        self._space = space
        shape = tuple(sample.shape[1:])
        self._halves: dict[str, tuple[fx.GraphModule, nn.Module]] = {}
        codecs = {}
        for point in points:
            head, tail = cut(self.backbone, point)
            self._halves[point.name] = (head, tail)
            codecs[_key(point.name)] = _codec(codec, point, head, space, sample)
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
            )
        for name in self.points:
            sparsities[name] = self._distinct(name)
            codecs[name] = self.codec(name).settings()
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

    def codec(self, split: str) -> NestedCodec:
        """The codec at a split point."""
        codec = self.codecs[_key(split)]
        assert isinstance(codec, NestedCodec)
        return codec

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
            feature = self.codec(plan.split)(feature, plan.codec)
        return tail(feature)  # type: ignore[no-any-return]

    def extract(self, plan: Plan) -> SplitNetwork:
        """A plan as an independent network with copies of the shared weights; batch norm is not recalibrated."""
        parts = self.codec(plan.split).pair(plan.codec) if plan.codec.kind == "code" else (None, None, None)
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


def _key(split: str) -> str:
    return split.replace(".", "/")


def _codec(
    kind: type[NestedCodec], point: SplitPoint, head: nn.Module, space: SearchSpace, sample: Tensor
) -> NestedCodec:
    if len(point.shape) != 3:
        raise ConfigError(f"split point {point.name!r}: the nested codec takes feature maps (C, H, W), "
                          f"this feature has shape {point.shape}")
    with evaluation_mode(head), torch.inference_mode():
        nonnegative = bool(head(sample).min() >= 0)
    return kind((point.shape[0], point.shape[1], point.shape[2]), space.widths, space.bits, space.max_grid,
                space.grid_levels, nonnegative)


def train_supernet(
    supernet: Supernet,
    teacher: Teacher,
    data: ImageDataset,
    settings: TrainingSettings,
    seed: int,
    on_step: Callable[[], None] = lambda: None,
) -> None:
    """Train a supernet in place.

    Args:
        supernet: Fresh, with the backbone's weights.
        teacher: The untouched backbone.
        data: Its training part is used.
        settings: Epochs, learning rate, batch size.
        seed: Plans, order and augmentation.
        on_step: Called after each step.
    """
    rng = Random(seed)
    space = supernet.plan_space
    splits = [s for s in space.splits if s != INPUT]
    queue: list[str] = []

    def loss(batch: Batch) -> Tensor:
        if not queue:  # every split point in turn, in random order
            queue.extend(rng.sample(splits, len(splits)))
        split = queue.pop()
        taught = teacher(batch)
        chance = Plan(split=split, sparsity=rng.choice(space.sparsities[split]), codec=rng.choice(space.codecs[split]))
        pair = (supernet.widest(split), chance)
        values = [distillation_loss(supernet(batch.images, p), batch.labels, taught) for p in pair]
        return torch.stack(values).mean()

    supernet.to(memory_format=torch.channels_last)
    supernet.train()
    limits = [p for n, p in supernet.codecs.named_parameters() if n.endswith("limit")]
    codecs = [p for n, p in supernet.codecs.named_parameters() if not n.endswith("limit")]
    lr = settings.supernet_lr
    groups = [(list(supernet.backbone.parameters()), lr), (codecs, lr * _CODEC_LR), (limits, lr * _LIMIT_LR)]
    train(data, groups, loss, epochs=settings.supernet_epochs, batch_size=settings.batch_size, seed=seed,
          weight_decay=1e-4, on_step=on_step)
    supernet.eval()
