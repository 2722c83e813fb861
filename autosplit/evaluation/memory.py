"""Memory of plans on a microcontroller: what the C that `autosplit export --target c` writes will take.

RAM is the arena of the very planner that lays it out for the C code, and so equal to it to the byte; flash is weights
and tables. Both follow from shapes alone: no plan has to be trained, nor quantised, to know them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from autosplit.compression.lowering import int8_skeleton, lower_device, plan_arena, unsupported
from autosplit.compression.lowering.operations import Decision
from autosplit.compression.network import SplitNetwork
from autosplit.core.errors import ConfigError
from autosplit.core.plan import OUTPUT, CodecSetting, Plan
from autosplit.core.profiles import DeviceProfile
from autosplit.core.scenario import SearchSettings
from autosplit.core.space import PlanSpace
from autosplit.models.exits import ExitNetwork, build_classifier, classifier_structure
from autosplit.runtime.standalone.payload.coder import raw_bytes
from autosplit.runtime.standalone.payload.contexts import CONTEXTS
from autosplit.runtime.standalone.payload.header import HEADER_BYTES
from autosplit.training.supernet import Supernet

__all__ = ["CODE_BYTES", "LOGIT_BYTES", "DeviceMemory", "MemoryLimit", "MemoryUse"]

CODE_BYTES = 15_000
"""Of flash, for the C code itself: 14.5 kB on a Cortex-M4 at -O3; cores without an FPU take 7 kB more for floats."""

LOGIT_BYTES = 4
"""Of a class, where the device answers: a float32."""


@dataclass(frozen=True)
class MemoryUse:
    """What a plan takes.

    Attributes:
        ram_bytes: The arena, the logits and the longest payload.
        flash_bytes: Weights, tables and code.
    """

    ram_bytes: int
    flash_bytes: int


@dataclass(frozen=True)
class MemoryLimit:
    """What a plan may take.

    Attributes:
        ram_bytes: Of RAM; `None` = as much as it likes.
        flash_bytes: Of flash, likewise.
    """

    ram_bytes: float | None
    flash_bytes: float | None

    @classmethod
    def of(cls, settings: SearchSettings, device: DeviceProfile) -> MemoryLimit:
        """What the user allows, else what the firmware leaves of the device's memory."""
        share = 1.0 if device.network_share is None else device.network_share.value
        ram, flash = (None if kb is None else 1000 * share * kb.value for kb in (device.ram_kb, device.flash_kb))
        return cls(ram if settings.max_ram_kb is None else 1000 * settings.max_ram_kb,
                   flash if settings.max_flash_kb is None else 1000 * settings.max_flash_kb)

    def excess(self, use: MemoryUse) -> str:
        """What is too much, for people; empty where nothing is."""
        found = [f"{used / 1000:.1f} kB of {name} where {limit / 1000:.3g} are allowed"
                 for name, used, limit in (("RAM", use.ram_bytes, self.ram_bytes),
                                           ("flash", use.flash_bytes, self.flash_bytes))
                 if limit is not None and used > limit]
        return " and ".join(found)


class DeviceMemory:
    """Memory of the plans of a supernet, each looked at once.

    Args:
        supernet: Has the networks.
        image: Shape (C, H, W) of the images.
        classes: Outputs of the network.
    """

    def __init__(self, supernet: Supernet, image: tuple[int, int, int], classes: int) -> None:
        self._supernet, self._image, self._classes = supernet, image, classes
        self._programs: dict[Plan, MemoryUse | str] = {}

    def of(self, plan: Plan) -> MemoryUse | str:
        """What a plan takes, or why it cannot be written as C."""
        reason = unsupported(plan, "int8")
        if reason:
            return reason
        program, bits = self._program(plan), plan.codec.bits
        if bits is None or isinstance(program, str):
            return program
        cells, levels = self._supernet.codec(plan.place, plan.codec.family).code_shape(plan.codec), 2**bits
        payload = HEADER_BYTES + raw_bytes(cells, levels)
        tables = 2 * (cells[0] * CONTEXTS * levels + 1)  # with contexts, which not every code has
        return MemoryUse(program.ram_bytes + payload, program.flash_bytes + tables)

    def _program(self, plan: Plan) -> MemoryUse | str:
        """What a plan takes without its payload and the tables of its coder, which alone depend on bits."""
        codec = plan.codec.model_copy(update={"bits": None})
        leaving = None if plan.exit is None else plan.exit.model_copy(update={"threshold": 0.5})
        alike = plan.model_copy(update={"codec": codec, "exit": leaving})
        if alike not in self._programs:
            self._programs[alike] = self._look(plan)
        return self._programs[alike]

    def _look(self, plan: Plan) -> MemoryUse | str:
        supernet, channels = self._supernet, self._image[0]
        network = supernet.shared(plan.without_exit)
        feature = supernet.feature_shape(plan.place) if plan.split != OUTPUT else ()
        network = SplitNetwork(network.head, network.tail, network.encoder, network.quantiser, None,
                               self._exit(plan, feature))
        try:
            program = lower_device(int8_skeleton(network), plan, self._image, feature, [0.0] * channels,
                                   [1.0] * channels)
        except ConfigError as e:
            return str(e)
        logits = LOGIT_BYTES * self._classes if any(isinstance(o, Decision) for o in program.operations) else 0
        return MemoryUse(plan_arena(program).bytes + logits, program.constant_bytes + CODE_BYTES)

    def _exit(self, plan: Plan, feature: tuple[int, ...]) -> ExitNetwork | None:
        """The exit of a plan, untrained."""
        if plan.exit is None:
            return None
        if plan.exit.network is None:
            return ExitNetwork(build_classifier(classifier_structure(feature, self._classes)), whole=False)
        return ExitNetwork(copy.deepcopy(self._supernet.shared(plan.exit.network).head), whole=True)

    def excess(self, plan: Plan, limit: MemoryLimit) -> str:
        """Why a plan cannot run on a device with so much memory; empty where it can."""
        found = self.of(plan)
        return found if isinstance(found, str) else limit.excess(found)

    def extremes(self, place: str, space: PlanSpace) -> tuple[Plan, Plan]:
        """The plans of a place that take the least and the most RAM."""
        groups = _by_size(space.codecs[place])
        few, many = max(space.sparsities[place]), min(space.sparsities[place])
        least = [Plan.at(place, few, group[-1][-1]) for group in groups]
        most = [Plan.at(place, many, group[0][0]) for group in groups]

        def ram(plan: Plan) -> int:
            use = self.of(plan)
            return 0 if isinstance(use, str) else use.ram_bytes

        return min(least, key=ram), max(most, key=ram)

    def fitting(self, space: PlanSpace, limit: MemoryLimit) -> PlanSpace:
        """The plans of a space that can be written as C and fit into memory.

        What is on offer stays a product of heads and codes at each place: of all such products the one with most plans.

        Raises:
            ConfigError: None does; the message says what the smallest plan lacks.
        """
        splits, sparsities, codecs, reasons = [], {}, {}, []
        for place in space.splits:
            heads = sorted(space.sparsities[place])
            kept, codes = heads, self._codes(place, heads[0], space, limit)
            for i, head in enumerate(heads[1:], start=1):
                fewer = heads[i:]
                if len(fewer) * len(space.codecs[place]) <= len(kept) * len(codes):
                    break  # what fits behind a head fits behind those that are pruned more
                more = self._codes(place, head, space, limit)
                if len(fewer) * len(more) > len(kept) * len(codes):
                    kept, codes = fewer, more
            if codes:
                splits.append(place)
                sparsities[place], codecs[place] = tuple(kept), codes
            else:
                smallest, _ = self.extremes(place, space)
                reasons.append(f"{place}: {self.excess(smallest, limit)}")
        if not splits:
            why = f" ({reasons[-1]})" if reasons else ""
            raise ConfigError(f"no plan of this scenario fits on the device as C{why}; raise search.max_ram_kb or "
                              "search.max_flash_kb, allow more sparsity with space.sparsities, or take another device")
        return PlanSpace(tuple(splits), sparsities, codecs)

    def _codes(self, place: str, sparsity: float, space: PlanSpace, limit: MemoryLimit) -> tuple[CodecSetting, ...]:
        """The codes that fit behind a head."""
        def fits(code: CodecSetting) -> bool:
            return not self.excess(Plan.at(place, sparsity, code), limit)

        offered: list[CodecSetting] = []
        for family in _by_size(space.codecs[place]):
            if not fits(family[-1][-1]):
                continue
            for number, alike in enumerate(family):
                first = next((i for i, code in enumerate(alike) if fits(code)), len(alike))
                offered += alike[first:]
                if not first:  # narrower ones fit too
                    offered += chain.from_iterable(family[number + 1:])
                    break
        return tuple(code for code in space.codecs[place] if code in offered)


def _by_size(codecs: Sequence[CodecSetting]) -> list[list[list[CodecSetting]]]:
    """Settings by kind, family and grid, widest first, and of one width those with most bits first.

    More channels take more memory, and so do more bits, all else being equal.
    """
    found: dict[tuple[str, str | None, int | None], dict[int, list[CodecSetting]]] = {}
    for codec in sorted(codecs, key=lambda c: (c.width or 0, c.bits or 0), reverse=True):
        found.setdefault((codec.kind, codec.family, codec.grid), {}).setdefault(codec.width or 0, []).append(codec)
    return [list(family.values()) for family in found.values()]
