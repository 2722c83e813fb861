"""Measurements kept across searches: a measurement does not depend on link or budget, so it is taken once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from autosplit.core.hashing import content_hash
from autosplit.core.plan import Measurement, Plan, Workload
from autosplit.core.space import PlanSpace
from autosplit.evaluation.base import Evaluator, layerwise

if TYPE_CHECKING:
    from autosplit.models.head_costs import HeadCost
    from autosplit.training.prepare import Networks

__all__ = ["StoredEvaluator", "measurement_file"]

_log = logging.getLogger(__name__)
_MEASURING = 3  # raised when F1 measuring changes, so that older stored measurements are not taken for new ones


def measurement_file(prepared: Networks) -> Path:
    """Where measurements of these networks with these settings are kept, in the cache."""
    settings = prepared.scenario.search
    key = content_hash({"recipe": _MEASURING, "supernet": prepared.supernet_key,
                        "validation": settings.validation_images, "recalibration": settings.recalibration_images})
    return prepared.cache.root / "measurements" / f"{key}.jsonl"


class StoredEvaluator:
    """Wraps an evaluator with a file of what it measured before.

    Args:
        inner: Measures what the file does not hold.
        path: JSON lines, one measurement each; named by the content hash of whatever determines a measurement.
    """

    def __init__(self, inner: Evaluator, path: Path) -> None:
        self._inner, self._path = inner, path
        self._known = {m.plan: m for m in _read(path)}

    @property
    def space(self) -> PlanSpace:
        """The plans that can be measured."""
        return self._inner.space

    def head(self, split: str) -> HeadCost:
        """The head at a split point, as the inner evaluator has it.

        Raises:
            ConfigError: The inner evaluator measures no plans that are pruned layer by layer.
        """
        return layerwise(self._inner).head(split)

    def workloads(self, plans: Sequence[Plan]) -> list[Workload]:
        """Predicted work and payload, as the inner evaluator has them."""
        return self._inner.workloads(plans)

    def unmeasured(self, plans: Sequence[Plan]) -> list[Plan]:
        """Those of the plans that `measure` would have to measure."""
        return [plan for plan in plans if plan not in self._known]

    def measure(self, plans: Sequence[Plan]) -> list[Measurement]:
        """Measure plans, in order; each new measurement is on disk before the next is taken."""
        for plan in plans:
            if plan not in self._known:
                self._known[plan] = self._inner.measure([plan])[0]
                self._append(self._known[plan])
        return [self._known[plan] for plan in plans]

    def _append(self, measurement: Measurement) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                # a line of its own, whatever a killed process left at the end of the file
                file.write(f"\n{measurement.model_dump_json()}\n")
        except OSError as e:  # a cache that cannot be written costs time, not results
            _log.warning("measurements are not kept for later searches: %s", e)


def _read(path: Path) -> list[Measurement]:
    if not path.is_file():
        return []
    found = []
    for line in filter(None, path.read_text(encoding="utf-8", errors="replace").splitlines()):
        try:
            found.append(Measurement.model_validate_json(line))
        except ValidationError:  # half a line of a process that was killed
            _log.warning("%s: a damaged line is skipped", path)
    return found
