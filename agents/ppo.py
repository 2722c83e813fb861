"""The default agent: PPO inside a model of the accuracy, in rounds.

The scheme is DyNA-PPO's (Angermueller et al., "Model-based reinforcement learning for biological sequence design",
ICLR 2020). A round fits the surrogate on everything measured, trains the policy in the vectorised environment, under
the scenario's and many other conditions, with optimistic rewards, and lets the policy choose what to measure next.
One measurement thus serves every conditions vector, and the trained policy answers for conditions never searched.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from autosplit.agents.base import Agent, SearchProblem
from autosplit.agents.policy import CoInferencePolicy, rollout
from autosplit.agents.surrogate import AccuracySurrogate
from autosplit.agents.trainer import PolicyTrainer, PPOHyperparameters
from autosplit.envs.conditions import ConditionsSampler
from autosplit.envs.core import CoInferenceCore
from autosplit.envs.tree import BoolArray, IntArray
from autosplit.latency.base import Array
from autosplit.plan import Outcome, Workload

__all__ = ["PPOAgent", "PPOSettings"]


@dataclass(frozen=True)
class PPOSettings:
    """How the agent spends measurements and time.

    Attributes:
        first: Measurements before the first round, spread over the space.
        round: Measurements a round.
        conditions: Conditions that the policy is trained under, the scenario's included.
        optimism: Standard deviations of the surrogate that training adds to its median.
        sharpness: Reward lost against the best plan of the same conditions at which a training reward falls to 1/e.
        first_updates: PPO updates of the first round.
        updates: PPO updates of each further round.
        last_updates: PPO updates of `PPOAgent.policy`, without optimism.
        last_target_share: Share of their episodes under the scenario's conditions.
        temperatures: Temperatures at which the policy is asked for proposals.
        draws: Plans drawn at each temperature; the best of them by acquisition are proposed.
        ppo: Hyperparameters of PPO itself.
    """

    first: int = 20
    round: int = 10
    conditions: int = 512
    optimism: float = 1.0
    sharpness: float = 0.05
    first_updates: int = 16
    updates: int = 5
    last_updates: int = 50
    last_target_share: float = 0.1
    temperatures: tuple[float, ...] = (1.0, 2.0)
    draws: int = 512
    ppo: PPOHyperparameters = field(default_factory=PPOHyperparameters)


class PPOAgent(Agent):
    """Proposes what a policy, trained in surrogate and latency model, would choose.

    Plans are proposed in the same order whatever number is asked for at a time, provided that a round's outcomes
    are in before the next round begins.

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
        super().__init__(problem)
        self.settings = settings or PPOSettings()
        self._sampler = sampler or ConditionsSampler(problem.conditions)
        self._surrogate = AccuracySurrogate(problem.features)
        self._rounds = 0
        self._queue: deque[int] = deque(self._spread(self.settings.first))
        self._revised: dict[int, Workload] = {}
        self._cores: tuple[CoInferenceCore, CoInferenceCore] | None = None
        self._trainer: PolicyTrainer | None = None
        self._policy: tuple[int, CoInferencePolicy] | None = None

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
            self._say(f"training the policy on {seen} measurements")
            _, pool = self._current_cores()
            rewards = self._training_rewards(pool, self._fitted(copy.deepcopy(self._surrogate)), optimism=0.0)
            network = self._current_trainer().trained_copy(
                pool, rewards, self.settings.last_updates, self._seed_of("policy"), self.settings.last_target_share)
            workloads = list(self.problem.workloads)
            for number, outcome in self._outcomes.items():
                workloads[number] = outcome.measurement.workload
            self._policy = seen, CoInferencePolicy(self.problem.space, workloads, self.problem.latency_model, network,
                                                   self.settings.ppo.hidden)
        return self._policy[1]

    def _propose(self, n: int) -> Sequence[int]:
        queue = deque(i for i in self._queue if self._open[i])  # others may have been observed meanwhile
        if not queue:
            size = self.settings.round  # whatever n is: a proposal must not depend on how many are asked for at once
            queue.extend(self._spread(size) if len(self._outcomes) < 2 else self._round(size))
        self._queue = queue
        return [queue.popleft() for _ in range(min(n, len(queue)))]

    def _observe(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            number, work = self.problem.number[outcome.plan], outcome.measurement.workload
            if work != self.problem.workloads[number]:
                self._revised[number] = work

    def _spread(self, size: int) -> list[int]:
        """Open plans far from each other: each drawn with odds that grow with its squared distance to the others.

        The seeding of k-means++; unlike a maximin design it does not sit on the corners of the space only.
        """
        rng = np.random.default_rng(self._seed_of("spread"))
        numbers, points = self.open_numbers(), self._surrogate.points[self.open_numbers()]
        distance, chosen = np.ones(len(numbers)), list[int]()
        for _ in range(min(size, len(numbers))):
            total = distance.sum()
            odds = distance / total if total > 0 else self._not_in(numbers, chosen)
            pick = int(rng.choice(len(numbers), p=odds))
            chosen.append(int(numbers[pick]))
            squared = ((points - points[pick]) ** 2).sum(axis=1)
            distance = np.minimum(distance, squared) if len(chosen) > 1 else squared
        return chosen

    @staticmethod
    def _not_in(numbers: IntArray, chosen: Sequence[int]) -> Array:
        left = ~np.isin(numbers, chosen)
        odds: Array = left / left.sum()
        return odds

    def _round(self, size: int) -> list[int]:
        """Fit, train, and let the policy propose."""
        self._rounds += 1
        self._say(f"round {self._rounds}: {len(self._outcomes)} measurements, training the policy")
        surrogate = self._fitted(self._surrogate)
        here, pool = self._current_cores()
        updates = self.settings.first_updates if self._rounds == 1 else self.settings.updates
        rewards = self._training_rewards(pool, surrogate, self.settings.optimism)
        self._current_trainer().train(pool, rewards, updates, self._seed_of("train"))
        return self._choose(here, min(size, self.remaining))

    def _choose(self, here: CoInferenceCore, size: int) -> list[int]:
        """The best of many plans that the policy chooses, by an optimism drawn anew for each.

        Optimism drawn from Exp(1) makes a batch both exploit and explore (Hutter et al., "Parallel algorithm
        configuration", LION 2012).
        """
        rng = np.random.default_rng(self._seed_of("choose"))
        left = set(self._draw(here, rng).tolist())
        if len(left) < size:
            left = set(self.open_numbers().tolist())
        chosen: list[int] = []
        for optimism in rng.exponential(size=size):
            numbers = np.array(sorted(left))
            merit = here.rewards(self.problem.objective, self._accuracy(self._surrogate, float(optimism)))[numbers, 0]
            chosen.append(int(numbers[merit.argmax()]))
            left.remove(chosen[-1])
        return chosen

    def _draw(self, here: CoInferenceCore, rng: np.random.Generator) -> IntArray:
        """Open plans that the policy takes under the problem's conditions."""
        reachable: BoolArray = here.tree.reachable(self._open[:, None])[:, 0]
        draws = [rollout(self._current_trainer().network, here, np.zeros(self.settings.draws, dtype=np.int64),
                         reachable=reachable, temperature=temperature, rng=rng)
                 for temperature in self.settings.temperatures]
        drawn: IntArray = np.unique(np.concatenate(draws))
        return drawn

    def _fitted(self, surrogate: AccuracySurrogate) -> AccuracySurrogate:
        numbers = np.array(list(self._outcomes), dtype=np.int64)
        accuracy = np.array([o.measurement.accuracy for o in self._outcomes.values()])
        surrogate.fit(numbers, accuracy)
        return surrogate

    def _accuracy(self, surrogate: AccuracySurrogate, optimism: float) -> Array:
        """Accuracy of every plan: measured, or estimated with optimism."""
        accuracy = surrogate.estimate(optimism)
        for number, outcome in self._outcomes.items():
            accuracy[number] = outcome.measurement.accuracy
        return accuracy

    def _training_rewards(self, pool: CoInferenceCore, surrogate: AccuracySurrogate, optimism: float) -> Array:
        """exp(-regret / sharpness), the regret against the best plan of the same conditions.

        So small differences near the optimum count, and easy conditions weigh no more than hard ones.
        """
        rewards = pool.rewards(self.problem.objective, self._accuracy(surrogate, optimism))
        best = np.where(pool.allowed, rewards, -np.inf).max(axis=0)
        shaped: Array = np.exp(np.minimum(rewards - best, 0.0) / self.settings.sharpness)
        return shaped

    def _current_cores(self) -> tuple[CoInferenceCore, CoInferenceCore]:
        """The problem's conditions alone, and the pool that begins with them, both with the measured workloads."""
        p = self.problem
        if self._cores is None:
            pool = self._sampler.pool(self.settings.conditions - 1, self._seed_of("pool"))
            build = [CoInferenceCore.build(p.space, p.workloads, p.latency_model, conditions)
                     for conditions in ([p.conditions], [p.conditions, *pool])]
            self._cores = build[0], build[1]
        if self._revised:
            here, all_ = (core.revised(self._revised, p.latency_model) for core in self._cores)
            self._cores, self._revised = (here, all_), {}
        return self._cores

    def _current_trainer(self) -> PolicyTrainer:
        if self._trainer is None:
            self._trainer = PolicyTrainer(self._current_cores()[1], self.settings.ppo, self._seed_of("weights"))
        return self._trainer

    def _seed_of(self, purpose: str) -> int:
        """A seed for one purpose in one round, so that no draw depends on how many came before it."""
        entropy = [self.problem.seed, self._rounds, *purpose.encode()]
        return int(np.random.SeedSequence(entropy).generate_state(1)[0])
