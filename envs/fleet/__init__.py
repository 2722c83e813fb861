"""Several devices that share a link and an edge: what one sends, the others wait for.

Begin with `fleet` (what a fleet is), then `core` (how time goes on) and `env` (as an environment of PettingZoo).
"""
