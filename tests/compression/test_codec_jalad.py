"""`JaladCodec`: the whole feature between its least and its greatest value."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from autosplit.compression.codecs.base import Offer
from autosplit.compression.codecs.jalad import JaladCodec, RangeScale
from autosplit.compression.network import SplitNetwork, recalibrate

SHAPE = (4, 5, 5)
ALL_BITS = tuple(range(1, 9))


def features(low, high, n=16, seed=0):
    """Every part of the range, evenly, in random order."""
    size = n * math.prod(SHAPE)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    return (order / (size - 1) * (high - low) + low).view(n, *SHAPE)


def codec_of(bits=ALL_BITS):
    return JaladCodec(SHAPE, Offer((2,), bits), True)


def deployed(bits, feature):
    codec = codec_of((bits,))
    network = SplitNetwork(nn.Identity(), nn.Identity(), *codec.parts(codec.widest))
    recalibrate(network, feature)
    return network


RANGES = [(0.0, 6.0), (-3.0, 2.0), (0.2, 0.7), (100.0, 101.0), (0.0, 1e-3)]


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize(("low", "high"), RANGES)
def test_error_is_at_most_half_a_step_within_the_range(bits, low, high):
    feature = features(low, high)
    half = (high - low) / (2**bits - 1) / 2
    codec = codec_of()
    setting = next(s for s in codec.settings() if s.bits == bits)
    network = deployed(bits, feature)
    for restored in (network(feature), codec(feature, setting)):
        assert float((restored - feature).abs().max()) <= half * 1.001 + 1e-6 * max(abs(low), abs(high))
        assert float((restored - feature).abs().max()) > half * 0.5
    symbols = network.symbols(feature)
    assert (int(symbols.min()), int(symbols.max())) == (0, 2**bits - 1)
    assert len(symbols.unique()) == 2**bits  # no level is wasted


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_the_ends_of_the_range_are_levels(bits):
    network = deployed(bits, features(-1.0, 3.0))
    ends = torch.tensor([-1.0, 3.0]).view(2, 1, 1, 1).expand(2, *SHAPE)
    assert network.symbols(ends).flatten(1)[:, 0].tolist() == [0, 2**bits - 1]
    torch.testing.assert_close(network(ends), ends, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_what_lies_outside_is_clipped(bits):
    network = deployed(bits, features(-1.0, 3.0))
    far = torch.tensor([-50.0, -1.5, 3.5, 1e6]).view(4, 1, 1, 1).expand(4, *SHAPE)
    assert network.symbols(far).flatten(1)[:, 0].tolist() == [0, 0, 2**bits - 1, 2**bits - 1]
    torch.testing.assert_close(network(far)[:, 0, 0, 0], torch.tensor([-1.0, -1.0, 3.0, 3.0]), atol=1e-5, rtol=1e-5)


class TestRange:
    @pytest.mark.parametrize(("low", "high"), RANGES)
    def test_recalibration_sets_it(self, low, high):
        network = deployed(4, features(low, high))
        for scale in (network.encoder, network.decoder.scale):
            assert float(scale.low) == pytest.approx(low)
            assert float(scale.high) == pytest.approx(high)

    def test_recalibration_forgets_and_takes_all_batches(self):
        scale = RangeScale(4)
        recalibrate(scale, features(-100, 100))
        recalibrate(scale, torch.cat([features(2, 3), features(5, 6), features(4, 9)]), batch_size=16)
        assert (float(scale.low), float(scale.high)) == (pytest.approx(2), pytest.approx(9))
        assert not scale.training

    def test_training_widens_it_and_evaluation_leaves_it(self):
        scale = RangeScale(4)
        recalibrate(scale, features(0, 1))
        scale(features(-5, 5))
        assert (float(scale.low), float(scale.high)) == (0, 1)
        scale.train()(features(0.5, 2))
        assert (float(scale.low), float(scale.high)) == (0, pytest.approx(2))

    @pytest.mark.parametrize(("low", "high"), RANGES)
    def test_the_first_batch_in_training_gives_the_first_one(self, low, high):
        """Fine-tuning begins without recalibration: nothing but the features may be in the range."""
        codec = codec_of((4,))
        encoder, _, _ = codec.parts(codec.widest)
        encoder.train()(features(low, high))
        assert (float(encoder.low), float(encoder.high)) == (pytest.approx(low), pytest.approx(high))

    def test_stored_state_goes_on_where_it_was(self):
        """As in a fine-tuning that was interrupted: the range is part of the state, and is widened further."""
        first, second = (JaladCodec.blank({"code": [4, 5, 5], "bits": 4}).encoder.train() for _ in range(2))
        first(features(-1, 5))
        second.load_state_dict(first.state_dict())
        second(features(0, 7))
        assert (float(second.low), float(second.high)) == (pytest.approx(-1), pytest.approx(7))

    def test_encoder_and_decoder_share_it(self):
        codec = codec_of((4,))
        encoder, _, decoder = codec.parts(codec.widest)
        assert decoder.scale is encoder

    def test_a_constant_feature(self):
        network = deployed(4, torch.full((8, *SHAPE), 2.5))
        assert torch.equal(network(torch.full((2, *SHAPE), 2.5)), torch.full((2, *SHAPE), 2.5))


def test_nothing_is_learned():
    codec = codec_of()
    assert not list(codec.parameters())
    assert codec.phases() == ()
    assert not [p for part in codec.parts(codec.widest) for p in part.parameters() if p.requires_grad]


def test_the_gradient_passes_straight_through():
    feature = features(0.0, 6.0).requires_grad_()
    codec = codec_of()
    weights = torch.rand(feature.shape, generator=torch.Generator().manual_seed(3))
    (codec(feature, codec.widest) * weights).sum().backward()
    torch.testing.assert_close(feature.grad, weights, atol=1e-4, rtol=1e-4)
