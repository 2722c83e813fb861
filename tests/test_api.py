"""`import autosplit`: light, complete and typed; a search, its result and its deployment from Python."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import autosplit
from autosplit.core.errors import ConfigError, DataError, ResultError, UnknownNameError
from autosplit.runtime.deployment import Deployment
from tests.runs import CLASSES

HEAVY = {"torch", "numpy", "pandas", "optuna", "gymnasium", "stable_baselines3", "sklearn", "pydantic", "yaml"}


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300).stdout


# --- the names ------------------------------------------------------------------------------------------------------


def test_import_loads_nothing_and_the_interface_of_latency_models_loads_no_torch():
    code = (f"import sys, autosplit; heavy = {HEAVY!r}\nprint(sorted(heavy & set(sys.modules)))\n"
            "autosplit.LatencyModel, autosplit.LatencyBreakdown, autosplit.Scenario\n"
            "print('torch' in sys.modules, 'optuna' in sys.modules)")
    assert python(code).splitlines() == ["[]", "False False"]


@pytest.mark.parametrize("name", autosplit.__all__)
def test_every_name_is_there_and_in_dir(name):
    assert getattr(autosplit, name) is not None
    assert name in dir(autosplit)
    if name != "__version__":
        assert getattr(autosplit, name).__doc__


def test_type_checkers_see_the_same_names_in_the_same_places():
    """What is imported for them alone is what `__getattr__` loads."""
    tree = ast.parse(Path(autosplit.__file__).read_text(encoding="utf-8"))
    (checking,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in checking.body if isinstance(node, ast.ImportFrom)
            for alias in node.names}
    assert seen == autosplit._WHERE
    assert sorted([*seen, "__version__"]) == sorted(autosplit.__all__)


def test_other_names_are_no_attributes():
    with pytest.raises(AttributeError, match="module 'autosplit' has no attribute 'serch'"):
        _ = autosplit.serch
    from autosplit import pipeline  # packages are found as ever

    assert pipeline.__name__ == "autosplit.pipeline"


# --- a search -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(world, tmp_path_factory):
    """A search from Python with as few arguments as can be."""
    folder = tmp_path_factory.mktemp("python")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOSPLIT_CACHE", str(world.cache))
        patch.chdir(folder)
        return autosplit.search(world.scenario(search__agent="random", search__evaluations=2)), folder


def test_a_search_writes_a_new_run_below_results(found):
    result, folder = found
    assert result.path == Path("results/tiny-100ms/best.json")
    run = folder / "results" / "tiny-100ms"
    assert autosplit.Result.load(run) == autosplit.Result.load(str(run / "best.json")) == result
    assert result.plan.label in result._repr_html_() or "autosplit" in result._repr_html_()


def test_a_search_resumes(found, warm, monkeypatch, capsys):
    result, folder = found
    monkeypatch.chdir(folder)
    more = result.scenario.replace(search__evaluations=3)
    again = autosplit.search(more, "results/tiny-100ms", resume=True, quiet=True)
    assert again.provenance.evaluations == 3
    assert capsys.readouterr().err == ""
    with pytest.raises(ConfigError, match="name its directory with out"):
        autosplit.search(more, resume=True)


def test_a_scenario_may_be_a_name_or_a_file(tmp_path, warm):
    with pytest.raises(UnknownNameError, match="did you mean 'default'"):
        autosplit.search("defolt")
    with pytest.raises(ConfigError, match=r"gone\.yaml.*no such file"):
        autosplit.search(tmp_path / "gone.yaml")


# --- its deployment -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deployment(world):
    return Deployment.from_result(autosplit.Result.load(world.run))


def test_a_deployment_classifies_tensors_arrays_and_files(deployment, prepared, tmp_path):
    images = prepared.data.test.images
    logits, _ = deployment.run(images)
    names = [CLASSES[i] for i in logits.argmax(1).tolist()]
    assert deployment.class_names == CLASSES
    assert deployment.classify(images) == deployment.classify(images.numpy()) == names
    for i, picture in enumerate(images[:3].permute(0, 2, 3, 1).numpy()):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    assert deployment.classify(sorted(tmp_path.iterdir())) == names[:3]


def test_images_that_do_not_fit_are_refused(deployment, tmp_path):
    with pytest.raises(DataError, match=r"has values from 7 to 7; give uint8, or floats in \[0, 1\]"):
        deployment.classify(np.full((2, 3, 16, 16), 7, np.float32))
    with pytest.raises(DataError, match=r"has shape \(5, 16, 16\); it must have 1 or 3 channels"):
        deployment.classify(np.zeros((2, 5, 16, 16), np.uint8))
    with pytest.raises(ConfigError, match="no such file"):
        deployment.classify([tmp_path / "gone.png"])


def test_a_deployment_takes_the_names_of_its_result_and_numbers_where_there_are_none(world):
    result = autosplit.Result.load(world.run)
    nameless = result.model_copy(update={"stored": result.stored.model_copy(update={"class_names": ()})})
    assert Deployment.from_result(nameless).class_names == ("0", "1", "2")


def test_a_result_in_no_file_has_no_deployment(world, tmp_path):
    text = (world.run / "best.json").read_text(encoding="utf-8")
    result = autosplit.Result.model_validate_json(text)
    with pytest.raises(ConfigError, match=r"in no file.*Result\.load"):
        autosplit.Deployment.from_result(result)
    result.save(tmp_path / "best.json")
    assert result.path == tmp_path / "best.json"
    with pytest.raises(ResultError, match=r"weights 'best\.safetensors' are missing"):
        autosplit.Deployment.from_result(result)
