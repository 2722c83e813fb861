"""What a network is: caches must tell two networks apart, and know one again."""

from __future__ import annotations

import json

import torch
from torch import nn

from autosplit.models.identity import graph_hash, settled_tensors, tensors_hash
from autosplit.models.loading import build_backbone
from autosplit.models.tracing import trace
from autosplit.models.zoo import resnet8, resnet20

SHAPE = (3, 16, 16)


def hash_of(network, shape=SHAPE):
    return graph_hash(trace(network.eval(), shape))


class Scaled(nn.Module):
    def __init__(self, activation=nn.ReLU, stride=2, factor=1.0):
        super().__init__()
        self.conv, self.act, self.fc = nn.Conv2d(3, 4, 3, stride), activation(), nn.Linear(4, 2)
        self.factor, self.table = factor, torch.arange(4.0)

    def forward(self, x):
        return self.fc(self.act(self.conv(x) * self.factor).mean((2, 3)) + self.table.to(x.device))


class TestGraph:
    def test_weights_do_not_count(self):
        assert hash_of(resnet8()) == hash_of(resnet8())

    def test_the_name_of_the_file_does_not_count(self, tmp_path):
        text = "from autosplit.models.zoo import resnet8\ndef net(num_classes):\n    return resnet8(num_classes)\n"
        for name in ("one.py", "other.py"):
            (tmp_path / name).write_text(text)
        one, other = (build_backbone(f"{tmp_path / name}:net", 3, 3) for name in ("one.py", "other.py"))
        assert hash_of(one) == hash_of(other)

    def test_whatever_is_computed_counts(self):
        networks = [Scaled(), Scaled(nn.Hardswish), Scaled(stride=1), Scaled(factor=2.0), resnet8(), resnet20(),
                    resnet8(4), resnet8(10, 1)]
        shapes = [SHAPE] * 7 + [(1, 16, 16)]
        assert len({hash_of(n, s) for n, s in zip(networks, shapes, strict=True)}) == len(networks)

    def test_constants_count_though_they_are_no_weights(self):
        other = Scaled()
        other.table = torch.arange(4.0) + 1
        assert hash_of(Scaled()) != hash_of(other)

    def test_settings_that_a_factory_reads_from_another_file_count(self, tmp_path):
        factory, settings = tmp_path / "net.py", tmp_path / "settings.json"
        factory.write_text(
            "import json, pathlib\nfrom torch import nn\ndef net(num_classes, in_channels):\n"
            f"    s = json.loads(pathlib.Path({str(settings)!r}).read_text())\n"
            "    return nn.Sequential(nn.Conv2d(in_channels, 4, 3, 2), getattr(nn, s['act'])(),\n"
            "                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))\n")
        found = []
        for act in ("ReLU", "Hardswish"):
            settings.write_text(json.dumps({"act": act}))
            found.append(hash_of(build_backbone(f"{factory}:net", 3, 3)))
        assert found[0] != found[1]


class TestTensors:
    def test_what_was_drawn_is_told_from_what_is_given(self):
        def build(seed):
            torch.manual_seed(seed)
            network = Scaled()
            with torch.no_grad():
                network.fc.bias.copy_(torch.tensor([1.0, 2.0]))  # as from a file
            return network

        assert set(settled_tensors(build(0), build(1))) == {"fc.bias"}

    def test_one_object_is_given_as_a_whole(self):
        network = resnet8()
        assert settled_tensors(network, network).keys() == {n for n, _ in (*network.named_parameters(),
                                                                           *network.named_buffers())}

    def test_hash_sees_names_values_shapes_and_types(self):
        values = torch.arange(4.0)
        variants = [{"a": values}, {"b": values}, {"a": values + 1}, {"a": values.view(2, 2)}, {"a": values.half()}, {}]
        assert len({tensors_hash(v) for v in variants}) == len(variants)
        assert tensors_hash({"a": values, "b": values}) == tensors_hash({"b": values.clone(), "a": values})
