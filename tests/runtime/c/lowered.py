"""Int8 networks as C, and what torch and onnxruntime make of the same images: what the tests of kernels share."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autosplit.compression.int8_onnx import integer_form
from autosplit.compression.integer_operators import translations
from autosplit.compression.lowering import Arena, Lowering, Program, plan_arena
from autosplit.compression.quantise import quantise
from autosplit.data.base import normalise
from autosplit.models.constants import with_constants
from autosplit.models.onnx_files import write_onnx
from autosplit.runtime.c.export import write_sources
from autosplit.runtime.c.programs import DevicePrograms, Step
from autosplit.runtime.standalone.bundle.parts import session_options
from autosplit.runtime.standalone.payload.coder import PayloadCoder
from autosplit.runtime.standalone.payload.frequencies import FrequencyTables

Answers = NDArray[np.float32]
Shape = tuple[int, int, int]

FLAGS = ("-std=c11", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror")
SANITIZERS = ("-g", "-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DPOISON")
RISC_V, RISC_V_EMULATOR = "riscv64-linux-gnu-gcc", "qemu-riscv64"
"""A compiler for another machine, and what runs its programs here; `-static` spares them that machine's libraries."""
NO_RISC_V = [tool for tool in (RISC_V, RISC_V_EMULATOR) if shutil.which(tool) is None]
"""What this machine lacks of these."""
_GUARD_BYTES = 32

# Behind `network.c`: what it makes of an image, with whatever was in the arena before. 0 where it wrote to bytes that
# belong to no buffer; POISON lets the address sanitizer see reads of them as well.
OBSERVER = r"""
#include <string.h>
#ifdef POISON
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(begin, size)
#define ASAN_UNPOISON_MEMORY_REGION(begin, size)
#endif

static const uint32_t guards[][2] = {{{guards}}};

int observe(const uint8_t *image, uint8_t *to, uint8_t filling);

int observe(const uint8_t *image, uint8_t *to, uint8_t filling) {{
    memset(arena, filling, sizeof arena);
    for (uint32_t i = 0; i < sizeof guards / sizeof *guards; i++)
        ASAN_POISON_MEMORY_REGION(arena + guards[i][0], guards[i][1] - guards[i][0]);
    {answer}
    ASAN_UNPOISON_MEMORY_REGION(arena, sizeof arena);
    for (uint32_t i = 0; i < sizeof guards / sizeof *guards; i++)
        for (uint32_t at = guards[i][0]; at < guards[i][1]; at++)
            if (arena[at] != filling) return 0;
    return 1;
}}
"""
_LOGITS = "autosplit_answer answer; autosplit_begin(image, 0, to, &answer); memcpy(to, answer.logits, sizeof logits);"
_SYMBOLS = "memcpy(to, encode(image), {bytes});"

# Images are constants of the program, or come from the file IMAGES, where there are files.
DRIVER = r"""
#include <stdint.h>
#include <stdio.h>

#define MOST_BYTES {most}
#define MOST_PIXELS {pixels}

typedef int observer(const uint8_t *image, uint8_t *to, uint8_t filling);
{declared}

static const struct {{
    observer *run;
    const uint8_t *images;
    uint32_t count, image_bytes, bytes;
}} cases[] = {{
{rows}
}};

#ifdef IMAGES
static const uint8_t *next(uint32_t c, uint32_t i) {{
    static uint8_t image[MOST_PIXELS];
    static FILE *file;
    (void)i;
    if (!file) file = fopen(IMAGES, "rb");
    return file && fread(image, cases[c].image_bytes, 1, file) == 1 ? image : NULL;
}}
#else
static const uint8_t *next(uint32_t c, uint32_t i) {{ return cases[c].images + i * cases[c].image_bytes; }}
#endif

int main(void) {{
    static uint8_t found[MOST_BYTES];
    static char line[2 * MOST_BYTES + 1];
    for (uint32_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (uint32_t i = 0; i < cases[c].count; i++) {{
            const uint8_t *image = next(c, i);
            if (!image) return 1;
            if (!cases[c].run(image, found, (uint8_t)(85 * i + 255))) {{
                printf("case %u, image %u: written beyond a buffer\\n", (unsigned)c, (unsigned)i);
                return 2;
            }}
            for (uint32_t b = 0; b < cases[c].bytes; b++) {{
                line[2 * b] = "0123456789abcdef"[found[b] >> 4];
                line[2 * b + 1] = "0123456789abcdef"[found[b] & 15];
            }}
            line[2 * cases[c].bytes] = 0;
            puts(line);
        }}
    return 0;
}}
"""


@dataclass(frozen=True)
class Case:
    """An int8 network and images.

    Attributes:
        name: For messages.
        images: uint8 (N, C, H, W).
        mean: Of each channel.
        std: Likewise.
        head: The int8 network.
        encoder: An int8 encoder behind it, or `None` where the head gives logits.
        bits: Of a symbol.
        limit: Of the quantiser.
    """

    name: str
    images: NDArray[np.uint8]
    mean: Tensor
    std: Tensor
    head: nn.Module
    encoder: nn.Module | None = None
    bits: int = 8
    limit: Tensor | None = None

    @property
    def shape(self) -> Shape:
        """Of an image."""
        return self.images.shape[1:]  # type: ignore[return-value]

    @functools.cached_property
    def torch(self) -> Answers:
        """Logits or symbols of all images, (N, values)."""
        with torch.inference_mode():
            found = self.head(normalise(torch.from_numpy(self.images), self.mean, self.std))
            if self.encoder is not None:
                found = quantise(self.encoder(found), self.bits, self.limit)
        return found.flatten(1).float().numpy()

    @functools.cached_property
    def step(self) -> Step:
        """Its program."""
        lowering = Lowering(self.shape)
        value = lowering.network(self.head, lowering.image(self.mean.tolist(), self.std.tolist()), self.shape)
        if self.encoder is None:
            lowering.logits(value)
        else:
            code = lowering.network(self.encoder, value, _result(self.head, self.shape))
            assert self.limit is not None
            lowering.symbols(code, self.bits, self.limit)
        return Step(lowering.program, plan_arena(lowering.program))

    @property
    def pixels(self) -> bytes:
        """All images as C gets them."""
        return np.ascontiguousarray(self.images.transpose(0, 2, 3, 1)).tobytes()

    def integer_form(self) -> nn.Module:
        """Images to flat logits or symbols, for the exporter."""
        return _Whole(self)

    def write(self, folder: Path, number: int = 0, *, spaced: bool = False) -> int:
        """Write its C sources, with an observer.

        Args:
            folder: New.
            number: Ends the names of its functions.
            spaced: Whether every buffer lies by itself, among bytes that are guarded.

        Returns:
            Bytes of an answer.
        """
        step = self.step
        guards: list[tuple[int, int]] = []
        if spaced:
            arena, guards = spaced_arena(step.program)
            step = replace(step, arena=arena)
        values, coders = prod(_result(self.head, self.shape)), []
        if self.encoder is not None:
            shape = _result(self.encoder, _result(self.head, self.shape))
            values = prod(shape)
            flat = np.full((shape[0], 2**self.bits), 2 ** (16 - self.bits), dtype=np.uint32)
            coders = [PayloadCoder(FrequencyTables(flat), shape, b"lowered")]  # type: ignore[arg-type]
        write_sources(folder, DevicePrograms((step,), None), coders, classes=values)
        names = "".join(f"#define {name} {name}_{number}\n" for name in (
            "observe", "autosplit_begin", "autosplit_fallback"))
        answer = _LOGITS if self.encoder is None else _SYMBOLS.format(bytes=values)
        source = folder / "network.c"
        listed = ", ".join(f"{{{first}, {end}}}" for first, end in guards or [(0, 0)])
        source.write_text("\n".join([names, source.read_text(), OBSERVER.format(guards=listed, answer=answer)]))
        return values * (4 if self.encoder is None else 1)


class _Whole(nn.Module):
    """What a bundle's ONNX file holds (`autosplit.runtime.networks`), flattened."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.mean, self.std = case.mean.view(-1, 1, 1), case.std.view(-1, 1, 1)
        self.head = integer_form(with_constants(case.head, case.shape), case.shape)
        self.encoder, self.bits, self.limit = nn.Identity(), case.bits, case.limit
        if case.encoder is not None:
            shape = _result(case.head, case.shape)
            self.encoder = integer_form(with_constants(case.encoder, shape), shape)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) -> (N, values)."""
        found = self.encoder(self.head((images.to(torch.float32) / 255.0 - self.mean) / self.std))
        return (found if self.limit is None else quantise(found, self.bits, self.limit)).flatten(1).float()


class _Beside(nn.Module):
    """Several networks on the same images, one file for all: exporting takes seconds a file."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, values of all)."""
        return torch.cat([network(images) for network in self.networks], 1)


def _result(network: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    with torch.inference_mode():
        return tuple(network(torch.zeros(1, *shape)).shape[1:])


def onnx_answers(cases: Sequence[Case], folder: Path) -> list[Answers]:
    """What onnxruntime makes of cases with images of one shape, run as a bundle's networks are."""
    import onnxruntime

    shape, path = cases[0].shape, folder / "networks.onnx"
    network = _Beside([case.integer_form() for case in cases]).eval()
    write_onnx(network, torch.zeros(2, *shape, dtype=torch.uint8), path, ("images", "answers"),
               translations=translations())
    options = session_options(1)
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    everything, begin = np.concatenate([case.images for case in cases]), 0
    answers = session.run(None, {"images": everything})[0]
    found, row = [], 0
    for case in cases:
        values = case.torch.shape[1]
        found.append(answers[row : row + len(case.images), begin : begin + values])
        row, begin = row + len(case.images), begin + values
    return found


def spaced_arena(program: Program) -> tuple[Arena, list[tuple[int, int]]]:
    """Every buffer and scratch memory for itself, and the bytes between them."""
    sizes = [prod(shape) for shape in program.buffers] + [o.scratch_bytes for o in program.operations]
    places, guards, at = [], [], 0
    for size in sizes:
        guards.append((at, at + _GUARD_BYTES))
        places.append(at + _GUARD_BYTES)
        end = places[-1] + size
        at = -(-end // 8) * 8
        if at > end:
            guards.append((end, at))
    guards.append((at, at + _GUARD_BYTES))
    count = len(program.buffers)
    return Arena(tuple(places[:count]), tuple(places[count:]), at + _GUARD_BYTES), guards


def write_program(
    cases: Sequence[Case], folder: Path, images: Path | None = None, *, spaced: bool = False
) -> list[Path]:
    """Write a program that prints the answers of all cases.

    Args:
        cases: Networks.
        folder: Exists.
        images: New file for the images; `None` = they become constants of the program.
        spaced: See `Case.write`.

    Returns:
        Its sources.
    """
    declared, rows, sizes = [], [], []
    for number, case in enumerate(cases):
        sizes.append(case.write(folder / str(number), number, spaced=spaced))
        declared.append(f"observer observe_{number};")
        name = "NULL"
        if images is None:
            name = f"images_{number}"
            declared.append(f"static const uint8_t {name}[] = {{{','.join(map(str, case.pixels))}}};")
        rows.append(f"    {{observe_{number}, {name}, {len(case.images)}, {case.images[0].size}, {sizes[-1]}}},")
    if images is not None:
        images.write_bytes(b"".join(case.pixels for case in cases))
    driver = folder / "driver.c"
    driver.write_text(DRIVER.format(most=max(sizes), pixels=max(case.images[0].size for case in cases),
                                    declared="\n".join(declared), rows="\n".join(rows)))
    own = [folder / str(number) / "network.c" for number in range(len(cases))]
    return [*own, driver, folder / "0" / "kernels.c", folder / "0" / "payload.c"]


def read_answers(cases: Sequence[Case], printed: str) -> list[Answers]:
    """What such a program printed."""
    lines, found = iter(printed.split()), []
    for case in cases:
        kind = np.float32 if case.encoder is None else np.uint8
        rows = [np.frombuffer(bytes.fromhex(next(lines)), kind) for _ in case.images]
        found.append(np.stack(rows).astype(np.float32))
    assert next(lines, None) is None
    return found


def run_on_host(
    cases: Sequence[Case], folder: Path, cc: str = "cc", flags: Sequence[str] = ("-O2",), *, spaced: bool = False
) -> list[Answers]:
    """What the C of cases makes of their images on this machine."""
    images = folder / "images.bin"
    sources = write_program(cases, folder, images, spaced=spaced)
    return compiled(cases, sources, images, cc, flags)


def compiled(
    cases: Sequence[Case], sources: Sequence[Path], images: Path, cc: str, flags: Sequence[str]
) -> list[Answers]:
    """Compile what `write_program` has written for this machine, or for `RISC_V`, and run it."""
    program = images.with_name("program")
    made = subprocess.run([cc, *FLAGS, *flags, f'-DIMAGES="{images}"', *map(str, sources), "-o", str(program)],
                          capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[:3000]
    # leaks are looked for with ptrace, which containers forbid
    emulator = [RISC_V_EMULATOR] if cc == RISC_V else []
    ran = subprocess.run([*emulator, str(program)], capture_output=True, text=True,
                         env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"})
    assert ran.returncode == 0, ran.stdout[-200:] + ran.stderr[:3000]
    return read_answers(cases, ran.stdout)
