"""The quantiser: levels, round trip, error bound, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autosplit.compression.quantise import MIN_LIMIT, dequantise, fake_quantise, levels, quantise
from autosplit.core.errors import ConfigError

ALL_BITS = range(1, 9)
QUICK = settings(derandomize=True, deadline=None, max_examples=60)
limits = st.floats(2**-10, 2**10, width=32)


def _sweep(limit: float, count: int = 4001) -> torch.Tensor:
    """Ascending values from well below to well above the range, both ends and zero included."""
    return torch.cat([torch.linspace(-2 * limit, 2 * limit, count), torch.tensor([-limit, limit, 0.0])]).sort().values


def test_levels():
    assert [levels(b) for b in ALL_BITS] == [2, 4, 8, 16, 32, 64, 128, 256]


@pytest.mark.parametrize("bits", [0, 9, -1, 2.0, True, None])
def test_bits_out_of_range_are_refused(bits):
    for call in (quantise, dequantise, fake_quantise):
        with pytest.raises(ConfigError, match="bits must be an integer from 1 to 8"):
            call(torch.zeros(2), bits, 1.0)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_that_is_no_range_is_refused(limit):
    for call in (quantise, dequantise, fake_quantise):
        with pytest.raises(ConfigError, match="limit must be positive"):
            call(torch.zeros(2), 2, limit)


def test_levels_are_where_the_docstring_says():
    expected = {1: [-0.5, 0.5], 2: [-1, -0.5, 0, 0.5], 3: [-1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75]}
    for bits, values in expected.items():
        assert dequantise(torch.arange(levels(bits)), bits, 1.0).tolist() == values


@pytest.mark.parametrize("bits", range(2, 9))
def test_zero_is_a_level_from_two_bits_on(bits):
    assert fake_quantise(torch.tensor([0.0, -1e-5, 1e-5]), bits, 0.9).tolist() == [0.0, 0.0, 0.0]


def test_a_peaked_symmetric_code_costs_less_than_a_third_of_a_bit():
    """The reason for the zero level: mid-rise cannot go below one bit."""
    code = torch.from_numpy(np.random.default_rng(0).laplace(size=20_000))
    share = quantise(code, 2, 16.0).bincount(minlength=4) / len(code)
    assert -(share * share.clamp_min(1e-12).log2()).sum() < 1 / 3


def test_halves_round_to_even():
    step = torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.5])
    assert (quantise(step, 3, 4.0) - 4).tolist() == [-2, 0, 0, 2, 2]


@given(bits=st.integers(1, 8), limit=limits)
@QUICK
def test_symbols_are_in_range_monotone_and_all_used(bits, limit):
    symbols = quantise(_sweep(limit), bits, limit)
    assert symbols.dtype == torch.int32
    assert (symbols.diff() >= 0).all()
    assert symbols.unique().tolist() == list(range(levels(bits)))


@given(bits=st.integers(1, 8), limit=limits)
@QUICK
def test_quantising_twice_changes_nothing(bits, limit):
    symbols = torch.arange(levels(bits))
    values = dequantise(symbols, bits, limit)
    assert torch.equal(quantise(values, bits, limit), symbols.int())
    assert torch.equal(fake_quantise(values, bits, limit), values)


@given(bits=st.integers(1, 8), limit=limits)
@QUICK
def test_error_is_half_a_step_and_a_step_at_the_clipped_top(bits, limit):
    step, code = limit / 2 ** (bits - 1), _sweep(limit)
    error = (fake_quantise(code, bits, limit) - code).abs()
    slack = 1e-5 * limit
    exact = (code >= -limit) & (code <= (limit if bits == 1 else limit - step / 2))
    assert (error[exact] <= step / 2 + slack).all()
    assert (error[code.abs() <= limit] <= step + slack).all()


@given(seed=st.integers(0, 2**31), bits=st.integers(1, 8), learnt=st.booleans())
@QUICK
def test_fake_quantise_is_the_real_thing_bit_for_bit(seed, bits, learnt):
    draw = torch.Generator().manual_seed(seed)
    code = torch.randn(3, 5, 4, 4, generator=draw) * 2
    limit = torch.rand(5, 1, 1, generator=draw) * 3 + 0.01 if learnt else 1.7
    real = dequantise(quantise(code, bits, limit), bits, limit)
    assert torch.equal(fake_quantise(code, bits, limit), real)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_float_types_are_computed_in_the_type_of_the_limit(dtype):
    code = torch.linspace(-2, 2, 101).to(dtype).requires_grad_()
    limit = torch.tensor(1.3)
    output = fake_quantise(code, 4, limit)
    assert output.dtype == torch.float32
    assert torch.equal(output, dequantise(quantise(code, 4, limit), 4, limit))
    output.sum().backward()
    assert code.grad is not None
    assert code.grad.dtype == dtype


def test_each_channel_has_its_own_limit():
    code = torch.full((1, 2, 1, 1), 0.5)
    limit = torch.tensor([0.5, 4.0]).view(2, 1, 1)
    assert quantise(code, 2, limit).flatten().tolist() == [3, 2]


@pytest.mark.parametrize("bits", ALL_BITS)
def test_gradient_to_the_code_passes_inside_the_range_only(bits):
    code = torch.tensor([-1.2, -1.0, -0.3, 0.0, 0.9, 1.0, 1.2], requires_grad=True)
    (fake_quantise(code, bits, 1.0) * torch.arange(1.0, 8.0)).sum().backward()
    assert code.grad is not None
    assert code.grad.tolist() == [0, 2, 3, 4, 5, 6, 0]


@pytest.mark.parametrize("bits", ALL_BITS)
def test_gradient_to_the_limit_is_that_of_lsq(bits):
    """With the rounding taken as a shift by a constant, autograd gives LSQ's gradient."""
    code = torch.linspace(-3, 3, 60, dtype=torch.float64).view(1, 3, 20, 1)
    limit = torch.tensor([0.5, 1.0, 2.5], dtype=torch.float64).view(3, 1, 1).requires_grad_()
    weight = torch.sin(torch.arange(60.0, dtype=torch.float64)).view_as(code)
    (fake_quantise(code, bits, limit) * weight).sum().backward()

    bound = limit.detach().clone().requires_grad_()
    step = bound / 2 ** (bits - 1)
    inside = code.abs() <= bound.detach()
    cell = (fake_quantise(code, bits, bound) / step).detach()
    shift = cell - (code / step).detach()
    (torch.where(inside, (code / step + shift) * step, cell * step) * weight).sum().backward()
    assert limit.grad is not None
    assert limit.grad.shape == limit.shape
    torch.testing.assert_close(limit.grad, bound.grad)


def test_descent_on_the_limit_finds_the_range():
    """From far too wide and far too narrow, the learnt limit ends near the best fixed one."""
    code = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    errors = {w: float(((fake_quantise(code, 3, w) - code) ** 2).mean()) for w in np.linspace(0.2, 6, 100)}
    for start in (0.3, 5.0):
        limit = torch.tensor(start)
        for _ in range(100):
            learnt = limit.clone().requires_grad_()
            ((fake_quantise(code, 3, learnt) - code) ** 2).mean().backward()
            assert learnt.grad is not None
            limit = limit - 0.05 * learnt.grad.sign()
        final = float(((fake_quantise(code, 3, limit) - code) ** 2).mean())
        assert final < 1.2 * min(errors.values())


def test_a_limit_that_training_made_negative_stays_finite():
    limit = torch.tensor(-0.3, requires_grad=True)
    output = fake_quantise(torch.tensor([-1.0, 0.0, 1.0]), 3, limit)
    output.sum().backward()
    assert output.abs().max() <= MIN_LIMIT
    assert limit.grad is not None
    assert torch.isfinite(limit.grad)


def test_nan_stays_visible():
    code = torch.tensor([float("nan"), 0.2])
    assert quantise(code, 4, 1.0).tolist()[0] == -1
    assert fake_quantise(code, 4, 1.0).isnan().tolist() == [True, False]


def test_infinities_are_clipped():
    code = torch.tensor([-float("inf"), float("inf")])
    assert quantise(code, 4, 1.0).tolist() == [0, 15]
