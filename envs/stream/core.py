"""How time goes on in a stream: any number of devices at once, in numpy.

A device takes the oldest picture that waits, decides what to do with it, and is busy until it has the answer, or until
the picture's deadline if the answer is not there by then. Meanwhile others arrive, and those that grow as old as their
deadline, or that the buffer has no room for, are lost.

The one implementation of this, for both environments, for controllers and for benchmarks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from autosplit.core.arrays import Array
from autosplit.envs.stream.known import Known, dual_price
from autosplit.envs.stream.stream import Stream
from autosplit.envs.tree import BoolArray, IntArray
from autosplit.latency.channel.series import RateSeries, draw_rates
from autosplit.runtime.standalone.control.estimates import (
    LEAST_RATE,
    RECENT,
    carried_kbps,
    expected_kbps,
    long_mean,
    packed_bits,
)
from autosplit.runtime.standalone.control.view import LEVEL_FEATURES, STREAM_FEATURES, View

__all__ = ["Attempt", "Rows", "State", "Step", "StreamCore"]

R = TypeVar("R", bound="Rows")
Which = BoolArray | IntArray | tuple[IntArray, IntArray]

_SLOTS = 4096  # of a series of rates
_SLOTS_A_DEADLINE = 25
_PRICE_GAIN, _PRICE_STEP = 0.04, 0.5  # of the price's logarithm: for a picture's allowance too many; most in one step


@dataclass
class Rows:
    """Arrays of shape (n, ...), or several such, a row for each device or fleet."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def rows(self: R, which: Which) -> R:
        """Some of them."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return type(self)(**{name: value.rows(which) if isinstance(value, Rows) else value[which]
                             for name, value in values.items()})

    def enter(self: R, which: Which, other: R) -> None:
        """Take over others in the places of some."""
        for each in fields(self):
            value, new = getattr(self, each.name), getattr(other, each.name)
            if isinstance(value, Rows):
                value.enter(which, new)
            else:
                value[which] = new


@dataclass
class State(Rows):
    """Where n devices are.

    Attributes:
        stream: Which stream, shape (n,), as all others.
        row: Which draw of arrivals and rates.
        phase_ms: How far into its rates the device began.
        now_ms: The time.
        head: Number of the picture in hand: those before it are settled.
        kbps: What the link carried in the last exchange, kilobits per second.
        usual_log2: Log2 of the same in the long run.
        seen_ms: When the last exchange ended.
        spent_mj: Energy so far.
        dearer: What exchanges took in energy, over what they should by the profile, in the long run.
        charge_price: What a millijoule of the battery is thought to be worth, in reward; 0 without one.
    """

    stream: IntArray
    row: IntArray
    phase_ms: Array
    now_ms: Array
    head: IntArray
    kbps: Array
    usual_log2: Array
    seen_ms: Array
    spent_mj: Array
    dearer: Array
    charge_price: Array


@dataclass(frozen=True)
class Step:
    """What a decision led to, each of shape (n,).

    Attributes:
        answered: Expected right answer in time of the picture in hand, in [0, 1].
        in_time: Whether it was answered in time.
        lost: Pictures that were lost meanwhile, without the one in hand.
        energy_mj: Energy that it took.
        reward: Minus pictures that were not answered rightly in time, the one in hand among them, minus energy by
            weight.
        priced: The same, minus also what the battery's energy is thought to be worth.
        over: Whether the episode is.
        empty: Whether because the battery is.
    """

    answered: Array
    in_time: BoolArray
    lost: IntArray
    energy_mj: Array
    reward: Array
    priced: Array
    over: BoolArray
    empty: BoolArray


@dataclass
class Attempt(Rows):
    """What a decision began, each of shape (n,); times in milliseconds of the stream.

    Attributes:
        level: Number of the level; of no account where the picture is skipped.
        skip: Whether it is.
        sends: Whether the picture is sent, if it is not skipped.
        due: Deadline.
        local: When the device's own answer is there.
        encoded: When a payload is made.
        on_air: When it could begin to be sent.
        bits: What it puts on the air.
        edge_ms: What the edge takes.
        back_ms: What the answer's way back takes.
    """

    level: IntArray
    skip: BoolArray
    sends: BoolArray
    due: Array
    local: Array
    encoded: Array
    on_air: Array
    bits: Array
    edge_ms: Array
    back_ms: Array


class StreamCore:
    """Streams with what happens in them: draws of arrivals and rates, from which each episode takes one pair.

    Args:
        streams: C streams; those with fewer levels than others repeat their last one, which changes nothing.
        draws: Draws a stream.
        seed: Of the draws.

    Attributes:
        streams: The streams.
        levels: Levels of the widest one, K.
        actions: K + 1; the last one skips a picture.
        pictures: Of an episode of each stream, shape (C,).
    """

    def __init__(self, streams: Sequence[Stream], draws: int = 16, seed: int = 0) -> None:
        if not streams or draws < 1:
            raise ValueError(f"at least one stream and one draw are needed, got {len(streams)} and {draws}")
        self.streams, self._draws = tuple(streams), draws
        self.levels = max(len(s.levels) for s in streams)
        self.actions = self.levels + 1
        rng = np.random.default_rng(seed)
        most = max(s.pictures for s in streams)
        arrivals, rates, slots = [], [], []
        for s in streams:
            drawn = np.full((draws, most), np.inf)
            drawn[:, :s.pictures] = s.arrivals.draw(draws, s.pictures, rng)
            arrivals.append(drawn)
            slot_ms = s.conditions.budget_ms / _SLOTS_A_DEADLINE
            rates.append(draw_rates(s.conditions.channel, draws, _SLOTS, slot_ms, rng))
            slots.append(np.full(draws, slot_ms))
        self._arrivals: Array = np.concatenate(arrivals)
        self._rates = RateSeries(np.concatenate(rates), np.concatenate(slots))
        # arrivals of all rows on one ascending line; times beyond the last arrival count as its end
        ends = np.where(np.isfinite(self._arrivals), self._arrivals, -np.inf).max(axis=1)
        self._span = float(ends.max()) + max(s.conditions.budget_ms for s in streams) + 2.0
        self._line = (np.minimum(self._arrivals, self._span - 1.0)
                      + np.arange(len(ends))[:, None] * self._span).ravel()
        self._known = Known.of(streams, self.levels)
        self.pictures = self._known.pictures

    @property
    def observation_size(self) -> int:
        """Length of an observation."""
        return len(STREAM_FEATURES) + self.levels * len(LEVEL_FEATURES)

    def begin(self, streams: IntArray, rng: np.random.Generator) -> State:
        """Devices whose first picture has arrived.

        Args:
            streams: Number of the stream of each, shape (n,).
            rng: Draws which arrivals and rates each gets.
        """
        count = len(streams)
        rows = streams * self._draws + rng.integers(0, self._draws, count)
        lap_ms = self._rates.slot_ms[rows] * _SLOTS
        known = self._known
        mean = known.mean_kbps[streams]
        state = State(
            stream=streams.copy(), row=rows, phase_ms=rng.random(count) * lap_ms, now_ms=np.zeros(count),
            head=np.zeros(count, dtype=np.int64), kbps=mean.copy(), usual_log2=np.log2(mean), seen_ms=np.zeros(count),
            spent_mj=np.zeros(count), dearer=np.ones(count), charge_price=np.zeros(count))
        state.charge_price = self._first_price(streams)
        return state

    def price(self, state: State) -> Array:
        """Reward that a millijoule is worth to each device, shape (n,): its weight, and what the battery's is worth.

        The latter begins as the dual price of the charge: what one more millijoule for each picture would bring in the
        best mixture of levels, if all answers were in time and exchanges took what the profile says. Then it rises
        while more is spent than what is left allows for each picture left, and falls while less is.
        """
        found: Array = self._known.energy_weight[state.stream] + state.charge_price
        return found

    def _first_price(self, streams: IntArray) -> Array:
        """The dual price of a full battery, shape (n,)."""
        known, price = self._known, np.zeros(len(streams))
        limited = np.flatnonzero(np.isfinite(known.charge_mj[streams]))
        if len(limited):
            which = streams[limited]
            energy = known.local_mj[which] + known.exchange_mj[which]
            dual = dual_price(energy, known.accuracy[which], known.charge_mj[which] / known.pictures[which])
            price[limited] = np.clip(dual, *known.prices[which].T)
        return price

    def _follow_price(self, state: State, allowed_mj: Array, settled: IntArray, energy_mj: Array) -> None:
        """Adapt the price to what some pictures took, beside what they were allowed, each of shape (n,)."""
        low, high = self._known.prices[state.stream].T
        excess = np.divide(energy_mj, allowed_mj, out=np.zeros(len(state)), where=allowed_mj > 0) - settled
        factor = np.exp(np.clip(_PRICE_GAIN * excess, -_PRICE_STEP, _PRICE_STEP))
        state.charge_price = np.where(np.isfinite(allowed_mj), np.clip(state.charge_price * factor, low, high), 0.0)

    def _energy_mj(self, state: State) -> Array:
        """What each level takes in the long run, shape (n, K)."""
        known, which = self._known, state.stream
        found: Array = known.local_mj[which] + known.exchange_mj[which] * state.dearer[:, None]
        return found

    def view(self, state: State) -> View:
        """What the devices know; of no account for those whose episode is over."""
        known, which = self._known, state.stream
        last = known.pictures[which] - 1
        head = np.minimum(state.head, last)
        arrived = np.maximum(self._arrived(state, state.now_ms), head + 1)
        waiting = arrived - head - 1
        next_age = np.where(waiting > 0, state.now_ms - self._arrivals[state.row, np.minimum(head + 1, last)], 0.0)
        recent = np.minimum(arrived, RECENT)
        arriving_ms = np.maximum(state.now_ms - self._arrivals[state.row, arrived - recent], 1.0)

        mean, since = known.mean_kbps[which], state.now_ms - state.seen_ms
        kbps = expected_kbps(state.kbps, state.usual_log2, since, known.deadline_ms[which], mean)
        kbps = np.where(known.sees_link[which], self._rates.rate_kbps(state.row, state.now_ms + state.phase_ms), kbps)
        kbps = np.maximum(kbps, LEAST_RATE * mean)

        device_ms, sent = known.device_ms[which], known.sent[which]
        exchange = known.encode_ms[which] + known.delays_ms[which][:, None] + known.edge_ms[which]
        takes = device_ms + known.sends[which] * (exchange + known.bits[which] / kbps[:, None])
        age = state.now_ms - self._arrivals[state.row, head]
        left_ms = np.maximum(known.deadline_ms[which] - age, 0.0)[:, None]
        busy = (1 - sent) * device_ms + sent * np.maximum(np.minimum(takes, left_ms), device_ms)
        return View(
            sharing=np.ones(len(state), dtype=np.int64), deadline_ms=known.deadline_ms[which], age_ms=age,
            waiting=waiting, buffer=known.buffer[which], next_age_ms=next_age,
            arrivals_per_s=1e3 * recent / arriving_ms,
            usual_per_s=1e3 * arrived / np.maximum(state.now_ms, known.deadline_ms[which]), rate=kbps / mean,
            usual_rate=2.0**state.usual_log2 / mean, since_ms=since,
            left=np.maximum(known.pictures[which] - state.head, 1) / known.pictures[which],
            charge=np.maximum(1.0 - state.spent_mj / known.charge_mj[which], 0.0), price=self.price(state),
            accuracy=known.accuracy[which], sent=sent, takes_ms=takes, busy_ms=busy,
            air_ms=sent * known.bits[which] / mean[:, None], energy_mj=self._energy_mj(state))

    def step(self, state: State, actions: IntArray, rng: np.random.Generator) -> Step:
        """Let every device do with its picture what was decided; changes the state.

        Args:
            state: Of n devices, none of whose episodes is over.
            actions: Numbers of levels, or K to skip, shape (n,).
            rng: Draws what is sent, payloads and delays.
        """
        attempt = self.attempt(state, actions, rng)
        off_air = self.off_air_ms(state, attempt, attempt.on_air)
        return self.settle(state, attempt, attempt.on_air, off_air, off_air + attempt.edge_ms + attempt.back_ms)

    def attempt(self, state: State, actions: IntArray, rng: np.random.Generator) -> Attempt:
        """What the devices begin to do with their pictures; the arguments are those of `step`."""
        known, which = self._known, state.stream
        chance, (size, up, down) = rng.random(len(state)), rng.standard_normal((3, len(state)))
        skip = actions == self.levels
        level = np.where(skip, 0, actions)
        at = which, level
        local = state.now_ms + known.device_ms[at]
        encoded = local + known.encode_ms[at]
        payload = np.maximum(known.payload_bytes[at] + known.payload_sd_bytes[at] * size, 1.0)
        sigma, median = known.access_sigma[which], known.access_ms[which]
        return Attempt(
            level=level, skip=skip, sends=chance < known.sent[at],
            due=self._arrivals[state.row, state.head] + known.deadline_ms[which], local=local, encoded=encoded,
            on_air=encoded + median * np.exp(sigma * up),
            bits=packed_bits(payload, known.packet_bytes[which], known.overhead_bytes[which]),
            edge_ms=known.edge_ms[at], back_ms=median * np.exp(sigma * down) + known.result_ms[which])

    def off_air_ms(self, state: State, attempt: Attempt, from_ms: Array) -> Array:
        """When payloads are across that begin to be sent at some times, shape (n,)."""
        return self._rates.done_ms(state.row, from_ms + state.phase_ms, attempt.bits) - state.phase_ms

    def settle(self, state: State, attempt: Attempt, from_ms: Array, off_air: Array, answer: Array) -> Step:
        """End what was attempted; changes the state.

        Args:
            state: Of n devices, as when they began.
            attempt: What they began.
            from_ms: When payloads began to be sent, shape (n,), as all that follow; of no account where none was.
            off_air: When they were across.
            answer: When answers were there.
        """
        known, which = self._known, state.stream
        at, skip, sends, encoded = (which, attempt.level), attempt.skip, attempt.sends, attempt.encoded
        start, due, edge_ms = state.now_ms, attempt.due, attempt.edge_ms
        free = np.where(sends, np.minimum(answer, np.maximum(due, encoded)), attempt.local)
        in_time = ~skip & (np.where(sends, answer, attempt.local) <= due)
        accuracy = np.where(sends, known.edge_accuracy[at], known.device_accuracy[at])

        # energy, of what lies before the device gives up
        aired = np.clip(np.minimum(off_air, free) - from_ms, 0.0, None) * sends
        active = known.device_ms[at] + sends * known.encode_ms[at]
        waited = np.clip(free - start - active - aired, 0.0, None)
        exchange_mj = (aired * known.transmit_mw[which] + waited * known.wait_mw[which]) / 1e3
        energy = np.where(skip, 0.0, active * known.active_mw[which] / 1e3 + exchange_mj)

        # what the exchange tells of the link
        told = sends & ~skip
        came = answer <= free
        exchange = free - encoded - np.where(came, edge_ms, 0.0) - known.delays_ms[which]
        carried = carried_kbps(attempt.bits, exchange, came, state.kbps)
        state.kbps = np.where(told, carried, state.kbps)
        state.usual_log2 = np.where(told, long_mean(state.usual_log2, np.log2(carried)), state.usual_log2)
        state.seen_ms = np.where(told, free, state.seen_ms)
        ratio = np.divide(exchange_mj * known.sent[at], known.exchange_mj[at], out=np.ones(len(state)), where=told)
        state.dearer = np.where(told, long_mean(state.dearer, ratio), state.dearer)

        worth, left = state.charge_price * energy, np.maximum(known.pictures[which] - state.head, 1)
        allowed = np.maximum(known.charge_mj[which] - state.spent_mj, 0.0) / left
        state.now_ms = np.where(skip, start, free)
        state.spent_mj = state.spent_mj + energy
        state.head = state.head + 1
        empty = state.spent_mj >= known.charge_mj[which]
        in_time &= ~empty
        answered = accuracy * in_time
        before = state.head
        self._drop(state)
        state.head = np.where(empty, known.pictures[which], state.head)
        lost = state.head - before
        self._follow_price(state, allowed, lost + 1, energy)
        over = state.head >= known.pictures[which]
        reward = answered - 1.0 - lost - known.energy_weight[which] * energy
        return Step(answered, in_time, lost, energy, reward, reward - worth, over, empty)

    def _drop(self, state: State) -> None:
        """Drop what is too old or has no room; where nothing waits, go on to the next arrival."""
        known, which = self._known, state.stream
        pictures = known.pictures[which]
        arrived = np.minimum(self._arrived(state, state.now_ms), pictures)
        expired = np.minimum(self._arrived(state, state.now_ms - known.deadline_ms[which]), pictures)
        head = np.maximum(state.head, np.maximum(expired, arrived - known.buffer[which]))
        waits_for_one = (head >= arrived) & (head < pictures)
        comes = self._arrivals[state.row, np.minimum(head, pictures - 1)]
        state.now_ms = np.where(waits_for_one, np.maximum(comes, state.now_ms), state.now_ms)
        state.head = head

    def _arrived(self, state: State, time_ms: Array) -> IntArray:
        """Pictures that have arrived by a time, shape (n,)."""
        begins = state.row * self._arrivals.shape[1]
        line = np.clip(time_ms, -0.5, self._span - 1.5) + state.row * self._span
        found: NDArray[np.int64] = np.searchsorted(self._line, line, side="right") - begins
        return found
