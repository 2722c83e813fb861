"""`NestedCodec`: ordered channels, ordered grids, and principal components to begin with."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from autosplit.compression.codecs.base import Offer
from autosplit.compression.codecs.nested import NestedCodec
from autosplit.core.plan import CodecSetting
from autosplit.models.costs import stage_cost
from autosplit.testing import CodecContract


class TestOddShapes(CodecContract):
    shapes = ((4, 1, 8), (2, 20, 12))  # flat; patches above 8

    @pytest.fixture
    def name(self):
        return "nested"


def setting_of(width, grid, bits=8):
    return CodecSetting(kind="code", family="nested", width=width, grid=grid, bits=bits)


def codec_of(shape, feature=None, widths=(1, 2, 5), bits=(1, 8), nonnegative=True, **offer):
    torch.manual_seed(0)
    codec = NestedCodec(shape, Offer(widths, bits, **offer), nonnegative)
    if feature is not None:
        codec.fit(feature)
    return codec


def features(shape, n=12, seed=1):
    """Signed, of unequal channels that depend on one another, smooth in space."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *shape, generator=generator)
    mix = torch.randn(shape[0], shape[0], generator=generator) * torch.logspace(0, -1.5, shape[0])
    x = torch.einsum("oi,nihw->nohw", mix, x)
    coarse = nn.functional.avg_pool2d(x, 3, 1, 1)
    return coarse + 0.3 * x


def linear_error(codec, setting, feature):
    """Squared error of encoder and decoder alone, nothing quantised."""
    encoder, _, decoder = codec.parts(setting)
    with torch.no_grad():
        return float((decoder.eval()(encoder.train()(feature)) - feature).square().sum())


def patches(feature, side):
    """(N, C, H, W) -> one row a square, without torch."""
    n, c, h, w = feature.shape
    cut = feature.numpy().astype(np.float64).reshape(n, c, h // side, side, w // side, side)
    return cut.transpose(0, 2, 4, 1, 3, 5).reshape(-1, c * side * side)


class TestPrefix:
    @pytest.mark.parametrize("shape", [(8, 8, 8), (5, 7, 9), (2, 20, 20)], ids=str)
    def test_a_narrow_code_is_the_beginning_of_a_wide_one_on_every_grid(self, shape):
        feature = features(shape)
        codec = codec_of(shape, feature, (2, 4))
        for parameter in codec.parameters():  # after some training, limits differ by channel
            parameter.data.mul_(torch.rand_like(parameter) + 0.5)
        for grid in codec.grids:
            for bits in codec.bits:
                if setting_of(4, grid, bits) in codec.settings():
                    wide, narrow = (codec.parts(setting_of(w, grid, bits)) for w in (4, 2))
                    code, prefix = wide.encoder.train()(feature), narrow.encoder.train()(feature)
                    torch.testing.assert_close(prefix, code[:, :2])
                    torch.testing.assert_close(narrow.quantiser(prefix), wide.quantiser(code)[:, :2])

    def test_unit_variance_a_channel(self):
        feature = features((8, 8, 8))
        codec = codec_of((8, 8, 8), feature)
        for grid in codec.grids:
            code = codec.parts(setting_of(5, grid)).encoder.train()(feature)
            torch.testing.assert_close(code.mean((0, 2, 3)), torch.zeros(5), atol=1e-4, rtol=0)
            torch.testing.assert_close(code.var((0, 2, 3), correction=0), torch.ones(5), atol=1e-2, rtol=0)


class TestStart:
    """`fit` gives the best linear code of every width and grid; the refinement adds nothing yet."""

    @pytest.fixture
    def feature(self):
        x = features((6, 8, 8))
        offset = torch.linspace(-2, 2, 6)[:, None, None]
        return x - x.mean(0) + offset  # the same mean everywhere in a channel: one offset a channel holds it

    @pytest.mark.parametrize("side", [1, 2, 4, 8])
    def test_error_is_that_of_principal_components(self, feature, side):
        codec = codec_of((6, 8, 8), feature, (1, 2, 4, 6, 8), nonnegative=False)
        rows, errors = patches(feature, side), []
        widths = [w for w in codec.widths if setting_of(w, 8 // side) in codec.settings()]
        assert widths == ([1, 2, 4, 6] if side == 1 else [1, 2, 4, 6, 8])
        for width in widths:
            pca = PCA(width, svd_solver="full").fit(rows)
            optimum = float(np.square(pca.inverse_transform(pca.transform(rows)) - rows).sum())
            found = linear_error(codec, setting_of(width, 8 // side), feature)
            assert found == pytest.approx(optimum, rel=2e-3, abs=1e-3 * np.square(rows - rows.mean(0)).sum())
            errors.append(found)
        assert all(wide < 0.99 * narrow for narrow, wide in pairwise(errors))

    def test_refinement_starts_at_nothing(self, feature):
        decoder = codec_of((6, 8, 8), feature).parts(setting_of(5, 8)).decoder
        assert not decoder.refine.train()(feature).any()

    @pytest.mark.parametrize("shape", [(5, 7, 7), (4, 5, 9), (4, 1, 8)], ids=str)
    def test_odd_sides_do_little_worse(self, shape):
        """Patches that reach beyond the border are filled with zeros, which the components have to bear."""
        feature = features(shape)
        codec = codec_of(shape, feature, (1, 2, 4), nonnegative=False)
        spread = float((feature - feature.mean((0, 2, 3), keepdim=True)).square().sum())
        for grid in codec.grids:
            errors = [linear_error(codec, s, feature) / spread for s in
                      (setting_of(w, grid) for w in (1, 2, 4)) if s in codec.settings()]
            assert all(b < a for a, b in pairwise([1.0, *errors])), (grid, errors)

    def test_all_places_of_the_feature_count(self):
        """More patches than are looked at: a few columns (such as the zero-padded border's) must not speak for all."""
        generator = torch.Generator().manual_seed(0)
        feature = torch.zeros(64, 2, 32, 32)
        feature[:, 0, :, 0] = torch.randn(64, 32, generator=generator)
        feature[:, 1, :, 1:] = torch.randn(64, 32, 31, generator=generator)
        codec = codec_of((2, 32, 32), feature, (1, 2), nonnegative=False, grid_levels=1)
        assert linear_error(codec, setting_of(1, 32), feature) < 0.1 * float(feature.square().sum())

    def test_features_of_few_or_equal_values(self):
        for feature in (torch.zeros(4, 3, 4, 4), torch.ones(4, 3, 4, 4), features((3, 4, 4), n=1)):
            codec = codec_of((3, 4, 4), feature)
            assert all(p.isfinite().all() for p in codec.parameters())
            restored = codec(feature.repeat(2, 1, 1, 1), codec.widest)
            assert restored.isfinite().all()

    def test_more_channels_than_the_sample_can_tell_apart(self):
        feature = features((16, 4, 4), n=2)  # two patches of side 4: one component
        codec = codec_of((16, 4, 4), feature, (1, 8))
        weight = codec.levels["4"]["encoder"].conv.weight
        assert weight[1:].abs().sum() > 0
        assert codec(features((16, 4, 4)), setting_of(8, 1)).isfinite().all()


class TestLossless:
    @pytest.mark.parametrize("shape", [(5, 7, 7), (5, 5, 9), (5, 1, 8), (5, 8, 8)], ids=str)
    def test_as_many_channels_as_the_feature_on_its_own_grid(self, shape):
        feature = features(shape, n=16).relu()
        codec = codec_of(shape, feature, (2, 5), (2, 8))
        assert codec.widest == setting_of(5, shape[1])
        spread = float((feature - feature.mean((0, 2, 3), keepdim=True)).square().sum())
        assert linear_error(codec, codec.widest, feature) < 1e-4 * spread
        with torch.no_grad():
            errors = {b: float((codec(feature, setting_of(5, shape[1], b)) - feature).square().sum()) for b in (2, 8)}
        assert errors[8] < 2e-3 * spread
        assert errors[2] > 10 * errors[8]
        assert linear_error(codec, setting_of(2, shape[1]), feature) > 1e-2 * spread

    def test_many_channels_hold_a_whole_patch(self):
        feature = features((3, 4, 4), n=64)
        codec = codec_of((3, 4, 4), feature, (4, 12, 48), nonnegative=False)
        # 2x2 patches of 3 channels are 12 values, the 4x4 patch is 48
        assert [s.width for s in codec.settings() if (s.grid, s.bits) == (2, 8)] == [4, 12]
        assert [s.width for s in codec.settings() if (s.grid, s.bits) == (1, 8)] == [4, 12, 48]
        for setting in (setting_of(12, 2), setting_of(48, 1)):
            assert linear_error(codec, setting, feature) < 0.02 * float(feature.square().sum())


class TestGrids:
    @pytest.mark.parametrize(("shape", "last"), [
        ((6, 7, 7), (1, 1)), ((4, 5, 9), (1, 2)), ((4, 9, 5), (1, 1)), ((4, 1, 8), (1, 8)), ((4, 32, 32), (1, 1))])
    def test_from_the_features_own_size_down(self, shape, last):
        grids = list(codec_of(shape).grids.values())
        assert grids[0] == shape[1:]
        assert grids[-1] == last

    def test_bounds(self):
        assert list(codec_of((4, 16, 16), max_grid=4).grids) == [4, 2, 1]
        assert list(codec_of((4, 16, 16), grid_levels=2).grids) == [16, 8]
        assert list(codec_of((4, 16, 16), max_grid=4, grid_levels=1).grids) == [4]

    @pytest.mark.parametrize(("side", "offer"), [(20, {}), (20, {"max_grid": 2}), (40, {"max_grid": 3}), (17, {})])
    def test_no_patch_above_eight_is_learned(self, side, offer):
        feature = features((2, side, side))
        codec = codec_of((2, side, side), feature, **offer)
        pooled = []
        for grid in codec.grids.values():
            encoder, _, decoder = codec.parts(setting_of(2, grid[0]))
            patch = encoder.conv.kernel_size[0]
            assert patch <= 8
            assert isinstance(encoder.pool, nn.AdaptiveAvgPool2d) == isinstance(decoder.up, nn.Upsample)
            assert isinstance(encoder.pool, nn.AdaptiveAvgPool2d) == (-(-side // grid[0]) > 8)
            pooled.append(isinstance(encoder.pool, nn.AdaptiveAvgPool2d))
            code = encoder.train()(feature)
            assert tuple(code.shape[2:]) == grid
            assert decoder(code).shape == feature.shape
        assert pooled == sorted(pooled)  # the coarse ones alone
        assert pooled[-1]

    def test_a_pooled_code_is_the_mean_of_its_patches(self):
        feature = features((2, 16, 16))
        codec = codec_of((2, 16, 16), feature, (2,))
        fine, coarse = (codec.parts(setting_of(2, g)).encoder for g in (2, 1))  # patches of 8, and of 16
        assert torch.equal(fine.conv.weight, coarse.conv.weight)
        expected = fine.conv(feature).mean((2, 3), keepdim=True)
        torch.testing.assert_close(coarse.pool(coarse.conv(feature)), expected, atol=1e-5, rtol=1e-4)


class TestWidths:
    def test_no_code_of_more_values_than_the_feature_has(self):
        assert codec_of((3, 1, 1), widths=(1, 2, 5)).widths == (1, 2)
        assert codec_of((2, 1, 1), widths=(4, 8)).widths == (2,)

    def test_none_wider_than_its_patch_unless_there_is_no_other(self):
        codec = codec_of((6, 4, 4), widths=(4, 8, 32), bits=(2,))
        assert {g: [s.width for s in codec.settings() if s.grid == g] for g in (4, 2, 1)} == {
            4: [4], 2: [4, 8], 1: [4, 8, 32]}
        narrow = codec_of((2, 4, 4), widths=(4,), bits=(2,))
        assert [(s.width, s.grid) for s in narrow.settings()] == [(4, 4), (4, 2), (4, 1)]
        assert codec.widest == setting_of(4, 4, 2)


class TestTraining:
    def test_a_narrow_setting_leaves_the_rest_of_the_code_alone(self):
        feature = features((4, 8, 8))
        codec = codec_of((4, 8, 8), feature, (2, 4)).train()
        codec(feature, setting_of(2, 4, 1)).square().sum().backward()
        used = codec.levels["2"]
        for weight in (used["encoder"].conv.weight, used["decoder"].expand.weight, codec.quantisers["1"].limit):
            assert weight.grad[:2].any()
            assert not weight.grad[2:].any()
        assert codec.levels["1"]["encoder"].conv.weight.grad is None
        assert codec.quantisers["8"].limit.grad is None

    def test_all_grids_share_the_refinement(self):
        codec = codec_of((4, 8, 8))
        assert len({id(level["decoder"].refine) for level in codec.levels.values()}) == 1
        assert len(codec.levels) == 4

    def test_training_does_better_than_the_linear_start(self):
        feature = features((5, 8, 8), 32).relu()
        codec = codec_of((5, 8, 8), feature, (2, 5), (4,)).train()
        chosen = [setting_of(2, 8, 4), setting_of(5, 4, 4)]

        def errors():
            with torch.no_grad():
                return [float((codec(feature, s) - feature).square().mean()) for s in chosen]

        before = errors()
        optimiser = torch.optim.Adam(codec.parameters(), 0.01)
        for step in range(60):
            loss = (codec(feature, chosen[step % 2]) - feature).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        assert all(after < 0.9 * first for first, after in zip(before, errors(), strict=True))


class TestCost:
    def test_by_hand(self):
        # 5x9 in patches of 3x3 makes a grid of 2x3, ragged, so there is padding and cropping
        codec = codec_of((4, 5, 9), max_grid=4)
        encoder, _, decoder = codec.parts(setting_of(2, 2))
        cost = stage_cost(encoder, (4, 5, 9))
        assert (cost.conv_macs, cost.weight_elements) == (4 * 2 * 9 * 6, 4 * 2 * 9)
        assert (cost.activation_elements, cost.operators) == (2 * 6, 1)
        cost = stage_cost(decoder, (2, 2, 3))
        expand, refine = 2 * 4 * 9, 2 * 4 * 16 * 9
        assert cost.conv_macs == expand * 6 + refine * 45
        assert cost.weight_elements == expand + 4 + refine + 4
        assert cost.activation_elements == 4 * 6 * 9 + (16 + 4 + 4) * 45  # the last is the sum of both
        assert cost.operators == 4

    def test_pooling_and_upsampling_count(self):
        codec = codec_of((2, 20, 20))
        encoder, _, decoder = codec.parts(setting_of(2, 1))
        assert stage_cost(encoder, (2, 20, 20)).operators == 2
        assert stage_cost(decoder, (2, 1, 1)).operators == 5
