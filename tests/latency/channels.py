"""Channels and workloads whose every formula can be done by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from autosplit.core.conditions import Conditions
from autosplit.core.measurement import Workload
from autosplit.core.profiles import ChannelProfile
from autosplit.latency import LatencyBreakdown
from autosplit.latency.analytic import AnalyticLatencyModel
from autosplit.latency.channel.link import LEVELS
from autosplit.testing import make_conditions, make_plan

CLEAN = {"uplink_kbps": 100, "downlink_kbps": 50, "packet_bytes": 200, "packet_overhead_bytes": 25,
         "access_ms_p50": 0, "access_ms_p95": 0, "packet_loss": 0, "retransmit_ms": 7, "transmit_mw": 80,
         "receive_mw": 10}
"""No access delay, no loss."""


def figures(**values: float) -> dict[str, Any]:
    return {name: {"value": value, "source": "test"} for name, value in values.items()}


SHANNON = figures(bandwidth_khz=50, snr_db=10, efficiency=0.5)


def moving(**blocks: Any) -> ChannelProfile:
    """The clean channel with blocks in place of its rate or loss; a plain number is a figure."""
    plain = {name: value for name, value in blocks.items() if isinstance(value, int | float)}
    told = {"uplink_kbps"} if {"shannon", "trace"} & set(blocks) else set()
    told |= {"packet_loss"} if "bursts" in blocks else set()
    kept = figures(**{name: value for name, value in (CLEAN | plain).items() if name not in told - set(plain)})
    return ChannelProfile.model_validate({"name": "test", "title": "test", **kept, **blocks, **figures(**plain)})


def bursts(good_loss: float, bad_loss: float, good_packets: float, bad_packets: float) -> dict[str, Any]:
    return figures(good_loss=good_loss, bad_loss=bad_loss, good_packets=good_packets, bad_packets=bad_packets)


def trace(folder: Path, rows: list[tuple[float, float]]) -> dict[str, Any]:
    """The block of a trace of these times and rates, written into a folder."""
    file = folder / "trace.csv"
    file.write_text("time_s,rate_kbps\n" + "".join(f"{t},{r}\n" for t, r in rows))
    return {"file": str(file), "source": "test"}


def sending(payload_bytes: float, p95: float | None = None, result_bytes: float = 0) -> Workload:
    return Workload(plan=make_plan(), payload_bytes_mean=payload_bytes,
                    payload_bytes_p95=payload_bytes if p95 is None else p95, result_bytes=result_bytes)


def over(channel: ChannelProfile, *workloads: Workload, budget_ms: float = 1000) -> LatencyBreakdown:
    conditions: Conditions = make_conditions(budget_ms=budget_ms).model_copy(update={"channel": channel})
    return AnalyticLatencyModel().latency(list(workloads), [conditions])


def assert_percentiles_of(answer: LatencyBreakdown, times_ms: Any, sigmas: float = 3) -> None:
    """The percentiles are those of simulated latencies, as closely as so many can tell, and to a level of the model."""
    for level, found in ((0.5, answer.p50_ms), (0.95, answer.p95_ms), (0.99, answer.p99_ms)):
        excess_ms = np.array(times_ms) - found.item()
        faster, slower = np.mean(excess_ms < -1e-6), np.mean(excess_ms > 1e-6)
        slack = sigmas * (level * (1 - level) / len(times_ms)) ** 0.5 + 1 / LEVELS
        assert faster <= level + slack, f"p{level * 100:g}: {faster:.1%} are faster"
        assert slower <= 1 - level + slack, f"p{level * 100:g}: {slower:.1%} are slower"
