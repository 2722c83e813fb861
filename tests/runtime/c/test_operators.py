"""Every operation that int8 networks are made of, in C: the answers are those of torch and of onnxruntime, to the bit.

Many small networks become one program each time: with every buffer of the network by itself, among bytes that the
address sanitizer guards; as they will be exported; and on an emulated microcontroller, whose kernels are others.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autosplit.compression.lowering.operations import Average, Convolution, Operation, Product, Sum
from tests.runtime.c import emulated
from tests.runtime.c.lowered import (
    NO_RISC_V,
    RISC_V,
    SANITIZERS,
    Case,
    Shape,
    onnx_answers,
    read_answers,
    run_on_host,
    write_program,
)
from tests.runtime.c.operator_cases import GROUPS, group, varies

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler, `cc`, on this machine")


@pytest.fixture(scope="module", params=GROUPS)
def cases(request: pytest.FixtureRequest) -> list[Case]:
    return group(request.param)


@pytest.fixture(scope="module")
def expected(cases: list[Case]) -> list[np.ndarray[Any, Any]]:
    """Of torch; and no network gives the same for all images."""
    found = [c.torch for c in cases]
    assert not [c.name for c, answers in zip(cases, found, strict=True) if not varies(answers)]
    return found


def compare(cases: list[Case], found: list[Any], expected: list[Any]) -> None:
    wrong = [c.name for c, a, b in zip(cases, found, expected, strict=True) if not np.array_equal(a, b)]
    assert not wrong


@needs_cc
def test_with_guarded_buffers(cases: list[Case], expected: list[Any], tmp_path: Path) -> None:
    """No operation reads or writes beyond its buffers, computes what C leaves undefined, or needs what was there."""
    empty = tmp_path / "empty.c"
    empty.write_text("int main(void) { return 0; }\n")
    made = subprocess.run(["cc", *SANITIZERS, str(empty), "-o", str(tmp_path / "empty")], capture_output=True)
    if made.returncode:
        pytest.skip("the C compiler of this machine has no sanitizers")
    compare(cases, run_on_host(cases, tmp_path, flags=SANITIZERS, spaced=True), expected)


@needs_cc
def test_as_exported(cases: list[Case], expected: list[Any], tmp_path: Path) -> None:
    compare(cases, run_on_host(cases, tmp_path), expected)


@pytest.mark.skipif(bool(NO_RISC_V), reason=f"not on this machine: {', '.join(NO_RISC_V)}")
def test_on_risc_v(cases: list[Case], expected: list[Any], tmp_path: Path) -> None:
    compare(cases, run_on_host(cases, tmp_path, RISC_V, ("-O2", "-static")), expected)


@pytest.mark.skipif(bool(emulated.MISSING), reason=f"not on this machine: {', '.join(emulated.MISSING)}")
def test_on_a_microcontroller(cases: list[Case], expected: list[Any], tmp_path: Path) -> None:
    printed = emulated.run(write_program(cases, tmp_path, spaced=True), [], tmp_path, "m4")
    compare(cases, read_answers(cases, printed), expected)


def test_as_onnxruntime(cases: list[Case], expected: list[Any], tmp_path: Path) -> None:
    """What torch gives, and so C, is what the bundle's ONNX form gives: bit for bit, but for the sign of zeros."""
    pytest.importorskip("onnxruntime", reason="an extra: pip install '.[deploy]'")
    by_shape: dict[Shape, list[int]] = {}
    for number, found in enumerate(cases):
        if found.name in EXPORTED:
            by_shape.setdefault(found.shape, []).append(number)
    for numbers in by_shape.values():
        some = [cases[n] for n in numbers]
        compare(some, onnx_answers(some, tmp_path), [expected[n] for n in numbers])


EXPORTED = {
    "same, even kernel", "same, dilated", "groups, odd channels", "depthwise, dilated", "ties of sums, 1 groups",
    "ties of means", "ties of mul", "sum within (0.25, 0.5)", "residual, relu", "squeeze and excitation",
    "joined, relu", "max pool, ceil mode", "average pool with padding", "average pool without padding",
    "average pool, ceil mode", "average pool, adaptive", "global average at the end", "batch norm by itself",
    "table: Hardswish", "table: Sigmoid", "clamp of levels twice", "channel shuffle", "pixel shuffle",
    "calibrated on (243, 255), mean 0.5", "code of 1 bits", "code of 3 bits", "code of a padding",
    "code of a pool, 1 bits", "code of a pool, 3 bits",
}
"""Names of networks that become ONNX files too, which takes half a second each: of each kind one."""


def test_the_cases_are_of_all_kinds() -> None:
    """Else the comparisons above would show little."""
    everything = [c for name in GROUPS for c in group(name)]
    operations: list[Operation] = [o for c in everything for o in c.step.program.operations]
    counts = {kind.__name__: sum(type(o) is kind for o in operations) for kind in {type(o) for o in operations}}
    assert set(counts) == {"Pixels", "Convolution", "Sum", "Product", "Maximum", "Average", "Table", "Channels",
                           "Gather", "Join", "Symbols", "Readout", "Decision"}
    layers = [o for o in operations if isinstance(o, Convolution)]
    assert sum(o.depthwise for o in layers) > 15
    assert sum(o.groups > 1 and not o.depthwise for o in layers) > 10
    rows = [o.window.kernel[1] * o.shape[2] for o in layers if o.groups == 1 and max(o.window.dilation) == 1]
    assert set(range(1, 6)) < set(rows)
    assert {n % 4 for n in rows if n > 20} == {0, 1, 2, 3}
    levels = [o.levels for o in layers if o.levels is not None]
    assert sum(bool(len(s.exceptions)) for s in levels) > 20
    assert sum(s.left > 0 for s in levels) >= 2
    assert {o.name for o in operations if isinstance(o, Sum) and o.pairs.window} >= {"add", "sub"}
    bounded = [levels, [o.pairs for o in operations if isinstance(o, (Sum, Product))],
               [o for o in operations if isinstance(o, Average)]]
    for some in bounded:
        assert sum(s.low > 0 and s.high < 255 for s in some) > 0
        assert sum(s.low > 0 and s.high == 255 for s in some) > 0
        assert sum(s.low == 0 and s.high < 255 for s in some) > 0
    assert {0, 255} < {o.zero for o in layers}
    assert {c.name for c in everything} > EXPORTED
    assert len({c.name for c in everything}) == len(everything)
    assert sum(isinstance(o, Average) and len(o.quotients) > 1 for o in operations) > 2
