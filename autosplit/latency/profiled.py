"""The latency model `profiled`: stages by a regression on timed operators, everything else as in `analytic`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from autosplit.core.arrays import Array
from autosplit.core.conditions import Conditions
from autosplit.core.errors import ConfigError
from autosplit.core.measurement import StageCost, Workload
from autosplit.core.operators import KINDS, TERMS, TypeSums
from autosplit.core.profiles import DeviceProfile
from autosplit.core.regression import fit_prices
from autosplit.core.timings import read_timings
from autosplit.latency.analytic import AnalyticLatencyModel, table_of, times_ms, unit_cost
from autosplit.latency.base import LatencyBreakdown

__all__ = ["ProfiledLatencyModel"]

_log = logging.getLogger(__name__)

_COMMAND = "autosplit profile --backbone NAME --image-shape CxHxW --out my-machine.yaml"
_NONE = TypeSums().flat


class ProfiledLatencyModel(AnalyticLatencyModel):
    """Stages of a device and of an edge that have a block `timings`; those of other machines by their rates.

    An operator's time is linear in terms of its shape, with prices for each operator type
    (`autosplit.core.regression`), so layers that were never timed are predicted too; a type that was never timed goes
    by the machine's rates. Entropy coding, image files, channel, percentiles and energy are those of `analytic`.
    """

    def latency(self, workloads: Sequence[Workload], conditions: Sequence[Conditions]) -> LatencyBreakdown:
        """See `LatencyModel.latency`.

        Raises:
            ConfigError: Neither device nor edge have timings.
        """
        for condition in conditions:
            if condition.device.timings is None and condition.edge.timings is None:
                raise ConfigError(f"neither device {condition.device.name!r} nor edge {condition.edge.name!r} has "
                                  f"timings; make them on that machine: {_COMMAND}")
        return super().latency(workloads, conditions)

    def stages_ms(self, costs: Sequence[StageCost], machines: Sequence[DeviceProfile]) -> Array:
        """As `AnalyticLatencyModel.stages_ms`.

        Raises:
            ConfigError: A stage's work is not known by operator type.
        """
        found: Array = super().stages_ms(costs, machines)
        timed = [i for i, machine in enumerate(machines) if machine.timings is not None]
        if not timed:
            return found
        counted: list[tuple[float, ...]] = []
        for cost in costs:
            sums = _NONE if cost.by_type is None else cost.by_type.flat
            if sum(sums[::len(TERMS)]) != cost.operators:
                raise ConfigError("its work is not known by operator type, as it was counted before that was kept; "
                                  "measure it again, or take the latency model 'analytic'")
            counted.append((*sums, cost.coded_symbols, cost.image_pixels))
        rows = table_of(counted, len(_NONE) + 2)
        used = rows[:, :-2].reshape(-1, len(KINDS), len(TERMS))[:, :, 0].sum(axis=0) > 0
        prices = np.array([_prices(machines[i], used.tolist()) for i in timed], dtype=np.float64).T
        found[:, timed] = times_ms(rows, prices)
        return found


def _prices(machine: DeviceProfile, used: Sequence[bool]) -> tuple[float, ...]:
    """Milliseconds of each sum by type, of a coded symbol and of a pixel.

    Args:
        machine: With timings.
        used: Whether there is an operator of each type; one that is priced by an assumption is told of.
    """
    assert machine.timings is not None
    conv, depthwise, linear, weight, element, operator, symbol, pixel = unit_cost(machine)
    prices = _fitted(machine.timings.file, machine.timings.sha256) / machine.timings.factor
    for kind, row, mac, is_used in zip(KINDS, prices, (conv, depthwise, linear, 0.0), used, strict=True):
        if np.isnan(row).any():
            rates = {"operators": operator, "macs": mac, "writes": element, "weights": weight}
            row[:] = [rates.get(term, 0.0) for term in TERMS]
            if is_used:
                _warn(machine.name, kind)
    return (*prices.ravel().tolist(), symbol, pixel)


@lru_cache(maxsize=256)
def _warn(machine: str, kind: str) -> None:
    """Once for each."""
    _log.warning("device %r: no operator of type %r was timed; they go by the rates of its profile, which are assumed "
                 "unless you state them", machine, kind)


@lru_cache(maxsize=32)
def _fitted(file: str, sha256: str) -> Array:
    return fit_prices(read_timings(file, sha256))[0]
