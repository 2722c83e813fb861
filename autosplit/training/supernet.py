"""The supernet: one set of weights that every plan is a part of.

Channels of the head are ordered by importance and code channels are nested, so that plans share weights without
disturbing one another. How the weights are trained is in `autosplit.training.supernet_training`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from autosplit.compression import build_codec
from autosplit.compression.codecs.base import Codec, Offer
from autosplit.compression.network import SplitNetwork, recalibrate
from autosplit.core.errors import ConfigError, UnknownNameError
from autosplit.core.plan import (
    DEFAULT_CODEC,
    INPUT,
    OUTPUT,
    REDUCED_BY,
    CodecSetting,
    Plan,
    head_of,
    place_of,
    split_of,
)
from autosplit.core.scenario import SearchSpace
from autosplit.core.space import PlanSpace
from autosplit.data.base import in_batches
from autosplit.models.costs import stage_cost
from autosplit.models.entropic_student import ENTROPIC_STUDENT, student_structure
from autosplit.models.inference import evaluation_mode
from autosplit.models.injected import injected_networks, injected_structure
from autosplit.models.pruning import HeadPruner
from autosplit.models.reduced import Enlarge, reduced, reduced_structure, runs_reduced
from autosplit.models.splitting import SplitPoint, cut

__all__ = ["Supernet"]

_SAMPLE_BATCH = 64
_TRAINED = ("backbone.", "reduced.")  # parameters that come trained begin with these names
_STUDENT_SHARE = 0.2  # of the backbone's work, for the encoder of Entropic Student


class Supernet(nn.Module):
    """Backbone and codecs whose weights all plans share.

    Args:
        backbone: Traced and trained; it becomes part of the supernet.
        points: Split points of the search space.
        space: Heads, sparsities, widths, grids, bits and rates on offer.
        sample: Some normalised images (N, C, H, W), whose features codecs start from.
        families: Names of the codecs at each place.

    Attributes:
        places: Where codes are sent: split points with the backbone's own head, or with one of another kind.
        structures: Of injected and reduced heads and of what restores the backbone's feature from theirs, by place.
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
        self.backbone: fx.GraphModule = backbone
        self.points = {p.name: p for p in points}
        self._space = space
        shape = (sample.shape[1], sample.shape[2], sample.shape[3])
        self._halves: dict[str, tuple[fx.GraphModule, nn.Module]] = {}
        self._families = tuple(families)
        self.codecs = nn.ModuleDict()
        self.injected, self.restores = nn.ModuleDict(), nn.ModuleDict()
        self.reduced: fx.GraphModule | None = reduced(backbone) if "reduced" in space.heads else None
        self.structures: dict[str, dict[str, Any]] = {}
        self.places: tuple[str, ...] = ()
        for point in points:
            if len(point.shape) != 3:
                raise ConfigError(f"split point {point.name!r}: codecs take feature maps (C, H, W), "
                                  f"this feature has shape {point.shape}")
            self._halves[point.name] = cut(self.backbone, point)
            features = _features(self.head(point.name), sample)
            if "pruned" in space.heads:
                self._add_codecs(point.name, features)
            if "injected" in space.heads:
                self._inject(point.name, shape, features, sample)
            if self.reduced is not None:
                self._reduce(point, shape, features, sample)
        if space.whole_on_device:
            self._halves[OUTPUT] = (self.backbone, nn.Identity())
            if self.reduced is not None and runs_reduced(self.reduced, shape):
                self._halves[place_of(OUTPUT, "reduced")] = (self.reduced, nn.Identity())
        if self.reduced is not None and not any(head_of(place) == "reduced" for place in self._halves):
            raise ConfigError("space.heads: no head of this backbone runs on pictures of half the size, "
                              f"{shape[1] // REDUCED_BY}x{shape[2] // REDUCED_BY}; leave out 'reduced'")
        prunable = max(space.sparsities) > 0
        modules = dict(self.backbone.named_modules(remove_duplicate=False))
        for path in space.keep:
            if path not in modules:
                raise UnknownNameError("module, in `space.keep`:", path, modules)
        self.pruners = {name: HeadPruner(head, shape, prunable, space.keep, space.round_to)
                        for name, (head, _) in self._halves.items()}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Supernet:
        """Also take the halves along, whose graphs hold constants of their own beside what they share."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for halves in self._halves.values():
            for half in halves:
                half._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _add_codecs(self, place: str, features: Tensor) -> None:
        """Add the codecs of all families at one place, started from features."""
        shape, space = (features.shape[1], features.shape[2], features.shape[3]), self._space
        offer = Offer(space.widths, space.bits, space.max_grid, space.grid_levels, space.rates)
        # built before any is fitted: building draws from the random generator, and its order fixes the weights
        found = [build_codec(family, shape, offer, bool(features.min() >= 0)) for family in self._families]
        for codec in found:
            codec.fit(features)
            self.codecs[_key(place, codec.family)] = codec
        self.places += (place,)

    def _inject(self, split: str, shape: tuple[int, int, int], features: Tensor, sample: Tensor) -> None:
        """Add an injected head at a split point, what restores its feature, and codecs."""
        tail, place = self.tail(split), place_of(split, "injected")
        feature, nonnegative = (features.shape[1], features.shape[2], features.shape[3]), bool(features.min() >= 0)
        if self._space.injected_encoder == ENTROPIC_STUDENT:
            most = _STUDENT_SHARE * stage_cost(self.backbone, shape).macs
            structure = student_structure(shape, feature, nonnegative, most)
        else:
            convolutions = [m for m in self.backbone.modules() if isinstance(m, nn.Conv2d)]
            depthwise = any(m.groups == m.in_channels > 1 for m in convolutions)
            structure = injected_structure(shape, feature, nonnegative, depthwise)
        self.structures[place] = structure
        injected, restore = injected_networks(structure)
        self.injected[_key(place)], self.restores[_key(place)] = injected, restore
        self._halves[place] = (injected, nn.Sequential(restore, tail))
        self._add_codecs(place, _features(injected, sample))

    def _reduce(
        self, point: SplitPoint, shape: tuple[int, int, int], features: Tensor, sample: Tensor
    ) -> None:
        """Add a reduced head at a split point, what enlarges its feature, and codecs."""
        assert self.reduced is not None
        head, place = cut(self.reduced, point)[0], place_of(point.name, "reduced")
        if not runs_reduced(head, shape):
            return
        self.structures[place] = reduced_structure(features.shape[1:], bool(features.min() >= 0))
        self.restores[_key(place)] = enlarge = Enlarge(self.structures[place])
        self._halves[place] = (head, nn.Sequential(enlarge, self.tail(point.name)))
        self._add_codecs(place, _features(head, sample))

    def imitate(self, place: str, images: Tensor) -> tuple[Tensor, Tensor]:
        """What an injected head, restored, makes of images, and the backbone's feature that it stands in for.

        Args:
            place: Of an injected head.
            images: Normalised, (N, C, H, W).

        Returns:
            Two tensors (N, C, H, W); the second has no gradient.
        """
        restore = self.restores[_key(place)]
        with torch.no_grad(), evaluation_mode(head := self.head(split_of(place))):
            target = head(images)
        return restore(self.head(place)(images)), target

    def injected_parts(self, place: str) -> tuple[nn.Module, nn.Module]:
        """An injected head, and what restores its feature."""
        return self.injected[_key(place)], self.restores[_key(place)]

    def restart_codecs(self, place: str, sample: Tensor) -> None:
        """Start the codecs at a place anew, from features as its head gives them now.

        Args:
            place: Any.
            sample: Some normalised images (N, C, H, W).
        """
        features = _features(self.head(place), sample)
        for codec in self.codecs_at(place):
            codec.fit(features)

    def new_parameters(self, place: str = "", family: str | None = None) -> list[tuple[str, nn.Parameter]]:
        """Everything that is new, by name: codecs, injected heads, and what restores the backbone's features.

        Args:
            place: Only those of a place; all by default.
            family: Of the codec there; the first one by default.
        """
        if not place:
            return [(n, p) for n, p in self.named_parameters() if not n.startswith(_TRAINED)]
        parts = [self.codec(place, family), *(found[_key(place)] for found in (self.injected, self.restores)
                                              if _key(place) in found)]
        return [named for part in parts for named in part.named_parameters()]

    def trained_parameters(self) -> list[nn.Parameter]:
        """All others: those of the backbone, and of its copy that sees smaller pictures."""
        return [p for n, p in self.named_parameters() if n.startswith(_TRAINED)]

    @property
    def plan_space(self) -> PlanSpace:
        """Every plan that is a part of this network; training may leave codes with fewer channels (`settle`)."""
        sparsities: dict[str, tuple[float, ...]] = {}
        codecs: dict[str, tuple[CodecSetting, ...]] = {}
        if self._space.whole_on_edge:
            sparsities[INPUT] = (0.0,)
            codecs[INPUT] = self._space.image_settings("png", "jpeg", "jpeg-shared", "webp-shared", "avif-shared")
        for place in self.places:
            sparsities[place] = self.distinct_sparsities(place)
            codecs[place] = tuple(s for family in self._families for s in self.codec(place, family).settings())
        for place in self._halves:
            if split_of(place) == OUTPUT:
                sparsities[place], codecs[place] = self.distinct_sparsities(place), (CodecSetting(kind="none"),)
        return PlanSpace(tuple(sparsities), sparsities, codecs)

    def settle(self, sample: Tensor) -> None:
        """Leave training: codecs drop what they have no use for.

        Args:
            sample: Some normalised images (N, C, H, W).
        """
        self.eval()
        for place in self.places:
            head = self.extract_head(self.widest(place))
            recalibrate(head, sample, _SAMPLE_BATCH)
            with torch.inference_mode():
                features = torch.cat([head(part) for part in in_batches(sample, _SAMPLE_BATCH)])
            for codec in self.codecs_at(place):
                codec.settle(features.clone())

    def distinct_sparsities(self, place: str) -> tuple[float, ...]:
        """The sparsities that give different heads here: where nothing can be pruned, only the lowest."""
        # by what is left of each group: two sparsities may round to the same head
        seen: dict[tuple[int, ...], float] = {}
        for s in self._space.sparsities:
            seen.setdefault(self.pruners[place].keep_counts(s), s)
        return tuple(seen.values())

    def codec(self, place: str, family: str | None = None) -> Codec:
        """A codec at a place: the first family's, unless another is named."""
        codec = self.codecs[_key(place, family or self._families[0])]
        assert isinstance(codec, Codec)
        return codec

    def codecs_at(self, place: str) -> list[Codec]:
        """The codecs of all families at a place."""
        return [self.codec(place, family) for family in self._families]

    def widest(self, place: str) -> Plan:
        """The plan that loses least at a place."""
        return Plan.at(place, 0.0, CodecSetting(kind="none") if split_of(place) == OUTPUT else self.codec(place).widest)

    def forward(self, images: Tensor, plan: Plan) -> Tensor:
        """Logits of a plan, differentiable down to the shared weights; batch norm uses the batch's statistics.

        Args:
            images: Normalised, (N, C, H, W).
            plan: With a learned codec, or the whole network on the device.
        """
        head, tail = self._halves[plan.place]
        pruner = self.pruners[plan.place]
        keep = pruner.keep_counts(plan.sparsity)
        if all(k == g.channels for k, g in zip(keep, pruner.groups, strict=True)):
            feature = head(images)
        else:  # the pruned structure on slices of the shared weights, so that gradients reach these
            sub = pruner.sub_network(keep)
            feature = torch.func.functional_call(sub.module.train(self.training), sub.gather(head), (images,))
        if plan.split != OUTPUT:
            feature = self.codec(plan.place, plan.codec.family)(feature, plan.codec)
        return tail(feature)  # type: ignore[no-any-return]

    def cost(self, plan: Plan) -> Tensor:
        """What the bytes of the last batch add to the loss of a plan."""
        return torch.zeros(()) if plan.split == OUTPUT else self.codec(plan.place, plan.codec.family).cost()

    def extract(self, plan: Plan) -> SplitNetwork:
        """A plan as an independent network with copies of the shared weights; batch norm is not recalibrated."""
        return self._assembled(plan, copy.deepcopy(self.tail(plan.place))).to(memory_format=torch.channels_last)

    def shared(self, plan: Plan) -> SplitNetwork:
        """The same with the supernet's own tail, which is in evaluation mode from then on: to look at, not to train."""
        return self._assembled(plan, self.tail(plan.place))

    def _assembled(self, plan: Plan, tail: nn.Module) -> SplitNetwork:
        coded = plan.codec.kind == "code"
        parts = self.codec(plan.place, plan.codec.family).extract(plan.codec) if coded else (None, None, None)
        return SplitNetwork(self.extract_head(plan), tail, *parts).eval()

    def extract_head(self, plan: Plan) -> fx.GraphModule:
        """A plan's pruned head alone, with copies of the shared weights."""
        pruner = self.pruners[plan.place]
        sub = pruner.sub_network(pruner.keep_counts(plan.sparsity))
        head = sub.materialise(self.head(plan.place))
        return head.to(memory_format=torch.channels_last).eval()

    def head(self, place: str) -> fx.GraphModule:
        """The unpruned head at a place, sharing the supernet's weights."""
        return self._halves[place][0]

    def tail(self, place: str) -> nn.Module:
        """What follows the codec at a place, sharing the supernet's weights."""
        return self._halves[place][1]

    def feature_shape(self, place: str) -> tuple[int, ...]:
        """Shape of what the head at a place gives."""
        structure = self.structures.get(place)
        return self.points[place].shape if structure is None else self.codec(place).shape


def _features(head: nn.Module, sample: Tensor) -> Tensor:
    """What a head gives for some images."""
    with evaluation_mode(head), torch.inference_mode():
        features = torch.cat([head(part) for part in in_batches(sample, _SAMPLE_BATCH)])
    return features.clone()  # out here, so that it is no inference tensor


def _key(place: str, family: str = "") -> str:
    """Name of a module: without dots."""
    return f"{place}|{family}".replace(".", "/") if family else place.replace(".", "/")
