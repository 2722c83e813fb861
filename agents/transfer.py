"""What a policy knows of plans that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autosplit.agents.policy import Knowledge
from autosplit.agents.surrogate import AccuracySurrogate
from autosplit.envs.features import PLAN_FEATURES, plan_features
from autosplit.evaluation.base import PlanSpace
from autosplit.latency.base import Array
from autosplit.plan import Workload

__all__ = ["predicted_accuracy"]

_MOST = 400
"""Plans that the process is fitted on; its time grows with their third power."""


def predicted_accuracy(knowledge: Knowledge, space: PlanSpace, workloads: Sequence[Workload]) -> Array:
    """Accuracies of the plans of any space, as the accuracies of known plans suggest.

    Where the space is the known one they are those known. Else a Gaussian process over the features that mean the same
    in every space (`autosplit.envs.features.PLAN_FEATURES`) is fitted on some of the known plans, drawn uniformly. What
    it says of another network on other data is a ranking, not a level: whoever uses it has to fit the level anew.

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
    surrogate = AccuracySurrogate(np.concatenate([known, plan_features(space, workloads)[:, shared]]))
    chosen = np.random.default_rng(0).permutation(len(known))[:_MOST]
    surrogate.fit(chosen, knowledge.accuracy[chosen])
    return surrogate.estimate()[len(known):]
