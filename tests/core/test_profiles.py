from __future__ import annotations

import json

import pytest
import torchvision

from autosplit.core.errors import ConfigError, UnknownNameError
from autosplit.core.measurement import StageCost, Workload
from autosplit.core.parameters import Parameter
from autosplit.core.profiles import ChannelProfile, DeviceProfile, list_profiles, load_profile
from autosplit.core.scenario import load_scenario
from autosplit.latency.analytic import AnalyticLatencyModel, stage_ms
from autosplit.models.costs import stage_cost
from autosplit.testing import make_conditions, make_plan
from tests.latency.channels import SHANNON, figures, trace
from tests.latency.networks import published_costs

STM32_MS = {
    "stm32l4r5": {"resnet8": 227.0, "vww": 230.0, "ad": 1000 / 131.95, "kws": 1000 / 13.323},
    "stm32h7a3": {"resnet8": 54.3, "vww": 50.7, "ad": 1000 / 547.7, "kws": 1000 / 59.667},
}
"""MLPerf Tiny v1.0, closed division, STMicroelectronics, milliseconds an inference."""

PROFILES = [(kind, name) for kind in (DeviceProfile, ChannelProfile) for name in list_profiles(kind)]


@pytest.fixture(scope="module")
def costs() -> dict[str, StageCost]:
    return published_costs()


@pytest.fixture
def text() -> str:
    """A valid channel profile as YAML."""
    return load_profile(ChannelProfile, "lora-sf7").model_dump_json()  # JSON is YAML


class TestPackagedProfiles:
    def test_the_documented_ones_are_there(self):
        assert set(list_profiles(DeviceProfile)) >= {
            "stm32l4r5", "stm32h7a3", "raspberry-pi-4", "jetson-nano", "edge-gpu", "edge-cpu"}
        assert set(list_profiles(ChannelProfile)) >= {
            "lora-sf7", "sub-ghz-fsk-50k", "ble-coded", "ble-1m", "lte-m", "3g", "lte", "wifi4", "5g",
            "lte-pedestrian", "ble-1m-bursty"}

    @pytest.mark.parametrize(("kind", "name"), PROFILES)
    def test_each_is_named_like_its_file_and_every_figure_has_a_source(self, kind, name):
        profile = load_profile(kind, name)
        figures = {k: v for k, v in profile if isinstance(v, Parameter)}
        assert profile.name == name
        assert len(figures) >= 9
        assert all(len(f.source) >= 10 for f in figures.values())

    def test_default_scenario_is_the_microcontroller_behind_the_slow_radio(self):
        scenario = load_scenario()
        c = scenario.conditions
        assert (scenario.name, scenario.backbone, scenario.dataset) == ("digits-m-resnet8", "resnet8", "digits-m")
        assert (c.device.name, c.edge.name, c.channel.name, c.budget_ms) == (
            "stm32l4r5", "edge-cpu", "sub-ghz-fsk-50k", 100)


class TestPublishedLatencies:
    @pytest.mark.parametrize("device", STM32_MS)
    @pytest.mark.parametrize("network", ["resnet8", "vww", "ad"])
    def test_calibrated_networks_come_out_within_one_percent(self, costs, device, network):
        modelled = stage_ms(costs[network], load_profile(DeviceProfile, device))
        assert modelled == pytest.approx(STM32_MS[device][network], rel=0.01)

    @pytest.mark.parametrize("device", STM32_MS)
    def test_a_network_that_was_held_out_comes_out_within_ten_percent(self, costs, device):
        modelled = stage_ms(costs["kws"], load_profile(DeviceProfile, device))
        assert modelled == pytest.approx(STM32_MS[device]["kws"], rel=0.10)

    @pytest.mark.parametrize("device", STM32_MS)
    def test_rates_are_the_solution_of_the_published_latencies(self, costs, device):
        profile, published = load_profile(DeviceProfile, device), STM32_MS[device]

        def rest_ms(network: str, *, linear: float = 0, conv: float = 0) -> float:
            c = costs[network]
            moved = (c.weight_elements + c.activation_elements) / profile.memory_mb_per_s.value
            terms = moved + c.operators * profile.operator_overhead_us.value
            terms += c.linear_macs / linear if linear else 0
            terms += c.conv_macs / conv if conv else 0
            return published[network] - terms / 1000

        linear = costs["ad"].linear_macs / rest_ms("ad") / 1000
        conv = costs["resnet8"].conv_macs / rest_ms("resnet8", linear=linear) / 1000
        depthwise = costs["vww"].depthwise_macs / rest_ms("vww", linear=linear, conv=conv) / 1000
        assert profile.linear_mmacs.value == pytest.approx(linear, rel=2e-3)
        assert profile.conv_mmacs.value == pytest.approx(conv, rel=2e-3)
        assert profile.depthwise_mmacs.value == pytest.approx(depthwise, rel=5e-3)

    @pytest.mark.parametrize(("device", "published_mj"), [("stm32l4r5", 10.682), ("stm32h7a3", 8.707)])
    def test_published_energy_of_resnet8_comes_out_within_one_percent(self, costs, device, published_mj):
        workload = Workload(plan=make_plan("output"), device=costs["resnet8"])
        answer = AnalyticLatencyModel().latency([workload], [make_conditions(device=device)])
        assert answer.energy_mj.item() == pytest.approx(published_mj, rel=0.01)

    @pytest.mark.parametrize(("device", "network", "published_ms"), [
        ("jetson-nano", "resnet18", 45.9),
        ("jetson-nano", "mobilenet_v2", 52.7),
        ("edge-gpu", "resnet50", 9.5),
    ])
    def test_large_networks_come_out_within_one_percent(self, device, network, published_ms):
        cost = stage_cost(torchvision.models.get_model(network, weights=None), (3, 224, 224))
        assert stage_ms(cost, load_profile(DeviceProfile, device)) == pytest.approx(published_ms, rel=0.01)


class TestBadProfiles:
    def test_unknown_name_gives_the_nearest(self):
        with pytest.raises(UnknownNameError, match=r"unknown channel 'lora-sf8'; did you mean 'lora-sf7'\?"):
            load_profile(ChannelProfile, "lora-sf8")

    def test_missing_file(self, tmp_path):
        with pytest.raises(ConfigError, match=r"device profile '.*mine\.yaml': no such file"):
            load_profile(DeviceProfile, str(tmp_path / "mine.yaml"))

    def test_users_file_is_read(self, tmp_path, text):
        file = tmp_path / "mine.yaml"
        file.write_text(text)
        assert load_profile(ChannelProfile, str(file)) == load_profile(ChannelProfile, "lora-sf7")

    @pytest.mark.parametrize(("old", "new", "message"), [
        ('"name"', '[', "not valid YAML"),
        ('"packet_loss"', '"packet_los"', "packet_loss: Field required"),
        ('"title"', '"colour":"red","title"', "colour: Extra inputs are not permitted"),
        ('"value":5.47', '"value":-1', "uplink_kbps.value: Input should be greater than or equal to 0"),
        ('"value":5.47', '"value":"fast"', "uplink_kbps.value: Input should be a valid number"),
        ('"value":5.47', '"value":.nan', "uplink_kbps.value: Input should be"),
    ])
    def test_one_line_names_file_key_and_fault(self, tmp_path, text, old, new, message):
        file = tmp_path / "mine.yaml"
        file.write_text(text.replace(old, new, 1))
        with pytest.raises(ConfigError) as caught:
            load_profile(ChannelProfile, str(file))
        assert message in str(caught.value)
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(("blocks", "message"), [
        ({"rayleigh": figures(coherence_ms=5)}, "rayleigh moves a signal-to-noise ratio; give the block shannon too"),
        ({"shadowing": figures(sigma_db=5)}, "shadowing moves a signal-to-noise ratio; give the block shannon too"),
        ({"shadowing": figures(sigma_db=25)}, "shadowing.sigma_db: must be at most 20 dB, got 25"),
        ({"shannon": SHANNON}, "uplink_kbps is 5.47, but the figures of shannon, rayleigh and shadowing tell 86.4"),
        ({"shannon": SHANNON | figures(efficiency=1.5)}, "shannon: efficiency must be above 0 and at most 1, got 1.5"),
        ({"shannon": SHANNON | figures(bandwidth_khz=0)}, "shannon: bandwidth_khz must be above 0"),
        ({"shannon": SHANNON | figures(most_bits_per_hz=0)}, "shannon: most_bits_per_hz must be above 0"),
        ({"shannon": SHANNON | {"colour": 1}}, "shannon.colour: Extra inputs are not permitted"),
        ({"shannon": SHANNON, "rayleigh": figures(coherence_ms=0)}, "rayleigh.coherence_ms: must be above 0"),
        ({"bursts": figures(good_loss=0, bad_loss=1, good_packets=9, bad_packets=1)},
         "packet_loss is 0.05, but the figures of bursts tell 0.1"),
        ({"uplink_kbps": None}, "uplink_kbps: Field required"),
        (figures(tail_ms=5), "give both tail_ms and tail_mw, or neither"),
    ])
    def test_blocks_that_contradict_something_are_refused_in_one_line(self, tmp_path, text, blocks, message):
        file = tmp_path / "mine.yaml"
        file.write_text(json.dumps(json.loads(text) | blocks))
        with pytest.raises(ConfigError) as caught:
            load_profile(ChannelProfile, str(file))
        assert message in str(caught.value)
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_trace_beside_fading_is_refused(self, tmp_path, text):
        file = tmp_path / "mine.yaml"
        plain = json.loads(text)
        del plain["uplink_kbps"]
        file.write_text(json.dumps(plain | {"shannon": SHANNON, "trace": trace(tmp_path, [(0, 1), (1, 2)])}))
        with pytest.raises(ConfigError, match="trace and shannon both say what the rate does; keep one of them"):
            load_profile(ChannelProfile, str(file))

    def test_optional_keys_leave_no_mark_where_they_are_absent(self):
        dumped = load_profile(ChannelProfile, "lora-sf7").model_dump()
        assert len(dumped) == 12
        assert not {"shannon", "rayleigh", "shadowing", "trace", "bursts", "tail_ms", "tail_mw"} & set(dumped)

    def test_figure_without_source(self, tmp_path, text):
        file = tmp_path / "mine.yaml"
        file.write_text(text.replace('"source"', '"origin"', 1))
        with pytest.raises(ConfigError, match=r"uplink_kbps\.source: Field required"):
            load_profile(ChannelProfile, str(file))
