"""Time in a stream: against a second, slow account of it, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from autosplit.core.measurement import RESULT_BYTES
from autosplit.envs.stream.arrivals import Arrivals
from autosplit.envs.stream.core import StreamCore
from autosplit.envs.stream.levels import Level
from autosplit.runtime.standalone.control.view import LEVEL_FEATURES, STREAM_FEATURES
from tests.envs.stream.streams import LEVELS, stream

ACTIVE_MW, IDLE_MW, TRANSMIT_MW, RECEIVE_MW = 50.0, 10.0, 300.0, 100.0


def times(level, kbps=100.0):
    """Of a level by the profile of `certain_channel`: milliseconds until local, off the air, answered."""
    if level.sent == 0:
        return level.device_ms, level.device_ms, level.device_ms
    local = level.device_ms + level.encode_ms
    packets = math.ceil(level.payload_bytes / 100)
    off_air = local + 1.0 + 8 * (level.payload_bytes + 10 * packets) / kbps
    return local, off_air, off_air + level.edge_ms + 1.0 + 8 * (RESULT_BYTES + 10) / kbps


def account(arrivals, actions, deadline_ms, buffer, levels=LEVELS):
    """Right answers, pictures lost and energy of an episode, event after event."""
    waiting, now, coming, answered, lost, energy = [], 0.0, list(arrivals), 0.0, 0, 0.0
    actions = iter(actions)
    while coming or waiting:
        while coming and coming[0] <= now:
            waiting.append(coming.pop(0))
        fresh = [a for a in waiting if now - a < deadline_ms]
        lost += len(waiting) - len(fresh)
        lost += max(0, len(fresh) - buffer)
        waiting = fresh[-buffer:]
        if not waiting:
            now = coming[0] if coming else now
            continue
        picture, action = waiting.pop(0), next(actions)
        if action == len(levels):
            continue
        level = levels[action]
        local, off_air, done = times(level)
        due = picture + deadline_ms - now  # from now on
        end = done if level.sent == 0 else min(done, max(due, local))
        if done <= due:
            answered += level.device_accuracy if level.sent == 0 else level.edge_accuracy
        energy += local * ACTIVE_MW / 1e3
        if level.sent:
            aired = max(0.0, min(off_air, end) - local - 1.0)
            energy += aired * (IDLE_MW + TRANSMIT_MW) / 1e3 + (end - local - aired) * (IDLE_MW + RECEIVE_MW) / 1e3
        now += end
    return answered, lost, energy


@pytest.mark.parametrize("per_s", [3.0, 15.0, 60.0, 400.0])
@pytest.mark.parametrize("buffer", [1, 4])
def test_it_is_what_a_slow_account_says(per_s, buffer):
    core = StreamCore([stream(per_s, buffer=buffer)], draws=20, seed=3)
    rng = np.random.default_rng(0)
    for _ in range(10):
        state, chosen, totals, over = core.begin(np.array([0]), rng), [], np.zeros(4), False
        arrivals = core._arrivals[state.row[0]]
        while not over:
            chosen.append(int(rng.integers(core.actions)))
            step = core.step(state, np.array([chosen[-1]]), rng)
            skipped = chosen[-1] == core.levels
            totals += [step.answered[0], step.lost[0], step.energy_mj[0], step.reward[0]]
            assert not (skipped and step.energy_mj[0])
            over = bool(step.over[0])
        answered, lost, energy = account(arrivals.tolist(), chosen, 80.0, buffer)
        assert totals[0] == pytest.approx(answered)
        assert totals[1] == lost
        assert totals[2] == pytest.approx(energy)
        # every picture counts once
        assert totals[3] == pytest.approx(totals[0] - 60)


def test_many_devices_are_each_its_own():
    streams = [stream(5.0), stream(50.0, budget_ms=40.0), stream(20.0, buffer=2, pictures=30)]
    core = StreamCore(streams, draws=3, seed=0)
    which = np.array([2, 0, 1, 1])
    together = core.begin(which, np.random.default_rng(1))
    alone = [together.rows(np.arange(4) == i) for i in range(4)]
    rng = np.random.default_rng(2)
    for _ in range(25):
        actions = rng.integers(core.actions, size=4)
        step = core.step(together, actions, np.random.default_rng(0))
        for i, one in enumerate(alone):
            single = core.step(one, actions[i:i + 1], np.random.default_rng(0))
            assert single.reward[0] == pytest.approx(step.reward[i])
            assert core.view(one).observation()[0] == pytest.approx(core.view(together).observation()[i])
        assert not step.over.any()


def test_what_a_device_knows():
    core = StreamCore([stream(40.0, regular=True)], draws=1)
    state = core.begin(np.array([0]), np.random.default_rng(0))
    core.step(state, np.array([2]), np.random.default_rng(0))
    view = core.view(state)
    took = times(LEVELS[2])[2]
    assert state.now_ms[0] == pytest.approx(took)
    assert view.age_ms[0] == pytest.approx(took - 25.0)
    assert view.waiting[0] == 0
    assert view.arrivals_per_s[0] == pytest.approx(2e3 / took)
    # the exchange told the rate: bits over what was neither delay nor the edge
    assert view.rate[0] == pytest.approx(1.0)
    assert view.takes_ms[0] == pytest.approx([times(level)[2] for level in LEVELS])
    observed = core.view(state).observation()[0]
    assert len(observed) == len(STREAM_FEATURES) + 3 * len(LEVEL_FEATURES) == core.observation_size
    named = dict(zip(STREAM_FEATURES, observed, strict=False))
    assert named["age"] == pytest.approx((took - 25.0) / 80.0)
    assert named["left"] == pytest.approx(59 / 60)
    assert named["charge"] == 1.0
    second = dict(zip(LEVEL_FEATURES, observed[len(STREAM_FEATURES) + len(LEVEL_FEATURES):], strict=False))
    assert second["accuracy"] == pytest.approx(0.9)
    assert second["sent"] == 1.0


def test_an_answer_that_does_not_come_says_that_the_link_is_slow():
    core = StreamCore([stream(1.0, kbps=20.0, budget_ms=80.0)], draws=1)
    core._rates.kbps[:] = 1.0  # what the profile does not know
    core._rates = type(core._rates)(core._rates.kbps, core._rates.slot_ms)
    state = core.begin(np.array([0]), np.random.default_rng(0))
    step = core.step(state, np.array([2]), np.random.default_rng(0))
    assert not step.in_time[0]
    assert core.view(state).rate[0] == pytest.approx(1.0)  # the bound says no more than was known
    for _ in range(20):
        core.step(state, np.array([1]), np.random.default_rng(0))
    assert state.kbps[0] < 20.0
    seeing = StreamCore([stream(1.0, kbps=20.0, sees_link=True)], draws=1)
    assert seeing.view(seeing.begin(np.array([0]), np.random.default_rng(0))).rate[0] == pytest.approx(1.0)


def test_an_empty_battery_ends_the_episode_and_loses_what_is_left():
    core = StreamCore([stream(2.0, charge_mj=6.2)], draws=1)  # four pictures on the device take 6 mJ
    state = core.begin(np.array([0]), np.random.default_rng(0))
    steps = [core.step(state, np.array([0]), np.random.default_rng(0)) for _ in range(5)]
    assert [bool(s.over[0]) for s in steps] == [False] * 4 + [True]
    assert steps[-1].empty[0]
    assert steps[-1].answered[0] == 0.0
    assert sum(s.reward[0] for s in steps) == pytest.approx(4 * 0.7 - 60)


def test_a_charge_has_the_price_of_what_it_buys():
    cheap, dear = Level("cheap", 10.0, device_accuracy=0.5), Level("dear", 40.0, device_accuracy=0.9)
    useless = Level("useless", 40.0, device_accuracy=0.4)

    def price(charge_mj):
        core = StreamCore([stream(levels=(cheap, useless, dear), charge_mj=charge_mj)], draws=1)
        return core.price(core.begin(np.array([0]), np.random.default_rng(0)))[0]

    # 0.5 and 2 mJ a picture, 60 pictures: first the cheap level is bought, then the dear one in its place
    assert price(60 * 0.3) == pytest.approx(0.5 / 0.5)
    assert price(60 * 1.0) == pytest.approx(0.4 / 1.5)
    assert price(60 * 2.5) == pytest.approx(0.01 * 0.5 / 0.5)  # enough for everything, but it may change
    assert price(math.inf) == 0.0


@pytest.mark.parametrize("up", [False, True])
def test_the_price_follows_what_is_spent(up):
    core = StreamCore([stream(0.5, charge_mj=60.0)], draws=1)  # 1 mJ a picture; on the device it takes 1.5
    state = core.begin(np.array([0]), np.random.default_rng(0))
    before = core.price(state)[0]
    for _ in range(5):
        core.step(state, np.array([0 if up else core.levels]), np.random.default_rng(0))
    assert (core.price(state)[0] > before) == up
    assert core.price(state)[0] == pytest.approx(before * math.exp(5 * 0.04 * (0.5 if up else -1)), rel=0.05)


def test_energy_counts_by_its_weight():
    core = StreamCore([stream(energy_weight=0.01)], draws=1)
    state = core.begin(np.array([0]), np.random.default_rng(0))
    step = core.step(state, np.array([0]), np.random.default_rng(0))
    assert step.reward[0] == pytest.approx(0.7 - 1 - step.lost[0] - 0.01 * 1.5)


def test_levels_that_some_pictures_do_not_leave_by():
    mixed = Level("exit", 10.0, 5.0, 2.0, 100.0, 0.0, 0.25, 0.8, 0.9)
    core = StreamCore([stream(0.5, levels=(mixed,), pictures=4000)], draws=1)
    state = core.begin(np.array([0]), np.random.default_rng(0))
    rng = np.random.default_rng(1)
    steps = [core.step(state, np.array([0]), rng) for _ in range(3999)]
    answered = np.array([s.answered[0] for s in steps])
    assert set(answered.tolist()) == {0.8, 0.9}
    assert (answered == 0.9).mean() == pytest.approx(0.25, abs=0.03)
    assert mixed.accuracy == pytest.approx(0.825)


@pytest.mark.parametrize(("given", "says"), [
    ({"levels": ()}, "no level"), ({"pictures": 0}, "at least 1"), ({"buffer": 0}, "at least 1"),
    ({"charge_mj": 0.0}, "charge"), ({"energy_weight": math.inf}, "weight")])
def test_streams_that_make_no_sense(given, says):
    with pytest.raises(ValueError, match=says):
        stream(**given)


def test_levels_that_make_no_sense():
    with pytest.raises(ValueError, match="times and bytes"):
        Level("", -1.0)
    with pytest.raises(ValueError, match="shares"):
        Level("", 1.0, device_accuracy=1.1)


class TestArrivals:
    def test_the_first_comes_at_once_and_the_mean_is_kept(self):
        bursty = Arrivals(20.0, peak=3.0, peak_share=0.25, peak_s=1.0)
        for each in (Arrivals(20.0), Arrivals(20.0, regular=True), bursty):
            drawn = each.draw(10, 20_000, np.random.default_rng(0))
            assert (drawn[:, 0] == 0).all()
            assert (np.diff(drawn, axis=1) >= 0).all()
            assert drawn[:, -1].mean() == pytest.approx(19_999 / 20.0 * 1e3, rel=0.04)

    def test_bursts_are_as_high_and_as_long_as_they_should(self):
        each = Arrivals(10.0, peak=4.0, peak_share=0.25, peak_s=2.0)  # nothing arrives between bursts
        gaps = np.diff(each.draw(400, 1000, np.random.default_rng(0)), axis=1)
        within = gaps[gaps < 500]
        assert np.median(within) == pytest.approx(math.log(2) * 1e3 / 40, rel=0.05)
        # a burst of 2 s holds 80 pictures, and then comes a gap of 6 s
        assert (gaps >= 500).mean() == pytest.approx(1 / 80, rel=0.15)

    @pytest.mark.parametrize("given", [
        {"per_s": 0.0}, {"per_s": 1.0, "peak": 5.0}, {"per_s": 1.0, "peak": 0.5}, {"per_s": 1.0, "peak_share": 1.0},
        {"per_s": 1.0, "regular": True, "peak": 2.0}, {"per_s": 1.0, "peak_s": 0.0}])
    def test_arrivals_that_make_no_sense(self, given):
        with pytest.raises(ValueError, match=r"burst|regular"):
            Arrivals(**given)
