"""Convolutions of the C that `autosplit export --target c` writes beside those of Arm's CMSIS-NN: instructions, levels.

    git clone https://github.com/ARM-software/CMSIS-NN /tmp/cmsis-nn
    python -m benchmarks.cmsis_nn --cmsis-nn /tmp/cmsis-nn --out results/benchmarks/cmsis-nn

Networks are written as C and run on an emulated Cortex-M4 (see `benchmarks.instructions`). Behind each convolution the
program hands the same input, levels less 128, to `arm_convolve_wrapper_s8` or `arm_depthwise_conv_wrapper_s8`, whose
multipliers and shifts are made from the layer's scales as TensorFlow Lite makes them, and notes the instructions and
the output of both. CMSIS-NN is built in each of the three ways that it can requantise: as it is by default, with the
inline assembly that its README calls faster on this core, and with a single rounding. Weights are random, batch norms
have the statistics of the calibration images, and the images are test images of digits-m, enlarged for a network that
takes larger ones.

All outputs are checked against sums taken in numpy: ours have to be `round(float32(sum) * scale / step) + zero`, as in
onnxruntime, and those of CMSIS-NN what `requantised`, a model of its `arm_nn_requantize`, makes of the same sums. So an
output that differs does so by rounding alone. Writes `layers.csv`, a row for each layer and build, and
`summary.json`.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional as F

from autosplit.compression.int8 import quantise_int8
from autosplit.compression.int8_layers import Int8Conv2d, Requantise
from autosplit.compression.lowering import Lowering, Program, plan_arena
from autosplit.compression.lowering.operations import Convolution
from autosplit.data import load_dataset
from autosplit.runtime.c.export import write_sources
from autosplit.runtime.c.programs import DevicePrograms, Step
from benchmarks.common import parser, write_json
from benchmarks.instructions import networks
from tests.runtime.c.emulated import run

Integers = NDArray[np.int64]

NETWORKS = ("resnet8, 0% pruned", "resnet8, 50% pruned", "mobilenet_v2 x0.35")
BUILDS = {
    "default": (),
    "assembly": ("-DCMSIS_NN_USE_REQUANTIZE_INLINE_ASSEMBLY",),
    "single rounding": ("-DCMSIS_NN_USE_SINGLE_ROUNDING",),
}
"""Ways to build CMSIS-NN, with the flags of the compiler."""

_CALIBRATION, _IMAGES = 64, 16
_SOURCES = {
    "ConvolutionFunctions": (
        "arm_convolve_wrapper_s8", "arm_convolve_s8", "arm_convolve_1x1_s8", "arm_convolve_1x1_s8_fast",
        "arm_convolve_1_x_n_s8", "arm_convolve_get_buffer_sizes_s8", "arm_nn_mat_mult_kernel_s8_s16",
        "arm_nn_mat_mult_kernel_row_offset_s8_s16", "arm_depthwise_conv_wrapper_s8", "arm_depthwise_conv_s8",
        "arm_depthwise_conv_s8_opt", "arm_depthwise_conv_3x3_s8", "arm_depthwise_conv_get_buffer_sizes_s8"),
    "NNSupportFunctions": ("arm_nn_mat_mult_nt_t_s8", "arm_s8_to_s16_unordered_with_offset",
                           "arm_q7_to_q15_with_offset"),
}

_BESIDE = r"""
#include <stdio.h>

#include "arm_nnfunctions.h"
#include "board.h"

typedef struct {{
    int operation, depthwise;
    uint32_t reads, writes; /* places in the arena */
    cmsis_nn_dims in, filter, out;
    cmsis_nn_tile stride, padding;
    cmsis_nn_activation activation;
    int32_t in_offset, out_offset;
    const int8_t *weight;
    const int32_t *bias, *multiplier, *shift;
}} layer;

{constants}

static const layer layers[] = {{
{rows}
}};
static const uint8_t images[][AUTOSPLIT_IMAGE_BYTES] = {{
{images}
}};
static int8_t in[{most}], out[{most}];
static int32_t scratch[4096];
static uint64_t before;
static FILE *levels;

static uint32_t theirs(const layer *l, int32_t *bytes) {{
    const cmsis_nn_tile dense = {{1, 1}};
    const cmsis_nn_conv_params conv = {{l->in_offset, l->out_offset, l->stride, l->padding, dense, l->activation}};
    const cmsis_nn_dw_conv_params own = {{l->in_offset, l->out_offset, 1, l->stride, l->padding, dense, l->activation}};
    const cmsis_nn_per_channel_quant_params quant = {{(int32_t *)l->multiplier, (int32_t *)l->shift}};
    const cmsis_nn_dims bias = {{1, 1, 1, l->out.c}};
    *bytes = l->depthwise ? arm_depthwise_conv_wrapper_s8_get_buffer_size(&own, &l->in, &l->filter, &l->out)
                          : arm_convolve_wrapper_s8_get_buffer_size(&conv, &l->in, &l->filter, &l->out);
    if ((uint32_t)*bytes > sizeof scratch) return 0;
    const cmsis_nn_context context = {{scratch, *bytes}};
    uint64_t start = board_instructions();
    arm_cmsis_nn_status status =
        l->depthwise ? arm_depthwise_conv_wrapper_s8(&context, &own, &quant, &l->in, in, &l->filter, l->weight, &bias,
                                                     l->bias, &l->out, out)
                     : arm_convolve_wrapper_s8(&context, &conv, &quant, &l->in, in, &l->filter, l->weight, &bias,
                                               l->bias, &l->out, out);
    uint32_t spent = (uint32_t)(board_instructions() - start);
    return status == ARM_CMSIS_NN_SUCCESS ? spent : 0;
}}

void autosplit_step(unsigned operation) {{
    const uint32_t ours = (uint32_t)(board_instructions() - before);
    for (unsigned i = 0; i < sizeof layers / sizeof *layers; i++) {{
        const layer *l = layers + i;
        const uint32_t taken = (uint32_t)(l->in.h * l->in.w * l->in.c);
        const uint32_t made = (uint32_t)(l->out.h * l->out.w * l->out.c);
        if (l->operation != operation) continue;
        int32_t bytes;
        for (uint32_t j = 0; j < taken; j++) in[j] = (int8_t)(arena[l->reads + j] - 128);
        const uint32_t spent = theirs(l, &bytes);
        printf("%lu %lu %ld\n", (unsigned long)ours, (unsigned long)spent, (long)bytes);
        fwrite(in, 1, taken, levels);
        fwrite(arena + l->writes, 1, made, levels);
        fwrite(out, 1, made, levels);
    }}
    before = board_instructions();
}}

int main(void) {{
    autosplit_answer answer;
    levels = fopen("{levels}", "wb");
    for (unsigned i = 0; i < sizeof images / sizeof *images; i++) {{
        before = board_instructions();
        autosplit_begin(images[i], 0, NULL, &answer);
    }}
    return fclose(levels);
}}
"""


@dataclass(frozen=True)
class Layer:
    """A convolution with the numbers that TensorFlow Lite would give CMSIS-NN.

    Attributes:
        number: Of its operation in the program.
        operation: What our C computes.
        bias: Of sums of levels less the input's zero, int64 (outputs,).
        factor: Output levels that a unit of such a sum makes, float64 (outputs,).
        step: float32, value of a level of the output.
        zero: Level of the output that stands for zero.
    """

    number: int
    operation: Convolution
    bias: Integers
    factor: NDArray[np.float64]
    step: np.float32
    zero: int

    @property
    def kind(self) -> str:
        """Which of CMSIS-NN's functions it is one for."""
        window = self.operation.window
        size = "x".join(map(str, window.kernel)) + (", strided" if max(window.stride) > 1 else "")
        return f"depthwise {size}" if self.operation.depthwise else size

    @property
    def limits(self) -> tuple[int, int]:
        """Lowest and highest level of the output."""
        assert self.operation.levels is not None
        return self.operation.levels.low, self.operation.levels.high

    def sums(self, levels: NDArray[Any]) -> Integers:
        """Sums of the inputs (N, height, width, channels), (N, out height, out width, out channels)."""
        o = self.operation
        inputs = torch.from_numpy(levels.astype(np.float64)).permute(0, 3, 1, 2) - o.zero
        down, right = ((out - 1) * stride + kernel - size - begin for out, stride, kernel, size, begin in zip(
            o.output, o.window.stride, o.window.kernel, o.shape, o.window.begin, strict=False))
        padded = F.pad(inputs, (o.window.begin[1], right, o.window.begin[0], down))
        weight = torch.from_numpy(o.weight.astype(np.float64)).permute(0, 3, 1, 2)
        found = F.conv2d(padded, weight, None, o.window.stride, groups=o.groups).permute(0, 2, 3, 1)
        return found.numpy().astype(np.int64) + self.bias

    def in_float32(self, sums: Integers) -> Integers:
        """Output levels of sums, as onnxruntime computes them."""
        levels = np.rint(sums.astype(np.float32) * self.operation.scale / self.step).astype(np.int64) + self.zero
        return np.clip(levels, *self.limits)

    def as_cmsis_nn(self, sums: Integers, *, single: bool) -> Integers:
        """Output levels of sums, as CMSIS-NN computes them."""
        return np.clip(requantised(sums, *multipliers(self.factor), single=single) + self.zero, *self.limits)


def multipliers(factors: NDArray[np.float64]) -> tuple[Integers, Integers]:
    """Multipliers of 31 bits, and shifts, to the left where positive: `QuantizeMultiplier` of TensorFlow Lite."""
    fractions, shifts = np.frexp(factors)
    multiplier = np.floor(fractions * 2.0**31 + 0.5).astype(np.int64)
    over = multiplier == 2**31
    return np.where(over, 2**30, multiplier), shifts.astype(np.int64) + over


def requantised(sums: Integers, multiplier: Integers, shift: Integers, *, single: bool) -> Integers:
    """What `arm_nn_requantize` makes of sums (..., channels), with one rounding or, as it does by default, two."""
    if single:
        return ((sums * multiplier >> 30 - shift) + 1) >> 1
    high = (sums * 2 ** np.maximum(shift, 0) * multiplier + 2**30) >> 31
    exponent = np.maximum(-shift, 0)
    mask = 2**exponent - 1
    found: Integers = (high >> exponent) + ((high & mask) > (mask >> 1) + (high < 0))
    return found


def prepared(network: nn.Module, shape: tuple[int, int, int]) -> tuple[Program, list[Layer], Tensor]:
    """An int8 network as a program, its convolutions, and test images, uint8 (N, C, H, W)."""
    data = load_dataset("digits-m")
    known, images = (_resized(part.first(n).images, shape) for part, n in (
        (data.calibration, _CALIBRATION), (data.test, _IMAGES)))
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of what is seen
    network.train()(known / 255)
    quantised = quantise_int8(network.eval(), [known / 255])
    lowering = Lowering(shape)
    lowering.logits(lowering.network(quantised, lowering.image([0.0] * 3, [1.0] * 3), shape))
    nodes = {node.name: node for node in quantised.graph.nodes}
    layers = []
    for number, operation in enumerate(lowering.program.operations):
        if not isinstance(operation, Convolution) or operation.levels is None:
            continue
        module = quantised.get_submodule(str(nodes[operation.name].target))
        assert isinstance(module, Int8Conv2d)
        target = _rounded(quantised, nodes[operation.name])
        factor = module.in_scale.double() * module.scale.double() / target.scale.double()
        layers.append(Layer(number, operation, module.bias.numpy().astype(np.int64), factor.numpy(),
                            np.float32(target.scale.item()), int(target.zero)))
    return lowering.program, layers, images


def _resized(images: Tensor, shape: tuple[int, int, int]) -> Tensor:
    return F.interpolate(images.float(), shape[1:], mode="bilinear").round().to(torch.uint8)


def _rounded(network: fx.GraphModule, node: fx.Node) -> Requantise:
    """What rounds a layer's output: behind its activation, if it has one."""
    (user,) = node.users
    module = network.get_submodule(str(user.target)) if user.op == "call_module" else None
    return module if isinstance(module, Requantise) else _rounded(network, user)


def counted(
    network: str, program: Program, layers: list[Layer], images: Tensor, cmsis_nn: Path, build: str
) -> list[dict[str, object]]:
    """A row for each convolution of a network as `prepared` gives it, in one build of CMSIS-NN."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        step = Step(program, plan_arena(program))
        write_sources(path / "c", DevicePrograms((step,), None), [])
        source = path / "c" / "network.c"
        source.write_text(source.read_text() + _beside(step, layers, images, path / "levels"), encoding="utf-8")
        theirs = [cmsis_nn / "Source" / part / f"{name}.c" for part, names in _SOURCES.items() for name in names]
        printed = run([*(path / "c" / n for n in ("network.c", "kernels.c", "payload.c")), *theirs],
                      [path / "c", cmsis_nn / "Include"], path, "m4",
                      ("-O3", "-DAUTOSPLIT_TIMED", *BUILDS[build]), limit_s=900)
        levels = np.fromfile(path / "levels", dtype=np.uint8)
    spent = np.array(printed.split(), dtype=np.int64).reshape(len(images), len(layers), 3)
    assert spent[:, :, 1].all(), "CMSIS-NN refused a layer"
    sizes = np.tile([size for layer in layers for size in (
        prod(layer.operation.shape), *2 * (prod(layer.operation.output),))], len(images))
    parts = np.split(levels, np.cumsum(sizes)[:-1])
    rows: list[dict[str, object]] = []
    for i, layer in enumerate(layers):
        o = layer.operation
        taken, ours, found = (np.stack(parts[3 * i + j :: 3 * len(layers)]) for j in range(3))
        sums = layer.sums((taken ^ 128).reshape(-1, *o.shape)).reshape(ours.shape[0], -1, o.output[2])
        made, other = ours.astype(np.int64).reshape(sums.shape), (found ^ 128).astype(np.int64).reshape(sums.shape)
        assert np.array_equal(made, layer.in_float32(sums)), f"{o.name}: ours differ from float32"
        model = layer.as_cmsis_nn(sums, single=build == "single rounding")
        assert np.array_equal(other, model), f"{o.name}: CMSIS-NN is not set up as its layer is"
        own, cmsis = (round(float(n)) for n in spent[:, i, :2].mean(axis=0))
        distance = np.abs(made - other)
        rows.append({"network": network, "layer": o.name, "kind": layer.kind, "build": build,
                     "input": "x".join(map(str, o.shape)), "output": "x".join(map(str, o.output)), "macs": o.macs,
                     "ours": own, "cmsis_nn": cmsis, "ratio": round(cmsis / own, 3), "scratch_ours": o.scratch_bytes,
                     "scratch_cmsis_nn": int(spent[0, i, 2]), "outputs": distance.size,
                     "differ": int((distance > 0).sum()), "most_levels": int(distance.max())})
    return rows


def _beside(step: Step, layers: Sequence[Layer], images: Tensor, levels: Path) -> str:
    """What follows `network.c`: the same layers for CMSIS-NN, and a `main`."""
    constants, rows = [], []
    for i, layer in enumerate(layers):
        o = layer.operation
        weight = o.weight.transpose(3, 1, 2, 0) if o.depthwise else o.weight
        arrays = dict(zip(("weight", "bias", "multiplier", "shift"),
                          (weight, layer.bias, *multipliers(layer.factor)), strict=True))
        for name, values in arrays.items():
            kind = "int8_t" if name == "weight" else "int32_t"
            constants.append(f"static const {kind} {name}_{i}[] = {_braced(values.ravel().tolist())};")
        stride, begin, (low, high) = o.window.stride, o.window.begin, layer.limits
        filters = (1 if o.depthwise else o.output[2], *o.window.kernel, o.shape[2])
        assert o.window.dilation == (1, 1)
        assert o.groups == 1 or o.depthwise
        assert o.writes is not None
        fields = [layer.number, int(o.depthwise), step.arena.buffers[o.reads[0]], step.arena.buffers[o.writes],
                  *map(_braced, ((1, *o.shape), filters, (1, *o.output), stride[::-1], begin[::-1],
                                 (low - 128, high - 128))),
                  128 - o.zero, layer.zero - 128, *(f"{name}_{i}" for name in arrays)]
        rows.append(f"    {_braced(fields)},")
    pixels = [f"    {_braced(image.permute(1, 2, 0).flatten().tolist())}," for image in images]
    most = max(prod(shape) for layer in layers for shape in (layer.operation.shape, layer.operation.output))
    return _BESIDE.format(constants="\n".join(constants), rows="\n".join(rows), images="\n".join(pixels), most=most,
                          levels=levels)


def _braced(items: Sequence[object]) -> str:
    return "{" + ", ".join(map(str, items)) + "}"


def summarised(frame: pd.DataFrame) -> list[dict[str, object]]:
    """Sums and ratios of each build: of whole networks, and of kinds of layers."""
    found: list[dict[str, object]] = []
    for by in ("network", "kind"):
        for (what, build), rows in frame.groupby([by, "build"], sort=False):
            ratios = rows["cmsis_nn"] / rows["ours"]
            found.append({
                by: what, "build": build, "layers": len(rows), "macs": int(rows["macs"].sum()),
                "ours": int(rows["ours"].sum()), "cmsis_nn": int(rows["cmsis_nn"].sum()),
                "ratio": round(float(rows["cmsis_nn"].sum() / rows["ours"].sum()), 3),
                "median_ratio": round(float(ratios.median()), 3),
                "geometric_mean_ratio": round(float(np.exp(np.log(ratios).mean())), 3),
                "layers_cmsis_nn_is_faster_in": int((ratios < 1).sum()),
                "scratch_ours": int(rows["scratch_ours"].max()),
                "scratch_cmsis_nn": int(rows["scratch_cmsis_nn"].max()),
                "outputs": int(rows["outputs"].sum()), "differ": int(rows["differ"].sum()),
                "share_that_differs": float(f"{rows['differ'].sum() / rows['outputs'].sum():.3g}"),
                "most_levels": int(rows["most_levels"].max())})
    return found


def main() -> None:
    """Run the benchmark that the options ask for."""
    options_parser = parser(__doc__, scenario=False)
    options_parser.add_argument("--cmsis-nn", type=Path, required=True, help="a clone of its repository")
    options = options_parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    rows: list[dict[str, object]] = []
    for name, network, shape in networks():
        if name not in NETWORKS:
            continue
        ready = prepared(network, shape)
        for build in BUILDS:
            rows += counted(name, *ready, options.cmsis_nn.resolve(), build)
    frame = pd.DataFrame(rows)
    frame.to_csv(options.out / "layers.csv", index=False)
    found = summarised(frame)
    write_json(options.out / "summary.json", {
        "cmsis_nn": {"commit": _git(options.cmsis_nn, "rev-parse", "HEAD"),
                     "version": _git(options.cmsis_nn, "describe", "--tags", "--always")},
        "images": _IMAGES, "ratio": "instructions of CMSIS-NN over ours: above 1 ours are fewer",
        "networks": [row for row in found if "network" in row], "kinds": [row for row in found if "kind" in row]})
    print(pd.DataFrame([{"what": row.get("network", row.get("kind")), **row} for row in found]).drop(
        columns=["network", "kind", "macs", "outputs"]).to_string(index=False))


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


if __name__ == "__main__":
    with torch.no_grad():
        main()
