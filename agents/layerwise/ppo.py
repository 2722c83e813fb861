"""`ppo` for plans that are pruned layer by layer: PPO inside a model of the accuracy, in rounds.

The scheme is that of `autosplit.agents.ppo` (DyNA-PPO, Angermueller et al., ICLR 2020), with one decision for each
prunable group: a round fits the surrogate on everything measured, trains the policy in episodes whose reward is the
surrogate's, and measures the best of what the policy chooses. Episodes are bounded, so what it learns is how to share
out a budget among the groups, not that there is one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from stable_baselines3 import PPO
from torch import nn

from autosplit.agents.layerwise.base import LayerwiseAgent, LayerwiseProblem
from autosplit.agents.layerwise.surrogate import LayerSurrogate
from autosplit.agents.logit import accuracy_of
from autosplit.agents.trainer import EpisodicPPO, isolated, keep_quiet
from autosplit.core.arrays import Array
from autosplit.envs.layers import Choice
from autosplit.envs.layerwise_vector import VectorLayerwise
from autosplit.envs.sb3 import StableBaselinesVecEnv
from autosplit.latency.base import LatencyBreakdown

__all__ = ["LayerPPOSettings", "LayerwisePPOAgent"]

_SHIFTS = np.linspace(-1.0, 1.0, 65)
_UNIFORM, _PROFILES = 0.25, 0.5
"""Shares of the first plans; the rest comes from random episodes."""


@dataclass(frozen=True)
class LayerPPOSettings:
    """How the agent spends measurements and time.

    Attributes:
        first: Measurements before the first round: uniform plans and random ones, all just within the limit.
        round: Measurements a round.
        ucb_weight: Standard deviations of the surrogate that training adds to its median.
        sharpness: Reward lost against the best at which a training reward falls to 1/e.
        first_updates: PPO updates of the first round.
        updates: PPO updates of each further round.
        spreads: Multiples of the policy's own standard deviation at which it is asked for proposals.
        draws: Episodes at each of them.
        neighbours: Plans near the best measured ones that stand beside the policy's proposals.
        ppo: Hyperparameters of PPO itself.
    """

    first: int = 20
    round: int = 10
    ucb_weight: float = 1.0
    sharpness: float = 0.03
    first_updates: int = 16
    updates: int = 5
    spreads: tuple[float, ...] = (1.0, 2.0)
    draws: int = 128
    neighbours: int = 256
    ppo: EpisodicPPO = field(default_factory=lambda: EpisodicPPO(episodes=128, hidden=(64, 64), entropy=0.02))


class LayerwisePPOAgent(LayerwiseAgent):
    """Proposes what a policy, trained in surrogate and latency model, would choose.

    Plans are proposed in the same order whatever number is asked for at a time, provided that a round's outcomes
    are in before the next round begins.

    Args:
        problem: What to search.
        settings: See `LayerPPOSettings`.
    """

    name = "ppo"

    def __init__(self, problem: LayerwiseProblem, settings: LayerPPOSettings | None = None) -> None:
        super().__init__(problem)
        self.settings = settings or LayerPPOSettings()
        self._rounds = 0
        self._queue: deque[Choice] = deque(self._design(self.settings.first))
        groups = len(problem.space.roots)
        self._surrogate = LayerSurrogate(groups, problem.space.features([]).shape[1] - groups)
        self._ppo: PPO | None = None

    def _propose(self, n: int) -> Sequence[Choice]:
        self._queue = deque(c for c in self._queue if c not in self._taken)
        if not self._queue:
            # two outcomes are the least that a surrogate can be fitted on
            self._queue.extend(self._round() if len(self._outcomes) >= 2 else
                               self.random_plans(self._generator("random"))[:self.settings.round])
        return [self._queue.popleft() for _ in range(min(n, len(self._queue)))]

    def _generator(self, purpose: str) -> np.random.Generator:
        return self.generator(purpose, len(self._outcomes))

    # --- plans just within the limit --------------------------------------------------------------------------------

    def _design(self, size: int) -> list[Choice]:
        """Uniform plans, random profiles and random episodes, each as large as the limit allows."""
        # more than are wanted, since many become the same plan once they are bounded
        rng, count, groups = self._generator("design"), 8 * size, max(1, self.problem.space.groups)
        episodes = self.core.play(rng.random(count), rng.random((count, groups)), rng.random(count))
        split, played, codec = self.core.actions_of(self.core.choices(episodes))
        kind, profiles = rng.random((count, 1)), rng.random((count, groups))
        layers = np.where(kind <= _UNIFORM, 0.5, np.where(kind <= _UNIFORM + _PROFILES, profiles, played))
        filled = self._filled(split, layers, codec)
        found = list(dict.fromkeys(c for c in filled if c not in self._taken))
        return found[:size] or self.random_plans(rng)[:size]

    def _filled(self, split: Array, layers: Array, codec: Array) -> list[Choice]:
        """Plans with all their sparsities shifted alike, as low as the limit allows; the codec as asked for.

        Args:
            split: Action for the split point, shape (N,).
            layers: Actions for the groups, shape (N, G).
            codec: Action for the codec, shape (N,).
        """
        bounded = self.core.choices(self.core.play(split, layers, codec))
        result: list[Choice] = []
        for row, choice in zip(layers, bounded, strict=True):
            here = self.problem.space.splits[choice.split]
            keep = here.kept(np.clip(row[None, :here.groups] + _SHIFTS[:, None], 0.0, 1.0))
            # from low sparsities to high ones: the first within the limit is the largest head that fits
            within = self.core.within(choice.split, keep, np.full(len(keep), choice.codec))
            result.append(choice._replace(keep=tuple(keep[within.argmax()].tolist())) if within.any() else choice)
        return result

    # --- rounds -----------------------------------------------------------------------------------------------------

    def _round(self) -> list[Choice]:
        """Fit the surrogate, train the policy, and choose plans of the highest acquisition value.

        Candidates are what the policy draws, and plans near the best measured ones. The UCB weight is drawn anew for
        each plan (Hutter et al., LION 2012).
        """
        self._rounds += 1
        self.report_progress(f"round {self._rounds}: {len(self._outcomes)} measurements, training the policy")
        self.correct_payloads()
        measured, space = list(self._outcomes), self.problem.space
        self._surrogate.fit(space.features(measured), np.array([o.measurement.accuracy for o in self.outcomes]))
        near = self._near()
        best = max(float(self._acquisition(measured).max()),
                   float(self._acquisition(near, self.settings.ucb_weight).max()))
        self._train(best)
        size = self.settings.round  # whatever is asked for at once: proposals must not depend on it
        candidates = list(dict.fromkeys(c for c in [*self._drawn(), *near] if c not in self._taken))
        if len(candidates) < size:
            candidates = list(dict.fromkeys([*candidates, *self.random_plans(self._generator("random"))]))
        if not candidates:
            return []
        breakdown = self.core.latency.breakdown(candidates)
        mean, deviation = self._surrogate.logits(space.features(candidates))
        left, chosen = np.flatnonzero(breakdown.p95_ms[:, 0] <= self.core.limit_ms).tolist(), list[Choice]()
        for ucb_weight in self._generator("choose").exponential(size=size):
            if left:  # fewer may be within the limit than a round has places
                rewards = self._rewards(accuracy_of(mean + ucb_weight * deviation), breakdown)
                number = max(left, key=lambda i: float(rewards[i]))
                left.remove(number)
                chosen.append(candidates[number])
        return chosen

    def _acquisition(self, choices: Sequence[Choice], ucb_weight: float = 0.0) -> Array:
        """Acquisition value of plans, shape (N,): the reward if the accuracy is so many deviations above the median."""
        if not choices:
            return np.full(1, -np.inf)
        accuracy = self._surrogate.estimate(self.problem.space.features(choices), ucb_weight)
        return self._rewards(accuracy, self.core.latency.breakdown(choices))

    def _rewards(self, accuracy: Array, breakdown: LatencyBreakdown) -> Array:
        rewards: Array = self.problem.objective.reward(accuracy, breakdown, [self.problem.conditions])[:, 0]
        return rewards

    def _near(self) -> list[Choice]:
        """Plans near the best measured ones, just within the limit."""
        rng = self._generator("near")
        ranked = sorted(self._outcomes, key=lambda c: (-self._outcomes[c].feasible, -self._outcomes[c].reward))[:8]
        picked = [ranked[int(i)] for i in rng.integers(len(ranked), size=self.settings.neighbours)]
        split, layers, codec = self.core.actions_of(picked)
        moved = rng.random(layers.shape) < np.maximum(1.5 / layers.shape[1], 0.15)  # of many groups one or two
        layers = np.clip(layers + moved * rng.normal(0.0, 0.2, layers.shape), 0.0, 1.0)
        moved_codec = rng.random(len(codec)) < 0.25
        codec = np.clip(codec + moved_codec * rng.normal(0.0, 0.15, len(codec)), 0.0, 1.0)
        return [c for c in dict.fromkeys(self._filled(split, layers, codec)) if c not in self._taken]

    def _train(self, best: float) -> None:
        """Train the policy further; a reward is how near to the best a plan comes, by the surrogate."""
        settings = self.settings

        def reward(choices: Sequence[Choice]) -> Array:
            gap = (self._acquisition(choices, settings.ucb_weight) - best) / settings.sharpness
            return np.exp(np.clip(gap, -20.0, 1.0))  # cut, so that no single plan outweighs all others

        if self._ppo is None:
            self._env = VectorLayerwise(self.core, reward, settings.ppo.episodes)
            with isolated(self.seed_for("weights")):
                self._ppo = PPO("MlpPolicy", StableBaselinesVecEnv(self._env),
                                **settings.ppo.arguments(self.core.longest),
                                policy_kwargs={"net_arch": list(settings.ppo.hidden), "activation_fn": nn.Tanh,
                                               "log_std_init": -0.5})
            keep_quiet(self._ppo)
        self._env.use(self.core, reward)
        updates = settings.first_updates if self._rounds == 1 else settings.updates
        with isolated(self.seed_for("train", self._rounds)):
            self._ppo.learn(updates * settings.ppo.episodes * self.core.longest)

    def _drawn(self) -> list[Choice]:
        """Plans that the policy takes, and the same with what is left of the limit shared out."""
        assert self._ppo is not None
        rng, found = self._generator("draw"), list[Choice]()
        for spread in self.settings.spreads:
            episodes = self.core.begin(self.settings.draws)
            while not self.core.done(episodes).all():
                with torch.no_grad():
                    distribution = self._ppo.policy.get_distribution(
                        torch.as_tensor(self.core.observe(episodes))).distribution
                    mean, deviation = (t.numpy()[:, 0].astype(np.float64)
                                       for t in (distribution.mean, distribution.stddev))  # type: ignore[union-attr]
                drawn = mean + spread * deviation * rng.standard_normal(len(mean))
                self.core.advance(episodes, (np.clip(drawn, -1.0, 1.0) + 1.0) / 2.0)
            found += self.core.choices(episodes)
        return [*found, *self._filled(*self.core.actions_of(found))]
