"""What all environments share: scenario, evaluator, latency model, objective, pools of conditions."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypedDict

from autosplit.core.conditions import Conditions
from autosplit.core.errors import ConfigError
from autosplit.core.measurement import Outcome, Workload
from autosplit.core.plan import Plan
from autosplit.core.scenario import Scenario, load_scenario
from autosplit.envs.conditions import ConditionsSampler
from autosplit.envs.core import CoInferenceCore
from autosplit.evaluation.base import Evaluator
from autosplit.evaluation.objective import Objective, load_objective
from autosplit.evaluation.scorer import score
from autosplit.latency.base import LatencyModel

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["CoInferenceTask", "TaskOptions", "outcome_line"]


class TaskOptions(TypedDict, total=False):
    """Arguments that every environment takes by name. Each may be left out.

    Attributes:
        scenario: A scenario, the name of a packaged one, or the path of a YAML file; `default` when left out.
        evaluator: Measures plans; built from the scenario (backbone, data set and supernet) when left out.
        latency_model: Gives the latency of all plans under a pool, in one call; the scenario's when left out.
        objective: An objective or its name; the scenario's when left out.
        sampler: Where conditions come from; the scenario's conditions only, when left out.
        pool_size: Conditions that are drawn from the sampler for a pool; 256 when left out.
        pool_seed: Seed of the pools; 0 when left out.
        pool_episodes: Episodes of a copy after which the next pool is drawn; one pool serves all when left out.
    """

    scenario: Scenario | str
    evaluator: Evaluator | None
    latency_model: LatencyModel | None
    objective: Objective | str | None
    sampler: ConditionsSampler | None
    pool_size: int
    pool_seed: int
    pool_episodes: int | None


@dataclass(frozen=True)
class CoInferenceTask:
    """All that an environment is built from, and the pools that its episodes draw conditions from.

    The attributes are those of `TaskOptions`, with what was left out built from the scenario.

    Pool g serves the episodes g * `pool_episodes` to (g + 1) * `pool_episodes` - 1 of a copy, counted from its last
    seed. Without `pool_episodes`, pool 0 serves them all. A pool costs a call of the latency model over all plans:
    `docs/comparison.md` says how long that takes.
    """

    scenario: Scenario
    evaluator: Evaluator
    latency_model: LatencyModel
    objective: Objective
    sampler: ConditionsSampler | None = None
    pool_size: int = 256
    pool_seed: int = 0
    pool_episodes: int | None = None
    _cores: dict[int, CoInferenceCore] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.pool_size < 1:
            raise ConfigError(f"pool_size must be at least 1, got {self.pool_size}")
        if self.pool_episodes is not None and (self.sampler is None or self.pool_episodes < 1):
            raise ConfigError("pool_episodes must be at least 1 and needs a sampler to draw the next pool from")

    @classmethod
    def of(cls, **options: Unpack[TaskOptions]) -> CoInferenceTask:
        """Build what is left out from the scenario.

        Raises:
            ConfigError: The scenario or the objective cannot be read, or the pools make no sense.
        """
        named = options.get("scenario", "default")
        scenario = load_scenario(named) if isinstance(named, str) else named
        evaluator, model = options.get("evaluator"), options.get("latency_model")
        objective = options.get("objective") or scenario.objective
        # imported only where they are needed: the live evaluator brings torch, data sets and training along
        if evaluator is None:
            from autosplit.evaluation.live import LiveEvaluator

            evaluator = LiveEvaluator.from_scenario(scenario)
        if model is None:
            from autosplit.latency import load_latency_model

            model = load_latency_model(scenario.latency_model)
        return cls(scenario, evaluator, model, load_objective(objective) if isinstance(objective, str) else objective,
                   options.get("sampler"), options.get("pool_size", 256), options.get("pool_seed", 0),
                   options.get("pool_episodes"))

    @cached_property
    def workloads(self) -> tuple[Workload, ...]:
        """Work and predicted payload of every plan, in the order of `PlanSpace.plans()`."""
        return tuple(self.evaluator.workloads(self.evaluator.space.plans()))

    def core(self, pool: int = 0) -> CoInferenceCore:
        """The plans under a pool; the first and the latest pool asked for are kept."""
        if not self._cores:
            space = self.evaluator.space
            self._cores[0] = CoInferenceCore.build(space, self.workloads, self.latency_model, self.pool())
        if pool not in self._cores:
            first = self._cores[0]
            core = first.under(self.pool(pool), self.workloads, self.latency_model)
            self._cores.clear()  # a core of many plans takes much memory
            self._cores.update({0: first, pool: core})
        return self._cores[pool]

    def measured(self, plan: Plan, conditions: Conditions) -> Outcome:
        """Measure a plan and score it under these conditions."""
        return score(list(self.evaluator.measure([plan])), self.latency_model, self.objective, conditions)[0]

    def pool(self, number: int = 0) -> list[Conditions]:
        """The conditions of a pool, drawn anew."""
        if self.sampler is None:  # a pool of one: the scenario itself
            return [self.scenario.conditions]
        return self.sampler.pool(self.pool_size, self.pool_seed if number == 0 else [self.pool_seed, number])


def outcome_line(outcome: Outcome) -> str:
    """A finished plan as one line of text, for `render`."""
    verdict = "in time" if outcome.feasible else "too late"
    return (f"{outcome.plan.label}: accuracy {outcome.measurement.accuracy:.3f}, p50 {outcome.latency.p50_ms:.1f} ms, "
            f"p95 {outcome.latency.p95_ms:.1f} of {outcome.budget_ms:g} ms ({verdict}), reward {outcome.reward:.3f}")
