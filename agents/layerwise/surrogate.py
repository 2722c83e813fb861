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

__all__ = ["LayerSurrogate", "TrendKernel"]

_BOUNDS = {"trend": (1e-3, 1e2), "process": (1e-2, 1e2), "noise": (1e-5, 0.3), "length": (0.1, 50.0)}
_START = {"trend": 0.3, "process": 1.0, "noise": 1e-2, "length": 2.0}
_JITTER = 1e-9


@dataclass(frozen=True)
class TrendKernel:
    """Covariance of the log-odds of accuracies: a linear trend, a Matern 5/2 process, and noise.

    Inputs have a row a plan: logarithms of the shares of channels kept, group by group, then the other features.

    Attributes:
        groups: Number of groups.
        hyper: Logarithms of the variances of the trend of the groups, of the trend of all else, of the process and of
            the noise, then of the length scale of all groups together and of each other feature; shape (5 + others,).
    """

    groups: int
    hyper: Array

    def parts(self, inputs: Array) -> tuple[Array, Array]:
        """Inputs of the two trends: of the groups, and a constant with the other features."""
        constant = np.ones((len(inputs), 1))
        return inputs[:, :self.groups], np.concatenate((constant, inputs[:, self.groups:]), axis=1)

    def trend(self, left: Array, right: Array) -> Array:
        """Covariance by the two trends, shape (N, M)."""
        pairs = zip(self.parts(left), self.parts(right), np.exp(self.hyper[:2]), strict=True)
        total: Array = sum((scale * (a @ b.T) for a, b, scale in pairs), np.zeros((len(left), len(right))))
        return total

    def squares(self, left: Array, right: Array) -> Array:
        """Squared distances, shape (1 + others, N, M): those of all groups together, then each other feature's."""
        a, b = left[:, :self.groups], right[:, :self.groups]
        # |a - b|^2 = |a|^2 + |b|^2 - 2ab, which may come out slightly negative
        groups = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2 * a @ b.T
        others = (left[:, None, self.groups:] - right[None, :, self.groups:]) ** 2
        result: Array = np.concatenate((np.maximum(groups, 0.0)[None], np.moveaxis(others, 2, 0)))
        return result

    def process(self, squares: Array) -> tuple[Array, Array]:
        """Covariance by the process, and what its derivatives by the logarithms of the length scales are multiples of.

        Args:
            squares: As of `squares`, which do not depend on `hyper` and so are computed once for a whole fit.
        """
        scaled = np.tensordot(np.exp(-2 * self.hyper[4:]), squares, axes=1)
        distance, variance = np.sqrt(5.0 * scaled), np.exp(self.hyper[2])
        decayed = variance * np.exp(-distance)
        return decayed * (1 + distance + distance**2 / 3), decayed * (1 + distance) * 5.0 / 3.0

    def variance(self, inputs: Array) -> Array:
        """Variance of a measurement of each plan before any was taken, noise included, shape (N,)."""
        trends = zip(self.parts(inputs), np.exp(self.hyper[:2]), strict=True)
        rest: Array = np.full(len(inputs), np.exp(self.hyper[2]) + np.exp(self.hyper[3]))
        total: Array = sum((scale * (part**2).sum(axis=1) for part, scale in trends), rest)
        return total

    def loss(self, inputs: Array, squares: Array, targets: Array) -> tuple[float, Array]:
        """Negative log marginal likelihood, and its gradient by `hyper`.

        Rasmussen and Williams, "Gaussian processes for machine learning" (2006), equations 2.30 and 5.9.
        """
        trends = [np.exp(h) * (part @ part.T) for h, part in zip(self.hyper[:2], self.parts(inputs), strict=True)]
        process, slope = self.process(squares)
        noise = np.exp(self.hyper[3]) * np.eye(len(inputs))
        factor = cho_factor(trends[0] + trends[1] + process + noise + _JITTER * np.eye(len(inputs)), lower=True)
        weights = cho_solve(factor, targets)
        loss = 0.5 * targets @ weights + np.log(np.diag(factor[0])).sum()
        inner = cho_solve(factor, np.eye(len(inputs))) - np.outer(weights, weights)
        lengths = np.exp(-2 * self.hyper[4:])[:, None, None] * squares * slope
        gradient = [0.5 * (inner * part).sum() for part in (*trends, process, noise, *lengths)]
        return float(loss), np.array(gradient)


@dataclass(frozen=True)
class _Fitted:
    """What a prediction needs: kernel, points, their Cholesky factor and weights, and the scale of the targets."""

    kernel: TrendKernel
    points: Array
    factor: Array
    weights: Array
    mean: float
    deviation: float


class LayerSurrogate:
    """Estimates the accuracy of any plan from the plans measured so far.

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
            squares = TrendKernel(self._groups, self._hyper).squares(inputs, inputs)
            found = minimize(lambda hyper: TrendKernel(self._groups, hyper).loss(inputs, squares, targets), self._hyper,
                             method="L-BFGS-B", jac=True, bounds=self._bounds, options={"maxiter": self._iterations})
            self._hyper = found.x
            kernel = TrendKernel(self._groups, found.x)
            noise = (np.exp(self._hyper[3]) + _JITTER) * np.eye(len(inputs))
            covariance = kernel.trend(inputs, inputs) + kernel.process(squares)[0] + noise
            factor = np.linalg.cholesky(covariance).astype(np.float64)
            weights: Array = cho_solve((factor, True), targets)
        self._fitted = _Fitted(kernel, inputs, factor, weights, mean, deviation)

    def estimate(self, points: Array, ucb_weight: float | Array = 0.0) -> Array:
        """Accuracies, shape (N,), `ucb_weight` standard deviations above the median; one number, or one a plan.

        The deviation is that of a measurement of the plan, as in `autosplit.agents.surrogate`.
        """
        mean, deviation = self.logits(points)
        return accuracy_of(mean + ucb_weight * deviation)

    def logits(self, points: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the log-odds that a measurement of a plan would give, shape (N,) each.

        Raises:
            RuntimeError: Nothing was fitted yet.
        """
        if self._fitted is None:
            raise RuntimeError("fit the surrogate before it estimates")
        known, inputs = self._fitted, self._inputs(points)
        with threadpool_limits(limits=1):
            kernel = known.kernel
            cross = kernel.trend(inputs, known.points) + kernel.process(kernel.squares(inputs, known.points))[0]
            mean = cross @ known.weights
            explained = solve_triangular(known.factor, cross.T, lower=True)
            deviation = np.sqrt(np.maximum(kernel.variance(inputs) - (explained**2).sum(axis=0), 1e-12))
        return mean * known.deviation + known.mean, deviation * known.deviation

    def _inputs(self, points: Array) -> Array:
        # logarithms: keeping half as many channels costs about the same wherever one starts
        shares = np.log(points[:, :self._groups])
        return np.concatenate((shares, points[:, self._groups:]), axis=1)
