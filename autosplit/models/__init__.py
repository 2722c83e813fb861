"""Backbones and what is done to them: built, loaded, traced, cut, pruned, and their work counted.

Imports `core` and `data`. Begin with `splitting`, then `pruning`; `costs` and `head_costs` count what is left to do.
"""
