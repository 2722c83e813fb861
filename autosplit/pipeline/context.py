"""`Workshop`: the networks of a scenario with what measures (F1) and what fine-tunes (F3) their plans."""

from __future__ import annotations

from autosplit.core.hashing import content_hash
from autosplit.core.progress import NullProgress, PhaseReporter
from autosplit.core.scenario import Scenario
from autosplit.evaluation.live import LiveEvaluator
from autosplit.evaluation.memo import MemoEvaluator
from autosplit.evaluation.store import StoredEvaluator, measurement_file
from autosplit.pipeline.finalists import Finalists
from autosplit.training.prepare import Networks

__all__ = ["Workshop", "networks_key"]


def networks_key(scenario: Scenario) -> str:
    """Hash of what determines networks and measurements: scenarios that differ in conditions alone have the same."""
    search = scenario.search
    parts = scenario.model_dump(mode="json", exclude={"name", "conditions", "latency_model", "objective", "search"})
    if search.granularity != "uniform":
        parts["granularity"] = search.granularity
    return content_hash({**parts, "seed": search.seed, "validation": search.validation_images,
                         "recalibration": search.recalibration_images})


class Workshop:
    """What scenarios with the same networks share, so that nothing is measured or fine-tuned twice.

    Args:
        prepared: Data, backbone and supernet.
        progress: Shows the phases.
        reuse: Whether measurements and fine-tuned plans of earlier searches may be taken from the cache.

    Attributes:
        prepared: Data, backbone and supernet.
        evaluator: Measures plans at F1.
    """

    def __init__(self, prepared: Networks, progress: PhaseReporter | None = None, reuse: bool = True) -> None:
        live = LiveEvaluator(prepared)
        self.networks = prepared
        self.evaluator = StoredEvaluator(live, measurement_file(prepared)) if reuse else MemoEvaluator(live)
        self._progress, self._reuse = progress or NullProgress(), reuse
        self._finalists: dict[str, Finalists] = {}

    def finalists(self, arithmetic: str) -> Finalists:
        """What fine-tunes plans for devices of one number format."""
        if arithmetic not in self._finalists:
            self._finalists[arithmetic] = Finalists(self.networks, arithmetic, self._progress, self._reuse)
        return self._finalists[arithmetic]
