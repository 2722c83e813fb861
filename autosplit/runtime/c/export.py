"""The device's side of a bundle as a folder of C sources, compared with the bundle on this machine."""

from __future__ import annotations

import subprocess
import tempfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autosplit.core.errors import ConfigError, ParityError
from autosplit.evaluation.memory import LOGIT_BYTES
from autosplit.runtime.c.programs import DevicePrograms
from autosplit.runtime.c.writer import write_network
from autosplit.runtime.deployment import Deployment
from autosplit.runtime.standalone.bundle.manifest import FALLBACK, Footprint, Manifest, Parity
from autosplit.runtime.standalone.bundle.parts import load_device, load_edge
from autosplit.runtime.standalone.payload.coder import PayloadCoder
from autosplit.runtime.standalone.payload.exits import answered_by_both
from autosplit.runtime.standalone.payload.native import NATIVE, NATIVE_SOURCES
from autosplit.runtime.standalone.protocol.wire import KEY_BYTES, short_key

__all__ = ["C_FOLDER", "CompiledDevice", "compare_c", "compile_device", "write_c", "write_native", "write_sources",
           "write_vectors"]

C_FOLDER = "c"
"""Folder of the C sources in a bundle."""

_PACKAGE = "autosplit.runtime.c"
_VECTOR_BYTES = 48_000  # of the images in vectors.h: they lie in flash where `check` runs on a board
_FLAGS = ("-std=c11", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror")


def write_c(folder: Path, programs: DevicePrograms, rates: Sequence[Deployment], key: str) -> Footprint:
    """Write the C sources of a bundle, all but its test vectors.

    Args:
        folder: New; the bundle's folder `c`.
        programs: Of the deployment.
        rates: The deployment, or those of all rates.
        key: Of the bundle.
    """
    blueprint = rates[0].blueprint
    coders = [rate.coder for rate in rates if rate.coder is not None]
    return write_sources(folder, programs, coders, label=blueprint.plan.label, classes=blueprint.num_classes,
                         key=short_key(key))


def write_sources(
    folder: Path, programs: DevicePrograms, coders: Sequence[PayloadCoder], *, label: str = "", classes: int = 10,
    key: bytes = bytes(KEY_BYTES),
) -> Footprint:
    """Write programs as C, with all that they need to be compiled.

    Args:
        folder: New.
        programs: What the device runs.
        coders: One for each rate that sends something.
        label: What they are, for the header.
        classes: Outputs of the network.
        key: Names the deployment in frames.
    """
    network, constant_bytes = write_network(programs, coders)
    height, width, channels = programs.rates[0].program.image
    answers = programs.fallback is not None or bool(programs.rates[0].answer)
    footprint = Footprint(programs.arena_bytes + (LOGIT_BYTES * classes if answers else 0),
                          max((c.max_payload_bytes for c in coders), default=0), constant_bytes)
    package = resources.files(_PACKAGE)
    header = package.joinpath("autosplit.h.in").read_text(encoding="utf-8").format(
        label=label, height=height, width=width, channels=channels, classes=classes, rates=len(programs.rates),
        payload=footprint.payload_bytes, arena=programs.arena_bytes, fallback=int(answers),
        steps=len(programs.operations), key=", ".join(f"0x{b:02x}" for b in key))
    folder.mkdir()
    _write_files(folder, [source.name for source in package.joinpath("sources").iterdir()])
    (folder / "network.c").write_text(network, encoding="utf-8")
    (folder / "autosplit.h").write_text(header, encoding="utf-8")
    return footprint


def write_native(bundle: Path) -> None:
    """Write the source of the payload coder into a bundle, for machines that run Python."""
    folder = bundle / NATIVE
    folder.mkdir()
    _write_files(folder, NATIVE_SOURCES)


def _write_files(folder: Path, names: Iterable[str]) -> None:
    sources = resources.files(_PACKAGE).joinpath("sources")
    for name in names:
        (folder / name).write_text(sources.joinpath(name).read_text(encoding="utf-8"), encoding="utf-8")


def write_vectors(folder: Path, bundle: Path, images: NDArray[np.uint8]) -> None:
    """Write `vectors.h`: images, and what the bundle makes of each, by whichever end answers it.

    Args:
        folder: Of the C sources.
        bundle: Answers.
        images: uint8 (N, C, H, W); as many are taken as fit into the flash of a board.
    """
    device = load_device(bundle)
    edge = None if device.answers else load_edge(bundle)
    images = images[: max(1, _VECTOR_BYTES // images[0].size)]
    rows = []
    for rate in range(max(1, len(device.manifest.rates))):
        payloads, logits = device.begin(images, rate)
        if edge is None:
            answers = device.logits(images)
        else:  # of what is sent, the edge's
            answers = edge.decode(payloads) if logits is None else answered_by_both(logits, payloads, edge.decode)
        rows.append(", ".join(f"{{{len(p)}, {label}, 0x{zlib.crc32(p):08x}u}}"
                              for p, label in zip(payloads, answers.argmax(axis=1).tolist(), strict=True)))
    pixels = [",".join(map(str, image.transpose(1, 2, 0).ravel().tolist())) for image in images]
    text = (f"/* Images, and what the bundle makes of them. */\n#define VECTORS {len(images)}\n\n"
            "static const struct {\n    uint16_t bytes, label;\n    uint32_t crc;\n"
            f"}} vectors[][VECTORS] = {{\n" + "".join(f"    {{{row}}},\n" for row in rows) + "};\n\n"
            "static const uint8_t vector_images[VECTORS][AUTOSPLIT_IMAGE_BYTES] = {\n"
            + "".join(f"    {{{row}}},\n" for row in pixels) + "};\n")
    (folder / "vectors.h").write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class CompiledDevice:
    """C sources compiled for this machine.

    Attributes:
        program: The file.
        manifest: Of the bundle.
    """

    program: Path
    manifest: Manifest

    def run(self, images: NDArray[np.uint8], rate: int = 0) -> tuple[list[bytes], NDArray[Any], NDArray[Any] | None]:
        """Payloads, logits of what the device answered (NaN elsewhere), and the fallback's logits.

        Args:
            images: uint8 (N, C, H, W).
            rate: Number of the rate.
        """
        given = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).tobytes()
        ran = subprocess.run([self.program, "-", str(rate)], input=given, capture_output=True, check=False)
        if ran.returncode:
            raise ParityError(f"{self.program} ends with {ran.returncode}: {ran.stderr.decode(errors='replace')[:300]}")
        data, classes, at = ran.stdout, self.manifest.num_classes, 0
        payloads, logits, spare = [], np.full((len(images), classes), np.nan, dtype=np.float32), []

        def numbers() -> NDArray[np.float32]:
            return np.frombuffer(data, np.float32, classes, at)

        falls_back = (self.manifest.kind == "none" or self.manifest.exit is not None
                      or FALLBACK in self.manifest.files)
        for i in range(len(images)):
            size = int.from_bytes(data[at : at + 2], "big")
            payloads.append(data[at + 2 : at + 2 + size])
            at += 2 + size
            if not size:
                logits[i] = numbers()
                at += 4 * classes
            if falls_back:
                spare.append(numbers())
                at += 4 * classes
        if at != len(data):
            raise ParityError(f"{self.program} writes {len(data)} bytes, expected {at}")
        return payloads, logits, np.stack(spare) if spare else None


def compile_device(
    folder: Path, manifest: Manifest, into: Path, cc: str, flags: Sequence[str] = ("-O2",)
) -> CompiledDevice:
    """Compile the C sources of a bundle for this machine.

    Args:
        folder: Of the sources.
        manifest: Of the bundle.
        into: Folder of the program.
        cc: The compiler.
        flags: More options for it.

    Raises:
        ConfigError: The compiler refuses them.
    """
    program = into / "check"
    names = ("network.c", "kernels.c", "payload.c", "fragments.c", "check.c")
    ran = subprocess.run([cc, *_FLAGS, *flags, f"-I{folder}", *(str(folder / n) for n in names), "-o", str(program)],
                         capture_output=True, text=True, check=False)
    if ran.returncode:
        raise ConfigError(f"{cc} does not compile {folder}: {ran.stderr.strip().splitlines()[:1]}")
    return CompiledDevice(program, manifest)


def compare_c(bundle: Path, images: NDArray[np.uint8], cc: str) -> tuple[Parity, ...]:
    """Whether the C sources of a bundle answer as the bundle does, to the bit.

    Args:
        bundle: Its folder.
        images: uint8 (N, C, H, W).
        cc: The compiler.
    """
    device, found = load_device(bundle), []
    with tempfile.TemporaryDirectory() as into:
        compiled = compile_device(bundle / C_FOLDER, device.manifest, Path(into), cc)
        rates = len(device.manifest.rates)
        for rate in range(max(1, rates)):
            sent, expected = device.begin(images, rate)
            expected = device.logits(images) if device.answers else expected
            payloads, logits, spare = compiled.run(images, rate)
            same = np.array([a == b for a, b in zip(payloads, sent, strict=True)])
            here = np.array([not p for p in sent]) & same
            error, labels = 0.0, int(same.sum())
            if expected is not None and here.any():
                error = float(np.abs(expected - logits)[here].max())
                labels -= int((expected.argmax(1) != logits.argmax(1))[here].sum())
            found.append(Parity(f"C, rate {rate}" if rates else "C", len(images), labels, int(same.sum()), error, 0.0))
        alone = device.fallback(images)
        if alone is not None and spare is not None and not device.answers:
            same_labels = int((alone.argmax(1) == spare.argmax(1)).sum())
            found.append(Parity("C, fallback", len(images), same_labels, len(images),
                                float(np.abs(alone - spare).max()), 0.0))
    return tuple(found)
