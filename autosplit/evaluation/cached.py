"""`CachedEvaluator`: never measures a plan twice, within a search or across searches."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from autosplit.core.hashing import content_hash, read_sealed, sealed, source_hash
from autosplit.core.measurement import Measurement, Workload
from autosplit.core.plan import Plan
from autosplit.core.records import append_record
from autosplit.core.space import PlanSpace
from autosplit.evaluation.base import Evaluator, layerwise

if TYPE_CHECKING:
    from autosplit.models.head_costs import HeadCost
    from autosplit.training.prepare import Networks

__all__ = ["CachedEvaluator", "measurement_file"]

_log = logging.getLogger(__name__)
_CODE = ("core/plan.py", "core/measurement.py", "core/operators.py", "core/space.py", "data", "models",
         "compression", "training", "evaluation", "runtime/standalone/payload")
"""What measures: the counting of work, the images, the networks, the codecs, and the evaluators themselves."""


def measurement_file(networks: Networks) -> Path:
    """Where measurements of these networks with these settings are kept, in the cache.

    Link and deadline are not part of its name: a measurement does not depend on them. The code that counts and measures
    is, and the arithmetic of the accelerator.
    """
    settings = networks.scenario.search
    key = content_hash({"code": source_hash(*_CODE), "arithmetic": networks.data.accelerator.arithmetic,
                        "supernet": networks.supernet_key,
                        "coded": networks.coded_key, "exits": networks.scenario.space.classifier_exits,
                        "validation": settings.validation_images, "recalibration": settings.recalibration_images})
    return networks.cache.root / "measurements" / f"{key}.jsonl"


class CachedEvaluator:
    """Wraps an evaluator with what was measured before.

    A resumed search is the same search over a `CachedEvaluator` that knows the ledger's measurements: the agent runs
    through the same proposals and is answered from the cache until it comes to a plan that nobody measured.

    Args:
        inner: Measures what is not known yet.
        known: Measurements of an earlier run.
        file: JSON lines, one measurement each, that outlive this object; nothing is kept where left out.
    """

    def __init__(self, inner: Evaluator, known: Iterable[Measurement] = (), file: Path | None = None) -> None:
        self._inner, self._file, self._given = inner, file, tuple(known)

    @cached_property
    def _known(self) -> dict[Plan, Measurement]:
        """Read when it is asked for: a context that fine-tunes alone has no use for it."""
        return {m.plan: m for m in (*_read(self._file), *self._given)}

    @property
    def space(self) -> PlanSpace:
        """The plans that can be measured."""
        return self._inner.space

    @property
    def measurements(self) -> list[Measurement]:
        """Everything known, the given ones first, then in the order of measuring."""
        return list(self._known.values())

    def head(self, split: str) -> HeadCost:
        """The head at a split point, as the inner evaluator has it.

        Raises:
            ConfigError: The inner evaluator measures no plans that are pruned layer by layer.
        """
        return layerwise(self._inner).head(split)

    def workloads(self, plans: Sequence[Plan]) -> list[Workload]:
        """Predicted work and payload, as the inner evaluator has them; what was measured does not change them."""
        return self._inner.workloads(plans)

    def unmeasured(self, plans: Sequence[Plan]) -> list[Plan]:
        """Those of the plans that `measure` would have to measure, each once."""
        return [plan for plan in dict.fromkeys(plans) if plan not in self._known]

    def measure(self, plans: Sequence[Plan]) -> Iterator[Measurement]:
        """Measure plans, in order, each at most once in the life of this object.

        Whatever is new goes to the inner evaluator in one call, so that it can spread a batch over workers; each
        measurement is in the file before the next is asked for.
        """
        new = iter(self._inner.measure(missing)) if (missing := self.unmeasured(plans)) else iter(())
        for plan in plans:
            if plan not in self._known:
                found = self._known[plan] = next(new)
                self._keep(found)
            yield self._known[plan]

    def _keep(self, measurement: Measurement) -> None:
        if self._file is None:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            # a line of its own, whatever a killed process left at the end of the file
            append_record(self._file, "\n" + sealed(measurement.model_dump(mode="json")))
        except OSError as e:  # a cache that cannot be written costs time, not results
            _log.warning("measurements are not kept for later searches: %s", e)


def _read(path: Path | None) -> list[Measurement]:
    if path is None or not path.is_file():
        return []
    found = []
    for line in filter(None, path.read_text(encoding="utf-8", errors="replace").splitlines()):
        try:
            found.append(Measurement.model_validate(read_sealed(line)))
        except (ValueError, RecursionError):  # altered, or half a line of a process that was killed
            _log.warning("%s: a damaged line is skipped", path)
    return found
