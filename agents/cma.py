"""CMA-ES as an agent; needs the package `cmaes`."""

from __future__ import annotations

import importlib.util

from optuna.samplers import BaseSampler, CmaEsSampler

from autosplit.agents.samplers import SamplerAgent
from autosplit.core.errors import PluginError
from autosplit.core.extras import install_command

__all__ = ["CmaEsAgent"]

# at import, so that a search with this agent ends before anything is trained
if importlib.util.find_spec("cmaes") is None:
    raise PluginError(f"agent 'cmaes' needs the package cmaes: {install_command('cmaes')}")


class CmaEsAgent(SamplerAgent):
    """Evolution strategy that adapts the covariance of a normal distribution over the levels, rounded.

    Hansen and Ostermeier, "Completely derandomized self-adaptation in evolution strategies" (Evolutionary Computation
    2001). It works on numbers alone: split points are numbered in the order of execution, kinds of images and codecs
    in an order that means nothing. Papers of this field compare with it (Bayes-Split-Edge, arXiv 2510.23503).
    """

    name = "cmaes"
    generations = True
    categories = False
    split_is_category = False

    def _sampler(self, seed: int) -> BaseSampler:
        return CmaEsSampler(seed=seed)
