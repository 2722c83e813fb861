"""`AecnnCodec`: which channels are picked, and that attention is gone afterwards."""

from __future__ import annotations

import copy

import pytest
import torch

from autosplit.compression.codecs.aecnn import AecnnCodec, ChannelSelection, LightDecoder
from autosplit.compression.codecs.base import Offer
from autosplit.core.plan import CodecSetting
from autosplit.models.costs import stage_cost

SHAPE = (8, 6, 6)


def codec_of(widths=(1, 2, 4), bits=(2, 8)):
    torch.manual_seed(0)
    return AecnnCodec(SHAPE, Offer(widths, bits), True)


def features(n=16):
    """Channels of unequal variance: 5 most, then 2, 7, 0 ..."""
    scale = torch.tensor([0.5, 0.1, 0.8, 0.2, 0.3, 1.0, 0.4, 0.6]).view(8, 1, 1)
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(1)).relu() * scale


def setting_of(width, bits=8):
    return CodecSetting(kind="code", family="aecnn", width=width, grid=6, bits=bits)


class TestSelection:
    def test_channels_of_most_variance_to_begin_with(self):
        codec = codec_of()
        codec.fit(features())
        assert codec.order.tolist() == [5, 2, 7, 0, 6, 4, 3, 1]
        for width in (1, 2, 4):
            assert codec.parts(setting_of(width)).encoder.channels.tolist() == [5, 2, 7, 0][:width]

    def test_the_code_is_these_channels_normalised(self):
        codec, feature = codec_of(), features()
        codec.fit(feature)
        code = codec.parts(setting_of(2)).encoder.train()(feature)
        for k, channel in enumerate((5, 2)):
            x = feature[:, channel]
            expected = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
            torch.testing.assert_close(code[:, k], expected, atol=1e-4, rtol=1e-4)

    def test_other_channels_do_not_matter(self):
        codec, feature = codec_of(), features()
        codec.fit(feature)
        noise = feature.clone()
        noise[:, [0, 1, 3, 4, 6, 7]] = torch.rand(16, 6, 6, 6)
        assert torch.equal(codec(noise, setting_of(2)), codec(feature, setting_of(2)))
        assert not torch.equal(codec(noise, setting_of(4)), codec(feature, setting_of(4)))

    def test_equal_importance_keeps_the_order(self):
        codec = codec_of()
        codec.fit(torch.ones(4, *SHAPE))
        assert codec.order.tolist() == list(range(8))


class TestAttention:
    def attend(self, codec, feature):
        phase = codec.phases()[0]
        return phase, phase.restore(feature, codec.widest)

    def test_weighs_each_channel_of_each_image_between_zero_and_one(self):
        codec, feature = codec_of(), features()
        phase, weighed = self.attend(codec, feature)
        assert (phase.name, phase.loss) == ("attention", "task")
        ratio = weighed.sum((2, 3)) / feature.sum((2, 3))
        assert ((ratio > 0) & (ratio < 1)).all()
        torch.testing.assert_close(weighed, feature * ratio[:, :, None, None], atol=1e-5, rtol=1e-4)

    def test_its_price_is_the_mean_weight_of_this_step(self):
        codec, feature = codec_of(), features()
        phase, weighed = self.attend(codec, feature)
        mean = (weighed.sum((2, 3)) / feature.sum((2, 3))).mean()
        torch.testing.assert_close(phase.penalty(), 0.5 * mean, atol=1e-4, rtol=1e-4)
        phase.penalty().backward()
        assert codec.attention.excite.bias.grad.any()

    def test_ranks_the_channels_by_what_they_weigh_and_by_nothing_else(self):
        """Not by the variance that was there before, however few the steps."""
        codec, feature = codec_of(), features() * 10
        codec.fit(feature)
        with torch.no_grad():
            codec.attention.excite.bias.copy_(torch.tensor([0.0, 3, 0, 2, 0, -3, 0, 0]))
        for _ in range(2):
            phase, _ = self.attend(codec, feature)
        phase.finish()
        assert codec.order[:2].tolist() == [1, 3]
        assert codec.order[-1] == 5
        assert codec.parts(setting_of(2)).encoder.channels.tolist() == [1, 3]

    def test_importance_is_the_mean_weight(self):
        codec, feature = codec_of(), features()
        codec.fit(feature)
        for _ in range(3):
            _, weighed = self.attend(codec, feature)
        expected = (weighed.sum((2, 3)) / feature.sum((2, 3))).mean(0)
        torch.testing.assert_close(codec.importance, expected.detach(), atol=1e-4, rtol=1e-3)

    def test_costs_nothing_at_run_time(self):
        codec, feature = codec_of(), features()
        codec.fit(feature)
        before = stage_cost(codec.parts(setting_of(2)).encoder.eval(), SHAPE)
        phase, _ = self.attend(codec, feature)
        phase.finish()
        encoder, _, decoder = codec.parts(setting_of(2))
        assert isinstance(encoder, ChannelSelection)
        assert isinstance(decoder, LightDecoder)
        assert not list(encoder.parameters())
        cost = stage_cost(encoder.eval(), SHAPE)
        assert cost == before
        assert (cost.macs, cost.weight_elements) == (0, 0)
        assert stage_cost(decoder.eval(), (2, 6, 6)).conv_macs == 2 * 8 * 9 * 36

    def test_a_codec_can_be_copied_after_it(self):
        codec, feature = codec_of(), features()
        phase, weighed = self.attend(codec, feature)
        weighed.sum().backward()
        phase.finish()
        assert torch.equal(copy.deepcopy(codec)(feature, codec.widest), codec(feature, codec.widest))


def test_each_width_has_a_decoder_of_its_own():
    codec = codec_of()
    codec(features(), setting_of(2)).sum().backward()
    trained = {n for n, p in codec.named_parameters() if p.grad is not None}
    assert {n.rsplit(".", 2)[0] for n in trained if n.startswith("decoders")} == {"decoders.2"}
    assert {n for n in trained if n.startswith("quantisers")} == {"quantisers.8.limit"}


def test_decoder_phase():
    codec = codec_of()
    phase = codec.phases()[1]
    assert (phase.name, phase.loss) == ("decoder", "feature")
    assert {id(p) for p in phase.parameters} == {id(p) for p in codec.decoders.parameters()}
    feature = features()
    assert torch.equal(phase.restore(feature, setting_of(4)), codec(feature, setting_of(4)))


@pytest.mark.parametrize("bits", [2, 8])
def test_limits_are_shared_by_all_widths(bits):
    codec = codec_of()
    with torch.no_grad():
        codec.quantisers[str(bits)].limit.fill_(1.25)
    assert {codec.parts(setting_of(w, bits)).quantiser.limit.item() for w in codec.widths} == {1.25}
