"""The latency model `instructions`: what autosplit's C takes on a microcontroller; everything else as in `analytic`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autosplit.core.arrays import Array
from autosplit.core.conditions import Conditions
from autosplit.core.errors import ConfigError
from autosplit.core.measurement import StageCost, Workload
from autosplit.core.operators import TypeSums
from autosplit.core.profiles import DeviceProfile
from autosplit.latency.analytic import AnalyticLatencyModel, table_of, times_ms
from autosplit.latency.base import LatencyBreakdown

__all__ = ["InstructionsLatencyModel"]

_NONE = TypeSums().flat


class InstructionsLatencyModel(AnalyticLatencyModel):
    """Stages of the device from counted instructions (`autosplit.core.profiles.Instructions`), the rest as `analytic`.

    An operator's instructions are linear in terms of its shape, as in `profiled`, and so are known for layers that were
    never counted. Image files are not written by autosplit's C; their time is the profile's `image_kpixels`.
    """

    def latency(self, workloads: Sequence[Workload], conditions: Sequence[Conditions]) -> LatencyBreakdown:
        """See `LatencyModel.latency`.

        Raises:
            ConfigError: A device has no block `instructions`.
        """
        for condition in conditions:
            if condition.device.instructions is None:
                raise ConfigError(f"device {condition.device.name!r} has no block 'instructions'; take a profile of C "
                                  "code, such as stm32l4r5-c, or the latency model 'analytic'")
        return super().latency(workloads, conditions)

    def stages_ms(self, costs: Sequence[StageCost], machines: Sequence[DeviceProfile]) -> Array:
        """As `AnalyticLatencyModel.stages_ms`.

        Raises:
            ConfigError: A stage's work is not known by operator type.
        """
        found: Array = super().stages_ms(costs, machines)
        counted = [i for i, machine in enumerate(machines) if machine.instructions is not None]
        if not counted:
            return found
        if any(cost.operators and cost.by_type is None for cost in costs):
            raise ConfigError("its work is not known by operator type, as it was counted before that was kept; "
                              "measure it again, or take the latency model 'analytic'")
        rows = [(*(_NONE if cost.by_type is None else cost.by_type.flat), cost.coded_symbols, cost.image_pixels)
                for cost in costs]
        prices = np.array([(*m.instructions.prices_ms, 1.0 / m.image_kpixels.value)
                           for m in machines if m.instructions is not None], dtype=np.float64)
        found[:, counted] = times_ms(table_of(rows, prices.shape[1]), prices.T)
        return found
