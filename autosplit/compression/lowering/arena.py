"""Where the buffers of a program lie in memory: one block for all of them, shared over time.

Two buffers may share bytes if no operation needs both. Placing them in the smallest block is a packing problem; the
largest first, each at the lowest place where it fits, is the usual heuristic (Pisarchyk and Lee 2020, arXiv 2001.03288,
"greedy by size") and optimal in most networks, where the largest operation alone decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from autosplit.compression.lowering.operations import Program

__all__ = ["ALIGNMENT", "Arena", "plan_arena"]

ALIGNMENT = 4
"""Every buffer begins at a multiple of it: kernels read words."""


@dataclass(frozen=True)
class Arena:
    """Places in one block of memory.

    Attributes:
        buffers: First byte of each buffer of the program.
        scratch: First byte of each operation's scratch memory; 0 where it needs none.
        bytes: Of the whole block.
    """

    buffers: tuple[int, ...]
    scratch: tuple[int, ...]
    bytes: int


@dataclass
class _Block:
    size: int
    first: int
    last: int
    place: int = -1


def plan_arena(program: Program) -> Arena:
    """Place buffers and scratch memory of a program.

    An operation that works in place writes over an input that nobody needs afterwards; both are one block then.

    Args:
        program: Its operations run in the order in which they stand.
    """
    last = [-1] * len(program.buffers)
    for number, operation in enumerate(program.operations):
        for buffer in (*operation.reads, *(() if operation.writes is None else (operation.writes,))):
            last[buffer] = number
    owners: list[_Block | None] = [None] * len(program.buffers)
    blocks: list[_Block] = []
    scratch: list[_Block | None] = []
    for number, operation in enumerate(program.operations):
        written = operation.writes
        if written is not None and owners[written] is None:
            size = prod(program.buffers[written])
            shared = next((owners[b] for b in operation.reads if operation.in_place and last[b] == number
                           and prod(program.buffers[b]) == size), None)
            if shared is None:
                shared = _Block(_aligned(size), number, last[written])
                blocks.append(shared)
            shared.last = max(shared.last, last[written])
            owners[written] = shared
        needed = _aligned(operation.scratch_bytes)
        scratch.append(_Block(needed, number, number) if needed else None)
    blocks += [b for b in scratch if b is not None]
    placed: list[_Block] = []
    for block in sorted(blocks, key=lambda b: (-b.size, b.first)):
        place = 0
        for other in sorted(placed, key=lambda b: b.place):
            if other.last < block.first or block.last < other.first:
                continue
            if place + block.size <= other.place:
                break
            place = max(place, other.place + other.size)
        block.place = place
        placed.append(block)
    return Arena(tuple(o.place if o else 0 for o in owners), tuple(s.place if s else 0 for s in scratch),
                 max((b.place + b.size for b in blocks), default=0))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
