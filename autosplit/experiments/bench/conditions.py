"""Conditions that search methods are compared under: drawn from the packaged profiles and ranges around them."""

from __future__ import annotations

import numpy as np

from autosplit.core.conditions import Conditions
from autosplit.core.errors import ConfigError
from autosplit.envs.conditions import ProfilesSampler
from autosplit.evaluation.table import TableEvaluator
from autosplit.latency.base import LatencyModel

__all__ = ["draw_conditions"]

_MOST_DRAWS = 200  # a scenario


def draw_conditions(
    table: TableEvaluator, latency_model: LatencyModel, count: int, seed: int, least_plans: int
) -> list[Conditions]:
    """Draw conditions in which a search has something to find.

    As `ProfilesSampler.named` draws them from all packaged profiles: factors in [1/2, 2], budgets in 10 to 1,000 ms.
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
    sampler, plans = ProfilesSampler.named(), table.space.plans()
    workloads, lossless = table.workloads(plans), np.array([p.lossless for p in plans], dtype=np.bool_)
    found: list[Conditions] = []
    for _ in range(_MOST_DRAWS * count):
        if len(found) == count:
            break
        drawn = sampler.sample(rng)
        p95_ms = latency_model.latency(workloads, [drawn]).p95_ms[:, 0]
        in_time = p95_ms <= drawn.budget_ms
        if in_time.sum() >= least_plans and not in_time[lossless].any():
            found.append(drawn)
    if len(found) < count:
        raise ConfigError(f"only {len(found)} of {_MOST_DRAWS * count} drawn conditions leave {least_plans} of "
                          f"{len(plans)} plans in time and no lossless one; ask for fewer "
                          "--evaluations, or take a larger table")
    return found
