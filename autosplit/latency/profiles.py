"""Device and channel profiles: small YAML files in `autosplit/configs`, each figure with its source."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autosplit.errors import ConfigError, UnknownNameError

__all__ = ["ChannelProfile", "DeviceProfile", "Figure", "list_profiles", "load_profile"]


_RATES = ("conv_mmacs", "depthwise_mmacs", "linear_mmacs", "memory_mb_per_s", "coding_ksymbols", "image_kpixels")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Figure(_Frozen):
    """A number with its source.

    Attributes:
        value: The number, in the unit that its field's name states.
        source: Where it comes from: a document, a measurement, or how it was derived from one.
        assumption: Whether no source supports it.
    """

    value: float = Field(ge=0, allow_inf_nan=False)
    source: str = Field(min_length=3)
    assumption: bool = False

    def times(self, factor: float) -> Figure:
        """The figure multiplied; no source supports the result."""
        return self.model_copy(update={"value": self.value * factor, "assumption": True})


class DeviceProfile(_Frozen):
    """How fast a device or an edge server computes, and what energy it takes.

    Rates are effective ones at batch 1 (published latency over counted work), not peaks.

    Attributes:
        name: File name without `.yaml`.
        title: One line for people.
        arithmetic: Number format that the network runs in on this machine.
        conv_mmacs: Dense convolutions, million multiply-accumulates per second.
        depthwise_mmacs: Depthwise convolutions, million multiply-accumulates per second.
        linear_mmacs: Fully connected layers, million multiply-accumulates per second.
        memory_mb_per_s: Bandwidth for weights and activations, megabytes per second.
        operator_overhead_us: Cost of launching one operator, microseconds.
        coding_ksymbols: Entropy coding, thousand symbols per second.
        image_kpixels: JPEG or PNG coding, thousand pixels per second.
        active_mw: Power while computing, milliwatts.
        idle_mw: Power while waiting for the answer, milliwatts.
    """

    name: str
    title: str
    arithmetic: Literal["int8", "fp16", "fp32"]
    conv_mmacs: Figure
    depthwise_mmacs: Figure
    linear_mmacs: Figure
    memory_mb_per_s: Figure
    operator_overhead_us: Figure
    coding_ksymbols: Figure
    image_kpixels: Figure
    active_mw: Figure
    idle_mw: Figure

    @property
    def element_bytes(self) -> int:
        """Bytes of one weight or activation in the device's arithmetic."""
        return {"int8": 1, "fp16": 2, "fp32": 4}[self.arithmetic]

    def scaled(self, rate: float) -> DeviceProfile:
        """The same machine with all rates so many times as high: a chip keeps its character."""
        update: dict[str, Figure] = {name: getattr(self, name).times(rate) for name in _RATES}
        return self.model_copy(update={**update, "operator_overhead_us": self.operator_overhead_us.times(1 / rate)})


class ChannelProfile(_Frozen):
    """A radio link between device and edge.

    Attributes:
        name: File name without `.yaml`.
        title: One line for people.
        uplink_kbps: Rate on the air from device to edge while a packet is sent, kilobits per second.
        downlink_kbps: Rate from edge to device, kilobits per second.
        packet_bytes: Largest payload of one packet, bytes.
        packet_overhead_bytes: Preamble, headers and checksum of one packet, bytes.
        access_ms_p50: Delay before a transmission may start (backoff, scheduling, one-way core network), median.
        access_ms_p95: The same, 95th percentile.
        packet_loss: Probability in [0, 1) that a packet is lost and sent again.
        retransmit_ms: Time from the loss of a packet to its next transmission, milliseconds.
        transmit_mw: Power of the radio while sending, milliwatts.
        receive_mw: Power of the radio while waiting and receiving, milliwatts.
    """

    name: str
    title: str
    uplink_kbps: Figure
    downlink_kbps: Figure
    packet_bytes: Figure
    packet_overhead_bytes: Figure
    access_ms_p50: Figure
    access_ms_p95: Figure
    packet_loss: Figure
    retransmit_ms: Figure
    transmit_mw: Figure
    receive_mw: Figure

    def scaled(self, rate: float, access: float) -> ChannelProfile:
        """A link of so many times the rates, up and down, and so many times the access delay, median and tail."""
        return self.model_copy(update={
            "uplink_kbps": self.uplink_kbps.times(rate), "downlink_kbps": self.downlink_kbps.times(rate),
            "access_ms_p50": self.access_ms_p50.times(access), "access_ms_p95": self.access_ms_p95.times(access)})


P = TypeVar("P", DeviceProfile, ChannelProfile)
Model = TypeVar("Model", bound=BaseModel)
_FOLDERS: dict[type[BaseModel], tuple[str, str]] = {
    DeviceProfile: ("device", "devices"),
    ChannelProfile: ("channel", "channels"),
}


def list_profiles(kind: type[P]) -> list[str]:
    """Names of the profiles that come with the package, sorted."""
    folder = resources.files("autosplit.configs") / _FOLDERS[kind][1]
    return sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_profile(kind: type[P], name: str) -> P:
    """Load a profile by the name of a packaged one, or from the path of a YAML file.

    Args:
        kind: `DeviceProfile` or `ChannelProfile`.
        name: A name of `list_profiles(kind)`, or a path that ends in `.yaml`.

    Raises:
        UnknownNameError: No packaged profile has this name.
        ConfigError: The file is absent, is no YAML, or has missing or unknown keys.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"{_FOLDERS[kind][0]} profile {name!r}: no such file")
        return parse_yaml(kind, path.read_text(encoding="utf-8", errors="replace"), name)
    if name not in list_profiles(kind):
        raise UnknownNameError(_FOLDERS[kind][0], name, list_profiles(kind))
    profile: P = _packaged(kind, name)
    return profile


@cache
def _packaged(kind: type[P], name: str) -> P:
    file = resources.files("autosplit.configs") / _FOLDERS[kind][1] / f"{name}.yaml"
    return parse_yaml(kind, file.read_text(encoding="utf-8"), name)


def parse_yaml(kind: type[Model], text: str, origin: str) -> Model:
    """A frozen object out of YAML.

    Args:
        kind: Class of the object.
        text: YAML.
        origin: Name of the source for error messages.

    Raises:
        ConfigError: No YAML, a missing or unknown key, or a value that makes no sense.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise ConfigError(f"{origin}: not valid YAML: {' '.join(str(e).split())}") from e
    try:
        return kind.model_validate(data)
    except ValidationError as e:
        raise ConfigError(f"{origin}: {first_error(e)}") from e


def first_error(error: ValidationError) -> str:
    """The first complaint of a pydantic error as one line: `path.to.key: what is wrong`."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "top level"
    more = error.error_count() - 1
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" + (f" (and {more} more)" if more else "")
