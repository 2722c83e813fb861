"""Optuna's samplers as agents.

What they are given, so that they are as strong as they can be here:

*The prior, as far as they can use it.* They begin with the problem's initial design, as all agents do, and are told its
outcomes: as trials, or as members of the first generation. A sampler takes no expectation of all plans beyond that.

*Latency is free to them too.* A suggestion is read axis by axis (`PlanAxes.settle`), and a level that leads to no plan
in time counts as the nearest level that does, so every suggestion stands for a plan worth a measurement, as every
action of `ppo` does. Telling a sampler of plans that are too late instead (as violated constraints, or with the least
reward they can have) makes it spend most of its suggestions on learning what is known.

*Nothing is measured twice.* A suggestion that was measured already is taken back, and another asked for; after a few of
those the open plan nearest to the last suggestion is measured. Telling the known reward again instead was no better on
synthetic tables, and slower.

*One suggestion at a time*, since each outcome changes the next.

*Axes as each sampler wants them*: see the classes. Samplers are seeded, draw from generators of their own, and see an
in-memory study that only this agent writes to.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, TPESampler
from optuna.trial import Trial, TrialState, create_trial

from autosplit.agents.axes import PlanAxes
from autosplit.agents.base import Agent, SearchProblem
from autosplit.core.measurement import Outcome
from autosplit.core.quiet import silent_optuna

__all__ = ["GPAgent", "NSGA2Agent", "SamplerAgent", "TPEAgent"]


class SamplerAgent(Agent):
    """Proposes what an Optuna sampler suggests. An author overrides `_sampler` and sets the attributes.

    Args:
        problem: What to search.

    Attributes:
        attempts: Suggestions asked for before the nearest open plan is taken.
        conditional: Whether a parameter is suggested only where the plan has that choice; else all are, always, and
            those that a plan has not are ignored.
        split_is_category: Whether split points have no order; kinds of images and codecs never have.
        categories: Whether the sampler can take categories; if not, they are numbered.
        generations: Whether the sampler learns from its own suggestions only, so that an outcome must be told to the
            suggestion it came from. Else it learns from any trials, and each measured plan is one with the plan's own
            parameters.
    """

    attempts: ClassVar[int] = 5
    conditional: ClassVar[bool] = False
    split_is_category: ClassVar[bool] = True
    categories: ClassVar[bool] = True
    generations: ClassVar[bool] = False

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem)
        self._axes = PlanAxes.of(problem)
        self._candidates = np.flatnonzero(problem.candidates)
        self._distributions: dict[str, BaseDistribution] = {}
        for name, size, has_order in zip(self._axes.names, self._axes.sizes, self._axes.ordered, strict=True):
            if self.categories and (not has_order or (name == "split" and self.split_is_category)):
                self._distributions[name] = CategoricalDistribution(range(size))
            else:
                self._distributions[name] = IntDistribution(0, size - 1)
        self._asked: dict[int, Trial] = {}
        with silent_optuna():
            self._study = optuna.create_study(direction="maximize", sampler=self._sampler(self.seed_for("sampler")))

    @abstractmethod
    def _sampler(self, seed: int) -> BaseSampler:
        """The sampler; its warnings are kept quiet."""

    def _propose(self, n: int) -> Sequence[int]:  # noqa: ARG002
        with silent_optuna():
            for _ in range(self.attempts):
                trial = self._study.ask()
                number = self._read(trial)
                taken = bool(self._open[number])
                if taken and self.generations:  # its outcome has to go back to this very trial
                    self._asked[number] = trial
                else:
                    self._study.tell(trial, state=TrialState.FAIL)  # samplers pass over it
                if taken:
                    return [number]
        # the sampler repeats itself: what it asks for is known, and the plan next to it tells it something new
        return [self._axes.nearest(number, self.open_numbers())]

    def _observe(self, outcomes: Sequence[Outcome]) -> None:
        with silent_optuna():
            for outcome in outcomes:
                number, reward = self.problem.number[outcome.plan], outcome.reward
                levels = zip(self._axes.names, self._axes.levels[number].tolist(), self._axes.sizes, strict=True)
                # where a plan has no such choice the parameter is left out, or in the middle where there must be one
                parameters = {name: level if level >= 0 else (size - 1) // 2 for name, level, size in levels
                              if level >= 0 or not self.conditional}
                if not self.generations:
                    distributions = {name: self._distributions[name] for name in parameters}
                    self._study.add_trial(create_trial(params=parameters, distributions=distributions, value=reward))
                elif number in self._asked:
                    self._study.tell(self._asked.pop(number), reward)
                else:  # not the sampler's idea: let it into the generation as if it were
                    self._study.enqueue_trial(parameters)
                    trial = self._study.ask()
                    _ = trial.relative_params  # a trial gets its place in a generation when the sampler draws for it
                    self._read(trial)
                    self._study.tell(trial, reward)

    def _read(self, trial: Trial) -> int:
        """The plan that a suggestion stands for."""
        if not self.conditional:
            # samplers of a fixed space expect every trial to have every parameter, also those that this plan has not
            for axis in range(len(self._axes.names)):
                self._suggested(trial, axis)
        return self._axes.settle(lambda axis: self._suggested(trial, axis), self._candidates)

    def _suggested(self, trial: Trial, axis: int) -> int:
        name = self._axes.names[axis]
        distribution = self._distributions[name]
        if isinstance(distribution, CategoricalDistribution):
            return int(trial.suggest_categorical(name, distribution.choices))  # type: ignore[arg-type]
        return trial.suggest_int(name, 0, self._axes.sizes[axis] - 1)

class TPEAgent(SamplerAgent):
    """Tree-structured Parzen estimator, multivariate, by groups of parameters that occur together.

    Bergstra et al., "Algorithms for hyper-parameter optimization" (NeurIPS 2011); multivariate as in BOHB (Falkner et
    al., ICML 2018). The method is made for conditional spaces, and gets one: a split point has no JPEG quality, an
    image no codec width.
    """

    name = "tpe"
    conditional = True

    def _sampler(self, seed: int) -> BaseSampler:
        return TPESampler(seed=seed, multivariate=True, group=True)


class GPAgent(SamplerAgent):
    """Bayesian optimisation with a Gaussian process, Matern 5/2, logarithm of the expected improvement.

    Ament et al., "Unexpected improvements to expected improvement" (NeurIPS 2023, arXiv 2310.20708). The sampler knows
    no conditional parameters, so all are suggested always; split points are numbers in the order of execution, since a
    smooth function of the depth is what a process can learn. It suggests the maximum of the acquisition, and with
    nothing new learnt would suggest it again; so it is asked once.

    Args:
        problem: What to search.
        startup: Trials before the process is fitted, Optuna's own default. The initial design counts; suggestions are
            random until there are as many.
    """

    name = "gp"
    split_is_category = False
    attempts = 1

    def __init__(self, problem: SearchProblem, startup: int = 10) -> None:
        self._startup = startup
        super().__init__(problem)

    def _sampler(self, seed: int) -> BaseSampler:
        return GPSampler(seed=seed, n_startup_trials=self._startup)


class NSGA2Agent(SamplerAgent):
    """The genetic algorithm NSGA-II, here with the reward as its one objective.

    Deb et al., "A fast and elitist multiobjective genetic algorithm" (IEEE TEC 2002). Latency is no second objective:
    it is known before, and a front of plans that are all in time would cost measurements that the best plan needs.
    Populations of 20 instead of Optuna's 50, so that 100 measurements are five generations.
    """

    name = "nsga2"
    generations = True

    def _sampler(self, seed: int) -> BaseSampler:
        return NSGAIISampler(seed=seed, population_size=20)
