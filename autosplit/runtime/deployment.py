"""`Deployment`: a plan with weights and frequency tables of its own, which turns images into payloads and back.

It is what replay, export and serve work on. Every accuracy it reports went through real bytes: the head's code is
range-coded to a payload on the device side, and the edge side sees nothing but that payload.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autosplit.compression.int8 import quantise_int8
from autosplit.compression.network import SplitNetwork
from autosplit.core.answers import Answers
from autosplit.core.blueprint import Blueprint
from autosplit.core.errors import ConfigError, ResultError
from autosplit.core.files import write_whole
from autosplit.core.hashing import sha256_of
from autosplit.core.measurement import RESULT_BYTES, ExitPoint, Measurement, StageCost, Workload
from autosplit.core.plan import INPUT, OUTPUT, Plan
from autosplit.core.tensors import load_tensors
from autosplit.data.base import ImageDataset, SplitName, in_batches, normalise
from autosplit.data.in_memory import pixels_of
from autosplit.data.stored import decode_images, encode_images, join_file
from autosplit.models.costs import stage_cost
from autosplit.models.exits import ExitNetwork, exit_point, temperature
from autosplit.models.identity import hold_network
from autosplit.models.image_costs import image_cost
from autosplit.runtime.building import build_network
from autosplit.runtime.standalone.files import file_sha256
from autosplit.runtime.standalone.images import checked_images, read_images
from autosplit.runtime.standalone.payload.coder import PayloadCoder
from autosplit.runtime.standalone.payload.exits import answered_by_both, confidence, payloads_of_all
from autosplit.runtime.standalone.payload.frequencies import FrequencyTables
from autosplit.runtime.standalone.payload.raw import pack_features, unpack_feature

if TYPE_CHECKING:
    from autosplit.core.result import Result

__all__ = ["Deployment", "Evaluation"]

_BATCH = 100
_TABLES = "tables."  # before the names of the tables' arrays in the file of weights


@dataclass(frozen=True)
class Evaluation:
    """What a deployment does on one part of a data set.

    Attributes:
        answers: Which images were classified right.
        predicted: Class that each was given, int64 (images,).
        payload_sizes: Bytes of each payload, int64 (images,); zeros when nothing crosses.
        payload_sha256: Hash of all payloads one after the other.
        left: Which images an exit on the device answered, bool (images,).
    """

    answers: Answers
    predicted: NDArray[np.int64]
    payload_sizes: NDArray[np.int64]
    payload_sha256: str
    left: NDArray[np.bool_]

    @property
    def images(self) -> int:
        """Images."""
        return self.answers.images

    @property
    def correct(self) -> int:
        """Images classified right."""
        return int(self.answers.hits.sum())

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy in [0, 1]."""
        return self.correct / self.images

    @property
    def payload_mean(self) -> float:
        """Mean payload of the images that are sent, bytes."""
        return float(self._sent_sizes.mean())

    @property
    def payload_p95(self) -> float:
        """95th percentile of the payload of the images that are sent, bytes."""
        return float(np.percentile(self._sent_sizes, 95))

    @property
    def _sent_sizes(self) -> NDArray[np.int64]:
        """Never empty: nothing sent is a payload of no bytes."""
        sizes = self.payload_sizes[~self.left]
        return sizes if len(sizes) else np.zeros(1, dtype=np.int64)


class Deployment:
    """A plan that runs, on the processor.

    Args:
        blueprint: The structure.
        network: Trained, of that structure; copied where it is on an accelerator.
        mean: Per-channel mean that images are normalised with, shape (C,), in [0, 1].
        std: Per-channel standard deviation, shape (C,).
        tables: Frequency tables of the code; `None` where no learned codec is.
        class_names: One per output; their numbers by default.
        rate: Number in a bundle of several rates, which payloads carry.
    """

    def __init__(
        self, blueprint: Blueprint, network: SplitNetwork, mean: Tensor, std: Tensor, tables: FrequencyTables | None,
        class_names: Sequence[str] = (), rate: int = 0,
    ) -> None:
        self.blueprint, self.network, self.tables = blueprint, network.on_processor().eval(), tables
        self.mean, self.std = mean, std
        self.class_names = tuple(class_names or map(str, range(blueprint.num_classes)))
        self.coder: PayloadCoder | None = None  # makes payloads of symbols
        if tables is not None:
            channels, height, width = blueprint.code_shape
            self.coder = PayloadCoder(tables, (channels, height, width), blueprint.key.encode(), rate)

    def __repr__(self) -> str:
        return f"Deployment({self.plan.label!r}, classes={len(self.class_names)}, {self.blueprint.arithmetic})"

    @classmethod
    def fit(cls, blueprint: Blueprint, network: SplitNetwork, data: ImageDataset, rate: int = 0) -> Deployment:
        """Make a deployment of a trained network in fp32.

        What the blueprint's arithmetic asks for is quantised first (head, encoder and exit); ranges, frequency tables
        and the exit's temperature come from the calibration images.
        """
        network = network.on_processor()
        calibration = list(in_batches(data.calibration.images, _batch(data)))
        int8, found = blueprint.arithmetic == "int8", network.exit
        batches: list[Tensor] = []
        if int8 or found is not None:
            batches = [normalise(images, data.mean, data.std) for images in calibration]
        features: list[Tensor] = []
        if int8 and blueprint.plan.split != INPUT:
            head, encoder = quantise_int8(network.head, batches), network.encoder
            if encoder is not None:  # ranges of the encoder are those of what the int8 head gives it
                features = _outputs(head, batches)
                encoder = quantise_int8(encoder, features)
            network = SplitNetwork(head, network.tail, encoder, network.quantiser, network.decoder).eval()
        if found is not None:
            given = batches if found.whole else features or _outputs(network.head, batches)
            inner = quantise_int8(found.network, given) if int8 else found.network
            network.exit = ExitNetwork(inner, whole=found.whole).eval()
            fitted = temperature(torch.cat(_outputs(network.exit, given)), data.calibration.labels)
            network.exit.temperature.fill_(fitted)
        tables = None
        if network.encoder is not None and network.quantiser is not None:
            with torch.inference_mode():
                symbols = torch.cat([network.symbols(normalise(images, data.mean, data.std)) for images in calibration])
            tables = network.quantiser.tables(symbols)
        return cls(blueprint, network, data.mean, data.std, tables, data.class_names, rate)

    @property
    def plan(self) -> Plan:
        """The plan."""
        return self.blueprint.plan

    def workload(self, payload_mean: float, payload_p95: float) -> Workload:
        """Work of each stage but an exit's, counted on this network, with the payload bytes given."""
        plan, net, shape = self.plan, self.network, self.blueprint.image_shape
        device, encode, edge, result = StageCost(), StageCost(), StageCost(), RESULT_BYTES
        if plan.split == INPUT:
            encode, decode = image_cost(plan.codec, shape)
            edge = stage_cost(net.tail, shape) + decode
        elif plan.split == OUTPUT:
            device, result = stage_cost(net.head, shape), 0.0
        else:
            feature, code = self.blueprint.feature_shape, self.blueprint.code_shape
            device, edge = stage_cost(net.head, shape), stage_cost(net.tail, feature)
            if net.encoder is not None and net.decoder is not None:
                symbols = StageCost(coded_symbols=float(np.prod(code)))
                encode = stage_cost(net.encoder, feature) + symbols
                edge = stage_cost(net.decoder, code) + symbols + edge
        return Workload(plan=plan.without_exit, device=device, encode=encode, edge=edge, result_bytes=result,
                        payload_bytes_mean=payload_mean, payload_bytes_p95=payload_p95)

    @property
    def exit_cost(self) -> StageCost:
        """Work of the exit; none where there is none."""
        found = self.network.exit
        if found is None:
            return StageCost()
        return stage_cost(found.network, self.blueprint.image_shape if found.whole else self.blueprint.feature_shape)

    def measurement(self, evaluation: Evaluation, seconds: float = 0.0) -> Measurement:
        """An evaluation as a measurement of fine-tuned accuracy (fidelity F3)."""
        if self.plan.split == INPUT:
            feature_bytes = float(np.prod(self.blueprint.image_shape))
        else:
            # of a head that is not the backbone's own: the feature that it stands in for
            shape = self.blueprint.head.get("feature", self.blueprint.feature_shape)
            feature_bytes = 4.0 * float(np.prod(shape)) if shape else 0.0
        workload = self.workload(evaluation.payload_mean, evaluation.payload_p95)
        exits: tuple[ExitPoint, ...] = ()
        if self.plan.exit is not None:
            hits = evaluation.answers.hits
            exits = (exit_point(self.plan.exit, evaluation.left, hits, hits, evaluation.payload_sizes,
                                self.exit_cost),)
            workload = workload.with_exit(exits[0])
        return Measurement(plan=self.plan, accuracy=evaluation.accuracy, workload=workload, feature_bytes=feature_bytes,
                           fidelity="F3", images=evaluation.images, seconds=seconds, answers=evaluation.answers,
                           exits=exits)

    # --- running --------------------------------------------------------------------------------------------------

    def classify(self, images: Tensor | NDArray[Any] | Sequence[Any]) -> list[str]:
        """Names of the classes of images, each sent through a real payload.

        Args:
            images: Files, which are images or .npy; or images as a search takes them: several in an array or tensor,
                or a list of arrays, tensors and pictures of Pillow. What has another size is resized to cover the
                network's input and centre cropped.

        Raises:
            ConfigError: A file is no image, or the images have another number of channels.
            DataError: Something in them is no image.
        """
        shape = self.blueprint.image_shape
        if isinstance(images, (str, Path)):
            images = [images]
        if not isinstance(images, (Tensor, np.ndarray)) and len(images) and all(
                isinstance(image, (str, Path)) for image in images):
            images = read_images(images, shape)
        elif not isinstance(images, (Tensor, np.ndarray)) or images.shape[1:] != shape or (
                images.dtype not in {torch.uint8, np.dtype(np.uint8)}):
            found = pixels_of(images, shape[1:])
            images = found.expand(-1, 3, -1, -1) if (found.shape[1], shape[0]) == (1, 3) else found
        images = np.asarray(images)
        batch = torch.from_numpy(checked_images(images, shape))
        return [self.class_names[i] for part in in_batches(batch, _BATCH) for i in self.run(part)[0].argmax(1).tolist()]

    def encode(self, images: Tensor) -> list[bytes]:
        """Device side: uint8 images (N, C, H, W) to one payload each; empty payloads when nothing crosses."""
        return self._on_device(images)[0]

    def _on_device(self, images: Tensor) -> tuple[list[bytes], Tensor | None]:
        """Payloads, and the logits of an exit, of all images; empty payloads of those that it answers."""
        found = self.network.exit
        if found is None or self.plan.exit is None:
            return self._payloads(images), None
        with torch.inference_mode():
            values = normalise(images, self.mean, self.std)
            given = values if found.whole else self.network.head(values)
            logits = found(given)
        sent = confidence(logits.numpy()) < self.plan.exit.threshold
        which = torch.from_numpy(sent)
        if found.whole or self.coder is None:
            payloads = self._payloads(images[which])
        else:  # the head has run already
            with torch.inference_mode():
                payloads = self.coder.encode_batch(self.network.symbols_of(given[which]).numpy()) if sent.any() else []
        return payloads_of_all(sent, payloads), logits

    def _payloads(self, images: Tensor) -> list[bytes]:
        """Payloads of images that are sent."""
        codec = self.plan.codec
        if not len(images):
            return []
        if codec.kind == "none":
            return [b""] * len(images)
        if self.plan.split == INPUT:
            return encode_images(images, codec.stored_format)
        values = normalise(images, self.mean, self.std)
        with torch.inference_mode():
            if self.coder is None:
                return pack_features(self.network.head(values).numpy())
            return self.coder.encode_batch(self.network.symbols(values).numpy())

    def decode(self, payloads: Sequence[bytes]) -> Tensor:
        """Edge side: payloads to logits (N, classes).

        Raises:
            PayloadError: Bytes that are no payload of this deployment.
        """
        if self.plan.split == OUTPUT:
            raise ConfigError("the whole network runs on the device in this plan: nothing is sent to decode")
        codec, shape = self.plan.codec, self.blueprint.image_shape
        with torch.inference_mode():
            if self.plan.split == INPUT:
                stored = codec.stored_format
                if stored.shared:
                    payloads = [join_file(payload, shape, stored) for payload in payloads]
                images = decode_images(payloads, shape, stored.downscale)
                return self.network(normalise(images, self.mean, self.std))  # type: ignore[no-any-return]
            if self.coder is None:
                size = self.blueprint.feature_shape
                features = np.array([unpack_feature(payload, size) for payload in payloads], dtype=np.float32)
                tail = self.network.tail
                return tail(torch.from_numpy(features.reshape(len(payloads), *size)))  # type: ignore[no-any-return]
            return self.network.finish(torch.from_numpy(self.coder.decode_batch(payloads)))

    def run(self, images: Tensor) -> tuple[Tensor, list[bytes]]:
        """Both sides: uint8 images to logits, and the payloads that were sent; empty ones of what was not."""
        payloads, local = self._on_device(images)
        if self.plan.split == OUTPUT:
            with torch.inference_mode():
                return self.network(normalise(images, self.mean, self.std)), payloads
        if local is None:
            return self.decode(payloads), payloads
        logits = answered_by_both(local.numpy(), payloads, lambda sent: self.decode(sent).numpy())
        return torch.from_numpy(logits), payloads

    def evaluate(self, data: ImageDataset, part: SplitName) -> Evaluation:
        """Classify one part of a data set through real payloads."""
        split = data.split(part)
        predicted: list[int] = []
        sizes: list[int] = []
        digest = hashlib.sha256()
        for images in in_batches(split.images, _batch(data)):
            logits, payloads = self.run(images)
            predicted += logits.argmax(1).tolist()
            sizes.extend(len(p) for p in payloads)
            for payload in payloads:
                digest.update(payload)
        lengths, named = np.array(sizes, dtype=np.int64), np.array(predicted, dtype=np.int64)
        left = lengths == 0 if self.plan.exit is not None else np.zeros(len(lengths), dtype=np.bool_)
        return Evaluation(Answers.of(named, split.labels.numpy()), named, lengths, digest.hexdigest(), left)

    def logits(self, data: ImageDataset, part: SplitName) -> Tensor:
        """Logits of all images of one part of a data set, each sent through a real payload."""
        return torch.cat([self.run(images)[0] for images in in_batches(data.split(part).images, _batch(data))])

    # --- storage --------------------------------------------------------------------------------------------------

    def save(self, path: Path) -> str:
        """Write weights and tables as safetensors.

        Returns:
            SHA-256 of the file.

        Raises:
            ConfigError: The file cannot be written.
        """
        content = self.to_bytes()
        try:
            write_whole(path, content)
        except OSError as e:
            raise ConfigError(f"cannot write {path}: {e.strerror or e}") from e
        return sha256_of(content)

    def to_bytes(self) -> bytes:
        """What `save` writes."""
        return safetensors.torch.save(self.tensors())

    def tensors(self) -> dict[str, Tensor]:
        """Weights, normalisation and tables, each with memory of its own; `of_tensors` takes them."""
        # copied, since safetensors refuses tensors that share their memory
        tensors = {n: t.detach().clone(memory_format=torch.contiguous_format)
                   for n, t in self.network.state_dict().items() if t.numel()}
        tensors |= {"input.mean": self.mean, "input.std": self.std}
        if self.tables is not None:
            tensors |= {_TABLES + n: torch.from_numpy(a.copy()) for n, a in self.tables.to_arrays().items()}
        return tensors

    @classmethod
    def from_result(cls, result: Result, model: nn.Module | Callable[..., nn.Module] | None = None) -> Deployment:
        """What a search found, with its weights, which lie where the result file says.

        Args:
            result: Of a search.
            model: The network that was handed to the search as an object, if the result is of another process.

        Raises:
            ConfigError: The result is in no file, or of another network than `model`.
            ResultError: The weights are missing, altered, or of another network.
        """
        stored, path = result.stored, result.path
        if model is not None and (name := hold_network(model)) != stored.blueprint.backbone:
            raise ConfigError(f"model: {name!r} was handed over, but {stored.blueprint.backbone!r} is recorded; hand "
                              "over the same, or leave it out if it is a name")
        weights = path.parent / stored.weights
        if not weights.exists():
            raise ResultError(f"{path}: weights {stored.weights!r} are missing; keep them beside the result file")
        return cls.load(stored.blueprint, weights, stored.class_names, stored.sha256)

    @classmethod
    def load(
        cls, blueprint: Blueprint, path: Path, class_names: Sequence[str] = (), sha256: str | None = None
    ) -> Deployment:
        """Read a deployment back.

        Args:
            blueprint: Its structure.
            path: Its weights.
            class_names: One per output; their numbers by default.
            sha256: Hash that the file must have.

        Raises:
            ResultError: The file is missing, altered, damaged, or holds another structure.
        """
        name = f"weights {str(path)!r}"
        if not path.exists():
            raise ResultError(f"{name} are missing; copy them beside the result file")
        if sha256 is not None and file_sha256(path, name, error=ResultError) != sha256:
            raise ResultError(f"{name} were altered (their hash is not the recorded one); restore the file")
        return cls.of_tensors(blueprint, load_tensors(path, name, error=ResultError), name, class_names)

    @classmethod
    def of_tensors(
        cls, blueprint: Blueprint, tensors: dict[str, Tensor], origin: str, class_names: Sequence[str] = ()
    ) -> Deployment:
        """A deployment out of what `tensors` gave.

        Args:
            blueprint: Its structure.
            tensors: Weights, normalisation and tables.
            origin: Where they come from, for the error, as in `weights 'best.safetensors'`.
            class_names: One per output; their numbers by default.

        Raises:
            ResultError: They are of another structure.
        """
        network, tensors = build_network(blueprint), dict(tensors)
        try:
            mean, std = tensors.pop("input.mean"), tensors.pop("input.std")
            arrays = {n.removeprefix(_TABLES): tensors.pop(n).numpy() for n in list(tensors) if n.startswith(_TABLES)}
            network.load_state_dict(tensors)
        except (KeyError, RuntimeError) as e:
            raise ResultError(f"{origin} are of another network: {' '.join(str(e).split())[:200]}") from e
        tables = FrequencyTables.from_arrays(arrays) if arrays else None
        return cls(blueprint, network, mean, std, tables, class_names)


def _outputs(network: nn.Module, batches: Sequence[Tensor]) -> list[Tensor]:
    """What a network gives for each batch."""
    with torch.inference_mode():
        return [network(batch) for batch in batches]


def _batch(data: ImageDataset) -> int:
    """Fixed for a data set, so that the same images give the same floating-point sums wherever they are evaluated."""
    return min(_BATCH, data.images_at_once)
