"""Time in a fleet: one device is a stream, and several are what a slow account of events says."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from autosplit.agents.control.play import play
from autosplit.core.measurement import RESULT_BYTES
from autosplit.envs.fleet.core import FLEET_FEATURES, FleetCore
from autosplit.envs.fleet.fleet import Fleet
from autosplit.envs.stream.core import StreamCore
from autosplit.envs.stream.levels import Level
from autosplit.runtime.standalone.control.rules import Fixed, Myopic
from autosplit.runtime.standalone.control.view import STREAM_FEATURES
from tests.envs.stream.streams import LEVELS, stream
from tests.envs.stream.test_core import times

SLOW_EDGE = (LEVELS[0], dataclasses.replace(LEVELS[1], edge_ms=25.0), dataclasses.replace(LEVELS[2], edge_ms=15.0))


def test_a_fleet_of_one_is_a_stream():
    first = len(STREAM_FEATURES)
    streams = [stream(5.0), stream(50.0, budget_ms=40.0), stream(20.0, buffer=2, charge_mj=400.0)]
    alone, fleets = StreamCore(streams, 8, 1), FleetCore([Fleet("one", (s,)) for s in streams], 8, 1)
    which = np.array([2, 0, 1, 1])
    state, fleet = alone.begin(which, np.random.default_rng(1)), fleets.begin(which, np.random.default_rng(1))
    rng = np.random.default_rng(2)
    for _ in range(12):
        seen = fleets.view(fleet).observation()
        assert seen[:, :first] == pytest.approx(alone.view(state).observation()[:, :first])
        assert seen[:, first:first + len(FLEET_FEATURES)] == pytest.approx(0.0)
        actions = rng.integers(alone.actions, size=4)
        expected = alone.step(state, actions, np.random.default_rng(3))
        found = fleets.step(fleet, actions, np.random.default_rng(3))
        for name in ("answered", "lost", "energy_mj", "reward", "priced", "over"):
            assert getattr(found, name) == pytest.approx(getattr(expected, name))


class Account:
    """Right answers, pictures lost and energy of each device of a fleet, event after event."""

    def __init__(self, arrivals, actions, deadline_ms, buffer, levels, slots, withdraws):
        count, self.withdraws = len(arrivals), withdraws
        self.deadline_ms, self.buffer, self.levels = deadline_ms, buffer, levels
        self.queues, self.coming = [[] for _ in range(count)], [list(a) for a in arrivals]
        self.answered, self.lost, self.energy = np.zeros(count), np.zeros(count, dtype=int), np.zeros(count)
        self.actions, self.cell, self.edge = [iter(a) for a in actions], 0.0, [0.0] * slots
        self.events = [(0.0, d, self.decides, ()) for d in range(count)]
        while self.events:
            self.events.sort(key=lambda event: event[:2])
            now, d, happens, job = self.events.pop(0)
            happens(now, d, *job)

    def decides(self, now, d):
        queue, coming = self.queues[d], self.coming[d]
        while coming and coming[0] <= now:
            queue.append(coming.pop(0))
        fresh = [a for a in queue if now - a < self.deadline_ms]
        self.lost[d] += len(queue) - len(fresh) + max(0, len(fresh) - self.buffer)
        self.queues[d] = queue = fresh[-self.buffer:]
        if not queue:
            self.events += [(coming[0], d, self.decides, ())] if coming else []
            return
        picture, action = queue.pop(0), next(self.actions[d])
        if action == len(self.levels):
            self.events.append((now, d, self.decides, ()))
            return
        level = self.levels[action]
        local = now + level.device_ms + (level.encode_ms if level.sent else 0.0)
        due = picture + self.deadline_ms
        if level.sent:
            self.events.append((local + 1.0, d, self.wants_cell, (now, local, due, level)))
        else:
            self.ends(d, now, local, due, level, local)

    def wants_cell(self, now, d, start, local, due, level):
        gives_up, begins = max(due, local), max(now, self.cell)
        across = begins + 8 * (level.payload_bytes + 10 * math.ceil(level.payload_bytes / 100)) / 100.0
        if not self.withdraws:
            self.cell = across
        if begins >= gives_up:
            self.ends(d, start, local, due, level)
        elif across > gives_up:
            self.cell = gives_up if self.withdraws else across
            self.ends(d, start, local, due, level, sent=(begins, across))
        else:
            self.cell = across
            self.events.append((across, d, self.wants_edge, (start, local, due, level, begins)))

    def wants_edge(self, now, d, start, local, due, level, began):
        slot = int(np.argmin(self.edge))
        begins = max(now, self.edge[slot])
        if begins > due:
            self.ends(d, start, local, due, level, sent=(began, now))
        else:
            self.edge[slot] = begins + level.edge_ms
            back = 1.0 + 8 * (RESULT_BYTES + 10) / 100.0
            self.ends(d, start, local, due, level, self.edge[slot] + back, sent=(began, now))

    def ends(self, d, start, local, due, level, answer=math.inf, sent=(math.inf, math.inf)):
        free = min(answer, max(due, local))
        if not level.sent:
            free = local
        if answer <= due:
            self.answered[d] += level.edge_accuracy if level.sent else level.device_accuracy
        aired = max(0.0, min(sent[1], free) - sent[0])
        self.energy[d] += ((local - start) * 50.0 + aired * 310.0 + (free - local - aired) * 110.0) / 1e3
        self.events.append((free, d, self.decides, ()))


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("per_s", [4.0, 15.0, 80.0])
@pytest.mark.parametrize("levels", [LEVELS, SLOW_EDGE])
@pytest.mark.parametrize("withdraws", [True, False])
def test_several_are_what_a_slow_account_says(slots, per_s, levels, withdraws):
    fleet = Fleet("three", tuple(stream(per_s, levels=levels, buffer=3) for _ in range(3)), edge_slots=slots,
                  withdraws=withdraws)
    core = FleetCore([fleet], draws=10, seed=3)
    rng = np.random.default_rng(0)
    for _ in range(6):
        state, totals, over = core.begin(np.array([0]), rng), np.zeros(4), False
        arrivals = core._core._arrivals[state.devices.row[0]].tolist()
        chosen = [[], [], []]
        while not over:
            chosen[state.turn[0]].append(int(rng.integers(core.actions)))
            step = core.step(state, np.array([chosen[state.turn[0]][-1]]), rng)
            totals += [step.answered[0], step.lost[0], step.energy_mj[0], step.reward[0]]
            over = bool(step.over[0])
        slow = Account(arrivals, chosen, 80.0, 3, levels, slots, withdraws)
        assert totals[0] == pytest.approx(slow.answered.sum())
        assert totals[1] == slow.lost.sum()
        assert totals[2] == pytest.approx(slow.energy.sum())
        assert totals[3] == pytest.approx(totals[0] - 180)


def test_who_shares_waits():
    """Two payloads that are ready at once cross one after the other, and the second one is too late."""
    sent = (Level("sent", 10.0, 5.0, 2.0, 400.0, 0.0, 1.0, edge_accuracy=1.0),)
    took = times(sent[0])[2]
    alone = stream(0.1, levels=sent, budget_ms=1.2 * took, pictures=1)
    for count, right in ((1, 1.0), (2, 0.5)):
        core = FleetCore([Fleet("of a test", (alone,) * count)], draws=1)
        assert play(core, Fixed(0), np.array([0]), 0).accuracy[0] == right
    patient = dataclasses.replace(alone, conditions=alone.conditions.model_copy(update={"budget_ms": 2 * took}))
    assert play(FleetCore([Fleet("of a test", (patient,) * 2)], 1), Fixed(0), np.array([0]), 0).accuracy[0] == 1.0


def test_what_was_given_up_keeps_others_waiting_where_it_cannot_be_withdrawn():
    # four devices whose pictures come at the same time, and a cell in which the last of them is late
    busy = tuple(stream(20.0, budget_ms=50.0, levels=LEVELS[1:], regular=True) for _ in range(4))
    kept, gone = (play(FleetCore([Fleet("four", busy, withdraws=withdraws)], 2), Fixed(1), np.zeros(4, dtype=int), 0)
                  for withdraws in (False, True))
    assert kept.accuracy.mean() < 0.5 * gone.accuracy.mean()


def test_what_an_edge_announces():
    fleets = [Fleet("silent", (stream(40.0),) * 2), Fleet("telling", (stream(40.0),) * 2, announces=True)]
    core = FleetCore(fleets, draws=1)
    state = core.begin(np.array([0, 1]), np.random.default_rng(0))
    core.step(state, np.array([2, 2]), np.random.default_rng(0))
    now = state.devices.now_ms[np.arange(2), state.turn]
    state.cell_free_ms[:], state.edge_free_ms[:, 0] = now + 16.0, now - 1.0
    view = core.view(state)
    assert view.sharing.tolist() == [2, 2]
    assert view.cell_ahead_ms == pytest.approx([0.0, 16.0])
    assert view.edge_ahead_ms.tolist() == [0.0, 0.0]
    after = len(STREAM_FEATURES)
    assert view.observation()[:, after:after + 3] == pytest.approx(np.array([[1.0, 0.0, 0.0], [1.0, 0.2, 0.0]]))


def test_fleets_are_each_their_own():
    fleets = [Fleet("slow", (stream(5.0), stream(9.0))), Fleet("quick", (stream(50.0), stream(30.0, budget_ms=60.0)))]
    core = FleetCore(fleets, draws=3, seed=0)
    together = core.begin(np.array([1, 0]), np.random.default_rng(1))
    alone = [together.rows(np.array([i])) for i in range(2)]
    for _ in range(30):
        actions = Myopic().decide(core.view(together))
        step = core.step(together, actions, np.random.default_rng(0))
        for i, one in enumerate(alone):
            single = core.step(one, actions[i:i + 1], np.random.default_rng(0))
            assert single.reward[0] == pytest.approx(step.reward[i])
            assert core.view(one).observation()[0] == pytest.approx(core.view(together).observation()[i])


def test_bad_fleets_are_refused():
    with pytest.raises(ValueError, match="needs at least one device"):
        Fleet("empty", ())
    with pytest.raises(ValueError, match=r"fleets of one size are wanted, got \[1, 2\]"):
        FleetCore([Fleet("one", (stream(),)), Fleet("two", (stream(),) * 2)])
