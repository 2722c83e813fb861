"""Rewards by name, and what "the best plan" means.

A reward is arithmetic on an accuracy and a latency breakdown, vectorised over P plans and C conditions, so
that one measurement yields a training sample for every conditions vector. Higher is better, every reward is
bounded, and all but the Lagrangian share one shape (`DeadlineObjective`):

    reward = P(in time) * value + (1 - P(in time)) * worst - slope * tardiness

`value` is what a plan is worth when its answer arrives in time, `worst` the least that `value` can be, and
`tardiness` in [0, 1] grows with the logarithm of p95 / budget. A hopeless plan (never in time) thus scores
below `worst`, a plan in time never does, and between two late plans the less late one is better, which gives
learning a gradient where no plan is in time.

An objective has exactly the options that its formula uses, and any other is refused.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from autosplit.core.arrays import Array
from autosplit.core.errors import ConfigError, PluginError, UnknownNameError
from autosplit.core.held import is_held, look_up
from autosplit.core.measurement import Outcome
from autosplit.core.plugins import Registry, one_line
from autosplit.latency.base import LatencyBreakdown

if TYPE_CHECKING:
    from autosplit.core.conditions import Conditions

__all__ = ["AmcReward", "DeadlineObjective", "FunctionObjective", "InTimeAccuracy", "LagrangianReward",
           "LatencyUnderFloor", "Objective", "best_outcome", "list_objectives", "load_objective", "tardiness"]

_LATEST = 1000.0
"""Multiple of the budget beyond which a plan counts as late as can be."""

_LONGEST_US = 1e9
"""Latency, microseconds, at which the logarithmic rewards reach their bound (1,000 s)."""

_MOST_MJ = 1e6
"""Energy, millijoules, at which the energy term reaches its bound (1 kJ an inference)."""


def tardiness(p95_ms: Array, budget_ms: Array) -> Array:
    """How far beyond the budget, in [0, 1]: 0 within it, 1 from 1,000 times the budget on, linear in the log."""
    excess = np.log(np.maximum(p95_ms / budget_ms, 1.0)) / math.log(_LATEST)
    return np.minimum(excess, 1.0)


@dataclass(frozen=True)
class Objective(ABC):
    """What a search maximises. A new objective overrides `_reward`; its fields are its options.

    Attributes:
        energy_weight: Price of energy: this times log(1 + mJ) / log(1 + 10^6), at most 1, is taken from the value.
    """

    name: ClassVar[str]

    energy_weight: float = 0.0

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"objective {self.name!r}: {option.name} must be finite and at least 0, got {value}")

    @property
    def spec(self) -> str:
        """The objective with all its options, as `load_objective` reads it."""
        return f"{self.name}:" + ",".join(f"{o.name}={getattr(self, o.name)!r}" for o in fields(self))

    def reward(self, accuracy: Array, breakdown: LatencyBreakdown, conditions: Sequence[Conditions]) -> Array:
        """Reward of every plan under every set of conditions.

        Args:
            accuracy: Accuracy of each plan in [0, 1], shape (P,), or under each of the conditions, shape (P, C).
                Optimistic estimates may go slightly beyond.
            breakdown: Latency of the P plans under the C conditions.
            conditions: The C conditions, for their budgets.

        Returns:
            Shape (P, C), finite.

        Raises:
            ValueError: The shapes do not agree.
        """
        accuracy = np.asarray(accuracy, dtype=np.float64)
        shape = (accuracy.shape[0], len(conditions)) if accuracy.ndim else None
        if breakdown.p95_ms.shape != shape or accuracy.shape not in (shape, shape[:1]):
            raise ValueError(f"accuracy {accuracy.shape} and {len(conditions)} conditions do not fit a "
                             f"latency of shape {breakdown.p95_ms.shape}")
        budget_ms = np.array([c.budget_ms for c in conditions], dtype=np.float64)
        by_condition = accuracy if accuracy.ndim == len(breakdown.p95_ms.shape) else accuracy[:, None]
        return self._reward(by_condition, breakdown, budget_ms[None, :])

    @abstractmethod
    def _reward(self, accuracy: Array, breakdown: LatencyBreakdown, budget_ms: Array) -> Array:
        """Rewards, shape (P, C); accuracies have shape (P, 1) or (P, C), deadlines (1, C)."""

    def _energy(self, breakdown: LatencyBreakdown) -> Array:
        share = np.log1p(breakdown.energy_mj) / math.log1p(_MOST_MJ)
        return self.energy_weight * np.minimum(share, 1.0)


@dataclass(frozen=True)
class DeadlineObjective(Objective):
    """An answer counts if it is in time. A subclass overrides `_value` and states its least value in `worst`.

    Attributes:
        slope: Reward lost from just late to hopelessly late.
    """

    worst: ClassVar[float] = 0.0

    slope: float = 0.5

    def _reward(self, accuracy: Array, breakdown: LatencyBreakdown, budget_ms: Array) -> Array:
        value = self._value(accuracy, breakdown) - self._energy(breakdown)
        worst = self.worst - self.energy_weight
        late = tardiness(breakdown.p95_ms, budget_ms)
        return worst + breakdown.in_time * (value - worst) - self.slope * late

    @abstractmethod
    def _value(self, accuracy: Array, breakdown: LatencyBreakdown) -> Array:
        """Worth of a plan whose answer is in time, before energy; (P, 1) or (P, C) both ways."""


@dataclass(frozen=True)
class InTimeAccuracy(DeadlineObjective):
    """Expected in-time accuracy, accuracy x P(latency <= budget); an answer that is late is worth nothing.

    Range [-slope - latency_tie_break, 1]: at least 0.95 x accuracy - latency_tie_break for a feasible plan, below 0 for
    a hopeless one.

    Attributes:
        latency_tie_break: Accuracy given up for an answer at once instead of one whose median is at the deadline:
            between plans whose accuracies cannot be told apart, the faster one is better.
    """

    name: ClassVar[str] = "in-time-accuracy"

    latency_tie_break: float = 0.002

    def _reward(self, accuracy: Array, breakdown: LatencyBreakdown, budget_ms: Array) -> Array:
        waiting = np.minimum(breakdown.p50_ms / budget_ms, 1)
        return super()._reward(accuracy, breakdown, budget_ms) - self.latency_tie_break * waiting

    def _value(self, accuracy: Array, breakdown: LatencyBreakdown) -> Array:  # noqa: ARG002
        return accuracy


@dataclass(frozen=True)
class LagrangianReward(Objective):
    """Accuracy minus a price on the logarithm of the excess: the soft constraint of MnasNet-like searches.

    accuracy - price x ln(max(1, p95 / budget)), the logarithm cut at 1,000 times the budget. With price 1 a plan
    later than e times its budget is below every plan in time; a smaller excess may be worth its accuracy.

    Attributes:
        price: Accuracy that a factor e of tardiness costs.
    """

    name: ClassVar[str] = "lagrangian"
    price: float = 1.0

    def _reward(self, accuracy: Array, breakdown: LatencyBreakdown, budget_ms: Array) -> Array:
        late = tardiness(breakdown.p95_ms, budget_ms) * math.log(_LATEST)
        return accuracy - self._energy(breakdown) - self.price * late


@dataclass(frozen=True)
class AmcReward(DeadlineObjective):
    """AMC's reward, -error x log(cost) (He et al. 2018, arXiv 1802.03494), with latency as the cost.

    AMC counts FLOPs, the cost of its problem; of a split network FLOPs on the device say nothing of the channel, so
    the cost here is the median end-to-end latency in microseconds. Scaled by its bound to [-1, 0] (AMC's argmax is
    unchanged by a factor), and below -1 out of time, where AMC would have clipped the action.
    """

    name: ClassVar[str] = "amc"
    worst: ClassVar[float] = -1.0

    def _value(self, accuracy: Array, breakdown: LatencyBreakdown) -> Array:
        return -np.clip(1.0 - accuracy, 0.0, 1.0) * _log_share(breakdown.p50_ms)


@dataclass(frozen=True)
class LatencyUnderFloor(DeadlineObjective):
    """The fastest plan whose accuracy reaches a floor.

    In (0, 1] at or above the floor, falling with the logarithm of the median latency; below the floor minus the
    missing share of the floor, in [-1, 0).

    Attributes:
        accuracy_floor: Least accuracy that is acceptable, in (0, 1].
    """

    name: ClassVar[str] = "latency"
    worst: ClassVar[float] = -1.0
    accuracy_floor: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.accuracy_floor <= 1:
            raise ConfigError(f"objective 'latency': accuracy_floor must lie in (0, 1], got {self.accuracy_floor}")

    def _value(self, accuracy: Array, breakdown: LatencyBreakdown) -> Array:
        missing = (self.accuracy_floor - accuracy) / self.accuracy_floor
        return np.where(missing <= 0, 1.0 - _log_share(breakdown.p50_ms), -np.clip(missing, 0.0, 1.0))


def _log_share(latency_ms: Array) -> Array:
    """log(1 + microseconds) as a share of its bound, in [0, 1]."""
    return np.minimum(np.log1p(latency_ms * 1e3) / math.log1p(_LONGEST_US), 1.0)


@dataclass(frozen=True)
class FunctionObjective(Objective):
    """A function of the user's as an objective.

    Attributes:
        function: `(accuracy, latency, budget_ms) -> reward`: accuracies of shape (P, 1) or (P, C), a
            `LatencyBreakdown` of arrays (P, C) and deadlines (1, C); rewards of shape (P, C), higher is better.
        title: What it is called.
    """

    name: ClassVar[str] = "function"

    energy_weight: float = 0.0
    function: Callable[[Array, LatencyBreakdown, Array], Any] = field(default=lambda accuracy, *_: accuracy)
    title: str = ""

    def __post_init__(self) -> None:
        """Nothing to check before it is called."""

    @property
    def spec(self) -> str:
        """Its name."""
        return self.title

    def _reward(self, accuracy: Array, breakdown: LatencyBreakdown, budget_ms: Array) -> Array:
        shape = breakdown.p95_ms.shape
        try:
            found = np.broadcast_to(np.asarray(self.function(accuracy, breakdown, budget_ms), dtype=np.float64), shape)
        except Exception as e:
            raise PluginError(f"objective {self.title!r} raised {one_line(e)}, or gives no array of shape {shape}; "
                              "give a reward for each plan and each of the conditions") from e
        if not np.isfinite(found).all():
            raise PluginError(f"objective {self.title!r} gives rewards that are not finite; bound it")
        return found


_PLUGINS = Registry(kind="objective", group="autosplit.objectives", builtin={})
_OBJECTIVES: dict[str, type[Objective]] = {
    c.name: c for c in (InTimeAccuracy, LagrangianReward, AmcReward, LatencyUnderFloor)
}


def list_objectives() -> list[str]:
    """Names that `load_objective` knows, sorted."""
    return sorted(_OBJECTIVES)


def load_objective(name: str) -> Objective:
    """An objective by its name, with options after a colon: `latency:accuracy_floor=0.95,energy_weight=0.1`.

    Args:
        name: A name of `list_objectives()` with or without options; or `package.module:Name` or
            `path/to/file.py:Name` of an `Objective`, or of a function as `FunctionObjective` takes it.

    Raises:
        PluginError: The user's object is no objective.
        UnknownNameError: No objective has this name, or it has no such option.
        ConfigError: An option is not a number or out of range.
    """
    if is_held(name):
        return _of_object(look_up("objective", name, "objective"), name)
    bare, colon, text = name.partition(":")
    if bare not in _OBJECTIVES:
        if (colon and "=" not in text) or name in _PLUGINS.names():
            return _of_object(_PLUGINS.load(name), name)
        raise UnknownNameError("objective", bare, _OBJECTIVES)
    kind = _OBJECTIVES[bare]
    known = [f.name for f in fields(kind)]
    options: dict[str, float] = {}
    for item in filter(None, text.split(",")):
        key, _, value = (part.strip() for part in item.partition("="))
        if key not in known:
            raise UnknownNameError(f"option of objective {bare!r}", key, known)
        try:
            options[key] = float(value)
        except ValueError as e:
            raise ConfigError(f"objective {bare!r}: {key} must be a number, got {value!r}") from e
    return kind(**options)


def _of_object(found: Any, name: str) -> Objective:
    """An objective of the user's: a class, an instance or a function."""
    if isinstance(found, type) and issubclass(found, Objective):
        found = found()
    if isinstance(found, Objective):
        return found
    if not callable(found):
        raise PluginError(f"objective {name!r} is a {type(found).__name__}; it must be an Objective, or a function "
                          "(accuracy, latency, budget_ms) -> reward")
    return FunctionObjective(function=found, title=name)


def best_outcome(outcomes: Iterable[Outcome]) -> Outcome:
    """The feasible outcome of the highest reward; if none is feasible, the one nearest to its budget.

    Ties go to the higher accuracy, then to the one that came first.

    Raises:
        ValueError: There are no outcomes.
    """
    ranked = list(outcomes)
    if not ranked:
        raise ValueError("no outcomes to choose from")

    def rank(outcome: Outcome) -> tuple[bool, float, float]:
        value = outcome.reward if outcome.feasible else -outcome.latency.p95_ms / outcome.budget_ms
        return outcome.feasible, value, outcome.measurement.accuracy

    return max(ranked, key=rank)
