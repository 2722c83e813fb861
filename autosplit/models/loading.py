"""Building a backbone from its name."""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

import torch
from torch import nn

from autosplit.core.errors import AutosplitError, ConfigError, PluginError, UnknownNameError, nearest_name
from autosplit.core.held import HELD, is_held, look_up
from autosplit.core.plugins import check_prefix, one_line
from autosplit.models.hubs import build_hf, build_timm
from autosplit.models.names import BACKBONES, HF, TIMM, TORCHVISION
from autosplit.models.tracing import check_kind, fresh_copy
from autosplit.models.users import logits_in, user_line

__all__ = ["build_backbone", "torchvision_names"]

_PROBE_SIDES = (32, 28, 64, 96, 224)


def build_backbone(
    name: str, num_classes: int, in_channels: int, image_size: tuple[int, int] | None = None, *,
    pretrained: bool = True,
) -> nn.Module:
    """Build a classifier; weights that do not come with it are drawn from torch's global generator.

    Args:
        name: A name of `list_backbones()`, `torchvision:<any classifier>`, `timm:<name>`, `hf:<name or folder>`, or a
            factory of the user's as `package.module:factory` or `path/to/file.py:factory`. A factory is called with
            `num_classes` and `in_channels`, each only if it takes it by name.
        num_classes: Outputs.
        in_channels: Channels of an image. In torchvision's networks the first convolution is replaced if not 3.
        image_size: Height and width of the images that a user's network must run on. Without it the network is
            tried on a few usual sizes, and a network that runs on none of them passes unchecked.
        pretrained: Whether networks of timm and transformers come with their weights, where these can be had.

    Returns:
        A module from images (N, in_channels, H, W) to logits (N, num_classes), in training mode.

    Raises:
        UnknownNameError: Nothing has this name.
        ConfigError: The network cannot be built for these classes and channels.
        PluginError: A user's factory raised, gave no `nn.Module`, or one that does not give logits.
    """
    if name.startswith(TORCHVISION):
        return _build_torchvision(name, num_classes, in_channels).train()
    if is_held(name):
        return _held_network(name, num_classes, in_channels, image_size)
    hub = build_timm if name.startswith(TIMM) else build_hf if name.startswith(HF) else None
    if hub is not None:
        model = _usable(hub(name, num_classes, in_channels, image_size, pretrained), f"backbone {name!r}")
    else:
        model = _call_factory(_factory(name), name, {"num_classes": num_classes, "in_channels": in_channels})
    _check_logits(model, name, num_classes, in_channels, image_size)
    return model.train()


def _held_network(
    name: str, num_classes: int, in_channels: int, image_size: tuple[int, int] | None
) -> nn.Module:
    """A copy of a network that was handed over, or what a factory that was handed over builds."""
    given = look_up("backbone", name, "model")
    what = name.removeprefix(HELD)
    model = _call_factory(given, what, {"num_classes": num_classes, "in_channels": in_channels})
    _check_logits(model, what, num_classes, in_channels, image_size)
    return model.train()


def _factory(name: str) -> Any:
    """The factory of a name that is not torchvision's."""
    own = BACKBONES.names()
    if ":" not in name and not name.endswith(".py") and name not in own:
        others = torchvision_names()
        near = name if name in others or not nearest_name(name, own) else ""
        if found := near and nearest_name(near, others):
            raise UnknownNameError("backbone", name, own, f"torchvision's network is called '{TORCHVISION}{found}'")
    check_prefix("backbone", name, (TORCHVISION, TIMM, HF))
    return BACKBONES.load(name)


def _call_factory(factory: Any, name: str, offered: dict[str, int]) -> nn.Module:
    """Call a user's factory with those of the offered arguments that it takes by name."""
    if isinstance(factory, nn.Module):  # made already, and its owner keeps it as it is
        check_kind(factory)
        return fresh_copy(factory).float()
    if not callable(factory):
        raise PluginError(f"backbone {name!r} is a {type(factory).__name__}; it must be a function or class that "
                          "builds the network, as in `def network(num_classes, in_channels): ...`")
    arguments, passes_on = dict(offered), False
    with contextlib.suppress(TypeError, ValueError):  # written in C, without a signature
        parameters = inspect.signature(factory).parameters.values()
        taken = {p.name for p in parameters if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}}
        passes_on = any(p.kind is p.VAR_KEYWORD for p in parameters)
        if not passes_on:
            arguments = {k: v for k, v in offered.items() if k in taken}
    while True:
        try:
            model = factory(**arguments)
            break
        except AutosplitError:  # it says what is wrong itself
            raise
        except Exception as e:
            # `**kwargs` are handed to another factory, which need not take all of them
            unknown = next((k for k in arguments if isinstance(e, TypeError) and passes_on
                            and f"unexpected keyword argument '{k}'" in str(e)), None)
            if unknown is None:
                call = ", ".join(f"{k}={v}" for k, v in arguments.items())
                raise PluginError(f"backbone {name!r}: calling it with ({call}) raised {one_line(e)}") from e
            del arguments[unknown]
    return _usable(model, f"backbone {name!r}")


def _usable(model: Any, name: str) -> nn.Module:
    """A network of a kind that can be cut, in single precision.

    Raises:
        PluginError: It is no `nn.Module`.
        TraceError: It is of a kind that has no graph.
    """
    if not isinstance(model, nn.Module):
        raise PluginError(f"{name} gave a {type(model).__name__}; it must return a torch.nn.Module")
    check_kind(model)
    return model.float()


def _check_logits(
    model: nn.Module, name: str, num_classes: int, in_channels: int, image_size: tuple[int, int] | None
) -> None:
    """Run a network on two black images and look at what comes out."""
    sizes = [image_size] if image_size is not None else [(side, side) for side in _PROBE_SIDES]
    model = fresh_copy(model)
    for height, width in sizes:
        try:
            # a network that draws while it runs must not move the generator that weights are drawn from
            with torch.inference_mode(), torch.random.fork_rng(devices=[]):
                answer = model(torch.zeros(2, in_channels, height, width))
        except Exception as e:
            if image_size is None:
                continue
            raise PluginError(f"backbone {name!r} does not run on images of shape ({in_channels}, {height}, {width}): "
                              f"{one_line(e)}{user_line(e)}") from e
        logits = logits_in(answer, f"backbone {name!r}")
        if tuple(logits.shape) != (2, num_classes):
            raise PluginError(f"backbone {name!r} gives a tensor of shape {tuple(logits.shape)} for 2 images; it must "
                              f"give logits of shape (2, {num_classes}), one value a class (take num_classes as a "
                              "parameter)")
        return


def torchvision_names() -> list[str]:
    """Names of torchvision's classifiers, without the prefix, sorted."""
    from torchvision import models

    return sorted(models.list_models(module=models))


def _build_torchvision(name: str, num_classes: int, in_channels: int) -> nn.Module:
    from torchvision import models

    short = name.removeprefix(TORCHVISION)
    if short not in torchvision_names():
        raise UnknownNameError("torchvision classifier", short, torchvision_names())
    options: dict[str, Any] = {}
    if short in {"googlenet", "inception_v3"}:  # auxiliary outputs serve training as in the papers only
        options = {"aux_logits": False, "init_weights": True}
    model: nn.Module = models.get_model(short, weights=None, num_classes=num_classes, **options)
    if in_channels == 3:
        return model
    found = next(((path, m) for path, m in model.named_modules() if isinstance(m, nn.Conv2d)), None)
    if found is None or found[1].in_channels != 3 or found[1].groups != 1:
        raise ConfigError(f"backbone {name!r} does not begin with a convolution of 3 channels, so it cannot be built "
                          f"for images of {in_channels}; write a factory and name it as path/to/file.py:factory")
    path, old = found
    parent, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(parent), leaf, nn.Conv2d(
        in_channels, old.out_channels, old.kernel_size, old.stride, old.padding, old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None, padding_mode=old.padding_mode))
    return model
