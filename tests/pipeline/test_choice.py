"""The cheapest of those that cannot be told apart: paired on the same images, over sources, for every objective."""

import numpy as np
import pytest

from autosplit.core.answers import Answers
from autosplit.core.measurement import LatencySummary, Measurement, Outcome, Workload
from autosplit.core.plan import CodecSetting, Plan
from autosplit.evaluation.objective import load_objective
from autosplit.pipeline.choice import accuracy_difference, cheapest_of_equals, cheapest_within_a_point
from autosplit.pipeline.search import warnings_of

LABELS = np.zeros(1000, dtype=np.int64)


def measured(wrong, name="a", payload=100.0, images=1000):
    """A plan that names the images of these numbers wrongly."""
    predicted = LABELS[:images].copy()
    predicted[list(wrong)] = 1
    plan = Plan(split=name, codec=CodecSetting(kind="raw"))
    answers = Answers.of(predicted, LABELS[:images])
    return Measurement(plan=plan, accuracy=answers.accuracy, fidelity="F3", images=images, answers=answers,
                       workload=Workload(plan=plan, payload_bytes_mean=payload))


class Fixed:
    """Scores by given latencies, energies and objective."""

    def __init__(self, costs, objective="in-time-accuracy"):
        self.costs, self.objective = costs, load_objective(objective)

    def outcome(self, measurement):
        p95, energy = self.costs[measurement.plan.split]
        latency = LatencySummary(device_ms=0, encode_ms=0, uplink_ms=p95, edge_ms=0, downlink_ms=0, p50_ms=p95,
                                 p95_ms=p95, in_time=float(p95 <= 100), energy_mj=energy)
        reward = latency.in_time * measurement.accuracy - self.objective.latency_tie_break * min(p95 / 100, 1)
        return Outcome(measurement=measurement, latency=latency, budget_ms=100.0, reward=reward)


def picked(costs, *measurements, sources=None):
    scorer = Fixed(costs)
    return cheapest_of_equals([scorer.outcome(m) for m in measurements], scorer, sources)


def test_two_finalists_as_good_as_each_other_and_the_cheaper_one_is_taken():
    """Two of 116 images apart, as once on Caltech-20: no images of this number can tell them apart."""
    best, cheap = measured(range(5), "best", images=116), measured(range(3, 9), "cheap", images=116)
    pick = picked({"best": (90, 5.0), "cheap": (50, 3.0)}, best, cheap)
    assert (pick.taken.plan.split, pick.best.plan.split) == ("cheap", "best")
    assert {o.plan.split for o in pick.equals} == {"best", "cheap"}
    assert 0.03 < pick.half_width < 0.06


def test_a_difference_that_many_images_show_is_kept():
    best, cheap = measured(range(20), "best"), measured(range(60), "cheap")
    pick = picked({"best": (90, 5.0), "cheap": (50, 3.0)}, best, cheap)
    assert pick.taken.plan.split == "best"
    assert [o.plan.split for o in pick.equals] == ["best"]


def test_images_of_few_sources_show_less():
    """Ten more of 1,000 pictures are wrong, which shows something; but all ten were made from one digit."""
    best, cheap = measured(range(20), "best"), measured(range(29), "cheap")
    costs = {"best": (90, 5.0), "cheap": (50, 3.0)}
    assert picked(costs, best, cheap).taken.plan.split == "best"
    assert picked(costs, best, cheap, sources=np.arange(1000) // 10).taken.plan.split == "cheap"


@pytest.mark.parametrize(("wrong", "taken"), [(2, "cheap"), (4, "best")])
def test_few_images_give_away_no_more_than_a_point(wrong, taken):
    """Of 300 images two or four more are wrong: neither shows anything, but four are more than a point."""
    best, cheap = measured(range(20), "best", images=300), measured(range(20 + wrong), "cheap", images=300)
    pick = picked({"best": (90, 5.0), "cheap": (50, 3.0)}, best, cheap)
    assert accuracy_difference(cheap, best).high >= 0
    assert pick.taken.plan.split == taken


@pytest.mark.parametrize(("costs", "payloads", "taken"), [
    ({"a": (60, 3.0), "b": (50, 5.0)}, (100, 50), "a"),  # energy first
    ({"a": (60, 3.00), "b": (50, 3.01)}, (100, 50), "b"),  # as good as equal: bytes
    ({"a": (60, 3.0), "b": (50, 3.0)}, (100, 100), "b"),  # then latency
    ({"a": (101, 1.0), "b": (50, 3.0)}, (1, 100), "b"),  # too late is no alternative
])
def test_cheaper_means_energy_then_bytes_then_latency(costs, payloads, taken):
    a, b = (measured([1], name, payload) for name, payload in zip("ab", payloads, strict=True))
    assert picked(costs, a, b).taken.plan.split == taken


@pytest.mark.parametrize(("wrong", "p95", "taken"), [
    (9, 50, "cheap"), (12, 50, "best"),  # 0.8 and 1.1 points below
    (4, 150, "best"),  # late
])
def test_a_cheap_one_within_a_point_is_found(wrong, p95, taken):
    scorer = Fixed({"best": (50, 5.0), "cheap": (p95, 3.0), "cheapest": (50, 1.0)})
    found = [scorer.outcome(m) for m in (measured([0], "best"), measured(range(wrong), "cheap"),
                                         measured(range(50), "cheapest"))]
    assert cheapest_within_a_point(found, scorer).plan.split == taken


def test_where_nothing_is_in_time_the_least_late_one_is_taken():
    pick = picked({"a": (300, 1.0), "b": (200, 9.0)}, measured([], "a"), measured(range(500), "b"))
    assert (pick.taken.plan.split, pick.equals) == ("b", ())


def test_unknown_answers_are_no_proof_of_equality():
    best = measured(range(5), "best")
    cheap = measured(range(5), "cheap").model_copy(update={"answers": None})
    assert accuracy_difference(best, cheap) is None
    assert picked({"best": (90, 5.0), "cheap": (50, 3.0)}, best, cheap).taken.reward >= 0.99
    assert accuracy_difference(best, measured(range(5), images=900)) is None


def test_an_accuracy_that_says_little_is_called_so():
    """Sixty dogs to a cat: naming the dog always is right for 98 %."""
    labels = np.repeat([0, 1], [600, 10])
    always, never_a_cat = warnings_of(Answers.of(np.zeros(610, dtype=np.int64), labels), ("dog", "cat"))
    assert always.startswith("100.0% of the test images are given the class 'dog', and 98.4% belong to one class")
    assert always.endswith("balanced accuracy is 50.0%")
    assert never_a_cat.startswith("class 'cat' is never recognised; balanced accuracy is 50.0%, accuracy 98.4%")
    even = np.repeat([0, 1], 300)
    assert warnings_of(Answers.of(even, even), ("dog", "cat")) == []
