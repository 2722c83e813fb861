"""The network of a controller while it is trained: stable-baselines3's policy with scores of levels as logits."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from autosplit.runtime.standalone.control.network import ACCURACY, COST, EACH, FIRM, SHARP, SPARE

__all__ = ["ScoringPolicy"]


class _Scores(nn.Module):
    """Observations to one score an action, and to features of the critic.

    A score is what a level is worth for the picture in hand, as the rule `Myopic` sees it, and what the network adds to
    that (residual learning; Johannink et al. 2019, arXiv 1812.03201): at first nothing.

    Args:
        general: Features that an observation begins with, before those of the levels.
        hidden: Width of the hidden layers.
    """

    def __init__(self, general: int, hidden: int) -> None:
        super().__init__()
        self._general = general
        self.level = _layers(general + 2 * EACH, hidden, 1)
        self.skip = _layers(general + EACH, hidden, 1)
        self.value = _layers(general + 2 * EACH, hidden, None)
        self.latent_dim_pi, self.latent_dim_vf = 1, hidden  # the first is of a layer that `ScoringPolicy` leaves out

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Scores, shape (n, K + 1), and what the value is read from, shape (n, hidden)."""
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: Tensor) -> Tensor:
        """Scores alone."""
        general, each = self._parts(features)
        # a level is scored beside the quickest one: what one gains or loses against it
        first = each[:, :1].expand_as(each)
        seen = torch.cat([general[:, None].expand(-1, each.shape[1], -1), each, each - first], dim=2)
        fits = torch.sigmoid(SHARP * each[..., SPARE])
        prior = FIRM * (each[..., ACCURACY] * fits - each[..., COST])
        return torch.cat([prior + self.level(seen)[..., 0], self.skip(torch.cat([general, each[:, 0]], dim=1))], dim=1)

    def forward_critic(self, features: Tensor) -> Tensor:
        """What the value is read from: the levels' mean and highest features."""
        general, each = self._parts(features)
        found: Tensor = self.value(torch.cat([general, each.mean(dim=1), each.amax(dim=1)], dim=1))
        return found

    def _parts(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return features[:, :self._general], features[:, self._general:].reshape(len(features), -1, EACH)


def _layers(inputs: int, hidden: int, outputs: int | None) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh()]
    if outputs is not None:
        last = nn.Linear(hidden, outputs)
        nn.init.orthogonal_(last.weight, 0.01)  # nearly uniform at the beginning, as stable-baselines3 has it
        nn.init.zeros_(last.bias)
        layers.append(last)
    return nn.Sequential(*layers)


class ScoringPolicy(ActorCriticPolicy):
    """stable-baselines3's actor and critic with scores of levels as logits.

    Args:
        observation_space: Of `autosplit.envs.stream`.
        action_space: Of the same.
        lr_schedule: See stable-baselines3, as for all else.
        hidden: Width of the hidden layers.
        **others: Further arguments of `ActorCriticPolicy`.
    """

    def __init__(
        self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], lr_schedule: Schedule,
        hidden: int = 64, **others: Any,
    ) -> None:
        assert isinstance(observation_space, spaces.Box)
        assert isinstance(action_space, spaces.Discrete)
        levels = int(action_space.n) - 1
        self._hidden, self._general = hidden, observation_space.shape[0] - levels * EACH
        super().__init__(observation_space, action_space, lr_schedule, ortho_init=False, **others)

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor: Any = _Scores(self._general, self._hidden)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.action_net = nn.Identity()  # the scores are the logits
        self.optimizer = self.optimizer_class(
            self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]
