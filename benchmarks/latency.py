"""The analytic latency model against a Monte Carlo simulation, and what it costs, on every packaged channel.

    python -m benchmarks.latency --out results/benchmarks/latency

The simulation (`simulated_ms`) sends every transfer packet by packet, with random numbers of its own, and shares
nothing with the model but the profiles. `quantiles.csv` compares p50, p95 and p99 and the probability of being in time
for deadlines at and around these three quantiles. A payload has one size, or a 95th percentile 1.2 times its mean. What
was simulated is in `simulated.json`; a case that is there already is taken as it is, since the simulation takes far
longer than the model, above all for 600 kB in small packets, which `--largest` leaves out.

Timed are calls with `--plans` plans, whose payloads are spread evenly over the logarithm from 30 bytes to 600 kB, with
one size each or 1.2 times the mean as their 95th percentile. Channels take turns, and the least of all repetitions
counts, as the machine may be busy. The first call on a channel, which works out its nodes, is told apart.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from autosplit.core.arrays import Array
from autosplit.core.conditions import Conditions
from autosplit.core.measurement import Workload
from autosplit.core.profiles import ChannelProfile, list_profiles, load_profile
from autosplit.latency.analytic import AnalyticLatencyModel
from autosplit.latency.channel.link import link_of
from benchmarks.common import parser, scenario_of, write_json

PAYLOADS_BYTES = (62.0, 1000.0, 16384.0, 602112.0)
RESULT_BYTES = 4.0
SPREAD = 1.2
LEVELS = (0.5, 0.95, 0.99)
AROUND = (0.95, 0.98, 1.0, 1.02, 1.05)
_CHUNK = 50_000  # transfers that are simulated at once, so that their numbers stay in the processor's cache


class Fading:
    """The rate of many transfers at once: Rayleigh blocks, and a shadow for each transfer.

    Args:
        channel: A channel with a block `shannon`.
        transfers: How many.
        rng: Draws everything.
    """

    def __init__(self, channel: ChannelProfile, transfers: int, rng: np.random.Generator) -> None:
        assert channel.shannon is not None
        self._shannon, self._rng = channel.shannon, rng
        sigma_db = 0.0 if channel.shadowing is None else channel.shadowing.sigma_db.value
        self._snr = 10 ** ((self._shannon.snr_db.value + sigma_db * rng.standard_normal(transfers)) / 10)
        self._block_ms = np.inf if channel.rayleigh is None else channel.rayleigh.coherence_ms.value
        self._kbps, self._left_ms = np.empty(transfers), np.empty(transfers)
        everyone = np.arange(transfers)
        self._new_block(everyone, 0.0)
        if np.isfinite(self._block_ms):  # a transfer begins anywhere in a block
            self._left_ms = self._block_ms * rng.random(transfers)

    def _new_block(self, which: NDArray[np.intp], passed_ms: Array | float) -> None:
        power = self._rng.exponential(size=len(which)) if np.isfinite(self._block_ms) else 1.0
        reached = self._shannon.efficiency.value * np.log2(1 + self._snr[which] * power)
        self._kbps[which] = self._shannon.bandwidth_khz.value * np.minimum(reached, self._shannon.most)
        self._left_ms[which] = self._block_ms - passed_ms

    def send(self, which: NDArray[np.intp], bits: Array) -> Array:
        """Send so many bits each, and tell how long it took, milliseconds."""
        taken = np.zeros(len(which))
        here = np.arange(len(which))
        bits = bits.copy()
        while len(here):
            rate, left = self._kbps[which[here]], self._left_ms[which[here]]
            needed = bits[here] / rate
            step = np.minimum(needed, left)
            taken[here] += step
            self._left_ms[which[here]] = left - step
            bits[here] -= rate * step
            here = here[needed > left]
            self._new_block(which[here], 0.0)
        return taken

    def wait(self, which: NDArray[np.intp], wait_ms: float) -> None:
        """Let time pass."""
        self._left_ms[which] -= wait_ms
        over = which[self._left_ms[which] <= 0]
        if len(over):  # blocks in between are independent of the next one
            self._new_block(over, -self._left_ms[over] % self._block_ms)


class Losses:
    """Whether packets of many transfers at once are lost, transmission by transmission.

    Args:
        channel: The profile.
        transfers: How many.
        rng: Draws everything.
    """

    def __init__(self, channel: ChannelProfile, transfers: int, rng: np.random.Generator) -> None:
        self._loss, self._bursts, self._rng = channel.packet_loss.value, channel.bursts, rng
        if self._bursts is not None:
            good, bad = self._bursts.good_packets.value, self._bursts.bad_packets.value
            self._bad = rng.random(transfers) < bad / (good + bad)

    def lost(self, which: NDArray[np.intp]) -> NDArray[np.intp]:
        """Those whose transmission is lost."""
        drawn = self._rng.random(len(which), dtype=np.float32)
        if self._bursts is None:
            few: NDArray[np.intp] = which[drawn < self._loss]
            return few
        everyone = len(which) == len(self._bad)
        bad, b = self._bad if everyone else self._bad[which], self._bursts
        lost: NDArray[np.bool_] = drawn < np.where(bad, np.float32(b.bad_loss.value), np.float32(b.good_loss.value))
        leaves = np.where(bad, np.float32(1 / b.bad_packets.value), np.float32(1 / b.good_packets.value))
        self._bad[which] = bad ^ (self._rng.random(len(which), dtype=np.float32) < leaves)
        return which[lost]


def simulated_ms(channel: ChannelProfile, mean_bytes: float, p95_bytes: float, result_bytes: float, transfers: int,
                 rng: np.random.Generator) -> Array:
    """Uplink and answer of many transfers, packet by packet, milliseconds, shape (transfers,).

    Args:
        channel: The profile; its rate may fade, but not follow a trace.
        mean_bytes: Mean payload.
        p95_bytes: Its 95th percentile over images, of a normal distribution.
        result_bytes: Size of the answer.
        transfers: How many.
        rng: Draws everything.
    """
    z95 = NormalDist().inv_cdf(0.95)
    sigma = (p95_bytes - mean_bytes) / z95
    payloads = np.maximum(mean_bytes + sigma * rng.standard_normal(transfers), 0.0)
    fades = channel.rayleigh is not None or channel.shadowing is not None
    total = np.zeros(transfers)
    up = (channel.uplink_kbps.value, payloads, Fading(channel, transfers, rng) if fades else None)
    down = (channel.downlink_kbps.value, np.full(transfers, result_bytes), None)
    for kbps, sizes, fading in (up, down):
        p50, p95 = channel.access_ms_p50.value, channel.access_ms_p95.value
        if p50 > 0:
            total += p50 * (p95 / p50) ** (rng.standard_normal(transfers) / z95)
        losses, left = Losses(channel, transfers, rng), sizes.copy()
        which, bits = np.arange(transfers), np.zeros(transfers)
        while len(which):
            # where all of them send, a slice costs far less than an index
            sending: slice | NDArray[np.intp] = slice(None) if len(which) == transfers else which
            size = np.minimum(left[sending], channel.packet_bytes.value)
            left[sending] -= size
            bits[sending] = 8 * (size + channel.packet_overhead_bytes.value)
            trying = which
            which = which[left[sending] > 0]
            while len(trying):
                at: slice | NDArray[np.intp] = slice(None) if len(trying) == transfers else trying
                total[at] += bits[at] / kbps if fading is None else fading.send(trying, bits[at])
                trying = losses.lost(trying)
                total[trying] += channel.retransmit_ms.value
                if fading is not None:
                    fading.wait(trying, channel.retransmit_ms.value)
    return total


def simulated(channel: ChannelProfile, payload: float, spread: float, transfers: int, seed: int) -> dict[str, Any]:
    """Quantiles, and the share of transfers that are in time for deadlines around them, below and up to each."""
    rng = np.random.default_rng([seed, int(payload), round(100 * spread), *channel.name.encode()])
    times = np.sort(np.concatenate([
        simulated_ms(channel, payload, spread * payload, RESULT_BYTES, min(_CHUNK, transfers - start), rng)
        for start in range(0, transfers, _CHUNK)]))
    quantiles = np.quantile(times, LEVELS)
    deadlines = np.array([f * q for q in quantiles for f in AROUND])
    # where a deadline is a possible latency to the last bit, either side of it is right
    below, until = (np.searchsorted(times, deadlines * f) / transfers for f in (1 - 1e-9, 1 + 1e-9))
    return {"channel": channel.name, "payload_bytes": payload, "p95_over_mean": spread, "transfers": transfers,
            "quantiles_ms": quantiles.tolist(), "deadlines_ms": deadlines.tolist(), "below": below.tolist(),
            "until": until.tolist()}


def compared(case: dict[str, Any], base: Conditions) -> dict[str, Any]:
    """One row of `quantiles.csv`: the model beside what `simulated` gave."""
    channel = load_profile(ChannelProfile, case["channel"])
    conditions = [base.model_copy(update={"channel": channel, "budget_ms": d}) for d in case["deadlines_ms"]]
    answer = AnalyticLatencyModel().latency([workload(case["payload_bytes"], case["p95_over_mean"])], conditions)
    in_time = answer.in_time[0]
    off = np.maximum(np.maximum(np.array(case["below"]) - in_time, in_time - np.array(case["until"])), 0.0)
    row = {name: case[name] for name in ("channel", "payload_bytes", "p95_over_mean", "transfers")}
    for name, expected in zip(("p50_ms", "p95_ms", "p99_ms"), case["quantiles_ms"], strict=True):
        found = getattr(answer, name).item(0)
        row |= {name: round(found, 3), f"{name}_simulated": round(expected, 3),
                f"{name[:3]}_off_percent": round(100 * abs(found / expected - 1), 3)}
    return row | {"in_time_off_points": round(100 * off.max().item(), 3)}


def workload(payload: float, spread: float) -> Workload:
    """A plan that only sends."""
    from autosplit.testing import make_plan

    return Workload(plan=make_plan(), payload_bytes_mean=payload, payload_bytes_p95=spread * payload,
                    result_bytes=RESULT_BYTES)


def processor_ms(workloads: list[Workload], conditions: Conditions) -> float:
    """Time of one call, milliseconds of the processor."""
    begun = time.process_time()
    AnalyticLatencyModel().latency(workloads, [conditions])
    return (time.process_time() - begun) * 1000


def timed(base: Conditions, plans: int, repetitions: int) -> dict[str, dict[str, dict[str, float]]]:
    """First and least further time of a call, by spread and channel."""
    results: dict[str, dict[str, dict[str, float]]] = {}
    for spread in (1.0, SPREAD):
        workloads = [workload(float(b), spread) for b in np.geomspace(30, 600_000, plans)]
        asked = {name: base.model_copy(update={"channel": load_profile(ChannelProfile, name)})
                 for name in list_profiles(ChannelProfile)}
        link_of.cache_clear()
        first = {name: processor_ms(workloads, c) for name, c in asked.items()}
        rounds = [{name: processor_ms(workloads, c) for name, c in asked.items()} for _ in range(repetitions)]
        results[f"p95 {spread} times the mean"] = {
            name: {"first_call": round(first[name]), "further_calls": round(min(r[name] for r in rounds), 1)}
            for name in asked}
    return results


def _simulated(file: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every case, from the file where it is there, simulated and written to it where it is not."""
    known = json.loads(file.read_text(encoding="utf-8"))["cases"] if file.exists() else []
    cases = {(c["channel"], c["payload_bytes"], c["p95_over_mean"]): c for c in known}
    for spread, payload in product((1.0, SPREAD), PAYLOADS_BYTES):
        for name in list_profiles(ChannelProfile):
            if (name, payload, spread) not in cases and payload <= options.largest:
                channel = load_profile(ChannelProfile, name)
                found = simulated(channel, payload, spread, options.transfers, options.seed)
                cases[name, payload, spread] = found
                print(name, payload, spread, *found["quantiles_ms"], flush=True)
                write_json(file, {"cases": list(cases.values())})
    return list(cases.values())


def main() -> None:
    """Run the benchmark that the options ask for."""
    options_parser = parser(__doc__)
    options_parser.add_argument("--transfers", type=int, default=1_000_000)
    options_parser.add_argument("--largest", type=float, default=max(PAYLOADS_BYTES), help="payload, bytes")
    options_parser.add_argument("--plans", type=int, default=2000)
    options_parser.add_argument("--repetitions", type=int, default=15)
    options = options_parser.parse_args()
    base = scenario_of(options).conditions
    options.out.mkdir(parents=True, exist_ok=True)
    cases = _simulated(options.out / "simulated.json", options)
    frame = pd.DataFrame([compared(case, base) for case in cases])
    frame.to_csv(options.out / "quantiles.csv", index=False)
    off = [column for column in frame if column.endswith(("_off_percent", "_off_points"))]
    worst = {f"p95 {spread} times the mean": part[off].max().to_dict()
             for spread, part in frame.groupby("p95_over_mean")}
    processor = timed(base, options.plans, options.repetitions)
    write_json(options.out / "latency.json", {
        "worst": worst, "plans": options.plans, "processor_ms": processor})


if __name__ == "__main__":
    main()
