"""What a device runs, as integer programs: one for each rate of a bundle, and one for its fallback."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autosplit.compression.lowering import Arena, Program, lower_device, plan_arena, unsupported
from autosplit.compression.lowering.operations import Decision, Operation
from autosplit.core.errors import ConfigError
from autosplit.runtime.deployment import Deployment

__all__ = ["DevicePrograms", "Step", "device_programs"]


@dataclass(frozen=True)
class Step:
    """A program with its memory.

    Attributes:
        program: Its operations.
        arena: Where its buffers lie.
    """

    program: Program
    arena: Arena

    @property
    def answer(self) -> list[Operation]:
        """The operations that lead to logits on the device; empty where there are none."""
        ends = [i for i, o in enumerate(self.program.operations) if isinstance(o, Decision)]
        return self.program.operations[: ends[0] + 1] if ends else []

    @property
    def code(self) -> list[Operation]:
        """The operations behind these, which lead to symbols; empty where nothing is sent."""
        return self.program.operations[len(self.answer):]


@dataclass(frozen=True)
class DevicePrograms:
    """All that a device runs.

    Attributes:
        rates: One for each rate; one alone where there are no rates.
        fallback: The whole network, for when the edge is lost.
    """

    rates: tuple[Step, ...]
    fallback: Step | None

    @property
    def all(self) -> tuple[Step, ...]:
        """Those of the rates, then the fallback."""
        return (*self.rates, *([self.fallback] if self.fallback else []))

    @property
    def operations(self) -> list[Operation]:
        """Of all programs, one after the other; an operation's place is the number of its step in C."""
        return [operation for step in self.all for operation in step.program.operations]

    @property
    def arena_bytes(self) -> int:
        """One block serves all programs, one at a time."""
        return max(step.arena.bytes for step in self.all)


def device_programs(rates: Sequence[Deployment], fallback: Deployment | None = None) -> DevicePrograms:
    """The programs of a deployment, or of the rates of one.

    Args:
        rates: One, or those of a bundle.
        fallback: A deployment of the whole network on the device.

    Raises:
        ConfigError: Something of it cannot be written as C.
    """
    return DevicePrograms(tuple(map(_step, rates)), None if fallback is None else _step(fallback))


def _step(deployment: Deployment) -> Step:
    plan, blueprint = deployment.plan, deployment.blueprint
    reason = unsupported(plan, blueprint.arithmetic)
    if reason:
        raise ConfigError(f"{plan.label!r} cannot be written as C: {reason}")
    program = lower_device(deployment.network, plan, blueprint.image_shape, blueprint.feature_shape,
                           deployment.mean.tolist(), deployment.std.tolist())
    return Step(program, plan_arena(program))
