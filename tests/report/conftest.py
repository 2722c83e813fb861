"""Outcomes and rows as a search on the STM32 example gives them, made up but plausible."""

import math
import random
from typing import NamedTuple

import pytest
from matplotlib.transforms import BboxBase

from autosplit.core.comparison import ComparisonRow
from autosplit.core.measurement import LatencySummary, Measurement, Outcome, StageCost, Workload
from autosplit.core.plan import CodecSetting, Plan
from autosplit.report import labels

BUDGET_MS = 100.0
# split point: (fp32 feature bytes, MACs of the unpruned head, best accuracy)
SPLITS = {"conv1": (65536, 0.5e6, 0.90), "layer1": (65536, 5.2e6, 0.955), "layer2": (32768, 9.0e6, 0.965),
          "layer3": (16384, 12.4e6, 0.97)}


def latency(p50_ms, p95_ms=None, budget_ms=BUDGET_MS, device_ms=30.0):
    p95_ms = p50_ms * 1.15 if p95_ms is None else p95_ms
    in_time = 0.5 - 0.5 * math.tanh((p95_ms - budget_ms) / (0.02 * budget_ms))
    return LatencySummary(device_ms=device_ms, encode_ms=0.7, uplink_ms=max(p50_ms - device_ms - 3, 0),
                          edge_ms=0.8, downlink_ms=1.5, p50_ms=p50_ms, p95_ms=p95_ms, in_time=in_time,
                          energy_mj=0.05 * p50_ms)


def outcome(split="layer1", sparsity=0.5, width=8, bits=2, accuracy=0.9, p50_ms=70.0, p95_ms=None,
            fidelity="F1", budget_ms=BUDGET_MS):
    plan = Plan(split=split, sparsity=sparsity, codec=CodecSetting(kind="code", width=width, grid=4, bits=bits))
    feature, macs, _ = SPLITS.get(split, (65536, 5e6, 0.9))
    payload = width * 16 * bits / 8 * 0.9
    work = Workload(plan=plan, device=StageCost(conv_macs=macs * (1 - sparsity)), payload_bytes_mean=payload,
                    payload_bytes_p95=payload * 1.1)
    measurement = Measurement(plan=plan, accuracy=accuracy, workload=work, feature_bytes=feature,
                              fidelity=fidelity, images=1024, seconds=0.9)
    times = latency(p50_ms, p95_ms, budget_ms)
    return Outcome(measurement=measurement, latency=times, budget_ms=budget_ms, reward=accuracy * times.in_time)


def synthetic_outcomes(count=150, seed=0):
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        split = draw.choice(list(SPLITS))
        _, macs, top = SPLITS[split]
        sparsity, width, bits = draw.choice([0, 0.25, 0.5, 0.75]), draw.choice([2, 4, 8, 16]), draw.choice([2, 4, 6])
        payload = width * 16 * bits / 8 * 0.9
        p50 = 22 + macs * (1 - sparsity) / 77e3 + payload * 8 / 50 * 1.5
        loss = 0.25 * sparsity**3 + 0.6 / (width * bits) + abs(draw.gauss(0, 0.01))
        found.append(outcome(split, sparsity, width, bits, max(0.3, top - loss), p50))
    return found


def row(name, accuracy, payload, p50_ms, p95_ms, plan="input | 0 % pruned | png", **more):
    ratios = {} if payload == 0 else {"ratio_to_feature": 12288 / payload, "ratio_to_png": 2065 / payload,
                                      "ratio_to_jpeg": 908 / payload}
    return ComparisonRow(name=name, plan=plan, accuracy=accuracy, accuracy_loss_points=(0.961 - accuracy) * 100,
                         payload_bytes=payload, device_macs=12.5e6, latency=latency(p50_ms, p95_ms),
                         feasible=p95_ms <= BUDGET_MS, **{**ratios, **more})


@pytest.fixture
def make_outcome():
    return outcome


@pytest.fixture
def make_outcomes():
    return synthetic_outcomes


@pytest.fixture
def outcomes():
    return synthetic_outcomes()


@pytest.fixture
def best(outcomes):
    return max((o for o in outcomes if o.feasible), key=lambda o: o.reward)


@pytest.fixture
def rows(best):
    return [
        row("whole network on device", 0.961, 0, 227.0, 227.0, "output | 0 % pruned | none", speed_up=0.75),
        row("raw image (PNG)", 0.961, 2065, 348.0, 380.0, speed_up=0.45),
        row("JPEG q75", 0.958, 908, 158.0, 170.0, "input | 0 % pruned | jpeg q75", speed_up=1.0),
        row("split, no compression", 0.961, 65536, 9200.0, 10000.0, "layer1 | 0 % pruned | raw", speed_up=0.017),
        row("autosplit", best.measurement.accuracy - 0.006, 59, best.latency.p50_ms, best.latency.p95_ms,
            best.plan.label, speed_up=170 / best.latency.p95_ms, chosen=True),
    ]


class DrawnLabel(NamedTuple):
    text: str
    box: BboxBase  # of the text alone, without its arrow; pixels, as is the next
    frame: BboxBase  # of the axes it is in


@pytest.fixture
def drawn_labels(monkeypatch):
    """A function that gives the labels which figures were given up to then."""
    seen, make = [], labels.annotate

    def spy(axes, mark, offset, renderer):
        size = make(axes, mark, offset, renderer)
        if offset is not None:
            seen.append((axes.texts[-1], axes, renderer))
        return size

    monkeypatch.setattr(labels, "annotate", spy)
    return lambda: [DrawnLabel(text.get_text(), super(type(text), text).get_window_extent(renderer), axes.bbox)
                    for text, axes, renderer in seen]
