"""Buffers in one block of memory: nothing that is still needed is written over, and the block is as small as can be."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np
import pytest
import torch

from autosplit.compression.int8 import quantise_int8
from autosplit.compression.lowering import Arena, Lowering, Program, plan_arena
from autosplit.compression.lowering.arena import ALIGNMENT
from autosplit.compression.lowering.operations import Operation
from autosplit.models.tracing import trace
from autosplit.models.zoo import resnet8


@dataclass(kw_only=True)
class Apart(Operation):
    """Writes where nothing lies that it reads."""

    scratch: int = 0

    @property
    def scratch_bytes(self) -> int:
        return self.scratch


@dataclass(kw_only=True)
class Elementwise(Apart):
    """May write over what it reads."""

    in_place: ClassVar[bool] = True


def aligned(size: int) -> int:
    return (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def simulate(program: Program, arena: Arena) -> int:
    """Run a program on memory of which each byte knows whose it is; the number of operations that worked in place.

    A buffer is owned by the operation that wrote it, and must be whole whenever it is read.
    """
    memory = np.full(arena.bytes, -1)
    sizes = [prod(shape) for shape in program.buffers]
    in_place = 0
    for number, operation in enumerate(program.operations):
        reads = {b: (arena.buffers[b], arena.buffers[b] + sizes[b]) for b in operation.reads}
        begin = arena.scratch[number]
        assert begin % ALIGNMENT == 0
        assert begin + operation.scratch_bytes <= arena.bytes
        memory[begin : begin + operation.scratch_bytes] = -2
        for buffer, (first, end) in reads.items():
            assert (memory[first:end] == buffer).all(), f"operation {number}: buffer {buffer} is gone before it is read"
        if operation.writes is None:
            continue
        first = arena.buffers[operation.writes]
        end = first + sizes[operation.writes]
        assert first % ALIGNMENT == 0
        assert end <= arena.bytes
        assert end <= begin or begin + operation.scratch_bytes <= first or not operation.scratch_bytes
        for buffer, (start, stop) in reads.items():
            if first < stop and start < end:
                assert operation.in_place, f"operation {number} writes over buffer {buffer}, which it reads"
                assert (start, stop) == (first, end)
                assert not any(buffer in later.reads for later in program.operations[number + 1 :])
                in_place += 1
        memory[first:end] = operation.writes
    return in_place


def least_bytes(program: Program, arena: Arena) -> int:
    """What is alive at the operation where most is; an input that is written over counts once."""
    most = 0
    for number, operation in enumerate(program.operations):
        written = {o.writes for o in program.operations[: number + 1] if o.writes is not None}
        needed = {b for o in program.operations[number:] for b in o.reads} | {operation.writes}
        blocks = {(arena.buffers[b], aligned(prod(program.buffers[b]))) for b in written & needed}
        most = max(most, sum(size for _, size in blocks) + aligned(operation.scratch_bytes))
    return most


def random_program(seed: int) -> Program:
    """Operations that read up to three of the buffers so far, recent ones more often; sizes are often equal."""
    rng = np.random.default_rng(seed)
    program = Program((1, 1, 1))
    kinds = rng.random() < 0.7
    for number in range(int(rng.integers(1, 25))):
        known = len(program.buffers)
        count = min(known, int(rng.integers(0 if number == 0 else 1, 4)))
        recent = known - 1 - np.minimum(rng.geometric(0.4, count) - 1, known - 1) if count else np.zeros(0)
        reads = tuple(int(b) for b in recent)
        scratch = int(rng.integers(0, 40)) if rng.random() < 0.4 else 0
        kind = Elementwise if kinds and rng.random() < 0.6 else Apart
        writes = None
        if rng.random() < 0.93 or number == 0:
            shape = (int(rng.integers(1, 4)), int(rng.integers(1, 4)), int(rng.integers(1, 9)))
            if reads and rng.random() < 0.6:
                shape = program.buffers[reads[0]]
            writes = program.buffer(shape)
        program.add(kind(name=str(number), reads=reads, writes=writes, scratch=scratch))
    return program


def test_random_programs() -> None:
    shared, saved = 0, 0
    for seed in range(1500):
        program = random_program(seed)
        arena = plan_arena(program)
        shared += simulate(program, arena)
        everything = sum(aligned(prod(shape)) for shape in program.buffers) + sum(
            aligned(o.scratch_bytes) for o in program.operations)
        assert least_bytes(program, arena) <= arena.bytes <= everything
        saved += arena.bytes < everything
    assert shared > 1000
    assert saved > 1000


def chain(*sizes: int, kind: type[Apart] = Apart) -> Program:
    """Each operation reads what the one before it wrote."""
    program = Program((1, 1, 1))
    for number, size in enumerate(sizes):
        reads = (number - 1,) if number else ()
        program.add(kind(name=str(number), reads=reads, writes=program.buffer((1, 1, size))))
    return program


@pytest.mark.parametrize(("sizes", "best"), [
    ((40,), 40), ((41,), 44), ((8, 12, 16), 28), ((40, 8, 40), 48), ((100, 20, 20, 20, 100), 120), ((5, 5, 5), 16),
    ((64, 32, 16, 8, 4), 96), ((4, 8, 16, 32, 64), 96), ((8, 100, 8, 100, 8), 108), ((1,) * 30, 8),
])
def test_chains_need_the_largest_neighbours(sizes: tuple[int, ...], best: int) -> None:
    program = chain(*sizes)
    arena = plan_arena(program)
    assert arena.bytes == best
    assert simulate(program, arena) == 0


def test_a_chain_in_place_is_one_block() -> None:
    program = chain(37, 37, 37, 37, kind=Elementwise)
    arena = plan_arena(program)
    assert arena.bytes == 40
    assert simulate(program, arena) == 3


def test_a_residual_block() -> None:
    """The input stays while the branch is computed; the sum takes the place of one of the two."""
    program = chain(64, 64, 64)
    program.add(Elementwise(name="sum", reads=(2, 0), writes=program.buffer((1, 1, 64))))
    arena = plan_arena(program)
    assert arena.bytes == 3 * 64
    assert simulate(program, arena) == 1


def test_what_is_read_later_is_not_written_over() -> None:
    program = chain(64, 64, kind=Elementwise)
    program.add(Elementwise(name="sum", reads=(0, 1), writes=program.buffer((1, 1, 64))))
    arena = plan_arena(program)
    assert arena.buffers[0] != arena.buffers[1]
    assert arena.bytes == 2 * 64
    assert simulate(program, arena) == 1


def test_only_an_input_of_the_same_size_is_written_over() -> None:
    """A factor for each channel is read again at every position, even where it fills as many words as the output."""
    program = Program((1, 2, 2))
    first, factor = program.buffer((1, 2, 1)), program.buffer((1, 1, 1))
    for buffer in (first, factor):
        program.add(Apart(name="given", reads=(), writes=buffer))
    product = program.buffer((1, 2, 1))
    program.add(Elementwise(name="product", reads=(first, factor), writes=product))
    program.add(Elementwise(name="again", reads=(first, product), writes=program.buffer((1, 2, 1))))
    arena = plan_arena(program)
    assert arena.buffers[product] != arena.buffers[factor]
    simulate(program, arena)


def test_scratch_memory_lies_beside_what_is_needed() -> None:
    program = chain(16, 16)
    program.add(Apart(name="scratch", reads=(1,), writes=None, scratch=30))
    arena = plan_arena(program)
    assert arena.bytes == 16 + 32
    simulate(program, arena)


def test_nothing_to_place() -> None:
    assert plan_arena(Program((1, 1, 1))) == Arena((), (), 0)


def test_a_network() -> None:
    """ResNet-8 at 32 x 32: its first block with 16 channels needs three maps of 16,384 bytes, and scratch memory."""
    torch.manual_seed(0)
    quantised = quantise_int8(trace(resnet8().eval(), (3, 32, 32)), [torch.randn(8, 3, 32, 32)])
    lowering = Lowering((3, 32, 32))
    lowering.logits(lowering.network(quantised, lowering.image([0.5] * 3, [0.25] * 3), (3, 32, 32)))
    arena = plan_arena(lowering.program)
    assert simulate(lowering.program, arena) >= 3
    assert arena.bytes == least_bytes(lowering.program, arena) == 3 * 16_384 + 7 * 9 * 16
