"""Integer programs as C: constants, and one call of a kernel for each operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import singledispatchmethod
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autosplit.compression.lowering.fixed_point import PairStaircase, Staircase
from autosplit.compression.lowering.operations import (
    Average,
    Channels,
    Convolution,
    Decision,
    Gather,
    Join,
    Maximum,
    Operation,
    Pixels,
    Pooling,
    Product,
    Readout,
    Sum,
    Symbols,
    Table,
)
from autosplit.runtime.c.programs import DevicePrograms, Step
from autosplit.runtime.standalone.payload.coder import PayloadCoder
from autosplit.runtime.standalone.payload.native import cumulative_frequencies

__all__ = ["write_network"]

_WIDTH = 118
_SIZES = {"int8_t": 1, "uint8_t": 1, "uint16_t": 2, "int32_t": 4, "float": 4, "int64_t": 8}


def write_network(programs: DevicePrograms, coders: Sequence[PayloadCoder]) -> tuple[str, int]:
    """`network.c`, the constants and functions of all programs; and the bytes of its large constants.

    Args:
        programs: What to write.
        coders: One for each rate that sends something.
    """
    writer = _Writer(programs)
    return writer.text(coders), writer.bytes


def literal(value: float) -> str:
    """A float32 number in C, to the last bit."""
    return f"{float(np.float32(value)).hex()}f"


class _Writer:
    """Collects constants, equal ones once, and the lines of functions."""

    def __init__(self, programs: DevicePrograms) -> None:
        self.programs = programs
        self.constants: list[str] = []
        self.names: dict[tuple[str, str], str] = {}
        self.bytes = 0  # of arrays
        self.step: Step
        self.slots = {id(operation): slot for slot, operation in enumerate(programs.operations)}

    def text(self, coders: Sequence[PayloadCoder]) -> str:
        """The whole file."""
        functions, single = [], len(self.programs.rates) == 1
        answers = self.programs.fallback is not None or any(s.answer for s in self.programs.rates)
        for number, step in enumerate(self.programs.rates):
            end = "" if single else f"_{number}"
            if step.answer:
                functions.append(self._function(f"classify{end}", step, step.answer))
            if step.code:
                functions.append(self._function(f"encode{end}", step, step.code))
        if self.programs.fallback is not None:
            functions.append(self._function("classify_whole", self.programs.fallback, self.programs.fallback.answer))
        declared = [self._coder(i, coder) for i, coder in enumerate(coders)]
        body = "\n\n".join([*functions, *declared, self._entry(bool(coders)), self._fallback()])
        return (_HEAD + "\n".join(self.constants) + _STATE.format(bytes=max(self.programs.arena_bytes, 4))
                + ("static float logits[AUTOSPLIT_CLASSES];\n" if answers else "") + "\n" + body + "\n")

    # --- functions --------------------------------------------------------------------------------------------------

    def _function(self, name: str, step: Step, operations: Sequence[Operation]) -> str:
        self.step = step
        lines = []
        for operation in operations:
            call = self._call(operation)
            lines += [f"    {line}" for line in ([call] if isinstance(call, str) else call)]
            if not isinstance(operation, (Symbols, Decision)):
                lines[-1] += f" AUTOSPLIT_STEP({self.slots[id(operation)]});"
        if isinstance(operations[-1], Symbols):
            head = f"static const uint8_t *{name}(const uint8_t *image)"
        else:
            head = f"static void {name}(const uint8_t *image, autosplit_answer *answer)"
        unused = [] if any("image" in line for line in lines) else ["    (void)image;"]
        return "\n".join([f"{head} {{", *unused, *lines, "}"])

    def _entry(self, sends: bool) -> str:
        """`autosplit_begin`: what the program calls for each image."""
        steps = self.programs.rates
        cases = []
        for number, step in enumerate(steps):
            end = "" if len(steps) == 1 else f"_{number}"
            lines = []
            if step.answer:
                lines.append(f"classify{end}(image, answer);")
                decision = step.answer[-1]
                assert isinstance(decision, Decision)
                if step.code:
                    lines.append(f"if (answer->confidence >= {literal(decision.threshold)}) return 0;")
            if step.code:
                self.step = step
                scratch = self._scratch(step.code[-1])
                lines += [f"const uint8_t *symbols = encode{end}(image);",
                          f"size_t n = autosplit_payload(&coder_{number}, symbols, payload, {scratch});",
                          f"AUTOSPLIT_CODED({number});", "return n;"]
            else:
                lines.append("return 0;")
            cases.append(lines)
        unused = "" if sends else "    (void)payload;\n"
        unused += "" if any(s.answer for s in steps) else "    (void)answer;\n"
        head = ("size_t autosplit_begin(const uint8_t *image, unsigned rate, uint8_t *payload, "
                "autosplit_answer *answer) {\n")
        if len(cases) == 1:
            return head + unused + "    (void)rate;\n" + "\n".join(f"    {line}" for line in cases[0]) + "\n}"
        names = [*(f"case {i}" for i in range(1, len(cases))), "default"]
        body = "\n".join(f"    {name}: {{\n" + "\n".join(f"        {line}" for line in lines) + "\n    }"
                         for name, lines in zip(names, [*cases[1:], cases[0]], strict=True))
        return head + unused + f"    switch (rate) {{\n{body}\n    }}\n}}"

    def _fallback(self) -> str:
        head = "int autosplit_fallback(const uint8_t *image, autosplit_answer *answer) {\n"
        if self.programs.fallback is not None:
            return head + "    classify_whole(image, answer);\n    return 1;\n}"
        if self.programs.rates[0].answer:
            return head + "    classify(image, answer);\n    return 1;\n}"
        return head + "    (void)image;\n    (void)answer;\n    return 0;\n}"

    def _coder(self, number: int, coder: PayloadCoder) -> str:
        cumulative, middle = cumulative_frequencies(coder.tables), "0"
        if coder.tables.middle is not None:
            middle = self._array("uint8_t", coder.tables.middle)
        fields = [*coder.shape, coder.tables.levels, self._array("uint16_t", cumulative), middle, f"{coder.seed}u",
                  coder.first_byte]
        return f"static const autosplit_coder coder_{number} = {{{', '.join(map(str, fields))}}};"

    # --- constants --------------------------------------------------------------------------------------------------

    def _array(self, kind: str, values: NDArray[Any], show: Callable[[Any], str] = str) -> str:
        """The name of an array of constants."""
        dimensions = "".join(f"[{n}]" for n in values.shape[1:]) if kind.endswith("[]") else ""
        if dimensions:
            rows = ["{" + ", ".join(map(show, row)) + "}" for row in values.tolist()]
        else:
            rows = list(map(show, np.asarray(values).ravel().tolist()))
        before = len(self.names)
        name = self._named(kind.removesuffix("[]"), f"[]{dimensions}", "{" + _wrapped(rows) + "}")
        self.bytes += values.size * _SIZES[kind.removesuffix("[]")] * (len(self.names) - before)
        return name

    def _named(self, kind: str, suffix: str, content: str) -> str:
        key = (kind + suffix, content)
        if key not in self.names:
            self.names[key] = f"k{len(self.names)}"
            # words are read from weights
            aligned = "AUTOSPLIT_ALIGNED " if kind == "int8_t" else ""
            self.constants.append(f"static const {aligned}{kind} {self.names[key]}{suffix} = {content};")
        return self.names[key]

    def _staircase(self, s: Staircase) -> str:
        exceptions = "0"
        if len(s.exceptions):
            rows = [f"{{{total}, {channel}, {level}}}" for channel, total, level in s.exceptions.tolist()]
            exceptions = self._named("autosplit_exception", "[]", "{" + _wrapped(rows) + "}")
        offsets = self._array("int64_t", s.offset + s.window, lambda n: f"{n}ll")
        return (f"{{{self._array('int32_t', s.multiplier)}, {offsets}, {exceptions}, {s.window}u, {len(s.exceptions)}, "
                f"{s.left}, {s.low}, {s.high}}}")

    def _pairs(self, p: PairStaircase, zeros: tuple[int, int] = (0, 0)) -> str:
        exceptions = self._array("uint8_t[]", p.exceptions) if len(p.exceptions) else "0"
        return self._named("autosplit_pairs", "",
                           f"{{{p.offset}ll, {{{p.multipliers[0]}, {p.multipliers[1]}}}, {p.window}u, {exceptions}, "
                           f"{len(p.exceptions)}, {p.shift}, {p.low}, {p.high}, {{{zeros[0]}, {zeros[1]}}}}}")

    def _pooling(self, p: Pooling) -> str:
        numbers = [*p.shape, *p.output[:2], *(self._array("uint16_t[]", a) for a in (p.rows, p.columns))]
        return f"{{{', '.join(map(str, numbers))}}}"

    # --- operations -------------------------------------------------------------------------------------------------

    def _at(self, buffer: int | None) -> str:
        assert buffer is not None
        place = self.step.arena.buffers[buffer]
        return f"arena + {place}" if place else "arena"

    def _scratch(self, operation: Operation) -> str:
        return f"arena + {self.step.arena.scratch[self._number(operation)]}"

    def _number(self, operation: Operation) -> int:
        return next(i for i, o in enumerate(self.step.program.operations) if o is operation)

    @singledispatchmethod
    def _call(self, operation: Operation) -> str | list[str]:
        raise NotImplementedError(type(operation).__name__)

    @_call.register
    def _(self, o: Pixels) -> str:
        height, width, channels = self.step.program.image
        return (f"autosplit_tables(image, {self._at(o.writes)}, {height * width}, {channels}, "
                f"{self._array('uint8_t', o.table)});")

    @_call.register
    def _(self, o: Convolution) -> str:
        kernel = o.weight.reshape(len(o.weight), -1)
        if o.depthwise:
            weights = np.ascontiguousarray(kernel.T)
        else:
            weights = _in_pairs(kernel.reshape(o.groups, -1, kernel.shape[1]), o.column)
        channels = o.output[2]
        strides = (1, prod(o.output[:2])) if o.by_channel else (channels, 1)
        levels = "{0, 0, 0, 0, 0, 0, 0, 0}" if o.levels is None else self._staircase(o.levels)
        fields = [*o.shape, *o.output, *o.window.kernel, *o.window.stride, *o.window.dilation, o.groups,
                  *o.window.begin, o.zero, o.column, *strides, self._array("int8_t", weights), levels]
        name = self._named("autosplit_convolution", "", f"{{{', '.join(map(str, fields))}}}")
        source, scratch = self._at(o.reads[0]), self._scratch(o)
        if o.levels is None:
            scales = self._named("autosplit_scales", "", f"{{{self._array('int32_t', o.bias)}, "
                                 f"{self._array('float', o.scale, literal)}}}")
            return f"autosplit_real(&{name}, &{scales}, {source}, logits, {scratch});"
        kind = "depthwise" if o.depthwise else "convolve"
        return f"autosplit_{kind}(&{name}, {source}, {self._at(o.writes)}, {scratch});"

    @_call.register
    def _(self, o: Sum) -> str:
        first, second = map(self._at, o.reads)
        return f"autosplit_sum({first}, {second}, {self._at(o.writes)}, {o.elements}, &{self._pairs(o.pairs)});"

    @_call.register
    def _(self, o: Product) -> str:
        (first, second), (height, width, channels) = map(self._at, o.reads), o.shape
        step = 0 if o.by_channel else channels
        return (f"autosplit_product({first}, {second}, {self._at(o.writes)}, {height * width}, {channels}, {step}, "
                f"&{self._pairs(o.pairs, o.zeros)});")

    @_call.register
    def _(self, o: Maximum) -> str:
        name = self._named("autosplit_pooling", "", self._pooling(o))
        return f"autosplit_maximum(&{name}, {self._at(o.reads[0])}, {self._at(o.writes)});"

    @_call.register
    def _(self, o: Average) -> str:
        known = sorted({q.divisor for q in o.quotients})
        rows = [f"{{{q.offset}ll, {q.divisor}u, {q.window}u, {q.multiplier}, {q.left}}}" for q in o.quotients]
        quotients = self._named("autosplit_quotient", "[]", "{" + _wrapped(rows) + "}")
        kinds = "0"
        if len(known) > 1:
            kinds = self._array("uint8_t", np.searchsorted(known, o.divisors))
        channels = o.output[2]
        strides = (1, prod(o.output[:2])) if o.by_channel else (channels, 1)
        fields = [self._pooling(o), quotients, kinds, self._array("float", o.step, literal), literal(o.scale),
                  literal(o.shift), int(len(o.step) > 1), o.zero, o.target, o.low, o.high, *strides]
        name = self._named("autosplit_average", "", f"{{{', '.join(map(str, fields))}}}")
        if o.writes is None:
            return f"autosplit_real_mean(&{name}, {self._at(o.reads[0])}, logits);"
        return f"autosplit_mean(&{name}, {self._at(o.reads[0])}, {self._at(o.writes)});"

    @_call.register
    def _(self, o: Table) -> str:
        source, target, table = self._at(o.reads[0]), self._at(o.writes), self._array("uint8_t", o.table)
        if len(o.table) == 1:
            return f"autosplit_table({source}, {target}, {o.elements}, {table});"
        channels = len(o.table)
        return f"autosplit_tables({source}, {target}, {o.elements // channels}, {channels}, {table});"

    @_call.register
    def _(self, o: Channels) -> str:
        return (f"autosplit_channels({self._at(o.reads[0])}, {self._at(o.writes)}, {o.positions}, {o.inputs}, "
                f"{len(o.order)}, {self._array('uint16_t', o.order)});")

    @_call.register
    def _(self, o: Gather) -> str:
        return (f"autosplit_gather({self._at(o.reads[0])}, {self._at(o.writes)}, {len(o.places)}, "
                f"{self._array('int32_t', o.places)}, {o.zero});")

    @_call.register
    def _(self, o: Join) -> list[str]:
        target, begin, lines = self.step.arena.buffers[o.writes or 0], 0, []
        for buffer, channels, table in zip(o.reads, o.channels, o.tables, strict=True):
            lines.append(f"autosplit_join({self._at(buffer)}, arena + {target + begin}, {o.positions}, {channels}, "
                         f"{sum(o.channels)}, {self._array('uint8_t', table)});")
            begin += channels
        return lines

    @_call.register
    def _(self, o: Readout) -> str:
        return f"autosplit_readout({self._at(o.reads[0])}, logits, {o.elements}, {o.zero}, {literal(o.scale)});"

    @_call.register
    def _(self, o: Decision) -> list[str]:
        temperature = 1.0 if o.temperature is None else o.temperature
        return [f"answer->label = (uint16_t)autosplit_decide(logits, {o.classes}, {literal(temperature)}, "
                "&answer->confidence);", "answer->logits = logits;"]

    @_call.register
    def _(self, o: Symbols) -> str:
        return f"return {self._at(o.reads[0])};"


def _in_pairs(rows: NDArray[np.int8], column: int) -> NDArray[np.int8]:
    """Rows of two channels, four bytes of one and four of the other in turn, as one load of two words reads them.

    Args:
        rows: Of each group, (groups, channels, values).
        column: Bytes that a row is filled up to with zeros.
    """
    groups, channels, values = rows.shape
    filled = np.zeros((groups, -(-channels // 2) * 2, column), dtype=np.int8)
    filled[:, :channels, :values] = rows
    pairs: NDArray[np.int8] = filled.reshape(groups, -1, 2, column // 4, 4).transpose(0, 1, 3, 2, 4)
    return pairs


def _wrapped(items: Sequence[str]) -> str:
    """Items in lines that are not too long."""
    lines, line = [], ""
    for item in items:
        if len(line) + len(item) + 2 > _WIDTH:
            lines.append(line)
            line = ""
        line += f"{item}, "
    return "\n".join([*lines, line]).rstrip(", ")


_HEAD = """/* Written by `autosplit export --target c`: the networks of one deployment. Do not edit it, export again. */
#include "autosplit.h"

#include "kernels.h"
#include "payload.h"

#if defined(__GNUC__)
#define AUTOSPLIT_ALIGNED __attribute__((aligned(4)))
#else
#define AUTOSPLIT_ALIGNED _Alignas(4)
#endif

/* Where the arena lies: define it as __attribute__((section(".ccmram"))) or the like to choose. */
#ifndef AUTOSPLIT_ARENA_PLACE
#define AUTOSPLIT_ARENA_PLACE
#endif

/* Follow each operation with its number, and the payload coder of each rate, for time.c. */
#ifdef AUTOSPLIT_TIMED
void autosplit_step(unsigned slot);
#define AUTOSPLIT_STEP(slot) autosplit_step(slot)
#define AUTOSPLIT_CODED(rate) autosplit_step(AUTOSPLIT_STEPS + (rate))
#else
#define AUTOSPLIT_STEP(slot)
#define AUTOSPLIT_CODED(rate)
#endif

"""

_STATE = """

static AUTOSPLIT_ARENA_PLACE AUTOSPLIT_ALIGNED uint8_t arena[{bytes}];
"""
