"""What figures show, apart from how they are drawn."""

from pathlib import Path

import numpy as np
import pytest

import autosplit
from autosplit.core.plan import CodecSetting, Plan
from autosplit.core.result import Chosen
from autosplit.report.figures import HeatMap, SearchCurve, depth_order, energy_bars, few, front_of, stage_bars
from autosplit.report.notebook import comparison_html, latency_html, outcome_html
from autosplit.report.verdict import finding, verdict, why_chosen

REFERENCE = Path(__file__).parents[2] / "results" / "reference"


def test_stage_bars_begin_with_the_chosen_plan_and_hold_the_rows_figures(rows):
    bars = stage_bars(rows, 100.0)
    assert [r.chosen for r in bars.rows] == [True, False, False, False, False]
    assert bars.parts["uplink"] == tuple(r.latency.uplink_ms for r in bars.rows)
    assert bars.totals == tuple(r.latency.p95_ms for r in bars.rows)
    assert sum(bars.cut) == 1  # 10 s beside 0.4 s
    assert bars.rows[bars.cut.index(True)].name == "split, no compression"


def test_no_bar_is_cut_where_none_stands_out(rows):
    some = [r for r in rows if r.latency.p95_ms < 1000]
    assert not any(stage_bars(some, 100.0).cut)
    assert not any(energy_bars(some).cut)
    assert stage_bars(some, 2000.0).limit > 2000  # the budget is on the axis


def test_the_heat_map_holds_the_most_accurate_plan_of_each_cell(outcomes, make_outcome):
    whole = make_outcome().model_copy(deep=True)
    plan = Plan(split="output", codec=CodecSetting(kind="none"))
    work = whole.measurement.workload.model_copy(update={"plan": plan, "payload_bytes_mean": 0.0})
    whole = whole.model_copy(update={"measurement": whole.measurement.model_copy(update={"plan": plan,
                                                                                           "workload": work})})
    found = HeatMap.of([*outcomes, whole])
    assert found.sizes[0] == "nothing"
    assert found.splits == tuple(depth_order([*outcomes, whole]))
    shown = [o for row in found.best for o in row if o is not None]
    assert found.accuracy[-1, 0] == pytest.approx(100 * whole.measurement.accuracy)
    for o in outcomes:
        payload = o.measurement.workload.payload_bytes_mean
        column = next(i for i, s in enumerate(found.sizes[1:], 1)
                      if float(s.split("-")[0]) <= payload < float(s.split("-")[1].split()[0]))
        cell = found.best[found.splits.index(o.plan.split)][column]
        assert cell.measurement.accuracy >= o.measurement.accuracy
    assert {id(o) for o in shown} <= {id(o) for o in [*outcomes, whole]}
    assert np.isnan(found.accuracy).sum() == sum(o is None for row in found.best for o in row)


def test_a_deep_head_stays_the_deeper_one_when_only_pruned_ones_were_measured(make_outcome):
    def measured(split, operators, macs):
        outcome = make_outcome()
        plan = outcome.plan.model_copy(update={"split": split})
        head = outcome.measurement.workload.device.model_copy(update={"operators": operators, "conv_macs": macs})
        work = outcome.measurement.workload.model_copy(update={"plan": plan, "device": head})
        return outcome.model_copy(update={"measurement": outcome.measurement.model_copy(update={"plan": plan,
                                                                                               "workload": work})})

    assert depth_order([measured("late", 9, 1e6), measured("early", 3, 5e6), measured("output", 4, 1e9)]) == [
        "early", "late", "output"]


def test_sizes_of_large_payloads(make_outcome):
    found = HeatMap.of([make_outcome(width=16, bits=6), make_outcome(width=2000, bits=8)])
    assert found.sizes[-1] == "16-32 kB"
    assert len(found.sizes) == 15 - 7 + 1 - 1  # 2**7 to 2**14, without a gap


def test_the_search_curve_follows_the_best_feasible_reward(outcomes):
    curve = SearchCurve.of(outcomes)
    for i, at in enumerate(curve.best):
        feasible = [o.reward for o in outcomes[:i + 1] if o.feasible]
        assert (at < 0) == (not feasible)
        assert not feasible or outcomes[at].reward == max(feasible)
    assert [outcomes[i].reward for i in curve.records] == sorted(outcomes[i].reward for i in curve.records)
    bottom, top = curve.view
    assert bottom < max(o.reward for o in outcomes if o.feasible) < top


def test_the_search_curve_of_a_search_in_which_nothing_is_in_time(make_outcome):
    curve = SearchCurve.of([make_outcome(p50_ms=300.0), make_outcome(p50_ms=200.0, bits=4)])
    assert curve.best == (-1, -1)
    assert curve.records == []


def test_the_front_is_increasing(outcomes):
    front = front_of(outcomes)
    assert len(front) > 1
    assert (np.diff(front[:, 0]) > 0).all()
    assert (np.diff(front[:, 1]) > 0).all()
    assert front_of([]).shape == (0, 2)


def test_few_keeps_both_ends():
    assert few(range(5)) == [0, 1, 2, 3, 4]
    assert few(range(100))[0] == 0
    assert few(range(100))[-1] == 99
    assert len(few(range(100))) == 8


# --- words ----------------------------------------------------------------------------------------------------------


def test_the_verdict(rows):
    chosen = rows[-1]
    what = f"{100 * chosen.accuracy:.1f} % right within {chosen.latency.p95_ms:.3g} ms (p95) of the 100 ms allowed"
    late = verdict(rows, 100.0)
    assert late.startswith(f"Split: {chosen.plan} is {what}, and no baseline is in time: the best (")
    # the best baseline in time, the difference seen from the split
    fast = rows[2].latency.model_copy(update={"p95_ms": 2 * chosen.latency.p95_ms, "energy_mj": 1.0})
    jpeg = rows[2].model_copy(update={
        "latency": fast, "feasible": True, "method": "jpeg", "accuracy": chosen.accuracy - 0.012,
        "difference_points": -1.2, "difference_low_points": -2.0, "difference_high_points": -0.4})
    split = verdict([*rows[:2], jpeg, chosen], 100.0, "jpeg")
    assert "Against the best other deployment (JPEG q75) it has 1.2 points more accuracy (95 % interval +0.4 to " \
           "+2.0), is 2.0 times faster and takes" in split
    assert finding([*rows[:2], jpeg, chosen], 100.0, "jpeg").endswith(
        "; +1.2 points, 2.0 times faster than the best baseline")


def test_the_verdict_where_a_split_buys_nothing(rows):
    """The network on the device is chosen, and what the best split would bring is said."""
    device = rows[0].model_copy(update={"plan": "output | 50% pruned", "chosen": True, "method": "autosplit",
                                        "feasible": True})
    split = rows[-1].model_copy(update={
        "chosen": False, "method": "finalist", "accuracy": device.accuracy + 0.002, "difference_points": 0.2,
        "difference_low_points": -0.6, "difference_high_points": 1.0})
    said = verdict([*rows[1:4], split, device], 100.0, "png")
    assert said.startswith("Deploy the whole network on the device (50% pruned): 96.1 % right within 227 ms (p95)")
    assert f"A split buys nothing here: the best one ({split.plan}) has 0.2 points more accuracy " \
           "(95 % interval -0.6 to +1.0)" in said
    assert finding([*rows[1:4], split, device], 100.0).endswith("; a split buys nothing")
    assert verdict([*rows[1:4], device], 100.0).endswith("No split was in time.")


def test_the_verdict_where_nothing_is_in_time(rows):
    late = rows[-1].latency.model_copy(update={"p95_ms": 340.0})
    chosen = rows[-1].model_copy(update={"latency": late, "feasible": False})
    said = verdict([*rows[:-1], chosen], 100.0)
    assert said.startswith(f"No deployment is in time: the least late one, {chosen.plan}, takes 340 ms (p95) where "
                           "100 ms are allowed")
    assert finding([chosen], 100.0).startswith("No deployment meets 100 ms; the least late takes 340 ms")


def test_why_a_plan_was_chosen():
    chosen = Chosen(best="a", equals=("a", "b"), half_width_points=0.76, images=2000, sources=300, best_baseline="png")
    assert why_chosen(chosen) == (
        "it is the cheapest (energy, then bytes, then latency) of 2 plans in time that 2,000 validation images made "
        "from 300 sources cannot tell apart from the best one; differences below about 0.8 points do not show in them")
    assert "from the best one and that are at most a point below it; differences below about 1.3 points" in why_chosen(
        chosen.model_copy(update={"half_width_points": 1.26}))
    alone = Chosen(best="a", equals=("a",), half_width_points=0, images=116, best_baseline="png")
    assert why_chosen(alone).startswith("by 116 validation images it is better than every other")
    assert why_chosen(alone.model_copy(update={"equals": ()})) == "it is the least late one"


def test_notebook_tables(rows, outcomes):
    shown = comparison_html(rows, 100.0)
    assert verdict(rows, 100.0) in shown
    assert shown.count("<tr") == 1 + len(rows)
    assert shown.count('class="chosen"') == 1
    assert "<script" not in shown
    assert f"{outcomes[0].measurement.accuracy * 100:.1f} %" in outcome_html(outcomes[0])
    assert outcomes[0]._repr_html_() == outcome_html(outcomes[0])
    assert f"{outcomes[0].latency.p95_ms:.1f} ms" in latency_html(outcomes[0].latency)
    assert outcomes[0].latency._repr_html_() == latency_html(outcomes[0].latency)


def test_objects_show_themselves_in_a_line_and_in_a_notebook():
    result = autosplit.Result.load(REFERENCE)  # what is loaded by its short name brings its HTML with it
    outcome = result.outcome
    for shown in (result.scenario, result.plan, outcome, outcome.latency, result,
                  autosplit.Deployment.from_result(result)):
        line = repr(shown)
        assert line.startswith(f"{type(shown).__name__}(")
        assert "\n" not in line
        assert len(line) < 200
    assert result.plan.label in repr(outcome)
    for shown in (result, outcome, outcome.latency):
        assert "<table" in shown._repr_html_()
