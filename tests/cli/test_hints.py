"""Near misses on the command line: the message names the option or the spelling that was probably meant."""

from __future__ import annotations

import pytest

from autosplit.core.errors import ConfigError, UnknownNameError, nearest_name
from autosplit.core.profiles import ChannelProfile, DeviceProfile, load_profile
from autosplit.core.scenario import load_scenario
from autosplit.data import load_dataset
from autosplit.models.loading import build_backbone

NETWORKS = ("resnet8", "resnet20", "resnet56", "efficientnet-lite0", "resnet18-32")
AGENTS = ("ppo", "policy", "random", "exhaustive", "gp", "tpe", "cmaes", "ddpg")


@pytest.mark.parametrize(("asked", "known", "meant"), [
    ("pppo", AGENTS, "ppo"), ("rando", AGENTS, "random"), ("dppg", AGENTS, "ddpg"), ("PPO", AGENTS, "ppo"),
    ("resnet9", NETWORKS, "resnet8"), ("efficientnet_lite0", NETWORKS, "efficientnet-lite0"),
    ("digits", ("cifar10", "digits-m"), "digits-m"), ("mnist", ("digits-m", "fashion-mnist"), "fashion-mnist"),
    ("raspberry", ("jetson-nano", "raspberry-pi-4"), "raspberry-pi-4"), ("splt", ("splits", "widths"), "splits"),
    # nothing is better than nonsense
    ("abacus", ("jetson-nano", "stm32l4r5"), None), ("pigeon", ("lte", "wifi4"), None), ("sac", AGENTS, None),
    ("imagenet", ("caltech101", "image-folder:PATH"), None), ("./photos", ("digits-m",), None), ("", AGENTS, None),
    ("none", (), None), ("fog", ("awgn", "erasure"), None),
])
def test_a_name_is_suggested_only_if_it_is_near(asked, known, meant):
    assert nearest_name(asked, known) == meant
    assert ("did you mean" in str(UnknownNameError("thing", asked, known))) == (meant is not None)


def test_of_many_names_a_few_are_shown():
    line = str(UnknownNameError("network", "net7", [f"net{i}" for i in range(100, 200)]))
    assert line.count("net1") <= 7
    assert line.endswith("and 94 more)")


def message(function, *args, **kwargs):
    with pytest.raises(ConfigError) as raised:
        function(*args, **kwargs)
    assert len(str(raised.value)) <= 500
    return str(raised.value)


def test_a_folder_as_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert "a folder of images is called image-folder:photos" in message(load_dataset, "photos")
    assert "a folder of images is called image-folder:./gone" in message(load_dataset, "./gone")
    assert "image-folder:photos" in message(load_dataset, "photos", root=tmp_path)
    assert "a folder" not in message(load_dataset, "fashion")


def test_a_file_as_backbone(tmp_path):
    file = tmp_path / "net.py"
    file.write_text("import torch\n\ndef _own(): ...\n\ndef network(num_classes): ...\n")
    assert f"say which object of the file, as in '{file}:network'" in message(build_backbone, str(file), 3, 3)
    file.write_text("")
    assert f"as in '{file}:Name'" in message(build_backbone, str(file), 3, 3)


@pytest.mark.parametrize(("asked", "meant"), [
    ("mobilenet_v2", "torchvision:mobilenet_v2"), ("mobilenet-v2", "torchvision:mobilenet_v2"),
    ("resnet18", "torchvision:resnet18"), ("squeezenet", "torchvision:squeezenet1_"),
])
def test_a_network_of_torchvision(asked, meant):
    assert f"torchvision's network is called '{meant}" in message(build_backbone, asked, 3, 3)


def test_weights_as_a_pickle(tmp_path):
    import torch
    from torch import nn

    from autosplit.models.weights import load_weights

    file = tmp_path / "weights.pth"
    torch.save(nn.Linear(1, 1), file)
    line = message(load_weights, nn.Linear(1, 1), file)
    assert f"c = torch.load('{file}', weights_only=False)" in line
    assert f"'{tmp_path / 'weights-weights.pth'}')" in line


def test_a_channel_as_device_and_the_other_way():
    assert "it is a channel, not a device: give it with --channel" in message(load_profile, DeviceProfile, "ble-1m")
    assert "it is a device, not a channel: give it with --device" in message(load_profile, ChannelProfile, "stm32l4r5")


def test_a_file_without_its_suffix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("")
    assert "did you mean the file mine.yaml?" in message(load_profile, DeviceProfile, "mine")
    assert "did you mean the file mine.yaml?" in message(load_scenario, "mine")


def test_a_run_or_a_packaged_name_as_scenario_file(tmp_path):
    (tmp_path / "scenario.yaml").write_text("")
    assert f"did you mean the file {tmp_path / 'scenario.yaml'}?" in message(load_scenario, str(tmp_path))
    assert "the packaged scenario is called 'default'" in message(load_scenario, "default.yaml")
