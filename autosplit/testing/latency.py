"""The contract of latency models, and builders of what they are asked about.

Example:
    A test file of a latency plugin::

        from autosplit.testing import LatencyModelContract

        class TestMine(LatencyModelContract):
            @pytest.fixture
            def model(self):
                return MyLatencyModel()
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import pytest

from autosplit.core.conditions import Conditions
from autosplit.core.measurement import StageCost, Workload
from autosplit.core.operators import TermSums, TypeSums
from autosplit.core.plan import INPUT, OUTPUT, CodecSetting, Plan
from autosplit.core.profiles import ChannelProfile, DeviceProfile, load_profile
from autosplit.latency import CheckedLatencyModel, LatencyBreakdown, LatencyModel
from autosplit.latency.base import ENERGIES


def make_plan(split: str = "layer1", sparsity: float = 0.0) -> Plan:
    """A valid plan for a split point: PNG at `input`, nothing at `output`, a small code elsewhere.

    Args:
        split: Split point.
        sparsity: Share of channels removed from the head.
    """
    codecs = {INPUT: CodecSetting(kind="png"), OUTPUT: CodecSetting(kind="none")}
    code = CodecSetting(kind="code", width=4, grid=4, bits=4)
    return Plan(split=split, sparsity=sparsity, codec=codecs.get(split, code))


def make_workload(split: str = "layer1", payload_bytes: float = 100.0, device_macs: float = 2e6,
                  spread: float = 1.2) -> Workload:
    """A plausible workload of a small network.

    Args:
        split: Split point; at `output` nothing is sent, whatever `payload_bytes`.
        payload_bytes: Mean payload; 0 sends nothing, and the edge has no work.
        device_macs: Multiply-accumulates of the head.
        spread: 95th percentile of the payload over its mean.
    """
    if split == OUTPUT:
        payload_bytes = 0.0
    sends = payload_bytes > 0
    head, deep = _terms(4, device_macs, 1.5e4, 4e3), _terms(2, device_macs / 10, 5e3, 1e3)
    return Workload(
        plan=make_plan(split),
        device=StageCost(conv_macs=device_macs, depthwise_macs=device_macs / 10, weight_elements=5e3,
                         activation_elements=2e4, operators=6, by_type=TypeSums(conv=head, depthwise=deep)),
        encode=StageCost(conv_macs=1e4, coded_symbols=64, operators=1, by_type=TypeSums(conv=_terms(1, 1e4)))
        if sends else StageCost(),
        edge=StageCost(conv_macs=8e6, linear_macs=640, weight_elements=7e4, activation_elements=5e4, operators=10,
                       by_type=TypeSums(conv=_terms(6, 8e6, 4e4, 69360), linear=_terms(1, 640, 10, 640),
                                        other=_terms(3, writes=9990))) if sends else StageCost(),
        payload_bytes_mean=payload_bytes,
        payload_bytes_p95=payload_bytes * spread,
        result_bytes=4.0 if sends else 0.0,
    )


def _terms(operators: int, macs: float = 0.0, writes: float = 0.0, weights: float = 0.0) -> TermSums:
    """Sums over operators of some type that read what they write, use full registers and gather 3x3 patches."""
    return (operators, macs, writes, writes, weights, macs, 9 * writes if macs else 0.0)


def make_conditions(channel: str = "ble-1m", budget_ms: float = 100.0, device: str = "stm32l4r5",
                    edge: str = "edge-cpu") -> Conditions:
    """Conditions from packaged profiles.

    Args:
        channel: Name of a channel profile, or the path of a `.yaml` file.
        budget_ms: Deadline, milliseconds.
        device: Name or path of the device's profile.
        edge: Name or path of the server's profile.
    """
    return Conditions(device=load_profile(DeviceProfile, device), edge=load_profile(DeviceProfile, edge),
                      channel=load_profile(ChannelProfile, channel), budget_ms=budget_ms)


class LatencyModelContract:
    """What every `autosplit.latency.LatencyModel` must do; a subclass gives the fixture `model`.

    Attributes:
        splits: Split points that the model knows; override it for a model that knows only a certain network.
            `output`, where nothing is sent, is used where it is among them.
        sent_splits: The same without `output`.
        machine: Name or path of the profile that device and edge have, for a model that knows only certain machines;
            `None` = packaged ones.
    """

    splits: tuple[str, ...] = (INPUT, "stem", "layer1", "layer2", "layer3", OUTPUT)
    machine: str | None = None

    @property
    def sent_splits(self) -> tuple[str, ...]:
        """Split points at which something crosses the channel."""
        return tuple(s for s in self.splits if s != OUTPUT)

    @pytest.fixture
    def model(self) -> LatencyModel:
        """The model under test, newly built."""
        raise NotImplementedError("give the fixture `model`, which returns the latency model under test")

    @pytest.fixture
    def checked(self, model: LatencyModel) -> CheckedLatencyModel:
        """The model with every answer validated: type, shape, finite, not negative, percentiles in order, in_time."""
        return CheckedLatencyModel(model, type(model).__name__)

    def workloads(self, count: int) -> list[Workload]:
        """`count` different workloads over the split points."""
        return [make_workload(self.splits[i % len(self.splits)], 30.0 + 70.0 * i, 1e6 * (1 + i))
                for i in range(count)]

    def conditions(self, count: int) -> list[Conditions]:
        """`count` different conditions over channels and budgets."""
        channels = ("ble-1m", "sub-ghz-fsk-50k", "lte", "lora-sf7", "lte-pedestrian", "ble-1m-bursty")
        return [self.condition(channels[i % len(channels)], 40.0 + 60.0 * i) for i in range(count)]

    def condition(self, channel: str = "ble-1m", budget_ms: float = 100.0) -> Conditions:
        """One set of conditions on machines that the model knows."""
        machines = {} if self.machine is None else {"device": self.machine, "edge": self.machine}
        return make_conditions(channel, budget_ms, **machines)

    @pytest.mark.parametrize(("plans", "count"), [(1, 1), (1, 4), (5, 1), (7, 3)])
    def test_answers_are_valid_and_have_the_shape_of_the_question(
        self, checked: CheckedLatencyModel, plans: int, count: int
    ) -> None:
        """A row for each plan, a column for each of the conditions, and nothing impossible in them."""
        answer = checked.latency(self.workloads(plans), self.conditions(count))
        assert answer.p50_ms.shape == (plans, count)

    def test_equal_questions_get_equal_answers(self, checked: CheckedLatencyModel) -> None:
        """No state and no chance: also after other questions, the answer is the same to the last bit."""
        first = checked.latency(self.workloads(6), self.conditions(3))
        checked.latency(self.workloads(2), self.conditions(1))
        _assert_equal(first, checked.latency(self.workloads(6), self.conditions(3)), tolerance=0.0)

    def test_together_and_one_by_one_agree(self, checked: CheckedLatencyModel) -> None:
        """A plan's latency depends neither on the plans nor on the conditions asked for beside it."""
        workloads, conditions = self.workloads(6), self.conditions(6)
        together = checked.latency(workloads, conditions)
        for p, workload in enumerate(workloads):
            for c, condition in enumerate(conditions):
                alone = checked.latency([workload], [condition])
                _assert_equal(_cell(together, p, c), alone, tolerance=1e-9)

    def test_more_payload_is_never_faster(self, checked: CheckedLatencyModel) -> None:
        """Uplink and end-to-end latency do not fall, and the chance to be in time does not rise, with the bytes."""
        sizes = (1, 20, 100, 221, 223, 500, 2000, 5000)
        for split in self.sent_splits:
            answer = checked.latency([make_workload(split, b) for b in sizes], self.conditions(6))
            for name in ("uplink_ms", "p50_ms", "p95_ms", "p99_ms"):
                _assert_never_falls(getattr(answer, name), f"{name} at {split} for payloads of {sizes} bytes")
            _assert_never_falls(-answer.in_time, f"1 - in_time at {split} for payloads of {sizes} bytes")

    def test_a_larger_budget_is_never_harder_to_meet(self, checked: CheckedLatencyModel) -> None:
        """`in_time` does not fall as the budget grows, and the budget moves no latency."""
        conditions = [self.condition(budget_ms=b) for b in (0.1, 10, 30, 100, 300, 1e6)]
        answer = checked.latency(self.workloads(6), conditions)
        _assert_never_falls(answer.in_time.T, "in_time with the budget")
        assert (answer.p50_ms == answer.p50_ms[:, :1]).all(), "p50_ms depends on the budget"
        assert (answer.in_time[:, -1] == 1).all(), "in_time is below 1 for a budget of 1,000 s"

    def test_percentiles_ascend_and_energies_add_up(self, checked: CheckedLatencyModel) -> None:
        """`p50_ms <= p95_ms <= p99_ms`, and the energy is that of its parts."""
        answer = checked.latency(self.workloads(6), self.conditions(6))
        assert (answer.p50_ms <= answer.p95_ms + 1e-9).all(), "p50_ms exceeds p95_ms"
        assert (answer.p95_ms <= answer.p99_ms + 1e-9).all(), "p95_ms exceeds p99_ms"
        parts = sum(getattr(answer, name) for name in ENERGIES)
        np.testing.assert_allclose(parts, answer.energy_mj, rtol=1e-6, atol=1e-9,
                                   err_msg=f"energy_mj is not the sum of {', '.join(ENERGIES)}")

    def test_nothing_sent_takes_no_time_on_the_link(self, checked: CheckedLatencyModel) -> None:
        """Without payload there is no uplink, no downlink and no edge."""
        if OUTPUT not in self.splits:
            pytest.skip("the model knows no plan that sends nothing: 'output' is not among its splits")
        answer = checked.latency([make_workload(OUTPUT)], self.conditions(4))
        assert not answer.uplink_ms.any()
        assert not answer.downlink_ms.any()
        assert not answer.edge_ms.any()

    def test_arguments_are_left_alone(self, checked: CheckedLatencyModel) -> None:
        """The caller's lists and what is in them are as before."""
        workloads, conditions = self.workloads(4), self.conditions(2)
        before = [x.model_dump() for x in (*workloads, *conditions)]
        checked.latency(workloads, conditions)
        assert len(workloads) == 4
        assert len(conditions) == 2
        assert [x.model_dump() for x in (*workloads, *conditions)] == before


def _cell(answer: LatencyBreakdown, plan: int, condition: int) -> LatencyBreakdown:
    """One plan under one set of conditions, as a breakdown of shape (1, 1)."""
    return LatencyBreakdown(**{f.name: getattr(answer, f.name)[plan:plan + 1, condition:condition + 1]
                               for f in fields(LatencyBreakdown)})


def _assert_equal(left: LatencyBreakdown, right: LatencyBreakdown, tolerance: float) -> None:
    for f in fields(LatencyBreakdown):
        np.testing.assert_allclose(getattr(left, f.name), getattr(right, f.name), rtol=tolerance, atol=tolerance,
                                   err_msg=f.name)


def _assert_never_falls(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]], what: str) -> None:
    """Along the first axis."""
    steps: Sequence[float] = np.diff(values, axis=0).min(axis=0, initial=0.0).tolist()
    assert min(steps) >= -1e-9, f"{what}: falls by {-min(steps):g}"
