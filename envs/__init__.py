"""Gymnasium environments over an evaluator and a latency model, and conditions to draw for them.

May import all rooms up to `evaluation`, and is imported by the agents. Begin with `coinference` (the environment), then
`core` (its arithmetic) and `vector` (many episodes at once); `layerwise` and `episodes` are the same for plans that are
pruned layer by layer, and `stream` is about decisions over time.

Importing this package registers them and loads nothing heavy:

    import gymnasium
    import autosplit.envs
    env = gymnasium.make("autosplit/CoInference-v0")

or, without the second import, `gymnasium.make("autosplit.envs:autosplit/CoInference-v0")`. `gymnasium.make_vec` takes
the same arguments and makes the vectorised form.
"""

from __future__ import annotations

from gymnasium.envs.registration import register, registry

__all__ = ["COINFERENCE", "LAYERWISE", "STREAM", "register_envs"]

COINFERENCE = "autosplit/CoInference-v0"
"""Gymnasium id of `autosplit.envs.coinference.CoInferenceEnv`."""

LAYERWISE = "autosplit/CoInferenceLayerwise-v0"
"""Gymnasium id of `autosplit.envs.layerwise.CoInferenceLayerwiseEnv`."""

STREAM = "autosplit/Stream-v0"
"""Gymnasium id of `autosplit.envs.stream.env.StreamEnv`."""


def register_envs() -> None:
    """Register the environments with Gymnasium; calling it again changes nothing."""
    if COINFERENCE not in registry:
        register(COINFERENCE, entry_point="autosplit.envs.coinference:CoInferenceEnv",
                 vector_entry_point="autosplit.envs.measuring:MeasuringVectorCoInference")
    if LAYERWISE not in registry:
        register(LAYERWISE, entry_point="autosplit.envs.layerwise:CoInferenceLayerwiseEnv")
    if STREAM not in registry:
        register(STREAM, entry_point="autosplit.envs.stream.env:StreamEnv",
                 vector_entry_point="autosplit.envs.stream.vector:VectorStream")


register_envs()
