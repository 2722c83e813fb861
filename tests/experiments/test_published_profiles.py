"""The conditions that published searches were made under do not change when a profile is packaged."""

import numpy as np

from autosplit.experiments.bench.conditions import published_profiles


def test_first_draws_are_those_of_the_published_tables():
    sampler = published_profiles()
    assert [d.name for d in sampler.devices] == ["jetson-nano", "raspberry-pi-4", "stm32h7a3", "stm32l4r5"]
    assert [e.name for e in sampler.edges] == ["edge-cpu", "edge-gpu"]
    assert len(sampler.channels) == 9
    drawn = [sampler.sample(np.random.default_rng([seed, 0xBE])) for seed in (10, 11, 12)]
    assert [(c.device.name, c.channel.name, round(c.budget_ms, 3)) for c in drawn] == [
        ("stm32h7a3", "ble-1m", 343.287), ("jetson-nano", "sub-ghz-fsk-50k", 26.286), ("jetson-nano", "5g", 432.387)]
