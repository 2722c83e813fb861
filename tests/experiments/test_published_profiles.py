"""The conditions that published searches were made under do not change when a profile is packaged."""

import numpy as np

from autosplit.experiments.bench.conditions import published_profiles


def test_first_draws_are_those_of_the_published_tables():
    sampler = published_profiles()
    assert [d.name for d in sampler.devices] == ["jetson-nano", "raspberry-pi-4", "stm32h7a3", "stm32l4r5"]
    assert [e.name for e in sampler.edges] == ["edge-cpu", "edge-gpu"]
    assert len(sampler.channels) == 9
    assert sampler.sample(np.random.default_rng(0)).budget_ms > 0
