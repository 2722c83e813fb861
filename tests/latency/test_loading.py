from __future__ import annotations

import subprocess
import sys

import pytest

from autosplit.core.errors import ConfigError, PluginError, UnknownNameError
from autosplit.latency import CheckedLatencyModel, list_latency_models, load_latency_model
from autosplit.latency.analytic import AnalyticLatencyModel
from autosplit.testing import make_conditions, make_workload

PLUGIN = """
from autosplit.latency.analytic import AnalyticLatencyModel

class Mine(AnalyticLatencyModel):
    pass

def factory():
    return Mine()

ready = Mine()
class NeedsArgument(Mine):
    def __init__(self, path): ...
number = 7
class NoMethod: pass
class Broken:
    def __init__(self):
        raise RuntimeError("no licence")
    def latency(self, workloads, conditions): ...
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "plugin.py"
    path.write_text(PLUGIN)
    return path


def test_analytic_is_built_in():
    assert "analytic" in list_latency_models()
    model = load_latency_model("analytic")
    assert isinstance(model, CheckedLatencyModel)
    assert isinstance(model.model, AnalyticLatencyModel)


def test_module_and_name():
    assert isinstance(load_latency_model("autosplit.latency.analytic:AnalyticLatencyModel").model, AnalyticLatencyModel)


@pytest.mark.parametrize("name", ["Mine", "factory", "ready"])
def test_class_factory_and_instance_of_a_file(file, name):
    answer = load_latency_model(f"{file}:{name}").latency([make_workload()], [make_conditions()])
    assert answer.p50_ms.item() > 0


@pytest.mark.parametrize(("name", "message"), [
    ("number", "is a int; it must be a class"),
    ("NoMethod", "gave a NoMethod without a method latency"),
    ("Broken", "raised RuntimeError: no licence"),
    ("NeedsArgument", "building it without arguments raised TypeError"),
])
def test_what_is_no_model_is_refused_by_name(file, name, message):
    with pytest.raises(PluginError, match=message) as caught:
        load_latency_model(f"{file}:{name}")
    assert f"{file}:{name}" in str(caught.value)


def test_unknown_name_gives_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown latency model 'analytik'; did you mean 'analytic'\?"):
        load_latency_model("analytik")


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_latency_model(f"{tmp_path}/absent.py:Mine")


def test_importing_the_package_loads_neither_torch_nor_a_model():
    code = "import sys, autosplit.latency, autosplit.core.scenario; print([m for m in ('torch', 'pytest', " \
           "'autosplit.latency.analytic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
