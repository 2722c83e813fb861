"""What a latency model has answered: a model that takes long is asked once about each plan under each conditions."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from autosplit.core.measurement import Workload
from autosplit.core.progress import Advance, ignore
from autosplit.latency.base import FIELDS, LatencyBreakdown

if TYPE_CHECKING:
    from autosplit.core.conditions import Conditions

__all__ = ["SLOW_S", "Answers"]

SLOW_S = 0.005
"""Seconds for one plan under one set of conditions, beyond which a model is slow."""

_AT_ONCE_S = 0.5  # for as long a slow model may be away before progress is reported
_ANNOUNCED_S = 5.0  # what takes less is not worth a word

_log = logging.getLogger(__name__)


class Answers:
    """Asks a model, and remembers what it said where that takes long.

    The first question is asked on its own and twice: so the model is timed, and one whose answers vary is found out. A
    slow one is then asked about what is not known yet, in parts that grow as long as they are answered within half a
    second, so that a model which takes as long for many plans as for one is asked about many.

    Args:
        ask: Answers P workloads under C conditions with arrays (P, C); raises what the caller wants raised.
        differs: The error that is raised where the same question is answered differently, from a sentence.
        name: Of the model, for the log.
        known_quick: Whether the model is quick whatever the clock says, which a busy machine can make say anything.

    Attributes:
        seconds: Of the quickest answer so far, for one plan under one set of conditions; 0 before the first.
        advance: Called with the number of plans after each part of an answer.
    """

    def __init__(self, ask: Callable[[Sequence[Workload], Sequence[Conditions]], LatencyBreakdown],
                 differs: Callable[[Workload, str], Exception], name: str, known_quick: bool = False) -> None:
        self._ask = ask
        self._differs = differs
        self._name, self._known_quick = name, known_quick
        self._known: dict[tuple[str, str], tuple[float, ...]] = {}
        self.seconds = 0.0
        self.advance: Advance = ignore

    @property
    def slow(self) -> bool:
        """Whether the model takes more than `SLOW_S` for a plan, as far as it was asked."""
        return self.seconds > SLOW_S and not self._known_quick

    def latency(self, workloads: Sequence[Workload], conditions: Sequence[Conditions]) -> LatencyBreakdown:
        """As `LatencyModel.latency`."""
        if not workloads or not conditions:
            return self._ask(workloads, conditions)
        if not self.seconds:
            self._try(workloads[0], conditions[0])
        if not self.slow and not self._known:
            found = self._ask(workloads, conditions)
            self.advance(len(workloads))
            return found
        keys = [w.model_dump_json() for w in workloads]
        under = [c.model_dump_json() for c in conditions]
        unknown = list({key: i for i, key in enumerate(keys)
                        if any((key, condition) not in self._known for condition in under)}.values())
        self._announce(len(unknown), len(conditions))
        done, size = 0, 1
        while done < len(unknown):
            part = unknown[done:done + size]
            began = time.perf_counter()
            found = self._ask([workloads[i] for i in part], conditions)
            took = time.perf_counter() - began
            self.seconds = min(self.seconds, took / (len(part) * len(conditions)))
            self._remember([keys[i] for i in part], under, found)
            self.advance(len(part))
            done, size = done + len(part), 2 * size if took < _AT_ONCE_S else size
        cells = np.array([[self._known[key, condition] for condition in under] for key in keys])
        return LatencyBreakdown(**{name: np.ascontiguousarray(cells[:, :, i]) for i, name in enumerate(FIELDS)})

    def _try(self, workload: Workload, conditions: Conditions) -> None:
        """Ask one question twice."""
        found, took = [], []
        for _ in range(2):
            began = time.perf_counter()
            found.append(self._ask([workload], [conditions]))
            took.append(time.perf_counter() - began)
        self.seconds = max(min(took), 1e-9)
        first, second = found
        for name in ("p50_ms", *FIELDS):
            one, other = float(getattr(first, name)[0, 0]), float(getattr(second, name)[0, 0])
            if one != other:
                raise self._differs(workload, f"answers the same question differently, {name} is {one:.10g} and then "
                                              f"{other:.10g}; give the mean or percentiles, which do not vary")
        if self.slow:
            self._remember([workload.model_dump_json()], [conditions.model_dump_json()], first)
            self.advance(1)

    def _announce(self, plans: int, conditions: int) -> None:
        """Say how long it will take, if it is worth a word."""
        if (seconds := self.seconds * plans * conditions) > _ANNOUNCED_S:
            _log.warning("latency model %r takes %.0f ms for a plan: about %.0f s for the %d that it is asked about",
                         self._name, 1e3 * self.seconds * conditions, seconds, plans)

    def _remember(self, keys: Sequence[str], under: Sequence[str], found: LatencyBreakdown) -> None:
        values = np.stack([getattr(found, name) for name in FIELDS], axis=-1)
        for p, key in enumerate(keys):
            for c, condition in enumerate(under):
                self._known[key, condition] = tuple(values[p, c].tolist())
