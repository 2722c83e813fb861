"""Objects instead of names: a search of what is in memory, and going on with its result elsewhere."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import autosplit
from autosplit.core import held
from autosplit.core.errors import ConfigError, DataError, PluginError, UnknownNameError
from autosplit.core.scenario import load_scenario
from autosplit.pipeline.given import name_given
from autosplit.pipeline.replay import replay
from tests.runs import SETTINGS

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 240)
IMAGES = RNG.integers(0, 90, (240, 16, 16, 3), dtype=np.uint8)
IMAGES[np.arange(240), :, :, LABELS] += 60


class Net(nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x, return_features=False):
        return self.fc(self.two(self.one(x)).mean((2, 3)))


def milliseconds(work, conditions):
    return {"device_ms": work.device.macs / 1e5, "uplink_ms": work.payload_bytes_mean / 10}


def accuracy_alone(accuracy, latency, budget_ms):
    return accuracy - 0.001 * latency.p95_ms / budget_ms


def search(out, **given):
    settings = {k: v for k, v in SETTINGS.items() if not k.startswith("search")}
    return autosplit.search(out=out, data=(IMAGES, LABELS), agent="random", evaluations=3, finalists=1, quiet=True,
                            settings={**settings, **given.pop("settings", {})}, **given)


@pytest.fixture(scope="module")
def searched(tmp_path_factory, one_thread):
    folder = tmp_path_factory.mktemp("given")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOSPLIT_CACHE", str(folder / "cache"))
        torch.manual_seed(0)
        model = Net()
        before = {k: v.clone() for k, v in model.state_dict().items()}
        result = search(folder / "run", model=model, latency=milliseconds, objective=accuracy_alone, budget_ms=50,
                        train=True)
    return model, before, result


def test_what_was_handed_over_is_known_by_its_hash(searched):
    scenario = searched[2].scenario
    names = (scenario.backbone, scenario.dataset, scenario.latency_model, scenario.objective)
    assert [name.rpartition("-")[0] for name in names] == [
        "memory:Net", "memory:tuple", "memory:milliseconds", "memory:accuracy_alone"]
    assert scenario.conditions.budget_ms == 50
    assert searched[2].test.accuracy > 0.5


def test_the_users_network_stays_as_it_was(searched):
    model, before, _ = searched
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training


def test_result_goes_on_in_this_process(searched):
    result = searched[2]
    assert replay(result.path).exact
    assert len(autosplit.Deployment.from_result(result).classify(IMAGES[:5].transpose(0, 3, 1, 2))) == 5
    deployment = autosplit.Deployment.from_result(result)
    expected = deployment.classify(IMAGES[:3].transpose(0, 3, 1, 2))
    for images in (IMAGES[:3], list(IMAGES[:3]), [Image.fromarray(image) for image in IMAGES[:3]], IMAGES[:3] / 255.0,
                   torch.from_numpy(IMAGES[:3]).permute(0, 3, 1, 2)):
        assert deployment.classify(images) == expected
    with pytest.raises(DataError, match="images: there are none"):
        deployment.classify([])
    frame = result.to_frame()
    assert len(frame) == len(result.comparison)
    assert {"name", "accuracy"} <= set(frame.columns)


@pytest.mark.parametrize(("key", "other"), [
    ("model", Net), ("data", lambda: (IMAGES[:-1], LABELS[:-1])), ("latency", lambda: lambda work: 1.0),
    ("objective", lambda: lambda accuracy, latency, budget_ms: latency)])
def test_another_object_is_refused_though_the_right_one_is_at_hand(searched, key, other):
    with pytest.raises(ConfigError, match=r"was handed over, but '.*' is recorded; hand over the same"):
        replay(searched[2].path, **{key: other()})


def test_elsewhere_it_asks_for_what_is_missing_and_takes_it(searched, monkeypatch):
    model, _, result = searched
    monkeypatch.setattr(held, "_held", {})
    with pytest.raises(ConfigError, match=r"'Net-.*' was handed over in Python.* as model=\.\.\.") as caught:
        autosplit.Deployment.from_result(result)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"model: 'memory:Net-.* was handed over, but 'memory:Net-.* is recorded"):
        autosplit.Deployment.from_result(result, model=Net())
    autosplit.Deployment.from_result(result, model=model)
    with pytest.raises(ConfigError, match=r"as latency=\.\.\.|as data=\.\.\.|as objective=\.\.\."):
        replay(result.path)
    assert replay(result.path, model=model, data=(IMAGES, LABELS), latency=milliseconds,
                  objective=accuracy_alone).exact


def test_the_command_line_says_that_it_cannot(searched):
    done = subprocess.run([sys.executable, "-m", "autosplit", "replay", str(searched[2].path)], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 2
    assert "was handed over in Python and is in no file" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_module_is_taken_as_it_is_and_a_function_is_trained(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSPLIT_CACHE", str(tmp_path / "cache"))
    given = name_given(model=Net(), data=(IMAGES, LABELS))
    assert given["backbone"].startswith("memory:Net-")
    result = search(tmp_path / "run", model=Net, settings={"training.backbone_epochs": 1})
    assert result.scenario.training.backbone_epochs == 1
    assert result.scenario.backbone != given["backbone"]


def test_two_networks_of_one_class_are_two(searched):
    assert name_given(model=Net())["backbone"] != name_given(model=Net())["backbone"]
    assert name_given(model=searched[0])["backbone"] == searched[2].scenario.backbone


def test_functions_of_other_text_or_values_are_others():
    def priced(factor):
        return lambda work: factor

    names = [name_given(latency=f)["latency_model"] for f in (priced(1), priced(2), priced(1), milliseconds)]
    assert names[0] == names[2]
    assert len(set(names)) == 3


@pytest.mark.parametrize(("given", "error", "message"), [
    ({"model": 7}, ConfigError, "model is a int; give an nn.Module"),
    ({"model": "nonesuch"}, ConfigError, "unknown backbone 'nonesuch'"),
    ({"model": Net(5)}, PluginError, r"backbone 'Net-.*' gives a tensor of shape \(2, 5\) for 2 images"),
    ({"model": Net(), "latency": lambda work: "soon"}, PluginError, "gives str"),
    ({"model": Net(), "objective": lambda accuracy, latency, budget_ms: accuracy / 0}, PluginError, "not finite"),
    ({"model": Net(), "objective": 3}, PluginError, "is a int; it must be an Objective, or a function"),
])
def test_wrong_objects_are_told_before_anything_is_trained(tmp_path, monkeypatch, given, error, message):
    monkeypatch.setenv("AUTOSPLIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("autosplit.training.loop.train", None)
    with pytest.raises(error, match=message) as caught:
        search(tmp_path / "run", **given)
    assert "\n" not in str(caught.value)


def test_grey_images_reach_a_network_that_takes_colours():
    """In one channel where the network can be built so, in three where it cannot."""
    from autosplit.training.prepare import untrained

    images, labels = torch.randint(0, 256, (60, 16, 16), dtype=torch.uint8), torch.arange(60) % 3
    for model, channels in (("resnet8", 1), (Net, 3), (Net(), 3)):
        named = name_given(model=model, data=(images, labels))
        networks = untrained(load_scenario("default").replace(**named, **{"training.backbone_epochs": 1}))
        assert networks.data.shape == (channels, 16, 16)
        assert networks.data.grey


def test_a_dry_run_takes_what_a_search_takes():
    found = autosplit.dry_run(model=Net(), data=(IMAGES, LABELS), latency=milliseconds, budget_ms=50, quiet=True,
                              settings={"space.widths": (2, 4), "space.bits": (4,)})
    assert found.scenario.conditions.budget_ms == 50
    assert [row.split for row in found.rows] == ["input", "one", "two", "output"]
    frame = found.to_frame()
    assert frame["plans"].sum() == found.plans
    assert frame["device_ms"].iloc[1] == pytest.approx(10 * frame["head_mmacs"].iloc[1])
    assert "<td>one</td>" in found._repr_html_()
    with pytest.raises(UnknownNameError, match="argument 'budget'; did you mean 'budget_ms'"):
        autosplit.dry_run(budget=50)


class Bessel(Net):
    def forward(self, x):
        return super().forward(torch.special.bessel_j0(x))


def test_a_dry_run_finds_what_cannot_be_exported():
    pytest.importorskip("onnx", reason="an extra: pip install '.[deploy]'")
    with pytest.raises(ConfigError, match=r"could not be exported \(.*bessel_j0"):
        autosplit.dry_run(model=Bessel(), data=(IMAGES, LABELS), quiet=True)
