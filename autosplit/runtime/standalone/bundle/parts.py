"""A bundle that runs: `load_device` for the side with the images, `load_edge` for the side with the answers.

    device, edge = load_device("bundle"), load_edge("bundle")
    logits = edge.decode(device.encode(images))

Both are safe to share between threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import read_array
from ..bundle.manifest import DEVICE, EDGE, ENCODER, EXIT, FALLBACK, TABLES, Manifest
from ..bundle.rates import encoder_file, rate_key, tables_file, tail_file
from ..control.controller import Controller
from ..errors import AutosplitError, BundleError, ConfigError, PayloadError, printable
from ..files import contains
from ..images import checked_images
from ..options import PROVIDER
from ..payload.exits import confidence, payloads_of_all
from ..payload.frequencies import FrequencyTables
from ..payload.header import rate_of
from ..payload.image_codecs import IMAGE_KINDS, decode_images, encode_images, join_file
from ..payload.native import NativeCoder, native_coder
from ..payload.raw import pack_features, unpack_feature

if TYPE_CHECKING:
    from ..payload.coder import PayloadCoder

__all__ = ["DevicePart", "EdgePart", "Manifest", "Network", "coders_of", "load_device", "load_edge",
           "session_options"]

_BATCH = 64  # images that go through a network together
_EXACT = {"CUDAExecutionProvider": {"use_tf32": "0"}}  # which would leave ten bits of each factor
_EXTERNAL = b"\n\x08location"  # the key of an ONNX file's reference to data in another file

Floats = NDArray[np.float32]


def session_options(threads: int) -> Any:
    """`onnxruntime.SessionOptions` for so many threads, with errors alone in the log.

    Engines may fuse what is between quantised tensors into operators that round otherwise; that is turned off, so
    that int8 networks give the codes that they were trained and measured with.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


def _provider(name: str) -> str:
    """What onnxruntime calls an execution provider: `cuda` is `CUDAExecutionProvider`.

    Raises:
        ConfigError: This onnxruntime has none of that name.
    """
    import onnxruntime

    available: list[str] = onnxruntime.get_available_providers()
    known = {p.removesuffix("ExecutionProvider").lower(): p for p in available}
    if name.lower() not in known:
        raise ConfigError(f"execution provider {name!r}: onnxruntime {onnxruntime.__version__} here has "
                          f"{', '.join(sorted(known))}; for cuda install onnxruntime-gpu in its place")
    return known[name.lower()]


class Network:
    """An ONNX file of one input and one output, run on the CPU or by another execution provider.

    Attributes:
        session: Of onnxruntime.
    """

    def __init__(self, path: Path, threads: int, provider: str = PROVIDER) -> None:
        try:
            import onnxruntime
        except ImportError as e:
            raise ConfigError("running a bundle needs the package onnxruntime: pip install onnxruntime") from e
        options = session_options(threads)
        # `export` writes no such files, and those of others must not make us read files outside of the bundle
        if contains(path, _EXTERNAL, error=BundleError):
            raise BundleError(f"{path} keeps weights in other files; export the bundle again")
        self._path, wanted = path, _provider(provider)
        # what a provider has no kernel for is computed on the CPU
        providers = {wanted: _EXACT.get(wanted, {}), "CPUExecutionProvider": {}}
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=list(providers.items()))
            (self._input,) = [given.name for given in self.session.get_inputs()]
        except Exception as e:  # onnxruntime's errors have no common type
            raise BundleError(f"{path} does not run in onnxruntime {onnxruntime.__version__} "
                              f"({printable(e, 200)}); install a newer onnxruntime") from e
        if self.session.get_providers()[0] != wanted:  # onnxruntime goes on without it, and says so in its log
            raise ConfigError(f"execution provider {provider!r} cannot start here; look at what onnxruntime logs, and "
                              "install the libraries that it needs")

    def __call__(self, values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Run.

        Args:
            values: What goes in, shape (N, ...).
            shape: Of what comes out for each.

        Raises:
            BundleError: The network does not run on these values, or gives something else.
        """
        parts = []
        # some at a time, so that memory does not grow with the images; none at all run once, for the answer's type
        for start in range(0, max(1, len(values)), _BATCH):
            batch = values[start : start + _BATCH]
            try:
                found = np.asarray(self.session.run(None, {self._input: batch})[0])
            except Exception as e:  # see above
                raise BundleError(f"{self._path} does not run on what it is given ({printable(e, 200)}); "
                                  "export the bundle again") from e
            if found.shape != (len(batch), *shape):
                raise BundleError(f"{self._path} gives {found.shape}, expected {(len(batch), *shape)}; "
                                  "export the bundle again")
            parts.append(found)
        return np.concatenate(parts)


@dataclass(frozen=True)
class _Rate:
    """What belongs to one rate alone, loaded once.

    Attributes:
        coder: Symbols to payloads and back.
        network: The encoder on the device, `None` where the device's network holds it; decoder and tail at the edge.
        native: Makes payloads in place of `coder`, on a device for which it was compiled.
    """

    coder: PayloadCoder
    network: Network | None
    native: NativeCoder | None = None

    def payloads(self, codes: NDArray[Any]) -> list[bytes]:
        """The payload of each code, integers of shape (N, K, gh, gw)."""
        return (self.native or self.coder).encode_batch(codes)


class DevicePart:
    """The device's side of a bundle; made by `load_device`.

    Attributes:
        manifest: What the bundle is.
        controller: What decides over each picture of a stream, where the bundle holds one.
    """

    def __init__(
        self, manifest: Manifest, network: Network | None, rates: Sequence[_Rate], fallback: Network | None,
        exit: Network | None = None, controller: Controller | None = None,  # noqa: A002
    ) -> None:
        self.manifest, self.controller = manifest, controller
        self._network, self._rates, self._fallback, self._exit = network, tuple(rates), fallback, exit

    @property
    def answers(self) -> bool:
        """Whether the whole network runs on the device, so that `logits` answers and nothing crosses."""
        return self.manifest.kind == "none"

    @property
    def has_fallback(self) -> bool:
        """Whether the whole network, or else an exit, is in the bundle, for when the edge is lost."""
        return self._fallback is not None or self._exit is not None

    def encode(self, images: NDArray[np.uint8], rate: int | None = None) -> list[bytes]:
        """The payload of each image; empty payloads where nothing crosses. Arguments and errors as of `begin`."""
        return self.begin(images, rate)[0]

    def begin(self, images: NDArray[np.uint8], rate: int | None = None) -> tuple[list[bytes], Floats | None]:
        """The device's part of an inference.

        Args:
            images: uint8, shape (N, C, H, W).
            rate: Number of a rate; the one that the manifest starts with when left out.

        Returns:
            The payload of each image, empty where nothing crosses; and where the bundle has an exit the exit's logits,
            float32 (N, classes): they are the answer to the images with an empty payload.

        Raises:
            ConfigError: Images of another type or shape, no such rate, or Pillow is needed and not installed.
        """
        kind = self.manifest.kind
        number = self.manifest.start if rate is None else rate
        if not 0 <= number < max(1, len(self._rates)):
            known = f"has rates 0 to {len(self._rates) - 1}" if len(self._rates) > 1 else "has one rate alone, number 0"
            raise ConfigError(f"this bundle {known}; there is no rate {number}")
        images = checked_images(images, self.manifest.image_shape)
        if kind == "none" or not len(images):
            return [b""] * len(images), None
        leaving = self.manifest.exit
        if leaving is None or self._exit is None:
            return self._payloads(images, number), None
        given: NDArray[Any] = images
        if leaving.takes == "feature":
            assert self._network is not None
            given = self._network(images, self.manifest.feature_shape)
        logits = self._exit(given, (self.manifest.num_classes,))
        sent = confidence(logits) < leaving.threshold
        payloads: list[bytes] = []
        if sent.any():
            payloads = (self._encoded(given[sent], number) if leaving.takes == "feature"
                        else self._payloads(images[sent], number))
        return payloads_of_all(sent, payloads), logits

    def _payloads(self, images: NDArray[np.uint8], rate: int) -> list[bytes]:
        """Payloads of images that are sent."""
        if self.manifest.kind in IMAGE_KINDS:
            return encode_images(images, self.manifest.stored_format)
        assert self._network is not None
        if not self._rates:
            return pack_features(self._network(images, self.manifest.feature_shape))
        found = self._rates[rate]
        if found.network is None:
            return found.payloads(self._network(images, found.coder.shape))
        return self._encoded(self._network(images, self.manifest.feature_shape), rate)

    def _encoded(self, feature: Floats, rate: int) -> list[bytes]:
        """Payloads of features, where the encoder has a file of its own."""
        found = self._rates[rate]
        assert found.network is not None
        return found.payloads(found.network(feature, found.coder.shape))

    def logits(self, images: NDArray[np.uint8]) -> Floats:
        """Answers of a device that needs no edge, float32 (N, classes).

        Args:
            images: uint8, shape (N, C, H, W).

        Raises:
            ConfigError: Images of another type or shape, or the plan of this bundle needs its edge.
        """
        if not self.answers or self._network is None:
            raise ConfigError(f"plan {self.manifest.label!r} is answered by its edge; send it what `encode` gives")
        return self._network(checked_images(images, self.manifest.image_shape), (self.manifest.num_classes,))

    def fallback(self, images: NDArray[np.uint8]) -> Floats | None:
        """Answers without an edge, float32 (N, classes); `None` where the bundle has nothing to give them.

        By the whole network where the bundle holds it, else by the exit, sure or not.

        Args:
            images: uint8, shape (N, C, H, W).

        Raises:
            ConfigError: Images of another type or shape.
        """
        images = checked_images(images, self.manifest.image_shape)
        classes = (self.manifest.num_classes,)
        leaving = self.manifest.exit
        if self._fallback is not None:
            return self._fallback(images, classes)
        if self._exit is None or leaving is None:
            return None
        if leaving.takes == "images":
            return self._exit(images, classes)
        assert self._network is not None
        return self._exit(self._network(images, self.manifest.feature_shape), classes)


class EdgePart:
    """The edge's side of a bundle; made by `load_edge`.

    Attributes:
        manifest: What the bundle is.
    """

    def __init__(self, manifest: Manifest, network: Network | None, rates: Sequence[_Rate]) -> None:
        self.manifest = manifest
        self._network, self._rates = network, tuple(rates)

    def decode(self, payloads: Sequence[bytes]) -> Floats:
        """Answers to payloads, of any rates, float32 (N, classes).

        Raises:
            PayloadError: Bytes that are no payload of this bundle, or of a rate that it lacks; the message begins with
                its index.
            ConfigError: Pillow is needed and not installed.
        """
        logits = np.zeros((len(payloads), self.manifest.num_classes), dtype=np.float32)
        # devices may encode at different rates, whose codes have different shapes: each rate is a batch of its own
        groups: dict[int, list[int]] = {}
        tensors = [self._tensor(i, payload) for i, payload in enumerate(payloads)]
        for i, (rate, _) in enumerate(tensors):
            groups.setdefault(rate, []).append(i)
        for rate, rows in groups.items():
            network = self._rates[rate].network if self._rates else self._network
            assert network is not None
            logits[rows] = network(np.stack([tensors[i][1] for i in rows]), (self.manifest.num_classes,))
        return logits

    def _tensor(self, index: int, payload: bytes) -> tuple[int, NDArray[Any]]:
        """The rate of a payload, and what the network of that rate takes for it."""
        try:
            manifest = self.manifest
            if manifest.kind == "raw":
                return 0, unpack_feature(payload, manifest.feature_shape)
            if not self._rates:
                stored = manifest.stored_format
                if stored.shared:
                    payload = join_file(payload, manifest.image_shape, stored)
                return 0, decode_images([payload], manifest.image_shape, stored.downscale)[0]
            rate = rate_of(payload) if manifest.rates else 0
            if rate >= len(self._rates):
                raise PayloadError(f"a payload of rate {rate}, this bundle has rates 0 to {len(self._rates) - 1}; "
                                   "use the two halves of one bundle")
            return rate, self._rates[rate].coder.decode(payload)
        except PayloadError as e:
            raise PayloadError(f"payload {index}: {e}") from e


def load_device(folder: str | Path, threads: int = 1) -> DevicePart:
    """The device's side of a bundle, after the hashes of its files were checked.

    Args:
        folder: The bundle.
        threads: Threads of onnxruntime.

    Raises:
        BundleError: The bundle is incomplete, altered, of another format version, or does not run here.
        ConfigError: A package that it needs is not installed.
    """
    folder, manifest = Path(folder), Manifest.load(folder)
    network, fallback = (Network(folder / name, threads) if name in manifest.files else None
                         for name in (DEVICE, FALLBACK))
    # a device that sends the image itself runs no network
    needs = manifest.kind in {"code", "raw", "none"}
    if needs and network is None:
        raise BundleError(f"{folder}: the bundle has no {DEVICE}; export it again")
    # encoders in files of their own
    apart = bool(manifest.rates) or (manifest.exit is not None and manifest.exit.takes == "feature")
    rates = [_Rate(coder, Network(folder / (encoder_file(i) if manifest.rates else ENCODER), threads) if apart
                   else None, native_coder(folder, coder)) for i, coder in enumerate(coders_of(folder, manifest))]
    exit_ = None if manifest.exit is None else Network(folder / EXIT, threads)
    controller = None if manifest.controller is None else manifest.controller.controller(folder)
    return DevicePart(manifest, network, rates, fallback, exit_, controller)


def load_edge(folder: str | Path, threads: int = 2, provider: str = PROVIDER) -> EdgePart:
    """The edge's side of a bundle, after the hashes of its files were checked.

    Args:
        folder: The bundle.
        threads: Threads of onnxruntime.
        provider: Execution provider that computes, such as `cuda`; answers may differ from those that were compared
            (`bundle.check.check` tells).

    Raises:
        BundleError: The bundle is incomplete, altered, of another format version, does not run here, or needs no edge.
        ConfigError: A package that it needs, or the execution provider, is not installed.
    """
    folder, manifest = Path(folder), Manifest.load(folder)
    if manifest.kind == "none":
        raise BundleError(f"{folder}: the whole network of this bundle runs on the device; there is no edge to serve")
    coders = coders_of(folder, manifest)
    files = [tail_file(i) if manifest.rates else EDGE for i in range(max(1, len(coders)))]
    networks = [Network(folder / name, threads, provider) for name in files]
    if not coders:
        return EdgePart(manifest, networks[0], ())
    return EdgePart(manifest, None, [_Rate(*pair) for pair in zip(coders, networks, strict=True)])


def coders_of(folder: Path, manifest: Manifest) -> list[PayloadCoder]:
    """What makes the payloads of each rate; of the only one where the bundle has no more, none without a code."""
    if manifest.kind != "code":
        return []
    wanted = [(TABLES, manifest.code_shape, manifest.key)] if not manifest.rates else [
        (tables_file(i), rate.code_shape, rate_key(manifest.key, i)) for i, rate in enumerate(manifest.rates)]
    try:
        from ..payload.coder import PayloadCoder
    except ImportError as e:
        raise ConfigError("the payloads of this bundle need the package constriction: pip install constriction") from e
    coders = []
    for number, (name, shape, key) in enumerate(wanted):
        frequencies = read_array(folder / name, error=BundleError)
        try:
            channels, height, width = shape
            tables = FrequencyTables.from_array(frequencies)
            coders.append(PayloadCoder(tables, (channels, height, width), key.encode(), number))
        except (ValueError, AutosplitError) as e:
            raise BundleError(f"{folder / name}: no tables of this bundle ({printable(e)}); export it "
                              "again") from e
    return coders
