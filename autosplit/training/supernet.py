"""The supernet: one set of weights that every plan is a part of.

Channels of the head are ordered by importance and code channels are nested, so that plans share weights without
disturbing one another. How the weights are trained is in `autosplit.training.supernet_training`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from autosplit.compression import build_codec
from autosplit.compression.codecs.base import Codec, Offer
from autosplit.compression.network import SplitNetwork, recalibrate
from autosplit.core.errors import ConfigError
from autosplit.core.plan import DEFAULT_CODEC, INPUT, OUTPUT, CodecSetting, Plan
from autosplit.core.scenario import SearchSpace
from autosplit.core.space import PlanSpace
from autosplit.data.base import in_batches
from autosplit.models.inference import evaluation_mode
from autosplit.models.pruning import HeadPruner
from autosplit.models.splitting import SplitPoint, cut

__all__ = ["Supernet"]

_SAMPLE_BATCH = 64


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
        # the caller keeps the backbone as the teacher
        self.backbone: fx.GraphModule = copy.deepcopy(backbone)
        self.points = {p.name: p for p in points}
        self._space = space
        shape = tuple(sample.shape[1:])
        self._halves: dict[str, tuple[fx.GraphModule, nn.Module]] = {}
        self._families = tuple(families)
        self.codecs = nn.ModuleDict()
        for point in points:
            head, tail = cut(self.backbone, point)
            self._halves[point.name] = (head, tail)
            self._add_codecs(point, head, sample)
        if space.whole_on_device:
            self._halves[OUTPUT] = (self.backbone, nn.Identity())
        prunable = max(space.sparsities) > 0
        self.pruners = {name: HeadPruner(head, shape, prunable) for name, (head, _) in self._halves.items()}

    def _add_codecs(self, point: SplitPoint, head: nn.Module, sample: Tensor) -> None:
        """Add the codecs of all families at one split point, started from the features of some images."""
        if len(point.shape) != 3:
            raise ConfigError(f"split point {point.name!r}: codecs take feature maps (C, H, W), "
                              f"this feature has shape {point.shape}")
        with evaluation_mode(head), torch.inference_mode():
            features = torch.cat([head(part) for part in in_batches(sample, _SAMPLE_BATCH)])
        features = features.clone()  # out here, so that it is no inference tensor
        shape = (point.shape[0], point.shape[1], point.shape[2])
        space = self._space
        offer = Offer(space.widths, space.bits, space.max_grid, space.grid_levels, space.rates)
        # built before any is fitted: building draws from the random generator, and its order fixes the weights
        found = [build_codec(family, shape, offer, bool(features.min() >= 0)) for family in self._families]
        for codec in found:
            codec.fit(features)
            self.codecs[_key(point.name, codec.family)] = codec

    @property
    def plan_space(self) -> PlanSpace:
        """Every plan that is a part of this network; training may leave codes with fewer channels (`settle`)."""
        sparsities: dict[str, tuple[float, ...]] = {}
        codecs: dict[str, tuple[CodecSetting, ...]] = {}
        if self._space.whole_on_edge:
            sparsities[INPUT] = (0.0,)
            codecs[INPUT] = self._space.image_settings("png", "jpeg", "jpeg-shared", "webp-shared", "avif-shared")
        for name in self.points:
            sparsities[name] = self.distinct_sparsities(name)
            codecs[name] = tuple(s for family in self._families for s in self.codec(name, family).settings())
        if self._space.whole_on_device:
            sparsities[OUTPUT] = self.distinct_sparsities(OUTPUT)
            codecs[OUTPUT] = (CodecSetting(kind="none"),)
        return PlanSpace(tuple(sparsities), sparsities, codecs)

    def settle(self, sample: Tensor) -> None:
        """Leave training: codecs drop what they have no use for.

        Args:
            sample: Some normalised images (N, C, H, W).
        """
        self.eval()
        for split in self.points:
            head = self.extract_head(self.widest(split))
            recalibrate(head, sample, _SAMPLE_BATCH)
            with torch.inference_mode():
                features = torch.cat([head(part) for part in in_batches(sample, _SAMPLE_BATCH)])
            for codec in self.codecs_at(split):
                codec.settle(features.clone())

    def distinct_sparsities(self, split: str) -> tuple[float, ...]:
        """The sparsities that give different heads here: where nothing can be pruned, only the lowest."""
        # by what is left of each group: two sparsities may round to the same head
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
        else:  # the pruned structure on slices of the shared weights, so that gradients reach these
            sub = pruner.sub_network(keep)
            feature = torch.func.functional_call(sub.module.train(self.training), sub.gather(head), (images,))
        if plan.split != OUTPUT:
            feature = self.codec(plan.split, plan.codec.family)(feature, plan.codec)
        return tail(feature)  # type: ignore[no-any-return]

    def cost(self, plan: Plan) -> Tensor:
        """What the bytes of the last batch add to the loss of a plan."""
        return torch.zeros(()) if plan.split == OUTPUT else self.codec(plan.split, plan.codec.family).cost()

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
        head = sub.materialise(self.head(plan.split))
        return head.to(memory_format=torch.channels_last).eval()

    def head(self, split: str) -> fx.GraphModule:
        """The unpruned head at a split point, sharing the supernet's weights."""
        return self._halves[split][0]

    def tail(self, split: str) -> nn.Module:
        """The tail at a split point, sharing the supernet's weights."""
        return self._halves[split][1]


def _key(split: str, family: str) -> str:
    """Name of a module: without dots."""
    return f"{split}|{family}".replace(".", "/")
