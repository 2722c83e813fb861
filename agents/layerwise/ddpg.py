"""`ddpg`: an AMC-style reconstruction for plans that are pruned layer by layer.

After AMC (He et al. 2018, arXiv 1802.03494): an episode decides group by group, its state and its bounding are AMC's
(`autosplit.envs.episodes`), the terminal reward is copied to every transition, rewards are centred on a moving average,
the discount is 1. DDPG is that of stable-baselines3, with AMC's sizes and rates. What differs: the split point and the
codec are decided too, the reward is the search's objective, and the schedule, 800 episodes in AMC, is spread over the
measurements that are asked for. It is a reconstruction of the method, not a replication of anyone's figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from scipy.stats import truncnorm
from stable_baselines3 import DDPG
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch.optim import Optimizer

from autosplit.agents.layerwise.base import LayerwiseAgent, LayerwiseProblem
from autosplit.agents.trainer import isolated, keep_quiet
from autosplit.core.measurement import Outcome
from autosplit.envs.features import FloatArray
from autosplit.envs.layers import Choice

__all__ = ["AmcSettings", "EpisodeReplayBuffer", "LayerwiseDDPGAgent"]

_TRIES, _LEAST, _WIDER = 12, 0.05, 1.5
"""A plan that was measured before is not measured again: further tries have noise of at least 0.05, and ever more."""


@dataclass(frozen=True)
class AmcSettings:
    """AMC's hyperparameters. Those that count episodes are for `episodes` of them, and are scaled down to fewer.

    Attributes:
        episodes: Length of the schedule.
        warm_up: Episodes of it with random actions.
        noise: Standard deviation of the truncated normal noise, in units of actions in [0, 1].
        decay: Factor on it an episode after the warm-up.
        updates: Updates a transition; more of them where episodes are fewer, up to `most_updates`.
        most_updates: Their most.
        hidden: Hidden layers of actor and critic.
        actor_lr: Learning rate of the actor.
        critic_lr: Learning rate of the critic.
        tau: Share of the network that its target takes over in an update.
        batch: Transitions of an update.
        replay: Episodes that are remembered.
        baseline_rate: Share of the mean reward of a batch in the moving average.
    """

    episodes: int = 800
    warm_up: int = 100
    noise: float = 0.5
    decay: float = 0.95
    updates: int = 1
    most_updates: int = 16
    hidden: tuple[int, ...] = (300, 300)
    actor_lr: float = 1e-4
    critic_lr: float = 1e-3
    tau: float = 0.01
    batch: int = 64
    replay: int = 100
    baseline_rate: float = 0.5


class EpisodeReplayBuffer(ReplayBuffer):
    """Transitions whose reward is that of the end of their episode, sampled relative to a moving average.

    `stage` each transition of an episode, then `finish` it with its reward.

    Args:
        arguments: As for `ReplayBuffer`.
        baseline_rate: Share of the mean reward of a batch in the moving average.
        options: As for `ReplayBuffer`.
    """

    def __init__(self, *arguments: Any, baseline_rate: float = 0.5, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.baseline: float | None = None
        self._rate = baseline_rate
        self._staged: list[tuple[FloatArray, FloatArray, float, bool]] = []

    def stage(self, observation: FloatArray, following: FloatArray, action: float, done: bool) -> None:
        """Keep a transition until the reward of its episode is known.

        Args:
            observation: Shape (F,).
            following: The next one, shape (F,).
            action: As it was taken, in [-1, 1].
            done: Whether it was the episode's last.
        """
        self._staged.append((observation, following, action, done))

    def finish(self, reward: float) -> None:
        """Add the staged transitions, each with the reward of the whole episode."""
        # as in AMC: no decision alone has a reward, so each gets that of the whole episode
        for observation, following, action, done in self._staged:
            self.add(observation[None], following[None], np.array([[action]], dtype=np.float32),
                     np.array([reward]), np.array([done]), [{}])
        self._staged.clear()

    def sample(self, batch_size: int, env: Any = None) -> ReplayBufferSamples:
        """A batch, its rewards without the moving average of batches so far."""
        batch = super().sample(batch_size, env)
        mean = float(batch.rewards.mean())
        self.baseline = mean if self.baseline is None else self.baseline + self._rate * (mean - self.baseline)
        return batch._replace(rewards=batch.rewards - self.baseline)


class _TwoRates(DDPG):
    """DDPG whose actor has its own learning rate; `learning_rate` is the critic's."""

    actor_lr = 1e-4

    def _update_learning_rate(self, optimizers: list[Optimizer] | Optimizer) -> None:
        super()._update_learning_rate(optimizers)
        # sb3 sets both optimisers to the one rate it knows
        for group in self.actor.optimizer.param_groups:
            group["lr"] = self.actor_lr


class _Spaces(gymnasium.Env[FloatArray, FloatArray]):
    """The spaces that DDPG is built for. It is never run, since agents do not measure."""

    def __init__(self, features: int) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (features,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)


class LayerwiseDDPGAgent(LayerwiseAgent):
    """DDPG over real measurements, one episode each; proposes one plan at a time, since it learns from each.

    Args:
        problem: What to search; its `evaluations` are the length of the schedule.
        settings: See `AmcSettings`.
    """

    name = "ddpg"

    def __init__(self, problem: LayerwiseProblem, settings: AmcSettings | None = None) -> None:
        super().__init__(problem)
        self.settings = s = settings or AmcSettings()
        self._pace = s.episodes / problem.evaluations  # episodes of AMC's schedule that one measurement stands for
        self._warm_up = max(1, round(s.warm_up / self._pace))
        self._updates = min(max(round(s.updates * self._pace), s.updates), s.most_updates)
        with isolated(self.seed_for("weights")):
            self._ddpg = _TwoRates(
                "MlpPolicy", _Spaces(self.core.observation_size), learning_rate=s.critic_lr, batch_size=s.batch,
                buffer_size=s.replay * self.core.longest, tau=s.tau, gamma=1.0, device="cpu",
                replay_buffer_class=EpisodeReplayBuffer, replay_buffer_kwargs={"baseline_rate": s.baseline_rate},
                policy_kwargs={"net_arch": list(s.hidden)})
        self._ddpg.actor_lr = s.actor_lr
        keep_quiet(self._ddpg)

    def _propose(self, n: int) -> Sequence[Choice]:  # noqa: ARG002
        step = len(self._outcomes)
        if step < self._warm_up:
            return self.random_plans(self.generator("warm up", step))[:1]
        most = self.settings.noise
        noise = most * self.settings.decay ** ((step - self._warm_up) * self._pace)
        rng = self.generator("noise", step)
        for _ in range(_TRIES):
            episode, width = self.core.begin(1), max(noise, 1e-6)  # the truncated normal has no limit of width 0
            while not self.core.done(episode)[0]:
                with torch.no_grad():
                    action = self._ddpg.actor(torch.as_tensor(self.core.observe(episode))).numpy().astype(np.float64)[0]
                centre = (np.clip(action, -1.0, 1.0) + 1.0) / 2.0
                drawn = truncnorm.ppf(rng.random(1), -centre / width, (1.0 - centre) / width, centre, width)
                self.core.advance(episode, np.clip(drawn, 0.0, 1.0))
            choice = self.core.choices(episode)[0]
            if choice not in self._taken:  # measuring a plan again would teach nothing new
                return [choice]
            noise = min(max(noise * _WIDER, _LEAST), most)
        return self.random_plans(rng)[:1]

    def _observe(self, outcomes: Sequence[Outcome]) -> None:
        if not outcomes:
            return
        for outcome in outcomes:
            # also outcomes of others: every measured plan is an episode that could have been played
            self._remember(self.problem.space.locate(outcome.plan), outcome.reward)
        if len(self._outcomes) >= self._warm_up:
            self.correct_payloads()
            self.report_progress(f"{len(self._outcomes)} measurements, training actor and critic")
            with isolated(self.seed_for("train", len(self._outcomes))):
                self._ddpg.train(self._updates * self.core.longest * len(outcomes), self.settings.batch)

    def _remember(self, choice: Choice, reward: float) -> None:
        """Play a plan again, by the actions that lead to it, and keep its transitions."""
        buffer = self._ddpg.replay_buffer
        assert isinstance(buffer, EpisodeReplayBuffer)
        split, layers, codec = self.core.actions_of([choice])
        episode, observation = self.core.begin(1), self.core.observe(self.core.begin(1))[0]
        for step in range(2 + self.problem.space.splits[choice.split].groups):
            last = step == 1 + self.problem.space.splits[choice.split].groups
            wanted = split if step == 0 else codec if last else layers[:, step - 1]
            taken = self.core.advance(episode, wanted)
            following = self.core.observe(episode)[0]
            buffer.stage(observation, following, 2.0 * float(taken[0]) - 1.0, last)
            observation = following
        buffer.finish(reward)
