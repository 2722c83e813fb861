"""Weights load whatever was wrapped around the network, or the file is refused by the names of its tensors."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from autosplit.core.errors import ConfigError
from autosplit.models.weights import load_weights
from autosplit.models.zoo import resnet8


def one_line(caught):
    assert "\n" not in str(caught.value)


@pytest.fixture
def trained():
    torch.manual_seed(1)
    return resnet8()


def loaded(path, network=None):
    torch.manual_seed(2)
    network = network or resnet8()
    load_weights(network, path)
    return network.state_dict()


def equal(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


class TestWeights:
    def test_round_trip(self, tmp_path):
        torch.manual_seed(1)
        source, target = resnet8(), resnet8()
        save_file(source.state_dict(), tmp_path / "w.safetensors")
        load_weights(target, tmp_path / "w.safetensors")
        assert all(torch.equal(v, target.state_dict()[k]) for k, v in source.state_dict().items())

    @pytest.mark.parametrize(("change", "message"), [
        (lambda s: s.pop("fc.bias"), "missing: fc.bias;"),
        (lambda s: s.update({"fc.weight": torch.zeros(3, 64)}),
         r"of another shape: fc.weight \(3, 64\) instead of \(10, 64\);"),
        (lambda s: [s.pop(k) for k in list(s) if k.startswith("layer1")], "missing: .* and 7 more;"),
    ])
    def test_misfit_names_the_keys_and_changes_nothing(self, tmp_path, change, message):
        network = resnet8()
        before = network.stem[0].weight.clone()
        state = resnet8().state_dict()
        change(state)
        save_file(state, tmp_path / "w.safetensors")
        with pytest.raises(ConfigError, match=message) as caught:
            load_weights(network, tmp_path / "w.safetensors")
        one_line(caught)
        assert torch.equal(network.stem[0].weight, before)

    @pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.bin", "w.safetensors"])
    @pytest.mark.parametrize("zipped", [True, False])
    def test_files_of_torch_save(self, tmp_path, trained, name, zipped):
        torch.save(trained.state_dict(), tmp_path / name, _use_new_zipfile_serialization=zipped)
        assert equal(loaded(tmp_path / name), trained.state_dict())

    def test_a_pickle_that_could_run_code_is_refused_with_the_remedy(self, tmp_path, trained):
        torch.save(trained, tmp_path / "w.pth")
        with pytest.raises(ConfigError, match=r"can run code when loaded; convert.*weights_only=False") as caught:
            load_weights(resnet8(), tmp_path / "w.pth")
        one_line(caught)

    @pytest.mark.parametrize("content", [b"PK\x03\x04 and so on", b"\x80\x04 and so on"])
    def test_a_damaged_pickle(self, tmp_path, content):
        (tmp_path / "w.pth").write_bytes(content)
        with pytest.raises(ConfigError, match=r"w\.pth'"):
            load_weights(resnet8(), tmp_path / "w.pth")

    @pytest.mark.parametrize("content", [b"", b"not a file of tensors", None])
    def test_damaged_or_absent(self, tmp_path, content):
        if content is not None:
            (tmp_path / "w.safetensors").write_bytes(content)
        with pytest.raises(ConfigError, match=r"w\.safetensors': cannot be read|no such file") as caught:
            load_weights(resnet8(), tmp_path / "w.safetensors")
        one_line(caught)


def test_a_header_length_that_begins_like_a_pickle_is_no_pickle(tmp_path):
    path = tmp_path / "weights.safetensors"
    for padding in range(256):  # the header's length modulo 256 becomes 0x80
        save_file({"w": torch.ones(1)}, path, {"note": "x" * padding})
        if path.read_bytes()[:1] == b"\x80":
            break
    assert path.read_bytes()[:1] == b"\x80"
    with pytest.raises(ConfigError, match="do not fit"):
        load_weights(nn.Linear(1, 1), path)


WRAPPED = {
    "DataParallel": lambda s: {f"module.{k}": v for k, v in s.items()},
    "compiled": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "both": lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
    "Lightning": lambda s: {**{f"model.{k}": v for k, v in s.items()}, "criterion.weight": torch.ones(3)},
    "half": lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
    "bfloat16": lambda s: {k: v.bfloat16() if v.is_floating_point() else v for k, v in s.items()},
    "double": lambda s: {k: v.double() if v.is_floating_point() else v for k, v in s.items()},
    "without counters": lambda s: {k: v for k, v in s.items() if "num_batches" not in k},
    "more": lambda s: {**s, "more": torch.zeros(1)},
}

CHECKPOINTS = {
    "state_dict": lambda s: {"epoch": 3, "state_dict": s},
    "model and optimiser": lambda s: {"model": s, "optimizer": {"state": {0: {"m": torch.zeros(3)}}}},
    "under a name of its own": lambda s: {"my_net": {f"module.{k}": v for k, v in s.items()}, "lr": 0.1},
    "twice": lambda s: {"checkpoint": {"state_dict": s}},
    "averaged beside it": lambda s: {"model": s, "ema": {k: v * 0 for k, v in s.items()}},
}


class TestWrapped:
    @pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
    def test_all_that_has_the_tensors_loads(self, tmp_path, trained, wrap):
        save_file(wrap(trained.state_dict()), tmp_path / "w.safetensors")
        found = loaded(tmp_path / "w.safetensors")
        assert {v.dtype for v in found.values()} == {torch.float32, torch.int64}
        for name, value in trained.state_dict().items():
            assert torch.allclose(found[name].float(), value.float(), atol=5e-3), name

    @pytest.mark.parametrize("wrap", CHECKPOINTS.values(), ids=CHECKPOINTS)
    def test_checkpoints_are_looked_into(self, tmp_path, trained, wrap):
        torch.save(wrap(trained.state_dict()), tmp_path / "c.ckpt")
        assert equal(loaded(tmp_path / "c.ckpt"), trained.state_dict())

    def test_a_network_that_is_wrapped_takes_the_weights_of_what_it_wraps(self, tmp_path, trained):
        class Wrapper(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = resnet8()

        save_file(trained.state_dict(), tmp_path / "w.safetensors")
        found = loaded(tmp_path / "w.safetensors", Wrapper())
        assert equal({f"net.{k}": v for k, v in trained.state_dict().items()}, found)

    def test_what_is_left_out_is_said(self, tmp_path, trained, caplog):
        save_file(WRAPPED["Lightning"](trained.state_dict()), tmp_path / "w.safetensors")
        loaded(tmp_path / "w.safetensors")
        assert "hold more than the network: criterion.weight; left out" in caplog.text

    def test_weights_that_two_layers_share_are_stored_once(self, tmp_path):
        def tied():
            network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
            network[2].weight = network[0].weight
            return network

        source, target = tied(), tied()
        state = source.state_dict()
        del state["2.weight"]
        save_file(state, tmp_path / "w.safetensors")
        load_weights(target, tmp_path / "w.safetensors")
        assert torch.equal(target[2].weight, source[0].weight)

    @pytest.mark.parametrize("save", [save_file, torch.save])
    def test_nan_is_named(self, tmp_path, trained, save):
        state = copy.deepcopy(trained.state_dict())
        state["layer2.0.bn1.running_var"][3] = float("nan")
        save(state, tmp_path / "w.safetensors")
        with pytest.raises(ConfigError, match=r"layer2\.0\.bn1\.running_var") as caught:
            load_weights(resnet8(), tmp_path / "w.safetensors")
        one_line(caught)

    def test_no_tensors(self, tmp_path):
        torch.save([1, 2], tmp_path / "w.pth")
        with pytest.raises(ConfigError, match=r"hold no tensors by name, but a list; save `model\.state_dict\(\)`"):
            load_weights(resnet8(), tmp_path / "w.pth")
