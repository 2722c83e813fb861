"""The network of a policy as ONNX, for programs without torch."""

from __future__ import annotations

from pathlib import Path

import torch
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from torch import Tensor, nn

from autosplit.agents.policy import CoInferencePolicy
from autosplit.models.onnx_files import require_onnx, write_onnx

__all__ = ["require_onnx", "save_onnx"]


class _Actor(nn.Module):
    """Observations (n, F) -> logits (n, A)."""

    def __init__(self, network: MaskableActorCriticPolicy) -> None:
        super().__init__()
        self.features, self.actor, self.logits = (
            network.features_extractor, network.mlp_extractor.policy_net, network.action_net)

    def forward(self, observations: Tensor) -> Tensor:
        return self.logits(self.actor(self.features(observations)))  # type: ignore[no-any-return]


def save_onnx(policy: CoInferencePolicy, path: Path) -> None:
    """Write the actor: input `observations`, float32 (n, F), output `logits`, float32 (n, A); n is free.

    An observation is a row of `Knowledge.node_observations` followed by `condition_features`, as in
    `autosplit.agents.network.by_likelihood`.

    Args:
        policy: Whose network.
        path: The file.

    Raises:
        ConfigError: The packages of the extra `deploy` are absent.
        OSError: The file cannot be written.
    """
    actor = _Actor(policy.network).eval()
    write_onnx(actor, torch.zeros(2, policy.network.features_dim), path, ("observations", "logits"))
