"""autosplit: deep-RL AutoML for device-edge co-inference.

    import autosplit

    result = autosplit.search("default")
    deployment = autosplit.Deployment.from_result(result)
    print(deployment.classify(["photo.png"]))

The names below are loaded when they are first used, so that `import autosplit` takes no time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autosplit.core.version import __version__

if TYPE_CHECKING:
    from autosplit.core.conditions import Conditions
    from autosplit.core.errors import AutosplitError
    from autosplit.core.measurement import LatencySummary, Measurement, Outcome, Workload
    from autosplit.core.plan import Plan
    from autosplit.core.result import Result
    from autosplit.core.scenario import Scenario, load_scenario
    from autosplit.latency import LatencyBreakdown, LatencyModel, load_latency_model
    from autosplit.pipeline.given import dry_run, search
    from autosplit.pipeline.replay import replay
    from autosplit.runtime.deployment import Deployment
else:
    _MODULES = {
        "pipeline.given": ("dry_run", "search"),
        "core.errors": ("AutosplitError",),
        "latency": ("LatencyBreakdown", "LatencyModel", "load_latency_model"),
        "core.measurement": ("LatencySummary", "Measurement", "Outcome", "Workload"),
        "core.plan": ("Plan",),
        "core.result": ("Result",),
        "runtime.deployment": ("Deployment",),
        "pipeline.replay": ("replay",),
        "core.conditions": ("Conditions",),
        "core.scenario": ("Scenario", "load_scenario"),
    }
    _WHERE = {name: f"autosplit.{module}" for module, names in _MODULES.items() for name in names}

    # within `else`, or a type checker would believe in every attribute
    def __getattr__(name: str) -> object:
        """Load what is asked for (PEP 562)."""
        if name not in _WHERE:
            raise AttributeError(f"module 'autosplit' has no attribute {name!r}")
        import importlib

        importlib.import_module("autosplit.report.notebook")  # how results show themselves in notebooks
        found = globals()[name] = getattr(importlib.import_module(_WHERE[name]), name)
        return found

    def __dir__() -> list[str]:
        """All names, for completion."""
        return sorted({*globals(), *__all__})

__all__ = ["AutosplitError", "Conditions", "Deployment", "LatencyBreakdown", "LatencyModel", "LatencySummary",
           "Measurement", "Outcome", "Plan", "Result", "Scenario", "Workload", "__version__", "dry_run",
           "load_latency_model", "load_scenario", "replay", "search"]
