"""`operators.json` of a bundle: what a device that times the bundle needs to know of its networks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

from autosplit.compression.lowering.operations import (
    Average,
    Convolution,
    Join,
    Maximum,
    Operation,
    Pixels,
    Product,
    Sum,
)
from autosplit.core.operators import OperatorWork
from autosplit.core.timings import COLUMNS
from autosplit.models.costs import operators
from autosplit.runtime.c.programs import DevicePrograms
from autosplit.runtime.deployment import Deployment
from autosplit.runtime.standalone.profiling.operators import OPERATORS, Operators, OperatorTable

__all__ = ["operator_rows", "step_operators", "write_operators"]

_APART = (Sum, Product, Join, Maximum, Average)  # what counts by itself though it has no weights


def operator_rows(works: Sequence[OperatorWork]) -> tuple[tuple[Any, ...], ...]:
    """The operators of a network as rows of the table, each named after its kind and place."""
    return tuple((f"{work.kind} {i}", *astuple(work)) for i, work in enumerate(works))


def step_operators(programs: DevicePrograms, deployments: Sequence[Deployment]) -> Operators | None:
    """The operators of the C sources, by the numbers of their steps; `None` where they cannot be told apart.

    Args:
        programs: As written.
        deployments: Of each program: those of the rates, then the fallback.
    """
    rows: list[tuple[Any, ...]] = []
    owners: dict[str, int] = {}
    for number, (step, deployment) in enumerate(zip(programs.all, deployments, strict=True)):
        parts = _parts_in_c(deployment)
        found = _owners(step.program.operations, [work for works in parts.values() for work in works])
        if found is None:
            return None
        first, before = len(owners), len(rows)
        owners |= {str(first + i): before + owner if owner >= 0 else -1 for i, owner in enumerate(found)}
        whole = number == len(programs.rates)
        rate = f"rate {number} " if len(programs.rates) > 1 and not whole else ""
        rows += [(f"{rate}{'fallback' if whole else part}/{name}", *cells)
                 for part, works in parts.items() for name, *cells in operator_rows(works)]
    return Operators(tuple(rows), owners)


def write_operators(out: Path, found: Mapping[str, Operators | None]) -> None:
    """Write the table of a bundle.

    Args:
        out: The bundle.
        found: The operators of each network; those that could not be told apart are left out.
    """
    table = OperatorTable(COLUMNS, {name: operators for name, operators in found.items() if operators is not None})
    (out / OPERATORS).write_text(json.dumps(asdict(table)) + "\n", encoding="utf-8")


def _parts_in_c(deployment: Deployment) -> dict[str, list[OperatorWork]]:
    """The operators of a device's networks, in the order in which `lower_device` writes them."""
    network, blueprint = deployment.network, deployment.blueprint
    head = {"head": operators(network.head, blueprint.image_shape)}
    encoder = {} if network.encoder is None else {"encoder": operators(network.encoder, blueprint.feature_shape)}
    leaving = network.exit
    if leaving is None:
        return head | encoder
    shape = blueprint.image_shape if leaving.whole else blueprint.feature_shape
    exit_ = {"exit": operators(leaving.network, shape)}
    return exit_ | head | encoder if leaving.whole else head | exit_ | encoder


def _owners(operations: Sequence[Operation], works: Sequence[OperatorWork]) -> list[int] | None:
    """The work that each operation belongs to, -1 for none; `None` where the layers are others."""
    layers = iter([i for i, work in enumerate(works) if work.macs])
    others = [i for i, work in enumerate(works) if not work.macs]
    known = sum(isinstance(o, _APART) for o in operations) == len(others)
    apart: Iterator[int] = iter(others)
    found: list[int] = []
    before, name, pixels = -1, "", 0
    for operation in operations:
        if isinstance(operation, Convolution):
            # a layer whose output is needed in two forms is computed twice
            owner = before if operation.name == name else next(layers, None)
            if owner is None or operation.weight.size != works[owner].weights - works[owner].bias:
                return None
            found[len(found) - pixels:] = [owner] * pixels
            before, name, pixels = owner, operation.name, 0
        elif isinstance(operation, _APART):
            before, name = next(apart) if known else -1, ""
        found.append(before)
        pixels = pixels + 1 if isinstance(operation, Pixels) else 0
    return found if next(layers, None) is None else None
