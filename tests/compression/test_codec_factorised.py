import copy

import pytest
import torch
from torch.nn import functional as F

from autosplit.compression import build_codec
from autosplit.compression.codecs.base import Offer
from autosplit.compression.network import recalibrate
from autosplit.compression.quantise import quantise
from autosplit.core.errors import ConfigError
from autosplit.runtime.standalone.payload.coder import payload_bytes
from autosplit.runtime.standalone.payload.frequencies import FrequencyTables
from autosplit.training.loop import parameter_groups

SHAPE = (4, 8, 8)
OFFER = Offer(widths=(1, 3, 8), bits=(2, 6), grid_levels=2, rates=3)


def features(images=96):
    """Channels of very different size: the first has nearly all of the variance."""
    generator = torch.Generator().manual_seed(0)
    smooth = F.interpolate(torch.randn(images, 4, 3, 3, generator=generator), (8, 8), mode="bilinear")
    return (smooth * torch.tensor([4.0, 1.0, 0.1, 0.01]).view(1, 4, 1, 1)).relu()


@pytest.fixture(scope="module")
def trained():
    """A codec trained to restore these features at what the bytes of each rate cost."""
    torch.manual_seed(0)
    codec, feature = build_codec("factorised", SHAPE, OFFER, nonnegative=True), features()
    codec.fit(feature)
    groups = parameter_groups([], codec.named_parameters(), 0.05, 1.0)
    plain = torch.optim.SGD([p for g in groups if not g.adaptive for p in g.parameters], 0.02, momentum=0.9)
    adaptive = torch.optim.Adam([p for g in groups if g.adaptive for p in g.parameters], 0.02)
    settings = codec.settings()
    for i in range(400):
        setting = settings[i % len(settings)]
        error = F.mse_loss(codec(feature, setting), feature) / feature.var()
        for optimiser in (plain, adaptive):
            optimiser.zero_grad()
        (error + codec.cost()).backward()
        for optimiser in (plain, adaptive):
            optimiser.step()
    return codec.eval()


def measured(codec, setting, feature):
    """Squared error over the variance, mean payload, and symbols."""
    encoder, quantiser, decoder = codec.parts(setting)
    for network in (encoder, decoder):
        network.eval()
    recalibrate(encoder, feature)
    with torch.inference_mode():
        symbols = quantise(encoder(feature), quantiser.bits, quantiser.bound)
        restored = decoder(quantiser.eval()(encoder(feature)))
    tables = FrequencyTables.fit(symbols.numpy(), quantiser.bits)
    return float(F.mse_loss(restored, feature) / feature.var()), payload_bytes(tables, symbols.numpy()).mean(), symbols


def test_settings_are_rates_on_grids():
    codec = build_codec("factorised", SHAPE, OFFER, nonnegative=True)
    assert [(s.rate, s.grid) for s in codec.settings()] == [(r, g) for r in range(3) for g in (8, 4)]
    # a cell of the full grid holds no more than the four channels
    assert {(s.grid, s.width) for s in codec.settings()} == {(8, 3), (4, 8)}
    assert {s.bits for s in codec.settings()} == {6}
    assert codec.widest.label == "factorised 3ch 8x8 rate 2"


def test_more_bytes_buy_less_error(trained):
    feature = features()
    for grid in (8, 4):
        found = [measured(trained, s, feature)[:2] for s in trained.settings() if s.grid == grid]
        errors, sizes = zip(*found, strict=True)
        assert errors[0] > errors[1] > errors[2]
        assert sizes[0] < sizes[1] < sizes[2]


def test_a_channel_that_is_not_worth_its_bits_is_not_sent(trained):
    dear, cheap = (next(s for s in trained.settings() if (s.grid, s.rate) == (4, r)) for r in (0, 2))
    sent = []
    for setting in (dear, cheap):
        symbols = measured(trained, setting, features())[2]
        sent.append(int((symbols.float().std((0, 2, 3)) > 0.05).sum()))
    assert sent[0] < sent[1]


def test_channels_without_use_are_left_out(trained):
    codec, feature = copy.deepcopy(trained), features()
    before = {(s.grid, s.rate): measured(codec, s, feature) for s in codec.settings()}
    codec.settle(feature)
    dropped = 0
    for setting in codec.settings():
        error, size, symbols = before[setting.grid, setting.rate]
        leaner_error, leaner_size, left = measured(codec, setting, feature)
        dropped += symbols.shape[1] - left.shape[1]
        assert left.shape[1] == setting.width == codec.code_shape(setting)[0] >= 1
        assert leaner_error == pytest.approx(error, rel=0.05)
        assert leaner_size <= size + 0.5
        # training can go on with what is left
        assert codec(feature, setting).shape == feature.shape
    assert dropped > 0
    known = build_codec("factorised", SHAPE, OFFER, nonnegative=True)
    known.load_state_dict(codec.state_dict())
    assert known.settings() == codec.settings()


def test_the_cost_is_the_price_of_the_bits_and_is_asked_for_once():
    codec, feature = build_codec("factorised", SHAPE, OFFER, nonnegative=True), features()
    codec.fit(feature)
    costs = []
    for setting in codec.settings():
        torch.manual_seed(0)
        codec(feature, setting)
        costs.append(codec.cost().item())
        assert codec.cost().item() == 0
        # and that of the independent quantiser is the same
        encoder, quantiser, _ = codec.parts(setting)
        torch.manual_seed(0)
        quantiser.train()(encoder.train()(feature))
        assert quantiser.cost().item() == pytest.approx(costs[-1], rel=1e-4)
    assert costs[0] > costs[-1]  # few bits at a high price cost more at first than many at a low one


def test_a_codec_can_be_copied_after_a_batch():
    codec, feature = build_codec("factorised", SHAPE, OFFER, nonnegative=True), features()
    codec(feature, codec.widest)
    codec.cost()
    copied = copy.deepcopy(codec)
    torch.manual_seed(0)
    expected = codec(feature, codec.widest)
    torch.manual_seed(0)
    assert torch.equal(copied(feature, codec.widest), expected)


@pytest.mark.parametrize("change", [{"rate": 3}, {"rate": None}, {"grid": 5}, {"width": 1}, {"bits": 2}])
def test_what_is_not_on_offer_is_refused(change):
    codec = build_codec("factorised", SHAPE, OFFER, nonnegative=True)
    with pytest.raises(ConfigError, match="codec 'factorised' has no setting"):
        codec.code_shape(codec.widest.model_copy(update=change))


def test_steps_and_densities_are_trained_at_a_pace_of_their_own():
    codec = build_codec("factorised", SHAPE, OFFER, nonnegative=True)
    groups = parameter_groups([], codec.named_parameters(), 0.05, 4.0)
    adaptive = {id(p) for g in groups if g.adaptive for p in g.parameters}
    named = {n for n, p in codec.named_parameters() if id(p) in adaptive}
    densities = {f"entropy_models.{g}.{p}" for g in (8, 4) for p in ("centre", "log_scale", "logit")}
    assert named == {"log_step", "log_step_common", *densities}
    assert [g.lr for g in groups if not g.adaptive] == [0.2]
