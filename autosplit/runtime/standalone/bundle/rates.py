"""Rates of a bundle, and which of them a policy picks for which link: what `manifest.json` holds of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

__all__ = ["Rate", "Switching", "encoder_file", "rate_key", "tables_file", "tail_file"]

_CLOSED = {"extra": "forbid"}  # of the JSON Schema


@dataclass(frozen=True)
class Rate:
    """One setting of the codec, a plan that shares its head with the other rates.

    Attributes:
        label: The setting in a few words.
        plan: The plan.
        code_shape: Channels, height, width of the code.
        accuracy: On validation images, through real payloads.
        payload_bytes: Mean length of a payload, on validation images.
        payload_bytes_p95: Its 95th percentile.
        test_accuracy: On test images, which nothing was chosen by.
        test_payload_bytes: Mean length of a payload, on test images.
        device_ms: What the latency model says that the device computes for.
        edge_ms: The same of the edge.
    """

    __pydantic_config__: ClassVar[Any] = _CLOSED

    label: str
    plan: dict[str, Any]
    code_shape: tuple[int, int, int]
    accuracy: float
    payload_bytes: float
    payload_bytes_p95: float
    test_accuracy: float
    test_payload_bytes: float
    device_ms: float
    edge_ms: float


@dataclass(frozen=True)
class Switching:
    """The rate that a policy picks for a link.

    Attributes:
        budget_ms: The deadline that it was asked for.
        uplink_kbps: Speeds of the uplink, ascending.
        delays_ms: Delays of both ways together that no byte causes, ascending.
        overhead_bytes: What an exchange puts on the link beside the payload, both ways, in bytes of the uplink.
        start: The rate for the link of the search.
        picks: Numbers of the rates picked, a row for each uplink, an entry for each delay.
    """

    __pydantic_config__: ClassVar[Any] = _CLOSED

    budget_ms: float
    uplink_kbps: tuple[float, ...]
    delays_ms: tuple[float, ...]
    overhead_bytes: float
    start: int
    picks: tuple[tuple[int, ...], ...]


def encoder_file(rate: int) -> str:
    """Name of the file with a rate's encoder, feature to symbols."""
    return f"encoder-{rate}.onnx"


def tail_file(rate: int) -> str:
    """Name of the file with a rate's decoder and tail, symbols to logits."""
    return f"edge-{rate}.onnx"


def tables_file(rate: int) -> str:
    """Name of the file with a rate's frequency tables."""
    return f"tables-{rate}.npy"


def rate_key(key: str, rate: int) -> str:
    """What the payloads of a rate are keyed with, so that none passes for one of another rate."""
    return f"{key}/{rate}"
