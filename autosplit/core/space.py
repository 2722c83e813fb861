"""The plans that a search may choose among, resolved for one backbone."""

from __future__ import annotations

from dataclasses import dataclass

from autosplit.core.plan import CodecSetting, Plan

__all__ = ["PlanSpace"]


@dataclass(frozen=True)
class PlanSpace:
    """The plans of a search space, resolved for one backbone: a choice of split, then sparsity, then codec.

    Attributes:
        splits: Split points, from `input` over the backbone's own to `output`, in the order of execution.
        sparsities: For each split point the sparsity levels it allows, ascending.
        codecs: For each split point the codec settings it allows.
    """

    splits: tuple[str, ...]
    sparsities: dict[str, tuple[float, ...]]
    codecs: dict[str, tuple[CodecSetting, ...]]

    def plans(self) -> list[Plan]:
        """Every plan, ordered by split, sparsity, codec."""
        return [Plan(split=s, sparsity=p, codec=c)
                for s in self.splits for p in self.sparsities[s] for c in self.codecs[s]]

    def __len__(self) -> int:
        return sum(len(self.sparsities[s]) * len(self.codecs[s]) for s in self.splits)
