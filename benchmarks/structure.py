"""How far one has to walk through the code: what a search enters, what a plan passes, how much is private.

    python -m benchmarks.structure --out results/benchmarks/structure

A short search of the default scenario (one epoch each, `--evaluations` measurements, an empty cache) runs under a
trace. Counted are the modules of `autosplit` in which a function is called, and, between the return of `propose` and
that of `Ledger.record`, the modules in which a function is called with a plan or with something that carries one
(workload, measurement, outcome), alone or in a list. Importing a module does not count as entering it.
"""

from __future__ import annotations

import ast
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

from autosplit.agents.base import Proposer
from autosplit.core.cache import Cache
from autosplit.core.measurement import Measurement, Outcome, Workload
from autosplit.core.plan import Plan
from autosplit.pipeline.context import SearchContext
from autosplit.pipeline.ledger import Ledger
from autosplit.pipeline.search import search_scenario
from autosplit.training.prepare import prepare
from benchmarks.common import parser, scenario_of, write_json

_ROOT = Path(__file__).parents[1]
_CARRIERS = (Plan, Workload, Measurement, Outcome)
_SHORT = {"training.backbone_epochs": 1, "training.supernet_epochs": 1, "training.codec_steps": 1,
          "training.finetune_epochs": 1, "search.finalists": 1}


class Trace:
    """Notes which modules a search enters, and which of them a plan passes on its way to the ledger."""

    def __init__(self) -> None:
        self.entered: set[str] = set()
        self.passed: set[str] = set()
        self.least: set[str] | None = None
        self._on_the_way = False

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """What `sys.setprofile` calls."""
        if event not in ("call", "return"):
            return
        code, module = frame.f_code, frame.f_globals.get("__name__", "")
        if not module.startswith("autosplit."):
            return
        if event == "call" and code.co_name != "<module>":
            self.entered.add(module)
            if self._on_the_way and any(_carries(frame.f_locals[n]) for n in code.co_varnames[:code.co_argcount]
                                        if n in frame.f_locals):
                self.passed.add(module)
        if event == "return" and code is _code(Proposer.observe):
            self._on_the_way = False
        elif event == "return" and code.co_name == "propose" and module.startswith("autosplit.agents"):
            self._on_the_way, self.passed = True, {module}
        elif event == "return" and code is _code(Ledger.record) and self._on_the_way:
            self._on_the_way = False  # the first plan of the batch is recorded
            if self.least is None or len(self.passed) > len(self.least):
                self.least = self.passed


def _code(function: Any) -> Any:
    return function.__code__


def _carries(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(isinstance(v, _CARRIERS) for v in value[:3])
    return isinstance(value, _CARRIERS)


def shares() -> dict[str, Any]:
    """Functions, how many of them are private, lines, and comments a hundred lines."""
    functions = private = lines = comments = 0
    for folder in ("autosplit", "envs", "agents"):
        for path in sorted((_ROOT / folder).rglob("*.py")):
            if any(p.is_symlink() for p in path.parents):
                continue
            text = path.read_text(encoding="utf-8")
            lines += text.count("\n")
            comments += sum(line.lstrip().startswith("#") or "  # " in line for line in text.splitlines())
            names = [node.name for node in ast.walk(ast.parse(text))
                     if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
            functions += len(names)
            private += sum(name.startswith("_") and not name.endswith("__") for name in names)
    return {"functions": functions, "private_functions": private, "private_share": round(private / functions, 4),
            "lines": lines, "comments_per_100_lines": round(100 * comments / lines, 2)}


def main() -> None:
    """Run the command."""
    options_parser = parser(__doc__)
    options_parser.add_argument("--evaluations", type=int, default=12)
    options = options_parser.parse_args()
    scenario = scenario_of(options).replace(**_SHORT, **{"search.evaluations": options.evaluations})
    trace = Trace()
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(Path(folder) / "cache")
        prepare(scenario, cache=cache)  # trained outside the trace, which makes everything slow
        sys.setprofile(trace)
        try:
            context = SearchContext(prepare(scenario, cache=cache))
            search_scenario(scenario, Path(folder) / "run", context=context)
        finally:
            sys.setprofile(None)
    write_json(options.out / "summary.json", {
        "modules_entered": len(trace.entered),
        "modules_a_plan_passes": len(trace.least or ()), "passed": sorted(trace.least or ()), **shares(),
        "entered": sorted(trace.entered)})


if __name__ == "__main__":
    main()
