"""Conditions drawn around given ones: what a policy must meet in training to answer for a new link or deadline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autosplit.errors import ConfigError
from autosplit.latency.profiles import ChannelProfile, DeviceProfile, Figure
from autosplit.scenario import Conditions

__all__ = ["ConditionsSampler"]

_RATES = ("conv_mmacs", "depthwise_mmacs", "linear_mmacs", "memory_mb_per_s", "coding_ksymbols", "image_kpixels")


@dataclass(frozen=True)
class ConditionsSampler:
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
        factors = (self.device, self.edge, self.channel, self.access)
        device, edge, channel, access = (f ** (2 * rng.random() - 1) for f in factors)
        low, high = self.budget_range_ms
        budget_ms = low * (high / low) ** rng.random()
        return self.base.model_copy(update={
            "device": _machine(self.base.device, device),
            "edge": _machine(self.base.edge, edge),
            "channel": _channel(self.base.channel, channel, access),
            "budget_ms": budget_ms,
        })

    def pool(self, size: int, seed: int | Sequence[int] = 0) -> list[Conditions]:
        """Draw `size` conditions from a generator of their own; equal seeds (or lists of seeds) give equal pools."""
        rng = np.random.default_rng(seed)
        return [self.sample(rng) for _ in range(size)]


def _scaled(figure: Figure, factor: float) -> Figure:
    return figure.model_copy(update={"value": figure.value * factor, "assumption": True})


def _machine(profile: DeviceProfile, factor: float) -> DeviceProfile:
    update: dict[str, Figure] = {name: _scaled(getattr(profile, name), factor) for name in _RATES}
    update["operator_overhead_us"] = _scaled(profile.operator_overhead_us, 1 / factor)
    return profile.model_copy(update=update)


def _channel(profile: ChannelProfile, rate: float, access: float) -> ChannelProfile:
    rates = {name: _scaled(getattr(profile, name), rate) for name in ("uplink_kbps", "downlink_kbps")}
    delays = {name: _scaled(getattr(profile, name), access) for name in ("access_ms_p50", "access_ms_p95")}
    return profile.model_copy(update={**rates, **delays})
