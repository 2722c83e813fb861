"""Profiles of a machine whose every time follows a law."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml

from autosplit.core.errors import AutosplitError, ConfigError
from autosplit.core.profiles import DeviceProfile, load_profile
from autosplit.core.timings import read_timings
from autosplit.latency.profiling.run import profile_machine
from autosplit.latency.profiling.variants import DRAWN, LEVELS

from .machines import SECONDS, LawfulClock, analytic_law_s, law_s, settings


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("profile")
    return profile_machine(settings(folder, active_mw=3000.0), folder / "mine.yaml", stopwatch=LawfulClock()), folder


def test_the_profile_on_disk_is_the_one_returned(made):
    profile, folder = made
    read = load_profile(DeviceProfile, str(folder / "mine.yaml"))
    assert read == profile.device
    assert read.name == "mine"
    assert "1 thread" in read.title
    assert yaml.safe_load((folder / "mine.yaml").read_text())["timings"]["file"] == "mine.csv"
    assert read_timings(read.timings.file, read.timings.sha256)[0].time_ms == pytest.approx(
        profile.timings[0].time_ms, rel=1e-5)


def test_versions_of_the_network_have_layers_of_other_shapes(made):
    timings = made[0].timings
    assert len({t.variant for t in timings}) == len(LEVELS) + DRAWN
    assert {t.work.kind for t in timings} == {"conv", "depthwise", "linear", "other"}
    assert len({t.work for t in timings if t.work.kind == "conv"}) > 15


def test_the_error_on_shapes_left_out_is_that_of_a_law_the_regression_can_hold(made):
    held_out = made[0].held_out
    assert set(held_out) == {"conv", "depthwise", "linear", "other"}
    assert max(error.median_percent for error in held_out.values()) < 0.1


def test_rates_of_the_analytic_model_are_recovered(tmp_path):
    device = profile_machine(settings(tmp_path), tmp_path / "mine.yaml", stopwatch=LawfulClock(analytic_law_s)).device
    for kind in ("conv", "depthwise", "linear"):
        assert getattr(device, f"{kind}_mmacs").value == pytest.approx(1e-6 / SECONDS[kind], rel=0.01)
    assert device.memory_mb_per_s.value == pytest.approx(4e-6 / 4e-10, rel=0.01)
    assert device.operator_overhead_us.value == pytest.approx(6, rel=0.01)
    assert device.image_kpixels.value == pytest.approx(32 * 32 / 2e-4 / 1e3, rel=0.01)


def test_figures_say_where_they_come_from(made):
    device = made[0].device
    assert "measured by autosplit profile on" in device.conv_mmacs.source
    assert "1 thread, 20" in device.conv_mmacs.source
    assert (device.active_mw.value, device.active_mw.assumption) == (3000.0, False)
    assert device.idle_mw.assumption
    assert "--idle-mw" in device.idle_mw.source


def test_types_that_were_not_timed_are_assumed(tmp_path):
    made = profile_machine(settings(tmp_path, "resnet8"), tmp_path / "mine.yaml", stopwatch=LawfulClock())
    assert made.device.depthwise_mmacs.assumption
    assert made.device.depthwise_mmacs.value == pytest.approx(made.device.conv_mmacs.value / 7, rel=1e-3)
    assert "depthwise" not in made.held_out


@pytest.mark.parametrize(("share", "said"), [(0.54321, True), (0.99, False), (None, False)])
def test_a_busy_machine_is_told(tmp_path, share, said):
    clock = LawfulClock(processor_share=share)
    made = profile_machine(settings(tmp_path, "resnet8"), tmp_path / "mine.yaml", stopwatch=clock)
    assert ("only 54% of the time" in str(made.disturbance)) == said
    assert made.device.timings.processor_share == (None if share is None else round(share, 3))
    assert load_profile(DeviceProfile, str(tmp_path / "mine.yaml")) == made.device


def test_equal_times_give_equal_files(made, tmp_path):
    again = profile_machine(settings(tmp_path, active_mw=3000.0), tmp_path / "mine.yaml", stopwatch=LawfulClock())
    ours, theirs = ([(t.variant, t.node, t.work, t.time_ms) for t in m.timings] for m in (again, made[0]))
    assert ours == theirs
    assert again.held_out == made[0].held_out


def test_threads_and_random_numbers_are_left_as_they_were(tmp_path):
    before, state = torch.get_num_threads(), torch.random.get_rng_state()
    profile_machine(settings(tmp_path, threads=2), tmp_path / "mine.yaml", stopwatch=LawfulClock())
    assert torch.get_num_threads() == before
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_real_clock_times_everything(tmp_path):
    made = profile_machine(settings(tmp_path, repeats=2), tmp_path / "mine.yaml")
    assert min(t.time_ms for t in made.timings) > 0
    assert np.isfinite([e.median_percent for e in made.held_out.values()]).all()
    assert made.device.coding_ksymbols.value > 0


@pytest.mark.parametrize(("out", "backbone", "message"), [
    ("mine.csv", None, "NAME.yaml"),
    ("mine.yaml", "resnet9", "unknown backbone 'resnet9'"),
    ("mine.yaml", "NOTHING", "no operator that counts"),
    ("file/mine.yaml", None, "cannot write"),
])
def test_bad_input_is_one_line(tmp_path, out, backbone, message):
    (tmp_path / "file").write_text("")
    if backbone == "NOTHING":
        (tmp_path / "nothing.py").write_text(
            "from torch import nn\ndef network(num_classes):\n"
            "    return nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Unflatten(1, (10, -1)), Last())\n"
            "class Last(nn.Module):\n    def forward(self, x):\n        return x[:, :, 0]\n")
        backbone = f"{tmp_path / 'nothing.py'}:network"
    chosen = settings(tmp_path, backbone, shape=(5, 4, 4) if backbone and "nothing" in backbone else (3, 32, 32))
    with pytest.raises(AutosplitError, match=message) as caught:
        profile_machine(chosen, tmp_path / out, stopwatch=LawfulClock())
    assert "\n" not in str(caught.value)


def test_profiles_that_are_scaled_scale_their_timings(made):
    twice = made[0].device.scaled(2.0)
    assert twice.timings.factor == 2.0
    assert twice.scaled(0.5).timings.factor == 1.0


def test_a_changed_csv_is_refused(made, tmp_path):
    for name in ("mine.yaml", "mine.csv"):
        (tmp_path / name).write_bytes((made[1] / name).read_bytes())
    with (tmp_path / "mine.csv").open("a") as file:
        file.write("\n")
    with pytest.raises(ConfigError, match=r"timings .* are not those that the profile was made of; restore the file"):
        load_profile(DeviceProfile, str(tmp_path / "mine.yaml"))


def test_the_law_pays_for_padding():
    """The law of these tests is not the one of `analytic`, so agreeing with it means something."""
    from autosplit.core.operators import OperatorWork

    narrow, full = (OperatorWork("conv", n, n, 9, 64) for n in (17, 32))
    assert law_s(narrow) > 0.6 * law_s(full)
    assert narrow.macs < 0.3 * full.macs
