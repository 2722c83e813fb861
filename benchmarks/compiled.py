"""What `torch.compile` would bring: a backbone's training step, compiled and as it is, side by side.

    python -m benchmarks.compiled --out results/benchmarks/compiled

For each scenario named: seconds until the first compiled step is done, the ratio of the medians of steps taken in turn,
and after how many steps the compilation has paid. Writes `compiled.csv`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pandas as pd
import torch

from autosplit.core.accelerator import find_accelerator
from autosplit.core.scenario import load_scenario
from autosplit.models.loading import build_backbone
from autosplit.training.precision import autocast
from benchmarks.common import parser, write_json

_CLASSES = 20
_SIDES = {"camera": 224}


def stepper(model: torch.nn.Module, call: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor, kind: str
            ) -> Callable[[], float]:
    """A function that takes one step and gives its seconds."""
    accelerator = find_accelerator(kind)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> float:
        start = time.perf_counter()
        with autocast(accelerator):
            loss = call(batch).float().square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        accelerator.wait()
        return time.perf_counter() - start

    return step


def main() -> None:
    """Run the benchmark that the options ask for."""
    options_parser = parser(__doc__, scenario=False)
    options_parser.add_argument("--scenarios", nargs="+", default=["default", "cifar10", "camera"])
    options_parser.add_argument("--steps", type=int, default=30)
    options = options_parser.parse_args()
    rows = []
    for name in options.scenarios:
        scenario = load_scenario(name)
        kind, side = scenario.training.accelerator, _SIDES.get(name, 32)
        device = find_accelerator(kind).device
        size = scenario.training.batch_size, 3, side, side
        batch = torch.rand(*size).to(device, memory_format=torch.channels_last)
        steps = []
        for compiled in (False, True):
            torch.manual_seed(options.seed)
            model = build_backbone(scenario.backbone, _CLASSES, 3, size[2:], pretrained=False)
            model = model.to(device).to(memory_format=torch.channels_last).train()
            steps.append(stepper(model, torch.compile(model) if compiled else model, batch, kind))
        first = [step() for step in steps]
        taken = [[step() for step in steps] for _ in range(options.steps)]
        eager, compiled_s = (statistics.median(column) for column in zip(*taken, strict=True))
        gain = eager - compiled_s
        rows.append({"scenario": name, "device": str(device), "threads": torch.get_num_threads(), "batch": size[0],
                     "as it is, s": eager, "compiled, s": compiled_s, "ratio": eager / compiled_s,
                     "first compiled step, s": first[1],
                     "steps until it has paid": first[1] / gain if gain > 0 else float("inf")})
        print(rows[-1], flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(options.out / "compiled.csv", index=False, float_format="%.4f")
    write_json(options.out / "compiled.json", {"torch": torch.__version__, "steps": options.steps})


if __name__ == "__main__":
    main()
