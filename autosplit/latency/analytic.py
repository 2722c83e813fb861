"""The built-in latency model: counted work over effective rates, payload bytes over a packet radio.

    stage  = conv_macs / r_conv + depthwise_macs / r_depthwise + linear_macs / r_linear
             + (weights + activations) * element_bytes / bandwidth + operators * overhead
             + coded_symbols / r_coding + image_pixels / r_image
    uplink = access + airtime + retries * retransmit, where the integral of the rate over the airtime is the sum over
             packets and tries of (bytes + overhead)
    energy = active * (device + encode) + (idle + transmit) * airtime
             + (idle + receive) * (access + waits before retransmission + edge + downlink)
             + tail_mw * tail_ms

Of a plan with an exit all but `device` is paid for the share of the images that is sent (`autosplit.latency.exits`).

Compute and memory time are added, not overlapped (no roofline): an in-order microcontroller does not overlap them,
elsewhere the sum is at most twice the larger, and the rates of the packaged profiles are solved from published
latencies *with* this sum, so it reproduces those. `docs/latency.md` has the sources.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from autosplit.core.arrays import Array
from autosplit.core.errors import ConfigError
from autosplit.core.measurement import StageCost, Workload
from autosplit.core.profiles import DeviceProfile
from autosplit.latency.base import LatencyBreakdown
from autosplit.latency.channel.link import COARSE, FINE, Link, link_of, sizes_bytes
from autosplit.latency.exits import level_of_sent
from autosplit.latency.random import quantile

if TYPE_CHECKING:
    from autosplit.core.conditions import Conditions

__all__ = ["AnalyticLatencyModel", "stage_ms", "table_of", "times_ms", "unit_cost"]

_COUNTS = ("conv_macs", "depthwise_macs", "linear_macs", "weight_elements", "activation_elements", "operators",
           "coded_symbols", "image_pixels")
# of an instance's fields as a dictionary, which takes a quarter of the time of so many attributes
_counts = itemgetter(*_COUNTS)
_parts = itemgetter("device", "encode", "edge")
_payload = itemgetter("payload_bytes_mean", "payload_bytes_p95", "result_bytes", "sent")
_Index = NDArray[np.intp]

_DRAWS_AT_ONCE = 2**16  # of all plans that are drawn together: a quarter of a megabyte, which stays in the cache


class AnalyticLatencyModel:
    """Latency and energy from the parameters of device and channel profiles.

    Stages on device and edge are deterministic; chance comes from channel access (log-normal through the profile's
    p50 and p95), payload size over images (normal through the plan's mean and p95), packet loss (geometric tries, or
    bursts) and, where the profile has it, a rate that fades or follows a trace. The draws are fixed and
    shared by all plans and conditions (`autosplit.latency.random`), so the model has no state: equal arguments give
    equal answers, one by one or together.
    """

    knows_exits = True
    _resolution = FINE

    @property
    def coarse(self) -> AnalyticLatencyModel:
        """The same model, quicker and less exact, for many channels that are asked about once each."""
        model = copy.copy(self)
        model._resolution = COARSE
        return model

    def latency(self, workloads: Sequence[Workload], conditions: Sequence[Conditions]) -> LatencyBreakdown:
        """See `LatencyModel.latency`.

        Raises:
            ConfigError: A rate of a profile is zero or its percentiles contradict each other.
        """
        fields = [vars(w) for w in workloads]
        payloads = table_of([_payload(f) for f in fields], 4)
        heads, encoders, tails = zip(*map(_parts, fields), strict=True) if fields else ((), (), ())
        sent = payloads[:, 0] > 0
        devices, edges = [c.device for c in conditions], [c.edge for c in conditions]
        device, encode = self.stages_ms(heads, devices), self.stages_ms(encoders, devices)
        edge = np.where(sent[:, None], self.stages_ms(tails, edges), 0.0)
        local = device + encode
        budget = np.array([c.budget_ms for c in conditions], dtype=np.float64)
        active = np.array([c.device.active_mw.value for c in conditions], dtype=np.float64)
        shares = payloads[:, 3]
        energy = (device + shares[:, None] * encode) * active / 1000.0
        uplink, downlink, transmit, wait, tail = (np.zeros_like(local) for _ in range(5))
        answer = LatencyBreakdown(
            device, encode, uplink, edge, downlink, p50_ms=local.copy(), p95_ms=local.copy(),
            in_time=(local <= budget).astype(np.float64), energy_mj=energy.copy(), p99_ms=local.copy(),
            compute_mj=energy, transmit_mj=transmit, wait_mj=wait, tail_mj=tail,
        )
        mean, result_bytes = payloads[:, 0], payloads[:, 2]
        # a strongly skewed sample may have its 95th percentile below its mean: it counts as one of a single size
        p95 = np.maximum(payloads[:, 1], mean)
        block = _DRAWS_AT_ONCE // self._resolution.levels
        for result in np.unique(result_bytes[sent]).tolist():  # few sizes of answers
            for varies in (False, True):
                plans = np.flatnonzero(sent & (result_bytes == result) & ((p95 > mean) == varies))
                blocks = [plans[start:start + block] for start in range(0, len(plans), block)]
                for i, c in enumerate(conditions if len(plans) else ()):
                    link = link_of(c.channel, result, self._resolution)
                    for rows in blocks:
                        sizes = sizes_bytes(mean[rows], p95[rows], self._resolution) if varies else mean[rows, None]
                        _add_link(answer, rows, i, c, link, sizes, shares[rows])
        return answer

    def stages_ms(self, costs: Sequence[StageCost], machines: Sequence[DeviceProfile]) -> Array:
        """Time of P stages on C machines, milliseconds, shape (P, C); what `profiled` replaces.

        Raises:
            ConfigError: A rate of a profile is zero.
        """
        prices: Array = np.array([unit_cost(m) for m in machines], dtype=np.float64).reshape(-1, len(_COUNTS)).T
        return times_ms(table_of([_counts(vars(c)) for c in costs], len(_COUNTS)), prices)


def stage_ms(cost: StageCost, device: DeviceProfile) -> float:
    """Time of one stage on one machine, milliseconds.

    Args:
        cost: Counted work of one inference.
        device: The machine.
    """
    return float(AnalyticLatencyModel().stages_ms([cost], [device])[0, 0])


def table_of(rows: Sequence[tuple[float, ...]], columns: int) -> Array:
    """P rows as an array, shape (P, columns), also where there are none."""
    flat = np.fromiter(chain.from_iterable(rows), dtype=np.float64, count=len(rows) * columns)
    return flat.reshape(len(rows), columns)


def _add_link(answer: LatencyBreakdown, rows: _Index, column: int, conditions: Conditions, link: Link,
              sizes: Array, shares: Array) -> None:
    """Write uplink, downlink, percentiles and energy of the plans `rows` under one set of conditions."""
    channel, device = conditions.channel, conditions.device
    # medians of parts do not add up to the median of their sum, so percentiles are taken of summed draws
    total, uplink, on_air, pauses = link.sent(
        sizes, answer.device_ms[rows, column] + answer.encode_ms[rows, column] + answer.edge_ms[rows, column])
    answer.in_time[rows, column] = np.count_nonzero(total <= conditions.budget_ms, axis=1) / total.shape[1]
    answer.p50_ms[rows, column], answer.p95_ms[rows, column], answer.p99_ms[rows, column] = quantile(
        total, 0.5, 0.95, 0.99)
    answer.uplink_ms[rows, column], = quantile(uplink, 0.5)
    answer.downlink_ms[rows, column] = link.down_median_ms
    for number in np.flatnonzero(shares < 1.0).tolist():
        _let_out(answer, int(rows[number]), column, conditions, total[number], float(shares[number]))

    transmitted = (device.idle_mw.value + channel.transmit_mw.value) * on_air * shares
    waiting = link.waits_ms + pauses + answer.edge_ms[rows, column]
    waited = (device.idle_mw.value + channel.receive_mw.value) * waiting * shares
    # the tail comes after the answer: it costs energy and no time
    tail_mj = np.zeros(len(rows))
    if channel.tail_ms is not None and channel.tail_mw is not None:
        tail_mj = channel.tail_ms.value * channel.tail_mw.value / 1000.0 * shares
    answer.transmit_mj[rows, column], answer.wait_mj[rows, column] = transmitted / 1000.0, waited / 1000.0
    answer.tail_mj[rows, column] = tail_mj
    answer.energy_mj[rows, column] += (transmitted + waited) / 1000.0 + tail_mj


def _let_out(answer: LatencyBreakdown, row: int, column: int, conditions: Conditions, total: Array,
             share: float) -> None:
    """Percentiles of one plan of whose images a share is sent, the rest being answered when head and exit are done."""
    local = float(answer.device_ms[row, column])
    wanted = [level_of_sent(level, share) for level in (0.5, 0.95, 0.99)]
    later = quantile(total, *(level for level in wanted if level > 0))
    times = [local] * (len(wanted) - len(later)) + [float(value) for value in later]
    answer.p50_ms[row, column], answer.p95_ms[row, column], answer.p99_ms[row, column] = times
    answer.in_time[row, column] = share * answer.in_time[row, column] + (1 - share) * (local <= conditions.budget_ms)


def unit_cost(device: DeviceProfile) -> tuple[float, ...]:
    """Milliseconds of one unit of what the model counts on a machine.

    Returns:
        Of a multiply-accumulate of dense and depthwise convolutions and of linear layers, of an element of weights and
        of activations, of an operator, of a coded symbol and of a pixel.

    Raises:
        ConfigError: A rate of the profile is zero.
    """
    def per(name: str, units_per_ms: float) -> float:
        rate = getattr(device, name).value
        if rate <= 0:
            raise ConfigError(f"device {device.name!r}: {name} must be above 0")
        return 1.0 / (float(rate) * units_per_ms)

    element = per("memory_mb_per_s", 1e3) * device.element_bytes
    return (
        per("conv_mmacs", 1e3),
        per("depthwise_mmacs", 1e3),
        per("linear_mmacs", 1e3),
        element,
        element,
        device.operator_overhead_us.value / 1e3,
        per("coding_ksymbols", 1.0),
        per("image_kpixels", 1.0),
    )


def times_ms(counts: Array, costs: Array) -> Array:
    """(P, K) counts and (K, C) unit costs to (P, C) milliseconds.

    Added term by term: a matrix product may round differently for other shapes, and then a plan would not get the
    same answer alone and in company.
    """
    total = np.zeros((counts.shape[0], costs.shape[1]))
    for k in range(len(costs)):
        total += counts[:, k, None] * costs[k]
    return total
