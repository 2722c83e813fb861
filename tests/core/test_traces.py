"""Recorded rates: transfers against an integration in small steps, and files that are no traces."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from autosplit.core.errors import ConfigError
from autosplit.core.profiles import ChannelProfile, load_profile
from autosplit.latency.channel.rate_process import rate_process_of
from autosplit.latency.random import POINTS, uniform
from tests.latency.channels import assert_percentiles_of, moving, over, sending, trace

EXAMPLES = Path(__file__).parents[2] / "examples"
ROWS = [(0, 100), (0.5, 20), (0.8, 0), (1, 400), (1.1, 50)]
"""A lap of 1.2 s with an outage of 0.2 s."""


@pytest.fixture
def channel(tmp_path):
    return moving(trace=trace(tmp_path, ROWS))


def played_ms(rows, start_ms, bits):
    """One transfer, sample by sample, from an instant of the lap."""
    ends = [t * 1000 for t, _ in rows[1:]] + [2000 * rows[-1][0] - 1000 * rows[-2][0]]
    now, lap = start_ms, 0
    while True:
        for (_, rate), end in zip(rows, ends, strict=True):
            until = lap * ends[-1] + end
            if until <= now:
                continue
            if rate * (until - now) >= bits:
                return now + bits / rate - start_ms
            bits -= rate * (until - now)
            now = until
        lap += 1


class TestTransfers:
    @pytest.mark.parametrize("payload", [1, 100, 700, 9000, 60_000])
    def test_each_draw_is_the_integral_of_the_rate(self, channel, payload):
        bits = 8 * (payload + 25)
        taken = rate_process_of(channel).taken_ms(np.full(POINTS, bits / channel.uplink_kbps.value))
        starts = uniform("start") * 1200
        expected = [played_ms(ROWS, start, bits) for start in starts[::100]]
        np.testing.assert_allclose(taken[::100], expected, rtol=1e-9, atol=1e-9)

    def test_the_rate_moves_on_during_a_pause(self, channel):
        taken = rate_process_of(channel).taken_ms(np.full(POINTS, 300.0), np.ones(POINTS), 450.0)
        for start, place, found in list(zip(uniform("start") * 1200, uniform("pause"), taken, strict=True))[::500]:
            bits = 300 * channel.uplink_kbps.value
            before = played_ms(ROWS, start, place * bits)
            after = played_ms(ROWS, (start + before + 450) % 1200, (1 - place) * bits)
            assert found == pytest.approx(before + after, rel=1e-6)

    @pytest.mark.parametrize("payload", [1, 100, 700])
    def test_percentiles_are_those_of_random_starts(self, channel, payload):
        rng = np.random.default_rng(payload)
        bits = 8 * (payload + 25 * -(-payload // 200))
        times = [played_ms(ROWS, start, bits) for start in rng.random(5000) * 1200]
        assert_percentiles_of(over(channel, sending(payload)), times)

    def test_mean_over_time_is_the_rate_of_long_transfers(self, channel):
        mean = (100 * 0.5 + 20 * 0.3 + 400 * 0.1 + 50 * 0.1) / 1.2
        assert channel.uplink_kbps.value == pytest.approx(mean)
        answer = over(channel, sending(200_000))
        assert answer.p95_ms.item() == pytest.approx(225_000 * 8 / mean, rel=0.01)

    def test_a_constant_trace_is_a_constant_rate(self, tmp_path):
        even = moving(trace=trace(tmp_path, [(0, 100), (1, 100), (3, 100)]))
        for payload in (1, 199, 200, 201, 5000, 90_000):
            traced, plain = over(even, sending(payload)), over(moving(), sending(payload))
            np.testing.assert_allclose(traced.p99_ms, plain.p99_ms, rtol=1e-9)
            np.testing.assert_allclose(traced.energy_mj, plain.energy_mj, rtol=1e-9)

    def test_scaling_keeps_the_clock(self, channel):
        twice = channel.scaled(2, 1)
        again = ChannelProfile.model_validate(twice.model_dump())
        assert again == twice
        assert again.uplink_kbps.value == 2 * channel.uplink_kbps.value
        doubled = rate_process_of(again).taken_ms(np.full(POINTS, 2000 / again.uplink_kbps.value))
        once = rate_process_of(channel).taken_ms(np.full(POINTS, 1000 / channel.uplink_kbps.value))
        np.testing.assert_array_equal(doubled, once)

    def test_to_the_last_bit_never_faster_with_more_to_send(self, channel):
        process, before = rate_process_of(channel), np.zeros(POINTS)
        for work in np.linspace(0, 5000, 400):
            taken = process.taken_ms(np.full(POINTS, work))
            assert (taken >= before).all()
            before = taken


class TestFiles:
    def test_the_example_is_read_from_beside_its_profile_and_recorded_by_hash(self, tmp_path, monkeypatch):
        for name in ("walk-away.yaml", "walk-away.csv"):
            shutil.copy(EXAMPLES / name, tmp_path)
        channel = load_profile(ChannelProfile, str(tmp_path / "walk-away.yaml"))
        assert channel.trace.assumption
        assert len(channel.trace.sha256) == 64
        monkeypatch.chdir("/")
        again = ChannelProfile.model_validate(yaml.safe_load(yaml.safe_dump(channel.model_dump(mode="json"))))
        assert again == channel
        assert over(again, sending(100)).p95_ms > over(again, sending(100)).p50_ms

    def test_another_file_than_was_recorded_is_refused(self, channel):
        recorded = channel.model_dump(mode="json")
        Path(channel.trace.file).write_text("time_s,rate_kbps\n0,1\n1,2\n")
        with pytest.raises(ValueError, match="is not the file that was recorded"):
            ChannelProfile.model_validate(recorded)

    @pytest.mark.parametrize(("text", "message"), [
        ("", "the first line must be time_s,rate_kbps"),
        ("time,rate\n0,1\n1,1\n", "the first line must be time_s,rate_kbps"),
        ("time_s,rate_kbps\n0,1\n", "1 rows; give at least two"),
        ("time_s,rate_kbps\n0,1\n1,fast\n", "line 3: '1,fast' is not a time and a rate"),
        ("time_s,rate_kbps\n0,1\n1\n", "line 3: '1' is not a time and a rate"),
        ("time_s,rate_kbps\n0,1\n1,-1\n", "line 3: time and rate must be finite, and the rate at least 0"),
        ("time_s,rate_kbps\n0,1\n1,nan\n", "line 3: time and rate must be finite"),
        ("time_s,rate_kbps\n0,1\n2,1\n1,1\n", "time_s must ascend, but 1 follows 2"),
        ("time_s,rate_kbps\n0,0\n1,0\n", "every rate is 0"),
        (None, "no such file"),
    ])
    def test_what_is_no_trace_is_refused_in_one_line(self, tmp_path, text, message):
        shutil.copy(EXAMPLES / "walk-away.yaml", tmp_path)
        if text is not None:
            (tmp_path / "walk-away.csv").write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_profile(ChannelProfile, str(tmp_path / "walk-away.yaml"))
        assert message in str(caught.value)
        assert "walk-away.csv" in str(caught.value)
        assert "more)" not in str(caught.value)
        assert "\n" not in str(caught.value)
