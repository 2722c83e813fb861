from __future__ import annotations

from pathlib import Path

import pytest

from autosplit.core.errors import PluginError
from autosplit.latency import load_latency_model
from autosplit.testing import LatencyModelContract, make_conditions, make_workload

EXAMPLE = f"{Path(__file__).parents[2] / 'examples' / 'latency_plugin.py'}:TableLatency"


class TestExample(LatencyModelContract):
    @pytest.fixture
    def model(self):
        return load_latency_model(EXAMPLE).model


def test_it_loads_from_its_path_and_reads_its_table():
    answer = load_latency_model(EXAMPLE).latency([make_workload("layer1", 100)], [make_conditions("lora-sf7")])
    assert answer.device_ms.item() == 98.0
    assert answer.uplink_ms.item() == pytest.approx(800 / 5.47)


def test_a_split_point_without_a_row_names_plugin_and_plan():
    known, unknown = make_workload("layer1"), make_workload("layer9")
    with pytest.raises(PluginError, match=r"latency_plugin\.py:TableLatency' on plan 'layer9 .* raised KeyError"):
        load_latency_model(EXAMPLE).latency([known, unknown], [make_conditions()])
