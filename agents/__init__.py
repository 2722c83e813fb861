"""Agents: what proposes plans and observes outcomes, policies, and what trains them.

May import all rooms up to `envs`, and is imported by the pipeline, the experiments and the command line. Begin with
`base` (the life cycle of an agent), then `loop` (the search) and `ppo` (the default agent). Agents are loaded when
asked for, by name and granularity; a name may stand for two, one of uniform heads and one that prunes layer by layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

from autosplit.core.plugins import Registry

if TYPE_CHECKING:
    from autosplit.agents.base import Agent
    from autosplit.agents.layerwise import LayerwiseAgent
    from autosplit.core.scenario import Granularity

__all__ = ["list_agents", "load_agent"]

_AGENTS: dict[Granularity, Registry] = {
    "uniform": Registry(
        kind="agent",
        group="autosplit.agents",
        builtin={
            "cmaes": "autosplit.agents.cma:CmaEsAgent",
            "evolution": "autosplit.agents.evolution:EvolutionAgent",
            "exhaustive": "autosplit.agents.enumerate:ExhaustiveAgent",
            "gp": "autosplit.agents.samplers:GPAgent",
            "local-search": "autosplit.agents.local:LocalSearchAgent",
            "nsga2": "autosplit.agents.samplers:NSGA2Agent",
            "policy": "autosplit.agents.policy_agent:PolicyAgent",
            "ppo": "autosplit.agents.ppo:PPOAgent",
            "ppo-live": "autosplit.agents.live:PPOLiveAgent",
            "prior-only": "autosplit.agents.enumerate:PriorOnlyAgent",
            "random": "autosplit.agents.enumerate:RandomAgent",
            "tpe": "autosplit.agents.samplers:TPEAgent",
        },
    ),
    "layer": Registry(
        kind="layer-wise agent",
        group="autosplit.layerwise_agents",
        builtin={
            "ddpg": "autosplit.agents.layerwise.ddpg:LayerwiseDDPGAgent",
            "ppo": "autosplit.agents.layerwise.ppo:LayerwisePPOAgent",
            "random": "autosplit.agents.layerwise.base:LayerwiseRandomAgent",
        },
    ),
}


def list_agents(granularity: Granularity = "uniform") -> list[str]:
    """Names that `load_agent` knows for a granularity, sorted."""
    return _AGENTS[granularity].names()


@overload
def load_agent(name: str, granularity: Literal["uniform"] = ...) -> type[Agent]: ...
@overload
def load_agent(name: str, granularity: Literal["layer"]) -> type[LayerwiseAgent]: ...
def load_agent(name: str, granularity: Granularity = "uniform") -> type[Agent] | type[LayerwiseAgent]:
    """The class of an agent; call it with a `SearchProblem`, or with a `LayerwiseProblem` where it prunes by layer.

    Args:
        name: A name of `list_agents(granularity)`, `package.module:Name`, or `path/to/file.py:Name`.
        granularity: `uniform` = one sparsity for the whole head, `layer` = one for each prunable group.

    Raises:
        ConfigError: The agent of this name is for the other granularity.
        UnknownNameError: No agent has this name.
        PluginError: The import raised, or the object is no agent.
    """
    from autosplit.agents.base import Agent
    from autosplit.agents.layerwise import LayerwiseAgent
    from autosplit.core.errors import ConfigError, PluginError

    other: Granularity = "layer" if granularity == "uniform" else "uniform"
    wanted, unwanted = (Agent, LayerwiseAgent) if granularity == "uniform" else (LayerwiseAgent, Agent)
    known, agent = list_agents(granularity), None
    misplaced = name not in known and name in list_agents(other)
    if not misplaced:
        agent = _AGENTS[granularity].load(name)
        misplaced = isinstance(agent, type) and issubclass(agent, unwanted)
    if misplaced:
        what, instead = (("prunes layer by layer", "search with --granularity layer") if granularity == "uniform" else
                         ("prunes whole heads only", "leave out --granularity layer"))
        raise ConfigError(f"agent {name!r} {what}: {instead}, or take {', '.join(known[:-1])} or {known[-1]}")
    if not (isinstance(agent, type) and issubclass(agent, wanted)):
        raise PluginError(f"agent {name!r} is not a subclass of {wanted.__module__}.{wanted.__name__}")
    return agent
