"""The plans that a search may choose among, resolved for one backbone, and what a sparsity leaves of its channels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autosplit.core.plan import CodecSetting, Plan, split_of

__all__ = ["PlanSpace", "channels_kept"]


@dataclass(frozen=True)
class PlanSpace:
    """The plans of a search space, resolved for one backbone: a choice of place, then sparsity, then codec.

    A place is a split point with the backbone's own head, or with one of another kind (`Plan.place`).

    Attributes:
        splits: Places, from `input` over the backbone's own split points to `output`, in the order of execution.
        sparsities: For each place the sparsity levels it allows, ascending.
        codecs: For each place the codec settings it allows.
    """

    splits: tuple[str, ...]
    sparsities: dict[str, tuple[float, ...]]
    codecs: dict[str, tuple[CodecSetting, ...]]

    def plans(self, split: str | None = None) -> list[Plan]:
        """Every plan, ordered by place, sparsity, codec; of one split point, where it is named."""
        places = [place for place in self.splits if split in (None, split_of(place))]
        return [Plan.at(place, s, c) for place in places for s in self.sparsities[place] for c in self.codecs[place]]

    def __len__(self) -> int:
        return sum(len(self.sparsities[s]) * len(self.codecs[s]) for s in self.splits)


def channels_kept(channels: ArrayLike, sparsity: ArrayLike, round_to: int = 1) -> NDArray[np.int64]:
    """Channels kept in groups at a sparsity, at least one each.

    Args:
        channels: Channels of the whole groups; broadcast against `sparsity`.
        sparsity: Share that is removed, in [0, 1].
        round_to: The nearest multiple of this is kept, or all channels.
    """
    wanted = np.asarray(channels) * (1.0 - np.asarray(sparsity))
    counts = np.rint(wanted / round_to) * round_to if round_to > 1 else np.rint(wanted)
    # a group without channels would cut the network in two
    result: NDArray[np.int64] = np.minimum(np.maximum(counts, max(1, round_to)), channels).astype(np.int64)
    return result
