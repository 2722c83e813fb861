"""The knowledge of a policy, carried over to plans that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autosplit.agents.logit import accuracy_of, logit
from autosplit.agents.policy import Knowledge
from autosplit.agents.prior import expected_accuracy
from autosplit.agents.surrogate import AccuracySurrogate
from autosplit.core.arrays import Array
from autosplit.core.measurement import Workload
from autosplit.core.space import PlanSpace
from autosplit.envs.features import PLAN_FEATURES, plan_features

__all__ = ["predicted_accuracy"]

_MOST = 400
"""Plans that the process is fitted on; its time grows with their third power."""


def predicted_accuracy(knowledge: Knowledge, space: PlanSpace, workloads: Sequence[Workload]) -> Array:
    """Accuracies of the plans of any space, as the accuracies of known plans suggest.

    Where the space is the known one they are those known. Else a Gaussian process over the features that mean the same
    in every space (`autosplit.envs.features.PLAN_FEATURES`) is fitted on some of the known plans, drawn uniformly; its
    mean is what is expected of any plan (`expected_accuracy`), to which it falls back on plans unlike those known. The
    result lies halfway between the two, in log-odds: another network on other data breaks some rules of the first.
    It is a ranking, not a level: its user has to fit the level anew.

    Args:
        knowledge: Plans, workloads and accuracies of a policy.
        space: The P plans asked about.
        workloads: One a plan, in the order of `space.plans()`.

    Returns:
        Shape (P,), in [0, 1].
    """
    if space == knowledge.space:
        return knowledge.accuracy
    shared = slice(len(PLAN_FEATURES))
    known = plan_features(knowledge.space, knowledge.workloads)[:, shared]
    guess = expected_accuracy(workloads)
    surrogate = AccuracySurrogate(np.concatenate([known, plan_features(space, workloads)[:, shared]]),
                                  prior=np.concatenate([expected_accuracy(knowledge.workloads), guess]))
    # a fixed seed: the prior is a part of the problem, so two agents must be given the same one
    chosen = np.random.default_rng(0).permutation(len(known))[:_MOST]
    surrogate.fit(chosen, knowledge.accuracy[chosen])
    return accuracy_of((logit(guess) + logit(surrogate.estimate()[len(known):])) / 2)
