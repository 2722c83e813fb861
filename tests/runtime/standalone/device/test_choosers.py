"""A controller on a device is told what it would be told in the simulation."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from autosplit.core.conditions import Conditions
from autosplit.envs.stream.arrivals import Arrivals
from autosplit.envs.stream.core import StreamCore
from autosplit.envs.stream.levels import Level
from autosplit.envs.stream.stream import Stream
from autosplit.runtime.standalone.bundle.rates import Rate
from autosplit.runtime.standalone.control.estimates import RECENT
from autosplit.runtime.standalone.control.record import ControllerRecord
from autosplit.runtime.standalone.control.rules import Fixed, Myopic, QueueAware
from autosplit.runtime.standalone.device.choosers import (
    ControllerChooser,
    FixedRate,
    Seen,
    SwitchingTable,
    chooser_of,
)
from autosplit.runtime.standalone.device.exchange import TIMEOUT, Reply
from autosplit.runtime.standalone.protocol.wire import EdgeAnswer
from tests.runtime.standalone.device.test_switch import manifest

DEADLINE_MS = 400.0
SIZES, EDGE_MS, DEVICE_MS = (60.0, 150.0, 400.0), 3.0, 20.0
DIFFERS = {"left", "charge", "price", "energy_mj"}  # there is no end to a device's stream, and no battery


def rates():
    return tuple(Rate(f"{size:g} B", {}, (1, 1, 1), 0.7 + 0.1 * i, size, size, 0.0, size, DEVICE_MS, EDGE_MS)
                 for i, size in enumerate(SIZES))


def record(known, controller, **changes):
    kind, settings = ControllerRecord.settings_of(controller)
    return ControllerRecord(kind, settings, "", **{
        "deadline_ms": DEADLINE_MS, "buffer": 8, "sharing": 1, "uplink_kbps": float(known.mean_kbps[0]),
        "delays_ms": float(known.delays_ms[0]), "packet_bytes": float(known.packet_bytes[0]),
        "overhead_bytes": float(known.overhead_bytes[0]), "in_time_accuracy": 0.5, **changes})


@pytest.mark.parametrize("seed", range(3))
def test_both_see_the_same(seed):
    conditions = Conditions.model_validate({"device": "stm32l4r5", "edge": "edge-cpu", "channel": "nb-iot",
                                            "budget_ms": DEADLINE_MS})
    levels = tuple(Level(rate.label, rate.device_ms, 0.0, rate.edge_ms, rate.payload_bytes, 0.0, 1.0, 0.0,
                         rate.accuracy) for rate in rates())
    core = StreamCore([Stream("one", conditions, levels, Arrivals(8.0), 60)], 1, seed)
    known, rng = core._known, np.random.default_rng(seed)
    chooser = ControllerChooser(SimpleNamespace(rates=rates()), record(known, Fixed(0)), Fixed(0))
    state, late = core.begin(np.array([0]), rng), 0
    while True:
        expected = core.view(state)
        now_ms, arrivals = float(state.now_ms[0]), core._arrivals[0]
        arrived = int(expected.waiting[0]) + int(state.head[0]) + 1
        seen = Seen(float(expected.age_ms[0]), int(expected.waiting[0]), float(expected.next_age_ms[0]),
                    now_ms - arrivals[max(0, arrived - RECENT)], arrived, now_ms - arrivals[0])
        found = chooser.view(seen, now_ms / 1000)
        for name, values in vars(expected).items():
            if name not in DIFFERS:
                assert np.asarray(getattr(found, name), dtype=float) == pytest.approx(
                    np.asarray(values, dtype=float), rel=1e-6, abs=1e-6), name
        action = int(rng.integers(4))
        attempt = core.attempt(state, np.array([action]), rng)
        off_air = core.off_air_ms(state, attempt, attempt.on_air)
        answer_ms = off_air + attempt.edge_ms + attempt.back_ms
        step = core.settle(state, attempt, attempt.on_air, off_air, answer_ms)
        if action < 3:
            end_ms = float(min(answer_ms[0], max(attempt.due[0], attempt.encoded[0])))
            waited_ms, came = end_ms - float(attempt.encoded[0]), answer_ms[0] <= end_ms
            reply = Reply(waited_ms, EdgeAnswer(0, 0.0, EDGE_MS, None)) if came else Reply(waited_ms, reason=TIMEOUT)
            late += not came
            chooser.learn(action, int(SIZES[action]), reply, DEVICE_MS, end_ms / 1000)
        if step.over[0]:
            break
    assert late > 0


def test_a_device_that_is_slower_than_it_should_be_leaves_more_time():
    known = SimpleNamespace(mean_kbps=[100.0], delays_ms=[10.0], packet_bytes=[1e3], overhead_bytes=[0.0])
    chooser = ControllerChooser(SimpleNamespace(rates=rates()), record(known, Myopic()), Myopic())
    seen = Seen(0.0, 0, 0.0, 1000.0, 1, 1000.0)
    # 23 ms of computing, 10 of delay, and 8 bits a byte at 100 kb/s
    assert chooser.view(seen, 1.0).takes_ms[0] == pytest.approx([33 + size * 0.08 for size in SIZES])
    for _ in range(30):
        chooser.learn(0, 60, Reply(10 + 4.8 + 43.0, EdgeAnswer(0, 5.0, 43.0, None)), 320.0, 1.0)
    # computing takes 340 ms more; what the edge let it wait is the link's, as in the simulation
    assert chooser.view(seen, 1.0).takes_ms[0, 0] == pytest.approx(33 + 340 + 4.8, abs=1.0)
    assert chooser.choose(seen, 1.0) == 1
    assert chooser.choose(Seen(399.0, 0, 0.0, 1000.0, 1, 1000.0), 1.0) == 0
    skipping = ControllerChooser(SimpleNamespace(rates=rates()), record(known, Myopic(1.0, True)), Myopic(1.0, True))
    assert skipping.choose(Seen(399.0, 0, 0.0, 1000.0, 1, 1000.0), 1.0) is None


def test_a_ping_tells_the_delays():
    known = SimpleNamespace(mean_kbps=[100.0], delays_ms=[10.0], packet_bytes=[1e3], overhead_bytes=[25.0])
    chooser = ControllerChooser(SimpleNamespace(rates=rates()), record(known, Myopic()), Myopic())
    before = chooser.view(Seen(0, 0, 0, 1e3, 1, 1e3), 1.0).takes_ms
    chooser.pinged(42.0, 1.0)  # 2 ms of it for 25 bytes
    assert chooser.view(Seen(0, 0, 0, 1e3, 1, 1e3), 1.0).takes_ms - before == pytest.approx(30.0)


def test_refusals_say_nothing_of_the_link():
    known = SimpleNamespace(mean_kbps=[100.0], delays_ms=[10.0], packet_bytes=[1e3], overhead_bytes=[0.0])
    chooser = ControllerChooser(SimpleNamespace(rates=rates()), record(known, Myopic()), Myopic())
    chooser.learn(0, 60, Reply(5000.0, reason="busy"), 20.0, 1.0)
    assert chooser.kbps == 100.0
    chooser.learn(0, 60, Reply(5000.0, reason=TIMEOUT), 20.0, 1.0)
    assert chooser.kbps == pytest.approx(60 * 8 / 4990.0)


def test_which_chooser_a_bundle_has():
    known = SimpleNamespace(mean_kbps=[100.0], delays_ms=[10.0], packet_bytes=[1e3], overhead_bytes=[0.0])
    held = SimpleNamespace(**vars(manifest()), controller=record(known, QueueAware(1.0, 0.3), buffer=3))
    found, deadline_ms, buffer = chooser_of(held, QueueAware(1.0, 0.3))
    assert isinstance(found, ControllerChooser)
    assert (deadline_ms, buffer) == (DEADLINE_MS, 3)
    found, deadline_ms, _ = chooser_of(SimpleNamespace(**vars(manifest()), controller=None), None)
    assert isinstance(found, SwitchingTable)
    assert deadline_ms == manifest().switching.budget_ms
    assert found.choose(Seen(0, 0, 0, 0, 1, 0), 0.0) == 2  # the table's start
    found.pinged(10.0, 1.0)
    for _ in range(3):
        found.learn(2, 160, Reply(320.0, reason=TIMEOUT), 10.0, 2.0)
    assert found.choose(Seen(0, 0, 0, 0, 1, 0), 0.0) == 0
    assert FixedRate(1).choose(Seen(0, 0, 0, 0, 1, 0), 0.0) == 1
