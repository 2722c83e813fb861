"""The supernet: one set of weights that every plan is a part of.

Each step draws a split point and trains two plans there. One is random; the other is the widest in every other step
(nothing pruned, the full code; the sandwich rule of Yu and Huang 2019, arXiv 1903.05134), else random too. Each loss is
divided by a constant plus its own size, so that hopeless plans do not drown the gradient of the good ones, and codes of
very few bits are drawn less often. What these choices bring is measured in `docs/comparison.md`.

Channels of the head are ordered by importance and code channels are nested, so that plans share weights without
disturbing one another. The teacher is the untouched backbone.

For a search that prunes layer by layer, half of the random plans have one of some random profiles, a sparsity for each
group. A fixed number of them, because torch-pruning takes 0.1 to 0.5 s for each; the shared weights carry over to other
profiles, as they do between sparsities.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from autosplit.compression import build_codec
from autosplit.compression.codecs.base import Codec, Offer
from autosplit.compression.network import SplitNetwork
from autosplit.core.errors import ConfigError
from autosplit.core.plan import DEFAULT_CODEC, INPUT, OUTPUT, CodecSetting, Plan
from autosplit.core.scenario import SearchSpace
from autosplit.core.space import PlanSpace
from autosplit.data.base import in_batches
from autosplit.models.inference import evaluation_mode
from autosplit.models.pruning import HeadPruner
from autosplit.models.splitting import SplitPoint, cut

__all__ = ["Supernet"]

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
