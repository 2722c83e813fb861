"""Agents that prune layer by layer: one sparsity for each prunable group, decided one after the other."""

from __future__ import annotations

from autosplit.agents.layerwise.base import LayerwiseAgent, LayerwiseProblem

__all__ = ["LayerwiseAgent", "LayerwiseProblem"]
