"""Instructions of the C that `autosplit export --target c` writes, layer by layer, on an emulated Cortex-M4 or M7.

    python -m benchmarks.instructions --out results/benchmarks/instructions
    python -m benchmarks.instructions --core m7 --out results/benchmarks/instructions-m7

Whole networks, pruned ones and injected heads are written as C, compiled with arm-none-eabi-gcc -O3 and run under
QEMU (`-icount`, one instruction a tick of its clock), which counts instructions exactly and knows nothing of cycles:
pipeline, flash waits and the time of a long load are in one number, cycles an instruction, which is an assumption.
Weights are random, as no instruction depends on them but for a few exceptions. Writes `layers.csv`, each layer with
its work; `networks.csv`, whole networks beside what the profile made of the layers predicts when that network's
layers are left out; `deployments.csv`, the device's side of two results on test images, beside what the latency model
`instructions` predicts; and `profile.json`, the prices of the core's device profile.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn
from torchvision.models import mobilenet_v2

from autosplit.compression.int8 import quantise_int8
from autosplit.compression.lowering import Lowering, plan_arena
from autosplit.compression.lowering.operations import Convolution, Operation, Pixels
from autosplit.core.operators import KINDS, TERMS, OperatorWork
from autosplit.core.profiles import DeviceProfile, load_profile
from autosplit.core.regression import fit_prices, solve_rates
from autosplit.core.result import Result
from autosplit.core.timings import HeldOut, Timing
from autosplit.data.recorded import recorded_data
from autosplit.latency import load_latency_model
from autosplit.models.costs import operators_by_node
from autosplit.models.injected import injected_networks, injected_structure
from autosplit.models.loading import build_backbone
from autosplit.models.pruning import HeadPruner
from autosplit.models.tracing import trace
from autosplit.runtime.c.export import C_FOLDER, write_sources
from autosplit.runtime.c.programs import DevicePrograms, Step
from autosplit.runtime.deployment import Deployment
from autosplit.runtime.export import export_bundle
from autosplit.runtime.standalone.payload.coder import PayloadCoder
from autosplit.runtime.standalone.payload.frequencies import FrequencyTables
from benchmarks.common import parser, write_json
from tests.runtime.c.emulated import Core, run


@dataclass(frozen=True)
class Board:
    """A chip whose core is emulated.

    Attributes:
        core: The core.
        profile: Name of the device profile.
        cycles_per_instruction: An assumption.
        clock_mhz: Of the chip.
        mlperf_ms: ResNet-8 in MLPerf Tiny v1.0 with X-CUBE-AI 7.3.
    """

    core: Core
    profile: str
    cycles_per_instruction: float
    clock_mhz: float
    mlperf_ms: float

    @property
    def per_ms(self) -> float:
        """Instructions a millisecond."""
        return self.clock_mhz * 1e3 / self.cycles_per_instruction


BOARDS = {
    # the inner loop of convolutions takes 61 cycles for its 44 instructions by Arm's Cortex-M4 reference manual (loads
    # of n words n + 1 cycles, a taken branch 3), 1.39; the rest is for flash that has to be waited for
    "m4": Board("m4", "stm32l4r5-c", 1.5, 120.0, 227.0),
    # issues two instructions at once: X-CUBE-AI takes 0.56 times the cycles of the M4 for ResNet-8
    "m7": Board("m7", "stm32h7a3-c", 0.84, 280.0, 54.3),
}
_IMAGES = 20  # of a deployment

_MAIN = """#include <stdio.h>
#include "board.h"
#include "autosplit.h"
static uint64_t last, spent[AUTOSPLIT_STEPS + AUTOSPLIT_RATES];
void autosplit_step(unsigned slot) {{
    uint64_t now = board_instructions();
    spent[slot] += now - last;
    last = board_instructions();
}}
static uint8_t image[AUTOSPLIT_IMAGE_BYTES], payload[AUTOSPLIT_MAX_PAYLOAD_BYTES + 1];
int main(void) {{
    autosplit_answer answer;
    for (unsigned i = 0; i < sizeof image; i++) image[i] = (uint8_t)(i * 2654435761u >> 24);
    last = board_instructions();
    autosplit_begin(image, 0, payload, &answer);
    for (unsigned i = 0; i < {operations}; i++) printf("%lu\\n", (unsigned long)spent[i]);
    return 0;
}}
"""


_DEPLOYED = """#include <stdio.h>
#include "board.h"
#include "autosplit.h"
#include "vectors.h"
static uint8_t payload[AUTOSPLIT_MAX_PAYLOAD_BYTES + 1];
int main(void) {
    for (unsigned i = 0; i < VECTORS; i++) {
        autosplit_answer answer;
        uint64_t before = board_instructions();
        size_t n = autosplit_begin(vector_images[i], 0, payload, &answer);
        printf("%lu %u %u\\n", (unsigned long)(board_instructions() - before), (unsigned)n, vectors[0][i].bytes);
    }
    return 0;
}
"""

DEPLOYMENTS = ("results/reference", "results/split")


@dataclass(frozen=True)
class Counted:
    """One layer.

    Attributes:
        network: What it is part of.
        name: Of its node.
        kind: Of its operation.
        work: As the latency models count it.
        instructions: For one image.
    """

    network: str
    name: str
    kind: str
    work: OperatorWork
    instructions: int


def networks() -> Iterator[tuple[str, nn.Module, tuple[int, int, int]]]:
    """Float networks to count, with the shapes of their images."""
    small = (3, 32, 32)
    for name, prunings in (("resnet8", (0.0, 0.25, 0.5, 0.75)), ("resnet20", (0.0, 0.4))):
        whole = trace(build_backbone(name, 10, 3, small[1:], pretrained=False).eval(), small)
        pruner = HeadPruner(whole, small)
        for pruned in prunings:
            keep = tuple(max(1, round(g.channels * (1 - pruned))) for g in pruner.groups)
            yield f"{name}, {pruned:.0%} pruned", pruner.sub_network(keep).materialise(whole), small
    mobile = mobilenet_v2(width_mult=0.35, num_classes=10)
    yield "mobilenet_v2 x0.35", trace(mobile.eval(), (3, 96, 96)), (3, 96, 96)
    for depthwise in (False, True):
        head, _ = injected_networks(injected_structure((3, 96, 96), (32, 24, 24), True, depthwise))
        yield f"injected head, {'depthwise' if depthwise else 'dense'}", head, (3, 96, 96)


def counted(name: str, network: nn.Module, shape: tuple[int, int, int], core: Core) -> list[Counted]:
    """The layers of one network, with the instructions that they took."""
    _randomise(network)
    images = torch.rand(16, *shape, generator=torch.Generator().manual_seed(0))
    lowering = Lowering(shape)
    value = lowering.network(quantise_int8(network, [images]), lowering.image([0.0] * 3, [1.0] * 3), shape)
    coders = []
    if len(value.shape) == 1:
        lowering.logits(value)
    else:
        lowering.symbols(value, 4, torch.ones(()))
        tables = FrequencyTables(np.full((value.shape[0], 16), 4096))
        coders = [PayloadCoder(tables, value.shape, b"counted")]
    program = lowering.program
    programs = DevicePrograms((Step(program, plan_arena(program)),), None)
    counts = spent(programs, coders, len(program.operations), core)
    works = {node.name: found for node, found in operators_by_node(network, shape).items()}  # type: ignore[arg-type]
    rows, waiting = [], 0
    for operation, instructions in zip(program.operations, counts, strict=True):
        if isinstance(operation, Pixels):  # is paid for by the layer that reads it
            waiting = instructions
        elif operation.name in works and instructions:
            rows.append(Counted(name, operation.name, _kind(operation), works[operation.name][0],
                                instructions + waiting))
            waiting = 0
    return rows


def _kind(operation: Operation) -> str:
    return "Depthwise" if isinstance(operation, Convolution) and operation.depthwise else type(operation).__name__


def spent(
    programs: DevicePrograms, coders: list[PayloadCoder], operations: int, core: Core, level: str = "-O3"
) -> list[int]:
    """Instructions of each operation, for one image."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write_sources(path / "c", programs, coders)
        (path / "main.c").write_text(_MAIN.format(operations=operations), encoding="utf-8")
        sources = [path / "c" / n for n in ("network.c", "kernels.c", "payload.c")]
        out = run([*sources, path / "main.c"], [path / "c"], path, core, (level, "-DAUTOSPLIT_TIMED"))
    return [int(line) for line in out.split()]


def _randomise(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            module.running_var.uniform_(0.5, 1.5, generator=generator)


def deployed(path: Path, board: Board) -> dict[str, object]:
    """A result's device side on test images: instructions of an image answered there, and of one that is sent."""
    result = Result.load(path / "best.json", trust_code=False)
    deployment = Deployment.from_result(result)
    images = recorded_data(result, path / "best.json", None).test.images[:_IMAGES]
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        manifest = export_bundle(deployment, bundle, images=images, target="c")
        source = Path(folder) / "main.c"
        source.write_text(_DEPLOYED, encoding="utf-8")
        c = bundle / C_FOLDER
        lines = run([*(c / n for n in ("network.c", "kernels.c", "payload.c")), source], [c], Path(folder), board.core,
                    ("-O3",))
        code = _text_bytes([c / n for n in ("network.c", "kernels.c", "payload.c", "fragments.c")], c, Path(folder))
    rows = [[int(word) for word in line.split()] for line in lines.splitlines()]
    assert all(n == wanted for _, n, wanted in rows)
    sent, answered = [n for n, size, _ in rows if size], [n for n, size, _ in rows if not size]
    device = load_profile(DeviceProfile, board.profile)
    there = result.scenario.conditions.model_copy(update={"device": device})
    found = load_latency_model("instructions").latency([result.outcome.measurement.workload], [there])
    per_ms = board.per_ms
    footprint = manifest.footprint
    assert footprint is not None
    return {"deployment": manifest.label, "answered": len(answered), "sent": len(sent),
            "instructions, answered": round(float(np.mean(answered))) if answered else None,
            "instructions, sent": round(float(np.mean(sent))) if sent else None,
            "ms, answered": round(float(np.mean(answered)) / per_ms, 2) if answered else None,
            "ms, sent": round(float(np.mean(sent)) / per_ms, 2) if sent else None,
            "predicted ms, answered": round(float(found.device_ms[0, 0]), 2) if answered else None,
            "predicted ms, sent": round(float(found.device_ms[0, 0] + found.encode_ms[0, 0]), 2),
            "ram_bytes": footprint.static_bytes + footprint.payload_bytes, "flash_bytes": code}


def _text_bytes(sources: list[Path], include: Path, folder: Path) -> int:
    """Code and constants of sources, compiled for a Cortex-M4."""
    total = 0
    for source in sources:
        compiled = folder / f"{source.stem}.o"
        subprocess.run(["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard",
                        "-O3", f"-I{include}", "-c", str(source), "-o", str(compiled)], check=True)
        size = subprocess.run(["arm-none-eabi-size", str(compiled)], check=True, capture_output=True, text=True)
        total += int(size.stdout.splitlines()[1].split()[0])
    return total


def prices_of(rows: list[Counted]) -> tuple[NDArray[np.float64], dict[str, HeldOut]]:
    """Instructions of each of `TERMS` for each of `KINDS`; and the error on shapes that are left out."""
    prices, held_out = fit_prices(timings(rows, 1.0))
    return np.nan_to_num(prices), held_out


def timings(rows: list[Counted], per_ms: float) -> list[Timing]:
    """The layers as the regressions of latency models take them, at so many instructions a millisecond."""
    return [Timing(r.network, "", r.name, r.work, r.instructions / per_ms) for r in rows]


def predicted(prices: NDArray[np.float64], rows: list[Counted]) -> float:
    """Instructions of some layers at these prices."""
    return sum(float(prices[KINDS.index(row.work.kind)] @ np.array(row.work.terms)) for row in rows)


def main() -> None:
    """Run the benchmark that the options ask for."""
    options_parser = parser(__doc__, scenario=False)
    options_parser.add_argument("--core", choices=list(BOARDS), default="m4")
    options = options_parser.parse_args()
    board = BOARDS[options.core]
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    rows: list[Counted] = []
    for name, network, shape in networks():
        rows += counted(name, network, shape, board.core)
    per_ms = board.per_ms
    pd.DataFrame([{"network": r.network, "layer": r.name, "operation": r.kind, "macs": r.work.macs,
                   "weights": r.work.weights, "outputs": r.work.outputs, "instructions": r.instructions,
                   "instructions a mac": round(r.instructions / r.work.macs, 2) if r.work.macs else None}
                  for r in rows]).to_csv(options.out / "layers.csv", index=False)
    prices, held_out = prices_of(rows)
    wholes = []
    for name in dict.fromkeys(r.network for r in rows):
        own = [r for r in rows if r.network == name]
        family = name.partition(",")[0]
        others = prices_of([r for r in rows if r.network.partition(",")[0] != family])[0]
        total = sum(r.instructions for r in own)
        wholes.append({"network": name, "macs": sum(r.work.macs for r in own), "instructions": total,
                       "ms": round(total / per_ms, 2), "predicted": round(predicted(prices, own)),
                       "predicted from others": round(predicted(others, own))})
    frame = pd.DataFrame(wholes)
    for column, title in (("predicted", "error %"), ("predicted from others", "error from others %")):
        frame[title] = (100 * (frame[column] / frame["instructions"] - 1)).round(1)
    frame.to_csv(options.out / "networks.csv", index=False)
    resnet8 = next(w for w in wholes if w["network"].startswith("resnet8, 0%"))
    write_json(options.out / "profile.json", {
        "profile": board.profile, "cycles_per_instruction": board.cycles_per_instruction, "terms": TERMS,
        "prices": {kind: [round(price, 4) for price in row] for kind, row in zip(KINDS, prices.tolist(), strict=True)},
        "held_out": {kind: error.model_dump() for kind, error in held_out.items()},
        "rates": {name: _rate(ms) for name, ms in solve_rates(timings(rows, per_ms)).items()},
        "resnet8_over_mlperf": resnet8["ms"] / board.mlperf_ms})
    devices = pd.DataFrame([deployed(Path(path), board) for path in DEPLOYMENTS])
    devices.to_csv(options.out / "deployments.csv", index=False)
    print(frame.to_string(index=False))
    print(devices.T.to_string(header=False))


def _rate(ms: float) -> float | None:
    """Millions a second of what takes so many milliseconds."""
    return round(1e-3 / ms, 3) if ms else None


if __name__ == "__main__":
    with torch.no_grad():
        main()
