"""autosplit: deep-RL AutoML for device-edge co-inference.

    import autosplit

    result = autosplit.search("default")
    deployment = result.deployment()
    print(deployment.classify(["photo.png"]))

The names below are loaded when they are first used, so that `import autosplit` takes no time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autosplit.api import search
    from autosplit.errors import AutosplitError
    from autosplit.latency import LatencyBreakdown, LatencyModel, load_latency_model
    from autosplit.plan import LatencySummary, Measurement, Outcome, Plan, Workload
    from autosplit.results import Result
    from autosplit.runtime.deployment import Deployment
    from autosplit.runtime.replay import replay
    from autosplit.scenario import Conditions, Scenario, load_scenario
else:
    _MODULES = {
        "api": ("search",),
        "errors": ("AutosplitError",),
        "latency": ("LatencyBreakdown", "LatencyModel", "load_latency_model"),
        "plan": ("LatencySummary", "Measurement", "Outcome", "Plan", "Workload"),
        "results": ("Result",),
        "runtime.deployment": ("Deployment",),
        "runtime.replay": ("replay",),
        "scenario": ("Conditions", "Scenario", "load_scenario"),
    }
    _WHERE = {name: f"autosplit.{module}" for module, names in _MODULES.items() for name in names}

    # within `else`, or a type checker would believe in every attribute
    def __getattr__(name: str) -> object:
        """Load what is asked for (PEP 562)."""
        if name not in _WHERE:
            raise AttributeError(f"module 'autosplit' has no attribute {name!r}")
        import importlib

        found = globals()[name] = getattr(importlib.import_module(_WHERE[name]), name)
        return found

    def __dir__() -> list[str]:
        """All names, for completion."""
        return sorted({*globals(), *__all__})

__version__ = "0.1.0"
__all__ = ["AutosplitError", "Conditions", "Deployment", "LatencyBreakdown", "LatencyModel", "LatencySummary",
           "Measurement", "Outcome", "Plan", "Result", "Scenario", "Workload", "__version__", "load_latency_model",
           "load_scenario", "replay", "search"]
