"""Retransmissions where losses come in bursts: the chain of Gilbert and Elliott, drawn packet by packet.

The chain is in state i when a packet is sent for the first time, and steps after every transmission by the matrix T.
With the diagonal matrices L of losses and S = 1 - L of successes, the packet is sent again k times, and the chain is in
state j when it gets through, with probability [(L T)^k S]_ij; the next packet starts from there, one step of T later.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from autosplit.core.arrays import Array
from autosplit.core.fading import Chain, stationary_loss
from autosplit.latency.random import DRAWS, PACKETS, counted_retries, spread_uniforms, uniform

__all__ = ["burst_retries", "lasting"]

_RAREST = 1e-6
"""Probability below which a larger number of retransmissions of one packet is not told from a smaller one."""


def burst_retries(stream: str, chain: Chain, packets: NDArray[np.intp]) -> Array:
    """Retransmissions of the first `packets` packets in each draw; like `retries`, but in bursts.

    Args:
        stream: Name of the random quantity.
        chain: The chain; a transfer finds it in its stationary state.
        packets: Shape (N, DRAWS).

    Returns:
        Counts, shape (N, DRAWS).
    """
    return counted_retries(_cumulative_retries(stream, chain), stationary_loss(chain), packets)


def _steps(chain: Chain) -> Array:
    """The matrix T: probability of the next state (column) in each state (row), good then bad, shape (2, 2)."""
    _, _, good_packets, bad_packets = chain
    return np.array([[1.0 - 1.0 / good_packets, 1.0 / good_packets], [1.0 / bad_packets, 1.0 - 1.0 / bad_packets]])


@cache
def lasting(chain: Chain) -> tuple[Array, Array]:
    """What follows from the state at a packet's first transmission.

    Returns:
        P(at most k retransmissions), and P(the next packet starts in the bad state, given k), both of shape (2, K).
    """
    losses = np.array(chain[:2])
    step = _steps(chain)
    here = np.eye(2)
    over: list[Array] = []
    bad: list[Array] = []
    reached = np.zeros(2)
    while not over or (1.0 - over[-1]).max() > _RAREST:
        through = here * (1.0 - losses)
        chance = through.sum(axis=1)
        reached = reached + chance
        over.append(reached)
        bad.append(np.divide((through @ step)[:, 1], chance, out=np.zeros(2), where=chance > 0))
        here = (here * losses) @ step
    return np.array(over).T, np.array(bad).T


@cache
def _cumulative_retries(stream: str, chain: Chain) -> Array:
    """Retransmissions of the first n packets of a transfer, shape (PACKETS + 1, DRAWS)."""
    _, _, good, bad = chain
    over, next_bad = lasting(chain)
    state = (uniform(f"{stream} state") > good / (good + bad)).astype(np.intp)
    total = np.zeros((PACKETS + 1, DRAWS))
    losses, turn = (spread_uniforms(f"{stream} {name}", PACKETS) for name in ("burst", "turn"))
    most = over.shape[1] - 1
    for n in range(PACKETS):
        by_state = [np.searchsorted(row, losses[n]) for row in over]
        again = np.minimum(np.where(state, by_state[1], by_state[0]), most)
        total[n + 1] = total[n] + again
        state = (turn[n] < next_bad[state, again]).astype(np.intp)
    return total
