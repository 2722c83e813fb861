from __future__ import annotations

import pytest
import torch
from torch import nn

from autosplit.compression.channel_noise import (
    AwgnChannel,
    ErasureChannel,
    NoiselessChannel,
    NoisyChannel,
    build_channel,
    noisy,
)
from autosplit.core.errors import ConfigError, UnknownNameError

N = 200_000


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("level", [0.02, 0.1, 0.5])
def test_awgn_adds_gaussian_noise_of_a_share_of_the_range(level):
    code = torch.linspace(-1, 1, N)
    noise = AwgnChannel(level).train()(code) - code
    assert float(noise.mean()) == pytest.approx(0, abs=0.02 * level)
    assert float(noise.std()) == pytest.approx(2 * level, rel=0.01)  # the range is 2 wide
    scaled = noise / noise.std()
    assert float(scaled.pow(4).mean()) == pytest.approx(3, rel=0.03)
    assert float((noise * code).mean()) == pytest.approx(0, abs=0.01 * level)
    assert float((noise[1:] * noise[:-1]).mean() / noise.var()) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("level", [0.01, 0.1, 0.5])
def test_erasures_lose_a_share_of_the_values_and_leave_the_rest(level):
    code = torch.rand(N) + 0.5
    arrived = ErasureChannel(level).train()(code)
    lost = arrived != code
    assert float(lost.float().mean()) == pytest.approx(level, abs=4 * (level * (1 - level) / N) ** 0.5)
    assert not arrived[lost].any()
    together = (lost[1:] & lost[:-1]).float().mean()
    assert float(together) == pytest.approx(level**2, abs=4 * (level**2 / N) ** 0.5 + 1e-6)  # each by itself


@pytest.mark.parametrize("text", ["awgn=0.1", "erasure=0.1"])
class TestWhenThereIsNoise:
    def test_a_new_draw_for_each_pass(self, text):
        channel, code = build_channel(text).train(), torch.ones(1000)
        assert not torch.equal(channel(code), channel(code))

    def test_none_in_evaluation_mode(self, text):
        channel, code = build_channel(text).eval(), torch.ones(1000)
        assert torch.equal(channel(code), code)

    def test_unless_it_is_asked_for(self, text):
        network, code = nn.Sequential(nn.Identity(), nn.Sequential(build_channel(text))).eval(), torch.ones(1000)
        with noisy(network):
            assert not torch.equal(network(code), code)
            assert not network[1][0].training
        assert torch.equal(network(code), code)

    def test_it_is_off_again_after_an_error(self, text):
        network, code = nn.Sequential(build_channel(text)).eval(), torch.ones(1000)
        with pytest.raises(RuntimeError, match="stop"), noisy(network):
            raise RuntimeError("stop")
        assert torch.equal(network(code), code)

    def test_an_inner_measurement_leaves_the_outer_one_on(self, text):
        network, code = nn.Sequential(build_channel(text)).eval(), torch.ones(1000)
        with noisy(network):
            with noisy(network):
                pass
            assert not torch.equal(network(code), code)
        assert torch.equal(network(code), code)

    def test_the_gradient_passes(self, text):
        code = torch.ones(1000, requires_grad=True)
        channel = build_channel(text).train()
        arrived = channel(code)
        arrived.sum().backward()
        expected = torch.ones(1000) if text.startswith("awgn") else (arrived != 0).float()
        assert torch.equal(code.grad, expected)

    def test_the_code_itself_is_left_alone(self, text):
        code = torch.ones(1000)
        build_channel(text).train()(code)
        assert torch.equal(code, torch.ones(1000))


class TestByName:
    @pytest.mark.parametrize(("text", "kind", "level"), [
        ("", NoiselessChannel, 0.0), ("awgn=0.1", AwgnChannel, 0.1), ("erasure=1e-2", ErasureChannel, 0.01),
        ("awgn=0", AwgnChannel, 0.0)])
    def test_known(self, text, kind, level):
        channel = build_channel(text)
        assert type(channel) is kind
        assert channel.level == level
        assert isinstance(channel, NoisyChannel)
        assert not list(channel.state_dict())

    @pytest.mark.parametrize("text", ["awgn=0", "erasure=0", ""])
    def test_no_level_no_noise(self, text):
        channel, code = build_channel(text).train(), torch.ones(100)
        with noisy(channel):
            assert torch.equal(channel(code), code)

    def test_unknown(self):
        with pytest.raises(UnknownNameError, match="unknown channel noise 'awgm'; did you mean 'awgn'"):
            build_channel("awgm=0.1")
        with pytest.raises(UnknownNameError, match="known: awgn, erasure"):
            build_channel("=0.1")

    @pytest.mark.parametrize("text", ["awgn", "awgn=", "awgn=much", "awgn=1", "erasure=-0.1", "erasure=nan",
                                      "awgn=inf", "awgn=0.1=0.2"])
    def test_levels_that_make_no_sense(self, text):
        name = text.partition("=")[0]
        with pytest.raises(ConfigError, match=rf"'{text}': the level must be a number in \[0, 1\), as in '{name}=0.1'"):
            build_channel(text)
