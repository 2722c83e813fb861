"""Agents: anything that proposes plans and observes outcomes. They load when asked for, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autosplit.plugins import Registry

if TYPE_CHECKING:
    from autosplit.agents.base import Agent

__all__ = ["list_agents", "load_agent"]

_AGENTS = Registry(
    kind="agent",
    group="autosplit.agents",
    builtin={
        "cmaes": "autosplit.agents.cma:CmaEsAgent",
        "evolution": "autosplit.agents.evolution:EvolutionAgent",
        "exhaustive": "autosplit.agents.enumerate:ExhaustiveAgent",
        "gp": "autosplit.agents.samplers:GPAgent",
        "local-search": "autosplit.agents.local:LocalSearchAgent",
        "model-enumerate": "autosplit.agents.model_only:ModelEnumerateAgent",
        "model-random": "autosplit.agents.model_only:ModelRandomAgent",
        "nsga2": "autosplit.agents.samplers:NSGA2Agent",
        "policy": "autosplit.agents.recall:PolicyAgent",
        "ppo": "autosplit.agents.ppo:PPOAgent",
        "ppo-live": "autosplit.agents.live:PPOLiveAgent",
        "random": "autosplit.agents.enumerate:RandomAgent",
        "tpe": "autosplit.agents.samplers:TPEAgent",
    },
)


def list_agents() -> list[str]:
    """Names that `load_agent` knows, sorted."""
    return _AGENTS.names()


def load_agent(name: str) -> type[Agent]:
    """The class of an agent; call it with a `SearchProblem`.

    Args:
        name: A name of `list_agents()`, `package.module:Name`, or `path/to/file.py:Name`.

    Raises:
        UnknownNameError: No agent has this name.
        PluginError: The import raised, or the object is no `Agent`.
    """
    from autosplit.agents.base import Agent
    from autosplit.errors import PluginError

    agent = _AGENTS.load(name)
    if not (isinstance(agent, type) and issubclass(agent, Agent)):
        raise PluginError(f"agent {name!r} is not a subclass of autosplit.agents.base.Agent")
    return agent
