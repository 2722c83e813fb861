"""Channel noise as layers without weights, for codecs that are trained to bear it (BottleNet++, arXiv 1910.14315).

A layer sits between encoder and decoder and draws anew for each forward pass in training mode; in evaluation mode it
lets the code through, since a deployment's link retransmits what it loses. `noisy` switches it on for a measurement of
robustness.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from autosplit.core.errors import ConfigError, UnknownNameError

__all__ = ["AwgnChannel", "ErasureChannel", "NoiselessChannel", "NoisyChannel", "build_channel", "noisy"]


class NoisyChannel(nn.Module):
    """A channel of some noise level.

    Args:
        level: Strength of the noise; 0 = none.

    Attributes:
        level: As given; the decoder gets it as an input.
        active: Whether noise is added in evaluation mode too.
    """

    def __init__(self, level: float = 0.0) -> None:
        super().__init__()
        self.level = level
        self.active = False

    def forward(self, code: Tensor) -> Tensor:
        """Code in [-1, 1] -> what arrives of it, the same shape."""
        # in evaluation mode a deployment is meant, whose link sends again what it loses
        return self._disturb(code) if (self.training or self.active) and self.level > 0 else code

    def _disturb(self, code: Tensor) -> Tensor:
        return code


class NoiselessChannel(NoisyChannel):
    """Everything arrives as it was sent."""


class AwgnChannel(NoisyChannel):
    """Additive white Gaussian noise of deviation `level` times the code's range, which is 2 here."""

    def _disturb(self, code: Tensor) -> Tensor:
        return code + 2 * self.level * torch.randn_like(code)


class ErasureChannel(NoisyChannel):
    """Each value is lost with probability `level` and arrives as 0; the decoder does not learn which."""

    def _disturb(self, code: Tensor) -> Tensor:
        return code * (torch.rand_like(code) >= self.level)


_KINDS: dict[str, type[NoisyChannel]] = {"awgn": AwgnChannel, "erasure": ErasureChannel}


def build_channel(option: str) -> NoisyChannel:
    """A channel from text: `awgn=0.1`, `erasure=0.01`, or nothing for a noiseless one.

    Raises:
        UnknownNameError: No channel has this name.
        ConfigError: The level is no number or out of range.
    """
    if not option:
        return NoiselessChannel()
    name, _, text = option.partition("=")
    if name not in _KINDS:
        raise UnknownNameError("channel noise", name, _KINDS)
    try:
        level = float(text)
    except ValueError:
        level = -1.0
    if not 0 <= level < 1:
        raise ConfigError(f"channel noise {option!r}: the level must be a number in [0, 1), as in '{name}=0.1'")
    return _KINDS[name](level)


@contextlib.contextmanager
def noisy(network: nn.Module) -> Iterator[None]:
    """Noise on in every channel of a network, whatever its mode."""
    channels = [m for m in network.modules() if isinstance(m, NoisyChannel)]
    before = [channel.active for channel in channels]
    for channel in channels:
        channel.active = True
    try:
        yield
    finally:
        for channel, active in zip(channels, before, strict=True):
            channel.active = active
