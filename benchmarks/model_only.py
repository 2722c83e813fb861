"""`ppo` without its policy: the same model, initial design and acquisition over plans that nobody learnt to choose.

The committed results call these agents by their names, `model-enumerate` and `model-random`::

    autosplit bench search TABLE --agent ppo --agent benchmarks/model_only.py:ModelEnumerateAgent --out OUT
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autosplit.agents.base import SearchProblem
from autosplit.agents.model import ModelAgent, ModelSettings
from autosplit.envs.tree import IntArray

__all__ = ["ModelEnumerateAgent", "ModelRandomAgent", "ShootingSettings"]


class ModelEnumerateAgent(ModelAgent):
    """The best open plans by the acquisition: what a policy can at most add where all plans can be listed.

    This is Bayesian optimisation over a finite list with the surrogate of `ppo`.

    Args:
        problem: What to search.
        settings: See `ModelSettings`.
    """

    name = "model-enumerate"

    def __init__(self, problem: SearchProblem, settings: ModelSettings | None = None) -> None:
        super().__init__(problem, settings or ModelSettings())

    def candidate_plans(self, rng: np.random.Generator) -> IntArray:  # noqa: ARG002
        """All open plans."""
        return self.open_numbers()


@dataclass(frozen=True)
class ShootingSettings(ModelSettings):
    """How `model-random` spends measurements.

    Attributes:
        draws: Plans drawn a round; as many as `ppo` draws from its policy.
    """

    draws: int = 1024


class ModelRandomAgent(ModelAgent):
    """Random shooting: the best by the acquisition of open plans drawn uniformly, with replacement as `ppo` draws.

    A policy that is better than chance finds plans of a higher acquisition with the same number of draws. Where a
    space has fewer open plans than draws this is nearly `model-enumerate`.

    Args:
        problem: What to search.
        settings: See `ShootingSettings`.
    """

    name = "model-random"

    def __init__(self, problem: SearchProblem, settings: ShootingSettings | None = None) -> None:
        self.settings = settings or ShootingSettings()
        super().__init__(problem, self.settings)

    def candidate_plans(self, rng: np.random.Generator) -> IntArray:
        """Some open plans, drawn uniformly."""
        drawn: IntArray = np.unique(rng.choice(self.open_numbers(), size=self.settings.draws))
        return drawn
