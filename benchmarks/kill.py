"""`kill -9` at random instants: is a finished measurement lost, is a half-written file trusted later?

    python -m benchmarks.kill --out results/benchmarks/kill

Commands on a small folder of pictures are run once to their end, then again and again, each with a cache of its own,
and killed at an instant drawn at random: first the phase, then the share of that phase's time, so that short phases
come as often as long ones. Afterwards whatever lies there is read, and the same command is run once more:

- `search`: every line that the ledger had is still its beginning, `--resume` ends with the same plan, the same weights
  and the same ledger as the run that nobody killed, and `replay` agrees;
- `bench table`: the table is refused or whole; the second run takes what was measured from the cache and gives the
  same rows;
- `train-policy`: the policy is refused or answers as the whole one; the second run writes the same policy;
- `adapt`, `export`: the bundle is refused or passes its own check; a second one, in a new folder, passes it.
"""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import autosplit.pipeline.adapt
import autosplit.pipeline.search
import autosplit.report.page
import autosplit.runtime.export  # noqa: F401 (what the commands import, once for all children)
from autosplit.agents.policy import CoInferencePolicy
from autosplit.cli.app import app
from autosplit.latency import load_latency_model
from autosplit.runtime.standalone.__main__ import main as coinference
from benchmarks.common import parser, write_json

SHARES = {"search": 0.56, "adapt": 0.08, "export": 0.08, "train-policy": 0.14, "bench table": 0.14}
"""Of the instants, at least one each."""

NETWORK = """
from autosplit.models.zoo import ResNetSmall

def network(num_classes, in_channels):
    return ResNetSmall(1, num_classes, in_channels, width=4)
"""

SETTINGS = {
    "space.splits": "[layer1]", "space.sparsities": "[0.0,0.5]", "space.widths": "[1,4]", "space.bits": "[1,4]",
    "space.max_grid": 4, "space.grid_levels": 2, "space.whole_on_edge": "false", "space.whole_on_device": "true",
    "training.backbone_epochs": 8, "training.supernet_epochs": 8, "training.supernet_lr": 0.1,
    "training.finetune_lr": 0.02, "training.batch_size": 16,
    "search.evaluations": 6, "search.finalists": 1, "search.agent": "random"}
_DONE = re.compile(r": done after (\d+\.\d) s")
_LONGEST_S = 600.0  # after which a command that was not killed counts as hanging


@dataclass(frozen=True)
class Killed:
    """One command that was killed.

    Attributes:
        command: Its name.
        phase: How many phases were done, from 0; that of a command without phases is its only one.
        after_s: Time from its start to its end.
        ended: Whether it had ended by itself before.
        kept: Lines of the ledger, or measurements in the cache, or files that lay there.
        read: Exit codes of what reads them.
        again: Exit code of the same command, run once more.
        wrong: What should not have been; empty as a rule.
    """

    command: str
    phase: int
    after_s: float
    ended: bool
    kept: int
    read: str
    again: int
    wrong: str


class Child:
    """A command in a process of its own, forked from this one so that nothing has to be imported again."""

    def __init__(self, arguments: Sequence[object], place: Path, cache: Path, call: Callable[..., Any] = app) -> None:
        self.stderr = place / "stderr.txt"
        self.start_s = time.monotonic()
        self.pid = os.fork()
        if self.pid:
            return
        code = 1
        try:
            os.environ["AUTOSPLIT_CACHE"] = str(cache)
            for number, file in ((1, place / "stdout.txt"), (2, self.stderr)):
                os.dup2(os.open(file, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), number)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", 1, closefd=False)
            os.chdir(place)
            code = int(call([str(a) for a in arguments]) or 0)
        except SystemExit as e:
            code = e.code if isinstance(e.code, int) else 1
        except BaseException as e:
            print(f"{type(e).__name__}: {e}", file=sys.stderr)
        finally:
            sys.stdout.flush()
            os._exit(code)

    def phases(self) -> int:
        """How many phases are done."""
        return len(_DONE.findall(self.stderr.read_text(errors="replace"))) if self.stderr.exists() else 0

    def ended(self, until_s: float) -> int | None:
        """The exit code, or `None` where it still runs then."""
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() >= until_s:
                return None
            time.sleep(0.005)

    def kill(self) -> None:
        """End it as the kernel does where memory is short."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


class Arena:
    """A folder with pictures, a reference of everything, and a place for each killed command.

    Args:
        root: The folder, empty.
        rng: Draws the instants.
    """

    def __init__(self, root: Path, rng: random.Random) -> None:
        self.root, self.rng, self.number = root, rng, 0
        noise = np.random.default_rng(0)
        for c in range(8):  # a square of one of eight colours: more than the smallest code can hold
            (root / "pictures" / f"{c}").mkdir(parents=True)
            for i in range(24):
                pixels = noise.integers(0, 40, (16, 16, 3), dtype=np.uint8)
                pixels[4:12, 4:12] += np.array([c & 1, c >> 1 & 1, c >> 2], dtype=np.uint8) * 180
                Image.fromarray(pixels).save(root / "pictures" / f"{c}" / f"{i}.png")
        (root / "net.py").write_text(NETWORK)
        sets = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
        self.place, self.cache = root / "reference", root / "cache"
        self.place.mkdir()
        common = ["--dataset", f"image-folder:{root / 'pictures'}", "--backbone", f"{root / 'net.py'}:network", *sets]
        # the scenario once as a file, since `bench table` takes no other options
        start_s = time.monotonic()
        self.run_to_end(["search", *common, "--out", "run"], self.place)
        self.search_s = _usual(self.place / "stderr.txt", time.monotonic() - start_s)
        self.scenario = self.place / "run" / "scenario.yaml"
        self.run_to_end(["bench", "table", "--scenario", self.scenario, "--out", "table.csv"], self.place)
        self.run_to_end(["train-policy", *self.policy_options(self.place)], self.place)
        shutil.copytree(self.place / "policy", self.place / "run" / "policy", dirs_exist_ok=True)

    def policy_options(self, place: Path) -> list[object]:
        """Of `train-policy`, for seconds."""
        return [self.place / "table.csv", "--out", place / "policy", "--steps", 6000, "--conditions", 16]

    def run_to_end(self, arguments: Sequence[object], place: Path, cache: Path | None = None,
                   call: Callable[..., Any] = app) -> int:
        """Run a command that nobody kills; its exit code."""
        child = Child(arguments, place, cache or self.cache, call)
        code = child.ended(time.monotonic() + _LONGEST_S)
        if code is None:
            child.kill()
            raise TimeoutError(f"{arguments} took more than {_LONGEST_S:g} s")
        if place == self.place and code:
            raise RuntimeError(f"{arguments}: {child.stderr.read_text()}")
        return code

    def killed(self, command: str) -> Killed:
        """Kill a command at a random instant, read what it left, run it again."""
        self.number += 1
        place = self.root / f"{self.number}"
        place.mkdir()
        warm = command in {"adapt", "export"}  # these begin where a search has ended
        cache = place / "cache"
        if warm:
            shutil.copytree(self.cache, cache)
            shutil.rmtree(cache / "finalists", ignore_errors=True)
        arguments: dict[str, list[object]] = {
            "search": ["search", "--scenario", self.scenario, "--out", place / "run"],
            "bench table": ["bench", "table", "--scenario", self.scenario, "--out", place / "table.csv"],
            "train-policy": ["train-policy", *self.policy_options(place)],
            "adapt": ["adapt", self.place / "run", "--out", place / "bundle", "--rates", 2, "--epochs", 1],
            "export": ["export", self.place / "run", "--out", place / "bundle"]}
        usual = self._usual(command, arguments[command], place, cache)
        phase = self.rng.randrange(len(usual))
        share = self.rng.random()
        child = Child(arguments[command], place, cache)
        code: int | None = None
        while code is None and child.phases() < phase:
            code = child.ended(time.monotonic() + 0.01)
        if code is None:
            code = child.ended(time.monotonic() + share * usual[phase])
        after_s = time.monotonic() - child.start_s
        if code is None:
            child.kill()
        kept, read, again, wrong = getattr(self, f"_after_{command.replace(' ', '_').replace('-', '_')}")(
            place, cache, arguments[command])
        if again != 0:
            wrong.append(f"run again: {(place / 'stderr.txt').read_text()[-300:]}")
        return Killed(command, phase, round(after_s, 2), code is not None, kept, " ".join(map(str, read)), again,
                      "; ".join(wrong))

    def _usual(self, command: str, arguments: list[object], place: Path, cache: Path) -> list[float]:
        """Seconds of a command's phases where nobody kills it, and of what comes before and after them."""
        if command == "search":  # the reference was one, with an empty cache
            return self.search_s
        file = self.root / f"phases of {command}.json"
        if not file.exists():
            trial = self.root / f"trial of {command}"
            trial.mkdir()
            moved = [Path(str(a).replace(str(place), str(trial))) if isinstance(a, Path) else a for a in arguments]
            if cache.exists():
                shutil.copytree(cache, trial / "cache")
            child = Child(moved, trial, trial / "cache")
            code = child.ended(time.monotonic() + _LONGEST_S)
            if code != 0:
                raise RuntimeError(f"{command}: {child.stderr.read_text()}")
            file.write_text(json.dumps(_usual(child.stderr, time.monotonic() - child.start_s)))
        found: list[float] = json.loads(file.read_text())
        return found

    def _after_search(self, place: Path, cache: Path, arguments: list[object]) -> tuple[int, list[int], int, list[str]]:
        run, wrong = place / "run", []
        before = _ledger(run)
        codes = [self.run_to_end(["show", run], place, cache)] if run.exists() else []
        if codes and codes[0] not in {0, 2, 5}:
            wrong.append(f"show: {(place / 'stderr.txt').read_text()[-300:]}")
        resumes = (run / "ledger.jsonl").exists()
        again = self.run_to_end(["search", "--resume", run] if resumes else arguments, place, cache)
        if again == 0:
            after, reference = _ledger(run), _ledger(self.place / "run")
            if after[:len(before)] != before:
                wrong.append("a finished measurement was lost")
            if [_timeless(line) for line in after] != [_timeless(line) for line in reference]:
                wrong.append("the ledger is not that of the run that nobody killed")
            results = [json.loads((folder / "best.json").read_text()) for folder in (run, self.place / "run")]
            for key in ("plan", "test"):
                if results[0][key] != results[1][key]:
                    wrong.append(f"{key} is not that of the run that nobody killed")
            if results[0]["deployment"]["sha256"] != results[1]["deployment"]["sha256"]:
                wrong.append("the weights are not those of the run that nobody killed")
            codes.append(self.run_to_end(["replay", run], place, cache))
            if codes[-1]:
                wrong.append(f"replay: {(place / 'stderr.txt').read_text()[-300:]}")
        return len(before), codes, again, wrong

    def _after_bench_table(self, place: Path, cache: Path, arguments: list[object]
                           ) -> tuple[int, list[int], int, list[str]]:
        wrong, measured = [], _measured(cache)
        table = place / "table.csv"
        code = self.run_to_end(["train-policy", table, "--out", "/dev/null/policy"], place, cache)
        loaded = "cannot write" in (place / "stderr.txt").read_text()  # read whole, and the folder cannot be made
        if code != 2 or (loaded and _rows(table) != _rows(self.place / "table.csv")):
            wrong.append("a table that is not whole is trusted")
        again = self.run_to_end(arguments, place, cache)
        if again == 0:
            if _measured(cache)[:len(measured)] != measured:
                wrong.append("a finished measurement was lost")
            if _rows(table) != _rows(self.place / "table.csv"):
                wrong.append("the rows are not those of the table that nobody killed")
        return len(measured), [code], again, wrong

    def _after_train_policy(self, place: Path, cache: Path, arguments: list[object]
                            ) -> tuple[int, list[int], int, list[str]]:
        wrong, policy = [], place / "policy"
        kept = len(list(policy.iterdir())) if policy.exists() else 0
        code = self.run_to_end(["decide", "--policy", policy, "--device", "stm32l4r5", "--channel", "ble-1m",
                                "--budget-ms", 1000], place, cache)
        if code not in {0, 2} or (code == 0 and _policy(policy) != _policy(self.place / "policy")):
            wrong.append(f"a policy that is not whole is trusted: {(place / 'stderr.txt').read_text()[-300:]}")
        again = self.run_to_end(arguments, place, cache)
        if again == 0 and _policy(policy) != _policy(self.place / "policy"):
            wrong.append("the policy is not that of the training that nobody killed")
        return kept, [code], again, wrong

    def _after_export(self, place: Path, cache: Path, arguments: list[object]) -> tuple[int, list[int], int, list[str]]:
        wrong, folder = [], place / "bundle"
        kept = sum(p.is_file() for p in folder.rglob("*")) if folder.exists() else 0
        codes = [self.run_to_end(["check", folder], place, cache, coinference)]
        if codes[0] not in {0, 2}:
            wrong.append(f"check: {(place / 'stderr.txt').read_text()[-300:]}")
        new = place / "second"
        again = self.run_to_end([new if a == folder else a for a in arguments], place, cache)
        if again == 0:
            codes.append(self.run_to_end(["check", new], place, cache, coinference))
            if codes[-1]:
                wrong.append("the second bundle fails its check")
        return kept, codes, again, wrong

    _after_adapt = _after_export


def _usual(stderr: Path, took_s: float) -> list[float]:
    """Seconds of each phase, and of what lies behind the last one, where a command writes what it found."""
    phases = [max(0.05, float(s)) for s in _DONE.findall(stderr.read_text())]
    return [*phases, max(0.2, took_s - sum(phases))]


def _ledger(run: Path) -> list[dict[str, Any]]:
    """The finished lines of a ledger."""
    file = run / "ledger.jsonl"
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in lines]


def _timeless(line: dict[str, Any]) -> dict[str, Any]:
    """A line of a ledger without how long the measurement took, and where the run lay."""
    if "measurement" not in line:
        return {}
    return {**line, "measurement": {k: v for k, v in line["measurement"].items() if k != "seconds"}}


def _measured(cache: Path) -> list[str]:
    """The measurements in a cache; one that was being written is none."""
    return [line for file in sorted((cache / "measurements").glob("*.jsonl"))
            for line in file.read_text(errors="replace").split("\n")[:-1] if line]


def _rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def _policy(folder: Path) -> str:
    return CoInferencePolicy.load(folder, load_latency_model("analytic")).sha256


def run(instants: int, seed: int, folder: Path, only: Sequence[str] = ()) -> Iterator[Killed]:
    """Kill commands at so many random instants, in a random order.

    Args:
        instants: Over all commands, by `SHARES`.
        seed: Of order and instants.
        folder: Where everything lies, empty.
        only: Names of the commands; all when left out.
    """
    rng = random.Random(seed)
    shares = {c: share for c, share in SHARES.items() if c in (only or SHARES)}
    commands = [c for c, share in shares.items()
                for _ in range(max(1, round(share / sum(shares.values()) * instants)))]
    rng.shuffle(commands)
    arena = Arena(folder, rng)
    for command in commands:
        yield arena.killed(command)
        shutil.rmtree(arena.root / str(arena.number))


def main() -> None:
    """Run from the command line."""
    options = parser(__doc__, scenario=False)
    options.add_argument("--instants", type=int, default=50, help="commands that are killed [50]")
    options.add_argument("--only", action="append", choices=SHARES, help="kill this command alone; may be repeated")
    given = options.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    found = []
    with tempfile.TemporaryDirectory() as folder, (given.out / "killed.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([field.name for field in fields(Killed)])
        for killed in run(given.instants, given.seed, Path(folder), given.only or ()):
            found.append(killed)
            table.writerow(asdict(killed).values())
            file.flush()
            print(killed, file=sys.stderr, flush=True)
    write_json(given.out / "summary.json", {
        "killed": len(found), "ended by themselves": sum(row.ended for row in found),
        "commands": {c: sum(row.command == c for row in found) for c in SHARES},
        "wrong": [asdict(row) for row in found if row.wrong]})
    if any(row.wrong for row in found):
        sys.exit("something was lost, or trusted although it was not whole")


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)  # a process that has made threads cannot be forked
    main()
