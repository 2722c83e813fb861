"""Device and channel profiles: small YAML files in `autosplit/configs`, each parameter with its source."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator

from autosplit.core.errors import UnknownNameError
from autosplit.core.fading import Bursts, Rayleigh, Shadowing, Shannon, Trace, mean_bits_per_hz
from autosplit.core.operators import TermSums
from autosplit.core.parameters import Parameter, absent
from autosplit.core.timed_rates import TIMED_RATES, timed_rates
from autosplit.core.timings import Timings
from autosplit.core.validation import Frozen, parse_yaml
from autosplit.runtime.standalone.files import read_text

__all__ = ["ChannelProfile", "DeviceProfile", "Instructions", "list_profiles", "load_profile"]


_RATES = ("conv_mmacs", "depthwise_mmacs", "linear_mmacs", "memory_mb_per_s", "coding_ksymbols", "image_kpixels")
_BLOCKS = {"shannon", "rayleigh", "shadowing", "trace", "bursts"}
_SLOWEST = 1e-6  # of a rate that anything is divided by, in its unit
_ELEMENT_BYTES = {"int8": 1, "fp16": 2, "fp32": 4}
_REFUSED = Parameter(value=1, source="follows from a block that was refused")  # so that its error is the only one
_ROUNDING = 1e-3  # how far a stated mean may be from what it follows from, relative


class Instructions(Frozen):
    """What autosplit's C takes on a processor, for the latency model `instructions`: counted, not timed.

    Attributes:
        source: How the instructions were counted.
        conv: Instructions of a dense or grouped convolution for each of `autosplit.core.operators.TERMS`.
        depthwise: Likewise of a depthwise convolution.
        linear: Of a fully connected layer.
        other: Of what has no weights.
        coded_symbol: Of the payload coder, for each symbol.
        cycles_per_instruction: On average; an emulator that counts instructions does not know it.
        clock_mhz: Cycles a microsecond.
    """

    source: str = Field(min_length=3)
    conv: TermSums
    depthwise: TermSums
    linear: TermSums
    other: TermSums
    coded_symbol: Parameter
    cycles_per_instruction: Parameter
    clock_mhz: Parameter

    @property
    def prices_ms(self) -> tuple[float, ...]:
        """Milliseconds of each sum by type, as `TypeSums.flat` has them, and of a coded symbol."""
        each_ms = self.cycles_per_instruction.value / (self.clock_mhz.value * 1e3)
        terms = (*self.conv, *self.depthwise, *self.linear, *self.other, self.coded_symbol.value)
        return tuple(each_ms * price for price in terms)

    def scaled(self, rate: float) -> Instructions:
        """The same code at a clock so many times as fast."""
        return self.model_copy(update={"clock_mhz": self.clock_mhz.times(rate)})


def _follows() -> Any:
    """Stands for a parameter that is left out because it follows from others."""
    return None


class DeviceProfile(Frozen):
    """How fast a device or an edge server computes, and what energy it takes.

    Rates are effective ones at batch 1 (published latency over counted work), not peaks. Those of `TIMED_RATES` may be
    left out beside `timings`, from which they follow.

    Attributes:
        name: File name without `.yaml`.
        title: One line for people.
        arithmetic: Number format that the network runs in on this machine.
        timings: What was timed operator by operator, for the latency model `profiled`.
        conv_mmacs: Dense convolutions, million multiply-accumulates per second.
        depthwise_mmacs: Depthwise convolutions, million multiply-accumulates per second.
        linear_mmacs: Fully connected layers, million multiply-accumulates per second.
        memory_mb_per_s: Bandwidth for weights and activations, megabytes per second.
        operator_overhead_us: Cost of launching one operator, microseconds.
        coding_ksymbols: Entropy coding, thousand symbols per second.
        image_kpixels: JPEG or PNG coding, thousand pixels per second.
        active_mw: Power while computing, milliwatts.
        idle_mw: Power while waiting for the answer, milliwatts.
        instructions: What autosplit's C takes, for the latency model `instructions`.
        ram_kb: RAM of a microcontroller, kilobytes of 1,000 bytes; a device without it has as much as it takes.
        flash_kb: Its flash, likewise.
        network_share: Share of both that the firmware leaves to networks.
    """

    name: str
    title: str
    arithmetic: Literal["int8", "fp16", "fp32"]
    timings: Timings | None = Field(default=None, exclude_if=absent)
    conv_mmacs: Parameter = Field(default_factory=_follows, validate_default=True)
    depthwise_mmacs: Parameter = Field(default_factory=_follows, validate_default=True)
    linear_mmacs: Parameter = Field(default_factory=_follows, validate_default=True)
    memory_mb_per_s: Parameter = Field(default_factory=_follows, validate_default=True)
    operator_overhead_us: Parameter = Field(default_factory=_follows, validate_default=True)
    coding_ksymbols: Parameter
    image_kpixels: Parameter
    active_mw: Parameter
    idle_mw: Parameter
    instructions: Instructions | None = Field(default=None, exclude_if=absent)
    ram_kb: Parameter | None = Field(default=None, exclude_if=absent)
    flash_kb: Parameter | None = Field(default=None, exclude_if=absent)
    network_share: Parameter | None = Field(default=None, exclude_if=absent)

    @field_validator(*TIMED_RATES, mode="before")
    @classmethod
    def _from_timings(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None:
            return value
        if "timings" not in info.data or "arithmetic" not in info.data:
            return _REFUSED
        timings: Timings | None = info.data["timings"]
        if timings is None:
            raise ValueError("Field required")
        return timed_rates(timings, _ELEMENT_BYTES[info.data["arithmetic"]])[str(info.field_name)]

    @field_validator(*_RATES)
    @classmethod
    def _moves(cls, value: Parameter) -> Parameter:
        return _at_least(_SLOWEST, value)

    @model_validator(mode="after")
    def _share_of_something(self) -> DeviceProfile:
        if self.network_share is not None and not 0 < self.network_share.value <= 1:
            raise ValueError(f"network_share is a share above 0 and at most 1, got {self.network_share.value:g}")
        return self

    @model_validator(mode="after")
    def _as_timed(self) -> DeviceProfile:
        derived = {} if self.timings is None else timed_rates(self.timings, self.element_bytes)
        for name, found in derived.items():
            stated: Parameter = getattr(self, name)
            # what no operator told may be stated
            if not found.assumption and abs(stated.value - found.value) > _ROUNDING * found.value:
                raise ValueError(f"{name} is {stated.value:g}, but the timings tell {found.value:g}; leave {name} out, "
                                 "or the block timings")
        return self

    @property
    def element_bytes(self) -> int:
        """Bytes of one weight or activation in the device's arithmetic."""
        return _ELEMENT_BYTES[self.arithmetic]

    def scaled(self, rate: float) -> DeviceProfile:
        """The same machine with all rates so many times as high: a chip keeps its character."""
        update: dict[str, Any] = {name: getattr(self, name).times(rate) for name in _RATES}
        if self.timings is not None:
            update["timings"] = self.timings.scaled(rate)
        if self.instructions is not None:
            update["instructions"] = self.instructions.scaled(rate)
        # the overhead is a time, not a rate
        return self.model_copy(update={**update, "operator_overhead_us": self.operator_overhead_us.times(1 / rate)})


class ChannelProfile(Frozen):
    """A radio link between device and edge.

    The rate is constant, or moves around its mean: by fading (`shannon` with `rayleigh`, `shadowing` or both) or as a
    `trace` says. Losses are independent, or come in `bursts`. Those blocks and the tail are optional.

    Attributes:
        name: File name without `.yaml`.
        title: One line for people.
        shannon: Uplink rate from bandwidth and signal-to-noise ratio.
        rayleigh: Block fading of that ratio.
        shadowing: Log-normal shadowing of that ratio.
        trace: Recorded uplink rates.
        bursts: Losses by the model of Gilbert and Elliott.
        uplink_kbps: Rate on the air from device to edge while a packet is sent, kilobits per second; its mean over time
            where it moves. May be left out beside `shannon` or `trace`, from which it follows.
        downlink_kbps: Rate from edge to device, kilobits per second; constant.
        packet_bytes: Largest payload of one packet, bytes.
        packet_overhead_bytes: Preamble, headers and checksum of one packet, bytes.
        access_ms_p50: Delay before a transmission may start (backoff, scheduling, one-way core network), median.
        access_ms_p95: The same, 95th percentile.
        packet_loss: Probability in [0, 1) that a packet is lost and sent again. May be left out beside `bursts`.
        retransmit_ms: Time from the loss of a packet to its next transmission, milliseconds.
        transmit_mw: Power of the radio while sending, milliwatts.
        receive_mw: Power of the radio while waiting and receiving, milliwatts.
        tail_ms: How long the radio stays powered after the last transfer, milliseconds; not at all if left out.
        tail_mw: Power of the radio in that time, milliwatts.
    """

    name: str
    title: str
    shannon: Shannon | None = Field(default=None, exclude_if=absent)
    rayleigh: Rayleigh | None = Field(default=None, exclude_if=absent)
    shadowing: Shadowing | None = Field(default=None, exclude_if=absent)
    trace: Trace | None = Field(default=None, exclude_if=absent)
    bursts: Bursts | None = Field(default=None, exclude_if=absent)
    uplink_kbps: Parameter = Field(default_factory=_follows, validate_default=True)
    downlink_kbps: Parameter
    packet_bytes: Parameter
    packet_overhead_bytes: Parameter
    access_ms_p50: Parameter
    access_ms_p95: Parameter
    packet_loss: Parameter = Field(default_factory=_follows, validate_default=True)
    retransmit_ms: Parameter
    transmit_mw: Parameter
    receive_mw: Parameter
    tail_ms: Parameter | None = Field(default=None, exclude_if=absent)
    tail_mw: Parameter | None = Field(default=None, exclude_if=absent)

    @field_validator("downlink_kbps")
    @classmethod
    def _moves(cls, value: Parameter) -> Parameter:
        return _at_least(_SLOWEST, value)

    @field_validator("packet_bytes")
    @classmethod
    def _holds_a_byte(cls, value: Parameter) -> Parameter:
        return _at_least(1.0, value)

    @field_validator("uplink_kbps", "packet_loss", mode="before")
    @classmethod
    def _from_blocks(cls, value: Any, info: ValidationInfo) -> Any:
        derived = _derived(str(info.field_name), info.data) if value is None else value
        if derived is None and not set(info.data).issuperset(_BLOCKS):
            return _REFUSED
        if derived is None:
            raise ValueError("Field required")
        return derived

    @model_validator(mode="after")
    def _consistent(self) -> ChannelProfile:
        fading = [name for name in ("shannon", "rayleigh", "shadowing") if getattr(self, name) is not None]
        if self.trace is not None and fading:
            raise ValueError(f"trace and {fading[0]} both say what the rate does; keep one of them")
        if fading and self.shannon is None:
            raise ValueError(f"{fading[0]} moves a signal-to-noise ratio; give the block shannon too")
        for name in ("uplink_kbps", "packet_loss"):
            derived, stated = _derived(name, dict(self)), getattr(self, name).value
            if derived is not None and abs(stated - derived.value) > _ROUNDING * derived.value:
                raise ValueError(f"{name} is {stated:g}, but {derived.source} tell {derived.value:g}; leave {name} "
                                 "out, or change what it follows from")
        # an energy needs both
        if (self.tail_ms is None) != (self.tail_mw is None):
            raise ValueError("give both tail_ms and tail_mw, or neither")
        return self

    @property
    def constant(self) -> bool:
        """Whether the rate never changes and losses are independent."""
        return self.rayleigh is None and self.shadowing is None and self.trace is None and self.bursts is None

    @property
    def packet_bits(self) -> float:
        """Bits that a full packet puts on the air."""
        return 8.0 * (self.packet_bytes.value + self.packet_overhead_bytes.value)

    def scaled(self, rate: float, access: float) -> ChannelProfile:
        """A link of so many times the rates, up and down, and so many times the access delay, median and tail."""
        blocks: dict[str, Any] = {name: block.scaled(rate) for name, block in
                                  (("shannon", self.shannon), ("trace", self.trace)) if block is not None}
        return self.model_copy(update={
            **blocks,
            "uplink_kbps": self.uplink_kbps.times(rate), "downlink_kbps": self.downlink_kbps.times(rate),
            "access_ms_p50": self.access_ms_p50.times(access), "access_ms_p95": self.access_ms_p95.times(access)})


def _at_least(least: float, value: Parameter) -> Parameter:
    """What latencies are divided by."""
    if value.value < least:
        raise ValueError(f"value must be at least {least:g}, got {value.value:g}")
    return value


def _derived(name: str, given: dict[str, Any]) -> Parameter | None:
    """What the blocks of a channel profile say about `uplink_kbps` or `packet_loss`; `None` if nothing."""
    trace: Trace | None = given.get("trace")
    shannon: Shannon | None = given.get("shannon")
    blocks: list[Frozen]
    if name == "packet_loss":
        bursts: Bursts | None = given.get("bursts")
        if bursts is None:
            return None
        value, blocks, source = bursts.loss, [bursts], "the figures of bursts"
    elif trace is not None:
        return Parameter(value=trace.samples.mean_kbps * trace.factor,
                         source="the rates of trace, their mean over time", assumption=trace.assumption)
    elif shannon is not None:
        rayleigh, shadowing = given.get("rayleigh"), given.get("shadowing")
        value = shannon.bandwidth_khz.value * mean_bits_per_hz(shannon, rayleigh, shadowing)
        blocks = [b for b in (shannon, rayleigh, shadowing) if b is not None]
        source = "the figures of shannon, rayleigh and shadowing"
    else:
        return None
    # a value that follows from an assumption is one
    assumption = any(p.assumption for block in blocks for _, p in block if isinstance(p, Parameter))
    return Parameter(value=value, source=source, assumption=assumption)


P = TypeVar("P", DeviceProfile, ChannelProfile)
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
        return parse_yaml(kind, read_text(name, f"{_FOLDERS[kind][0]} profile {name!r}"), name, Path(name).parent)
    if name not in list_profiles(kind):
        own = _FOLDERS[kind][0]
        other: type[Any] = next(k for k in _FOLDERS if k is not kind)
        hint = f"did you mean the file {name}.yaml?" if Path(f"{name}.yaml").is_file() else ""
        if name in list_profiles(other):
            hint = f"it is a {_FOLDERS[other][0]}, not a {own}: give it with --{_FOLDERS[other][0]}"
        raise UnknownNameError(own, name, list_profiles(kind), hint)
    profile: P = _packaged(kind, name)
    return profile


@cache
def _packaged(kind: type[P], name: str) -> P:
    file = resources.files("autosplit.configs") / _FOLDERS[kind][1] / f"{name}.yaml"
    return parse_yaml(kind, file.read_text(encoding="utf-8"), name)
