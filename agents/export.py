"""The network of a policy as ONNX, for programs without torch."""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import torch
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from torch import Tensor, nn

from autosplit.agents.policy import CoInferencePolicy
from autosplit.errors import ConfigError

__all__ = ["require_onnx", "save_onnx"]

_PACKAGES = ("onnx", "onnxscript")


class _Actor(nn.Module):
    """Observations (n, F) -> logits (n, A)."""

    def __init__(self, network: MaskableActorCriticPolicy) -> None:
        super().__init__()
        self.features, self.actor, self.logits = (
            network.features_extractor, network.mlp_extractor.policy_net, network.action_net)

    def forward(self, observations: Tensor) -> Tensor:
        return self.logits(self.actor(self.features(observations)))  # type: ignore[no-any-return]


def require_onnx() -> None:
    """Look for the packages before anything is computed.

    Raises:
        ConfigError: One is absent.
    """
    absent = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if absent:
        raise ConfigError(f"ONNX needs the package {absent[0]}: pip install 'autosplit[deploy]'")


def save_onnx(policy: CoInferencePolicy, path: Path) -> None:
    """Write the actor: input `observations`, float32 (n, F), output `logits`, float32 (n, A); n is free.

    An observation is a row of `Knowledge.node_observations` followed by `condition_features`, as in
    `autosplit.agents.policy.by_likelihood`.

    Args:
        policy: Whose network.
        path: The file.

    Raises:
        ConfigError: The packages of the extra `deploy` are absent.
        OSError: The file cannot be written.
    """
    require_onnx()
    actor = _Actor(policy.network).eval()
    example = torch.zeros(2, policy.network.features_dim)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # it reports its steps
            warnings.simplefilter("ignore")
            torch.onnx.export(actor, (example,), path, input_names=["observations"], output_names=["logits"],
                              dynamic_shapes={"observations": {0: torch.export.Dim("n")}}, dynamo=True,
                              external_data=False, verbose=False)
    finally:
        logger.setLevel(level)
