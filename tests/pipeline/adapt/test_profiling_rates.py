"""A bundle of rates that times itself: encoders and tails of all rates, and the C of all rates."""

from __future__ import annotations

import pytest

from autosplit.core.profiles import DeviceProfile, load_profile
from autosplit.core.timings import read_timings
from autosplit.runtime.standalone.compiling import compiler
from autosplit.runtime.standalone.options import ProfileOptions
from autosplit.runtime.standalone.profiling import clock
from autosplit.runtime.standalone.profiling.operators import C_STEPS, OperatorTable
from autosplit.runtime.standalone.profiling.run import profile_bundle
from autosplit.runtime.standalone.protocol.wire import short_key


@pytest.mark.parametrize(("side", "files"), [
    ("device", ["device.onnx", "encoder-0.onnx", "encoder-1.onnx", "encoder-2.onnx", "fallback.onnx"]),
    ("edge", ["edge-0.onnx", "edge-1.onnx", "edge-2.onnx"]),
])
def test_every_file_of_a_side_is_timed(adapted, tmp_path, monkeypatch, side, files):
    monkeypatch.setattr(clock, "ROUNDS", 1)
    out = tmp_path / "mine.yaml"
    made = profile_bundle(adapted[1], out, ProfileOptions(side=side, repeats=10))
    rates = len(adapted[0].manifest.rates)
    assert list(made.wholes_ms) == [f for f in files if f[-6:-5] not in "0123456789" or int(f[-6]) < rates]
    device = load_profile(DeviceProfile, str(out))
    timings = read_timings(device.timings.file, device.timings.sha256)
    assert {t.variant for t in timings} == set(made.wholes_ms)


@pytest.mark.skipif(compiler() is None, reason="no C compiler here")
def test_the_c_of_every_rate_is_timed(adapted, tmp_path):
    made = profile_bundle(adapted[1], tmp_path / "mine.yaml", ProfileOptions(engine="c"))
    rates = range(len(adapted[0].manifest.rates))
    assert set(made.wholes_ms) == {"c fallback", *(f"c rate {i} {part}" for i in rates for part in ("head", "encoder"))}
    assert made.operators == len(OperatorTable.load(adapted[1]).files[C_STEPS].rows)


def test_packets_of_the_c_are_those_of_the_bundle(adapted):
    """The key in its frames, by which a gateway knows them."""
    header = (adapted[1] / "c" / "autosplit.h").read_text()
    key = "".join(f", 0x{b:02x}" for b in short_key(adapted[0].manifest.key))[2:]
    assert f"AUTOSPLIT_KEY {{{key}}}" in header
