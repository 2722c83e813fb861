"""The rates of a device profile that consists of timings: what the latency model `analytic` charges for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from autosplit.core.parameters import Parameter
from autosplit.core.regression import solve_rates
from autosplit.core.timings import Timings, read_timings

__all__ = ["TIMED_RATES", "timed_rates"]

TIMED_RATES = ("conv_mmacs", "depthwise_mmacs", "linear_mmacs", "memory_mb_per_s", "operator_overhead_us")
"""The parameters of a device profile that follow from its timings."""

_FASTEST = 1e9  # a rate that stands for no cost at all

# depthwise over dense rate where none was timed, as in the packaged profiles: the ratio solved for the Cortex-M4
_DEPTHWISE_SHARE = 1 / 7


def timed_rates(timings: Timings, element_bytes: int) -> Mapping[str, Parameter]:
    """`TIMED_RATES` of a machine, each with its source.

    Args:
        timings: Of its operators.
        element_bytes: Of one weight or activation.
    """
    found = _solved(timings.file, timings.sha256, timings.source, element_bytes)
    factor = timings.factor
    return {name: p.times(1 / factor if name == "operator_overhead_us" else factor) for name, p in found.items()}


@lru_cache(maxsize=32)
def _solved(file: str, sha256: str, source: str, element_bytes: int) -> Mapping[str, Parameter]:
    timings = read_timings(file, sha256)
    source = f"{source}: solved from {len(timings)} operators of {', '.join(sorted({t.backbone for t in timings}))}"
    prices = solve_rates(timings)
    timed = {t.work.kind for t in timings}

    def rate(kind: str, units_per_ms: float) -> Parameter:
        """Rate of a price in milliseconds."""
        price = prices[kind]
        if price * _FASTEST <= units_per_ms:
            return Parameter(value=_FASTEST, source=f"{source}; the timings show no such cost")
        return Parameter(value=_rounded(units_per_ms / price), source=source)

    dense = rate("conv_macs", 1e-3)
    depthwise = rate("depthwise_macs", 1e-3) if "depthwise" in timed else Parameter(
        value=_rounded(dense.value * _DEPTHWISE_SHARE), source="a seventh of the dense rate, as no depthwise "
        "convolution was timed", assumption=True)
    linear = rate("linear_macs", 1e-3) if "linear" in timed else Parameter(
        value=dense.value, source="as dense convolutions, as no fully connected layer was timed", assumption=True)
    overhead = Parameter(value=_rounded(1e3 * prices["operators"]), source=source)
    found = (dense, depthwise, linear, rate("elements", 1e-3 * element_bytes), overhead)
    return dict(zip(TIMED_RATES, found, strict=True))


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
