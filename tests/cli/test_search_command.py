"""`autosplit search`: options, dry runs, plugins, and one line on stderr for each mistake."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from autosplit.cli import search as search_command
from autosplit.cli.console import State
from autosplit.core.result import Result
from autosplit.core.scenario import load_scenario
from autosplit.evaluation.live import LiveEvaluator
from autosplit.evaluation.scorer import Scorer
from autosplit.pipeline.ledger import Ledger
from tests.runs import failure, invoke, messages, next_commands


@pytest.fixture
def tiny(world):
    return "--scenario", world.root / "tiny.yaml"


@pytest.fixture
def out(tmp_path):
    return "--out", tmp_path / "run"


@pytest.fixture
def counting(monkeypatch):
    """Dry runs that count plans, and leave out the deployments that other tests let them build."""
    monkeypatch.setattr("autosplit.pipeline.dry_run.try_deployments", lambda networks, scorer, progress: None)


# --- what it prints -------------------------------------------------------------------------------------------------


def test_json_on_stdout_and_progress_on_stderr(warm, tiny, tmp_path):
    run = invoke("search", *tiny, "--agent", "random", "--evaluations", 3, "--json", "--out", tmp_path / "run")
    assert run.exit_code == 0, run.stderr
    assert Result.model_validate_json(run.stdout) == Result.load(tmp_path / "run" / "best.json")
    assert "search with random: done" in run.stderr
    assert messages(run) == next_commands(run) == []


def test_what_comes_next_is_named(warm, tiny, tmp_path):
    run = invoke("search", *tiny, "--agent", "random", "--evaluations", 3, "--out", tmp_path / "run")
    assert run.exit_code == 0, run.stderr
    assert next_commands(run) == [
        f"autosplit report {tmp_path / 'run'}", f"autosplit replay {tmp_path / 'run' / 'best.json'}",
        f"autosplit export {tmp_path / 'run'} --out {tmp_path / 'run' / 'bundle'}"]
    assert run.stderr.startswith("estimate: train the backbone for 2 epochs and the supernet for 1, measure 3 plans, "
                                 "fine-tune 1 of them: about ")


def test_table_for_people_and_quiet(warm, tiny, tmp_path):
    run = invoke("search", *tiny, "--agent", "random", "--evaluations", 3, "--quiet", "--out", tmp_path / "run")
    assert run.exit_code == 0
    assert run.stderr == ""
    for text in ("whole network on device", "raw image (PNG)", "split, no compression", "* autosplit", "found: "):
        assert text in run.stdout


def test_runs_go_below_results_and_the_first_is_the_best(warm, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        run = invoke("search", *tiny, "--agent", "random", "--evaluations", 3)
        assert run.exit_code == 0, run.stderr
    assert {p.name for p in (tmp_path / "results").iterdir()} == {"best.json", "tiny-100ms", "tiny-100ms-2"}
    best = Result.load(tmp_path / "results" / "best.json")
    assert best.stored.weights == "tiny-100ms/best.safetensors"
    assert invoke("replay", tmp_path / "results" / "best.json").exit_code == 0


def test_options_and_set_change_the_scenario(warm, tiny):
    run = invoke("search", *tiny, "--dry-run", "--json", "--quiet", "--budget-ms", 55,
                 "--device", "stm32h7a3", "--edge", "edge-gpu", "--channel", "wifi4",
                 "--agent", "random", "--evaluations", 77, "--set", "space.widths=[2]",
                 "--set", "space.splits=[layer1]", "--set", "space.whole_on_edge=false")
    assert run.exit_code == 0, run.stderr
    said = json.loads(run.stdout)
    assert {k: said[k] for k in ("budget_ms", "device", "edge", "channel", "agent", "evaluations")} == {
        "budget_ms": 55.0, "device": "stm32h7a3", "edge": "edge-gpu", "channel": "wifi4", "agent": "random",
        "evaluations": 77}
    assert [row["split"] for row in said["splits"]] == ["layer1", "output"]
    assert [row["plans"] for row in said["splits"]] == [2 * 1 * 2 * 2, 2]
    assert said["plans"] == 10


def test_several_codecs_are_on_offer_together(warm, tiny, counting):
    def plans(*codecs):
        options = [word for codec in codecs for word in ("--codec", codec)]
        said = json.loads(invoke("search", *tiny, "--dry-run", "--json", "--quiet", *options).stdout)
        return {row["split"]: row["plans"] for row in said["splits"]}

    one, other, both = plans("nested"), plans("jalad"), plans("nested", "jalad")
    assert plans() == one
    assert both["layer1"] == one["layer1"] + other["layer1"] > one["layer1"]
    assert both["output"] == one["output"]


def test_set_takes_null(warm, tiny, counting):
    said = invoke("search", *tiny, "--dry-run", "--json", "--quiet", "--set", "space.grid_levels=null")
    few = invoke("search", *tiny, "--dry-run", "--json", "--quiet")
    assert json.loads(said.stdout)["plans"] > json.loads(few.stdout)["plans"]


def test_dry_run_trains_nothing_and_writes_nothing(world, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AUTOSPLIT_CACHE", str(tmp_path / "cache"))
    run = invoke("search", *tiny, "--dry-run")
    assert run.exit_code == 0, run.stderr
    assert "train" not in run.stderr
    assert messages(run) == []
    for text in ("stem", "layer1", "layer2", "layer3", "input", "output", "4x16x16"):
        assert text in run.stdout
    assert list(tmp_path.iterdir()) == []


def test_dry_run_counts_growing_heads(world, tiny):
    rows = json.loads(invoke("search", *tiny, "--dry-run", "--json").stdout)["splits"]
    assert rows[0]["split"] == "input"
    assert rows[0]["device_ms"] == 0
    times = [row["device_ms"] for row in rows]
    assert times == sorted(times)
    assert times[1] > 0


def test_dry_run_counts_plans_with_a_sparsity_a_group(warm, tiny, counting):
    def described(*options):
        return json.loads(invoke("search", *tiny, "--dry-run", "--json", *options).stdout)

    uniform, layered = described(), described("--granularity", "layer")
    assert (uniform["granularity"], layered["granularity"]) == ("uniform", "layer")
    for few, many in zip(uniform["splits"], layered["splits"], strict=True):
        assert few["groups"] == many["groups"]
        heads = {"input": 1, "stem": 1}.get(few["split"], 2)
        assert many["plans"] == few["plans"] // heads * 3 ** few["groups"] or few["groups"] > 1
    assert layered["splits"][-1]["groups"] > 2
    assert layered["plans"] > 10 * uniform["plans"]


def test_torchvision_backbone(world, tiny):
    run = invoke("search", *tiny, "--backbone", "torchvision:squeezenet1_1", "--image-size", 32, "--dry-run", "--json",
                 "--set", "space.sparsities=[0.0]")
    assert run.exit_code == 0, run.stderr
    assert json.loads(run.stdout)["backbone"] == "torchvision:squeezenet1_1"


# --- exhaustive search ----------------------------------------------------------------------------------------------


def planned(*options):
    said = json.loads(invoke("search", *options, "--dry-run", "--json", "--quiet").stdout)
    return said["evaluations"], said["plans"]


def test_exhaustive_is_for_the_whole_space_unless_told_otherwise(warm, tiny, tmp_path, counting):
    evaluations, plans = planned(*tiny, "--agent", "exhaustive")
    assert evaluations == plans > 50
    assert planned(*tiny, "--agent", "exhaustive", "--evaluations", 7) == (7, plans)
    assert planned(*tiny, "--agent", "exhaustive", "--set", "search.evaluations=9") == (9, plans)
    assert planned(*tiny, "--set", "search.agent=exhaustive") == (plans, plans)
    assert planned(*tiny, "--agent", "random") == (8, plans)
    (tmp_path / "few.yaml").write_text(warm.scenario(search__agent="exhaustive").to_yaml())
    assert planned("--scenario", tmp_path / "few.yaml") == (8, plans)


def test_a_long_exhaustive_search_needs_a_yes(warm, tiny, out, monkeypatch):
    monkeypatch.setattr(search_command, "_MOST_EXHAUSTIVE", 20)
    evaluator = LiveEvaluator.from_scenario(warm.scenario())
    plans = len(Scorer.of(warm.scenario()).affordable(evaluator.workloads(evaluator.space.plans())))
    # measured on other images, so that nothing is in the cache
    command = "search", *tiny, "--agent", "exhaustive", "--finalists", 1, "--set", "search.validation_images=64"
    line = failure(*command, *out)
    assert re.fullmatch(rf"agent 'exhaustive' would measure {plans} plans in about \d+ s \(\d+\.\d\d s each\); "
                        r"add --yes to let it, or --evaluations 20 for the first ones only", line)
    assert not out[1].exists()

    few = invoke(*command, "--evaluations", 20, *out)
    assert few.exit_code == 0, few.stderr
    more = "search", "--resume", out[1], "--evaluations", 1000
    assert f"would measure {plans - 20} plans" in failure(*more, "--no-reuse")

    whole = invoke(*more, "--yes")
    assert whole.exit_code == 0, whole.stderr
    assert len(Ledger.read(out[1]).measurements("F1")) == plans
    cached = invoke(*command, "--out", out[1].parent / "again")  # takes no time, so nobody is asked
    assert cached.exit_code == 0, cached.stderr
    assert len(Ledger.read(out[1].parent / "again").measurements("F1")) == plans


# --- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "message"), [
    (("--device", "stm32l4r4"), "conditions.device: unknown device 'stm32l4r4'; did you mean 'stm32l4r5'"),
    (("--edge", "edge-cpux"), "unknown device 'edge-cpux'; did you mean 'edge-cpu'"),
    (("--channel", "wify4"), "conditions.channel: unknown channel 'wify4'; did you mean 'wifi4'"),
    (("--backbone", "resnet9"), "unknown backbone 'resnet9'; did you mean 'resnet8'"),
    (("--backbone", "resnet18"), "torchvision's network is called 'torchvision:resnet18'"),
    (("--backbone", "torchvision:resnet19"), "unknown torchvision classifier 'resnet19'; did you mean 'resnet18'"),
    (("--backbone", "gone.py:network"), "gone.py"),
    (("--backbone", "net.py"), "say which object of the file"),
    (("--dataset", "fashion"), "unknown data set 'fashion'; did you mean 'fashion-mnist'"),
    (("--dataset", "image-folder:/nowhere"), "no such folder as /nowhere"),
    (("--agent", "rando"), "unknown agent 'rando'; did you mean 'random'"),
    (("--agent", "ddpg"), "agent 'ddpg' prunes layer by layer: search with --granularity layer, or take cmaes, "),
    (("--agent", "exhaustive", "--granularity", "layer"), "'exhaustive' prunes whole heads only: leave out --granul"),
    (("--agent", "dppg", "--granularity", "layer"), "unknown layer-wise agent 'dppg'; did you mean 'ddpg'"),
    (("--granularity", "channel"), "search.granularity: "),
    (("--set", "training.layer_profiles=-1"), "training.layer_profiles: "),
    (("--objective", "amd"), "unknown objective 'amd'; did you mean 'amc'"),
    (("--latency-model", "analytik"), "unknown latency model 'analytik'; did you mean 'analytic'"),
    (("--latency-model", "gone.py:Model"), "gone.py"),
    (("--scenario", "defolt"), "unknown scenario 'defolt'; did you mean 'default'"),
    (("--scenario", "gone.yaml"), "scenario 'gone.yaml': no such file"),
    (("--set", "space.splits=[layr1]"), "unknown split point 'layr1'; did you mean 'layer1'"),
    (("--set", "space.splt=all"), "'splt'; did you mean 'splits'"),
    (("--set", "space.widths"), "--set 'space.widths': write it as key=value"),
    (("--set", "=3"), "--set '=3': write it as key=value"),
    (("--set", "space.widths=[2"), "not valid YAML"),
    (("--set", "search.seed.x=3"), "there is nothing below 'search.seed'"),
    (("--codec", "nestde"), "unknown codec 'nestde'; did you mean 'nested'"),
    (("--codec", "nested", "--codec", "aecn"), "unknown codec 'aecn'; did you mean 'aecnn'"),
    (("--set", "codecs=nested"), "codecs: "),
    (("--set", "codecs=[]"), "codecs: "),
    (("--budget-ms", 0), "conditions.budget_ms: "),
    (("--budget-ms", -5), "conditions.budget_ms: "),
    (("--budget-ms", "nan"), "conditions.budget_ms: "),
    (("--budget-ms", "inf"), "conditions.budget_ms: "),
    (("--evaluations", 0), "search.evaluations: "),
    (("--finalists", 0), "search.finalists: "),
    (("--seed", -1), "search.seed: "),
    (("--image-size", 2), "image_size: "),
    (("--weights", "gone.safetensors"), f"weights '{Path.cwd() / 'gone.safetensors'}': no such file"),
])
def test_one_line_names_the_culprit(warm, tiny, out, options, message):
    assert message in failure("search", *tiny, *options, *out)
    assert not out[1].exists()


def test_malformed_scenario_file(tmp_path, out):
    (tmp_path / "bad.yaml").write_text("backbone: [\n")
    assert "bad.yaml: not valid YAML" in failure("search", "--scenario", tmp_path / "bad.yaml", *out)
    (tmp_path / "odd.yaml").write_text(load_scenario().to_yaml() + "colour: red\n")
    assert "odd.yaml: colour: " in failure("search", "--scenario", tmp_path / "odd.yaml", *out)


def test_a_network_that_cannot_be_traced_names_the_place(warm, tiny, tmp_path, out):
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, classes):\n"
        "        super().__init__()\n"
        "        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, classes)\n"
        "    def forward(self, x):\n"
        "        x = self.first(x)\n"
        "        return self.last(x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3)))\n"
        "def network(num_classes):\n    return Net(num_classes)\n")
    line = failure("search", *tiny, "--backbone", f"{tmp_path / 'net.py'}:network", *out)
    assert "Net decides by values of a tensor" in line
    assert "(net.py:9: return self.last(" in line


def test_no_place_to_write(warm, tiny, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write to" in failure("search", *tiny, "--out", tmp_path / "file" / "run")


def test_out_that_holds_a_run(warm, tiny):
    assert f"continue it with --resume {warm.run}" in failure("search", *tiny, "--out", warm.run, code=5)


def test_resume_of_what_is_no_run(tmp_path):
    assert "is no run directory" in failure("search", "--resume", tmp_path, code=5)
    assert "is no run directory" in failure("search", "--resume", tmp_path / "gone", code=5)


def test_resume_takes_no_other_folder(warm, out):
    assert "leave --out away" in failure("search", "--resume", warm.run, *out)


def test_resume_of_another_scenario(warm):
    assert "search.seed was 0, now 1" in failure("search", "--resume", warm.run, "--seed", 1, code=5)


def test_debug_shows_the_traceback(tiny, monkeypatch):
    monkeypatch.setattr(State, "debug", False)
    run = invoke("--debug", "search", *tiny, "--device", "none")
    assert run.exit_code == 2
    assert "Traceback (most recent call last)" in run.stderr
    assert run.stderr.splitlines()[-1].startswith("error: conditions.device: unknown device 'none'")
    assert "Traceback" not in invoke("search", *tiny, "--device", "none").stderr


# --- latency plugins ------------------------------------------------------------------------------------------------

PLUGINS = """
import numpy as np
from autosplit.latency import LatencyBreakdown

class Flat:
    uplink = 7.0
    def latency(self, workloads, conditions):
        zero = np.zeros((len(workloads), len(conditions)))
        return LatencyBreakdown.deterministic(conditions, device_ms=zero, encode_ms=zero, uplink_ms=zero + self.uplink,
                                              edge_ms=zero, downlink_ms=zero)

class Raises(Flat):
    def latency(self, workloads, conditions):
        if any(w.plan.split == "layer2" for w in workloads):
            raise KeyError("layer2")
        return super().latency(workloads, conditions)

class Nan(Flat):
    uplink = float("nan")

class Negative(Flat):
    uplink = -1.0

class Shape(Flat):
    def latency(self, workloads, conditions):
        return super().latency(workloads, [*conditions, conditions[0]])

class Other(Flat):
    def latency(self, workloads, conditions):
        return 3.0
"""


@pytest.fixture
def plugins(tmp_path):
    (tmp_path / "mine.py").write_text(PLUGINS)
    return tmp_path / "mine.py"


def test_latency_plugin(warm, tiny, plugins, tmp_path):
    run = invoke("search", *tiny, "--agent", "random", "--evaluations", 3, "--latency-model", f"{plugins}:Flat",
                 "--json", "--out", tmp_path / "run")
    assert run.exit_code == 0, run.stderr
    assert {row["latency"]["p95_ms"] for row in json.loads(run.stdout)["comparison"]} == {7.0}
    assert invoke("replay", tmp_path / "run").exit_code == 0


@pytest.mark.parametrize(("name", "plan", "what"), [
    ("Raises", "layer2 | ", "raised KeyError: 'layer2'"),
    ("Nan", "output' ", "returned uplink_ms = nan"),
    ("Negative", "output' ", "returned uplink_ms = -1"),
    ("Shape", "output' ", "return shape (1, 1)"),
    ("Other", "output' ", "returned milliseconds of shape ()"),
])
def test_latency_plugins_that_are_wrong(warm, tiny, plugins, out, name, plan, what):
    line = failure("search", *tiny, "--latency-model", f"{plugins}:{name}", *out)
    assert f"mine.py:{name}' on plan '{plan}" in line
    assert what in line
