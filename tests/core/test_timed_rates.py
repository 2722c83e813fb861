"""The rates of a profile that consists of timings."""

from __future__ import annotations

import pytest
import yaml

from autosplit.core.errors import ConfigError
from autosplit.core.profiles import DeviceProfile, load_profile
from autosplit.core.timed_rates import TIMED_RATES
from tests.latency.profiling.machines import SECONDS, analytic_law_s, csv_of
from tests.latency.test_profiled import various


@pytest.fixture
def path(tmp_path):
    """A profile without any rate but those of the coders."""
    csv_of(tmp_path / "law.csv", various(), analytic_law_s)
    return tmp_path / "law.yaml"


def test_they_follow_from_the_timings(path):
    device = load_profile(DeviceProfile, str(path))
    assert not set(TIMED_RATES) & set(yaml.safe_load(path.read_text()))
    for kind in ("conv", "depthwise", "linear"):
        assert getattr(device, f"{kind}_mmacs").value == pytest.approx(1e-6 / SECONDS[kind], rel=0.01)
    assert device.memory_mb_per_s.value == pytest.approx(4e-6 / 4e-10, rel=0.01)
    assert device.operator_overhead_us.value == pytest.approx(6, rel=0.01)
    assert device.conv_mmacs.source.startswith("the law of the tests: solved from 200 operators of net")


def test_a_byte_an_element_is_a_quarter_of_the_bandwidth(path):
    path.write_text(path.read_text().replace('"fp32"', '"int8"'))
    assert load_profile(DeviceProfile, str(path)).memory_mb_per_s.value == pytest.approx(1e-6 / 4e-10, rel=0.01)


def test_a_stated_rate_that_the_timings_contradict_is_refused(path):
    text = path.read_text()
    path.write_text(text + 'conv_mmacs: {value: 5, source: "I know better"}\n')
    with pytest.raises(ConfigError, match=r"conv_mmacs is 5, but the timings tell .*; leave conv_mmacs out") as caught:
        load_profile(DeviceProfile, str(path))
    assert "\n" not in str(caught.value)


def test_of_a_type_that_was_not_timed_a_rate_may_be_stated(tmp_path):
    csv_of(tmp_path / "few.csv", [w for w in various() if w.kind != "depthwise"], analytic_law_s)
    path = tmp_path / "few.yaml"
    assert load_profile(DeviceProfile, str(path)).depthwise_mmacs.assumption
    path.write_text(path.read_text() + 'depthwise_mmacs: {value: 5, source: "I measured it"}\n')
    assert load_profile(DeviceProfile, str(path)).depthwise_mmacs.value == 5


def test_a_machine_twice_as_fast(path):
    device = load_profile(DeviceProfile, str(path))
    fast = device.scaled(2.0)
    assert fast.timings.factor == 2.0
    assert fast.conv_mmacs.value == pytest.approx(2 * device.conv_mmacs.value)
    again = DeviceProfile.model_validate({k: v for k, v in fast.model_dump().items() if k not in TIMED_RATES})
    assert again.conv_mmacs.value == pytest.approx(fast.conv_mmacs.value)
    assert again.operator_overhead_us.value == pytest.approx(fast.operator_overhead_us.value)


def test_without_timings_they_are_required(path):
    text = "".join(line for line in path.read_text().splitlines(keepends=True) if not line.startswith("timings"))
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"conv_mmacs: .*[Ff]ield required") as caught:
        load_profile(DeviceProfile, str(path))
    assert "\n" not in str(caught.value)


def test_damaged_timings_are_the_only_error(path):
    path.with_suffix(".csv").write_text("nothing")
    with pytest.raises(ConfigError, match="not those that the profile was made of") as caught:
        load_profile(DeviceProfile, str(path))
    assert "more)" not in str(caught.value)
