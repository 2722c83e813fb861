from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from autosplit.core.errors import ConfigError
from autosplit.core.plan import INPUT, OUTPUT, CodecSetting
from autosplit.core.space import PlanSpace
from autosplit.envs.layers import LayerwiseSpace
from autosplit.evaluation.objective import load_objective
from autosplit.evaluation.scorer import score
from autosplit.experiments.bench.runs import Run, Setting
from autosplit.latency import load_latency_model
from benchmarks.amortised import measurements_needed
from benchmarks.codecs import ahead, at_256x, bd_rates, fewer_bytes, frontier
from benchmarks.elsewhere import regrets, summary
from benchmarks.fidelity import correlations, draw_plans
from benchmarks.layerwise import chosen_row, gains, search_rows, thinned, uniform_plans
from benchmarks.recipes import spreads
from benchmarks.tuning_epochs import plan_of
from tests.layers import LayerTable
from tests.runs import AGENTS
from tests.synthetic import make_conditions, make_table


def setting(width, bits):
    return CodecSetting(kind="code", width=width, grid=4, bits=bits)


def space():
    codecs = tuple(setting(w, b) for w in (1, 2, 4) for b in (2, 8))
    return PlanSpace(
        splits=(INPUT, "a", "b", OUTPUT), sparsities={INPUT: (0.0,), "a": (0.0, 0.5), "b": (0.0, 0.5, 0.75),
                                                      OUTPUT: (0.0, 0.5)},
        codecs={INPUT: (CodecSetting(kind="png"),), "a": codecs, "b": codecs, OUTPUT: (CodecSetting(kind="none"),)},
    )


class TestDrawPlans:
    def test_even_over_splits_and_sparsities_without_repetition(self):
        plans = draw_plans(space(), 14, seed=0)
        assert len(set(plans)) == 14
        assert Counter(p.split for p in plans) == {"a": 6, "b": 6, OUTPUT: 2}  # `output` has no more
        assert Counter(p.sparsity for p in plans if p.split == "a") == {0.0: 3, 0.5: 3}
        assert Counter(p.sparsity for p in plans if p.split == "b") == {0.0: 2, 0.5: 2, 0.75: 2}
        assert plans == draw_plans(space(), 14, seed=0) != draw_plans(space(), 14, seed=1)

    def test_ends_with_the_space(self):
        assert len(draw_plans(space(), 1000, seed=0)) == len(space()) - 1  # all but the stored image


def test_correlations_of_a_perfect_and_of_a_reversed_proxy():
    truth = [0.1, 0.3, 0.2, 0.9, 0.8, 0.7]
    frame = pd.DataFrame({"f3": truth, "f1": [2 * t for t in truth], "no_recalibration": [-t for t in truth],
                          "feature_error": [1 - t for t in truth], "split": ["a"] * 3 + ["b"] * 3})
    found = correlations(frame)
    assert set(found) == {"all", "top half", "split a", "split b"}
    for part in found.values():
        assert (part["f1"], part["no_recalibration"], part["feature_error"]) == (1.0, -1.0, 1.0)
    assert found["all"]["plans"] == 6
    assert found["top half"]["plans"] == 3


@pytest.fixture
def frame():
    def row(family, size, validation, test, ratio):
        return {"split": "a", "family": family, "test_bytes": size, "validation_bytes": size,
                "validation_accuracy": validation, "test_accuracy": test, "ratio_to_feature": ratio}

    return pd.DataFrame([
        row("nested", 100, 0.80, 0.79, 300), row("nested", 90, 0.70, 0.81, 333), row("nested", 200, 0.90, 0.88, 150),
        row("aecnn", 100, 0.75, 0.76, 300), row("aecnn", 210, 0.85, 0.89, 143),
        {"split": "input", "family": "jpeg", "setting": "q75", "test_bytes": 600, "validation_bytes": 600,
         "validation_accuracy": 0.9, "test_accuracy": 0.9},
    ])


def test_256x_takes_the_setting_that_validation_prefers(frame):
    assert at_256x(frame, 0.92) == {"a": {"aecnn": 16.0, "nested": 13.0}}


def test_ahead_is_the_least_margin_over_a_rival_at_no_more_bytes(frame):
    assert ahead(frame) == {"a": {"aecnn": -1.0}}  # 0.79 - 0.76 at 100 bytes, 0.88 - 0.89 at 210


def test_fewer_bytes_counts_codes_that_validation_finds_as_accurate(frame):
    assert fewer_bytes(frame) == {"jpeg": {"a": {"q75": 3.0}, "any": {"q75": 3.0}}}  # 600 bytes against 200
    harder = frame.assign(validation_accuracy=frame["validation_accuracy"].replace(0.90, 0.95).where(
        frame["family"] == "jpeg", frame["validation_accuracy"]))
    assert fewer_bytes(harder)["jpeg"]["a"] == {"q75": None}


def test_the_frontier_leaves_out_what_costs_more_and_is_no_more_accurate(frame):
    codes = frame[frame["family"] == "nested"]
    assert frontier(codes)["validation_bytes"].tolist() == [90, 100, 200]
    worse = pd.concat([codes, codes.iloc[:1].assign(validation_bytes=150)])
    assert 150 not in frontier(worse)["validation_bytes"].tolist()


def test_half_the_bytes_at_every_accuracy_is_a_bd_rate_of_minus_fifty(frame):
    codes = frame[frame["family"] == "nested"]
    half = codes.assign(family="factorised", **{c: codes[c] / 2 for c in ("validation_bytes", "test_bytes")})
    found = bd_rates(pd.concat([codes, half]))["a"]
    assert found == {"factorised": pytest.approx(-50, abs=0.1)}
    # over what both reach: accuracies that have nothing in common cannot be compared
    worse = half.assign(test_accuracy=half["test_accuracy"] - 0.5)
    assert bd_rates(pd.concat([codes, worse]))["a"] == {"factorised": None}
    assert bd_rates(pd.concat([codes, half]), least=0.85)["a"] == {"factorised": pytest.approx(-50, abs=0.1)}
    assert bd_rates(pd.concat([codes, half]), least=0.99)["a"] == {"factorised": None}


class TestLayerwise:
    table = LayerTable(channels=(8, 16, 4))

    def space(self, **options):
        return LayerwiseSpace.of(self.table, **options)

    def test_codecs_are_thinned_evenly_and_keep_their_work(self):
        for count, left in ((1, [1, 1, 1]), (2, [2, 2, 1]), (9, [2, 3, 1])):
            thin = thinned(self.space(), count)
            assert [len(s.codecs) for s in thin.splits] == left
            assert all(w.plan.codec == c for s in thin.splits for c, w in zip(s.codecs, s.workloads, strict=True))
        sizes = [c.width for c in thinned(self.space(splits=["middle"]), 2).splits[0].codecs]
        assert sizes == [2, 8]  # the cheapest and the widest

    def test_every_uniform_head_once(self):
        space = self.space(splits=["output"])
        heads = [space.locate(plan).keep for plan in uniform_plans(space)]
        assert len(heads) == len(set(heads))
        assert heads[0] == (8, 16, 4)
        assert heads[-1] == (2, 4, 1)
        assert all(abs(a / 8 - b / 16) <= 1 / 8 + 1 / 16 for a, b, _ in heads)
        assert {b for _, b, _ in heads} == set(range(4, 17))

    def outcomes(self, budget_ms=2.0):
        plans = uniform_plans(self.space(splits=["output"]))
        return score(self.table.measure(plans), load_latency_model("analytic"), load_objective("in-time-accuracy"),
                     make_conditions(budget_ms))

    def test_rows_tell_the_best_feasible_plan_so_far(self):
        rows = pd.DataFrame(search_rows(2.0, "uniform", 0, self.outcomes()))
        assert rows["best_f1"].isna().any()  # nothing in time yet
        assert rows["best_f1"].dropna().is_monotonic_increasing
        assert rows["best_f1"].max() == rows.loc[rows["feasible"], "f1"].max()

    def test_gains_are_points_over_the_best_uniform_plan(self):
        outcomes = self.outcomes()
        row = chosen_row(2.0, "uniform", 0, outcomes, outcomes[-1])
        peers = [row | {"method": "ppo", "seed": seed, "f1": row["f1"] + 0.02, "f3": row["f3"] + gain}
                  for seed, gain in enumerate((0.004, 0.008))]
        found = gains(pd.DataFrame([row, *peers, peers[0] | {"method": "random"}]))["2"]
        assert found["ppo"] == {"f1_points": [2.0, 2.0], "f3_points": [0.4, 0.8], "f3_points_mean": 0.6, "enough": True}
        assert not found["random"]["enough"]


def test_a_policy_is_asked_where_its_search_was_not(tmp_path):
    (tmp_path / "agents.py").write_text(AGENTS)
    table = make_table(splits=("stem", "layer3"), widths=(2, 8), bits=(2, 8), sparsities=(0.0, 0.5))
    here = Setting("made up", 3, make_conditions(60.0), np.zeros(0), np.zeros(0, dtype=bool))
    quick = f"{tmp_path / 'agents.py'}:Quick"
    rows = regrets(table, here, quick, evaluations=12, draws=40, seed=1)
    assert 0 < len(rows) <= 40
    found = pd.DataFrame(rows)
    assert set(found["agent"]) == {quick}
    assert set(found["scenario"]) == {3}
    assert found[["decision", "likeliest", "kept"]].to_numpy().min() >= 0
    assert found["decision"].mean() < 0.2 < found["kept"].mean()  # a plan that is kept is late on slower links
    assert summary(found)[quick]["kept"]["late"] == pytest.approx((found["kept"] == 1).mean(), abs=1e-4)
    with pytest.raises(ConfigError, match="no policy to ask"):
        regrets(table, here, "random", evaluations=2, draws=1, seed=0)


def test_spread_of_a_recipe_over_its_seeds():
    frame = pd.DataFrame({"recipe": ["new", "old", "new"], "seed": [0, 0, 1], "f1_mean": [0.5, 0.1, 0.7]})
    assert spreads(frame) == {"new": {"f1_mean": {"mean": pytest.approx(0.6), "std": pytest.approx(0.1)}},
                              "old": {"f1_mean": {"mean": 0.1, "std": 0.0}}}


def test_measurements_until_a_search_is_as_good_as_a_policy():
    curves = [("a", 0, [0.5, 0.1, 0.0]), ("a", 1, [0.2, 0.2]), ("b", 0, [0.9, 0.9, 0.9]), ("b", 1, [0.3, 0.0])]
    runs = [Run("t", s, m, 0, tuple(regret), 1.0) for m, s, regret in curves]
    needed = measurements_needed(runs, np.array([0.1, 0.2]))
    assert needed["a"] == {"in_each_scenario": 1.5, "by_the_median": 2.0}
    assert needed["b"] == {"in_each_scenario": None, "by_the_median": None}


def test_a_plan_is_found_by_its_label():
    for plan in space().plans():
        assert plan_of(space(), plan.label) == plan
    with pytest.raises(ConfigError, match=r"no plans of this scenario are called 'a \| 3ch'"):
        plan_of(space(), "a | 3ch")
    many = len(space().plans())
    with pytest.raises(ConfigError, match=rf"{many} plans of this scenario are called '\*'"):
        plan_of(space(), "*")
    label = space().plans()[0].label
    assert plan_of(space(), f"{label[:-1]}*") == space().plans()[0]
