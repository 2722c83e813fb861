"""Conditions that search methods are compared under: drawn from the packaged profiles and ranges around them."""

from __future__ import annotations

import math

import numpy as np

from autosplit.envs.conditions import ConditionsSampler
from autosplit.errors import ConfigError
from autosplit.evaluation.table import TableEvaluator
from autosplit.latency.base import LatencyModel
from autosplit.latency.profiles import ChannelProfile, DeviceProfile, list_profiles, load_profile
from autosplit.scenario import Conditions

__all__ = ["draw_conditions"]

_BUDGETS_MS = (10.0, 1000.0)
_FACTOR = 2.0  # on rates and delays of the drawn profiles
_MOST_DRAWS = 200  # a scenario


def draw_conditions(
    table: TableEvaluator, latency_model: LatencyModel, count: int, seed: int, least_plans: int
) -> list[Conditions]:
    """Draw conditions in which a search has something to find.

    A device, an edge and a channel profile, each uniformly; one factor on the device's rates, one on the edge's, one
    on the channel's and one on its access delay, each log-uniform in [1/2, 2]; a budget log-uniform in 10 to 1,000 ms.
    Drawn again where fewer than `least_plans` plans are in time, so that no method can measure them all, or where all
    are, so that latency has no say.

    Args:
        table: Whose plans count.
        latency_model: Says which are in time.
        count: Conditions wanted.
        seed: Equal seeds give equal conditions; 0 to 9 are for development, others for reports.
        least_plans: Plans that must be in time.

    Raises:
        ConfigError: Such conditions are too rare: the table is too small.
    """
    rng = np.random.default_rng([seed, 0xBE])
    devices = [n for n in list_profiles(DeviceProfile) if not n.startswith("edge-")]
    edges = [n for n in list_profiles(DeviceProfile) if n.startswith("edge-")]
    channels = list_profiles(ChannelProfile)
    found: list[Conditions] = []
    for _ in range(_MOST_DRAWS * count):
        if len(found) == count:
            break
        base = Conditions(
            device=load_profile(DeviceProfile, str(rng.choice(devices))),
            edge=load_profile(DeviceProfile, str(rng.choice(edges))),
            channel=load_profile(ChannelProfile, str(rng.choice(channels))),
            budget_ms=math.exp(rng.uniform(*np.log(_BUDGETS_MS))),
        )
        sampler = ConditionsSampler(base, _FACTOR, _FACTOR, _FACTOR, _FACTOR, (base.budget_ms, base.budget_ms))
        drawn = sampler.sample(rng)
        p95_ms = latency_model.latency(table.workloads(table.space.plans()), [drawn]).p95_ms[:, 0]
        in_time = int((p95_ms <= drawn.budget_ms).sum())
        if least_plans <= in_time < len(p95_ms):
            found.append(drawn)
    if len(found) < count:
        raise ConfigError(f"only {len(found)} of {_MOST_DRAWS * count} drawn conditions leave {least_plans} of "
                          f"{len(table.space)} plans in time; ask for fewer --evaluations, or take a larger table")
    return found
