"""Contract tests for authors of plugins: subclass one, give one fixture, run pytest.

`LatencyModelContract` is for latency models, `CodecContract` for codecs, `AgentContract` for agents, `DatasetContract`
for data sets, `ObjectiveContract` for objectives; `make_plan`,
`make_workload` and `make_conditions` build what a latency model is asked about, `AgentCase` a small search.
"""

from __future__ import annotations

try:
    import pytest  # noqa: F401
except ModuleNotFoundError as e:
    raise ModuleNotFoundError("autosplit.testing needs pytest: pip install pytest") from e

from autosplit.testing.agents import AgentCase, AgentContract
from autosplit.testing.codecs import CodecCase, CodecContract
from autosplit.testing.data import DatasetContract
from autosplit.testing.latency import LatencyModelContract, make_conditions, make_plan, make_workload
from autosplit.testing.objectives import ObjectiveContract

__all__ = ["AgentCase", "AgentContract", "CodecCase", "CodecContract", "DatasetContract", "LatencyModelContract",
           "ObjectiveContract", "make_conditions", "make_plan", "make_workload"]
