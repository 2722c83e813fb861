"""How the pages' commands are run: as they are written, but for what is stated here.

A command that no rule is for fails `tests/docs/test_commands.py`. The first rule that matches counts, so special ones
stand above general ones. A rule may change words (regular expressions on the command as text) and add words at its end,
and then says why; it may ask for a pattern in what the command prints. `UNRUN` holds what cannot be run here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tests.docs.pages import Command

TINY = "--scenario tiny.yaml --evaluations 1"
PRUNED = "--set space.sparsities=[0,0.5]"
SECONDS = "takes minutes with real settings"
ASKED = "the edge is a server of the test, and the machine may be busy"


@dataclass(frozen=True)
class Rule:
    """How some commands are run.

    Attributes:
        match: Regular expression that the whole command matches.
        change: Regular expressions and what takes their place; each has to be found.
        add: Words at the end; of an option given twice the last counts.
        why: Reason for both.
        says: Regular expression that is found in stdout.
        made_up: Whether `autosplit compare` compares what is made up, as in `tests/cli/test_compare_command.py`.
        code: Exit code.
    """

    match: str
    change: tuple[tuple[str, str], ...] = ()
    add: str = ""
    why: str = ""
    says: str = ""
    made_up: bool = False
    code: int = 0

    def applied(self, command: Command) -> Command:
        """The command as it is run."""
        text = " ".join(_quoted(word) for word in command.words)
        for old, new in self.change:
            text, found = re.subn(old, new, text)
            assert found, f"{command}: {old!r} of its rule is not in it any more"
        words = [word.strip("'") for word in re.findall(r"'[^']*'|\S+", f"{text} {self.add}".strip())]
        return replace(command, words=tuple(words))


def _quoted(word: str) -> str:
    return f"'{word}'" if " " in word else word


def _benchmark(name: str, add: str, needs: str = "") -> Rule:
    """A benchmark in its smallest form, into the folder `out`."""
    return Rule(rf"python -m benchmarks\.{name}( .*)?", add=f"{add} --out out", why=SECONDS, says=needs)


RULES: Sequence[Rule] = (
    # --- search
    Rule(r"autosplit search .*mobilenet_v2.*", add="--scenario tiny.yaml --dry-run", why="it trains for a minute",
         says=r"features\.\d+"),
    Rule(r"autosplit search", add="--budget-ms 100 --scenario tiny.yaml --evaluations 1", says="found: ",
         why="the default scenario's own deadline; " + SECONDS),
    Rule(r"autosplit --debug search", add="--scenario tiny.yaml --dry-run", why="only --debug is meant", says="plans"),
    Rule(r"autosplit search .*--dry-run", add="--scenario tiny.yaml", why="all pages show the default scenario",
         says="plans"),
    Rule(r"autosplit search --resume RUN .*", change=(("RUN", "results/digits-m-resnet8-100ms"), ("300", "2")),
         why="RUN is any run; " + SECONDS, says="found: "),
    Rule(r"autosplit search --resume .*--evaluations 300", change=(("300", "2"),), why=SECONDS, says="found: "),
    Rule(r"autosplit search --resume .*", says="found: "),
    Rule(r"autosplit search --agent exhaustive --yes", add="--scenario tiny.yaml", why=SECONDS, says="found: "),
    Rule(r"autosplit search --granularity layer .*", add=f"{TINY} {PRUNED} --set training.layer_profiles=0",
         why=SECONDS + "; tiny.yaml prunes nothing", says="found: "),
    Rule(r"autosplit search .*supernet_epochs=12", change=(("epochs=12", "epochs=1"),), add=TINY, why=SECONDS,
         says="found: "),
    Rule(r"autosplit search .*--out results/(reference|split|c)", change=((r" --out results/\w+", ""),), add=TINY,
         why="these runs are there already; " + SECONDS, says="found: "),
    Rule(r"autosplit search --scenario my-scenario\.yaml .*", add="--evaluations 1", why=SECONDS, says="found: "),
    Rule(r"autosplit search .*--policy (?!.*--agent).*", add=f"{TINY} --agent ppo", why=SECONDS, says="found: "),
    Rule(r"autosplit search --accelerator cuda", change=(("cuda", "cpu"),), add=TINY, why="no card here; " + SECONDS,
         says="found: "),
    Rule(r"autosplit search --seeds 5 .*", change=(("seeds 5", "seeds 2"),), add=f"{TINY} --agent random", why=SECONDS,
         says="standard deviation"),
    Rule(r"autosplit search --jobs 4", change=(("4", "2"),), add=TINY, why=SECONDS, says="found: "),
    Rule(r"autosplit search --(device bundle/my-board|edge my-server)\.yaml",
         change=((r"bundle/my-board|my-server", "my-machine"),), add=TINY, why="profiles of the reader's machines",
         says="found: "),
    Rule(r"autosplit search (?!--scenario ).*", add=TINY, why=SECONDS, says="found: "),
    # --- the other commands
    Rule(r"autosplit (--help|list.*)", says=r"\w"),
    Rule(r"autosplit (show|decide) .*", says=r"\d ms|p95 ms"),
    Rule(r"autosplit replay .*", says="to the image and to the byte|not equal to the byte"),
    Rule(r"autosplit report .*", says="written to "),
    Rule(r"autosplit map RUN", change=(("RUN", "results/reference"),), add="--out out", why="RUN is any run",
         says="of the map"),
    Rule(r"autosplit map .*", add="--out out", why="the pages' runs and tables stay as they are", says="of the map"),
    Rule(r"autosplit compare", add=f"--scenario tiny.yaml --finalists 1 {PRUNED} --set search.evaluations=1",
         why=SECONDS + "; tiny.yaml prunes nothing", says=r"\* autosplit"),
    Rule(r"autosplit compare .*", why="several scenarios; " + SECONDS, made_up=True, says="written to "),
    Rule(r"autosplit export RESULT --out DIR", change=(("RESULT", "results/split"), ("DIR", "bundle")),
         add="--images 8", why="RESULT and DIR are any", says="labels equal"),
    Rule(r"autosplit export .*", add="--images 8", why="comparing all 2,000 images takes long", says="labels equal"),
    Rule(r"autosplit adapt .*", change=((r"adapt .*", "adapt results/tiny --out rates"),),
         add="--rates 2 --epochs 1 --images 8 --budget-ms 100",
         why="a run of the tiny world, as any other plans and networks are; " + SECONDS, says="labels equal"),
    Rule(r"autosplit profile .*", change=(("--engine onnxruntime", "--engine torch"),), add="--repeats 10",
         why=SECONDS + ", and writing ONNX half of one; tests/profiling has both engines", says="median error"),
    Rule(r"autosplit train-policy .*", add="--steps 200 --conditions 4", why=SECONDS, says="regret"),
    Rule(r"autosplit bench table .*sparsities.*", change=((r"=\[.*\]", "=[0,0.5]"),), add="--scenario tiny.yaml",
         why=SECONDS, says="plans in "),
    Rule(r"autosplit bench table .*--cluster .*", change=((" --cluster FIRST:6379", ""),), add="--scenario tiny.yaml",
         why="tests/core/test_cluster.py has a cluster; " + SECONDS, says="plans in "),
    Rule(r"autosplit bench table .*--jobs 4.*", change=(("jobs 4", "jobs 2"),), add="--scenario tiny.yaml", why=SECONDS,
         says="plans in "),
    Rule(r"autosplit bench table .*--shard .*", change=(("--out ", "--out="),), add="--scenario tiny.yaml",
         why="a part lies beside the table, which is not there yet; " + SECONDS, says="part 3 of 8 in "),
    Rule(r"autosplit bench table .*", add="--scenario tiny.yaml", why=SECONDS, says="plans in "),
    Rule(r"autosplit bench link .*", add="--loopback --images 2 --least 1", why=SECONDS, says="error of p50"),
    Rule(r"autosplit bench search .*/cifar10\.csv\.gz .*", change=(("tables/cifar10", "tables/digits-m"),),
         add="--scenarios 1 --seeds 1 --evaluations 2", why="one table lies there; " + SECONDS, says="### digits-m"),
    Rule(r"autosplit bench search .*", add="--scenarios 1 --seeds 1 --evaluations 2 --jobs 1", why=SECONDS,
         says="### digits-m"),
    # --- two machines: servers and gateways listen on a free port, and devices ask a server of the test
    Rule(r"autosplit serve --make-keys .*", says=r"porch\.key"),
    Rule(r"autosplit serve .*--bind .*", change=((":5555", ":0"), ("9464", "0")), why="ports may be taken",
         says="serving bundle at tcp://"),
    Rule(r"autosplit serve .*", add="--bind tcp://127.0.0.1:0", why="the port may be taken",
         says="serving bundle at tcp://"),
    Rule(r"autosplit infer .*--adaptive.*", change=(("bundle", "rates"), (r"--edge \S+", "--edge EDGE"),
                                                   ("photos/", "photos/blue")),
         add="--timeout-ms 30000", why=ASKED + "; the bundle called bundle has one rate", says="edge"),
    Rule(r"autosplit infer bundle photos/ .*", change=((r"--edge \S+", "--edge EDGE"), ("photos/", "photos/blue")),
         add="--timeout-ms 30000", why=ASKED + "; photos has a folder for each class", says="edge"),
    Rule(r"autosplit infer .*", change=((r"--edge \S+", "--edge EDGE"),), add="--timeout-ms 30000", why=ASKED,
         says="edge"),
    Rule(r"autosplit gateway .*--serial .*", change=((r"--serial \S+ --baud \d+", "--udp 127.0.0.1:0"),),
         why="no serial port here; tests/runtime/standalone/gateway has pseudo-terminals", says="gateway from udp://"),
    Rule(r"autosplit gateway .*--udp .*", change=((r"--udp \S+", "--udp 127.0.0.1:0"),), why="the port may be taken",
         says="gateway from udp://"),
    Rule(r"python -m coinference check --provider cuda", change=(("cuda", "cpu"),), why="no card here", says="label"),
    Rule(r"python -m coinference profile --out .*", add="--repeats 10", why=SECONDS, says="operators in"),
    Rule(r"python -m coinference compile", says="compiled  "),
    Rule(r"python -m coinference(| check.*| --help)", says="label|usage"),
    Rule(r"python examples/data\.py photos", change=(("photos", "drawn"),), why="photos is there already"),
    # --- benchmarks
    _benchmark("amortised", "--scenarios 1 --draws 3 --among 8"),
    _benchmark("elsewhere", "--scenarios 1 --draws 3 --evaluations 12 --agents ppo"),
    _benchmark("codecs", "--scenario tiny.yaml --splits layer1 --images 64 --steps 2 --codec-steps 1 "
                         "--targets 512 --families nested"),
    _benchmark("image_codecs", "--sides 32 --images 2 --rounds 1"),
    _benchmark("jpeg", "--scenario tiny.yaml --qualities 50 --moves 0 3"),
    _benchmark("latency", "--plans 20 --repetitions 1 --transfers 2000"),
    _benchmark("measuring", "--scenario tiny.yaml --plans 1 --most 1"),
    _benchmark("rate_control", "--scenario tiny.yaml --set codecs=[factorised] --plans 1"),
    _benchmark("contexts", "--scenario tiny.yaml --plans 2"),
    _benchmark("native_coder", "--rounds 2"),
    _benchmark("tuning_epochs", "--scenario tiny.yaml --set space.splits=blocks --plans output --epochs 1 --beside"),
    _benchmark("pools", "--policy policies/digits-m --sizes 8 --renewals 2 --updates 1 --trainings 1"),
)

READ_ONLY = {"adaptive": 9, "bundle_profile": 120, "cmsis_nn": 90, "compiled": 120, "controlled": 900, "costs": 60,
             "crowd": 20,
             "envs": 3, "exact_c": 1500, "exact_stream": 30, "exits": 20, "fidelity": 4, "instructions": 60,
             "int8_forms": 7, "kill": 60, "layerwise": 3, "networks": 15, "profiled": 4, "recipes": 6, "serving": 4,
             "slow_latency": 400, "stream": 60, "stream_steps": 50, "structure": 60, "workers": 60}
"""Benchmarks that take so many seconds in their smallest form: only their options are read."""

UNRUN = {
    r"python -m coinference( profile( --(ticks|engine|side) .*)?)?":
        "only named, or on a board: tests/runtime/test_profiling_a_bundle.py runs it",
    r"autosplit train-controller .*": "takes most of a minute; tests/pipeline/adapt/test_controllers.py runs it",
    r"autosplit infer adaptive-bundle .* --per-s .*": "the same test runs it",
    r"autosplit search --target c --device my-board\.yaml .*": "the profile of a reader's board",
    r"pip install .*": "installs from an index; .ci/run does it in a fresh environment",
    r"python -m venv .*|pre-commit install": "sets up a machine for development",
    r"ruff check.*|mypy --strict|lint-imports|mkdocs build --strict|python -m pytest -n 2": ".ci/run is made of them",
    r"python -m tests\.test_docs": "writes into docs/; what it writes is compared in tests/test_docs.py",
    r"python -m tests\.agents\.compare_surrogates": "takes two minutes, and has no smaller form",
    r"autosplit search --scenario (caltech20|camera)": "downloads Caltech-101 and a package with ImageNet weights",
    r"optuna-dashboard .*|tensorboard .*": "servers of other projects, of an extra that tests do without",
}
"""What cannot be run here, and why."""


def rule_for(command: Command) -> Rule | None:
    """The first rule that matches."""
    text = " ".join(command.words)
    return next((rule for rule in RULES if re.fullmatch(rule.match, text)), None)


def only_read(command: Command) -> bool:
    """Whether it is a benchmark of which only the options are read."""
    return command.words[:2] == ("python", "-m") and command.words[2].removeprefix("benchmarks.") in READ_ONLY


def unrun(command: Command) -> bool:
    """Whether it is one of those that cannot be run here."""
    return any(re.fullmatch(pattern, " ".join(command.words)) for pattern in UNRUN)
