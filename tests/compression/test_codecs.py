from __future__ import annotations

import pytest
import torch
from torch import nn

from autosplit.compression.codecs import Decoder, Encoder, NestedCodec, code_grids
from autosplit.evaluation.cost import stage_cost
from autosplit.plan import CodecSetting

SHAPES = [(6, 7, 7), (4, 5, 9), (8, 8, 8), (3, 1, 1), (5, 16, 12)]
WIDTHS, BITS = (1, 2, 5), (1, 2, 8)


def codec_of(shape, nonnegative=True, max_grid=4, grid_levels=3):
    torch.manual_seed(0)
    codec = NestedCodec(shape, WIDTHS, BITS, max_grid, grid_levels, nonnegative)
    with torch.no_grad():  # nothing at its initial value, so that a part that is not copied shows
        for quantiser in codec.quantisers.values():
            quantiser.limit *= 0.8
        codec.decoder.norm.weight.uniform_(0.5, 1.5)
        codec.decoder.norm.bias.uniform_(-0.5, 0.5)
    return codec


def features(shape, n=6):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(1)).relu()


class TestGrids:
    @pytest.mark.parametrize(("shape", "max_grid", "levels", "expected"), [
        ((16, 32, 32), 8, 3, ((8, 8), (4, 4), (2, 2))),
        ((64, 8, 8), 8, 1, ((8, 8),)),
        ((6, 7, 7), 8, 3, ((7, 7), (4, 4), (2, 2))),
        ((6, 7, 7), 4, 3, ((4, 4), (2, 2), (1, 1))),
        ((4, 5, 9), 4, 3, ((2, 3), (1, 2))),
        ((4, 1, 8), 8, 3, ((1, 8),)),
        ((3, 1, 1), 8, 3, ((1, 1),)),
    ])
    def test_halvings(self, shape, max_grid, levels, expected):
        assert code_grids(shape, max_grid, levels) == expected

    def test_a_flat_feature_keeps_its_full_grid(self):
        codec = codec_of((4, 1, 8), max_grid=8)
        assert codec.widest.grid == 1
        encoder, _, _ = codec.pair(codec.widest)
        assert encoder(features((4, 1, 8))).shape[2:] == (1, 8)


@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shared_codec_equals_its_pairs_at_every_setting(shape, nonnegative):
    codec = codec_of(shape, nonnegative).train()
    feature = features(shape)
    assert len(codec.settings()) == len(set(codec.settings())) == len(codec.widths) * len(codec.grids) * len(BITS)
    for setting in codec.settings():
        encoder, quantiser, decoder = (part.train() for part in codec.pair(setting))
        code = encoder(feature)
        assert code.shape == (6, setting.width, *codec.grids[setting.grid])
        quantised = quantiser(code)
        assert len(quantised.unique()) <= 2**setting.bits
        restored = decoder(quantised)
        assert restored.shape == feature.shape
        torch.testing.assert_close(codec(feature, setting), restored, atol=1e-5, rtol=1e-5)
        assert (restored.min() < 0) != nonnegative


class TestCode:
    def test_unit_variance_a_channel(self):
        codec = codec_of((8, 8, 8))
        encoder, _, _ = codec.pair(codec.widest)
        code = encoder.train()(features((8, 8, 8), 32))
        torch.testing.assert_close(code.mean(dim=(0, 2, 3)), torch.zeros(5), atol=1e-5, rtol=0)
        torch.testing.assert_close(code.var(dim=(0, 2, 3), correction=0), torch.ones(5), atol=1e-3, rtol=0)

    @pytest.mark.parametrize("grid", [4, 2, 1])
    def test_a_narrow_code_is_a_prefix_of_a_wide_one(self, grid):
        codec, feature = codec_of((8, 8, 8)), features((8, 8, 8))
        wide, _, _ = codec.pair(CodecSetting(kind="code", width=5, grid=grid, bits=8))
        narrow, _, _ = codec.pair(CodecSetting(kind="code", width=2, grid=grid, bits=8))
        torch.testing.assert_close(narrow.train()(feature), wide.train()(feature)[:, :2])

    def test_no_code_wider_than_the_feature(self):
        assert codec_of((3, 1, 1)).widths == (1, 2)
        assert NestedCodec((2, 1, 1), (4, 8), (2,), 4, 1, True).widths == (2,)

    def test_widest_is_the_first_grid_and_the_last_of_the_rest(self):
        assert codec_of((8, 8, 8)).widest == CodecSetting(kind="code", width=5, grid=4, bits=8)


class TestTraining:
    def test_gradient_reaches_every_part(self):
        codec = codec_of((4, 5, 9)).train()
        feature = features((4, 5, 9)).requires_grad_()
        codec(feature, codec.widest).square().sum().backward()
        unused = {f"quantisers.{b}.limit" for b in BITS if b != codec.widest.bits}
        for name, parameter in codec.named_parameters():
            reached = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
            assert reached != (name in unused), name
        assert feature.grad.abs().sum() > 0

    def test_narrow_setting_leaves_the_rest_of_the_code_alone(self):
        codec = codec_of((4, 5, 9)).train()
        codec(features((4, 5, 9)), CodecSetting(kind="code", width=2, grid=1, bits=2)).sum().backward()
        grad = codec.encoder.conv.weight.grad
        assert grad[:2].abs().sum() > 0
        assert grad[2:].abs().sum() == 0

    def test_wider_codes_restore_better_after_training(self):
        codec, feature = codec_of((5, 8, 8), max_grid=8).train(), features((5, 8, 8), 32)
        optimiser = torch.optim.Adam(codec.parameters(), 0.02)
        for step in range(80):
            setting = codec.settings()[step % len(codec.settings())] if step % 2 else codec.widest
            loss = (codec(feature, setting) - feature).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        settings = [CodecSetting(kind="code", width=w, grid=8, bits=8) for w in codec.widths]
        with torch.no_grad():
            errors = [float((codec(feature, s) - feature).square().mean()) for s in settings]
        assert errors[0] > errors[1] > errors[2]
        assert errors[2] < 0.6 * float(feature.var())


class TestPair:
    def test_is_a_copy(self):
        codec = codec_of((4, 5, 9))
        before = {k: v.clone() for k, v in codec.state_dict().items()}
        parts = codec.pair(codec.widest)
        with torch.no_grad():
            for part in parts:
                for tensor in (*part.parameters(), *part.buffers()):
                    tensor.fill_(3)
        assert all(torch.equal(v, before[k]) for k, v in codec.state_dict().items())

    def test_blank_pair_has_the_structure(self):
        codec = codec_of((4, 5, 9))
        for setting in codec.settings():
            encoder, _, decoder = codec.pair(setting)
            blank_encoder, blank_decoder = codec.blank_pair(setting)
            blank_encoder.load_state_dict(encoder.state_dict())
            blank_decoder.load_state_dict(decoder.state_dict())
            assert str(blank_encoder) == str(encoder)
            assert str(blank_decoder) == str(decoder)


class TestCost:
    def test_by_hand(self):
        # 5x9 in patches of 3x3 makes a grid of 2x3, ragged, so there is padding and cropping
        codec = codec_of((4, 5, 9))
        encoder, _, decoder = codec.pair(CodecSetting(kind="code", width=2, grid=2, bits=2))
        cost = stage_cost(encoder, (4, 5, 9))
        assert (cost.conv_macs, cost.weight_elements) == (4 * 2 * 9 * 6, 4 * 2 * 9)
        assert (cost.activation_elements, cost.operators) == (2 * 6, 1)
        cost = stage_cost(decoder, (2, 2, 3))
        weights = 2 * 32 * 9 + 32 * 4 * 9
        assert cost.conv_macs == weights * 6
        assert cost.weight_elements == weights + 4
        assert (cost.activation_elements, cost.operators) == (32 * 6 + 4 * 6 * 9, 2)

    def test_pooling_and_upsampling_count(self):
        codec = codec_of((4, 5, 9))
        encoder, _, decoder = codec.pair(CodecSetting(kind="code", width=2, grid=1, bits=2))
        assert isinstance(encoder.pool, nn.AdaptiveAvgPool2d)
        assert stage_cost(encoder, (4, 5, 9)).operators == 2
        assert stage_cost(decoder, (2, 1, 2)).operators == 3

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_counts_at_every_setting(self, shape):
        codec = codec_of(shape)
        for setting in codec.settings():
            encoder, _, decoder = codec.pair(setting)
            assert isinstance(encoder, Encoder)
            assert isinstance(decoder, Decoder)
            assert stage_cost(encoder, shape).macs > 0
            assert stage_cost(decoder, (setting.width, *codec.grids[setting.grid])).macs > 0
