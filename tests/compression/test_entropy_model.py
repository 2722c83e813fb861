import math

import numpy as np
import pytest
import torch

from autosplit.compression.entropy_model import EntropyModel, RateQuantiser, prices
from autosplit.compression.quantise import levels, quantise
from autosplit.core.errors import ConfigError
from autosplit.runtime.standalone.payload.frequencies import FrequencyTables


def laplace(images, channels, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(images, channels, 8, 8, generator=generator) - 0.5
    return -scale * uniform.sign() * torch.log1p(-2 * uniform.abs() + 1e-6)


def fitted(code, steps, epochs=300):
    torch.manual_seed(0)
    model = EntropyModel(code.shape[1])
    optimiser = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(epochs):
        loss = model.bits(code, steps).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model


def test_masses_of_all_symbols_sum_to_one(monkeypatch):
    monkeypatch.setattr(torch, "rand_like", lambda x: torch.full_like(x, 0.5))  # no noise
    torch.manual_seed(0)
    model = EntropyModel(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    step = torch.tensor([0.25, 0.5]).view(2, 1, 1)
    symbols = torch.arange(-200, 201)
    code = (symbols[:, None, None, None] * step).float()  # one image a symbol, two channels
    one, other = (model.bits(torch.where(torch.arange(2).view(1, 2, 1, 1) == k, code, torch.zeros(1)), step)
                  for k in (0, 1))
    # bits of both channels, less those of the channel that stays at zero
    zero = [model_bits_of(model, k, step) for k in (0, 1)]
    for bits, rest in ((one, zero[1]), (other, zero[0])):
        mass = torch.exp2(-(bits - rest))
        # what lies below the least mass that the coder's tables give is counted as that
        assert float(mass[mass > 2.0**-15].sum()) == pytest.approx(1.0, abs=0.01)


def model_bits_of(model, channel, step):
    """Bits of the symbol zero in one channel, by the distribution function."""
    weight = torch.softmax(model.logit[channel], 0)
    inverse, half = torch.exp(-model.log_scale[channel]), float(step[channel]) / 2
    mass = (weight * (torch.sigmoid((half - model.centre[channel]) * inverse)
                      - torch.sigmoid((-half - model.centre[channel]) * inverse))).sum()
    return float(-torch.log2(mass))


@pytest.mark.parametrize("step", [0.3, 1.0])
def test_predicts_what_the_coder_spends(step):
    code = laplace(64, 3, scale=0.7)
    steps = torch.full((3, 1, 1), step)
    model = fitted(code, steps)
    fresh = laplace(64, 3, scale=0.7, seed=1)
    symbols = quantise(fresh, 6, steps * levels(6) / 2).numpy()
    spent = FrequencyTables.fit(quantise(code, 6, steps * levels(6) / 2).numpy(), 6).entropy_bits(symbols).mean()
    with torch.no_grad():
        predicted = float(model.bits(fresh, steps).mean())
    # noise in place of rounding widens the distribution: never less than the coder spends, and little more
    assert 0.99 * spent < predicted < 1.12 * spent


def test_a_value_far_out_costs_no_more_than_the_coder_asks():
    model = EntropyModel(1)
    bits = model.bits(torch.tensor([1e4, -1e4]).view(2, 1, 1, 1), torch.ones(1, 1, 1))
    assert bits.tolist() == [16.0, 16.0]


def test_some_channels_have_their_own_densities():
    torch.manual_seed(0)
    model, code = EntropyModel(4), torch.zeros(2, 2, 3, 3)
    with torch.no_grad():
        model.log_scale[:3] += 5  # wide, so that zero is a rare symbol
    wide, narrow = (model.bits(code[:, :1], torch.full((1, 1, 1), 0.1), torch.tensor([k])) for k in (0, 3))
    assert wide.shape == (2,)
    assert bool((wide > narrow + 9).all())


class TestRateQuantiser:
    def test_starts_with_a_step_of_one(self):
        quantiser = RateQuantiser(4, 3, price=0.1)
        assert torch.equal(quantiser.bound, torch.full((3, 1, 1), 8.0))
        code = torch.linspace(-3, 3, 36).view(1, 3, 3, 4)
        assert torch.equal(quantiser.eval()(code), code.round())

    def test_costs_the_price_of_its_bits_once(self):
        torch.manual_seed(0)
        quantiser, code = RateQuantiser(6, 2, price=0.25), torch.randn(5, 2, 4, 4)
        torch.manual_seed(1)
        quantiser(code)
        cost = quantiser.cost()
        torch.manual_seed(1)
        bits = quantiser.entropy_model.bits(code, torch.ones(2, 1, 1))
        assert cost.item() == pytest.approx(0.25 * bits.mean().item())
        assert cost.requires_grad
        assert quantiser.cost().item() == 0  # asked for once

    def test_nothing_is_noted_outside_of_training(self):
        quantiser = RateQuantiser(6, 2, price=0.25).eval()
        quantiser(torch.randn(5, 2, 4, 4))
        assert quantiser.cost().item() == 0

    def test_a_dear_bit_makes_steps_wider(self):
        found = {}
        for price in (0.0, 1.0):
            torch.manual_seed(0)
            quantiser = RateQuantiser(6, 2, price=price)
            optimiser = torch.optim.Adam(quantiser.parameters(), lr=0.02)
            code = torch.randn(16, 2, 4, 4)
            for _ in range(100):
                loss = (quantiser(code) - code).square().sum((1, 2, 3)).mean() + quantiser.cost()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            found[price] = float(quantiser.log_step.exp().mean())
        assert found[1.0] > 1.5 * found[0.0]


class TestExpected:
    def quantiser(self, code):
        """A quantiser whose density has been fitted to a code."""
        quantiser = RateQuantiser(4, code.shape[1], price=0.1)
        with torch.no_grad():
            quantiser.log_step.fill_(math.log(0.8))
        quantiser.entropy_model.load_state_dict(fitted(code, quantiser.log_step.detach().exp()).state_dict())
        return quantiser

    def test_is_a_distribution_like_that_of_the_symbols(self):
        code = laplace(256, 2, scale=0.7)
        quantiser = self.quantiser(code)
        expected = quantiser.expected()
        assert expected.shape == (2, 16)
        assert expected.sum(1) == pytest.approx([1, 1])
        symbols = quantise(code, 4, quantiser.bound).detach()
        for k in range(2):
            seen = np.bincount(symbols[:, k].numpy().ravel(), minlength=16) / symbols[:, k].numel()
            assert np.abs(seen - expected[k]).sum() < 0.12

    def test_few_calibration_images_code_others_better_with_it(self):
        code = laplace(256, 2, scale=0.7)
        quantiser = self.quantiser(code)
        few, others = (quantise(laplace(n, 2, 0.7, seed)[:, :, :2, :2], 4, quantiser.bound).detach()
                       for n, seed in ((8, 5), (200, 6)))
        with_it = quantiser.tables(few).entropy_bits(others.numpy()).mean()
        without = FrequencyTables.fit(few.numpy(), 4).entropy_bits(others.numpy()).mean()
        assert with_it < 0.97 * without

    def test_a_model_of_another_code_is_refused(self):
        with pytest.raises(ConfigError, match=r"expected must be probabilities of shape \(2, 16\)"):
            FrequencyTables.fit(np.zeros((3, 2, 4, 4), dtype=np.int32), 4, np.ones((2, 8)))


def test_prices_fall_evenly_in_their_logarithm():
    found = np.log(prices(5))
    assert np.all(np.diff(found) < 0)
    assert np.ptp(np.diff(found)) < 1e-9
    assert prices(1) == [prices(8)[0]]


def trained(quantiser, batches=200):
    """A quantiser after training with a task that asks for few bits: only large values matter."""
    generator = torch.Generator().manual_seed(2)
    gain = torch.nn.Parameter(torch.ones(1, 2, 1, 1))
    optimiser = torch.optim.Adam([{"params": [gain, quantiser.log_step], "lr": 0.03},
                                  {"params": quantiser.entropy_model.parameters(), "lr": 0.03}])
    for _ in range(batches):
        code = torch.randn(32, 2, 8, 8, generator=generator)
        loss = (quantiser.train()(gain * code) - code).square().mean() + quantiser.cost()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return gain.detach()


def spent(quantiser, code):
    symbols = quantise(code, 6, quantiser.bound.detach()).numpy()
    return FrequencyTables.fit(symbols, 6).entropy_bits(symbols).mean()


@pytest.mark.parametrize("price", [1e-2, 1e-4])
def test_bits_that_are_held_stay_at_any_price(price):
    code = torch.randn(256, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    free, holding = RateQuantiser(6, 2, price), RateQuantiser(6, 2, price)
    before = spent(holding, code)
    holding.hold(code, 32)
    assert spent(free, trained(free) * code) != pytest.approx(before, rel=0.3)  # else nothing had to be held
    gain = trained(holding)
    assert spent(holding, gain * code) == pytest.approx(before, rel=0.05)
    assert holding.price.item() != pytest.approx(price, rel=0.3)


def test_what_is_held_is_what_the_coder_spends_on_a_batch():
    code = laplace(96, 3)
    quantiser = RateQuantiser(6, 3, 1e-3)
    quantiser.hold(code, 32)
    assert quantiser.held_bits.item() == pytest.approx(np.mean([spent(quantiser, part) for part in code.split(32)]))


def test_codes_of_no_bits_or_no_numbers_can_be_held():
    quantiser = RateQuantiser(6, 1, 1e-3)
    quantiser.hold(torch.zeros(8, 1, 2, 2), 4)
    quantiser.train()(torch.full((4, 1, 2, 2), math.nan))
    assert math.isfinite(quantiser.price.item())
    quantiser.train()(torch.zeros(4, 1, 2, 2))
    assert math.isfinite(quantiser.cost().item())
