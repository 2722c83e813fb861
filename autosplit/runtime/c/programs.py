"""What a device runs, as integer programs: one for each rate of a bundle, and one for its fallback."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autosplit.compression.lowering import Arena, Lowering, Program, plan_arena
from autosplit.compression.lowering.operations import Decision, Operation
from autosplit.core.errors import ConfigError
from autosplit.core.plan import OUTPUT
from autosplit.runtime.deployment import Deployment

__all__ = ["DevicePrograms", "Step", "lower_device"]


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
    def arena_bytes(self) -> int:
        """One block serves all programs, one at a time."""
        steps = [*self.rates, *([self.fallback] if self.fallback else [])]
        return max(step.arena.bytes for step in steps)


def lower_device(rates: Sequence[Deployment], fallback: Deployment | None = None) -> DevicePrograms:
    """The programs of a deployment, or of the rates of one.

    Args:
        rates: One, or those of a bundle.
        fallback: A deployment of the whole network on the device.

    Raises:
        ConfigError: Something of it cannot be written as C.
    """
    return DevicePrograms(tuple(map(_lower, rates)), None if fallback is None else _lower(fallback))


def _lower(deployment: Deployment) -> Step:
    plan, blueprint, network = deployment.plan, deployment.blueprint, deployment.network
    reason = unsupported(deployment)
    if reason:
        raise ConfigError(f"{plan.label!r} cannot be written as C: {reason}")
    lowering = Lowering(blueprint.image_shape)
    image = lowering.image(deployment.mean.tolist(), deployment.std.tolist())
    if plan.split == OUTPUT:
        lowering.logits(lowering.network(network.head, image, blueprint.image_shape))
        return _placed(lowering.program)
    leaving = network.exit
    if leaving is not None and plan.exit is not None and leaving.whole:
        logits = lowering.network(leaving.network, image, blueprint.image_shape)
        lowering.logits(logits, plan.exit.threshold, float(leaving.temperature))
    feature = lowering.network(network.head, image, blueprint.image_shape)
    if leaving is not None and plan.exit is not None and not leaving.whole:
        logits = lowering.network(leaving.network, feature, blueprint.feature_shape)
        lowering.logits(logits, plan.exit.threshold, float(leaving.temperature))
    assert network.encoder is not None
    assert network.quantiser is not None
    code = lowering.network(network.encoder, feature, blueprint.feature_shape)
    lowering.symbols(code, network.quantiser.bits, network.quantiser.bound)
    return _placed(lowering.program)


def unsupported(deployment: Deployment) -> str:
    """Why a deployment cannot be written as C, seen from its plan alone; empty where it may be."""
    codec, arithmetic = deployment.plan.codec, deployment.blueprint.arithmetic
    if arithmetic != "int8":
        return f"its device computes in {arithmetic}; choose a device profile whose arithmetic is int8"
    if codec.image:
        return f"it sends pictures ({codec.label}), whose encoders are your camera's or a library's"
    if codec.kind not in {"code", "none"}:
        return f"it sends features as they are ({codec.kind}); choose one with a learned code"
    return ""


def _placed(program: Program) -> Step:
    return Step(program, plan_arena(program))
