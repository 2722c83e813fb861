"""The default agent: PPO inside a model of the accuracy, in rounds.

The scheme is DyNA-PPO's (Angermueller et al., "Model-based reinforcement learning for biological sequence design",
ICLR 2020). A round fits the surrogate on everything measured, trains the policy in the vectorised environment, under
the scenario's and many other conditions, with upper confidence bounds of the rewards, and lets the policy choose what
to measure next. So one measurement serves every conditions vector, and the trained policy answers for conditions that
were never searched.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from autosplit.agents.base import SearchProblem
from autosplit.agents.expectations import Expectations, expectations
from autosplit.agents.model import ModelAgent, ModelSettings
from autosplit.agents.network import rollout
from autosplit.agents.policy import CoInferencePolicy, Knowledge, Origin
from autosplit.agents.trainer import PolicyTrainer, PPOHyperparameters, training_rewards
from autosplit.core.conditions import Conditions
from autosplit.core.intervals import Z95
from autosplit.core.measurement import Measurement
from autosplit.envs.conditions import ConditionsSampler
from autosplit.envs.core import CoInferenceCore
from autosplit.envs.tree import IntArray
from autosplit.latency.checked import is_slow

__all__ = ["PPOAgent", "PPOSettings"]


@dataclass(frozen=True)
class PPOSettings(ModelSettings):
    """How the agent spends measurements and time.

    Attributes:
        conditions: Conditions that the policy is trained under, the scenario's included.
        ucb_weight: Standard deviations of the surrogate that training adds to its median.
        sharpness: Reward lost against the best plan of the same conditions at which a training reward falls to 1/e.
        first_updates: PPO updates of the first round.
        updates: PPO updates of each further round.
        last_updates: PPO updates of `PPOAgent.policy`, by the median alone.
        last_target_share: Share of their episodes under the scenario's conditions.
        temperatures: Temperatures at which the policy is asked for proposals.
        draws: Plans drawn at each temperature; the best of them by acquisition are proposed.
        ppo: Hyperparameters of PPO itself.
    """

    conditions: int = 256
    ucb_weight: float = 1.0
    sharpness: float = 0.05
    first_updates: int = 16
    updates: int = 5
    last_updates: int = 50
    last_target_share: float = 0.1
    temperatures: tuple[float, ...] = (1.0, 2.0)
    draws: int = 512
    ppo: PPOHyperparameters = field(default_factory=PPOHyperparameters)


class PPOAgent(ModelAgent):
    """Proposes what a policy, trained in surrogate and latency model, would choose.

    Args:
        problem: What to search.
        settings: See `PPOSettings`.
        sampler: Conditions to train for besides the problem's; log-uniform around them when left out.
    """

    name = "ppo"

    def __init__(
        self,
        problem: SearchProblem,
        settings: PPOSettings | None = None,
        sampler: ConditionsSampler | None = None,
    ) -> None:
        self.settings = settings or PPOSettings()
        super().__init__(problem, self.settings)
        self._sampler = sampler or ConditionsSampler(problem.conditions)
        self._policy: tuple[int, CoInferencePolicy] | None = None
        self._informed: dict[int, Measurement] = {}

    def inform(self, measurements: Iterable[Measurement]) -> None:
        """What else was measured of the problem's plans, for `policy` alone: baselines are no part of the search.

        Args:
            measurements: Of proxy accuracy (F1), like those that the agent observes; other plans are left out.
        """
        self._informed |= {self.problem.number[m.plan]: m for m in measurements if m.plan in self.problem.number}
        self._policy = None

    @property
    def policy(self) -> CoInferencePolicy:
        """The policy for all conditions, trained on everything observed; the search itself is not touched.

        Raises:
            ValueError: Fewer than two outcomes were observed.
        """
        seen = len(self._outcomes)
        if seen < 2:
            raise ValueError("a policy needs at least two observed outcomes")
        if self._policy is None or self._policy[0] != seen:
            self.report_progress(f"training the policy on {seen} measurements")
            _, pool = self.cores()
            surrogate = self.fitted(copy.deepcopy(self._surrogate), self._informed)
            measured = self._informed | {number: o.measurement for number, o in self._outcomes.items()}
            estimate = Expectations(*(surrogate.estimate(weight) for weight in (0.0, -Z95, Z95)))
            known = expectations(self.problem.plans, estimate, measured)
            rewards = training_rewards(pool, pool.rewards(self.problem.objective, known.accuracy),
                                       self.settings.sharpness)
            # a copy, so that the search goes on as if nobody had asked
            network = self.trainer.trained_copy(
                pool, rewards, self.settings.last_updates, self.seed_for("policy", self._rounds),
                self.settings.last_target_share)
            workloads = list(self.problem.workloads)
            for number, m in measured.items():
                workloads[number] = m.workload
            knowledge = Knowledge(self.problem.space, tuple(workloads), *known)
            self._policy = seen, CoInferencePolicy(
                knowledge, self.problem.latency_model, self.problem.objective, network, self.settings.ppo.hidden,
                Origin(conditions=len(pool.conditions), seed=self.problem.seed))
        return self._policy[1]

    def pools(self) -> list[list[Conditions]]:
        """The problem's conditions, and the pool that the policy is trained for, which begins with them."""
        here = self.problem.conditions
        # a latency model that takes long is asked about the problem's own conditions only
        others = 0 if is_slow(self.problem.latency_model) else self.settings.conditions - 1
        drawn = self._sampler.pool(others, self.seed_for("pool", self._rounds))
        return [[here], [here, *drawn]]  # the first conditions are the target of `PolicyTrainer`

    def candidate_plans(self, rng: np.random.Generator) -> IntArray:
        """Train the policy on, and draw the plans that it takes under the problem's conditions."""
        here, pool = self.cores()
        updates = self.settings.first_updates if self._rounds == 1 else self.settings.updates
        estimated = self.estimated_rewards(pool, self._surrogate, self.settings.ucb_weight)
        rewards = training_rewards(pool, estimated, self.settings.sharpness)
        self.trainer.train(pool, rewards, updates, self.seed_for("train", self._rounds))
        return self.drawn(here, rng)

    def drawn(self, here: CoInferenceCore, rng: np.random.Generator) -> IntArray:
        """Open plans that the policy draws as it is now, numbers without repetition.

        Args:
            here: Plans under the problem's conditions.
            rng: Draws the actions.
        """
        still_open, episodes = here.restricted(self._open), np.zeros(self.settings.draws, dtype=np.int64)
        # higher temperatures find plans beside the policy's favourites, for the acquisition value to choose from
        draws = [rollout(self.trainer.network, still_open, episodes, masked=self.settings.ppo.masks,
                         temperature=temperature, rng=rng)
                 for temperature in self.settings.temperatures]
        drawn: IntArray = np.unique(np.concatenate(draws))
        return drawn

    @cached_property
    def trainer(self) -> PolicyTrainer:
        """The policy in training; built when it is first needed, since most of a search's start needs none."""
        return PolicyTrainer(self.cores()[1], self.settings.ppo, self.seed_for("weights", self._rounds))
