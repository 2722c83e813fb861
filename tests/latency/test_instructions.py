"""The latency model `instructions`: counted instructions times cycles, and `analytic` for everything else."""

from __future__ import annotations

import pytest

from autosplit.core.errors import ConfigError
from autosplit.core.measurement import StageCost, Workload
from autosplit.core.operators import OperatorWork, TypeSums
from autosplit.core.plan import CodecSetting, Plan
from autosplit.core.profiles import DeviceProfile, load_profile
from autosplit.core.scenario import for_machine, load_scenario
from autosplit.latency import load_latency_model
from autosplit.latency.instructions import InstructionsLatencyModel
from autosplit.testing import LatencyModelContract

BOARD = load_profile(DeviceProfile, "stm32l4r5-c")
WORK = [OperatorWork("conv", rows=16, columns=16, kernel=9, positions=1024, bias=16, outputs=16384, inputs=16,
                     reads=16384),
        OperatorWork("linear", rows=10, columns=64, kernel=1, positions=1, bias=10, outputs=10, reads=64),
        OperatorWork("other", outputs=16384, reads=32768)]


def cost(works, symbols=0.0):
    return StageCost(conv_macs=1.0, operators=len(works), by_type=TypeSums.of(works), coded_symbols=symbols)


def conditions(device=BOARD):
    return load_scenario("default").conditions.model_copy(update={"device": device})


class TestContract(LatencyModelContract):
    machine = "stm32l4r5-c"

    @pytest.fixture
    def model(self):
        return InstructionsLatencyModel()


def test_milliseconds_are_instructions_times_cycles_over_the_clock():
    work = Workload(plan=Plan(split="output", codec=CodecSetting(kind="none")), device=cost(WORK))
    found = load_latency_model("instructions").latency([work], [conditions()])
    block = BOARD.instructions
    expected = sum(price * term for w, kind in zip(WORK, (block.conv, block.linear, block.other), strict=True)
                   for price, term in zip(kind, w.terms, strict=True))
    assert found.device_ms[0, 0] == pytest.approx(expected * 1.5 / 120e3)
    # a convolution of this shape takes 2.44 to 2.47 million instructions under QEMU (benchmarks.instructions)
    conv = sum(price * term for price, term in zip(block.conv, WORK[0].terms, strict=True))
    assert conv == pytest.approx(2.45e6, rel=0.03)


def test_symbols_have_a_price():
    plan = Plan(split="layer1", codec=CodecSetting(kind="code", width=1, grid=16, bits=4))
    work = Workload(plan=plan, device=cost(WORK), encode=cost([], 1000.0), payload_bytes_mean=100.0,
                    payload_bytes_p95=100.0)
    found = load_latency_model("instructions").latency([work], [conditions()])
    assert found.encode_ms[0, 0] == pytest.approx(1000 * 78 * 1.5 / 120e3)


def test_edge_and_link_are_those_of_analytic():
    plan = Plan(split="layer1", codec=CodecSetting(kind="code", width=1, grid=16, bits=4))
    work = Workload(plan=plan, device=cost(WORK), edge=cost(WORK), payload_bytes_mean=100.0, payload_bytes_p95=120.0)
    one, other = (load_latency_model(name).latency([work], [conditions()]) for name in ("instructions", "analytic"))
    assert (one.edge_ms == other.edge_ms).all()
    assert (one.uplink_ms == other.uplink_ms).all()
    assert (one.device_ms != other.device_ms).all()


def test_a_faster_clock_is_faster():
    work = Workload(plan=Plan(split="output", codec=CodecSetting(kind="none")), device=cost(WORK))
    slow, fast = load_latency_model("instructions").latency([work], [conditions(), conditions(BOARD.scaled(4.0))]
                                                            ).device_ms[0]
    assert slow == pytest.approx(4 * fast)


def test_a_device_without_instructions_is_refused():
    work = Workload(plan=Plan(split="output", codec=CodecSetting(kind="none")), device=cost(WORK))
    with pytest.raises(ConfigError, match=r"'stm32l4r5' has no block 'instructions'; take .*stm32l4r5-c"):
        InstructionsLatencyModel().latency([work], [conditions(load_profile(DeviceProfile, "stm32l4r5"))])


def test_the_target_c_takes_the_profile_of_the_c_code():
    plain = load_scenario("default")
    assert for_machine(plain) is plain
    found = for_machine(plain.replace(**{"search.target": "c"}))
    assert (found.conditions.device.name, found.latency_model) == ("stm32l4r5-c", "instructions")
    kept = for_machine(plain.replace(**{"search.target": "c"}), {"conditions.device", "latency_model"})
    assert (kept.conditions.device.name, kept.latency_model) == ("stm32l4r5-c", "analytic")
    named = for_machine(plain.replace(**{"search.target": "c", "conditions.device": "stm32h7a3"}))
    assert (named.conditions.device.name, named.latency_model) == ("stm32h7a3-c", "instructions")
    assert for_machine(named) == named


def test_a_device_without_a_profile_of_c_code_is_told(caplog):
    other = for_machine(load_scenario("default").replace(**{"search.target": "c", "conditions.device": "stm32n6"}))
    assert (other.conditions.device.name, other.latency_model) == ("stm32n6", "analytic")
    assert "'stm32n6' has no profile of C code" in caplog.text


def test_limits_of_memory_without_c_are_refused():
    with pytest.raises(ConfigError, match=r"search\.max_ram_kb limits what is written as C; add search\.target: c"):
        load_scenario("default").replace(**{"search.max_ram_kb": 64.0})
