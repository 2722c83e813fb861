"""Training of a policy for a whole distribution of conditions, over a table of measurements.

Unlike in a search the policy is not masked: a plan over the deadline is worth nothing, and the policy learns which
plans are in time. So its likeliest plans are nearly all good ones, and the latency model need not look at many. A
masked policy never learns what lies outside its mask: on a synthetic table its likeliest plans were in time no more
often than plans drawn at random.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from autosplit.agents.expectations import Expectations, expectations
from autosplit.agents.policy import CoInferencePolicy, Knowledge, Origin
from autosplit.agents.trainer import PolicyTrainer, PPOHyperparameters, training_rewards
from autosplit.core.progress import NullProgress, PhaseReporter
from autosplit.envs.conditions import Distribution
from autosplit.envs.core import CoInferenceCore
from autosplit.envs.tree import STEPS
from autosplit.evaluation.objective import Objective
from autosplit.evaluation.table import TableEvaluator
from autosplit.latency.base import LatencyModel, coarse_of

__all__ = ["PolicySettings", "train_policy"]

_PARTS = 50  # of a training, for the progress bar


@dataclass(frozen=True)
class PolicySettings:
    """How a policy is trained.

    Attributes:
        conditions: Conditions drawn for the training.
        steps: Least number of steps in the environment; three make a decision.
        trials: Conditions, drawn likewise but not trained under, that the trained policy is tried on.
        ppo: Hyperparameters of PPO.
    """

    conditions: int = 1024
    steps: int = 400_000
    trials: int = 200
    ppo: PPOHyperparameters = field(default_factory=lambda: PPOHyperparameters(hidden=(256, 256), target_share=0.0))


def train_policy(
    table: TableEvaluator,
    latency_model: LatencyModel,
    objective: Objective,
    distribution: Distribution,
    settings: PolicySettings | None = None,
    *,
    seed: int = 0,
    origin: Origin | None = None,
    progress: PhaseReporter | None = None,
) -> CoInferencePolicy:
    """Train a policy by PPO over measured accuracies, and try it on conditions that it never met.

    Args:
        table: Measurements of a whole plan space.
        latency_model: Gives the latency of all plans under all drawn conditions.
        objective: What a plan is worth.
        distribution: Where conditions are drawn from.
        settings: See `PolicySettings`.
        seed: Of conditions, weights and training.
        origin: What else is to be known of the policy; training fills in the figures.
        progress: Shows the phases.
    """
    settings, progress = settings or PolicySettings(), progress or NullProgress()
    space, measured = table.space, table.measurements
    unknown = np.zeros(len(measured))
    known = expectations(space.plans(), Expectations(unknown, unknown, unknown), dict(enumerate(measured)))
    knowledge = Knowledge(space, tuple(m.workload for m in measured), *known)
    with progress.phase(f"latencies under {settings.conditions} conditions"):
        pool = distribution.pool(settings.conditions, [seed, 0])
        core = CoInferenceCore.build(space, knowledge.workloads, coarse_of(latency_model), pool)
        shaped = training_rewards(core, core.rewards(objective, knowledge.accuracy))
        rewards = np.where(core.allowed, shaped, 0.0)
        # all plans may be chosen from here on: the policy has to learn which are in time
        core = core.restricted(np.ones(len(space), dtype=np.bool_))
    trainer = PolicyTrainer(core, settings.ppo, seed)
    # whole updates, so that the training has at least as many steps as were asked for
    updates = math.ceil(settings.steps / (settings.ppo.episodes * STEPS))
    with progress.phase("train the policy", total=updates) as advance:
        for part, share in enumerate(np.array_split(np.arange(updates), min(_PARTS, updates))):
            trainer.train(core, rewards, len(share), int(np.random.SeedSequence([seed, part]).generate_state(1)[0]))
            advance(len(share))
    policy = CoInferencePolicy(knowledge, latency_model, objective, trainer.network, settings.ppo.hidden)
    with progress.phase("decide under conditions never met"):
        regret = policy.regret(distribution.pool(settings.trials, [seed, 1]))
    policy.origin = (origin or Origin()).model_copy(update={
        "conditions": settings.conditions, "steps": updates * settings.ppo.episodes * STEPS, "seed": seed,
        "unseen_regret": (float(np.median(regret)), float(np.quantile(regret, 0.95)))})
    return policy
