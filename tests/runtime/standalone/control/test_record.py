"""A controller in a manifest: every kind comes back as it was, and what does not go together is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from autosplit.runtime.standalone.control.network import EACH, NetworkController
from autosplit.runtime.standalone.control.record import RULES, ControllerRecord, ControllerSetting
from autosplit.runtime.standalone.control.rules import DriftPlusPenalty, FairShare, Fixed, Myopic, QueueAware
from autosplit.runtime.standalone.control.view import FLEET_FEATURES, STREAM_FEATURES
from autosplit.runtime.standalone.errors import BundleError

WIDTH = 4
OF_FLEETS = len(STREAM_FEATURES) + len(FLEET_FEATURES)


def record(controller, weights="", **changes):
    kind, settings = ControllerRecord.settings_of(controller)
    made = ControllerRecord(kind, settings, weights, 100.0, 8, 1, 50.0, 20.0, 128.0, 30.0, 0.9)
    return dataclasses.replace(made, **changes)


def network(seed=0, general=OF_FLEETS):
    rng = np.random.default_rng(seed)
    sizes = {"level": (general + 2 * EACH, WIDTH, WIDTH, 1), "skip": (general + EACH, WIDTH, WIDTH, 1)}
    return NetworkController({
        name: rng.standard_normal((sizes[part][int(layer) // 2 + 1],) if kind == "bias" else (
            sizes[part][int(layer) // 2 + 1], sizes[part][int(layer) // 2])).astype(np.float32)
        for name in NetworkController.NAMES for part, layer, kind in [name.split(".")]})


@pytest.mark.parametrize("rule", [Fixed(2), Myopic(1.5, True), QueueAware(1.2, 0.3), FairShare(0.5, 2.0, True),
                                  DriftPlusPenalty(1.0, 3.0)], ids=lambda rule: type(rule).__name__)
def test_rules_come_back(rule, tmp_path):
    found = record(rule)
    assert found.fault(3, ()) == ""
    again = found.controller(tmp_path)
    assert again == rule
    assert [type(value) for value in vars(again).values()] == [type(value) for value in vars(rule).values()]
    assert set(RULES.values()) == {Fixed, Myopic, QueueAware, FairShare, DriftPlusPenalty}


def test_networks_come_back(tmp_path):
    made = network()
    made.save(tmp_path / "controller-1.npz")
    found = record(made, "controller-1.npz")
    assert found.fault(3, {"controller-1.npz": ""}) == ""
    again = found.controller(tmp_path)
    assert all(np.array_equal(again.weights[name], made.weights[name]) for name in made.weights)


def test_networks_of_streams_are_told_too_much(tmp_path):
    network(general=len(STREAM_FEATURES)).save(tmp_path / "controller-1.npz")
    with pytest.raises(BundleError, match=r"controller-1\.npz: a network for streams"):
        record(network(), "controller-1.npz").controller(tmp_path)


@pytest.mark.parametrize(("changes", "rates", "fault"), [
    ({"weights": "controller-1.npz"}, 3, "does not go with the file"),
    ({"kind": "network"}, 3, "does not go with the file"),
    ({"deadline_ms": 0.0}, 3, "must be above 0"),
    ({"uplink_kbps": float("inf")}, 3, "must be above 0"),
    ({"delays_ms": -1.0}, 3, "at least 0"),
    ({"settings": ()}, 3, "settings of the controller 'fixed' are none"),
    ({"settings": (ControllerSetting("level", 1.0),) * 2}, 3, "settings of the controller"),
    ({"settings": (ControllerSetting("margin", 1.0),)}, 3, "settings of the controller 'fixed' are margin"),
    ({}, 2, "none of the 2"), ({"settings": (ControllerSetting("level", 0.5),)}, 3, "none of the 3"),
    ({}, 0, "without rates")])
def test_what_does_not_go_together(changes, rates, fault):
    assert fault in record(Fixed(2), **changes).fault(rates, ("controller-1.npz",) if "kind" not in changes else ())


def test_other_controllers_cannot_be_held():
    with pytest.raises(TypeError, match="object is no controller"):
        ControllerRecord.settings_of(object())
