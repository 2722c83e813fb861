"""Agents by name and granularity: a name may stand for an agent of whole heads and one that prunes layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autosplit.agents import list_agents, load_agent
from autosplit.plugins import Registry

if TYPE_CHECKING:
    from autosplit.agents.base import Agent
    from autosplit.agents.layerwise import LayerwiseAgent
    from autosplit.scenario import SearchSettings

__all__ = ["check_agent", "list_layerwise_agents", "load_layerwise_agent", "load_uniform_agent"]

_LAYERWISE = Registry(
    kind="layer-wise agent",
    group="autosplit.layerwise_agents",
    builtin={
        "ddpg": "autosplit.agents.ddpg:LayerwiseDDPGAgent",
        "ppo": "autosplit.agents.layer_ppo:LayerwisePPOAgent",
        "random": "autosplit.agents.layerwise:LayerwiseRandomAgent",
    },
)


def list_layerwise_agents() -> list[str]:
    """Names that `load_layerwise_agent` knows, sorted."""
    return _LAYERWISE.names()


def load_layerwise_agent(name: str) -> type[LayerwiseAgent]:
    """The class of an agent that prunes layer by layer; call it with a `LayerwiseProblem`.

    Args:
        name: A name of `list_layerwise_agents()`, `package.module:Name`, or `path/to/file.py:Name`.

    Raises:
        ConfigError: The agent of this name prunes whole heads only.
        UnknownNameError: No agent has this name.
        PluginError: The import raised, or the object is no agent.
    """
    from autosplit.agents.base import Agent
    from autosplit.agents.layerwise import LayerwiseAgent
    from autosplit.errors import ConfigError, PluginError

    known = list_layerwise_agents()
    wrong = ConfigError(f"agent {name!r} prunes whole heads only; with search.granularity at layer take "
                        f"{', '.join(known[:-1])} or {known[-1]}, else leave it at uniform")
    if name not in known and name in list_agents():
        raise wrong
    agent = _LAYERWISE.load(name)
    if isinstance(agent, type) and issubclass(agent, Agent):
        raise wrong
    if not (isinstance(agent, type) and issubclass(agent, LayerwiseAgent)):
        raise PluginError(f"agent {name!r} is not a subclass of autosplit.agents.layerwise.LayerwiseAgent")
    return agent


def load_uniform_agent(name: str) -> type[Agent]:
    """`autosplit.agents.load_agent`, with a word on agents that prune layer by layer only.

    Raises:
        ConfigError: The agent of this name prunes layer by layer only.
        UnknownNameError: No agent has this name.
        PluginError: The import raised, or the object is no agent.
    """
    from autosplit.errors import ConfigError

    if name not in list_agents() and name in list_layerwise_agents():
        raise ConfigError(f"agent {name!r} prunes layer by layer; add --granularity layer, or take another agent")
    return load_agent(name)


def check_agent(settings: SearchSettings) -> None:
    """Look the agent of a search up.

    Raises:
        AutosplitError: There is none of this name for this granularity, or it cannot be loaded.
    """
    load = load_layerwise_agent if settings.granularity == "layer" else load_uniform_agent
    load(settings.agent)
