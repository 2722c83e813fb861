"""The two sides of a deployment as ONNX files: from uint8 images to symbols or features, and from these to logits."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autosplit.compression.codecs.base import Quantiser
from autosplit.compression.int8_onnx import integer_form
from autosplit.compression.integer_operators import translations
from autosplit.compression.quantise import dequantise, quantise
from autosplit.core.errors import ConfigError
from autosplit.core.operators import OperatorWork
from autosplit.core.opsets import OPSET
from autosplit.core.plan import INPUT, OUTPUT
from autosplit.models.constants import with_constants
from autosplit.models.costs import operators
from autosplit.models.onnx_files import write_onnx
from autosplit.models.onnx_operators import owners_of
from autosplit.runtime.deployment import Deployment
from autosplit.runtime.standalone.profiling.operators import Operators
from autosplit.runtime.timed import operator_rows

__all__ = ["write_device", "write_edge", "write_encoder", "write_exit"]

_log = logging.getLogger(__name__)

_ROWS = 2  # of an example; with one row the exporter takes the number for fixed


def write_device(deployment: Deployment, path: Path, *, encoder: bool = True, opset: int = OPSET) -> Operators | None:
    """Write what the device runs: images to symbols, to a feature, or to logits where nothing crosses.

    Args:
        deployment: Any.
        path: The file.
        encoder: Whether it ends with the encoder. Bundles of several rates have theirs in files of their own, because
            the head is the same for all, and so have those with a classifier as exit, which takes what the head gives.
        opset: Version of ONNX's operators, one of `autosplit.core.opsets.OPSETS`.

    Returns:
        Its operators; `None` where there is no such network, as on a device that sends the image, or where they cannot
        be told apart in the file.
    """
    if deployment.plan.split == INPUT:
        return None
    coded = encoder and deployment.network.encoder is not None
    output = "logits" if deployment.plan.split == OUTPUT else "symbols" if coded else "feature"
    shape = deployment.blueprint.image_shape
    head = integer_form(_plain(deployment.network.head, shape), shape)
    network = nn.Sequential(_Normalise(deployment), head, *(_encoder(deployment) if coded else [])).eval()
    works = operators(deployment.network.head, shape) + (_encoder_works(deployment) if coded else [])
    return _write(network, torch.zeros(_ROWS, *shape, dtype=torch.uint8), path, ("images", output), opset, works,
                  translations())


def write_encoder(deployment: Deployment, path: Path, *, opset: int = OPSET) -> Operators | None:
    """Write what the device runs behind a head in a file of its own: the feature to symbols. Returns its operators.

    Args:
        deployment: Of one of several rates, or with a classifier as exit.
        path: The file.
        opset: See `write_device`.
    """
    example = torch.zeros(_ROWS, *deployment.blueprint.feature_shape)
    return _write(nn.Sequential(*_encoder(deployment)).eval(), example, path, ("feature", "symbols"), opset,
                  _encoder_works(deployment), translations())


def write_exit(deployment: Deployment, path: Path, *, opset: int = OPSET) -> Operators | None:
    """Write the exit on the device: the feature, or in a cascade images, to calibrated logits. Returns its operators.

    Args:
        deployment: With an exit.
        path: The file.
        opset: See `write_device`.
    """
    found, blueprint = deployment.network.exit, deployment.blueprint
    assert found is not None
    shape = blueprint.image_shape if found.whole else blueprint.feature_shape
    network = integer_form(_plain(found.network, shape), shape)
    first = [_Normalise(deployment)] if found.whole else []
    example = torch.zeros(_ROWS, *shape, dtype=torch.uint8 if found.whole else torch.float32)
    return _write(nn.Sequential(*first, network, _Calibrated(found.temperature)).eval(), example, path,
                  ("images" if found.whole else "feature", "logits"), opset, operators(found.network, shape),
                  translations())


def write_edge(deployment: Deployment, path: Path, *, opset: int = OPSET) -> Operators | None:
    """Write what the edge runs: images, symbols or a feature to logits.

    Args:
        deployment: Any.
        path: The file.
        opset: See `write_device`.

    Returns:
        Its operators; `None` where the whole network runs on the device, or where they cannot be told apart.
    """
    if deployment.plan.split == OUTPUT:
        return None
    net, blueprint = deployment.network, deployment.blueprint
    whole = deployment.plan.split == INPUT
    shape = blueprint.image_shape if whole else blueprint.feature_shape
    parts: list[nn.Module] = [_plain(net.tail, shape)]
    works = operators(net.tail, shape)
    if whole:
        parts, name = [_Normalise(deployment), *parts], "images"
        example = torch.zeros(_ROWS, *shape, dtype=torch.uint8)
    elif net.decoder is not None and net.quantiser is not None:
        parts = [_Values(net.quantiser), _plain(net.decoder, blueprint.code_shape), *parts]
        works = operators(net.decoder, blueprint.code_shape) + works
        example, name = torch.zeros(_ROWS, *blueprint.code_shape, dtype=torch.int32), "symbols"
    else:
        example, name = torch.zeros(_ROWS, *shape), "feature"
    return _write(nn.Sequential(*parts).eval(), example, path, (name, "logits"), opset, works)


def _write(
    network: nn.Module, example: Tensor, path: Path, names: tuple[str, str], opset: int, works: Sequence[OperatorWork],
    translated: Mapping[Callable[..., Any], Callable[..., Any]] | None = None,
) -> Operators | None:
    """`write_onnx`, with the operators that the file holds."""
    nodes = write_onnx(network, example, path, names, opset, translated)
    try:
        owners = owners_of(nodes, works)
    except ConfigError as e:
        _log.info("%s cannot be profiled in the bundle: %s", path.name, e)
        return None
    return Operators(operator_rows(works), owners)


def _encoder_works(deployment: Deployment) -> list[OperatorWork]:
    encoder = deployment.network.encoder
    return [] if encoder is None else operators(encoder, deployment.blueprint.feature_shape)


def _encoder(deployment: Deployment) -> list[nn.Module]:
    """Encoder and quantiser, where there are any."""
    net = deployment.network
    if net.encoder is None or net.quantiser is None:
        return []
    shape = deployment.blueprint.feature_shape
    return [integer_form(_plain(net.encoder, shape), shape), _Symbols(net.quantiser)]


def _plain(network: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """A copy without gradients, channels first as ONNX has them, and with its constants computed.

    It shares the tensors that are so already.
    """
    shared: dict[int, Any] = {id(p): nn.Parameter(p.detach().contiguous(), requires_grad=False)
                              for p in network.parameters()}
    shared |= {id(b): b.detach().contiguous() for b in network.buffers()}
    return with_constants(copy.deepcopy(network, shared), shape)


class _Normalise(nn.Module):
    """`autosplit.data.base.normalise` out of place."""

    mean: Tensor
    std: Tensor

    def __init__(self, deployment: Deployment) -> None:
        super().__init__()
        self.register_buffer("mean", deployment.mean.view(-1, 1, 1))
        self.register_buffer("std", deployment.std.view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) -> float32."""
        return (images.to(torch.float32) / 255.0 - self.mean) / self.std


class _Calibrated(nn.Module):
    """Logits over the temperature of an exit."""

    temperature: Tensor

    def __init__(self, temperature: Tensor) -> None:
        super().__init__()
        self.register_buffer("temperature", temperature.detach().clone())

    def forward(self, logits: Tensor) -> Tensor:
        """(N, classes) both ways."""
        return logits / self.temperature


class _Symbols(nn.Module):
    """The quantiser on the device."""

    def __init__(self, quantiser: Quantiser) -> None:
        super().__init__()
        self.bits = quantiser.bits
        self.register_buffer("limit", quantiser.bound.detach().clone())

    def forward(self, code: Tensor) -> Tensor:
        """Code -> symbols, int32."""
        return quantise(code, self.bits, self.limit)  # type: ignore[arg-type]


class _Values(_Symbols):
    """The quantiser on the edge."""

    def forward(self, code: Tensor) -> Tensor:
        """Symbols -> code."""
        return dequantise(code, self.bits, self.limit)  # type: ignore[arg-type]
