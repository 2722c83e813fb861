"""Agents with one of their parts taken away, for comparisons on tables: `ppo`, and its peers without the prior.

Name them as any agent of your own. `ppo` without its surrogate is `ppo-live`; without its policy it is one of the
agents of `benchmarks/model_only.py`::

    autosplit bench search TABLE --agent ppo --agent benchmarks/ablations.py:NoMasks --agent ppo-live --out OUT
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from autosplit.agents.base import Agent, SearchProblem
from autosplit.agents.enumerate import RandomAgent
from autosplit.agents.evolution import EvolutionAgent
from autosplit.agents.live import PPOLiveAgent
from autosplit.agents.local import LocalSearchAgent
from autosplit.agents.ppo import PPOAgent, PPOSettings
from autosplit.agents.samplers import GPAgent, NSGA2Agent, TPEAgent
from autosplit.agents.surrogate import AccuracySurrogate
from autosplit.core.arrays import Array
from autosplit.core.errors import ConfigError
from autosplit.core.measurement import Outcome
from autosplit.envs.core import CoInferenceCore
from autosplit.evaluation.objective import InTimeAccuracy

__all__ = ["NoConditions", "NoMasks", "NoPrior", "NoPriorEvolution", "NoPriorGP", "NoPriorLive", "NoPriorLocalSearch",
           "NoPriorNSGA2", "NoPriorRandom", "NoPriorTPE", "NoRelabelling"]


class NoConditions(PPOAgent):
    """The policy is trained under the scenario's conditions alone; those of the observation never change.

    Args:
        problem: What to search.
        settings: As of `ppo`; the number of conditions is ignored.
    """

    name = "ppo-no-conditions"

    def __init__(self, problem: SearchProblem, settings: PPOSettings | None = None) -> None:
        super().__init__(problem, replace(settings or PPOSettings(), conditions=1))


class NoRelabelling(NoConditions):
    """The surrogate learns the measured reward instead of the accuracy, as is usual in model-based learning.

    A reward is true under the conditions it was measured under, so there is nothing to train for others, and what the
    latency model says of a plan that is not measured serves the masks only. `policy` answers for the problem's
    conditions and means nothing under others. The surrogate is the one of `ppo`; it takes values from 0 to 1, and
    rewards below 0, of plans that turned out to be late, count as 0.

    Args:
        problem: What to search; the objective must be `in-time-accuracy`, whose rewards are in that range.
        settings: As of `ppo`; the number of conditions is ignored.

    Raises:
        ConfigError: The objective is another.
    """

    name = "ppo-no-relabelling"

    def __init__(self, problem: SearchProblem, settings: PPOSettings | None = None) -> None:
        if not isinstance(problem.objective, InTimeAccuracy):
            raise ConfigError(f"agent {self.name!r} is for the objective 'in-time-accuracy', whose rewards its "
                              f"surrogate can learn, not for {problem.objective.name!r}")
        super().__init__(problem, settings)

    def learnt_value(self, outcome: Outcome) -> float:
        """The measured reward, in [0, 1]."""
        return max(outcome.reward, 0.0)

    def estimated_rewards(self, core: CoInferenceCore, surrogate: AccuracySurrogate, ucb_weight: float) -> Array:
        """The estimates themselves, which are rewards; the same under all conditions."""
        return np.repeat(self.estimated_accuracy(surrogate, ucb_weight)[:, None], len(core.conditions), axis=1)


class NoMasks(PPOAgent):
    """The policy does not know which plans can be in time; what it draws becomes the nearest plan that can.

    So it is in training, under all conditions, and where plans are drawn to be measured. Nothing too late is measured:
    a policy that had to pay for that would be worse still.

    Args:
        problem: What to search.
        settings: As of `ppo`; masks are ignored.
    """

    name = "ppo-no-masks"

    def __init__(self, problem: SearchProblem, settings: PPOSettings | None = None) -> None:
        settings = settings or PPOSettings()
        super().__init__(problem, replace(settings, ppo=replace(settings.ppo, masks=False)))


class NoPrior(PPOAgent):
    """Nothing is expected of a plan before it was measured: the first round is spread over the space.

    Args:
        problem: What to search.
        settings: As of `ppo`.
    """

    name = "ppo-no-prior"
    primed = False

    def __init__(self, problem: SearchProblem, settings: PPOSettings | None = None) -> None:
        super().__init__(problem, settings)
        self._surrogate = AccuracySurrogate(problem.features)


def unprimed(name: str, method: type[Agent]) -> type[Agent]:
    """A method without the initial design: it begins with proposals of its own. Its name ends in `-no-prior`."""
    return type(name, (method,), {
        "__doc__": f"`{method.name}` without the initial design.", "__module__": __name__,
        "name": f"{method.name}-no-prior", "primed": False})


NoPriorTPE = unprimed("NoPriorTPE", TPEAgent)
NoPriorGP = unprimed("NoPriorGP", GPAgent)
NoPriorNSGA2 = unprimed("NoPriorNSGA2", NSGA2Agent)
NoPriorLocalSearch = unprimed("NoPriorLocalSearch", LocalSearchAgent)
NoPriorEvolution = unprimed("NoPriorEvolution", EvolutionAgent)
NoPriorRandom = unprimed("NoPriorRandom", RandomAgent)
NoPriorLive = unprimed("NoPriorLive", PPOLiveAgent)
