"""A bundle that runs: `load_device` for the side with the images, `load_edge` for the side with the answers.

    device, edge = load_device("bundle"), load_edge("bundle")
    logits = edge.decode(device.encode(images))

Both are safe to share between threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import AutosplitError, BundleError, ConfigError, PayloadError
from .images import checked_images
from .manifest import DEVICE, EDGE, FALLBACK, TABLES, Manifest
from .raw import pack_features, unpack_feature
from .stored import decode_images, encode_images, join_jpeg

if TYPE_CHECKING:
    from .entropy import PayloadCoder

__all__ = ["DevicePart", "EdgePart", "Manifest", "load_device", "load_edge"]

_BATCH = 64  # images that go through a network together
_QUALITY = 75

Floats = NDArray[np.float32]


class _Network:
    """An ONNX file of one input and one output, run on the CPU.

    Engines may fuse what is between quantised tensors into operators that round otherwise; that is turned off, so
    that int8 networks give the codes that they were trained and measured with.
    """

    def __init__(self, path: Path, threads: int) -> None:
        try:
            import onnxruntime
        except ImportError as e:
            raise ConfigError("running a bundle needs the package onnxruntime: pip install onnxruntime") from e
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as e:  # onnxruntime's errors have no common type
            raise BundleError(f"{path} does not run in onnxruntime {onnxruntime.__version__} "
                              f"({' '.join(str(e).split())[:200]}); install a newer onnxruntime") from e
        self._input = self._session.get_inputs()[0].name

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        parts = [self._session.run(None, {self._input: values[start : start + _BATCH]})[0]
                 for start in range(0, max(1, len(values)), _BATCH)]
        return np.concatenate(parts)


class DevicePart:
    """The device's side of a bundle; made by `load_device`.

    Attributes:
        manifest: What the bundle is.
    """

    def __init__(
        self, manifest: Manifest, network: _Network | None, coder: PayloadCoder | None, fallback: _Network | None
    ) -> None:
        self.manifest = manifest
        self._network, self._coder, self._fallback = network, coder, fallback

    @property
    def answers(self) -> bool:
        """Whether the whole network runs on the device, so that `logits` answers and nothing crosses."""
        return self.manifest.kind == "none"

    def encode(self, images: NDArray[np.uint8]) -> list[bytes]:
        """The payload of each image; empty payloads where nothing crosses.

        Args:
            images: uint8, shape (N, C, H, W).

        Raises:
            ConfigError: Images of another type or shape, or Pillow is needed and not installed.
        """
        kind = self.manifest.kind
        images = checked_images(images, self.manifest.image_shape)
        if kind == "none" or not len(images):
            return [b""] * len(images)
        if kind in ("png", "jpeg", "jpeg-body"):
            return encode_images(images, kind, self.manifest.quality or _QUALITY)
        assert self._network is not None
        values = self._network(images)
        if self._coder is not None:
            return self._coder.encode_batch(values)
        return pack_features(values)

    def logits(self, images: NDArray[np.uint8]) -> Floats:
        """Answers of a device that needs no edge, float32 (N, classes).

        Args:
            images: uint8, shape (N, C, H, W).

        Raises:
            ConfigError: Images of another type or shape, or the plan of this bundle needs its edge.
        """
        if not self.answers or self._network is None:
            raise ConfigError(f"plan {self.manifest.label!r} is answered by its edge; send it what `encode` gives")
        return self._network(checked_images(images, self.manifest.image_shape))

    def fallback(self, images: NDArray[np.uint8]) -> Floats | None:
        """Answers of the whole network on the device, float32 (N, classes); `None` where the bundle has none.

        Args:
            images: uint8, shape (N, C, H, W).

        Raises:
            ConfigError: Images of another type or shape.
        """
        images = checked_images(images, self.manifest.image_shape)
        return None if self._fallback is None else self._fallback(images)


class EdgePart:
    """The edge's side of a bundle; made by `load_edge`.

    Attributes:
        manifest: What the bundle is.
    """

    def __init__(self, manifest: Manifest, network: _Network, coder: PayloadCoder | None) -> None:
        self.manifest = manifest
        self._network, self._coder = network, coder

    def decode(self, payloads: Sequence[bytes]) -> Floats:
        """Answers to payloads, float32 (N, classes).

        Raises:
            PayloadError: Bytes that are no payload of this bundle; the message begins with its index.
            ConfigError: Pillow is needed and not installed.
        """
        if not payloads:
            return np.zeros((0, self.manifest.num_classes), dtype=np.float32)
        return self._network(np.stack([self._tensor(i, payload) for i, payload in enumerate(payloads)]))

    def _tensor(self, index: int, payload: bytes) -> NDArray[Any]:
        """What the network takes for one payload."""
        try:
            if self._coder is not None:
                return self._coder.decode(payload)
            return (unpack_feature(payload, self.manifest.feature_shape) if self.manifest.kind == "raw"
                    else self._image(payload))
        except PayloadError as e:
            raise PayloadError(f"payload {index}: {e}") from e

    def _image(self, payload: bytes) -> NDArray[np.uint8]:
        manifest = self.manifest
        if manifest.kind == "jpeg-body":
            payload = join_jpeg(payload, manifest.image_shape, manifest.quality or _QUALITY)
        (image,) = decode_images([payload], manifest.image_shape)
        return image  # type: ignore[no-any-return]


def load_device(folder: str | Path, threads: int = 1) -> DevicePart:
    """The device's side of a bundle, its files held against their hashes.

    Args:
        folder: The bundle.
        threads: Threads of onnxruntime.

    Raises:
        BundleError: The bundle is incomplete, altered, of another format version, or does not run here.
        ConfigError: A package that it needs is not installed.
    """
    folder, manifest = Path(folder), Manifest.load(folder)
    network, fallback = (_Network(folder / name, threads) if name in manifest.files else None
                         for name in (DEVICE, FALLBACK))
    needs = manifest.kind in {"code", "raw", "none"}
    if needs and network is None:
        raise BundleError(f"{folder}: the bundle has no {DEVICE}; export it again")
    return DevicePart(manifest, network, _coder(folder, manifest), fallback)


def load_edge(folder: str | Path, threads: int = 2) -> EdgePart:
    """The edge's side of a bundle, its files held against their hashes.

    Args:
        folder: The bundle.
        threads: Threads of onnxruntime.

    Raises:
        BundleError: The bundle is incomplete, altered, of another format version, does not run here, or needs no edge.
        ConfigError: A package that it needs is not installed.
    """
    folder, manifest = Path(folder), Manifest.load(folder)
    if EDGE not in manifest.files:
        raise BundleError(f"{folder}: the whole network of this bundle runs on the device; there is no edge to serve")
    return EdgePart(manifest, _Network(folder / EDGE, threads), _coder(folder, manifest))


def _coder(folder: Path, manifest: Manifest) -> PayloadCoder | None:
    if manifest.kind != "code":
        return None
    try:
        from .entropy import FrequencyTables, PayloadCoder
    except ImportError as e:
        raise ConfigError("the payloads of this bundle need the package constriction: pip install constriction") from e
    try:
        frequencies = np.load(folder / TABLES, allow_pickle=False)
        channels, height, width = manifest.code_shape
        return PayloadCoder(FrequencyTables(frequencies), (channels, height, width), manifest.key.encode())
    except (OSError, ValueError, AutosplitError) as e:
        raise BundleError(f"{folder / TABLES}: no tables of this bundle ({' '.join(str(e).split())}); "
                          "export it again") from e
