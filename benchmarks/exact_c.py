"""The C that `autosplit export --target c` writes against the bundle's ONNX files, on test images, wherever it can run.

    python -m benchmarks.exact_c --out results/benchmarks/exact-c

Several deployments are exported and their C runs on the same images: on this machine, of two compilers at two levels
of optimisation and under the sanitizers; for RISC-V, under qemu-riscv64; and on an emulated Cortex-M4 and M7, which
get the first 20 images. gcc -O3 gets all images, the others 2,000 at most. Payloads must be the bundle's byte for
byte, and logits to the last bit. Where the repository has no trained weights they are random, with batch norms that
have the statistics of calibration images. Writes `exact.csv`, a row for each deployment and way to run it (and for
what answers when the edge is lost); and `summary.json`, with the versions of compilers and emulators, and
instructions of the plan that a prototype of the C was counted on. Ends with 1 if anything differs. Takes about 15
minutes, most of them for the 10,000 photographs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torchvision.models import mobilenet_v2

from autosplit.compression.network import SplitNetwork, recalibrate
from autosplit.core.blueprint import Blueprint
from autosplit.core.plan import OUTPUT, CodecSetting, Plan
from autosplit.core.result import Result
from autosplit.data import ImageDataset, Split, load_dataset
from autosplit.data.base import normalise
from autosplit.data.recorded import recorded_data
from autosplit.models.injected import injected_structure
from autosplit.models.loading import build_backbone
from autosplit.models.pruning import HeadPruner
from autosplit.models.tracing import trace
from autosplit.models.weights import load_weights
from autosplit.runtime.building import build_network
from autosplit.runtime.c.export import compare_c
from autosplit.runtime.c.programs import device_programs
from autosplit.runtime.deployment import Deployment
from autosplit.runtime.export import export_bundle
from autosplit.runtime.standalone.bundle.parts import load_device
from benchmarks.common import parser, write_json
from benchmarks.instructions import spent
from tests.runtime.c.lowered import RISC_V, RISC_V_EMULATOR, SANITIZERS

ROOT = Path(__file__).parents[1]
PROGRAMS = ("gcc", "clang", RISC_V, RISC_V_EMULATOR, "arm-none-eabi-gcc", "qemu-system-arm")
_ON_BOARD = 20  # images
_ALL, _MOST = "gcc -O3", 2000  # the way that takes all images; images of the others
_LARGE = 300  # images of 96x96

# What `compare_c` takes for a compiler: it is called as one is, the program to make last.
_HERE = '#!/bin/sh\nexec {} "$@" {}\n'
_RISC_V = f"""#!/bin/sh -e
for program; do :; done
{RISC_V} "$@" -O3 -static
mv "$program" "$program.elf"
printf '#!/bin/sh\\nexec {RISC_V_EMULATOR} %s "$@"\\n' "$program.elf" > "$program"
chmod +x "$program"
"""
# A board has no input: its program reads the images from a file and writes answers to one, by semihosting.
_BOARD = """#!{python}
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.runtime.c.emulated import run
words, program = sys.argv[1:], Path(sys.argv[sys.argv.index("-o") + 1])
if words[-1] == str(program):  # compiled when there are images
    program.write_text("#!/bin/sh\\nexec {script} " + " ".join(words) + ' "$@"\\n')
    program.chmod(0o755)
else:
    main, images, answers = (program.with_name(name) for name in ("main.c", "images", "answers"))
    main.write_text({main!r})
    images.write_bytes(sys.stdin.buffer.read())
    flags = [word for word in words if word.startswith(("-std", "-f", "-W"))]
    files = [f'-DIMAGES="{{images}}"', f'-DANSWERS="{{answers}}"', f'-DRATE="{{words[-1]}}"']
    run([*(Path(word) for word in words if word.endswith(".c")), main],
        [Path(word[2:]) for word in words if word.startswith("-I")], program.parent, {core!r},
        [*flags, *files, "-O3", "-Wl,--wrap=main"], limit_s=600)
    sys.stdout.buffer.write(answers.read_bytes())
"""
_BOARD_MAIN = """#include <stdio.h>
int __real_main(int count, char **words);
int __wrap_main(void);
int __wrap_main(void) {
    char *words[] = {"check", "-", RATE};
    return !freopen(IMAGES, "rb", stdin) || !freopen(ANSWERS, "wb", stdout) || __real_main(3, words);
}
"""


def ways(folder: Path) -> Iterator[tuple[str, Path, int | None]]:
    """Names of ways to run the C, what stands for their compilers, and images at most."""
    scripts = {f"{cc} {level}": _HERE.format(cc, level) for cc in ("gcc", "clang") for level in ("-O2", "-O3")}
    scripts["gcc -O1, sanitizers"] = _HERE.format("gcc", " ".join([*SANITIZERS, "-O1"]))
    scripts["RISC-V 64, gcc -O3"] = _RISC_V
    for core in ("m4", "m7"):
        scripts[f"Cortex-{core.upper()}, gcc -O3"] = _BOARD.format(
            python=sys.executable, root=str(ROOT), script=folder / f"cc{len(scripts)}", core=core, main=_BOARD_MAIN)
    for number, (name, text) in enumerate(scripts.items()):
        script = folder / f"cc{number}"
        script.write_text(text, encoding="utf-8")
        script.chmod(0o755)
        yield name, script, _ON_BOARD if name.startswith("Cortex") else None if name == _ALL else _MOST


def deployments(cifar10: str) -> Iterator[tuple[str, str, Deployment, Tensor]]:
    """Names, where weights are from, deployments, and test images."""
    for name in ("results/split", "results/reference"):
        result = Result.load(ROOT / name / "best.json", trust_code=False)
        digits, deployment = recorded_data(result, result.path), Deployment.from_result(result)
        yield name, "trained", deployment, digits.test.images
    answering = deployment.network.exit  # of the reference result, a cascade
    assert answering is not None
    alone = Deployment(_whole(deployment.blueprint.exit_keep, digits), SplitNetwork(answering.network, nn.Identity()),
                       deployment.mean, deployment.std, None)
    yield "exit of results/reference alone", "trained", alone, digits.test.images
    plan = Plan(split="layer2", head="injected", codec=CodecSetting(kind="code", width=8, grid=4, bits=3))
    injected = injected_structure(digits.shape, (32, 16, 16), True, True)
    coded = coded_resnet8(plan, (injected["widths"][-1], 8, 8), injected=injected)
    yield "injected head", "random", calibrated(coded, digits), digits.test.images
    photographs = load_dataset(cifar10)
    whole = build_backbone("resnet20", 10, 3, (32, 32))
    load_weights(whole, ROOT / "results/cifar10/resnet20.safetensors")
    graph = trace(whole.eval(), photographs.shape)
    pruner = HeadPruner(graph, photographs.shape)
    keep = pruner.keep_counts(0.4)
    pruned = pruner.sub_network(keep).materialise(graph)
    yield ("ResNet-20, 40 % pruned", "trained before pruning",
           calibrated(_whole(keep, photographs), photographs, pruned), photographs.test.images)
    large = replace(photographs, train=enlarged(photographs.train), calibration=enlarged(photographs.calibration),
                    test=enlarged(photographs.test))
    mobile = trace(mobilenet_v2(width_mult=0.35, num_classes=10).eval(), large.shape)
    yield "MobileNetV2 x0.35, 96x96", "random", calibrated(_whole((), large), large, mobile), large.test.images


def _whole(keep: tuple[int, ...], data: ImageDataset) -> Blueprint:
    """A network on the device; its graph is given elsewhere."""
    return Blueprint(backbone="exact", num_classes=10, image_shape=data.shape, keep=keep, arithmetic="int8",
                     plan=Plan(split=OUTPUT, codec=CodecSetting(kind="none")), key="exact")


def coded_resnet8(plan: Plan, feature: tuple[int, int, int], **more: object) -> Blueprint:
    """ResNet-8 with a code of a feature."""
    width, grid = plan.codec.width, plan.codec.grid
    assert grid is not None
    codec = {"feature": list(feature), "code": [width, grid, grid], "bits": plan.codec.bits,
             "patch": feature[1] // grid, "nonnegative": True}
    return Blueprint.model_validate({
        "backbone": "resnet8", "num_classes": 10, "image_shape": (3, 32, 32), "plan": plan, "feature_shape": feature,
        "code_shape": (width, grid, grid), "codec": codec, "arithmetic": "int8", "key": "exact", **more})


def calibrated(blueprint: Blueprint, data: ImageDataset, whole: fx.GraphModule | None = None) -> Deployment:
    """A deployment whose batch norms have the statistics of calibration images.

    Args:
        blueprint: The structure.
        data: The images.
        whole: The network, where all of it is on the device; one of that structure with random weights by default.
    """
    network = SplitNetwork(whole, nn.Identity()) if whole is not None else build_network(
        blueprint.model_copy(update={"arithmetic": "fp32"}))
    recalibrate(network, normalise(data.calibration.images[:256], data.mean, data.std))
    return Deployment.fit(blueprint, network, data)


def enlarged(part: Split) -> Split:
    """Some images of a part, of 96x96."""
    images = F.interpolate(part.images[:_LARGE].float(), 96, mode="bilinear").round().to(torch.uint8)
    return Split(images, part.labels[:_LARGE])


def first_plan() -> dict[str, object]:
    """Instructions on a Cortex-M4 of the device's side, without the payload coder, of the prototype's plan.

    It was the reference result at that time; here it is rebuilt from its structure, with random weights.
    """
    torch.manual_seed(0)
    plan = Plan(split="layer2", sparsity=0.625, codec=CodecSetting(kind="code", width=32, grid=2, bits=4))
    deployment = calibrated(coded_resnet8(plan, (32, 16, 16), keep=(6, 6, 12)), load_dataset("digits-m"))
    assert deployment.coder is not None
    programs, coders = device_programs([deployment]), [deployment.coder]
    operations = len(programs.rates[0].program.operations)
    return {"plan": plan.label, "prototype": {"-O2": 7_600_000, "-O3": 7_100_000},
            "now": {level: sum(spent(programs, coders, operations, "m4", level)) for level in ("-O2", "-O3")}}


def version(program: str) -> str:
    """The first line of what a program says of itself."""
    return subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout.splitlines()[0]


def main() -> int:
    """Run the benchmark that the options ask for."""
    options_parser = parser(__doc__, scenario=False)
    options_parser.add_argument("--cifar10", default="image-folder:data/cifar10", help="data set of photographs")
    options_parser.add_argument("--only", default="", help="deployments whose names hold this; rows of others stay")
    options = options_parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ["ASAN_OPTIONS"] = "detect_leaks=0"  # they are looked for with ptrace, which containers forbid
    torch.manual_seed(options.seed)
    table, rows = options.out / "exact.csv", list[dict[str, object]]()
    frame = kept = pd.read_csv(table) if options.only and table.exists() else pd.DataFrame(columns=["deployment"])
    kept = kept[~kept["deployment"].astype(str).str.contains(options.only, regex=False)]
    with tempfile.TemporaryDirectory() as folder:
        found = list(ways(Path(folder)))
        for label, weights, deployment, images in deployments(options.cifar10):
            if options.only not in label:
                continue
            bundle, pixels = Path(folder) / f"bundle{len(rows)}", images.numpy()
            export_bundle(deployment, bundle, images=images[:_ON_BOARD], target="c")
            device = load_device(bundle)
            sent = 0 if device.answers else sum(map(bool, device.begin(pixels)[0]))
            for name, script, most in found:
                begun = time.perf_counter()
                parities = compare_c(bundle, pixels[:most], str(script))
                seconds = time.perf_counter() - begun
                rows += [{"deployment": label, "weights": weights, "test images": len(images), "sent": sent,
                          "way": name, "network": p.network.removeprefix("C, ").replace("C", "device"),
                          "images": p.images, "payloads equal": p.payloads_equal, "labels equal": p.labels_equal,
                          "largest logit difference": p.logit_error, "seconds": round(seconds, 1)} for p in parities]
                print(*rows[-1].values(), sep=" | ", flush=True)
            frame = pd.concat([kept, pd.DataFrame(rows)])
            frame.to_csv(table, index=False)
    equal = (frame["images"] == frame["payloads equal"]) & (frame["images"] == frame["labels equal"])
    different = frame[~equal | (frame["largest logit difference"] != 0)]
    write_json(options.out / "summary.json", {
        "versions": {program: version(program) for program in PROGRAMS}, "rows": len(frame),
        "different": different.to_dict("records"), "first plan": first_plan()})
    return int(len(different) > 0)


if __name__ == "__main__":
    with torch.no_grad():
        sys.exit(main())
