"""Agents that prune layer by layer: one sparsity for each prunable group, decided one after the other.

They are driven by the same loop as all agents, over `autosplit.envs.episodes`. Begin with `base`; `ppo` is the default,
`ddpg` a reconstruction of AMC, `surrogate` the accuracy model of the former.
"""

from __future__ import annotations

from autosplit.agents.layerwise.base import LayerwiseAgent, LayerwiseProblem

__all__ = ["LayerwiseAgent", "LayerwiseProblem"]
