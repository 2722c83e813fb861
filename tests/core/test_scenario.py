"""Scenarios: round trips, and one line that names the culprit for whatever makes no sense."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

from autosplit.core.errors import ConfigError, UnknownNameError
from autosplit.core.hashing import content_hash
from autosplit.core.profiles import DeviceProfile, load_profile
from autosplit.core.scenario import ADDED_KEYS, Scenario, list_scenarios, load_scenario, path_in

DEFAULT = load_scenario()


@pytest.mark.parametrize("name", list_scenarios())
def test_yaml_round_trip(name):
    scenario = load_scenario(name).replace(conditions__budget_ms=33.5, space__splits=("layer1", "layer2"))
    again = Scenario.from_yaml(scenario.to_yaml())
    assert again == scenario
    assert again.fingerprint == scenario.fingerprint
    assert again.fingerprint != load_scenario(name).fingerprint


def test_keys_that_came_later_leave_fingerprints_as_they_were():
    plain = load_scenario("digits-m")
    before = plain.model_dump(mode="json")
    for key in ADDED_KEYS:
        part, name = key.split(".")
        assert before[part].pop(name) == ADDED_KEYS[key]
    assert plain.fingerprint == content_hash(before)
    layered = DEFAULT.replace(**{"search.granularity": "layer"})
    assert len({DEFAULT.fingerprint, layered.fingerprint, layered.replace(training__layer_profiles=0).fingerprint}) == 3


def test_profiles_may_be_names_files_or_written_out(tmp_path):
    own = load_profile(DeviceProfile, "stm32h7a3").model_dump(mode="json") | {"name": "mine"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(own))
    by_file = DEFAULT.replace(conditions__device=str(tmp_path / "mine.yaml"))
    assert by_file.conditions.device.name == "mine"
    assert DEFAULT.replace(conditions__device=own) == by_file
    by_name = DEFAULT.replace(conditions__device="stm32h7a3")
    assert by_name.conditions.device.conv_mmacs == by_file.conditions.device.conv_mmacs


def test_replace_reaches_into_profiles_and_leaves_the_original_alone():
    changed = DEFAULT.replace(**{"conditions.channel.uplink_kbps.value": 7.0, "search.seed": 3})
    assert changed.conditions.channel.uplink_kbps.value == 7.0
    assert changed.search.seed == 3
    assert load_scenario() == DEFAULT
    assert changed.conditions.device == DEFAULT.conditions.device


def test_replace_sets_optional_keys_of_a_channel():
    tail = {"value": 20, "source": "test"}
    changed = DEFAULT.replace(**{"conditions.channel.tail_ms": tail, "conditions.channel.tail_mw": tail})
    assert changed.conditions.channel.tail_ms.value == 20
    assert Scenario.from_yaml(changed.to_yaml()) == changed
    assert DEFAULT.replace(**{"conditions.channel.tail_ms": None}) == DEFAULT
    faded = DEFAULT.replace(conditions__channel="lte-pedestrian")
    assert Scenario.from_yaml(faded.to_yaml()) == faded
    with pytest.raises(ConfigError, match="uplink_kbps is 7, but the figures of shannon"):
        faded.replace(**{"conditions.channel.uplink_kbps.value": 7.0})


@pytest.mark.parametrize(("text", "culprit"), [
    ("backbone: [", "not valid YAML"),
    ("- backbone", "top level"),
    ("", "top level"),
    ("backbone: a\ndataset: b\nconditions: {device: stm32l4r5, edge: edge-cpu, channel: 3g}", "conditions.budget_ms"),
])
def test_malformed_yaml(text, culprit):
    with pytest.raises(ConfigError, match=f"^mine.yaml: .*{culprit}") as caught:
        Scenario.from_yaml(text, "mine.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("where", "key"), [((), "bckbone"), (("search",), "evalutions"), (("conditions",), "budget")])
def test_unknown_keys_are_refused(where, key):
    data = yaml.safe_load(DEFAULT.to_yaml())
    node = data
    for part in where:
        node = node[part]
    node[key] = 1
    with pytest.raises(ConfigError, match=".".join([*where, key])):
        Scenario.from_yaml(yaml.safe_dump(data))


@pytest.mark.parametrize("budget", [0, -1, math.nan, math.inf, -math.inf, "soon", None])
def test_budgets_that_make_no_sense(budget):
    with pytest.raises(ConfigError, match=r"^conditions\.budget_ms: "):
        DEFAULT.replace(conditions__budget_ms=budget)


@pytest.mark.parametrize(("changes", "message"), [
    ({"conditions.bugdet_ms": 1}, "in 'conditions.bugdet_ms': 'bugdet_ms'; did you mean 'budget_ms'"),
    ({"serach.seed": 1}, "'serach'; did you mean 'search'"),
    ({"backbone.width": 1}, "backbone.width: there is nothing below 'backbone'"),
    ({"search.seed.high": 1}, "search.seed.high: there is nothing below 'search.seed'"),
    ({"": 1}, "unknown key"),
    ({"search": 5}, "^search: "),
    ({"search.seed": -1}, "^search.seed: "),
    ({"search.seed": 1.5}, "^search.seed: "),
    ({"search.evaluations": 0}, "^search.evaluations: "),
    ({"space.bits": (8, 2)}, r"^space.bits: must be ascending and without repetition, got \[8, 2\]$"),
    ({"space.bits": ()}, "^space.bits: "),
    ({"space.sparsities": (0.0, 1.0)}, "^space.sparsities.1: "),
    ({"space.splits": "blokcs"}, "^space.splits"),
    ({"image_size": 2}, "^image_size: "),
    ({"name": "a/b"}, "^name: "),
])
def test_wrong_changes_are_one_line_that_names_the_key(changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        DEFAULT.replace(**changes)
    assert "\n" not in str(caught.value)
    assert "Value error" not in str(caught.value)


@pytest.mark.parametrize(("key", "name", "near"), [
    ("device", "stm32l4r4", "stm32l4r5"), ("edge", "edge-cpus", "edge-cpu"), ("channel", "wifi", "wifi4"),
])
def test_unknown_profiles_name_the_nearest(key, name, near):
    with pytest.raises(ConfigError, match=f"^conditions.{key}: unknown .* '{name}'; did you mean '{near}'"):
        DEFAULT.replace(**{f"conditions.{key}": name})


def test_profile_files_that_are_wrong(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.yaml'?: no such file"):
        DEFAULT.replace(conditions__device=str(tmp_path / "gone.yaml"))
    (tmp_path / "bad.yaml").write_text("name: x\nspeed: 3\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml: "):
        DEFAULT.replace(conditions__channel=str(tmp_path / "bad.yaml"))


def test_scenarios_by_name_and_file(tmp_path):
    with pytest.raises(UnknownNameError, match="unknown scenario 'defualt'; did you mean 'default'"):
        load_scenario("defualt")
    with pytest.raises(ConfigError, match=r"gone\.yaml': no such file"):
        load_scenario(str(tmp_path / "gone.yaml"))
    (tmp_path / "mine.yaml").write_text(DEFAULT.to_yaml())
    assert load_scenario(str(tmp_path / "mine.yaml")) == DEFAULT
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.yaml"):
        load_scenario(str(tmp_path / "binary.yaml"))


PARTS = [("device", "conv_mmacs"), ("edge", "idle_mw"), ("channel", "uplink_kbps")]


@pytest.mark.parametrize(("part", "figure"), PARTS)
def test_a_profile_may_be_named_and_one_of_its_figures_changed_together(part, figure):
    name = {"channel": "wifi4"}.get(part, "raspberry-pi-4")
    changes = {f"conditions.{part}.{figure}.value": 7, f"conditions.{part}": name}  # in any order
    for together in (changes, dict(reversed(changes.items()))):
        profile = getattr(load_scenario().replace(**together).conditions, part)
        assert profile.name == name
        assert getattr(profile, figure).value == 7


def test_a_figure_of_a_profile_that_is_not_there():
    with pytest.raises(UnknownNameError, match="did you mean 'wifi4'"):
        load_scenario().replace(**{"conditions.channel": "wifi5", "conditions.channel.uplink_kbps.value": 7})


@pytest.mark.parametrize(("name", "found"), [
    ("image-folder:a/photos", ("image-folder:", Path("a/photos"))),
    ("image-csv:/t.csv", ("image-csv:", Path("/t.csv"))),
    ("hf:/data/birds", ("hf:", Path("/data/birds"))), ("hf:owner/birds", None), ("hf:birds", None),
    ("torchvision:MNIST", None), ("image-folder:", None), ("digits-m", None), ("mine.py:pictures", None),
])
def test_the_path_in_a_name(name, found):
    """What follows `hf:` is a name of the hub, unless it is absolute."""
    assert path_in(name) == found
