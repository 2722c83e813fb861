"""Training curves for TensorBoard: there where it is installed, and of no consequence where it is not."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from autosplit.training.backbone import train_backbone
from autosplit.training.loop import steps_per_epoch
from autosplit.training.scalars import TENSORBOARD_FOLDER, log_scalar, tensorboard_logs
from tests.tiny import tiny_dataset, tiny_network, tiny_settings


@pytest.fixture(scope="module")
def data():
    return tiny_dataset()


def curves(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def trained(data):
    network = tiny_network()
    train_backbone(network, data, tiny_settings(), 0)
    return network.state_dict()


def test_the_loss_of_each_step_and_the_same_weights(data, tmp_path):
    plain = trained(data)
    with tensorboard_logs(tmp_path / "logs"):
        logged = trained(data)
    (tag, values), = curves(tmp_path / "logs").items()
    assert tag == "backbone/loss"
    assert [step for step, _ in values] == list(range(4 * steps_per_epoch(data, 32)))
    assert values[-1][1] < 0.5 * values[0][1]
    assert all(torch.equal(value, logged[name]) for name, value in plain.items())


def test_nothing_is_written_outside_of_a_block_or_without_a_value(tmp_path):
    log_scalar("lost", 1.0, 0)
    with tensorboard_logs(tmp_path / "logs"):
        pass
    log_scalar("lost", 1.0, 0)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_without_the_package(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "tensorboard"
                        else find(name, *more))
    with tensorboard_logs(tmp_path / "logs"):
        log_scalar("lost", 1.0, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_search_keeps_all_its_curves(world):
    found = curves(world.run / TENSORBOARD_FOLDER)
    assert {"backbone/loss", "supernet/loss", "fine-tune finalist 1/loss", "fine-tune finalist 1/validation accuracy",
            "policy/loss"} <= set(found)
    steps = [step for step, _ in found["policy/loss"]]
    assert len(steps) > 1
    assert steps == sorted(set(steps))
