"""Conditions that search methods are compared under: drawn around packaged profiles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autosplit.core.arrays import Array
from autosplit.core.conditions import Conditions
from autosplit.core.errors import ConfigError
from autosplit.envs.conditions import ProfilesSampler
from autosplit.evaluation.table import TableEvaluator
from autosplit.latency.base import LatencyModel, coarse_of

__all__ = ["draw_conditions", "published_profiles"]

_MOST_DRAWS = 200  # a scenario
_DEVICES = ("jetson-nano", "raspberry-pi-4", "stm32h7a3", "stm32l4r5")
_CHANNELS = ("3g", "5g", "ble-1m", "ble-coded", "lora-sf7", "lte", "lte-m", "sub-ghz-fsk-50k", "wifi4")
_ROUGHLY = 0.1  # by how much a latency may be off that is told quickly


def published_profiles() -> ProfilesSampler:
    """Conditions around the profiles of the published benchmarks: profiles that came later do not change the draws."""
    return ProfilesSampler.named(_DEVICES, channels=_CHANNELS)


def draw_conditions(
    table: TableEvaluator, latency_model: LatencyModel, count: int, seed: int, least_plans: int
) -> list[Conditions]:
    """Draw conditions in which a search has something to find.

    From `published_profiles`: factors in [1/2, 2], budgets in 10 to 1,000 ms.
    Drawn again where fewer than `least_plans` plans are in time, so that no method can measure them all, and where a
    lossless plan is (`Plan.lossless`): then the answer is known without a measurement.

    Args:
        table: Whose plans count.
        latency_model: Says which are in time.
        count: Conditions wanted.
        seed: Equal seeds give equal conditions; 0 to 9 are for development, others for reports.
        least_plans: Plans that must be in time.

    Raises:
        ConfigError: Such conditions are too rare: the table is too small.
    """
    rng = np.random.default_rng([seed, 0xBE])  # not the draws that a policy trained with this seed has seen
    sampler, plans = published_profiles(), table.space.plans()
    workloads, lossless = table.workloads(plans), np.array([p.lossless for p in plans], dtype=np.bool_)
    if (~lossless).sum() < least_plans:
        raise ConfigError(f"a table with {len(plans)} plans, {lossless.sum()} of them lossless, is too small where "
                          f"{least_plans} are to be in time; ask for fewer --evaluations, or take a larger table")
    # most draws are far from suitable: that is told quickly, and what is left looked at closely
    passes = [(coarse_of(latency_model), 1 + _ROUGHLY), (latency_model, 1.0)]
    found: list[Conditions] = []
    for _ in range(_MOST_DRAWS * count):
        if len(found) == count:
            break
        candidate = sampler.sample(rng)
        if all(_suits(model.latency(workloads, [candidate]).p95_ms[:, 0] / candidate.budget_ms, lossless, least_plans,
                      slack) for model, slack in passes):
            found.append(candidate)
    if len(found) < count:
        raise ConfigError(f"only {len(found)} of {_MOST_DRAWS * count} drawn conditions leave {least_plans} of "
                          f"{len(plans)} plans in time and no lossless one; ask for fewer "
                          "--evaluations, or take a larger table")
    return found


def _suits(share: Array, lossless: NDArray[np.bool_], least_plans: int, slack: float) -> bool:
    """Whether enough plans are in time and no lossless one is, each with some slack.

    Args:
        share: p95 latency of each plan, as a share of the budget.
        lossless: Which of them are.
        least_plans: As of `draw_conditions`.
        slack: At least 1; 1 for no slack.
    """
    return bool((share <= slack).sum() >= least_plans and not (share[lossless] <= 1 / slack).any())
