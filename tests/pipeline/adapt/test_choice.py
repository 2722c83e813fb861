"""Which cut, and which settings of its codec, become rates."""

from __future__ import annotations

import pytest

from autosplit.core.errors import ConfigError
from autosplit.core.measurement import Measurement, StageCost, Workload
from autosplit.core.plan import INPUT, CodecSetting, Plan
from autosplit.core.scenario import load_scenario
from autosplit.evaluation.scorer import Scorer, score
from autosplit.pipeline.adapt.choice import codes_on_the_front, cut_of, spread
from autosplit.pipeline.adapt.links import LinkGrid
from autosplit.pipeline.adapt.switching import Regret, _regret
from autosplit.pipeline.ledger import Ledger


def code(size, accuracy, split="layer1", sparsity=0.5, family="nested"):
    plan = Plan(split=split, sparsity=sparsity, codec=CodecSetting(kind="code", family=family, width=size, grid=4,
                                                                   bits=2))
    work = Workload(plan=plan, device=StageCost(conv_macs=1e6), payload_bytes_mean=size, payload_bytes_p95=size,
                    result_bytes=4)
    return Measurement(plan=plan, accuracy=accuracy, workload=work)


def scorer():
    return Scorer.of(load_scenario())


def test_the_front_has_what_nothing_beats():
    found = codes_on_the_front([code(50, 0.8), code(20, 0.6), code(60, 0.7), code(100, 0.9), code(30, 0.6),
                                code(100, 0.95)])
    assert [(m.workload.payload_bytes_mean, m.accuracy) for m in found] == [(20, 0.6), (50, 0.8), (100, 0.95)]


def test_settings_are_spread_over_links():
    grid = LinkGrid.around(scorer().conditions)
    everything = [code(size, accuracy) for size, accuracy in
                  ((10, 0.3), (12, 0.301), (100, 0.8), (110, 0.801), (1000, 0.95), (1010, 0.951))]
    found = spread(everything, scorer(), grid, 3)
    assert [m.workload.payload_bytes_mean // 100 for m in found] == [0, 1, 10]
    (one,) = spread(everything, scorer(), grid, 1)
    assert one in found
    assert len(spread(everything[:1], scorer(), grid, 5)) == 1  # more would bring nothing


@pytest.fixture
def result(tmp_path):
    """A run whose plan sends a JPEG, and what else it measured."""
    class Found:
        plan = Plan(split=INPUT, codec=CodecSetting(kind="jpeg", quality=50))

    scenario, of = load_scenario(), scorer()
    with Ledger.create(tmp_path, scenario) as ledger:
        for m in (code(50, 0.8), code(60, 0.9, split="layer2"), code(50, 0.95, split="stem", family="aecnn")):
            (outcome,) = score([m], of.latency_model, of.objective, scenario.conditions)
            ledger.record(outcome, "test")
    return Found


def test_a_run_without_a_code_is_cut_where_its_best_code_was(result, tmp_path):
    assert cut_of(result, tmp_path).split == "layer2"
    for family in ("nested", "factorised"):
        result.plan = code(50, 0.1, split="stem", family=family).plan
        assert cut_of(result, tmp_path) == result.plan


def test_without_any_code_there_is_nothing_to_make_rates_of(result, tmp_path):
    (tmp_path / "empty").mkdir()
    Ledger.create(tmp_path / "empty", load_scenario()).close()
    with pytest.raises(ConfigError, match="no plan was measured whose code can have rates"):
        cut_of(result, tmp_path / "empty")
    with pytest.raises(ConfigError, match="its ledger cannot be read"):
        cut_of(result, tmp_path / "nowhere")


def test_regret_counts_links_where_something_is_in_time():
    import numpy as np

    values = np.array([[0.5, 0.9, 0.0], [0.7, 0.6, 0.0]])
    found = _regret(values, answers=[1, 1, 0], alone=[0, 0, 0])
    assert found == Regret(2, 0.5, pytest.approx(0.15), pytest.approx(0.3), 0.5, pytest.approx(0.1),
                           pytest.approx(0.2))
