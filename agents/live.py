"""Plain PPO: a policy that learns from measured rewards alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from autosplit.agents.base import Agent, SearchProblem
from autosplit.agents.network import rollout
from autosplit.agents.trainer import PolicyTrainer, PPOHyperparameters
from autosplit.envs.core import CoInferenceCore
from autosplit.envs.tree import IntArray

__all__ = ["PPOLiveAgent", "PPOLiveSettings"]


@dataclass(frozen=True)
class PPOLiveSettings:
    """How the agent learns.

    Attributes:
        patience: Updates in a row without a plan that is not measured yet, after which the policy is made to choose
            among those.
        ppo: Hyperparameters of PPO. Few episodes an update, since each may cost a measurement.
    """

    patience: int = 5
    ppo: PPOHyperparameters = field(default_factory=lambda: PPOHyperparameters(
        episodes=16, minibatches=2, epochs=8, hidden=(64, 64), learning_rate=1e-3, entropy=0.01, target_share=1.0))


class PPOLiveAgent(Agent):
    """PPO in the environment itself (Schulman et al., arXiv 1707.06347), with maskable actions and no model.

    An update's episodes are drawn, those of their plans that are not measured yet are proposed, and when all rewards
    are known the policy is trained on these very episodes. A plan that is measured already costs nothing when an
    episode ends in it again, and gives the reward that was measured. Latency masks the actions, as it does for `ppo`;
    no reward is estimated, and none of other conditions is used. What the initial design measured is looked up where an
    episode ends in it: policy gradients learn from the policy's own episodes only.

    Plans are proposed in the same order whatever number is asked for at a time, provided that the outcomes of an
    update's plans are in before more are asked for.

    Args:
        problem: What to search.
        settings: See `PPOLiveSettings`.
    """

    name = "ppo-live"

    def __init__(self, problem: SearchProblem, settings: PPOLiveSettings | None = None) -> None:
        super().__init__(problem)
        self.settings = settings or PPOLiveSettings()
        p = problem
        whole = CoInferenceCore.build(p.space, p.workloads, p.latency_model, [p.conditions])
        self._core = whole.restricted(p.candidates)  # what cannot be in time is masked, as for `ppo`
        self._trainer = PolicyTrainer(self._core, self.settings.ppo, self.seed_for("weights"))
        self._updates = self._draws = self._idle = 0
        self._visited: IntArray | None = None
        self._queue: deque[int] = deque()

    def _propose(self, n: int) -> Sequence[int]:
        self._queue = deque(i for i in self._queue if self._open[i])  # others may have been observed meanwhile
        while not self._queue:
            self._queue.extend(self._next())
        return [self._queue.popleft() for _ in range(min(n, len(self._queue)))]

    def _next(self) -> list[int]:
        """Train on the episodes at hand if their rewards are known, and draw the next ones; their open plans."""
        if self._visited is not None:
            if not all(int(i) in self._outcomes for i in self._visited):
                return self._forced_choice()  # asked for more before the outcomes are in
            rewards = np.full((len(self.problem.plans), 1), np.nan)  # a reward that is used unmeasured would show
            for number, outcome in self._outcomes.items():
                rewards[number] = outcome.reward
            self._trainer.train(self._core, rewards, 1, self.seed_for("update", self._updates))
            self._updates += 1
        self._visited = self._trainer.visits(self._core, self.seed_for("update", self._updates))
        # a training of one update visits just these plans, so their rewards are all that it needs
        plans = [i for i in dict.fromkeys(self._visited.tolist()) if self._open[i]]
        self._idle = 0 if plans else self._idle + 1
        if self._idle < self.settings.patience:
            return plans
        self._idle = 0
        return self._forced_choice()

    def _forced_choice(self) -> list[int]:
        """A plan that the policy draws when only open plans may be chosen."""
        rng = self.generator("draw", self._draws)
        self._draws += 1
        drawn = rollout(self._trainer.network, self._core.restricted(self._open), np.zeros(1, dtype=np.int64),
                        temperature=1.0, rng=rng)
        return [int(drawn[0])]
