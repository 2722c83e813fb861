"""The radio link of a latency model: packets, retransmissions, rates that move.

Imports `core` and `latency.random`. Begin with `link`.
"""
