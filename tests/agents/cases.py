"""Problems and searches that tests of several agents share."""

from dataclasses import replace

from autosplit.agents.base import SearchProblem
from autosplit.agents.design import InitialDesign
from autosplit.agents.loop import run_search
from autosplit.evaluation.objective import best_outcome, load_objective
from autosplit.evaluation.scorer import Scorer, score
from tests.synthetic import PlainLatency, make_conditions, make_table, small_table

SMALL, LARGE = small_table(), make_table()
LATENCY, OBJECTIVE = PlainLatency(), load_objective("in-time-accuracy")


def problem(table=SMALL, budget_ms=100.0, seed=0, design=None):
    return replace(SearchProblem.of(table, LATENCY, OBJECTIVE, make_conditions(budget_ms), seed),
                   design=design or InitialDesign())


def search(agent, table=SMALL, evaluations=1000, **options):
    return run_search(agent, table, Scorer(LATENCY, OBJECTIVE, agent.problem.conditions),
                      evaluations=evaluations, **options)


def outcomes_of(agent, plans, table=SMALL):
    return score(table.measure(plans), LATENCY, OBJECTIVE, agent.problem.conditions)


def optimum(agent, table=SMALL):
    return best_outcome(outcomes_of(agent, table.space.plans(), table))


def regret(agent, table=SMALL):
    """Share of the best reward that an agent's best plan misses."""
    return 1 - agent.best.reward / optimum(agent, table).reward
