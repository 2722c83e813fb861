"""`Blueprint`: the structure of a deployment, without anything that was learned."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from autosplit.core.plan import Plan
from autosplit.core.validation import Frozen

__all__ = ["Arithmetic", "Blueprint"]

Arithmetic = Literal["fp32", "int8"]
"""Number formats that the device side of a deployment computes in."""


class Blueprint(Frozen):
    """The structure of a deployment: everything but numbers that were learned.

    Attributes:
        backbone: As in the scenario.
        num_classes: Outputs.
        image_shape: Channels, height, width of an input image.
        plan: The plan.
        keep: Channels kept in each prunable group of the head.
        feature_shape: Shape of what the head gives; empty where no feature crosses.
        head: Structure of an injected head, and of what restores the backbone's feature from that of an injected or a
            reduced one; else empty.
        code_shape: Shape of the code; empty where no codec is.
        codec: The codec's structure, as its family describes it.
        exit: Structure of the classifier of an exit; empty where the plan has none.
        exit_keep: Channels kept in each prunable group of the whole network, where that is the exit.
        arithmetic: Number format of what runs on the device, head, exit and encoder.
        key: Identifies the deployment in its payloads.
    """

    backbone: str
    num_classes: int
    image_shape: tuple[int, int, int]
    plan: Plan
    keep: tuple[int, ...] = ()
    feature_shape: tuple[int, ...] = ()
    head: dict[str, Any] = Field(default_factory=dict, exclude_if=lambda structure: not structure)
    code_shape: tuple[int, ...] = ()
    codec: dict[str, Any] = Field(default_factory=dict)
    exit: dict[str, Any] = Field(default_factory=dict, exclude_if=lambda structure: not structure)
    exit_keep: tuple[int, ...] = Field(default=(), exclude_if=lambda counts: not counts)
    arithmetic: Arithmetic = "fp32"
    key: str = ""
