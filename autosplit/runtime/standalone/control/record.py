"""`ControllerRecord`: what a bundle's manifest holds of its controller, and the controller made of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from ..errors import BundleError
from .controller import Controller
from .network import NetworkController
from .rules import DriftPlusPenalty, FairShare, Fixed, Myopic, QueueAware, Rule

__all__ = ["NETWORK", "RULES", "ControllerRecord", "ControllerSetting"]

NETWORK: Literal["network"] = "network"
RULES: dict[str, type[Rule]] = {"fixed": Fixed, "myopic": Myopic, "queue-aware": QueueAware, "fair-share": FairShare,
                                "drift-plus-penalty": DriftPlusPenalty}
"""Rules by their names in a manifest."""

Kind = Literal["network", "fixed", "myopic", "queue-aware", "fair-share", "drift-plus-penalty"]

_CLOSED = {"extra": "forbid"}  # of the JSON Schema


@dataclass(frozen=True)
class ControllerSetting:
    """A setting of a rule.

    Attributes:
        name: Of the rule's field.
        value: 0 or 1 for one that is true or false.
    """

    __pydantic_config__: ClassVar[Any] = _CLOSED

    name: str
    value: float


@dataclass(frozen=True)
class ControllerRecord:
    """What decides over each picture of a stream, and what it was made for.

    Attributes:
        kind: A rule, or a trained network.
        settings: Of the rule.
        weights: Name of the file with the network's weights; empty for a rule.
        deadline_ms: Of every picture, from its arrival.
        buffer: Pictures that wait at most.
        sharing: Devices that share the link.
        uplink_kbps: Mean rate of the link that it was made for.
        delays_ms: Delays of both ways that no byte causes.
        packet_bytes: Payload of a packet.
        overhead_bytes: Beside that, a packet.
        in_time_accuracy: Right answers in time over all pictures, in simulated streams that nothing was chosen by.
    """

    __pydantic_config__: ClassVar[Any] = _CLOSED

    kind: Kind
    settings: tuple[ControllerSetting, ...]
    weights: str
    deadline_ms: float
    buffer: int
    sharing: int
    uplink_kbps: float
    delays_ms: float
    packet_bytes: float
    overhead_bytes: float
    in_time_accuracy: float

    @classmethod
    def settings_of(cls, controller: Controller) -> tuple[Kind, tuple[ControllerSetting, ...]]:
        """Kind and settings of a controller.

        Raises:
            TypeError: It is neither a rule nor a network.
        """
        if isinstance(controller, NetworkController):
            return NETWORK, ()
        for kind, rule in RULES.items():
            if isinstance(controller, rule):
                return kind, tuple(ControllerSetting(field.name, float(getattr(controller, field.name)))  # type: ignore[return-value]
                                   for field in dataclasses.fields(controller))
        raise TypeError(f"{type(controller).__name__} is no controller that a bundle can hold")

    def fault(self, rates: int, files: Collection[str]) -> str:
        """What does not go together; empty where everything does.

        Args:
            rates: Of the bundle.
            files: Names of its files.
        """
        if (self.kind == NETWORK) != bool(self.weights) or (self.weights and self.weights not in files):
            return f"the controller {self.kind!r} does not go with the file {self.weights!r}"
        if rates < 1:
            return "a controller does not go without rates"
        numbers = (self.deadline_ms, self.uplink_kbps, self.packet_bytes, self.buffer, self.sharing)
        if not all(0 < number < math.inf for number in numbers):
            return "numbers of the controller must be above 0"
        if not all(0 <= number < math.inf for number in (self.delays_ms, self.overhead_bytes, self.in_time_accuracy)):
            return "numbers of the controller must be at least 0"
        given = {setting.name: setting.value for setting in self.settings}
        wanted = set() if self.kind == NETWORK else {field.name for field in dataclasses.fields(RULES[self.kind])}
        if set(given) != wanted or len(given) != len(self.settings):
            return f"settings of the controller {self.kind!r} are {', '.join(sorted(given)) or 'none'}"
        if self.kind == "fixed" and given["level"] not in range(rates):
            return f"the controller names a rate that is none of the {rates}"
        return ""

    def controller(self, folder: Path) -> Controller:
        """The controller itself.

        Args:
            folder: The bundle.

        Raises:
            BundleError: Its file is absent or damaged.
        """
        if self.kind == NETWORK:
            network = NetworkController.load(folder / self.weights, error=BundleError)
            if not network.shares:  # it was trained in streams, and devices are told what those of fleets are
                raise BundleError(f"{folder / self.weights}: a network for streams; run `train-controller` again")
            return network
        rule = RULES[self.kind]
        kinds = {field.name: field.type for field in dataclasses.fields(rule)}
        convert: dict[Any, Any] = {"int": int, "bool": bool, "float": float}
        return rule(**{setting.name: convert[kinds[setting.name]](setting.value) for setting in self.settings})
