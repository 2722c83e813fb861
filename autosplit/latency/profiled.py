"""The latency model `profiled`: stages by a regression on timed operators, everything else as in `analytic`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from autosplit.core.arrays import Array
from autosplit.core.errors import ConfigError
from autosplit.core.measurement import StageCost
from autosplit.core.operators import KINDS, TERMS, TypeSums
from autosplit.core.profiles import DeviceProfile
from autosplit.core.timings import read_timings
from autosplit.latency.analytic import AnalyticLatencyModel, table_of, times_ms
from autosplit.latency.regression import fit_prices

__all__ = ["ProfiledLatencyModel"]

_COMMAND = "autosplit profile --backbone NAME --image-shape CxHxW --out my-machine.yaml"
_NONE = TypeSums().flat


class ProfiledLatencyModel(AnalyticLatencyModel):
    """Stages from the timings that both profiles, device and edge, have in their block `timings`.

    An operator's time is linear in terms of its shape, with prices for each operator type
    (`autosplit.latency.regression`), so layers that were never timed are predicted too. Entropy coding, image files,
    channel, percentiles and energy are those of `analytic`.
    """

    def stages_ms(self, costs: Sequence[StageCost], machines: Sequence[DeviceProfile]) -> Array:
        """As `AnalyticLatencyModel.stages_ms`.

        Raises:
            ConfigError: A machine has no timings, or none of an operator type that occurs; or a stage's work is not
                known by operator type.
        """
        counted: list[tuple[float, ...]] = []
        for cost in costs:
            sums = _NONE if cost.by_type is None else cost.by_type.flat
            if sum(sums[::len(TERMS)]) != cost.operators:
                raise ConfigError("its work is not known by operator type, as it was counted before that was kept; "
                                  "measure it again, or take the latency model 'analytic'")
            counted.append((*sums, cost.coded_symbols, cost.image_pixels))
        rows = table_of(counted, len(_NONE) + 2)
        prices = np.array([_prices(m) for m in machines], dtype=np.float64).reshape(-1, len(_NONE) + 2).T
        used = rows[:, :-2].reshape(-1, len(KINDS), len(TERMS))[:, :, 0].any(axis=0)
        for machine, column in zip(machines, prices.T, strict=True):
            # a type that no operator has needs no price
            for i in np.flatnonzero(used & np.isnan(column[:-2].reshape(len(KINDS), -1)[:, 0])):
                raise ConfigError(f"device {machine.name!r}: no operator of type {KINDS[i]!r} was timed; profile a "
                                  f"backbone that has one beside the others: {_COMMAND}")
        return times_ms(rows, np.nan_to_num(prices))


def _prices(machine: DeviceProfile) -> tuple[float, ...]:
    """Milliseconds of each sum by type, of a coded symbol and of a pixel."""
    if machine.timings is None:
        raise ConfigError(f"device {machine.name!r} has no timings; make them on that machine: {_COMMAND}")
    for name in ("coding_ksymbols", "image_kpixels"):
        if getattr(machine, name).value <= 0:
            raise ConfigError(f"device {machine.name!r}: {name} must be above 0")
    fitted = _fitted(machine.timings.file, machine.timings.sha256)
    by_type = (price / machine.timings.factor for price in fitted)
    return (*by_type, 1.0 / machine.coding_ksymbols.value, 1.0 / machine.image_kpixels.value)


@lru_cache(maxsize=32)
def _fitted(file: str, sha256: str) -> tuple[float, ...]:
    return tuple(fit_prices(read_timings(file, sha256))[0].ravel().tolist())
