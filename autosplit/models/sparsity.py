"""How many channels a sparsity leaves; without torch, since environments and dry runs count them too."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["channels_kept"]


def channels_kept(channels: ArrayLike, sparsity: ArrayLike, round_to: int = 1) -> NDArray[np.int64]:
    """Channels kept in groups at a sparsity, at least one each.

    Args:
        channels: Channels of the whole groups; broadcast against `sparsity`.
        sparsity: Share that is removed, in [0, 1].
        round_to: The nearest multiple of this is kept, or all channels.
    """
    wanted = np.asarray(channels) * (1.0 - np.asarray(sparsity))
    counts = np.rint(wanted / round_to) * round_to if round_to > 1 else np.rint(wanted)
    result: NDArray[np.int64] = np.minimum(np.maximum(counts, max(1, round_to)), channels).astype(np.int64)
    return result
