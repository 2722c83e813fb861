"""A plan space with accuracies made by formula: shaped like ResNet-8 on a small microcontroller, instantly measured.

Accuracy saturates in payload bytes, falls with sparsity, and deeper features need fewer bytes; a fixed noise of
the size of a validation set's stands on top, so that the optimum is no smooth peak.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from autosplit.core.conditions import Conditions
from autosplit.core.measurement import Measurement, StageCost, Workload
from autosplit.core.parameters import Parameter
from autosplit.core.plan import CodecSetting, Plan
from autosplit.core.profiles import ChannelProfile, DeviceProfile
from autosplit.core.scenario import Scenario
from autosplit.evaluation.table import TableEvaluator
from autosplit.latency.base import LatencyBreakdown


@dataclass(frozen=True)
class _Split:
    name: str
    macs: float  # of the unpruned head
    channels: int
    grid: int
    bytes_needed: float  # payload at which the code has cost most of its accuracy
    fragility: float  # accuracy share lost when the head is pruned away


SPLITS = (
    _Split("stem", 0.44e6, 16, 32, 400.0, 0.15),
    _Split("layer1", 5.2e6, 16, 32, 260.0, 0.25),
    _Split("layer2", 8.8e6, 32, 16, 110.0, 0.40),
    _Split("layer3", 12.5e6, 64, 8, 35.0, 0.60),
)
WHOLE_MACS = 12.5e6
BACKBONE = 0.965
SPARSITIES = (0.0, 0.25, 0.5, 0.625, 0.75, 0.875)


def make_table(
    *,
    splits: Sequence[str] = ("stem", "layer1", "layer2", "layer3"),
    sparsities: Sequence[float] = SPARSITIES,
    widths: Sequence[int] = (2, 4, 8, 16, 32),
    grids: Sequence[int] = (8, 4, 2),
    bits: Sequence[int] = (2, 4, 6, 8),
    ends: bool = True,
    noise: float = 0.004,
    seed: int = 0,
) -> TableEvaluator:
    """About 1,450 plans with the default arguments."""
    rng = np.random.default_rng(seed)
    rows = []
    if ends:
        qualities = (None, 10, 30, 50, 75, 90, 95)
        rows += [_image(q, rng, noise) for q in qualities]
    for split in SPLITS:
        if split.name in splits:
            codecs = [CodecSetting(kind="code", width=w, grid=g, bits=b) for w in widths for g in grids for b in bits]
            rows += [_code(split, s, c, rng, noise) for s in sparsities for c in codecs]
    if ends:
        rows += [_whole(s, rng, noise) for s in sparsities]
    return TableEvaluator(rows)


def small_table() -> TableEvaluator:
    """61 plans."""
    return make_table(splits=("layer1", "layer2"), sparsities=(0.0, 0.5, 0.75), widths=(4, 16), grids=(4, 2),
                      bits=(2, 6), ends=True)


def _code(split: _Split, sparsity: float, codec: CodecSetting, rng: np.random.Generator, noise: float) -> Measurement:
    assert codec.width
    assert codec.grid
    assert codec.bits
    symbols = codec.width * codec.grid**2
    payload = 8 + symbols * codec.bits / 8 * (0.9 - 0.03 * codec.bits)
    kept = 1 - split.fragility * sparsity**3
    coded = 1 - 0.9 * np.exp(-((payload / split.bytes_needed) ** 0.5) * 2.2)
    coded *= {2: 0.97, 4: 0.995}.get(codec.bits, 1.0)
    coded *= 1 - 0.25 * np.exp(-codec.width / 3.0)
    accuracy = 0.1 + (BACKBONE - 0.1) * kept * coded
    macs = split.macs * (1 - sparsity) ** 1.4
    plan = Plan(split=split.name, sparsity=sparsity, codec=codec)
    encoder = 9.0 * split.channels * codec.width * codec.grid**2
    work = Workload(
        plan=plan,
        device=StageCost(conv_macs=macs, activation_elements=macs / 100, operators=8),
        encode=StageCost(conv_macs=encoder, coded_symbols=symbols, operators=2),
        edge=StageCost(conv_macs=WHOLE_MACS - split.macs + encoder, operators=20),
        payload_bytes_mean=payload, payload_bytes_p95=payload * 1.1, result_bytes=2)
    return _measured(work, accuracy, rng, noise, feature_bytes=4.0 * split.channels * split.grid**2)


def _image(quality: int | None, rng: np.random.Generator, noise: float) -> Measurement:
    codec = CodecSetting(kind="jpeg", quality=quality) if quality else CodecSetting(kind="png")
    payload = 2065.0 if quality is None else 380 + 560 * (quality / 75) ** 2
    accuracy = BACKBONE * (1 - 0.35 * np.exp(-(quality or 200) / 25))
    work = Workload(plan=Plan(split="input", codec=codec), encode=StageCost(image_pixels=1024),
                    edge=StageCost(conv_macs=WHOLE_MACS, operators=25),
                    payload_bytes_mean=payload, payload_bytes_p95=payload * 1.2, result_bytes=2)
    return _measured(work, accuracy, rng, noise, feature_bytes=4.0 * 3 * 1024)


def _whole(sparsity: float, rng: np.random.Generator, noise: float) -> Measurement:
    macs = WHOLE_MACS * (1 - sparsity) ** 1.4
    work = Workload(plan=Plan(split="output", sparsity=sparsity, codec=CodecSetting(kind="none")),
                    device=StageCost(conv_macs=macs, linear_macs=640, activation_elements=macs / 100, operators=25))
    return _measured(work, BACKBONE * (1 - 0.65 * sparsity**3), rng, noise)


def _measured(work: Workload, accuracy: float, rng: np.random.Generator, noise: float,
              feature_bytes: float = 0.0) -> Measurement:
    noisy = float(np.clip(accuracy + rng.normal(0, noise), 0, 1))
    return Measurement(plan=work.plan, accuracy=noisy, workload=work, feature_bytes=feature_bytes, images=1024)


def _figure(value: float) -> Parameter:
    return Parameter(value=value, source="made up for the tests", assumption=True)


def make_machine(name: str, mmacs: float, milliwatts: float) -> DeviceProfile:
    figures = {
        "conv_mmacs": mmacs, "depthwise_mmacs": mmacs / 5, "linear_mmacs": mmacs / 3, "memory_mb_per_s": mmacs * 4,
        "operator_overhead_us": 20.0, "coding_ksymbols": mmacs * 20, "image_kpixels": mmacs * 10,
        "active_mw": milliwatts, "idle_mw": milliwatts / 10,
    }
    return DeviceProfile(name=name, title=name, arithmetic="int8", **{k: _figure(v) for k, v in figures.items()})


def make_conditions(budget_ms: float = 100.0, *, device_mmacs: float = 55.0, uplink_kbps: float = 50.0) -> Conditions:
    """A Cortex-M4 of 45 mW, a 50 kb/s radio, an edge server."""
    figures = {
        "uplink_kbps": uplink_kbps, "downlink_kbps": uplink_kbps, "packet_bytes": 255.0, "packet_overhead_bytes": 12.0,
        "access_ms_p50": 4.0, "access_ms_p95": 8.0, "packet_loss": 0.01, "retransmit_ms": 10.0, "transmit_mw": 60.0,
        "receive_mw": 20.0,
    }
    channel = ChannelProfile(name="radio", title="radio", **{k: _figure(v) for k, v in figures.items()})
    return Conditions(device=make_machine("mcu", device_mmacs, 45.0), edge=make_machine("server", 2e4, 1e4),
                      channel=channel, budget_ms=budget_ms)


def make_scenario(budget_ms: float = 100.0) -> Scenario:
    return Scenario(backbone="synthetic", dataset="synthetic", conditions=make_conditions(budget_ms))


class PlainLatency:
    """Work over rate plus bytes over rate, with a lognormal spread: enough of a latency model for tests."""

    SPREAD = 0.06

    def latency(self, workloads: Sequence[Workload], conditions: Sequence[Conditions]) -> LatencyBreakdown:
        def column(values: list[float]) -> np.ndarray:
            return np.array(values)[:, None]

        def row(values: list[float]) -> np.ndarray:
            return np.array(values)[None, :]

        device_rate = row([c.device.conv_mmacs.value for c in conditions]) * 1e3
        edge_rate = row([c.edge.conv_mmacs.value for c in conditions]) * 1e3
        coding = row([c.device.coding_ksymbols.value for c in conditions])
        device = column([w.device.macs for w in workloads]) / device_rate
        encode = column([w.encode.macs for w in workloads]) / device_rate + column(
            [w.encode.coded_symbols for w in workloads]) / coding
        edge = column([w.edge.macs for w in workloads]) / edge_rate
        payload = column([w.payload_bytes_mean for w in workloads])
        packets = np.ceil(payload / row([c.channel.packet_bytes.value for c in conditions]))
        on_air = (payload + packets * row([c.channel.packet_overhead_bytes.value for c in conditions])) * 8
        access = row([c.channel.access_ms_p50.value for c in conditions])
        uplink = on_air / row([c.channel.uplink_kbps.value for c in conditions]) + access * (packets > 0)
        downlink = 0.5 * access * (packets > 0)
        p50 = device + encode + uplink + edge + downlink
        budget = row([c.budget_ms for c in conditions])
        in_time = norm.cdf(np.log(budget / p50) / self.SPREAD)
        energy = (device + encode) * 0.045 + uplink * 0.06
        return LatencyBreakdown(device, encode, uplink, edge, downlink, p50_ms=p50,
                                p95_ms=p50 * np.exp(1.645 * self.SPREAD), in_time=in_time, energy_mj=energy)
