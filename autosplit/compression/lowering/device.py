"""The device's side of a plan as one program: exit, head and encoder, in the order in which they run."""

from __future__ import annotations

import torch
from torch import nn

from autosplit.compression.int8 import int8_structure
from autosplit.compression.int8_layers import Requantise
from autosplit.compression.lowering.lower import Lowering
from autosplit.compression.lowering.operations import Program
from autosplit.compression.network import SplitNetwork
from autosplit.core.plan import OUTPUT, Plan
from autosplit.models.exits import ExitNetwork

__all__ = ["int8_skeleton", "lower_device", "unsupported"]

Shape = tuple[int, int, int]


def unsupported(plan: Plan, arithmetic: str) -> str:
    """Why a plan cannot be written as C, seen from its kind alone; empty where it may be.

    Args:
        plan: Any.
        arithmetic: Of the device.
    """
    if plan.codec.image:
        return f"it sends pictures ({plan.codec.label}), whose encoders are your camera's or a library's"
    if plan.codec.kind not in {"code", "none"}:
        return f"it sends features as they are ({plan.codec.kind}); choose one with a learned code"
    if arithmetic != "int8":
        return f"its device computes in {arithmetic}; choose a device profile whose arithmetic is int8"
    return ""


def lower_device(
    network: SplitNetwork, plan: Plan, image: Shape, feature: tuple[int, ...], mean: list[float], std: list[float]
) -> Program:
    """The program of a plan.

    Args:
        network: Whose head, encoder and exit are int8 networks.
        plan: One that `unsupported` has nothing against.
        image: Shape (C, H, W) of the images.
        feature: Shape of what the head gives.
        mean: What images are normalised with, one a channel.
        std: Likewise.

    Raises:
        ConfigError: An operation cannot be written as C.
    """
    lowering = Lowering(image)
    pixels = lowering.image(mean, std)
    if plan.split == OUTPUT:
        lowering.logits(lowering.network(network.head, pixels, image))
        return lowering.program
    leaving, threshold = network.exit, 0.0 if plan.exit is None else plan.exit.threshold
    if leaving is not None and leaving.whole:
        lowering.logits(lowering.network(leaving.network, pixels, image), threshold, float(leaving.temperature))
    value = lowering.network(network.head, pixels, image)
    if leaving is not None and not leaving.whole:
        lowering.logits(lowering.network(leaving.network, value, feature), threshold, float(leaving.temperature))
    assert network.encoder is not None
    assert network.quantiser is not None
    lowering.symbols(lowering.network(network.encoder, value, feature), network.quantiser.bits,
                     network.quantiser.bound)
    return lowering.program


def int8_skeleton(network: SplitNetwork) -> SplitNetwork:
    """The int8 networks of a plan, their weights and ranges of no meaning: for what depends on their shapes alone.

    Args:
        network: In floating point; it is left as it was.
    """
    leaving = network.exit
    if leaving is not None:
        leaving = ExitNetwork(_blank(leaving.network), whole=leaving.whole)
    return SplitNetwork(_blank(network.head), nn.Identity(), network.encoder and _blank(network.encoder),
                        network.quantiser, None, leaving)


def _blank(network: nn.Module) -> nn.Module:
    found = int8_structure(network)
    with torch.no_grad():
        for number, module in enumerate(m for m in found.modules() if isinstance(m, Requantise)):
            module.scale.fill_(1.0 + number / 1024)  # no two are equal, as hardly any are in a network with ranges
    return found
