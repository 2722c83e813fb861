"""What the single and the vectorised environment share: scenario, evaluator, latency model, pools of conditions."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from autosplit.core.conditions import Conditions
from autosplit.core.errors import ConfigError
from autosplit.core.plan import Outcome, Plan, Workload
from autosplit.core.scenario import Scenario, load_scenario
from autosplit.envs.conditions import ConditionsSampler
from autosplit.envs.core import CoInferenceCore
from autosplit.evaluation.base import Evaluator
from autosplit.evaluation.objective import Objective, load_objective, score
from autosplit.latency.base import LatencyModel

__all__ = ["CoInferenceTask", "outcome_line"]


@dataclass(frozen=True)
class CoInferenceTask:
    """All that an environment is built from, and the pools that its episodes draw conditions from.

    Pool g serves the episodes g * `pool_episodes` to (g + 1) * `pool_episodes` - 1 of a copy, counted from its last
    seed. Without `pool_episodes`, pool 0 serves them all. A pool costs a call of the latency model over all plans:
    `docs/comparison.md` says how long that takes.

    Attributes:
        scenario: The scenario.
        evaluator: Who measures.
        latency_model: Gives the latency of all plans under a pool, in one call.
        objective: What a plan is worth.
        sampler: Where pools come from; the scenario's conditions are the only ones when left out.
        pool_size: Conditions in a pool.
        pool_seed: Seed of the pools.
        pool_episodes: Episodes of a copy after which it goes on to the next pool.
    """

    scenario: Scenario
    evaluator: Evaluator
    latency_model: LatencyModel
    objective: Objective
    sampler: ConditionsSampler | None = None
    pool_size: int = 256
    pool_seed: int = 0
    pool_episodes: int | None = None
    _latest: dict[int, CoInferenceCore] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.pool_size < 1:
            raise ConfigError(f"pool_size must be at least 1, got {self.pool_size}")
        if self.pool_episodes is not None and (self.sampler is None or self.pool_episodes < 1):
            raise ConfigError("pool_episodes must be at least 1 and needs a sampler to draw the next pool from")

    @classmethod
    def of(
        cls,
        scenario: Scenario | str = "default",
        evaluator: Evaluator | None = None,
        latency_model: LatencyModel | None = None,
        objective: Objective | str | None = None,
        sampler: ConditionsSampler | None = None,
        *,
        pool_size: int = 256,
        pool_seed: int = 0,
        pool_episodes: int | None = None,
    ) -> CoInferenceTask:
        """Build what is left out from the scenario; see `autosplit.envs.coinference.CoInferenceEnv`.

        Raises:
            ConfigError: The scenario or the objective cannot be read, or the pools make no sense.
        """
        found = load_scenario(scenario) if isinstance(scenario, str) else scenario
        chosen = found.objective if objective is None else objective
        return cls(
            scenario=found,
            evaluator=_live_evaluator(found) if evaluator is None else evaluator,
            latency_model=_latency_model(found) if latency_model is None else latency_model,
            objective=load_objective(chosen) if isinstance(chosen, str) else chosen,
            sampler=sampler, pool_size=pool_size, pool_seed=pool_seed, pool_episodes=pool_episodes)

    @cached_property
    def workloads(self) -> tuple[Workload, ...]:
        """Work and predicted payload of every plan, in the order of `PlanSpace.plans()`."""
        return tuple(self.evaluator.workloads(self.evaluator.space.plans()))

    @cached_property
    def _first(self) -> CoInferenceCore:
        return CoInferenceCore.build(self.evaluator.space, self.workloads, self.latency_model, self.pool())

    def core(self, pool: int = 0) -> CoInferenceCore:
        """The plans under a pool; the first and the latest pool asked for are kept."""
        if pool == 0:
            return self._first
        if pool not in self._latest:
            core = self._first.under(self.pool(pool), self.workloads, self.latency_model)
            self._latest.clear()
            self._latest[pool] = core
        return self._latest[pool]

    def measured(self, plan: Plan, conditions: Conditions) -> Outcome:
        """Measure a plan and say what it is worth under these conditions."""
        return score(list(self.evaluator.measure([plan])), self.latency_model, self.objective, conditions)[0]

    def pool(self, number: int = 0) -> list[Conditions]:
        """The conditions of a pool, drawn anew."""
        if self.sampler is None:
            return [self.scenario.conditions]
        return self.sampler.pool(self.pool_size, self.pool_seed if number == 0 else [self.pool_seed, number])


def outcome_line(outcome: Outcome) -> str:
    """A finished plan in words: what environments show as text."""
    verdict = "in time" if outcome.feasible else "too late"
    return (f"{outcome.plan.label}: accuracy {outcome.measurement.accuracy:.3f}, p50 {outcome.latency.p50_ms:.1f} ms, "
            f"p95 {outcome.latency.p95_ms:.1f} of {outcome.budget_ms:g} ms ({verdict}), reward {outcome.reward:.3f}")


def _live_evaluator(scenario: Scenario) -> Evaluator:
    """The live evaluator; imported here because it brings torch, data sets and training along."""
    from autosplit.evaluation.live import LiveEvaluator

    evaluator: Evaluator = LiveEvaluator.from_scenario(scenario)
    return evaluator


def _latency_model(scenario: Scenario) -> LatencyModel:
    from autosplit.latency import load_latency_model

    model: LatencyModel = load_latency_model(scenario.latency_model)
    return model
