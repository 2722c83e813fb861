from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torchvision import models

import autosplit.core.plugins
from autosplit.core.errors import ConfigError, PluginError, TraceError, UnknownNameError
from autosplit.models.loading import build_backbone, torchvision_names
from autosplit.models.names import list_backbones

PLUGIN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, in_channels, extra=1):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(4, num_classes)
    def forward(self, x):
        return self.fc(self.body(x))

def grey(num_classes): return Net(num_classes, 1)
def fixed(): return Net(4, 3)
def anything(**options): return Net(**options)
def needs_more(num_classes, depth): return Net(num_classes, 3)
def no_network(num_classes): return [num_classes]
def features(num_classes, in_channels): return nn.Conv2d(in_channels, num_classes, 3)
def two_answers(num_classes, in_channels):
    class Pair(Net):
        def forward(self, x): return x, x
    return Pair(num_classes, in_channels)
def of_28(num_classes, in_channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * 28 * 28, num_classes))
def of_48(num_classes, in_channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * 48 * 48, num_classes))
def broken(num_classes): raise RuntimeError("no\\nmemory")
instance = Net(4, 3)
"""


@pytest.fixture
def plugin(tmp_path):
    file = tmp_path / "nets.py"
    file.write_text(PLUGIN)
    return file


def one_line(caught):
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestNames:
    def test_zoo(self):
        assert list_backbones() == ["efficientnet-lite0", "resnet18-32", "resnet20", "resnet56", "resnet8"]

    def test_torchvision_classifiers_alone(self):
        names = torchvision_names()
        assert {"mobilenet_v2", "vit_b_16"} <= set(names)
        assert not any("mask" in n or "fcn" in n or "quantized" in n for n in names)

    def test_listing_needs_no_torch(self):
        code = "import sys, autosplit.models.names as b; b.list_backbones(); print('torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
        assert done.stdout.strip() == "False"

    def test_entry_point(self, monkeypatch):
        from importlib.metadata import EntryPoint

        point = EntryPoint("other", "autosplit.models.zoo:resnet20", "autosplit.backbones")
        monkeypatch.setattr(autosplit.core.plugins, "_installed", lambda *, group: [point])
        assert "other" in list_backbones()
        assert len(build_backbone("other", 3, 3).layer1) == 3


class TestBuild:
    def test_zoo(self):
        network = build_backbone("resnet8", 7, 1)
        assert network.training
        assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 7)
        assert torch.equal(network.stem[1].running_mean, build_backbone("resnet8", 7, 1).stem[1].running_mean)

    def test_equal_seeds_give_equal_weights(self):
        weights = []
        for _ in range(2):
            torch.manual_seed(3)
            weights.append(build_backbone("resnet8", 3, 3).fc.weight)
        assert torch.equal(*weights)

    @pytest.mark.parametrize(("name", "side"), [
        ("squeezenet1_1", 64), ("mobilenet_v3_small", 32), ("mnasnet0_5", 32), ("googlenet", 32), ("densenet121", 32),
        ("convnext_tiny", 32), ("inception_v3", 75),
    ])
    def test_torchvision_in_grey(self, name, side):
        network = build_backbone(f"torchvision:{name}", 5, 1).eval()
        with torch.inference_mode():
            assert network(torch.zeros(1, 1, side, side)).shape == (1, 5)

    def test_replaced_convolution_is_like_the_first(self):
        old, new = models.resnet18(weights=None).conv1, build_backbone("torchvision:resnet18", 5, 4).conv1
        assert new.weight.shape == (64, 4, 7, 7)
        assert (new.stride, new.padding, new.bias) == (old.stride, old.padding, None)

    @pytest.mark.parametrize(("name", "message"), [
        ("resnet9", "unknown backbone 'resnet9'; did you mean 'resnet8'"),
        ("resnet18", "unknown backbone 'resnet18'; torchvision's network is called 'torchvision:resnet18'"),
        ("torchvison:resnet18", "did you mean 'torchvision:resnet18'"),
        ("hf:", "write the network's name or its folder after 'hf:'"),
        ("tim:resnet18", "did you mean 'timm:resnet18'"),
        ("torchvision:resnet19", "unknown torchvision classifier 'resnet19'; did you mean 'resnet1"),
        ("nets.py", "say which object of the file"),
        ("absent.py:net", "no such file"),
    ])
    def test_unknown_name(self, name, message):
        with pytest.raises(ConfigError, match=message) as caught:
            build_backbone(name, 5, 3)
        assert len(one_line(caught)) < 400


class TestPlugin:
    @pytest.mark.parametrize(("name", "classes", "channels"), [
        ("Net", 6, 2), ("grey", 6, 1), ("fixed", 4, 3), ("anything", 5, 2), ("of_28", 6, 2), ("of_48", 6, 2),
    ])
    def test_factory_gets_what_it_takes(self, plugin, name, classes, channels):
        network = build_backbone(f"{plugin}:{name}", classes, channels)
        assert isinstance(network, nn.Module)
        assert network.training

    def test_module(self):
        assert len(build_backbone("autosplit.models.zoo:resnet20", 5, 3).layer1) == 3

    @pytest.mark.parametrize(("name", "message"), [
        ("fixed", r"gives a tensor of shape \(2, 4\) for 2 images; .* \(2, 6\)"),
        ("needs_more", "calling it with .num_classes=6. raised TypeError.*depth"),
        ("no_network", "gave a list; it must return a torch.nn.Module"),
        ("features", r"gives a tensor of shape \(2, 6, 30, 30\)"),
        ("two_answers", "returns a tuple of 2"),
        ("broken", "raised RuntimeError: no memory"),
        ("instance", r"gives a tensor of shape \(2, 4\) for 2 images"),
        ("PLUGIN_NAME", "unknown name in"),
    ])
    def test_fault_names_the_plugin(self, plugin, name, message):
        with pytest.raises((PluginError, TraceError, UnknownNameError), match=message) as caught:
            build_backbone(f"{plugin}:{name}", 6, 3)
        assert str(plugin) in one_line(caught)

    def test_wrong_image_size(self, plugin):
        build_backbone(f"{plugin}:of_28", 6, 3, image_size=(28, 28))
        with pytest.raises(PluginError, match=r"of_28' does not run on images of shape \(3, 32, 32\)"):
            build_backbone(f"{plugin}:of_28", 6, 3, image_size=(32, 32))
