"""`Conditions`: device, edge server, channel and deadline, which change without the network changing."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BeforeValidator, Field

from autosplit.core.profiles import ChannelProfile, DeviceProfile, load_profile
from autosplit.core.validation import Frozen

__all__ = ["Conditions"]

P = TypeVar("P", DeviceProfile, ChannelProfile)


def _named(kind: type[P]) -> BeforeValidator:
    """Loads a profile that is given by its name or the path of its file."""
    return BeforeValidator(lambda value: load_profile(kind, value) if isinstance(value, str) else value)


Device = Annotated[DeviceProfile, _named(DeviceProfile)]
Channel = Annotated[ChannelProfile, _named(ChannelProfile)]


class Conditions(Frozen):
    """What changes from place to place and minute to minute.

    In YAML each profile may be a name, the path of a `.yaml` file, or the profile itself.

    Attributes:
        device: The weak machine that runs the head.
        edge: The server that runs the tail.
        channel: The link between them.
        budget_ms: Deadline of one inference, end to end, milliseconds.
    """

    device: Device
    edge: Device
    channel: Channel
    budget_ms: float = Field(gt=0, allow_inf_nan=False)
