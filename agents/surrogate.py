"""An accuracy model with uncertainty, fitted on the plans measured so far.

A Gaussian process on the log-odds of the accuracy, Matern 5/2 with one length scale a feature. On a synthetic table
of 1,453 plans it ranks unmeasured plans clearly better than an ensemble of extremely randomised trees from 25
measurements on. Figures: `docs/comparison.md`; the script that makes them: `tests/agents/compare_surrogates.py`.

*Deviation* means one thing in all surrogates: the standard deviation, in log-odds, of what a measurement of the plan
would give. So it has two parts: what is not known of the smooth function of the features, which measurements of other
plans reduce, and the noise, which is what plans of nearly equal features differ in. For a plan that was measured its
measurement is known, and agents use that instead.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from autosplit.agents.design import plan_points
from autosplit.agents.logit import accuracy_of, logit
from autosplit.core.arrays import Array
from autosplit.envs.tree import IntArray

__all__ = ["AccuracySurrogate"]

_RIDGE = (10.0, 1.0)
"""Weight of the prior's own slope and level, in measurements."""


class AccuracySurrogate:
    """Estimates the accuracy of every plan of a space from the plans measured so far.

    Deterministic; each fit starts from the hyperparameters of the one before.

    Args:
        features: `plan_features` of the P plans. Without the one-hot of the split point, which `plan_points` leaves
            out, plans are ranked as well, with a fraction of the length scales.
        iterations: Steps of the optimiser of the marginal likelihood, in each fit.
        prior: Accuracies expected before any measurement, shape (P,). Their log-odds, shifted and stretched to fit what
            was measured, are the mean of the process.

    Attributes:
        points: `autosplit.agents.design.plan_points` of the features, shape (P, D).
    """

    def __init__(self, features: Array, iterations: int = 25, prior: Array | None = None) -> None:
        self.points = plan_points(features)
        self._iterations = iterations
        scales = Matern(np.ones(max(1, self.points.shape[1])), (0.05, 20.0), nu=2.5)
        self._kernel = ConstantKernel(1.0, (1e-2, 1e2)) * scales + WhiteKernel(1e-2, (1e-5, 1e-1))
        self._prior = None if prior is None else logit(prior)
        self._mean = np.zeros(len(features)) if self._prior is None else self._prior
        self._deviation = np.ones(len(features))

    def fit(self, plans: IntArray, accuracy: Array) -> None:
        """Fit on measured plans.

        Args:
            plans: Numbers of the plans, shape (n,), n at least 2.
            accuracy: Their accuracies, shape (n,).
        """
        if not self.points.shape[1]:
            return  # one plan, or plans that no feature tells apart
        logits = logit(accuracy)
        expected = np.zeros(len(self._mean))
        if self._prior is not None:
            # the mean function is slope times the prior's log-odds plus a shift, by ridge regression to (1, 0): another
            # network on other data is better or worse by some level, and spreads its plans more or less
            here = self._prior[plans]
            design = np.stack([here, np.ones(len(here))], axis=1)
            slope, shift = np.linalg.solve(design.T @ design + np.diag(_RIDGE), design.T @ (logits - here))
            expected = self._prior * (1 + slope) + shift

        def maximise(objective: Callable[..., Any], start: Array, bounds: Array) -> tuple[Array, float]:
            found = minimize(objective, start, method="L-BFGS-B", jac=True, bounds=bounds,
                             options={"maxiter": self._iterations})
            return found.x, float(found.fun)

        process = GaussianProcessRegressor(self._kernel, normalize_y=True, optimizer=maximise)
        # one thread: the matrices are small, and threads that wait for each other cost most on a busy machine
        with warnings.catch_warnings(), threadpool_limits(limits=1):
            warnings.simplefilter("ignore", ConvergenceWarning)  # a length scale at its bound: an irrelevant feature
            process.fit(self.points[plans], logits - expected[plans])
            rest, self._deviation = process.predict(self.points, return_std=True)
        self._mean = expected + rest
        self._kernel = process.kernel_

    def estimate(self, ucb_weight: float = 0.0) -> Array:
        """Accuracies of all plans, shape (P,), `ucb_weight` standard deviations of a measurement above the median."""
        return accuracy_of(self._mean + ucb_weight * self._deviation)
