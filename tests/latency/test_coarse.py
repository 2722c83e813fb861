"""The quicker variant of a latency model, which policies are trained with: close to the exact one, and as orderly."""

import numpy as np
import pytest

from autosplit.core.profiles import ChannelProfile, list_profiles, load_profile
from autosplit.latency import load_latency_model
from autosplit.latency.base import coarse_of
from autosplit.latency.checked import CheckedLatencyModel
from autosplit.testing import make_conditions, make_workload
from tests.synthetic import PlainLatency

MODEL = load_latency_model("analytic")
SIZES = np.geomspace(40, 4000, 60)


@pytest.mark.parametrize("name", list_profiles(ChannelProfile))
def test_it_is_close_to_the_exact_model_and_keeps_the_order_of_payloads(name):
    conditions = make_conditions().model_copy(update={"channel": load_profile(ChannelProfile, name)})
    works = [make_workload("layer1").model_copy(update={
        "payload_bytes_mean": float(size), "payload_bytes_p95": 1.1 * float(size)}) for size in SIZES]
    exact, quick = (model.latency(works, [conditions]) for model in (MODEL, coarse_of(MODEL)))
    assert np.median(np.abs(quick.p50_ms / exact.p50_ms - 1)) < 0.02
    assert np.median(np.abs(quick.p95_ms / exact.p95_ms - 1)) < 0.05
    assert (np.diff(quick.p95_ms[:, 0]) >= 0).all()
    assert np.array_equal(quick.p95_ms, coarse_of(MODEL).latency(works, [conditions]).p95_ms)
    assert not np.array_equal(quick.p95_ms, exact.p95_ms)  # it does save something


def test_a_model_without_such_a_variant_is_its_own():
    plain = PlainLatency()
    assert coarse_of(plain) is plain
    checked = CheckedLatencyModel(plain, "plain")
    assert coarse_of(checked) is checked
    assert isinstance(coarse_of(CheckedLatencyModel(MODEL, "mine")), CheckedLatencyModel)
