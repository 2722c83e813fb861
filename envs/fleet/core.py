"""How time goes on in a fleet: any number of fleets at once, in numpy.

A device does with a picture what it does in a stream of its own (`autosplit.envs.stream.core`), but payloads cross the
cell one after the other, in the order in which they are ready, and the edge computes a few at a time, in the order in
which they arrive. A device gives up at its picture's deadline: then it stops sending, or leaves the queue (unless what
is sent cannot be withdrawn); what has arrived by then is computed if its turn comes before the deadline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autosplit.core.arrays import Array
from autosplit.envs.fleet.fleet import Fleet
from autosplit.envs.stream.core import Attempt, Rows, State, Step, StreamCore
from autosplit.envs.stream.stream import Stream
from autosplit.envs.tree import BoolArray, IntArray
from autosplit.runtime.standalone.control.view import FLEET_FEATURES, LEVEL_FEATURES, STREAM_FEATURES, FleetView

__all__ = ["FleetCore", "FleetState", "core_of"]

_DECIDES, _WANTS_CELL, _WANTS_EDGE = range(3)


@dataclass
class FleetState(Rows):
    """Where E fleets of N devices are.

    Attributes:
        stream: Which fleet, shape (E,).
        turn: Number of the device that decides next, shape (E,).
        cell_free_ms: When the cell is free, shape (E,).
        edge_free_ms: When each slot of the edge is, shape (E, S).
        next_ms: When something happens to a device next; infinite for never again, shape (E, N).
        phase: What that is, shape (E, N).
        from_ms: When it began to send, shape (E, N).
        devices: Their streams, each of shape (E, N).
        attempts: What they are about, each of shape (E, N).
    """

    stream: IntArray
    turn: IntArray
    cell_free_ms: Array
    edge_free_ms: Array
    next_ms: Array
    phase: IntArray
    from_ms: Array
    devices: State
    attempts: Attempt


class FleetCore:
    """Fleets with what happens in them; the same methods as `StreamCore` has, for one decision in each fleet.

    Args:
        fleets: C fleets of N devices each.
        draws: Draws of arrivals and rates, a device.
        seed: Of the draws.

    Attributes:
        streams: The fleets.
        devices: N.
        levels: Levels of the widest device, K.
        actions: K + 1; the last one skips a picture.
        pictures: Of an episode of all devices of each fleet, shape (C,).
    """

    def __init__(self, fleets: Sequence[Fleet], draws: int = 16, seed: int = 0) -> None:
        sizes = {len(fleet.devices) for fleet in fleets}
        if len(sizes) != 1:
            raise ValueError(f"fleets of one size are wanted, got {sorted(sizes)}")
        self.streams, (self.devices,) = tuple(fleets), sizes
        self._core = StreamCore([device for fleet in fleets for device in fleet.devices], draws, seed)
        self.levels, self.actions = self._core.levels, self._core.actions
        self.pictures = self._core.pictures.reshape(-1, self.devices).sum(axis=1)
        self._slots = np.array([fleet.edge_slots for fleet in fleets])
        self._announces = np.array([fleet.announces for fleet in fleets])
        self._withdraws = np.array([fleet.withdraws for fleet in fleets])

    @property
    def observation_size(self) -> int:
        """Length of an observation."""
        return len(STREAM_FEATURES) + len(FLEET_FEATURES) + self.levels * len(LEVEL_FEATURES)

    def begin(self, fleets: IntArray, rng: np.random.Generator) -> FleetState:
        """Fleets all of whose devices have their first picture.

        Args:
            fleets: Number of each, shape (E,).
            rng: Draws which arrivals and rates each device gets.
        """
        count, size = len(fleets), self.devices
        streams = (fleets[:, None] * size + np.arange(size)).ravel()
        devices = _folded(self._core.begin(streams, rng), size)
        nothing, none = np.zeros((count, size)), np.zeros((count, size), dtype=np.int64)
        no = np.zeros((count, size), dtype=np.bool_)
        # slots that an edge does not have are never free
        edge_free = np.where(np.arange(self._slots.max()) < self._slots[fleets, None], 0.0, np.inf)
        attempts = Attempt(none, no, no.copy(), *(nothing.copy() for _ in range(7)))
        return FleetState(fleets.copy(), np.zeros(count, dtype=np.int64), np.zeros(count), edge_free, nothing.copy(),
                          np.full((count, size), _DECIDES), nothing, devices, attempts)

    def view(self, state: FleetState) -> FleetView:
        """What the device of each fleet knows whose turn it is."""
        return self.view_of(state, np.arange(len(state.stream)), state.turn)

    def view_of(self, state: FleetState, fleets: IntArray, devices: IntArray) -> FleetView:
        """What some devices know; of those that are busy, what they knew when they began.

        Args:
            state: Of the fleets.
            fleets: Row of each device's fleet, shape (n,).
            devices: Its number there, shape (n,).
        """
        own = state.devices.rows((fleets, devices))
        known = vars(self._core.view(own))
        told, now = self._announces[state.stream[fleets]], own.now_ms
        return FleetView(
            **known | {"sharing": np.full(len(fleets), self.devices)},
            cell_ahead_ms=told * np.maximum(state.cell_free_ms[fleets] - now, 0.0),
            edge_ahead_ms=told * np.maximum(state.edge_free_ms[fleets].min(axis=1) - now, 0.0))

    def step(self, state: FleetState, actions: IntArray, rng: np.random.Generator) -> Step:
        """Let in each fleet the device whose turn it is do what was decided, and time go on to the next decision.

        Args:
            state: Of E fleets, none of whose episodes is over; changed.
            actions: Numbers of levels, or K to skip, shape (E,).
            rng: As of `StreamCore.step`.

        Returns:
            What came to an end meanwhile, of any device, as sums over each fleet, shape (E,); `in_time` and `empty` are
            of no account.
        """
        found = _Sums(len(actions))
        fleets = np.arange(len(actions))
        at = fleets, state.turn
        own = state.devices.rows(at)
        attempt = self._core.attempt(own, actions, rng)
        goes = attempt.sends & ~attempt.skip
        state.attempts.enter(at, attempt)
        state.phase[at], state.next_ms[at] = _WANTS_CELL, attempt.on_air
        never = np.full(int((~goes).sum()), np.inf)
        self._end(state, fleets[~goes], state.turn[~goes], never, never, found)
        while True:
            first = state.next_ms.argmin(axis=1)
            at = fleets, first
            pending = np.isfinite(state.next_ms[at]) & (state.phase[at] != _DECIDES)
            if not pending.any():
                state.turn = first
                break
            wants_cell = pending & (state.phase[at] == _WANTS_CELL)
            if wants_cell.any():
                self._cross(state, fleets[wants_cell], first[wants_cell], found)
            wants_edge = pending & ~wants_cell
            if wants_edge.any():
                self._compute(state, fleets[wants_edge], first[wants_edge], found)
        over: BoolArray = state.next_ms.min(axis=1) == np.inf
        nowhere = np.zeros(len(fleets), dtype=np.bool_)
        return Step(found.answered, nowhere, found.lost, found.energy_mj, found.reward, found.priced, over, nowhere)

    def _cross(self, state: FleetState, fleets: IntArray, devices: IntArray, found: _Sums) -> None:
        """Let payloads onto the cell whose turn it is, each of another fleet."""
        at = fleets, devices
        attempt, own = state.attempts.rows(at), state.devices.rows(at)
        gives_up = np.maximum(attempt.due, attempt.encoded)
        begins = np.maximum(state.next_ms[at], state.cell_free_ms[fleets])
        across = self._core.off_air_ms(own, attempt, begins)
        waits_in_vain = begins >= gives_up
        leaves = np.where(waits_in_vain, state.cell_free_ms[fleets], np.minimum(across, gives_up))
        state.cell_free_ms[fleets] = np.where(self._withdraws[state.stream[fleets]], leaves, across)
        state.from_ms[at] = np.where(waits_in_vain, np.inf, begins)
        state.phase[at], state.next_ms[at] = _WANTS_EDGE, across
        late = across > gives_up
        never = np.full(int(late.sum()), np.inf)
        self._end(state, fleets[late], devices[late], across[late], never, found)

    def _compute(self, state: FleetState, fleets: IntArray, devices: IntArray, found: _Sums) -> None:
        """Let the edge compute what has arrived, each of another fleet."""
        attempt = state.attempts.rows((fleets, devices))
        slot = state.edge_free_ms[fleets].argmin(axis=1)
        arrives = state.next_ms[fleets, devices]
        begins = np.maximum(arrives, state.edge_free_ms[fleets, slot])
        late = begins > attempt.due
        ends = begins + attempt.edge_ms
        state.edge_free_ms[fleets, slot] = np.where(late, state.edge_free_ms[fleets, slot], ends)
        self._end(state, fleets, devices, arrives, np.where(late, np.inf, ends + attempt.back_ms), found)

    def _end(
        self, state: FleetState, fleets: IntArray, devices: IntArray, across: Array, answer: Array, found: _Sums
    ) -> None:
        """Settle pictures, and let their devices decide about the next ones."""
        if not len(fleets):
            return
        at = fleets, devices
        own = state.devices.rows(at)
        step = self._core.settle(own, state.attempts.rows(at), state.from_ms[at], across, answer)
        state.devices.enter(at, own)
        state.phase[at], state.next_ms[at] = _DECIDES, np.where(step.over, np.inf, own.now_ms)
        found.add(fleets, step)


def core_of(streams: Sequence[Stream] | Sequence[Fleet], draws: int, seed: int) -> StreamCore | FleetCore:
    """What happens in some streams, or in some fleets."""
    fleets = [each for each in streams if isinstance(each, Fleet)]
    alone = [each for each in streams if isinstance(each, Stream)]
    return FleetCore(fleets, draws, seed) if fleets else StreamCore(alone, draws, seed)


class _Sums:
    """What pictures that were settled brought, a sum for each fleet."""

    def __init__(self, count: int) -> None:
        self.answered, self.energy_mj, self.reward, self.priced = np.zeros((4, count))
        self.lost = np.zeros(count, dtype=np.int64)

    def add(self, fleets: IntArray, step: Step) -> None:
        """Add what one device in each of some fleets did."""
        for name in ("answered", "energy_mj", "reward", "priced", "lost"):
            getattr(self, name)[fleets] += getattr(step, name)


def _folded(devices: State, size: int) -> State:
    """Arrays of shape (E * N,) as (E, N)."""
    return State(**{name: values.reshape(-1, size) for name, values in vars(devices).items()})

