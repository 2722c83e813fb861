"""Networks of timm and of Hugging Face's transformers by name, built without a network."""

from __future__ import annotations

import socket
import sys

import pytest
import torch

from autosplit.core.errors import ConfigError, UnknownNameError
from autosplit.models.loading import build_backbone


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", refuse)


class TestTimm:
    @pytest.fixture
    def timm(self):
        return pytest.importorskip("timm", reason="an extra: pip install '.[timm]'")

    @pytest.mark.parametrize("channels", [1, 3])
    def test_a_name(self, timm, channels):
        network = build_backbone("timm:mobilenetv3_small_050", 5, channels, (32, 32), pretrained=False).eval()
        assert network(torch.zeros(2, channels, 32, 32)).shape == (2, 5)

    def test_one_that_is_built_for_one_size(self, timm):
        network = build_backbone("timm:vit_tiny_patch16_224", 5, 3, (64, 64), pretrained=False).eval()
        assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 5)

    def test_pretrained_weights_that_cannot_be_had_are_warned_of_once(self, timm, caplog):
        for _ in range(2):
            build_backbone("timm:mobilenetv3_small_075", 5, 3, (32, 32))
        assert caplog.text.count("pretrained weights of timm:mobilenetv3_small_075 cannot be downloaded") == 1

    def test_pretrained_weights_come_with_their_normalisation(self, timm, monkeypatch):
        """From the cache of Hugging Face's hub, for which a checkpoint of the same network stands here."""
        made = timm.create_model("resnet10t", num_classes=5)

        def create(name, pretrained, **options):
            assert options == {"num_classes": 5, "in_chans": 3}
            return made if pretrained else None

        monkeypatch.setattr(timm, "create_model", create)
        network = build_backbone("timm:resnet10t", 5, 3, (64, 64))
        assert network is made
        assert network.input_mean == [0.485, 0.456, 0.406]

    def test_unknown_names(self, timm):
        with pytest.raises(UnknownNameError, match="network of timm 'resnet18x'; did you mean 'resnet18"):
            build_backbone("timm:resnet18x", 5, 3, (32, 32))


class TestHuggingFace:
    @pytest.fixture
    def folder(self, tmp_path):
        transformers = pytest.importorskip("transformers", reason="an extra: pip install '.[hf]'")
        config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3,
                                           architectures=["ResNetForImageClassification"])
        torch.manual_seed(0)
        network = transformers.ResNetForImageClassification(config)
        network.save_pretrained(tmp_path / "net")
        (tmp_path / "net" / "preprocessor_config.json").write_text(
            '{"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}')
        return tmp_path / "net", network

    def test_a_folder_gives_its_weights_and_normalisation(self, folder):
        path, network = folder
        found = build_backbone(f"hf:{path}", 3, 3, (32, 32)).eval()
        images = torch.randn(2, 3, 32, 32)
        assert torch.equal(found(images).logits, network.eval()(images).logits)
        assert (found.input_mean, found.input_std) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])

    def test_another_number_of_classes_draws_the_last_layer_anew(self, folder):
        path, network = folder
        found = build_backbone(f"hf:{path}", 7, 3, (32, 32)).eval()
        assert found(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 7)
        assert torch.equal(next(found.parameters()), next(network.parameters()))

    def test_a_configuration_alone_builds_the_structure(self, folder):
        path, _ = folder
        (path / "model.safetensors").unlink()
        found = build_backbone(f"hf:{path}", 3, 1, (32, 32)).eval()
        assert found(torch.zeros(1, 1, 32, 32)).logits.shape == (1, 3)

    def test_what_is_not_there(self, folder):
        with pytest.raises(ConfigError, match=r"'hf:microsoft/resnet-18' is not on this machine, and huggingface\.co"):
            build_backbone("hf:microsoft/resnet-18", 3, 3, (32, 32))
        with pytest.raises(ConfigError, match=r"no such folder '.*nowhere'"):
            build_backbone("hf:./nowhere", 3, 3, (32, 32))
        (folder[0] / "config.json").write_text("{}")
        with pytest.raises(ConfigError, match="cannot be loaded as an image classifier of transformers: "):
            build_backbone(f"hf:{folder[0]}", 3, 3, (32, 32))


@pytest.mark.parametrize(("name", "package"), [("timm:resnet18", "timm"), ("hf:x", "transformers")])
def test_packages_that_are_absent_are_named(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=f"need {package}: pip install"):
        build_backbone(name, 3, 3, (32, 32))
