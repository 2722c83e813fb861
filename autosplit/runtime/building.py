"""From the structure of a deployment to its network, with random weights: what stored weights are loaded into."""

from __future__ import annotations

import torch
from torch import fx, nn

from autosplit.compression import load_codec
from autosplit.compression.codecs.base import CodecParts
from autosplit.compression.int8 import int8_structure
from autosplit.compression.network import SplitNetwork
from autosplit.core.blueprint import Blueprint
from autosplit.core.errors import ResultError, UntrustedCodeError
from autosplit.core.plan import DEFAULT_CODEC, INPUT, OUTPUT
from autosplit.core.plugins import one_line
from autosplit.models.exits import ExitNetwork, build_classifier
from autosplit.models.injected import injected_networks
from autosplit.models.loading import build_backbone
from autosplit.models.pruning import HeadPruner
from autosplit.models.reduced import Enlarge, reduced
from autosplit.models.splitting import cut, find_split_points, select_split_points
from autosplit.models.tracing import trace

__all__ = ["build_network"]


def build_network(blueprint: Blueprint) -> SplitNetwork:
    """A network of a deployment's structure, with random weights.

    Raises:
        AutosplitError: The backbone cannot be built, or no longer has this split point.
    """
    graph, plan = _backbone(blueprint), blueprint.plan
    if plan.split == INPUT:
        return SplitNetwork(nn.Identity(), graph, exit=_exit(blueprint)).eval()
    head: nn.Module
    tail: nn.Module
    if plan.split == OUTPUT:
        whole, tail = graph, nn.Identity()
    else:
        points = find_split_points(graph, blueprint.image_shape)
        whole, tail = cut(graph, select_split_points(points, (plan.split,))[0])
    try:
        if plan.head == "injected":
            whole, restore = injected_networks(blueprint.head)
            tail = nn.Sequential(restore, tail)
        elif plan.head == "reduced":
            whole = reduced(whole)
            tail = tail if plan.split == OUTPUT else nn.Sequential(Enlarge(blueprint.head), tail)
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as e:
        raise ResultError(f"head {plan.head!r} cannot be built from {blueprint.head}: {one_line(e)}; use the autosplit "
                          "that wrote it") from e
    head = _pruned(whole, blueprint.keep, blueprint)
    setting = plan.codec
    parts: CodecParts | tuple[None, None, None] = (None, None, None)
    if setting.kind == "code":
        try:
            parts = load_codec(setting.family or DEFAULT_CODEC).blank(blueprint.codec)
        except UntrustedCodeError:  # whose message is for the user
            raise
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as e:
            raise ResultError(f"codec {setting.family!r} cannot be built from {blueprint.codec}: {one_line(e)}; "
                              "use the autosplit that wrote it") from e
    encoder, quantiser, decoder = parts
    if blueprint.arithmetic == "int8":
        head, encoder = int8_structure(head), encoder and int8_structure(encoder)
    network = SplitNetwork(head, tail, encoder, quantiser, decoder, _exit(blueprint))
    return network.to(memory_format=torch.channels_last).eval()


def _backbone(blueprint: Blueprint) -> fx.GraphModule:
    channels, height, width = blueprint.image_shape
    network = build_backbone(blueprint.backbone, blueprint.num_classes, channels, (height, width), pretrained=False)
    return trace(network.eval(), blueprint.image_shape)


def _pruned(whole: fx.GraphModule, keep: tuple[int, ...], blueprint: Blueprint) -> nn.Module:
    """A network with the channels that pruning left; the weights that are loaded afterwards have these shapes."""
    if not keep:
        return whole
    pruner = HeadPruner(whole, blueprint.image_shape)
    if len(pruner.groups) != len(keep):
        raise ResultError(f"backbone {blueprint.backbone!r} has {len(pruner.groups)} prunable groups on the device, "
                          f"the result file says {len(keep)}; use the autosplit that wrote it")
    return pruner.sub_network(keep).materialise(whole)


def _exit(blueprint: Blueprint) -> ExitNetwork | None:
    """The exit of a deployment, with random weights; `None` where it has none."""
    plan = blueprint.plan
    if plan.exit is None:
        return None
    network: nn.Module
    if plan.exit.network is not None:
        whole = _backbone(blueprint)
        network = _pruned(reduced(whole) if plan.exit.head == "reduced" else whole, blueprint.exit_keep, blueprint)
    else:
        try:
            network = build_classifier(blueprint.exit)
        except (KeyError, TypeError, ValueError, RuntimeError) as e:
            raise ResultError(f"an exit cannot be built from {blueprint.exit}: {one_line(e)}; use the autosplit that "
                              "wrote it") from e
    network = int8_structure(network) if blueprint.arithmetic == "int8" else network
    return ExitNetwork(network, whole=plan.exit.network is not None)
