"""The contract of agents, and the small problem that they are tried on.

Example:
    A test file of an agent::

        from autosplit.testing import AgentContract

        class TestMine(AgentContract):
            @pytest.fixture
            def build(self):
                return MyAgent
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from autosplit.agents.base import Agent, SearchProblem
from autosplit.agents.design import InitialDesign
from autosplit.agents.loop import run_search
from autosplit.core.measurement import Measurement, Outcome, StageCost, Workload
from autosplit.core.plan import INPUT, OUTPUT, CodecSetting, Plan
from autosplit.evaluation.cached import CachedEvaluator
from autosplit.evaluation.objective import load_objective
from autosplit.evaluation.scorer import Scorer, score
from autosplit.evaluation.table import TableEvaluator
from autosplit.latency.analytic import AnalyticLatencyModel
from autosplit.testing.latency import make_conditions

__all__ = ["AgentCase", "AgentContract"]

_SPLITS = {"stem": 0.5e6, "layer2": 4e6}  # multiply-accumulates of the head
_WHOLE = 12e6
_BUDGET_MS = 78.0
_HOPELESS_MS = 1.0
_DESIGN = InitialDesign(size=4, guesses=2)  # short, so that most of a test is the agent's own


@dataclass(frozen=True)
class AgentCase:
    """A small search: 40 plans by formula, 26 of them in time, measured by lookup.

    Attributes:
        plans: The plans.
        budget_ms: Deadline, milliseconds.
        seed: Seed of the agent.
        surprise: Share by which a measured payload may differ from the predicted one.
    """

    plans: tuple[Plan, ...]
    budget_ms: float = _BUDGET_MS
    seed: int = 0
    surprise: float = 0.0

    @classmethod
    def usual(cls, budget_ms: float = _BUDGET_MS, seed: int = 0, surprise: float = 0.0) -> AgentCase:
        """Images at `input`, codes at two split points with and without pruning, a raw feature, all on the device."""
        images = [CodecSetting(kind="png"), *(CodecSetting(kind="jpeg", quality=quality) for quality in (30, 75))]
        codes = [CodecSetting(kind="code", width=w, grid=g, bits=b) for w in (2, 8) for g in (4, 2) for b in (2, 8)]
        plans = [Plan(split=INPUT, codec=codec) for codec in images]
        for split in _SPLITS:
            settings = [*codes, CodecSetting(kind="raw")] if split == "layer2" else codes
            plans += [Plan(split=split, sparsity=s, codec=codec) for s in (0.0, 0.5) for codec in settings]
        plans += [Plan(split=OUTPUT, sparsity=s, codec=CodecSetting(kind="none")) for s in (0.0, 0.5, 0.875)]
        return cls(tuple(plans), budget_ms, seed, surprise)

    @property
    def evaluator(self) -> TableEvaluator:
        """Measures the plans."""
        return TableEvaluator(_measurement(plan, self.surprise) for plan in self.plans)

    @property
    def problem(self) -> SearchProblem:
        """What the agent is given."""
        predicted = TableEvaluator(_measurement(plan, 0.0) for plan in self.plans)
        whole = SearchProblem.of(predicted, AnalyticLatencyModel(), load_objective("in-time-accuracy"),
                                 make_conditions("sub-ghz-fsk-50k", self.budget_ms), self.seed)
        return replace(whole, design=_DESIGN)

    def outcomes(self, problem: SearchProblem, plans: Sequence[Plan]) -> list[Outcome]:
        """Measure plans."""
        return score(self.evaluator.measure(plans), problem.latency_model, problem.objective, problem.conditions)

    def search(self, agent: Agent, evaluations: int = 1000, batch: int = 4,
               between: Callable[[Outcome], None] | None = None) -> list[Plan]:
        """Plans in the order in which an agent has them measured.

        Args:
            agent: Built for `problem`.
            evaluations: Plans to measure at most.
            batch: Plans to ask for at a time.
            between: Called between a measurement and the next proposal.
        """
        p = agent.problem
        outcomes = run_search(agent, self.evaluator, Scorer(p.latency_model, p.objective, p.conditions),
                              evaluations=evaluations, batch=batch, on_outcome=between)
        return [o.plan for o in outcomes]

    def resumed(self, agent: Agent, evaluations: int, known: Sequence[Outcome] = ()) -> tuple[list[Outcome], int]:
        """Outcomes of a search of which some were measured before it was killed, and how many were measured now."""
        p, cached = agent.problem, CachedEvaluator(self.evaluator, known=[o.measurement for o in known])
        outcomes = run_search(agent, cached, Scorer(p.latency_model, p.objective, p.conditions),
                              evaluations=evaluations, batch=4)
        return outcomes, len(cached.measurements) - len(known)


class AgentContract:
    """What every `autosplit.agents.base.Agent` must do; a subclass gives the fixture `build`.

    An agent that learns must do so within `evaluations` measurements, the first four of which are the initial design,
    or these tests see no more than its beginning: give a function that builds it with settings for a short search.

    Attributes:
        evaluations: Measurements of a test that need not see the end.
        any_batch: Whether the order of the proposals is the same whatever number is asked for at a time; set it to
            False for a method that needs batches of one size.
    """

    evaluations: int = 16
    any_batch: bool = True

    @pytest.fixture
    def build(self) -> Callable[[SearchProblem], Agent]:
        """The agent under test: its class, or a function that builds it for a problem."""
        raise NotImplementedError("give the fixture `build`, which returns the class of the agent under test")

    def test_it_has_a_name(self, build: Callable[[SearchProblem], Agent]) -> None:
        """Under which messages and the ledger speak of it."""
        agent = build(AgentCase.usual().problem)
        assert isinstance(agent.name, str)
        assert agent.name

    def test_proposals_are_candidates_and_new(self, build: Callable[[SearchProblem], Agent]) -> None:
        """At most as many as asked for, at least one, none twice, none hopeless; `remaining` counts them."""
        case = AgentCase.usual()
        agent = build(case.problem)
        candidates = _candidates(agent.problem)
        assert agent.remaining == len(candidates)
        seen: set[Plan] = set()
        for n in (1, 5, 2, 9, 3):
            plans = agent.propose(n)
            assert 1 <= len(plans) <= n
            assert not seen & set(plans), "a plan was proposed twice"
            seen |= set(plans)
            assert seen <= candidates
            assert agent.remaining == len(candidates) - len(seen)
            agent.observe(case.outcomes(agent.problem, plans))

    @pytest.mark.parametrize("surprise", [0.0, 0.5])
    def test_every_candidate_is_measured_in_the_end(
        self, build: Callable[[SearchProblem], Agent], surprise: float
    ) -> None:
        """Once, and nothing else; also where payloads differ from what was predicted, and plans turn out to be late."""
        case = AgentCase.usual(surprise=surprise)
        agent = build(case.problem)
        plans = case.search(agent)
        assert len(plans) == len(set(plans))
        assert set(plans) == _candidates(agent.problem)
        assert agent.exhausted
        assert agent.propose(3) == []

    def test_where_nothing_is_in_time_the_least_late_are_measured(
        self, build: Callable[[SearchProblem], Agent]
    ) -> None:
        """All of `SearchProblem.candidates`, which then are the plans nearly as little late as the least late one."""
        case = AgentCase(tuple(p for p in AgentCase.usual().plans if p.split != OUTPUT), _HOPELESS_MS)
        agent = build(case.problem)
        assert set(case.search(agent)) == _candidates(agent.problem)
        assert agent.best is not None
        assert not agent.best.feasible

    @pytest.mark.parametrize("size", [1, 2])
    def test_a_tiny_space_is_searched(self, build: Callable[[SearchProblem], Agent], size: int) -> None:
        """One plan, where no choice is left at all, and two."""
        case = AgentCase(AgentCase.usual().plans[3:3 + size], budget_ms=1e6)
        assert set(case.search(build(case.problem))) == set(case.plans)

    def test_plans_can_be_asked_for_before_outcomes_are_in(self, build: Callable[[SearchProblem], Agent]) -> None:
        """To the last one, with no outcome at all."""
        agent = build(AgentCase.usual().problem)
        plans: list[Plan] = []
        while not agent.exhausted:
            plans += agent.propose(6)
        assert len(plans) == len(set(plans))
        assert set(plans) == _candidates(agent.problem)

    def test_outcomes_measured_elsewhere_are_taken_in(self, build: Callable[[SearchProblem], Agent]) -> None:
        """Before the first proposal and later, hopeless plans among them; none of them is proposed any more."""
        case = AgentCase.usual()
        agent = build(case.problem)
        early, late = case.plans[::7], case.plans[3::7]
        agent.observe(case.outcomes(agent.problem, early))
        first = case.search(agent, evaluations=len(early) + 5)[len(early):]
        late = tuple(plan for plan in late if plan not in first)
        agent.observe(case.outcomes(agent.problem, late))
        known = {*early, *late}
        assert not set(first) & set(early), "what was measured elsewhere was proposed"
        assert _candidates(agent.problem) - known
        rest = set(case.search(agent)) - known - set(first)
        assert rest == _candidates(agent.problem) - known - set(first)

    def test_outcomes_may_come_in_any_order_and_in_parts(self, build: Callable[[SearchProblem], Agent]) -> None:
        """As they do where several machines measure."""
        case = AgentCase.usual()
        agent = build(case.problem)
        waiting: list[Plan] = []
        while not agent.exhausted:
            waiting += agent.propose(4)
            ready, waiting = waiting[:1:-1], waiting[:2]
            agent.observe(case.outcomes(agent.problem, ready))
        agent.observe(case.outcomes(agent.problem, waiting))
        assert {o.plan for o in agent.outcomes} == _candidates(agent.problem)

    def test_equal_seeds_give_equal_proposals(self, build: Callable[[SearchProblem], Agent]) -> None:
        """Whatever else draws from the global generators meanwhile: resuming a search rests on it."""
        case = AgentCase.usual(seed=3)
        first = case.search(build(case.problem), self.evaluations)
        random.seed(11)
        np.random.seed(11)
        torch.manual_seed(11)
        second = case.search(build(case.problem), self.evaluations, between=lambda _: _draw())
        assert first == second

    def test_killed_anywhere_and_resumed_it_ends_the_same(self, build: Callable[[SearchProblem], Agent]) -> None:
        """Every figure of every outcome; what was measured before the kill is not measured again."""
        case = AgentCase.usual(seed=5)
        whole = case.resumed(build(case.problem), self.evaluations)[0]
        for done in np.random.default_rng(0).choice(np.arange(1, self.evaluations), 3, replace=False).tolist():
            again, taken = case.resumed(build(case.problem), self.evaluations, whole[:done])
            assert again == whole
            assert taken == len(whole) - done

    def test_the_number_asked_for_does_not_matter(self, build: Callable[[SearchProblem], Agent]) -> None:
        """The order is the same, one by one and ten at a time, outcomes coming in between (see `any_batch`)."""
        if self.any_batch:
            case = AgentCase.usual()
            orders = [case.search(build(case.problem), self.evaluations, batch=batch) for batch in (1, 3, 10)]
            assert orders[0] == orders[1] == orders[2]

    def test_global_state_is_left_alone(
        self, build: Callable[[SearchProblem], Agent], capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Generators of Python, numpy and torch, torch's threads; and nothing is printed."""
        case = AgentCase.usual()
        problem = case.problem
        candidates = problem.candidates.copy()
        before = _global_state()
        capfd.readouterr()
        case.search(build(problem), self.evaluations)
        assert _global_state() == before
        printed = capfd.readouterr()
        assert (printed.out, printed.err) == ("", ""), "say it with `Agent.on_progress`"
        assert (problem.candidates == candidates).all(), "the problem was changed"


def _candidates(problem: SearchProblem) -> set[Plan]:
    return {plan for plan, ok in zip(problem.plans, problem.candidates, strict=True) if ok}


def _draw() -> None:
    random.random()
    np.random.rand()
    torch.rand(1)


def _global_state() -> tuple[object, ...]:
    numpy_state = np.random.get_state(legacy=False)["state"]
    return (random.getstate(), numpy_state["key"].tolist(), numpy_state["pos"], torch.get_rng_state().tolist(),
            torch.get_num_threads())


def _measurement(plan: Plan, surprise: float) -> Measurement:
    """A plausible measurement: accuracy grows with the payload and falls with sparsity."""
    sparsity, codec = float(np.mean(plan.sparsity)), plan.codec
    kept = (1 - sparsity) ** 1.5
    sizes = {"png": 2000.0, "raw": 4096.0, "none": 0.0, "jpeg": 500.0 + 6 * (codec.quality or 0)}
    symbols = (codec.width or 0) * (codec.grid or 0) ** 2
    payload = sizes.get(codec.kind, 8 + symbols * (codec.bits or 0) / 10)
    accuracy = 0.96 * (1 - 0.3 * sparsity**2) * (1 - (0.6 * np.exp(-payload / 40) if codec.kind == "code" else 0.0))
    payload *= 1 + surprise * np.sin(payload + 10 * sparsity)
    head = {INPUT: 0.0, OUTPUT: _WHOLE}.get(plan.split, _SPLITS.get(plan.split, 0.0))
    sent = plan.split != OUTPUT
    work = Workload(
        plan=plan, device=StageCost(conv_macs=head * kept, activation_elements=head / 100, operators=8),
        encode=StageCost(conv_macs=400.0 * symbols, coded_symbols=symbols, operators=1) if symbols else StageCost(),
        edge=StageCost(conv_macs=_WHOLE - head, operators=20) if sent else StageCost(),
        payload_bytes_mean=payload, payload_bytes_p95=payload * 1.1, result_bytes=4.0 if sent else 0.0)
    return Measurement(plan=plan, accuracy=float(accuracy), workload=work, feature_bytes=4096.0 if sent else 0.0)
