"""`BottleNetCodec`: bottlenecks of their own, noise in training, and a decoder that is told its level."""

from __future__ import annotations

import pytest
import torch

from autosplit.compression import build_codec
from autosplit.compression.channel_noise import noisy
from autosplit.compression.codecs.base import Offer
from autosplit.compression.codecs.bottlenet import BottleNetCodec
from autosplit.compression.network import SplitNetwork, recalibrate
from autosplit.core.errors import ConfigError, UnknownNameError
from autosplit.models.costs import stage_cost
from autosplit.testing import CodecContract

SHAPE = (6, 8, 8)


class TestOddShapes(CodecContract):
    shapes = ((4, 1, 8), (5, 9, 4))

    @pytest.fixture
    def name(self):
        return "bottlenet++"


def codec_of(noise="", shape=SHAPE, widths=(2, 4), bits=(2, 8), nonnegative=True, **offer):
    torch.manual_seed(0)
    return BottleNetCodec(shape, Offer(widths, bits, **offer), nonnegative, noise)


def features(shape=SHAPE, n=32):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(1)).relu()


def deployed(codec, setting, feature):
    network = SplitNetwork(torch.nn.Identity(), torch.nn.Identity(), *codec.parts(setting))
    recalibrate(network, feature)
    return network


class TestGrids:
    @pytest.mark.parametrize(("shape", "levels", "expected"), [
        ((6, 32, 32), None, [(32, 32), (16, 16), (8, 8)]),
        ((6, 32, 32), 2, [(32, 32), (16, 16)]),
        ((6, 32, 32), 9, [(32, 32), (16, 16), (8, 8)]),
        ((6, 7, 7), None, [(7, 7), (4, 4), (2, 2)]),
        ((6, 5, 9), None, [(5, 9), (3, 5), (2, 3)]),
        ((6, 2, 2), None, [(2, 2), (1, 1)]),
        ((6, 1, 1), None, [(1, 1)]),
    ])
    def test_what_strides_leave_of_the_feature(self, shape, levels, expected):
        codec = codec_of(shape=shape, grid_levels=levels)
        assert list(codec.grids.values()) == expected
        for grid in expected:
            setting = next(s for s in codec.settings() if s.grid == grid[0])
            assert tuple(codec.parts(setting).encoder(features(shape)).shape[2:]) == grid


class TestCode:
    def test_lies_between_minus_one_and_one(self):
        codec = codec_of()
        for setting in codec.settings():
            encoder, quantiser, _ = codec.parts(setting)
            code = encoder(100 * features())
            assert code.abs().max() <= 1
            assert code.min() < -0.5
            assert code.max() > 0.5
            assert quantiser.limit.item() == 1
            assert not quantiser.limit.requires_grad

    def test_each_width_and_grid_has_weights_of_its_own(self):
        codec = codec_of()
        assert len(codec.encoders) == len(codec.decoders) == 2 * 3
        chosen = codec.settings()[0]
        codec(features(), chosen).sum().backward()
        trained = {n.split(".")[1] for n, p in codec.named_parameters() if p.grad is not None}
        assert trained == {f"{chosen.width}x{chosen.grid}"}

    def test_all_bits_share_weights(self):
        codec = codec_of()
        coarse, fine = (s for s in codec.settings() if (s.width, s.grid) == (2, 8))
        assert (coarse.bits, fine.bits) == (2, 8)
        one, two = codec.parts(coarse), codec.parts(fine)
        assert all(torch.equal(v, two.encoder.state_dict()[k]) for k, v in one.encoder.state_dict().items())
        assert all(torch.equal(v, two.decoder.state_dict()[k]) for k, v in one.decoder.state_dict().items())

    def test_cost_by_hand(self):
        codec = codec_of(shape=(6, 8, 8))
        encoder, _, decoder = codec.parts(next(s for s in codec.settings() if (s.width, s.grid) == (2, 4)))
        cost = stage_cost(encoder, SHAPE)
        assert (cost.conv_macs, cost.weight_elements) == (6 * 2 * 9 * 16, 6 * 2 * 9)
        cost = stage_cost(decoder, (2, 4, 4))
        assert (cost.conv_macs, cost.weight_elements) == (3 * 6 * 9 * 64, 3 * 6 * 9)  # two channels and the plane


class TestNoise:
    @pytest.mark.parametrize("noise", ["awgn=0.25", "erasure=0.25"])
    def test_in_training_alone(self, noise):
        codec, feature = codec_of(noise).train(), features()
        assert not torch.equal(codec(feature, codec.widest), codec(feature, codec.widest))
        network = deployed(codec, codec.widest, feature)
        assert torch.equal(network(feature), network(feature))

    @pytest.mark.parametrize("noise", ["awgn=0.25", "erasure=0.25"])
    def test_symbols_stay_as_they_are_and_the_answer_suffers(self, noise):
        codec, feature = codec_of(noise), features()
        network = deployed(codec, codec.widest, feature)
        symbols, clean = network.symbols(feature), network.finish(network.symbols(feature))
        with noisy(network):
            assert torch.equal(network.symbols(feature), symbols)
            assert not torch.equal(network.finish(symbols), clean)
        assert torch.equal(network.finish(symbols), clean)

    def test_without_an_option_there_is_none(self):
        codec, feature = codec_of().train(), features()
        assert torch.equal(codec(feature, codec.widest), codec(feature, codec.widest))

    @pytest.mark.parametrize(("noise", "level"), [("", 0.0), ("awgn=0.25", 0.25), ("erasure=0.5", 0.5)])
    def test_the_decoder_is_told_the_level(self, noise, level):
        codec, feature = codec_of(noise), features()
        for setting in codec.settings():
            encoder, quantiser, decoder = codec.parts(setting)
            seen = []
            hook = decoder.conv.register_forward_hook(lambda *a, seen=seen: seen.append(a[1][0]))
            decoder.eval()(quantiser(encoder(feature)))
            hook.remove()
            (inputs,) = seen
            assert inputs.shape == (len(feature), setting.width + 1, *SHAPE[1:])
            assert (inputs[:, -1] == level).all()
            assert inputs[:, :-1].std() > 0.1

    def test_the_plane_changes_the_answer(self):
        """Equal weights, equal codes, another level: another answer, where the weights of the plane are not zero."""
        quiet, loud = (build_codec(f"bottlenet++:awgn={level}", SHAPE, Offer((2,), (2,)), True) for level in (0.1, 0.4))
        loud.load_state_dict(quiet.state_dict())
        code = torch.rand(4, 2, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
        answers = [c.parts(c.settings()[0]).decoder.eval()(code) for c in (quiet, loud)]
        assert (answers[0] - answers[1]).abs().max() > 1e-3

    def test_noise_is_in_the_structure(self):
        codec = codec_of("awgn=0.25")
        structure = codec.structure(codec.widest)
        assert structure["noise"] == "awgn=0.25"
        assert BottleNetCodec.blank(structure).decoder.channel.level == 0.25

    def test_bad_options(self):
        with pytest.raises(UnknownNameError, match="channel noise 'fog'"):
            codec_of("fog=0.1")
        with pytest.raises(ConfigError, match=r"must be a number in \[0, 1\)"):
            codec_of("awgn=2")


def test_its_phase_trains_encoders_and_decoders():
    codec = codec_of()
    (phase,) = codec.phases()
    assert (phase.name, phase.share, phase.loss) == ("bottleneck", 1.0, "task")
    assert {id(p) for p in phase.parameters} == {id(p) for p in codec.parameters()}
