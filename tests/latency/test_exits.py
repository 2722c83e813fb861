"""Latency of plans with an exit: by hand where nothing is random, against the model's own distribution elsewhere."""

import numpy as np
import pytest

from autosplit.core.measurement import ExitPoint, Measurement, StageCost, Workload
from autosplit.core.plan import CodecSetting, Exit, Plan
from autosplit.latency import CheckedLatencyModel, LatencyBreakdown
from autosplit.latency.analytic import AnalyticLatencyModel
from autosplit.latency.base import ENERGIES
from autosplit.latency.exits import in_time_accuracy, level_of_sent, mixed
from autosplit.testing import make_conditions, make_plan

from .channels import moving

PLAN = make_plan()


def work(sent: float) -> Workload:
    return Workload(plan=PLAN, device=StageCost(conv_macs=1e6), encode=StageCost(conv_macs=1e5),
                    edge=StageCost(conv_macs=1e7), payload_bytes_mean=150, payload_bytes_p95=150, result_bytes=4,
                    sent=sent)


def ask(model, sent: float, budget_ms: float = 1000, **channel) -> LatencyBreakdown:
    conditions = make_conditions(budget_ms=budget_ms).model_copy(update={"channel": moving(**channel)})
    return model.latency([work(sent)], [conditions])


class AlwaysSends:
    """A model that knows nothing of exits."""

    def latency(self, workloads, conditions):
        return AnalyticLatencyModel().latency([w.model_copy(update={"sent": 1.0}) for w in workloads], conditions)


@pytest.fixture(params=[AnalyticLatencyModel(), CheckedLatencyModel(AlwaysSends(), "plain")],
                ids=["analytic", "any other"])
def model(request):
    return request.param


class TestWithoutChance:
    def test_percentiles_are_those_of_the_two_times(self, model):
        whole = ask(model, 1.0)
        local = whole.device_ms.item() + (whole.encode_ms.item() if model.__class__ is CheckedLatencyModel else 0.0)
        some = ask(model, 0.3)
        assert some.p50_ms.item() == pytest.approx(local)
        assert some.p95_ms.item() == pytest.approx(whole.p95_ms.item())
        few = ask(model, 0.03)
        assert few.p95_ms.item() == pytest.approx(local)
        assert few.p99_ms.item() == pytest.approx(whole.p99_ms.item())

    def test_a_deadline_between_the_two_is_met_by_what_leaves(self, model):
        whole = ask(model, 1.0)
        between = (whole.device_ms + whole.encode_ms + whole.p50_ms).item() / 2
        assert ask(model, 0.3, between).in_time.item() == pytest.approx(0.7)
        assert ask(model, 0.3, whole.device_ms.item() / 2).in_time.item() == 0

    def test_energy_is_paid_for_what_is_sent(self, model):
        whole, some = ask(model, 1.0), ask(model, 0.25)
        for part in ("transmit_mj", "wait_mj", "tail_mj"):
            assert getattr(some, part) == pytest.approx(0.25 * getattr(whole, part))
        assert some.energy_mj == pytest.approx(sum(getattr(some, part) for part in ENERGIES))

    def test_nothing_sent_is_the_device_alone(self, model):
        whole, none = ask(model, 1.0), ask(model, 0.0)
        assert none.p99_ms.item() <= (whole.device_ms + whole.encode_ms).item()
        assert none.transmit_mj.item() == none.wait_mj.item() == 0


def test_encoding_is_paid_for_what_is_sent():
    whole, some = (ask(AnalyticLatencyModel(), sent) for sent in (1.0, 0.25))
    share = whole.encode_ms / (whole.device_ms + whole.encode_ms)
    assert some.compute_mj == pytest.approx((1 - 0.75 * share) * whole.compute_mj)


@pytest.mark.parametrize("sent", [0.9, 0.5, 0.08])
def test_percentiles_of_the_mixture_are_met_as_often_as_they_say(sent):
    """The share in time at a deadline and the percentiles come from different code."""
    chance = {"access_ms_p50": 10, "access_ms_p95": 40, "packet_loss": 0.2}
    found = ask(AnalyticLatencyModel(), sent, **chance)
    for level, ms in ((0.5, found.p50_ms), (0.95, found.p95_ms), (0.99, found.p99_ms)):
        in_time = ask(AnalyticLatencyModel(), sent, ms.item() * (1 + 1e-9), **chance).in_time.item()
        if level_of_sent(level, sent) > 0:
            assert in_time == pytest.approx(level, abs=0.004)
        else:
            assert in_time >= level


def test_plans_without_an_exit_are_as_before():
    conditions = [make_conditions(), make_conditions("lte")]
    plain = AnalyticLatencyModel().latency([work(1.0)], conditions)
    assert mixed(plain, [work(1.0)], conditions) is plain
    beside = AnalyticLatencyModel().latency([work(0.4), work(1.0)], conditions)
    for name in ("p50_ms", "p95_ms", "in_time", "energy_mj", "uplink_ms"):
        assert np.array_equal(getattr(beside, name)[1], getattr(plain, name)[0])


def test_accuracy_in_time_depends_on_who_answers():
    point = ExitPoint(exit=Exit(threshold=0.9), sent=0.4, exit_accuracy=0.95, sent_accuracy=0.8, payload_bytes_mean=100,
                      payload_bytes_p95=100)
    assert point.accuracy == pytest.approx(0.6 * 0.95 + 0.4 * 0.8)
    plain = Measurement(plan=PLAN, accuracy=0.85, workload=work(1.0), exits=(point,))
    _, left = plain.variants
    assert left.plan.exit == Exit(threshold=0.9)
    assert left.workload.sent == 0.4
    assert left.variants == [left]
    found = in_time_accuracy([plain, left], np.array([[1.0, 0.5], [1.0, 0.6]]))
    assert found[0] == pytest.approx([0.85, 0.425])
    assert found[1] == pytest.approx([point.accuracy, 0.6 * 0.95])
    assert in_time_accuracy([left], np.array([[0.0]])).item() == 0


def test_a_cascade_pays_for_head_and_encoder_only_where_it_sends():
    point = ExitPoint(exit=Exit(threshold=0.9, sparsity=0.5), sent=0.1, exit_accuracy=1, sent_accuracy=1,
                      payload_bytes_mean=100, payload_bytes_p95=120, device=StageCost(conv_macs=7e6))
    joined = work(1.0).with_exit(point)
    assert joined.device.conv_macs == 7e6
    assert joined.encode.conv_macs == 1.1e6
    assert joined.sent == 0.1
    assert joined.payload_bytes_p95 == 120
    behind = work(1.0).with_exit(point.model_copy(update={"exit": Exit(threshold=0.9)}))
    assert behind.device.conv_macs == 8e6
    assert behind.encode.conv_macs == 1e5


def test_what_can_have_an_exit():
    def plan(split, exit_, **codec):
        return Plan.model_validate({"split": split, "codec": codec, "exit": exit_})

    with pytest.raises(ValueError, match="an exit needs something to send behind it"):
        plan("output", {"threshold": 0.9}, kind="none")
    with pytest.raises(ValueError, match="an exit by a classifier needs a split with a code"):
        plan("layer1", {"threshold": 0.9}, kind="raw")
    picture = plan("input", {"threshold": 0.9, "sparsity": 0.5}, kind="jpeg-shared", quality=30)
    assert picture.is_cascade
    assert not picture.is_split
    assert picture.label == "input | JPEG q30 with shared tables | exit at 90% by the network 50% pruned"
    assert picture.exit.network == Plan(split="output", sparsity=0.5, codec=CodecSetting(kind="none"))
    assert picture.without_exit.codec.kind == "jpeg-shared"
    assert picture.as_trained == plan("input", None, kind="jpeg", quality=30)
    behind = Plan.model_validate({**PLAN.model_dump(), "exit": {"threshold": 0.85}})
    assert behind.label.endswith(" | exit at 85%")
    assert not behind.is_cascade
    assert behind.as_trained == PLAN
    assert plan("input", {"threshold": 0.9, "sparsity": 0}, kind="png").label.endswith("by the whole network")
