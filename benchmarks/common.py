"""What the benchmark scripts share: options, scenario, output files."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

# before torch is imported: see autosplit.cli.app.main
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from autosplit.cli.options import assignments, changed
from autosplit.core.scenario import Scenario, load_scenario

__all__ = ["command_line", "parser", "scenario_of", "write_json"]


def parser(text: str | None, *, scenario: bool = True) -> argparse.ArgumentParser:
    """Options that all benchmarks take; those that name or change a scenario may be left out."""
    found = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    if scenario:
        found.add_argument("--scenario", default="default", help="packaged scenario, or a YAML file")
        found.add_argument("--dataset", help="another data set, such as image-folder:/tmp/data/cifar10")
        found.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                           help="any other key of the scenario")
    found.add_argument("--out", type=Path, required=True, help="folder for CSV, JSON and pictures")
    found.add_argument("--seed", type=int, default=0)
    return found


def scenario_of(options: argparse.Namespace) -> Scenario:
    """The scenario that the options ask for."""
    scenario = load_scenario(options.scenario)
    return changed(scenario, {"dataset": options.dataset}, assignments(options.set), rename=False)


def command_line() -> str:
    """The command that runs now, for the files it writes."""
    return shlex.join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])


def write_json(path: Path, content: dict[str, Any]) -> None:
    """A JSON file that says which command made it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"command": command_line(), **content}, indent=1) + "\n", encoding="utf-8")
