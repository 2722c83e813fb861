"""`LiveEvaluator`: measures plans on the real data with the real networks (fidelity F1).

A plan's weights are copied out of the supernet, batch-norm statistics are estimated anew on training images,
frequency tables are fitted on calibration images, and accuracy and payload are measured on validation images. The
payload is the exact code length under those tables plus the header; deployments code it for real.

All of this is computed in float32, also where the processor trains in bfloat16: a measurement means the same on every
machine, but for the last digits of sums.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autosplit.compression.network import SplitNetwork, recalibrate
from autosplit.compression.quantise import quantise
from autosplit.core.errors import PruningError
from autosplit.core.measurement import RESULT_BYTES, ExitPoint, Measurement, StageCost, Workload
from autosplit.core.plan import INPUT, OUTPUT, CodecSetting, Exit, Plan
from autosplit.core.space import PlanSpace
from autosplit.data.base import ImageDataset, Split, in_batches
from autosplit.data.stored import StoredFormat
from autosplit.evaluation.memory import DeviceMemory, MemoryLimit
from autosplit.models.costs import stage_cost
from autosplit.models.exits import classifier_structure, exit_point, temperature
from autosplit.models.head_costs import HeadCost
from autosplit.models.image_costs import image_cost
from autosplit.runtime.standalone.payload.coder import payload_bytes
from autosplit.runtime.standalone.payload.exits import confidence
from autosplit.training.exits import fit_classifier
from autosplit.training.loop import accuracy, logits_of

if TYPE_CHECKING:
    from autosplit.core.progress import PhaseReporter
    from autosplit.core.scenario import Scenario, SearchSettings
    from autosplit.training.prepare import Networks
    from autosplit.training.supernet import Supernet

__all__ = ["LiveEvaluator"]

_CALIBRATION_IMAGES = 256
_PREDICTION_FILES = 256
_CACHED_BYTES = 150e6


@dataclass(frozen=True)
class _ExitAnswers:
    """What an exit says of the validation images: how sure it is, whether it is right; and its work."""

    confidence: NDArray[np.float32]
    right: NDArray[np.bool_]
    cost: StageCost


@dataclass
class _Features:
    """A recalibrated head and its features, shared by all plans that differ in the codec alone."""

    head: nn.Module
    statistics: Tensor
    calibration: Tensor
    validation: Tensor
    exit_answers: _ExitAnswers | None = None

    @property
    def size(self) -> float:
        return float(sum(t.nbytes for t in (self.statistics, self.calibration, self.validation)))


class LiveEvaluator:
    """Measures plans of one supernet.

    Args:
        prepared: Data, backbone and trained supernet of a scenario.
    """

    def __init__(self, prepared: Networks) -> None:
        self.data: ImageDataset = prepared.data
        self._backbone: nn.Module = prepared.backbone
        self._supernet: Supernet = prepared.supernet
        self._settings: SearchSettings = prepared.scenario.search
        self._features: OrderedDict[tuple[str, tuple[int, ...]], _Features] = OrderedDict()
        self._costs: dict[tuple[object, ...], StageCost] = {}
        self._heads: dict[str, HeadCost | PruningError] = {}
        self._predicted: dict[tuple[str, CodecSetting], tuple[float, float]] = {}
        self._coded_backbone: nn.Module | None = prepared.coded_backbone
        self._thresholds, self._teacher = prepared.scenario.space.classifier_exits, prepared.teacher
        self._coded_accuracy: dict[StoredFormat, float] = {}
        scenario = prepared.scenario
        self._memory_limit = None if scenario.search.target == "onnx" else MemoryLimit.of(
            scenario.search, scenario.conditions.device)

    @classmethod
    def from_scenario(cls, scenario: Scenario, progress: PhaseReporter | None = None) -> LiveEvaluator:
        """Prepare a scenario (training what is not in the cache) and evaluate it."""
        from autosplit.training.prepare import prepare

        return cls(prepare(scenario, progress))

    @cached_property
    def space(self) -> PlanSpace:
        """The plans that can be measured; where they are for C, those that fit into the device's memory."""
        space = self._supernet.plan_space
        return space if self._memory_limit is None else self.memory.fitting(space, self._memory_limit)

    @cached_property
    def memory(self) -> DeviceMemory:
        """What plans take on a microcontroller."""
        return DeviceMemory(self._supernet, self.data.shape, self.data.num_classes)

    # --- F0: work and predicted payload -------------------------------------------------------------------------

    def workloads(self, plans: Sequence[Plan]) -> list[Workload]:
        """Work and predicted payload of plans; the payload is predicted from the unpruned head's codes."""
        return [self._workload(p, *self._predict_payload(p)) for p in plans]

    def _workload(self, plan: Plan, payload_mean: float, payload_p95: float) -> Workload:
        if plan.split == INPUT:
            encode, decode = image_cost(plan.codec, self.data.shape)
            device, edge = StageCost(), self._backbone_cost + decode
        elif plan.split == OUTPUT:
            device, encode, edge = self._head_cost(plan), StageCost(), StageCost()
        else:
            device, (encode, edge) = self._head_cost(plan), self._codec_cost(plan)
        return Workload(plan=plan, device=device, encode=encode, edge=edge, payload_bytes_mean=payload_mean,
                        payload_bytes_p95=payload_p95, result_bytes=0.0 if plan.split == OUTPUT else RESULT_BYTES)

    @cached_property
    def _backbone_cost(self) -> StageCost:
        return stage_cost(self._backbone, self.data.shape)

    def _head_cost(self, plan: Plan) -> StageCost:
        if plan.split == OUTPUT and plan.lossless:  # a baseline, also where it is not in the search space
            return self._backbone_cost
        keep = self._supernet.pruners[plan.place].keep_counts(plan.sparsity)
        key = ("head", plan.place, keep)
        if key not in self._costs:
            try:
                self._costs[key] = self.head(plan.place).stage_cost(keep)
            except PruningError:
                self._costs[key] = stage_cost(self._supernet.extract_head(plan), self.data.shape)
        return self._costs[key]

    def head(self, place: str) -> HeadCost:
        """The head at a place: its prunable groups, and the work of each of its pruned versions.

        Raises:
            PruningError: The work of its pruned versions cannot be predicted.
        """
        if place not in self._heads:
            try:
                self._heads[place] = (HeadCost.of(self._supernet.pruners[place], self.data.shape)
                                      if place in self._supernet.pruners else HeadCost.nothing())
            except PruningError as e:
                self._heads[place] = e
        found = self._heads[place]
        if isinstance(found, PruningError):
            raise found
        return found

    def _codec_cost(self, plan: Plan) -> tuple[StageCost, StageCost]:
        """Work of the encoder, and of decoder and tail together."""
        place, setting = plan.place, plan.codec
        if ("tail", place) not in self._costs:
            self._costs["tail", place] = stage_cost(self._supernet.tail(place), self._supernet.feature_shape(place))
        if setting.kind == "raw":
            return StageCost(), self._costs["tail", place]
        key = (place, setting.family, setting.width, setting.grid)
        if ("encode", key) not in self._costs:
            codec = self._supernet.codec(place, setting.family)
            encoder, _, decoder = codec.extract(setting)
            shape = codec.code_shape(setting)
            symbols = StageCost(coded_symbols=float(np.prod(shape)))
            self._costs["encode", key] = stage_cost(encoder, codec.shape) + symbols
            self._costs["decode", key] = stage_cost(decoder, shape) + symbols
        return self._costs["encode", key], self._costs["decode", key] + self._costs["tail", place]

    def _predict_payload(self, plan: Plan) -> tuple[float, float]:
        key = (plan.place, plan.codec)
        if key not in self._predicted:
            if plan.codec.kind == "code":
                self._predict_codes(plan.place)
            else:
                self._predicted[key] = self._fixed_payload(plan)
        return self._predicted[key]

    def _fixed_payload(self, plan: Plan, images: int = _PREDICTION_FILES) -> tuple[float, float]:
        """Payload that no network has a say in; of pictures, over so many validation images."""
        if plan.codec.kind == "file":
            lengths = self._validation.file_bytes
            assert lengths is not None  # who asks for own files knows that there are some
            return _mean_p95(lengths.numpy())
        if plan.split == INPUT:
            return _mean_p95(self.data.stored_bytes("validation", plan.codec.stored_format, images).numpy())
        raw = 4.0 * float(np.prod(self._supernet.points[plan.split].shape)) if plan.codec.kind == "raw" else 0.0
        return raw, raw

    def _predict_codes(self, place: str) -> None:
        """Payload of every setting at a place, from features of the unpruned head.

        As in a measurement, tables are fitted on calibration images and sizes are those of validation images: on the
        images that a table was fitted on it codes better than on any others.
        """
        features = self._features_of(self._supernet.widest(place))
        for codec in self._supernet.codecs_at(place):
            codes: dict[object, list[Tensor]] = {}
            for setting in codec.settings():
                encoder, quantiser, _ = codec.extract(setting)
                key = (setting.width, setting.grid, setting.bits if codec.encoder_knows_bits else None)
                with torch.inference_mode():
                    if key not in codes:
                        recalibrate(encoder, features.statistics)
                        codes[key] = [torch.cat([encoder(batch) for batch in in_batches(part, 256)])
                                      for part in (features.calibration, features.validation)]
                    calibration, validation = (quantise(code, quantiser.bits, quantiser.bound) for code in codes[key])
                tables = quantiser.tables(calibration)
                self._predicted[place, setting] = _mean_p95(payload_bytes(tables, validation.cpu().numpy()))

    # --- F1: measurement ----------------------------------------------------------------------------------------

    @cached_property
    def _validation(self) -> Split:
        return self.data.validation.first(self._settings.validation_images)

    def measure(self, plans: Sequence[Plan]) -> Iterator[Measurement]:
        """Measure plans, in order, each at fidelity F1 and as soon as it is asked for."""
        return map(self._measure, plans)

    def _measure(self, plan: Plan) -> Measurement:
        start = time.perf_counter()
        exits: tuple[ExitPoint, ...] = ()
        if plan.split == INPUT:
            share = self._backbone_accuracy if plan.lossless else self._image_accuracy(plan.codec.stored_format)
            payload = self._fixed_payload(plan, len(self._validation))
            feature_bytes = float(np.prod(self.data.shape))
        elif plan.codec.kind in {"none", "raw"}:
            payload = self._fixed_payload(plan)
            share, feature_bytes = self._uncoded_accuracy(plan), payload[0]
        else:
            hits, sizes = self._code_answers(plan)
            share, payload, exits = float(hits.mean()), _mean_p95(sizes), self._exit_points(plan, hits, sizes)
            feature_bytes = 4.0 * float(np.prod(self._supernet.points[plan.split].shape))
        return Measurement(plan=plan, accuracy=share, workload=self._workload(plan, *payload),
                           feature_bytes=feature_bytes, fidelity="F1", images=len(self._validation),
                           seconds=time.perf_counter() - start, exits=exits)

    def _image_accuracy(self, format: StoredFormat) -> float:  # noqa: A002
        """Accuracy of the whole network on the edge, on the images as they arrive."""
        whole = format.whole  # a body is decoded to what its file is
        if whole not in self._coded_accuracy:
            part = self.data.coded_images("validation", whole, len(self._validation))
            self._coded_accuracy[whole] = accuracy(self._coded_backbone or self._backbone, self.data, part)
        return self._coded_accuracy[whole]

    @cached_property
    def _backbone_accuracy(self) -> float:
        return accuracy(self._backbone, self.data, self._validation)

    def _uncoded_accuracy(self, plan: Plan) -> float:
        """Accuracy of head and tail with nothing between them: of the backbone, if its head is as it was."""
        if plan.lossless:
            return self._backbone_accuracy
        network = self._supernet.extract(plan)
        recalibrate(network, self._statistics_images, self._statistics_batch)
        return accuracy(network, self.data, self._validation)

    @property
    def _statistics_images(self) -> Tensor:
        """Normalised images that batch-norm statistics are estimated on."""
        return self.data.normalise(self.data.train.images[: self._settings.recalibration_images])

    @property
    def _statistics_batch(self) -> int:
        return min(128, self.data.images_at_once)

    def _code_answers(self, plan: Plan) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Which validation images are classified right, and the payload bytes of each."""
        features = self._features_of(plan)
        network = self._supernet.extract(plan)
        assert network.encoder is not None
        assert network.quantiser is not None
        rest = SplitNetwork(nn.Identity(), network.tail, network.encoder, network.quantiser, network.decoder)
        recalibrate(rest, features.statistics)
        with torch.inference_mode():
            tables = network.quantiser.tables(rest.symbols(features.calibration))
            hits, sizes = [], []
            labels = in_batches(self.data.moved(self._validation.labels), 256)
            for feature, label in zip(in_batches(features.validation, 256), labels, strict=True):
                symbols = rest.symbols(feature)
                hits.append((rest.finish(symbols).argmax(1) == label).cpu().numpy())
                sizes.append(payload_bytes(tables, symbols.cpu().numpy()))
        return np.concatenate(hits), np.concatenate(sizes)

    def _exit_points(
        self, plan: Plan, hits: NDArray[np.bool_], sizes: NDArray[np.int64]
    ) -> tuple[ExitPoint, ...]:
        """What exits behind a plan's head would do, at each threshold on offer."""
        if not self._thresholds:
            return ()
        features = self._features_of(plan)
        if features.exit_answers is None:
            shape = self._supernet.feature_shape(plan.place)
            classifier = fit_classifier(features.head, classifier_structure(shape, self.data.num_classes), self.data,
                                        self._teacher.answers, self._settings.seed)
            with torch.inference_mode():
                calibration, logits = (torch.cat([classifier(part) for part in in_batches(given, 256)]).cpu()
                                       for given in (features.calibration, features.validation))
            logits = logits / temperature(calibration, self.data.calibration.labels[:_CALIBRATION_IMAGES])
            right = (logits.argmax(1) == self._validation.labels).numpy()
            features.exit_answers = _ExitAnswers(confidence(logits.numpy()), right, stage_cost(classifier, shape))
        answers = features.exit_answers
        return tuple(exit_point(Exit(threshold=t), answers.confidence >= t, answers.right, hits, sizes, answers.cost)
                     for t in self._thresholds)

    def _features_of(self, plan: Plan) -> _Features:
        """Features of a plan's head, from memory where another plan had the same head."""
        key = (plan.place, self._supernet.pruners[plan.place].keep_counts(plan.sparsity))
        if key in self._features:
            self._features.move_to_end(key)
            return self._features[key]
        head, data = self._supernet.extract_head(plan), self.data
        recalibrate(head, self._statistics_images, self._statistics_batch)
        found = _Features(
            head,
            statistics=logits_of(head, data, data.train.images[: self._settings.recalibration_images]),
            calibration=logits_of(head, data, data.calibration.images[:_CALIBRATION_IMAGES]),
            validation=logits_of(head, data, self._validation.images),
        )
        self._features[key] = found
        while len(self._features) > 1 and sum(f.size for f in self._features.values()) > _CACHED_BYTES:
            self._features.popitem(last=False)
        return found


def _mean_p95(sizes: npt.ArrayLike) -> tuple[float, float]:
    array = np.asarray(sizes, dtype=np.float64)
    return float(array.mean()), float(np.percentile(array, 95))
