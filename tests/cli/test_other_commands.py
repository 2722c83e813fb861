"""`autosplit list`, `show`, `replay` and what all commands share."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from autosplit.cli.list_ import Kind
from autosplit.core.version import __version__
from autosplit.pipeline.ledger import LEDGER_FILE, Ledger
from tests.runs import failure, invoke, messages

SOME = {
    "backbones": "resnet8", "datasets": "digits-m", "devices": "stm32l4r5", "channels": "sub-ghz-fsk-50k",
    "latency-models": "analytic", "codecs": "nested", "agents": "ppo", "objectives": "in-time-accuracy",
    "scenarios": "default",
}


# --- list -----------------------------------------------------------------------------------------------------------


def test_every_kind_has_an_example():
    assert set(SOME) == {k.value for k in Kind}


@pytest.mark.parametrize("kind", SOME)
def test_list_one_kind(kind):
    shown = invoke("list", kind)
    assert shown.exit_code == 0
    assert shown.stdout.startswith(f"{kind}:\n")
    assert SOME[kind] in shown.stdout
    assert shown.stderr == ""
    names = json.loads(invoke("list", kind, "--json").stdout)
    assert list(names) == [kind]
    assert SOME[kind] in names[kind]
    assert len(shown.stdout.splitlines()) == 1 + len(names[kind])


def test_agents_are_listed_with_their_granularities():
    shown = {line.split()[0]: line for line in invoke("list", "agents").stdout.splitlines()[1:]}
    assert shown["ppo"].endswith("uniform and layer")
    assert shown["exhaustive"].endswith("uniform")
    assert shown["ddpg"].endswith("layer")


def test_list_everything():
    found = json.loads(invoke("list", "--json").stdout)
    assert set(found) == set(SOME)
    assert {"stm32h7a3", "raspberry-pi-4", "jetson-nano", "edge-gpu", "edge-cpu"} <= set(found["devices"])
    assert {"lora-sf7", "ble-coded", "ble-1m", "lte-m", "3g", "lte", "wifi4", "5g"} <= set(found["channels"])


def test_list_of_an_unknown_kind():
    refused = invoke("list", "colours")
    assert refused.exit_code == 2
    assert "colours" in refused.stderr
    assert refused.stdout == ""


# --- show -----------------------------------------------------------------------------------------------------------


def test_show_a_finished_run(world):
    shown = invoke("show", world.run, "--top", 3)
    assert shown.exit_code == 0, shown.stderr
    assert "8 of 8 measurements, finished" in shown.stdout
    assert "* autosplit" in shown.stdout
    assert shown.stderr == ""


def test_show_json(world):
    said = json.loads(invoke("show", world.run, "--top", 3, "--json").stdout)
    assert said["finished"] is True
    assert said["measurements"] == 8
    assert len(said["best"]) == 3
    rewards = [o["reward"] for o in said["best"]]
    assert rewards == sorted(rewards, reverse=True)
    assert rewards[0] == max(o.reward for o in Ledger.read(world.run).outcomes() if o.feasible)


def test_show_of_what_is_no_run(tmp_path):
    assert "is no run directory" in failure("show", tmp_path)


def test_show_of_a_run_without_its_scenario(world, tmp_path):
    (tmp_path / LEDGER_FILE).write_bytes((world.run / LEDGER_FILE).read_bytes())
    assert "scenario.yaml" in failure("show", tmp_path)


# --- replay ---------------------------------------------------------------------------------------------------------


def test_replay_for_people(world):
    played = invoke("replay", world.run)
    assert played.exit_code == 0, played.stderr
    assert "equal to the record, to the image and to the byte" in played.stdout
    assert messages(played) == []
    assert invoke("replay", world.run / "best.json", "--quiet").stderr == ""


def test_replay_json(world):
    said = json.loads(invoke("replay", world.run, "--json").stdout)
    assert said["exact"] is True
    assert said["test_accuracy"] == said["recorded_test_accuracy"]
    assert said["payload_bytes_total"] == said["recorded_payload_bytes_total"]
    assert said["latency"] == said["recorded_latency"]


def test_replay_of_nothing(tmp_path):
    assert "no such result file" in failure("replay", tmp_path)
    assert "no such result file" in failure("replay", tmp_path / "gone.json")


# --- all commands ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [(), ("search",), ("compare",), ("replay",), ("list",), ("show",)])
def test_help(command):
    shown = invoke(*command, "--help")
    assert shown.exit_code == 0
    assert "Usage: " in shown.stdout
    assert shown.stderr == ""


def test_version():
    assert invoke("--version").stdout == f"autosplit {__version__}\n"


def test_help_imports_nothing_heavy():
    code = ("import sys; sys.argv = ['autosplit', '--help']\n"
            "from autosplit.cli import main\n"
            "try: main()\n"
            "except SystemExit as e: assert not e.code\n"
            "heavy = {'torch', 'optuna', 'gymnasium', 'stable_baselines3', 'sklearn', 'pandas', 'numpy'}\n"
            "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "search" in done.stdout


def test_a_ledger_becomes_an_optuna_study(world, tmp_path):
    shown = invoke("show", world.run, "--optuna", tmp_path / "study.log", "--json")
    assert shown.exit_code == 0, shown.stderr
    assert "optuna-dashboard" in shown.stderr
    lines = (tmp_path / "study.log").read_text().splitlines()
    assert sum('"op_code":4' in line for line in lines) >= json.loads(shown.stdout)["measurements"]
    assert "name a new file" in failure("show", world.run, "--optuna", tmp_path / "study.log")
