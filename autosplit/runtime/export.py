"""From a deployment to a bundle: a folder that runs with onnxruntime, numpy and constriction, without torch.

A bundle is complete in itself: ONNX files, frequency tables, the code that runs them (`autosplit.runtime.standalone`,
copied as `coinference`), images to check it with, and a manifest with the hash of every file. What was exported is
compared with its deployment on test images before it is called done.
"""

from __future__ import annotations

import logging
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter
from torch import Tensor, nn

from autosplit.compression.network import SplitNetwork
from autosplit.core.blueprint import Arithmetic, Blueprint
from autosplit.core.cache import Cache
from autosplit.core.errors import ConfigError, ParityError, unwritable
from autosplit.core.hashing import sha256_of_file
from autosplit.core.opsets import OPSET, OPSETS
from autosplit.core.plan import OUTPUT, CodecSetting, Plan
from autosplit.core.progress import NullProgress, PhaseReporter
from autosplit.core.result import Result
from autosplit.core.version import __version__
from autosplit.data.base import ImageDataset
from autosplit.data.recorded import recorded_data
from autosplit.models.loading import build_backbone
from autosplit.models.onnx_files import require_onnx
from autosplit.models.tracing import trace
from autosplit.models.weights import load_weights
from autosplit.runtime import standalone
from autosplit.runtime.c import device_programs
from autosplit.runtime.c.export import C_FOLDER, compare_c, write_c, write_native, write_vectors
from autosplit.runtime.deployment import Deployment
from autosplit.runtime.networks import write_device, write_edge, write_encoder, write_exit
from autosplit.runtime.parity import compare, recorded
from autosplit.runtime.readme import readme
from autosplit.runtime.standalone.bundle.manifest import (
    CHECK,
    DEVICE,
    EDGE,
    ENCODER,
    EXIT,
    FALLBACK,
    FORMAT_VERSION,
    MANIFEST,
    TABLES,
    Exit,
    Manifest,
    Normalisation,
    Parity,
    Source,
)
from autosplit.runtime.standalone.bundle.rates import Rate, Switching, encoder_file, tables_file, tail_file
from autosplit.runtime.standalone.compiling import compiler
from autosplit.runtime.standalone.profiling.operators import C_STEPS, Operators
from autosplit.runtime.timed import step_operators, write_operators

__all__ = ["PACKAGE", "Rates", "Target", "compared_images", "export_bundle", "export_result", "json_schema",
           "make_folder", "require_export", "whole_network"]

_log = logging.getLogger(__name__)

Target = Literal["onnx", "c"]
"""What the device's side is written as: ONNX alone, or C sources as well."""

PACKAGE = "coinference"
"""Name of the runtime in a bundle."""

_README = "README.md"
_CHECKED_IMAGES = 8  # that lie in the bundle
_COMPARED_PIXELS = 20_000_000  # of the test images that are compared by default
_LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy", "constriction", "pillow")


@dataclass(frozen=True)
class Rates:
    """Several settings of one codec behind one head, for one bundle.

    Attributes:
        key: Identifies them all.
        deployments: One per rate, smallest payload first; their heads are equal.
        records: Their entries in the manifest.
        switching: Which of them to use on which link.
    """

    key: str
    deployments: tuple[Deployment, ...]
    records: tuple[Rate, ...]
    switching: Switching


def export_result(
    path: Path,
    out: Path,
    *,
    images: int | None = None,
    fallback: bool = False,
    opset: int = OPSET,
    target: Target = "onnx",
    data_root: Path | None = None,
    cache: Cache | None = None,
    progress: PhaseReporter | None = None,
    trust_code: bool = False,
) -> Manifest:
    """Export the deployment of a result file and compare it on the test images.

    Args:
        path: `best.json`, its weights beside it.
        out: Folder of the bundle; it must be new or empty.
        images: Test images to compare; all of them by default, up to 20 million pixels.
        fallback: Whether the bundle gets the whole, untouched network for the device too.
        opset: Version of ONNX's operators, one of `autosplit.core.opsets.OPSETS`: what an older onnxruntime runs.
        target: See `export_bundle`.
        data_root: Where data sets lie.
        cache: Where the backbone's weights are looked up for the fallback; the user's cache folder by default.
        progress: Shows the phases.
        trust_code: Whether code may run that the result names and that never ran here.

    Raises:
        ConfigError: Packages or the backbone's weights are missing, or the folder cannot be used.
        ResultError: The result, its weights or its data have changed or are missing.
        ParityError: The bundle does not answer as the deployment does; it stays where it is.
    """
    progress = progress or NullProgress()
    require_export(opset)
    result = Result.load(path, trust_code=trust_code)
    if fallback and result.plan.split == OUTPUT:
        raise ConfigError(f"{path}: the whole network of this plan runs on the device already; leave out --fallback")
    with progress.phase("rebuild the deployment"):
        deployment = Deployment.from_result(result)
    with progress.phase("load data"):
        # normalised as when the deployment was trained, whatever this machine computes for the data now
        data = replace(recorded_data(result, path, data_root), mean=deployment.mean, std=deployment.std)
    whole = None
    if fallback:
        with progress.phase("rebuild the whole network"):
            whole = whole_network(result, data, cache or Cache())
    source = Source(result.scenario.name, result.scenario.dataset, data.fingerprint, result.stored.sha256)
    return export_bundle(deployment, out, images=compared_images(data, images), class_names=data.class_names,
                         fallback=whole, source=source, opset=opset, target=target, progress=progress)


def compared_images(data: ImageDataset, images: int | None = None) -> Tensor:
    """Test images that a bundle is compared on: so many, else all up to 20 million pixels."""
    _, height, width = data.shape
    return data.test.images[:images or max(_CHECKED_IMAGES, _COMPARED_PIXELS // (height * width))]


def export_bundle(
    deployment: Deployment | Rates,
    out: Path,
    *,
    images: Tensor | None = None,
    class_names: Sequence[str] | None = None,
    fallback: Deployment | None = None,
    source: Source | None = None,
    opset: int = OPSET,
    target: Target = "onnx",
    progress: PhaseReporter | None = None,
) -> Manifest:
    """Write a deployment, or the rates of one, as a bundle.

    Args:
        deployment: What to export.
        out: Folder of the bundle; it must be new or empty.
        images: uint8 (N, C, H, W), to compare bundle and deployment on; the first eight stay in the bundle, so that
            `python -m coinference check` can tell whether it answers the same elsewhere. `None` = nothing is compared.
        class_names: One per output; numbers by default.
        fallback: A deployment of the whole network on the device, for when the edge is lost.
        source: The result that the deployment comes from.
        opset: See `export_result`.
        target: `c` = the device's side as C sources too, in the folder `c`. They are compiled, and compared with the
            bundle on the same images, where this machine has a C compiler.
        progress: Shows the phases.

    Returns:
        The manifest of the bundle.

    Raises:
        ConfigError: Packages are absent, the folder cannot be used, or the device's side cannot be written as C.
        ParityError: The bundle does not answer as the deployment does; it stays where it is.
    """
    progress = progress or NullProgress()
    require_export(opset)
    rates = deployment.deployments if isinstance(deployment, Rates) else (deployment,)
    programs = device_programs(rates, fallback) if target == "c" else None  # refused before anything is written
    make_folder(out)
    try:
        with progress.phase("write ONNX"):
            operators = _write_networks(deployment, fallback, out, opset)
        shutil.copytree(Path(standalone.__file__).parent, out / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
        if rates[0].tables is not None:
            write_native(out)
        footprint = None
        if programs is not None:
            with progress.phase("write C"):
                key = deployment.key if isinstance(deployment, Rates) else deployment.blueprint.key
                footprint = write_c(out / C_FOLDER, programs, rates, key)
                operators[C_STEPS] = step_operators(programs, [*rates, *([fallback] if fallback else [])])
        write_operators(out, operators)
        # sealed before anything loads it, since loading checks hashes; and again after each file that is added
        manifest = _sealed(replace(_manifest(deployment, class_names, source), opset=opset, footprint=footprint), out)
        if images is not None and len(images):
            with progress.phase("compare with the deployment", total=len(images)) as advance:
                parity = compare(out, rates, fallback, images, advance)
                arrays: dict[str, Any] = recorded(out, images[:_CHECKED_IMAGES])
                np.savez_compressed(out / CHECK, **arrays)
            if target == "c":
                with progress.phase("compare the C sources with the bundle"):
                    parity += _compared_c(out, images[:len(images)].numpy())
            manifest = _sealed(replace(manifest, parity=parity), out)
        (out / _README).write_text(readme(manifest), encoding="utf-8")
        manifest = _sealed(manifest, out)
    except OSError as e:
        raise unwritable(out, e) from e
    for found in manifest.parity:
        if not found.holds:
            raise ParityError(
                f"{out}: the {found.network} network answers {found.labels_equal} of {found.images} images with the "
                f"deployment's label, logits differ by up to {found.logit_error:.2g} (tolerance "
                f"{found.tolerance:.2g}); the bundle is left for inspection, do not deploy it")
    return manifest


def _compared_c(out: Path, images: NDArray[np.uint8]) -> tuple[Parity, ...]:
    """Test vectors for the C sources of a bundle; and how they answer here, if this machine has a C compiler."""
    write_vectors(out / C_FOLDER, out, images)
    cc = compiler()
    if cc is None:
        _log.warning("no C compiler here, so the C sources were not compared with the bundle; `make check` in %s does "
                     "that on a machine with one", out / C_FOLDER)
        return ()
    return compare_c(out, images, cc)


def require_export(opset: int) -> None:
    """Look for the packages that an export needs, and for its opset, before anything is computed.

    Raises:
        ConfigError: A package is absent, or this opset cannot be written.
    """
    require_onnx("onnxruntime")
    if opset not in OPSETS:
        raise ConfigError(f"opset {opset} cannot be written; choose one from {min(OPSETS)} to {max(OPSETS)}")


def whole_network(result: Result, data: ImageDataset, cache: Cache) -> Deployment:
    """The backbone as it was before the search, whole on the device and in the device's arithmetic.

    Args:
        result: What the search found.
        data: Its data, normalised as its deployment's; ranges of int8 come from the calibration images.
        cache: Where the backbone's weights are looked up, unless the scenario names a file of them.

    Raises:
        ConfigError: The weights are no longer in the cache.
    """
    scenario, key = result.scenario, result.provenance.backbone_key
    trained = scenario.weights is None and scenario.training.backbone_epochs > 0
    model = build_backbone(scenario.backbone, data.num_classes, data.shape[0], data.shape[1:],
                           pretrained=scenario.weights is None and not trained)
    if scenario.weights is not None:
        load_weights(model, Path(scenario.weights))
    backbone = trace(model.eval(), data.shape)
    if trained:
        tensors = cache.load("backbone", key)
        if tensors is None:
            raise ConfigError(f"the whole network is not in the cache {cache.root} (backbone {key}); search again with "
                              "this result's scenario, or leave out --fallback")
        backbone.load_state_dict(tensors)
    arithmetic: Arithmetic = "int8" if scenario.conditions.device.arithmetic == "int8" else "fp32"
    blueprint = Blueprint(
        backbone=scenario.backbone, num_classes=data.num_classes, image_shape=data.shape,
        plan=Plan(split=OUTPUT, codec=CodecSetting(kind="none")), arithmetic=arithmetic, key=key)
    network = SplitNetwork(backbone, nn.Identity()).eval()
    return Deployment.fit(blueprint, network, data)


def json_schema() -> dict[str, Any]:
    """JSON Schema of a bundle's manifest; published as `docs/bundle.schema.json`."""
    return TypeAdapter(Manifest).json_schema(mode="serialization")


def make_folder(out: Path) -> None:
    """Make the folder of a bundle.

    Raises:
        ConfigError: It holds something already, or cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        taken = any(out.iterdir())
    except OSError as e:
        raise unwritable(out, e) from e
    if taken:
        raise ConfigError(f"{out} is not empty; name a new or empty folder with --out")


def _write_networks(deployment: Deployment | Rates, fallback: Deployment | None, out: Path,
                    opset: int) -> dict[str, Operators | None]:
    """ONNX files and frequency tables; of several rates, one head and a set of the rest each. Gives their operators."""
    found = {}
    if isinstance(deployment, Rates):
        found[DEVICE] = write_device(deployment.deployments[0], out / DEVICE, encoder=False, opset=opset)
        for number, rate in enumerate(deployment.deployments):
            found[encoder_file(number)] = write_encoder(rate, out / encoder_file(number), opset=opset)
            found[tail_file(number)] = write_edge(rate, out / tail_file(number), opset=opset)
            _write_tables(rate, out / tables_file(number))
    else:
        leaving = deployment.network.exit
        classifier = leaving is not None and not leaving.whole
        found[DEVICE] = write_device(deployment, out / DEVICE, encoder=not classifier, opset=opset)
        if classifier:
            found[ENCODER] = write_encoder(deployment, out / ENCODER, opset=opset)
        if leaving is not None:
            found[EXIT] = write_exit(deployment, out / EXIT, opset=opset)
        found[EDGE] = write_edge(deployment, out / EDGE, opset=opset)
        _write_tables(deployment, out / TABLES)
    if fallback is not None:
        found[FALLBACK] = write_device(fallback, out / FALLBACK, opset=opset)
    return found


def _write_tables(deployment: Deployment, path: Path) -> None:
    if deployment.tables is not None:
        np.save(path, deployment.tables.to_arrays()["frequencies"], allow_pickle=False)


def _manifest(deployment: Deployment | Rates, class_names: Sequence[str] | None, source: Source | None) -> Manifest:
    if isinstance(deployment, Rates):
        switching, plain = deployment.switching, _manifest(deployment.deployments[deployment.switching.start],
                                                           class_names, source)
        sizes = [rate.payload_bytes for rate in deployment.records]
        cut, _, _ = plain.label.rpartition(" | ")
        return replace(plain, key=deployment.key, rates=deployment.records, switching=switching,
                       label=f"{cut} | {len(sizes)} rates of {sizes[0]:.0f} to {sizes[-1]:.0f} B")
    blueprint, codec = deployment.blueprint, deployment.plan.codec
    versions = {"autosplit": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # installed under another name, or a build of the user's own
            versions[name] = "unknown"
    if codec.kind == "file":
        raise ConfigError("the user's own files are sent as they are in this plan: there is nothing to export")
    return Manifest(
        format_version=FORMAT_VERSION, key=blueprint.key, label=blueprint.plan.label, kind=codec.kind,
        quality=codec.quality, effort=codec.effort, downscale=codec.downscale,
        plan=blueprint.plan.model_dump(mode="json"), backbone=blueprint.backbone,
        arithmetic=blueprint.arithmetic, image_shape=blueprint.image_shape,
        normalisation=Normalisation(tuple(deployment.mean.tolist()), tuple(deployment.std.tolist())),
        class_names=tuple(class_names or map(str, range(blueprint.num_classes))),
        feature_shape=blueprint.feature_shape, code_shape=blueprint.code_shape,
        exit=_exit(blueprint.plan), rates=(), switching=None, parity=(), source=source, versions=versions, files={})


def _exit(plan: Plan) -> Exit | None:
    """An exit as the manifest has it."""
    found = plan.exit
    return None if found is None else Exit(found.threshold, "feature" if found.network is None else "images")


def _sealed(manifest: Manifest, out: Path) -> Manifest:
    """The manifest with the hashes of all files, written."""
    files = sorted(p for p in out.rglob("*") if p.is_file() and p != out / MANIFEST)
    return replace(manifest, files={p.relative_to(out).as_posix(): sha256_of_file(p) for p in files}).save(out)
