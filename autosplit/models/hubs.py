"""Classifiers of timm and of Hugging Face's transformers by name, with pretrained weights where they can be had."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
from pathlib import Path
from typing import Any

from torch import nn

from autosplit.core.errors import ConfigError, UnknownNameError
from autosplit.core.extras import install_command
from autosplit.core.hub import HUB, means_a_folder, offline, reachable
from autosplit.core.plugins import one_line
from autosplit.models.names import HF, TIMM

__all__ = ["build_hf", "build_timm"]

_log = logging.getLogger(__name__)



def build_timm(
    name: str, num_classes: int, in_channels: int, image_size: tuple[int, int] | None, pretrained: bool
) -> nn.Module:
    """A classifier of timm with a fresh last layer.

    Args:
        name: `timm:NAME`, with or without the tag of its weights (`timm:resnet18.a1_in1k`).
        num_classes: Outputs.
        in_channels: Channels of an image.
        image_size: Height and width of the images, for networks that are built for one size.
        pretrained: Whether pretrained weights are wanted; a warning says where they could not be had.

    Returns:
        The network. With pretrained weights it says in `input_mean` and `input_std` how they expect images.

    Raises:
        ConfigError: timm is not installed, or cannot build this network for such images.
        UnknownNameError: timm has no network of this name.
    """
    timm = _package("timm", "timm")
    short = name.removeprefix(TIMM)
    known = timm.list_models()
    if short.partition(".")[0] not in known:
        raise UnknownNameError("network of timm", short, known)
    options: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_channels}
    config = timm.get_pretrained_cfg(short)
    if config is not None and config.fixed_input_size and image_size is not None and (
            tuple(config.input_size[1:]) != tuple(image_size)):
        options["img_size"] = image_size
    wanted = pretrained and config is not None and config.has_weights
    try:
        if wanted:
            with offline("huggingface_hub.constants"), contextlib.suppress(Exception):
                return _expecting(timm.create_model(short, pretrained=True, **options), config)
            if _can_be_downloaded(name):
                return _expecting(timm.create_model(short, pretrained=True, **options), config)
        network: nn.Module = timm.create_model(short, pretrained=False, **options)
    except Exception as e:
        raise ConfigError(f"backbone {name!r} cannot be built for {num_classes} classes and images of {in_channels} "
                          f"channels and {_size(image_size)}: {one_line(e)}") from e
    return network


def build_hf(
    name: str, num_classes: int, in_channels: int, image_size: tuple[int, int] | None, pretrained: bool
) -> nn.Module:
    """An image classifier of Hugging Face's transformers.

    Args:
        name: `hf:NAME` of the hub, or `hf:PATH` of a folder with `config.json` and perhaps weights.
        num_classes: Outputs; a last layer with another number is drawn anew.
        in_channels: Channels of an image.
        image_size: Height and width of the images.
        pretrained: Whether weights are wanted; without, the structure alone is built.

    Raises:
        ConfigError: transformers is not installed, the name is empty or cannot be had, or it is no image
            classifier.
    """
    short = name.removeprefix(HF)
    if not short:
        raise ConfigError(f"backbone {name!r}: write the network's name or its folder after {HF!r}")
    transformers = _package("transformers", "hf")
    folder = Path(short).expanduser()
    if not folder.is_dir() and means_a_folder(short):
        raise ConfigError(f"backbone {name!r}: no such folder {str(folder.absolute())!r}")
    where = str(folder) if folder.is_dir() else short
    options: dict[str, Any] = {"num_labels": num_classes, "trust_remote_code": False}
    try:
        config = _local_first(transformers.AutoConfig, where, name, options)
        for key, value in (("num_channels", in_channels), ("image_size", image_size[0] if image_size else None)):
            if value is not None and hasattr(config, key):
                setattr(config, key, value)
        model = transformers.AutoModelForImageClassification
        holds = not folder.is_dir() or any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))
        if pretrained and holds:
            network: nn.Module = _local_first(model, where, name, {
                "config": config, "ignore_mismatched_sizes": True, "use_safetensors": True})
        else:
            network = model.from_config(config)
    except (ConfigError, KeyboardInterrupt):
        raise
    except Exception as e:
        raise ConfigError(f"backbone {name!r} cannot be loaded as an image classifier of transformers: "
                          f"{one_line(e)[:300]}") from e
    return _expecting_folder(network, folder)


def _local_first(kind: Any, where: str, name: str, options: dict[str, Any]) -> Any:
    """What the machine holds already; else from the hub, if it can be reached."""
    try:
        return kind.from_pretrained(where, local_files_only=True, **options)
    except OSError as e:
        if Path(where).is_dir():
            raise
        if not reachable():
            raise ConfigError(f"backbone {name!r} is not on this machine, and {HUB} cannot be reached to download "
                              f"it; give a folder with its config.json, as in {HF}path/to/folder") from e
    return kind.from_pretrained(where, **options)


def _can_be_downloaded(name: str) -> bool:
    """Whether pretrained weights can be had from the hub; one warning where they cannot."""
    if found := reachable():
        return found
    _warn_once(f"pretrained weights of {name} cannot be downloaded, {HUB} is out of reach: it starts from random ones; "
               "`weights` takes a file")
    return False


@functools.cache
def _warn_once(text: str) -> None:
    _log.warning("%s", text)


def _expecting(network: nn.Module, config: Any) -> nn.Module:
    network.input_mean, network.input_std = list(config.mean), list(config.std)  # type: ignore[assignment]
    return network


def _expecting_folder(network: nn.Module, folder: Path) -> nn.Module:
    import json

    file = folder / "preprocessor_config.json"
    if file.is_file():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            found = json.loads(file.read_text())
            network.input_mean, network.input_std = found["image_mean"], found["image_std"]
    return network


def _size(image_size: tuple[int, int] | None) -> str:
    return "any size" if image_size is None else f"{image_size[0]}x{image_size[1]} pixels"


def _package(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise ConfigError(f"backbones '{extra}:NAME' need {name}: {install_command(extra)}") from e
