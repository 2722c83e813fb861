"""Conditions drawn around given ones: what a policy is trained for, so that it answers for new links and deadlines."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autosplit.core.conditions import Conditions
from autosplit.core.errors import ConfigError
from autosplit.core.profiles import ChannelProfile, DeviceProfile, list_profiles, load_profile

__all__ = ["ConditionsSampler", "Distribution", "ProfilesSampler"]


class Distribution(ABC):
    """Conditions drawn at random. An author overrides `sample`."""

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> Conditions:
        """Draw conditions."""

    def pool(self, size: int, seed: int | Sequence[int] = 0) -> list[Conditions]:
        """Draw `size` conditions from a generator of their own; equal seeds (or lists of seeds) give equal pools."""
        rng = np.random.default_rng(seed)
        return [self.sample(rng) for _ in range(size)]


@dataclass(frozen=True)
class ConditionsSampler(Distribution):
    """Independent log-uniform factors on what changes from place to place.

    A factor f means: multiplied by a number drawn log-uniformly from [1/f, f]. All rates of one machine share one
    number, so that a chip keeps its character (dense against depthwise, compute against memory).

    Attributes:
        base: The conditions in the middle.
        device: Factor on the device's rates.
        edge: Factor on the edge's rates.
        channel: Factor on the channel's rates, up and down.
        access: Factor on the channel's access delay.
        budget_ms: Range of the budget, drawn log-uniformly; a fourth of the base's budget to four times when left out.

    Raises:
        ConfigError: A factor is below 1, or the range of budgets is empty.
    """

    base: Conditions
    device: float = 4.0
    edge: float = 4.0
    channel: float = 4.0
    access: float = 4.0
    budget_ms: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("device", "edge", "channel", "access"):
            factor = getattr(self, name)
            if not (math.isfinite(factor) and factor >= 1):
                raise ConfigError(f"conditions sampler: factor {name!r} must be at least 1, got {factor}")
        low, high = self.budget_range_ms
        if not 0 < low <= high < math.inf:
            raise ConfigError(f"conditions sampler: no budgets between {low} and {high} ms")

    @property
    def budget_range_ms(self) -> tuple[float, float]:
        """Lowest and highest budget, milliseconds."""
        return self.budget_ms or (self.base.budget_ms / 4, self.base.budget_ms * 4)

    def sample(self, rng: np.random.Generator) -> Conditions:
        """Draw conditions; the draw takes five numbers from `rng`."""
        # always five numbers, also where a factor is 1: changing one range must not change the draws of another
        factors = (self.device, self.edge, self.channel, self.access)
        device, edge, channel, access = (f ** (2 * rng.random() - 1) for f in factors)
        low, high = self.budget_range_ms
        budget_ms = low * (high / low) ** rng.random()
        return self.base.model_copy(update={
            "device": self.base.device.scaled(device),
            "edge": self.base.edge.scaled(edge),
            "channel": self.base.channel.scaled(channel, access),
            "budget_ms": budget_ms,
        })


@dataclass(frozen=True)
class ProfilesSampler(Distribution):
    """A device, an edge and a channel, each uniformly among several, and then log-uniform factors on their parameters.

    Attributes:
        devices: Device profiles.
        edges: Edge profiles.
        channels: Channel profiles.
        factor: On the device's rates, the edge's rates, the channel's rates and its access delay, one each, drawn
            log-uniformly from [1/factor, factor].
        budget_ms: Range of the budget, drawn log-uniformly, milliseconds.

    Raises:
        ConfigError: There is nothing to draw from, the factor is below 1, or the range of budgets is empty.
    """

    devices: tuple[DeviceProfile, ...]
    edges: tuple[DeviceProfile, ...]
    channels: tuple[ChannelProfile, ...]
    factor: float = 2.0
    budget_ms: tuple[float, float] = (10.0, 1000.0)

    def __post_init__(self) -> None:
        for name in ("devices", "edges", "channels"):
            if not getattr(self, name):
                raise ConfigError(f"profiles sampler: no {name} to draw from")
        self._around(self.devices[0], self.edges[0], self.channels[0])  # raises where factor or budgets make no sense

    @classmethod
    def named(
        cls,
        devices: Sequence[str] = (),
        edges: Sequence[str] = (),
        channels: Sequence[str] = (),
        factor: float = 2.0,
        budget_ms: tuple[float, float] = (10.0, 1000.0),
    ) -> ProfilesSampler:
        """From names of profiles or YAML files; all packaged ones of a kind where none is named.

        Channels whose rate moves or whose losses come in bursts are drawn only where they are named.

        Raises:
            UnknownNameError: No profile has this name.
        """
        machines = list_profiles(DeviceProfile)
        links = [load_profile(ChannelProfile, n) for n in channels or list_profiles(ChannelProfile)]
        return cls(
            devices=tuple(load_profile(DeviceProfile, n)
                          for n in devices or [m for m in machines if not m.startswith("edge-")]),
            edges=tuple(load_profile(DeviceProfile, n)
                        for n in edges or [m for m in machines if m.startswith("edge-")]),
            channels=tuple(link for link in links if channels or link.constant),
            factor=factor, budget_ms=budget_ms)

    def sample(self, rng: np.random.Generator) -> Conditions:
        """Draw conditions."""
        device = self.devices[rng.integers(len(self.devices))]
        edge = self.edges[rng.integers(len(self.edges))]
        channel = self.channels[rng.integers(len(self.channels))]
        return self._around(device, edge, channel).sample(rng)

    def _around(self, device: DeviceProfile, edge: DeviceProfile, channel: ChannelProfile) -> ConditionsSampler:
        base = Conditions(device=device, edge=edge, channel=channel, budget_ms=1.0)  # which the range replaces
        return ConditionsSampler(base, self.factor, self.factor, self.factor, self.factor, self.budget_ms)
