"""Where which kind of deployment is the best: device alone, picture, or split, over device speed and link rate.

No plan is measured for it: measurements hold no milliseconds, so all that a run (or a table) measured is scored anew
under every pair of conditions. What other conditions would have needed, and nobody measured, is not on the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from autosplit.core.arrays import Array
from autosplit.core.conditions import Conditions
from autosplit.core.errors import AutosplitError, ConfigError
from autosplit.core.measurement import Measurement, Outcome
from autosplit.core.plan import HEADS, INPUT, OUTPUT, Plan
from autosplit.core.result import Result
from autosplit.evaluation.scorer import Scorer, rewards_of
from autosplit.latency.base import coarse_of
from autosplit.latency.checked import require_quick
from autosplit.latency.exits import in_time_accuracy
from autosplit.report.pareto import measured_plans, pareto_mask
from autosplit.report.style import quantity

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["KINDS", "Across", "DeploymentMap", "all_measured", "kind_of"]

KINDS = ("on the device", "as a picture", "split, pruned head", "split, injected head", "split, reduced head",
         "split with an exit")
"""Kinds of deployments; all but the first two are splits."""

Across = Literal["speed", "budget"]
"""What the map has beside the link's rate: the speed of the device, or the deadline."""

PAYS = 1.0
"""Points of in-time accuracy that a split must be ahead to be said to pay."""

_RATES = 2.0 ** (np.arange(-14, 15) / 2)  # from 1/128 to 128 times the scenario's
_OTHERS = 2.0 ** (np.arange(-8, 9) / 2)  # from 1/16 to 16 times


def kind_of(plan: Plan) -> int:
    """Which of `KINDS` a plan is."""
    ends = {OUTPUT: 0, INPUT: 1}
    return ends.get(plan.split, 5 if plan.exit is not None else 2 + HEADS.index(plan.head))


@dataclass(frozen=True)
class DeploymentMap:
    """The best measured deployment for R link rates and S device speeds or deadlines.

    Attributes:
        measured: The P measurements.
        across: What the second axis is.
        rates_kbps: Uplink rates, shape (R,); the downlink goes along.
        others: Speeds in multiples of the scenario's device, or deadlines in milliseconds, shape (S,).
        home: Place of the scenario's own conditions.
        best: Number of the best measurement, by the scenario's objective, shape (R, S); -1 where none is in time.
        in_time: Probability that it is in time, shape (R, S).
        p95_ms: Its latency, shape (R, S).
        of_splits: Highest in-time accuracy (`autosplit.latency.exits.in_time_accuracy`) of a split, shape (R, S).
        of_others: The same of what is no split, shape (R, S).
        split: Number of that split, shape (R, S); -1 where none was measured.
        other: Number of that other deployment, shape (R, S); -1 where none was measured.
    """

    measured: tuple[Measurement, ...]
    across: Across
    rates_kbps: Array
    others: Array
    home: tuple[int, int]
    best: NDArray[np.int64]
    in_time: Array
    p95_ms: Array
    of_splits: Array
    of_others: Array
    split: NDArray[np.int64]
    other: NDArray[np.int64]

    @classmethod
    def of(cls, measured: Sequence[Measurement], scorer: Scorer, across: Across = "speed") -> DeploymentMap:
        """Score measurements under all conditions of the map.

        Args:
            measured: Of one fidelity, so that their accuracies can be compared.
            scorer: Latency model, objective and conditions of the scenario.
            across: What the second axis is.

        Raises:
            ConfigError: There are no measurements.
            AutosplitError: The latency model failed under other conditions than the scenario's.
        """
        if not measured:
            raise ConfigError("nothing was measured yet, so there is nothing to draw a map of")
        require_quick(scorer.latency_model, "the map", measured[0].workload, scorer.conditions)
        here, model = scorer.conditions, coarse_of(scorer.latency_model)
        kept = _able(measured, scorer)
        able = [measured[i] for i in kept]
        works = [m.workload for m in able]
        splits = np.array([measured[i].plan.is_split for i in kept])
        columns: list[tuple[Array | NDArray[np.int64], ...]] = []
        for rate in _RATES:
            channel = here.channel if rate == 1 else here.channel.scaled(float(rate), 1.0)
            conditions = [_at(here, float(other), across).model_copy(update={"channel": channel}) for other in _OTHERS]
            found = model.latency(works, conditions)
            rewards = rewards_of(able, found, scorer.objective, conditions)
            met = found.p95_ms <= np.array([c.budget_ms for c in conditions])
            first, places = np.where(met, rewards, -np.inf).argmax(axis=0), np.arange(len(conditions))
            in_time = in_time_accuracy(able, found.in_time)
            halves: list[Array | NDArray[np.int64]] = []
            for half in (splits, ~splits):
                levels = np.where(half[:, None], in_time, -1.0)
                number = levels.argmax(axis=0)
                some = bool(half.any())
                halves += [np.maximum(levels[number, places], 0.0), kept[number] if some else np.full_like(places, -1)]
            columns.append((np.where(met.any(axis=0), kept[first], -1), found.in_time[first, places],
                            found.p95_ms[first, places], *halves))
        parts = [np.array(part) for part in zip(*columns, strict=True)]
        best, chance, p95_ms, of_splits, split, of_others, other = parts
        others = _OTHERS if across == "speed" else here.budget_ms * _OTHERS
        home = int(np.flatnonzero(_RATES == 1)[0]), int(np.flatnonzero(_OTHERS == 1)[0])
        return cls(tuple(measured), across, here.channel.uplink_kbps.value * _RATES, others, home, best, chance, p95_ms,
                   of_splits, of_others, split, other)

    @classmethod
    def of_run(
        cls, result: Result, outcomes: Sequence[Outcome], baselines: Sequence[Measurement]
    ) -> tuple[DeploymentMap | None, str]:
        """The map of a run, or why there is none, such as a missing latency model.

        Args:
            result: What the search found.
            outcomes: Its ledger.
            baselines: What its baselines measured beside.
        """
        try:
            return cls.of(all_measured(outcomes, baselines), Scorer.of(result.scenario)), ""
        except AutosplitError as e:
            return None, " ".join(str(e).split())

    @property
    def kinds(self) -> NDArray[np.int64]:
        """Which of `KINDS` the best deployment is, shape (R, S); -1 where none is in time."""
        each = np.array([*(kind_of(m.plan) for m in self.measured), -1])
        found: NDArray[np.int64] = each[self.best]
        return found

    @property
    def gain(self) -> Array:
        """Points of in-time accuracy that the best split is ahead of all else, shape (R, S); below 0 where behind."""
        found: Array = 100.0 * (self.of_splits - self.of_others)
        return found

    @property
    def summary(self) -> str:
        """Where a split pays, in a sentence or two."""
        r, s = self.home
        pays = self.gain >= PAYS
        span = f"between {quantity(self.rates_kbps[0], 'kb/s')} and {quantity(self.rates_kbps[-1], 'kb/s')}"
        rates = self.rates_kbps[pays[:, s]]
        own = "this device" if self.across == "speed" else f"this deadline of {quantity(self.others[s], 'ms')}"
        if not rates.size:
            text = f"With {own} a split pays at no link rate {span}"
        elif rates.size == len(self.rates_kbps):
            text = f"With {own} a split pays at every link rate {span}"
        else:
            text = f"With {own} a split pays from {quantity(rates[0], 'kb/s')} to {quantity(rates[-1], 'kb/s')}"
        text += f" (ahead by {PAYS:g} point of in-time accuracy or more)"
        here = f"at its {quantity(self.rates_kbps[r], 'kb/s')} the best split is {abs(self.gain[r, s]):.1f} points "
        here += "ahead of all else" if self.gain[r, s] >= 0 else "behind the best other deployment"
        return f"{text}; {here}. It pays in {100 * pays.mean():.0f} % of the map."

    @property
    def finding(self) -> str:
        """The summary, short enough for the title of a figure."""
        pays, (_, s) = self.gain >= PAYS, self.home
        rates = self.rates_kbps[pays[:, s]]
        own = "this device" if self.across == "speed" else "this deadline"
        where = (f"from {quantity(rates[0], 'kb/s')} to {quantity(rates[-1], 'kb/s')}" if rates.size
                 else "at no link rate")
        return f"A split pays {where} with {own}, and in {100 * pays.mean():.0f} % of the map"

    def to_frame(self) -> pd.DataFrame:
        """One row a cell: conditions, the best deployment and its figures, the best split and the best of all else."""
        import pandas as pd

        rows = []
        kinds, gain = self.kinds, self.gain

        def label(number: int) -> str:
            return self.measured[number].plan.label if number >= 0 else ""

        for r, rate in enumerate(self.rates_kbps):
            for s, other in enumerate(self.others):
                number = int(self.best[r, s])
                rows.append({
                    "uplink_kbps": rate, "device_speed" if self.across == "speed" else "budget_ms": other,
                    "kind": KINDS[kinds[r, s]] if number >= 0 else "none in time", "plan": label(number),
                    "accuracy": self.measured[number].accuracy if number >= 0 else np.nan,
                    "in_time": self.in_time[r, s] if number >= 0 else np.nan,
                    "p95_ms": self.p95_ms[r, s] if number >= 0 else np.nan,
                    "best_split": label(int(self.split[r, s])), "split_in_time_accuracy": self.of_splits[r, s],
                    "best_other": label(int(self.other[r, s])), "other_in_time_accuracy": self.of_others[r, s],
                    "gain_points": gain[r, s]})
        frame: pd.DataFrame = pd.DataFrame(rows)
        return frame


def all_measured(outcomes: Sequence[Outcome], baselines: Sequence[Measurement]) -> list[Measurement]:
    """What a run measured in the supernet (F1), each plan once, and with every exit on offer.

    Args:
        outcomes: Its ledger.
        baselines: What its baselines measured beside.
    """
    known = {o.plan: o.measurement for o in measured_plans(outcomes)}
    every = [*known.values(), *(m for m in baselines if m.plan not in known)]
    return [variant for m in every for variant in m.variants]


def _at(here: Conditions, factor: float, across: Across) -> Conditions:
    if across == "budget":
        return here.model_copy(update={"budget_ms": here.budget_ms * factor})
    return here if factor == 1 else here.model_copy(update={"device": here.device.scaled(factor)})


def _able(measured: Sequence[Measurement], scorer: Scorer) -> NDArray[np.int64]:
    """Numbers of the measurements that no other of their half, splits or not, beats in everything."""
    found = scorer.latency_model.latency([m.workload for m in measured], [scorer.conditions])
    columns = np.column_stack([
        [-m.accuracy for m in measured], found.device_ms[:, 0] + found.encode_ms[:, 0], found.edge_ms[:, 0],
        found.compute_mj[:, 0], [m.workload.payload_bytes_mean for m in measured],
        [m.workload.payload_bytes_p95 for m in measured],
        # what an exit is better in: fewer are sent, and more is right without waiting
        [m.workload.sent for m in measured],
        [-(1 - m.workload.sent) * m.exits[0].exit_accuracy if m.plan.exit is not None else 0.0 for m in measured]])
    splits = np.array([m.plan.is_split for m in measured])
    kept = np.zeros(len(measured), dtype=bool)
    for half in (splits, ~splits):
        kept[half] = pareto_mask(columns[half]) if half.any() else []
    return np.flatnonzero(kept)
