"""An accuracy model with uncertainty for plans that are pruned layer by layer.

A Gaussian process on the log-odds of the accuracy, over the logarithms of the shares of channels that are kept, group
by group, and features of codec and split point. It is the sum of a linear trend and a Matern 5/2 process with one
length scale for all groups: a search has too few measurements to find a dozen of them. scikit-learn's kernels tie no
length scales, hence this one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from autosplit.agents.logit import accuracy_of, logit
from autosplit.core.arrays import Array

__all__ = ["LayerSurrogate"]

_BOUNDS = {"trend": (1e-3, 1e2), "process": (1e-2, 1e2), "noise": (1e-5, 0.3), "length": (0.1, 50.0)}
_START = {"trend": 0.3, "process": 1.0, "noise": 1e-2, "length": 2.0}
_JITTER = 1e-9


@dataclass(frozen=True)
class _Fitted:
    """What predicting takes: the points, their Cholesky factor and weights, and the scale of the targets."""

    points: Array
    factor: Array
    weights: Array
    mean: float
    deviation: float


class LayerSurrogate:
    """Accuracy of any plans, estimated from some.

    Deterministic; each fit starts from the hyperparameters of the one before.

    Args:
        groups: Number of features, the first ones, that are shares of channels kept, in (0, 1].
        others: Number of features that follow, in [0, 1]; each has a length scale of its own.
        iterations: Steps of the optimiser of the marginal likelihood, in each fit.
    """

    def __init__(self, groups: int, others: int = 0, iterations: int = 40) -> None:
        self._groups, self._others, self._iterations = groups, others, iterations
        names = ["trend", "trend", "process", "noise", "length", *["length"] * others]
        self._bounds = np.log([_BOUNDS[name] for name in names])
        self._hyper: Array = np.log([_START[name] for name in names])
        self._fitted: _Fitted | None = None

    def fit(self, points: Array, accuracy: Array) -> None:
        """Fit on measured plans.

        Args:
            points: Their features, shape (n, groups + others), n at least 2.
            accuracy: Their accuracies, shape (n,).
        """
        values = logit(accuracy)
        mean, deviation = float(values.mean()), float(values.std()) or 1.0
        inputs, targets = self._inputs(points), (values - mean) / deviation
        # one thread: the matrices are small, and threads that wait for each other cost most on a busy machine
        with threadpool_limits(limits=1):
            squares = self._squares(inputs, inputs)
            found = minimize(self._loss, self._hyper, args=(inputs, squares, targets), method="L-BFGS-B", jac=True,
                             bounds=self._bounds, options={"maxiter": self._iterations})
            self._hyper = found.x
            noise = (np.exp(self._hyper[3]) + _JITTER) * np.eye(len(inputs))
            covariance = self._trend(inputs, inputs) + self._process(squares)[0] + noise
            factor = np.linalg.cholesky(covariance).astype(np.float64)
            weights: Array = cho_solve((factor, True), targets)
        self._fitted = _Fitted(inputs, factor, weights, mean, deviation)

    def estimate(self, points: Array, ucb_weight: float | Array = 0.0) -> Array:
        """Accuracies, shape (N,), `ucb_weight` standard deviations above the median; one number, or one a plan."""
        mean, deviation = self.logits(points)
        return accuracy_of(mean + ucb_weight * deviation)

    def logits(self, points: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the log-odds of the accuracy, shape (N,) each.

        Raises:
            RuntimeError: Nothing was fitted yet.
        """
        if self._fitted is None:
            raise RuntimeError("fit the surrogate before it estimates")
        known, inputs = self._fitted, self._inputs(points)
        with threadpool_limits(limits=1):
            cross = self._trend(inputs, known.points) + self._process(self._squares(inputs, known.points))[0]
            mean = cross @ known.weights
            explained = solve_triangular(known.factor, cross.T, lower=True)
            trends = zip(self._parts(inputs), np.exp(self._hyper[:2]), strict=True)
            process: Array = np.full(len(inputs), np.exp(self._hyper[2]))
            # the variance before any measurement: the kernel of each plan with itself
            prior = sum((scale * (part**2).sum(axis=1) for part, scale in trends), process)
            deviation = np.sqrt(np.maximum(prior - (explained**2).sum(axis=0), 1e-12))
        return mean * known.deviation + known.mean, deviation * known.deviation

    # --- the kernel -------------------------------------------------------------------------------------------------

    def _inputs(self, points: Array) -> Array:
        # logarithms: keeping half as many channels costs about the same wherever one starts
        shares = np.log(points[:, :self._groups])
        return np.concatenate((shares, points[:, self._groups:]), axis=1)

    def _parts(self, inputs: Array) -> tuple[Array, Array]:
        """Inputs of the two trends: of the groups, and a constant with the other features."""
        constant = np.ones((len(inputs), 1))
        return inputs[:, :self._groups], np.concatenate((constant, inputs[:, self._groups:]), axis=1)

    def _trend(self, left: Array, right: Array) -> Array:
        pairs = zip(self._parts(left), self._parts(right), np.exp(self._hyper[:2]), strict=True)
        total: Array = sum((scale * (a @ b.T) for a, b, scale in pairs), np.zeros((len(left), len(right))))
        return total

    def _squares(self, left: Array, right: Array) -> Array:
        """Squared distances, shape (1 + others, N, M): those of all groups together, then each other feature's."""
        a, b = left[:, :self._groups], right[:, :self._groups]
        # |a - b|^2 = |a|^2 + |b|^2 - 2ab, which may come out slightly negative
        groups = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2 * a @ b.T
        others = (left[:, None, self._groups:] - right[None, :, self._groups:]) ** 2
        result: Array = np.concatenate((np.maximum(groups, 0.0)[None], np.moveaxis(others, 2, 0)))
        return result

    def _process(self, squares: Array) -> tuple[Array, Array]:
        """The Matern 5/2 kernel, and what the derivatives by the logarithms of the length scales are multiples of."""
        scaled = np.tensordot(np.exp(-2 * self._hyper[4:]), squares, axes=1)
        distance, variance = np.sqrt(5.0 * scaled), np.exp(self._hyper[2])
        decayed = variance * np.exp(-distance)
        return decayed * (1 + distance + distance**2 / 3), decayed * (1 + distance) * 5.0 / 3.0

    def _loss(self, hyper: Array, inputs: Array, squares: Array, targets: Array) -> tuple[float, Array]:
        """Negative log marginal likelihood, and its gradient by the logarithms of the hyperparameters."""
        self._hyper = hyper
        trends = [np.exp(h) * (part @ part.T) for h, part in zip(hyper[:2], self._parts(inputs), strict=True)]
        process, slope = self._process(squares)
        noise = np.exp(hyper[3]) * np.eye(len(inputs))
        factor = cho_factor(trends[0] + trends[1] + process + noise + _JITTER * np.eye(len(inputs)), lower=True)
        weights = cho_solve(factor, targets)
        loss = 0.5 * targets @ weights + np.log(np.diag(factor[0])).sum()
        inner = cho_solve(factor, np.eye(len(inputs))) - np.outer(weights, weights)
        lengths = np.exp(-2 * hyper[4:])[:, None, None] * squares * slope
        gradient = [0.5 * (inner * part).sum() for part in (*trends, process, noise, *lengths)]
        return float(loss), np.array(gradient)
