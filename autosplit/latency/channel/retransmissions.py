"""Retransmissions of lost packets, drawn packet by packet: losses that are independent, or that come in bursts.

Where losses are independent, the tries of a packet are geometric. Bursts follow the chain of Gilbert and Elliott. It is
in state i when a packet is sent for the first time, and steps after every transmission by the matrix T. With the
diagonal matrices L of losses and S = 1 - L of successes, the packet is sent again k times, and the chain is in state j
when it gets through, with probability [(L T)^k S]_ij; the next packet starts from there, one step of T later.

Both draw a table once, of the retransmissions of the first n packets: every plan looks its own number of packets up in
the same table, so a plan that sends less never waits longer by chance.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from autosplit.core.arrays import Array
from autosplit.core.fading import Chain, stationary_loss
from autosplit.latency.random import DRAWS, spread_uniforms, uniform, uniforms

__all__ = ["PACKETS", "burst_retries", "independent_retries", "lasting"]

PACKETS = 1024
"""Packets whose retransmissions are drawn one by one; beyond it their mean is used."""

_RAREST = 1e-6  # probability below which larger numbers of retransmissions of one packet are not distinguished


def independent_retries(quantity: str, loss: float, packets: NDArray[np.intp]) -> Array:
    """Retransmissions of the first `packets` packets in each draw, where losses are independent.

    Packet i has the same uniform draws in every plan, so the count never falls as packets are added.

    Args:
        quantity: Name of the random quantity.
        loss: Probability in [0, 1) that one try of a packet is lost.
        packets: Shape (N, DRAWS).

    Returns:
        Counts, shape (N, DRAWS).
    """
    return np.zeros(packets.shape) if loss == 0 else _looked_up(_independent_table(quantity, loss), loss, packets)


def burst_retries(quantity: str, chain: Chain, packets: NDArray[np.intp]) -> Array:
    """Retransmissions of the first `packets` packets in each draw; like `independent_retries`, but in bursts.

    Args:
        quantity: Name of the random quantity.
        chain: The chain; a transfer finds it in its stationary state.
        packets: Shape (N, DRAWS).

    Returns:
        Counts, shape (N, DRAWS).
    """
    return _looked_up(_burst_table(quantity, chain), stationary_loss(chain), packets)


def _looked_up(table: Array, loss: float, packets: NDArray[np.intp]) -> Array:
    counted: Array = table[np.minimum(packets, PACKETS), np.arange(DRAWS)]
    if packets.size and packets.max() > PACKETS:
        counted += np.maximum(packets - PACKETS, 0) * (loss / (1 - loss))  # the mean of a geometric distribution
    return counted


@cache
def _independent_table(quantity: str, loss: float) -> Array:
    """Retransmissions of the first n packets, shape (PACKETS + 1, DRAWS)."""
    # inverts P(more than k retries) = loss ** (k + 1)
    each = np.floor(np.log1p(-uniforms(quantity, PACKETS)) / math.log(loss))
    return np.concatenate([np.zeros((1, DRAWS)), np.cumsum(each, axis=0)])


@cache
def _burst_table(quantity: str, chain: Chain) -> Array:
    """Retransmissions of the first n packets, shape (PACKETS + 1, DRAWS)."""
    _, _, good, bad = chain
    over, next_bad = lasting(chain)
    state = (uniform(f"{quantity} state") > good / (good + bad)).astype(np.intp)
    total = np.zeros((PACKETS + 1, DRAWS))
    draw, turn = (spread_uniforms(f"{quantity} {name}", PACKETS) for name in ("burst", "turn"))
    most = over.shape[1] - 1
    for n in range(PACKETS):
        by_state = [np.searchsorted(row, draw[n]) for row in over]
        again = np.minimum(np.where(state, by_state[1], by_state[0]), most)
        total[n + 1] = total[n] + again
        state = (turn[n] < next_bad[state, again]).astype(np.intp)
    return total


@cache
def lasting(chain: Chain) -> tuple[Array, Array]:
    """What follows from the state at a packet's first transmission.

    Returns:
        P(at most k retransmissions), and P(the next packet starts in the bad state, given k), both of shape (2, K).
    """
    good_loss, bad_loss, good_packets, bad_packets = chain
    losses = np.array([good_loss, bad_loss])
    # the matrix T: probability of the next state (column) in each state (row), good then bad
    step = np.array([[1.0 - 1.0 / good_packets, 1.0 / good_packets], [1.0 / bad_packets, 1.0 - 1.0 / bad_packets]])
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
