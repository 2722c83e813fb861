"""The baselines from the literature: what each may choose among."""

from __future__ import annotations

import math
from collections.abc import Iterator

from autosplit.compression.codecs.base import Codec
from autosplit.core.plan import CodecSetting, Plan
from autosplit.core.scenario import Scenario
from autosplit.models.entropic_student import ENTROPIC_STUDENT
from autosplit.pipeline.baselines import Baseline
from autosplit.training.supernet import Supernet

__all__ = ["LITERATURE_CODECS", "STUDENT", "codec_baselines", "literature_scenario", "student_baseline",
           "student_scenario", "uniform_baseline"]

STUDENT = "entropic"
"""The baseline after Entropic Student."""

LITERATURE_CODECS = ("aecnn", "bottlenet++", "jalad")
"""Codec families of the baselines' own supernet."""

_TITLES = {"aecnn": "AECNN, unpruned", "bottlenet++": "BottleNet++, unpruned", "jalad": "JALAD, unpruned"}
_SPARSITY, _RATIO, _BITS = 0.5, 64.0, 4


def literature_scenario(scenario: Scenario) -> Scenario:
    """What the networks of `LITERATURE_CODECS` are prepared with, behind the backbone's own head."""
    return scenario.replace(**{
        "codecs": LITERATURE_CODECS, "search.granularity": "uniform", "space.heads": ("pruned",)})


def codec_baselines(supernet: Supernet) -> list[Baseline]:
    """2-step pruning, then each codec of the literature without pruning at any split and setting.

    Args:
        supernet: Trained for `literature_scenario`.
    """
    two_step = Baseline("two-step", "split + pruning (2-step)", tuple(_two_step(supernet)))
    return [two_step, *(Baseline(f, _TITLES[f], tuple(_unpruned(supernet, f))) for f in LITERATURE_CODECS)]


def _two_step(supernet: Supernet) -> Iterator[Plan]:
    """Every split and sparsity (Shi et al. 2019, arXiv 1903.03472); the feature goes as 8-bit integers, range-coded.

    Generous to it: the paper's pipeline has no entropy coder that is fitted to the feature.
    """
    for split in supernet.points:
        for sparsity in supernet.plan_space.sparsities[split]:
            yield Plan(split=split, sparsity=sparsity, codec=supernet.codec(split, "jalad").widest)


def _unpruned(supernet: Supernet, family: str) -> Iterator[Plan]:
    for split in supernet.points:
        yield from (Plan(split=split, codec=setting) for setting in supernet.codec(split, family).settings())


def student_scenario(scenario: Scenario) -> Scenario:
    """What Entropic Student's networks are prepared with: its encoder in the head's place, bits in the loss.

    Its code has the encoder's own grid. One network serves all rates, where the paper trains one for each.
    """
    return scenario.replace(**{
        "codecs": ("factorised",), "search.granularity": "uniform", "space.heads": ("injected",),
        "space.injected_encoder": ENTROPIC_STUDENT, "space.max_grid": None, "space.grid_levels": 1})


def student_baseline(supernet: Supernet) -> Baseline:
    """Entropic Student at any split point and rate (Matsubara et al. 2022, arXiv 2108.11898), reconstructed.

    Args:
        supernet: Trained for `student_scenario`.
    """
    plans = tuple(Plan.at(place, 0.0, setting) for place in supernet.places
                  for setting in supernet.codec(place).settings())
    return Baseline(STUDENT, "Entropic Student", plans)


def uniform_baseline(supernet: Supernet) -> Baseline:
    """One sparsity and one compression ratio everywhere, chosen by rule of thumb; the best split.

    Args:
        supernet: The search's own, whose first codec family is used.
    """
    plans = tuple(Plan(split=split, sparsity=_SPARSITY, codec=setting)
                  for split in supernet.points if split in supernet.places
                  for setting in _nearest(supernet.codec(split)))
    return Baseline("uniform", f"uniform: {_SPARSITY:.0%} pruned, {_RATIO:g}x", plans)


def _nearest(codec: Codec) -> list[CodecSetting]:
    """The settings of (about) 4 bits whose ratio is nearest to 64, before entropy coding; ties are all there."""
    bits = min(codec.bits, key=lambda b: abs(b - _BITS))
    feature_bits = 32.0 * math.prod(codec.shape)
    away = {s: abs(math.log(feature_bits / (bits * math.prod(codec.code_shape(s))) / _RATIO))
            for s in codec.settings() if s.bits == bits}
    return [s for s, distance in away.items() if distance <= min(away.values()) + 1e-9]
