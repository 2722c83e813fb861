"""The model `profiled`: networks that were never timed, on a machine whose every time follows a law."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from autosplit.core.errors import ConfigError, PluginError
from autosplit.core.measurement import StageCost, Workload
from autosplit.core.operators import OperatorWork, TypeSums
from autosplit.core.plan import OUTPUT
from autosplit.core.profiles import DeviceProfile, load_profile
from autosplit.core.regression import fit_prices
from autosplit.core.timed_rates import TIMED_RATES
from autosplit.core.timings import Timings, read_timings
from autosplit.latency import list_latency_models, load_latency_model
from autosplit.latency.analytic import AnalyticLatencyModel, stage_ms
from autosplit.latency.profiled import ProfiledLatencyModel
from autosplit.models.costs import operators, stage_cost
from autosplit.models.head_costs import HeadCost
from autosplit.models.pruning import HeadPruner
from autosplit.models.splitting import cut, find_split_points
from autosplit.models.tracing import trace
from autosplit.models.zoo import resnet20
from autosplit.testing import LatencyModelContract, make_conditions, make_plan, make_workload
from tests.latency.profiling.machines import csv_of, law_s, timed

SHAPE = (3, 32, 32)


def conv(rows, columns, positions, kernel=9):
    return OperatorWork("conv", rows, columns, kernel, positions, 0, rows * positions, 1, columns, columns * positions)


def deep(channels, positions):
    return OperatorWork("depthwise", channels, 1, 9, positions, 0, channels * positions, channels, channels,
                        channels * positions)


def various():
    """Operators of many shapes and every type."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(40):
        a, b, side = (int(v) for v in rng.integers(3, 70, 3))
        found += [conv(b, a, side * side), conv(b, a, side * side, kernel=1), deep(a, side * side),
                  OperatorWork("linear", b, a, 1, 1, b, b, reads=a),
                  OperatorWork("other", outputs=a * b, reads=int(rng.integers(1, 4)) * a * b)]
    return found


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """A packaged device with timings."""
    file = csv_of(tmp_path_factory.mktemp("timings") / "law.csv", various())
    return load_profile(DeviceProfile, "edge-cpu").model_copy(update={"timings": Timings(file=str(file))})


def on(machine, edge=None):
    return make_conditions().model_copy(update={"device": machine, "edge": edge or machine})


def device_ms(cost, machine):
    work = Workload(plan=make_plan(OUTPUT), device=cost)
    return float(ProfiledLatencyModel().latency([work], [on(machine)]).device_ms[0, 0])


class TestContract(LatencyModelContract):
    @pytest.fixture
    def model(self):
        return ProfiledLatencyModel()

    @pytest.fixture(autouse=True)
    def _known_machine(self, machine, tmp_path):
        import yaml

        path = tmp_path / "law.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in machine.model_dump(mode="json").items()
                                        if key not in TIMED_RATES}))
        self.machine = str(path)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return trace(resnet20().eval(), (3, 32, 32))


class TestUnseenShapes:
    @pytest.mark.parametrize("name", ["layer1.0", "layer2.1", "layer3"])
    def test_heads_and_tails_of_a_network_that_was_never_timed(self, network, machine, name):
        point = next(p for p in find_split_points(network, SHAPE) if p.name == name)
        for part, shape in zip(cut(network, point), (SHAPE, point.shape), strict=True):
            expected_ms = 1e3 * sum(law_s(w) for w in operators(part, shape))
            assert device_ms(stage_cost(part, shape), machine) == pytest.approx(expected_ms, rel=1e-3)

    def test_pruned_heads_in_closed_form(self, network, machine):
        point = next(p for p in find_split_points(network, SHAPE) if p.name == "layer2.0")
        pruner = HeadPruner(cut(network, point)[0], SHAPE)
        keep = tuple(max(1, g.channels * (2 + i % 3) // 5) for i, g in enumerate(pruner.groups))
        pruned = pruner.sub_network(keep).module
        expected_ms = 1e3 * sum(law_s(w) for w in operators(pruned, SHAPE))
        assert device_ms(HeadCost.of(pruner, SHAPE).stage_cost(keep), machine) == pytest.approx(expected_ms, rel=1e-3)

    def test_analytic_on_the_same_machine_is_further_off(self, network, machine):
        """What the shapes are for: padded channels, which counts alone do not show."""
        from autosplit.core.regression import solve_rates

        prices = solve_rates(timed(various()))
        cost = stage_cost(network, SHAPE)
        analytic_ms = (prices["conv_macs"] * cost.conv_macs + prices["linear_macs"] * cost.linear_macs
                       + prices["elements"] * (cost.weight_elements + cost.activation_elements)
                       + prices["operators"] * cost.operators)
        truth_ms = 1e3 * sum(law_s(w) for w in operators(network, SHAPE))
        assert abs(device_ms(cost, machine) / truth_ms - 1) < 1e-3 < abs(analytic_ms / truth_ms - 1)


class TestRegression:
    def test_a_law_beyond_its_terms_shows_in_the_held_out_error(self):
        def bent(work):
            return law_s(work) * (1.0 if work.rows % 2 else 1.5)

        _, straight = fit_prices(timed(various()))
        _, errors = fit_prices(timed(various(), bent))
        assert straight["conv"].median_percent < 0.01
        assert errors["conv"].median_percent > 5
        assert errors["conv"].p90_percent >= errors["conv"].median_percent

    def test_every_timing_of_a_shape_is_left_out_together(self):
        """Repeats of one odd shape must not vouch for one another."""
        odd = conv(64, 64, 4000)
        times = timed([*various(), *[odd] * 5], lambda w: law_s(w) * (4 if w == odd else 1))
        assert fit_prices(times)[1]["conv"].p90_percent < 60
        only = [t for t in times if t.work == odd]
        assert fit_prices(only)[1]["conv"].shapes == 1

    def test_no_price_is_negative_and_a_type_never_timed_has_none(self):
        prices, errors = fit_prices(timed([w for w in various() if w.kind in {"conv", "other"}]))
        assert (prices[[0, 3]] >= 0).all()
        assert np.isnan(prices[[1, 2]]).all()
        assert set(errors) == {"conv", "other"}

    def test_equal_timings_give_equal_prices(self):
        first, second = (fit_prices(timed(various()))[0] for _ in range(2))
        np.testing.assert_array_equal(first, second)


class TestModel:
    def test_it_is_built_in(self, machine):
        assert "profiled" in list_latency_models()
        assert load_latency_model("profiled").latency([make_workload()], [on(machine)]).p50_ms.shape == (1, 1)

    def test_all_but_the_stages_is_as_in_analytic(self, machine):
        works = [make_workload("layer1"), make_workload("input"), make_workload(OUTPUT)]
        ours, theirs = (model.latency(works, [on(machine)]) for model in (ProfiledLatencyModel(),
                                                                         AnalyticLatencyModel()))
        for name in ("uplink_ms", "downlink_ms", "transmit_mj", "tail_mj"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        np.testing.assert_allclose(ours.compute_mj, (ours.device_ms + ours.encode_ms) * 95.0)

    def test_coding_is_priced_as_in_analytic(self, machine):
        work = Workload(plan=make_plan("input"), encode=StageCost(image_pixels=1e4, coded_symbols=1e3),
                        payload_bytes_mean=10)
        ours, theirs = (m.latency([work], [on(machine)]).encode_ms for m in (ProfiledLatencyModel(),
                                                                             AnalyticLatencyModel()))
        np.testing.assert_allclose(ours, theirs)

    def test_a_machine_twice_as_fast_takes_half_the_time(self, machine):
        cost = make_workload().device
        assert device_ms(cost, machine.scaled(2.0)) == pytest.approx(device_ms(cost, machine) / 2)


class TestErrors:
    def test_a_device_without_timings_names_the_command(self, machine):
        plain = load_profile(DeviceProfile, "stm32l4r5")
        with pytest.raises(ConfigError, match=r"neither device 'stm32l4r5' nor edge 'stm32l4r5' has timings; .*"
                                              "autosplit profile --backbone"):
            ProfiledLatencyModel().latency([make_workload()], [on(plain)])

    def test_one_end_with_timings_is_enough(self, machine):
        plain = load_profile(DeviceProfile, "stm32l4r5")
        works = [make_workload("layer1")]
        ours = ProfiledLatencyModel().latency(works, [on(machine, plain), on(machine)])
        theirs = AnalyticLatencyModel().latency(works, [on(machine, plain)])
        assert ours.edge_ms[0, 0] == theirs.edge_ms[0, 0] != ours.edge_ms[0, 1]
        assert ours.device_ms[0, 0] == ours.device_ms[0, 1] != theirs.device_ms[0, 0]

    def test_the_error_stays_one_line_in_a_search(self, machine):
        with pytest.raises(PluginError, match="neither device 'stm32l4r5' nor edge") as caught:
            load_latency_model("profiled").latency([make_workload()], [make_conditions()])
        assert "\n" not in str(caught.value)

    def test_a_type_that_was_never_timed_goes_by_the_rates(self, machine, tmp_path):
        file = csv_of(tmp_path / "few.csv", [w for w in various() if w.kind != "depthwise"])
        few = machine.model_copy(update={"timings": Timings(file=str(file))})
        for works in ([deep(24, 64)], [conv(24, 16, 64), deep(24, 64)]):
            cost = StageCost(conv_macs=sum(w.macs for w in works if w.kind == "conv"), depthwise_macs=works[-1].macs,
                             weight_elements=sum(w.weights for w in works), operators=len(works),
                             activation_elements=sum(w.outputs for w in works), by_type=TypeSums.of(works))
            alone = StageCost(depthwise_macs=works[-1].macs, weight_elements=works[-1].weights, operators=1,
                              activation_elements=works[-1].outputs)
            theirs = stage_ms(alone, few) + sum(1e3 * law_s(w) for w in works[:-1])
            assert device_ms(cost, few) == pytest.approx(theirs, rel=1e-3)
            assert device_ms(cost, few.scaled(2.0)) == pytest.approx(theirs / 2, rel=1e-3)

    def test_work_that_was_counted_before_shapes_were_kept(self, machine):
        with pytest.raises(ConfigError, match=r"not known by operator type.*'analytic'"):
            device_ms(StageCost(conv_macs=1e6, operators=3), machine)

    @pytest.mark.parametrize(("damage", "message"), [
        (lambda text: "", "the first line must be backbone,variant"),
        (lambda text: text.splitlines()[0], "hold no operator"),
        (lambda text: text.replace("time_ms", "ms", 1), "the first line must be"),
        (lambda text: text[: len(text) // 2].rsplit(",", 3)[0], "cells instead of 14"),
        (lambda text: text.replace(",conv,", ",convolution,", 1), "line 2: operator type 'convolution' is none of"),
        (lambda text: text.replace(",1,", ",one,", 1), "line .*: invalid literal"),
        (lambda text: text.replace(",conv,", ",conv,-", 1), "line 2: counts must be at least 0"),
        (lambda text: text.rstrip().rpartition(",")[0] + ",nan", "time_ms above 0"),
    ])
    def test_a_damaged_csv_is_one_line(self, tmp_path, damage, message):
        file = csv_of(tmp_path / "law.csv", various()[:5])
        file.write_text(damage(file.read_text()))
        with pytest.raises(ConfigError, match=message) as caught:
            read_timings(str(file), hashlib.sha256(file.read_bytes()).hexdigest())
        assert "\n" not in str(caught.value)

    def test_a_missing_csv(self, tmp_path):
        with pytest.raises(ConfigError, match=r"timings '.*gone.csv': no such file"):
            read_timings(str(tmp_path / "gone.csv"), "0" * 64)
