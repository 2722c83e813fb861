"""Fixed-point forms give the level of the float32 arithmetic, for every sum and every pair of levels.

All of them are computed here as the C code does it, from integers of 32 and 64 bits, its shortcuts included.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from autosplit.compression.int8 import quantise_int8
from autosplit.compression.int8_layers import Requantise
from autosplit.compression.lowering import Lowering
from autosplit.compression.lowering.fixed_point import PairStaircase, Staircase, _line, fit_quotient, fit_staircase
from autosplit.compression.lowering.operations import Average, Operation, Product, Sum
from autosplit.core.errors import ConfigError

Integers = NDArray[np.int64]
ZEROS = (0, 1, 127, 254, 255)


# --- staircases


@dataclass(frozen=True)
class Layer:
    """How a layer's sums become levels: what `Int8Layer` and `Requantise` do, in float32.

    Attributes:
        bias: Added to each sum, (channels,).
        scale: float32, value of a sum, (channels,).
        step: float32, value of a level, (channels,).
        zero: Level of zero.
        low: Lowest level.
        high: Highest level.
        least: Smallest sum, (channels,).
        most: Largest one, (channels,).
        shift: Of codes with two levels.
    """

    bias: Integers
    scale: NDArray[np.float32]
    step: NDArray[np.float32]
    zero: int
    least: Integers
    most: Integers
    low: int = 0
    high: int = 255
    shift: float = 0.0

    def unbounded(self, sums: Integers) -> Integers:
        real = (sums + self.bias[:, None]).astype(np.float32) * self.scale[:, None]
        levels = np.rint(real / self.step[:, None] - np.float32(self.shift))
        return np.clip(levels, -(2.0**40), 2.0**40).astype(np.int64) + self.zero

    def levels(self, sums: Integers) -> Integers:
        return np.clip(self.unbounded(sums), self.low, self.high)

    def fit(self, estimated: bool = True, off_by: int = 0) -> Staircase:
        estimate = None
        if estimated:
            wanted = np.arange(self.low + 1, self.high + 1) - self.zero - 0.5 + self.shift
            steps = self.step.astype(np.float64)[:, None] / self.scale[:, None]
            estimate = wanted * steps - self.bias[:, None] + off_by
        return fit_staircase(self.unbounded, self.least, self.most, self.low, self.high, estimate)

    def telling_sums(self, rng: np.random.Generator, random: int = 2000) -> Integers:
        """The sums around each level's first one, the ends of the range, and random ones, (channels, n)."""
        goal = np.arange(self.low + 1, self.high + 1)
        start = np.repeat(self.least[:, None], len(goal), axis=1)
        end = np.repeat(self.most[:, None] + 1, len(goal), axis=1)
        while (start < end).any():
            middle = (start + end) // 2
            reached = (self.levels(middle) >= goal) & (start < end)
            start, end = np.where(reached | (start >= end), start, middle + 1), np.where(reached, middle, end)
        near = [start + d for d in (-2, -1, 0, 1, 2)]
        others = [rng.integers(low, high + 1, random) for low, high in zip(self.least, self.most, strict=True)]
        ends = [self.least[:, None], self.most[:, None]]
        return np.clip(np.concatenate([*near, np.stack(others), *ends], axis=1), *ends)

    def every_sum(self) -> Integers:
        """All of them, (channels, n); channels with fewer repeat their last one."""
        return np.minimum(self.least[:, None] + np.arange((self.most - self.least).max() + 1), self.most[:, None])


def in_c(s: Staircase, sums: Integers) -> Integers:
    """What `kernels.c` makes of sums (channels, n)."""
    assert (np.abs(sums) < 2**31).all()
    assert (s.multiplier >= 0).all()
    assert (s.multiplier < 2**31).all()
    assert len(s.exceptions) < 2**16
    assert s.window < 2**31  # so that twice the window is a word
    shifted = sums << s.left
    assert (np.abs(shifted) < 2**31).all()
    product = shifted * s.multiplier[:, None] + s.offset[:, None]  # of 64 bits, as numpy's
    largest = 2**31 * s.multiplier.astype(object) + np.abs(s.offset.astype(object))
    assert (largest < 2**63).all()
    levels = np.clip(product >> 32, 0, 255)
    listed = ((product & 0xFFFFFFFF) + s.window & 0xFFFFFFFF) <= 2 * s.window
    for channel, total, level in s.exceptions:
        levels[channel][listed[channel] & (sums[channel] == total)] = level
    return np.clip(levels, s.low, s.high)


def random_layer(seed: int) -> Layer:
    """Like those of networks, and unlike them in one way or another."""
    rng = np.random.default_rng(seed)
    channels, inputs = int(rng.integers(1, 7)), int(np.exp(rng.uniform(0, np.log(4608))))
    weight = np.clip(np.rint(rng.normal(rng.choice([0, 0, 20]), rng.uniform(10, 60), (channels, inputs))), -127, 127)
    weight[rng.random(channels) < 0.1] = 0
    if rng.random() < 0.2:
        weight = np.abs(weight)
    weight = weight.astype(np.int64)
    given_zero = int(rng.choice([0, 0, 114, 255]))
    spread = 74 * np.sqrt((weight**2).sum(axis=1)) + 1
    scale = np.float32(10.0 ** rng.uniform(-8, 0)) * rng.uniform(0.3, 3.0, channels).astype(np.float32)
    # a range that the sums fill, or that is much wider or narrower
    step = np.float32((scale * spread).max() * 10.0 ** rng.choice([0.8, 0.8, 0.3, -0.5, 2.0]) / 255)
    own = np.rint(rng.normal(0, 1, channels) * spread * rng.choice([0.0, 1.0, 5.0])).astype(np.int64)
    zero = int(rng.choice(ZEROS))
    bounds = [(0, 255), (0, 255), (zero, 255), (min(zero, 200), min(zero + 40, 255))][int(rng.integers(4))]
    reach = 255 * np.minimum(weight, 0).sum(axis=1), 255 * np.maximum(weight, 0).sum(axis=1)
    return Layer(np.clip(own, -(2**23), 2**23) - given_zero * weight.sum(axis=1), scale,
                 np.full(channels, step, dtype=np.float32), zero, *reach, *bounds)


LAYERS = 150


class TestStaircase:
    def test_random_layers(self) -> None:
        refused, exceptions, channels = [], 0, 0
        for seed in range(LAYERS):
            layer = random_layer(seed)
            try:
                found = layer.fit()
            except ConfigError as e:
                refused.append(str(e))
                continue
            sums = layer.telling_sums(np.random.default_rng(seed))
            np.testing.assert_array_equal(in_c(found, sums), layer.levels(sums), err_msg=f"seed {seed}")
            np.testing.assert_array_equal(found(sums), layer.levels(sums))
            assert (layer.levels(sums).min(axis=1) >= found.low).all()
            exceptions, channels = exceptions + len(found.exceptions), channels + len(layer.scale)
        assert len(refused) <= LAYERS // 20, refused
        assert exceptions < 20 * channels

    @pytest.mark.parametrize("seed", range(12))
    def test_every_sum_of_small_layers(self, seed: int) -> None:
        layer = random_layer(1000 + seed)
        middle = (layer.least + layer.most) // 2
        layer = replace(layer, least=np.maximum(layer.least, middle - 200_000),
                        most=np.minimum(layer.most, middle + 200_000))
        sums = layer.every_sum()
        np.testing.assert_array_equal(in_c(layer.fit(), sums), layer.levels(sums))

    @pytest.mark.parametrize("scale", [1e-8, 3e-6, 1e-3, 1.0])
    @pytest.mark.parametrize("zero", ZEROS)
    def test_scales_and_zeros(self, scale: float, zero: int) -> None:
        rng = np.random.default_rng(zero)
        scales = (scale * rng.uniform(0.5, 2, 4)).astype(np.float32)
        step = np.full(4, scale * 431.7, dtype=np.float32)
        layer = Layer(rng.integers(-9000, 9000, 4), scales, step, zero, np.full(4, -150_000), np.full(4, 170_000))
        sums = layer.every_sum()
        np.testing.assert_array_equal(in_c(layer.fit(), sums), layer.levels(sums))
        assert len(np.unique(layer.levels(sums))) > 200

    def test_sums_that_float32_does_not_hold(self) -> None:
        """Beyond 2**24 sums are rounded before they are scaled; a level begins at a multiple of two, four and so on."""
        for power in (24, 25, 26):
            base = 2**power + 12_345
            layer = Layer(np.array([0, 7003]), np.float32([1.3e-5, 1.4e-5]), np.float32([6.1e-2, 6.7e-2]), 0,
                          np.full(2, base), np.full(2, base + 1_200_000))
            begin = np.rint(base * layer.scale.astype(np.float64) / layer.step).astype(np.int64).max()
            layer = replace(layer, zero=-int(begin))
            sums = layer.every_sum()
            assert len(np.unique(layer.levels(sums))) > 200
            scale = layer.scale.astype(np.float64) / layer.step
            exact = np.rint((sums + layer.bias[:, None]) * scale[:, None])
            assert (np.clip(exact + layer.zero, 0, 255) != layer.levels(sums)).sum() > 50
            found = layer.fit()
            np.testing.assert_array_equal(in_c(found, sums), layer.levels(sums))
            assert len(found.exceptions)

    @pytest.mark.parametrize("slope", [0.2, 0.26, 0.9, 1.0, 1.7, 30.0, 254.0, 400.0, 1e5])
    def test_levels_that_a_sum_jumps_over(self, slope: float) -> None:
        layer = Layer(np.array([5, -37]), np.float32([slope, slope * 0.7]), np.float32([1, 1]), 120,
                      np.array([-3000, -20_000]), np.array([50, 20_000]))
        found, sums = layer.fit(), layer.every_sum()
        np.testing.assert_array_equal(in_c(found, sums), layer.levels(sums))
        assert (found.left > 0) == (slope > 0.25)
        assert len(np.unique(layer.levels(sums))) > min(200, 300 / slope)

    def test_a_steep_channel_beside_flat_ones(self) -> None:
        layer = Layer(np.array([0, 10, 0]), np.float32([0.004, 3.0, 1e-7]), np.float32([1, 1, 1]), 128,
                      np.full(3, -40_000), np.full(3, 40_000))
        sums = layer.every_sum()
        np.testing.assert_array_equal(in_c(layer.fit(), sums), layer.levels(sums))

    @pytest.mark.parametrize("bias", [0, 1, 77, -77, 2**23, -(2**23)])
    def test_a_channel_whose_weights_are_all_zero(self, bias: int) -> None:
        """Its one sum has one level, whatever else a multiplier might give; the other channel is an ordinary one."""
        layer = Layer(np.array([bias, 12]), np.float32([3e-4, 1e-3]), np.float32([0.11, 0.11]), 127,
                      np.array([0, -90_000]), np.array([0, 100_000]))
        sums = layer.every_sum()
        np.testing.assert_array_equal(in_c(layer.fit(), sums), layer.levels(sums))

    @pytest.mark.parametrize(("least", "most"), [(0, 120_000), (-120_000, 0), (0, 1), (-1, 0), (7, 7), (-30, 900)])
    @pytest.mark.parametrize("zero", ZEROS)
    def test_one_sided_and_short_ranges(self, least: int, most: int, zero: int) -> None:
        layer = Layer(np.array([100, -100, 0]), np.float32([1e-3, 2e-2, 0.4]), np.float32([0.7, 0.7, 0.7]), zero,
                      np.full(3, least), np.full(3, most))
        sums = layer.every_sum()
        np.testing.assert_array_equal(in_c(layer.fit(), sums), layer.levels(sums))

    @pytest.mark.parametrize("bounds", [(0, 255), (127, 255), (127, 160), (254, 255), (0, 1), (127, 127), (0, 0),
                                        (255, 255)])
    def test_bounds(self, bounds: tuple[int, int]) -> None:
        layer = Layer(np.array([100, -100]), np.float32([1e-3, 2e-3]), np.float32([0.4, 0.4]), 127,
                      np.array([-80_000, -1]), np.full(2, 80_000), *bounds)
        sums = layer.every_sum()
        np.testing.assert_array_equal(in_c(layer.fit(), sums), layer.levels(sums))

    @pytest.mark.parametrize("bits", range(1, 9))
    def test_symbols_with_a_step_for_each_channel(self, bits: int) -> None:
        rng, half = np.random.default_rng(bits), 2 ** (bits - 1)
        step = (rng.uniform(0.5, 3, 5) * 50 / half).astype(np.float32)
        layer = Layer(rng.integers(-3000, 3000, 5), rng.uniform(1e-3, 4e-3, 5).astype(np.float32), step, half,
                      np.full(5, -60_000), np.full(5, 50_000), 0, 2 * half - 1, 0.5 if bits == 1 else 0.0)
        sums = layer.every_sum()
        np.testing.assert_array_equal(in_c(layer.fit(), sums), layer.levels(sums))
        assert len(np.unique(layer.levels(sums))) == 2**bits

    @pytest.mark.parametrize("off_by", [-100_000, -4, 3, 50, 10**9])
    def test_the_estimate_only_saves_time(self, off_by: int) -> None:
        for seed in range(5):
            layer = random_layer(seed)
            sums = layer.telling_sums(np.random.default_rng(seed), 100)
            wanted = layer.levels(sums)
            np.testing.assert_array_equal(in_c(layer.fit(estimated=False), sums), wanted)
            np.testing.assert_array_equal(in_c(layer.fit(off_by=off_by), sums), wanted)

    def test_exact_ties(self) -> None:
        """Sums that lie half way between two levels go to the even one."""
        layer = Layer(np.array([0, 16]), np.float32([0.25, 0.125]), np.float32([8, 8]), 127, np.full(2, -9000),
                      np.full(2, 9000))
        sums = layer.every_sum()
        real = sums * layer.scale[:, None] / layer.step[:, None]
        assert (np.abs(real % 1 - 0.5) < 1e-9).sum() > 200
        np.testing.assert_array_equal(in_c(layer.fit(), sums), layer.levels(sums))

    def test_what_cannot_be_followed(self) -> None:
        def root(sums: Integers) -> Integers:
            return np.sqrt(np.maximum(sums, 0)).astype(np.int64)

        with pytest.raises(ConfigError, match="levels follow no even steps; quantise the network again"):
            fit_staircase(root, np.array([0]), np.array([65_000]))
        steep = Layer(np.array([0]), np.float32([300.0]), np.float32([1.0]), 0, np.array([0]), np.array([2**28]))
        with pytest.raises(ConfigError, match="sums of a layer are too large for one step of its levels; quantise the"):
            steep.fit()

    def test_a_single_offset_is_found(self) -> None:
        """Also where it is odd: a level at the sum 5 and one 258 sums later leave no choice."""
        multiplier, at, goal = (2**32 - 1) // 257, np.array([[5, 5 + 258]]), np.array([1, 2]) << 32
        seen = np.ones((1, 2), dtype=bool)
        found, offset, fits = _line(at, at - 1, goal, seen, seen, np.array([float(multiplier)]))
        assert fits.all()
        assert (found * at + offset[:, None] >= goal).all()
        assert (found * (at - 1) + offset[:, None] < goal).all()
        assert int(found[0]) == multiplier
        assert int(offset[0]) % 2

    def test_differences_far_from_the_range_are_none(self) -> None:
        """The levels that no sum reaches bound nothing, and are not listed."""
        layer = Layer(np.array([0]), np.float32([1e-7]), np.float32([1.0]), 3, np.array([-900_000]),
                      np.array([900_000]))
        found, sums = layer.fit(), layer.every_sum()
        np.testing.assert_array_equal(in_c(found, sums), layer.levels(sums))
        assert len(found.exceptions) == 0


# --- sums and products of two tensors


KINDS = {"add": operator.add, "sub": operator.sub, "mul": operator.mul}


class _Two(nn.Module):
    """Two branches, joined elementwise."""

    def __init__(self, kind: str, clamp: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 4)
        self.kind, self.clamp = kind, clamp

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        joined = KINDS[self.kind](self.first(x), self.second(x))
        return self.last(self.clamp(joined)).flatten(1)


def operation_of(
    network: nn.Module, kind: type[Operation], parameters: dict[str, tuple[float, int]], shape: tuple[int, int, int]
) -> Operation:
    """The operation that a network becomes whose scales and zeros are set by hand, by name of what they round."""
    torch.manual_seed(0)
    quantised = quantise_int8(network.eval(), [torch.randn(4, *shape)])
    left = dict(parameters)
    for name, module in quantised.named_modules():
        if type(module) is Requantise and name.removesuffix("_grid") in left:
            scale, zero = left.pop(name.removesuffix("_grid"))
            module.scale.fill_(scale)
            module.zero.fill_(zero)
    assert not left
    lowering = Lowering(shape)
    lowering.logits(lowering.network(quantised, lowering.image([0.5] * shape[0], [0.25] * shape[0]), shape))
    (found,) = (o for o in lowering.program.operations if type(o) is kind)
    return found


A = np.repeat(np.arange(256)[:, None], 256, axis=1)
B = A.T


def pairs_in_c(p: PairStaircase, term: Integers) -> Integers:
    """What `kernels.c` makes of all pairs of levels, of which `term` is the sum or product, multiplied."""
    total = term + p.offset
    mask = (1 << p.shift) - 1
    levels = np.clip(total >> p.shift, p.low, p.high)
    near = (total + p.window & mask) <= 2 * p.window
    for a, b, level in p.exceptions:
        if near[a, b]:
            levels[a, b] = level
    return levels


def wanted_pairs(
    kind: str, given: list[tuple[float, int]], target: tuple[float, int], bounds: tuple[float, float]
) -> Integers:
    """As `Requantise` does it."""
    with np.errstate(over="ignore"):
        a, b = (np.float32(s) * (x - z).astype(np.float32) for x, (s, z) in zip((A, B), given, strict=True))
        real = np.clip(KINDS[kind](a, b), *np.float32(bounds))
        return np.clip(np.rint(real / np.float32(target[0])) + target[1], 0, 255).astype(np.int64)


def compare_pairs(
    kind: str, given: list[tuple[float, int]], target: tuple[float, int], clamp: nn.Module, bounds: tuple[float, float]
) -> Integers:
    rounded = kind if isinstance(clamp, nn.Identity) else "clamp"
    network = _Two(kind, clamp)
    made = operation_of(network, Product if kind == "mul" else Sum,
                        {"first": given[0], "second": given[1], rounded: target}, (1, 4, 4))
    assert isinstance(made, (Sum, Product))
    p = made.pairs
    first, second = p.multipliers
    if isinstance(made, Product):
        assert second == 0
        assert abs(first) < 2**31
        term = (A - made.zeros[0]) * (B - made.zeros[1]) * first
        assert (np.abs((term + p.offset) >> p.shift) < 2**31).all()
    else:
        term = A * first + B * second
        assert (np.abs(term) + abs(p.offset) < 2**31).all()  # of 32 bits in C
    assert 0 <= p.shift < 32
    wanted = wanted_pairs(kind, given, target, bounds)
    np.testing.assert_array_equal(pairs_in_c(p, term), wanted)
    return wanted


CLAMPS = [(nn.Identity(), (-np.inf, np.inf)), (nn.ReLU(), (0.0, np.inf)), (nn.ReLU6(), (0.0, 6.0)),
          (nn.Hardtanh(-0.4, 0.9), (-0.4, 0.9))]


class TestPairs:
    @pytest.mark.parametrize("kind", ["add", "sub", "mul"])
    def test_random_scales(self, kind: str) -> None:
        for seed in range(24):
            rng = np.random.default_rng(seed)
            given = [(float(np.float32(10.0 ** rng.uniform(-3, 0))), int(rng.choice(ZEROS))) for _ in range(2)]
            reach = given[0][0] * given[1][0] * 2e4 if kind == "mul" else 200 * (given[0][0] + given[1][0])
            target = (float(np.float32(reach / 255 * 10.0 ** rng.uniform(-1, 0.5))), int(rng.choice(ZEROS)))
            clamp, bounds = CLAMPS[seed % len(CLAMPS)]
            compare_pairs(kind, given, target, clamp, bounds)

    @pytest.mark.parametrize("kind", ["add", "sub", "mul"])
    @pytest.mark.parametrize("scales", [(1e-8, 1e-8), (1.0, 1e-8), (1.0, 1.0), (1e-8, 1.0)])
    def test_scales_far_apart(self, kind: str, scales: tuple[float, float]) -> None:
        reach = scales[0] * scales[1] * 1e4 if kind == "mul" else 150 * sum(scales)
        wanted = compare_pairs(kind, [(scales[0], 127), (scales[1], 3)], (reach / 200, 77), *CLAMPS[0])
        assert len(np.unique(wanted)) > 50

    @pytest.mark.parametrize("ratio", [1.0, 1 / 64, 1 / 128])
    def test_equal_scales_that_make_exact_ties(self, ratio: float) -> None:
        wanted = compare_pairs("add", [(ratio, 100), (ratio, 30)], (1.0, 100), *CLAMPS[0])
        if ratio < 1.0:
            assert (np.abs((A - 100 + B - 30) * ratio % 1 - 0.5) < 1e-9).sum() > 400
        assert len(np.unique(wanted)) >= 510 * ratio * 0.5

    @pytest.mark.parametrize("ratio", [0.5, 0.25])
    def test_too_many_ties_are_refused(self, ratio: float) -> None:
        """Half of them go up and half down: no even steps do that."""
        with pytest.raises(ConfigError, match=r"operation 'add' cannot be written as C: a sum or .* no even steps"):
            compare_pairs("add", [(ratio, 100), (ratio, 30)], (1.0, 100), *CLAMPS[0])

    @pytest.mark.parametrize(("kind", "finer"), [("add", 1e9), ("mul", 1e6), ("mul", 1e12)])
    def test_far_too_fine_results_are_refused(self, kind: str, finer: float) -> None:
        with pytest.raises(ConfigError, match="far finer levels than what is"):
            compare_pairs(kind, [(1.0, 100), (1.0, 30)], (1 / finer, 100), *CLAMPS[0])

    @pytest.mark.parametrize("kind", ["add", "sub", "mul"])
    @pytest.mark.parametrize("finer", [40.0, 900.0])
    def test_fine_results(self, kind: str, finer: float) -> None:
        """Nearly all pairs are clipped."""
        wanted = compare_pairs(kind, [(1.01, 100), (0.83, 30)], (1 / finer, 100), *CLAMPS[0])
        assert np.isin(wanted, (0, 255)).mean() > 0.9


# --- means


class _Mean(nn.Module):
    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.first, self.kernel, self.last = nn.Conv2d(1, 1, 1), kernel, nn.Conv2d(1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(F.avg_pool2d(self.first(x), self.kernel)).flatten(1)


def exact_means(values: Integers, scale: float, step: float, zero: int, divisor: int) -> Integers:
    """Levels of means of levels (n, count) around zero, as the network computes them."""
    real = values.astype(np.float32) * np.float32(scale)
    mean = (real.astype(np.float64).sum(axis=1) / divisor).astype(np.float32)
    return np.rint(mean / np.float32(step)).astype(np.int64) + zero


class TestQuotients:
    @pytest.mark.parametrize("kernel", [1, 2, 3, 7])
    @pytest.mark.parametrize(("scale", "step"), [
        (0.017, 0.0093), (0.0171, 0.0171), (1.0, 0.25), (1e-8, 3e-8), (1.0, 1.7e-3), (0.3, 0.01), (0.02, 0.5)])
    def test_sums_away_from_a_boundary_tell_the_level(self, kernel: int, scale: float, step: float) -> None:
        """However their values are spread: few large ones, many small ones, or such that cancel out."""
        scale, step, zero, given_zero = float(np.float32(scale)), float(np.float32(step)), 100, 90
        made = operation_of(_Mean(kernel), Average, {"first": (scale, given_zero), "float_1": (step, zero)},
                            (1, kernel, kernel))
        assert isinstance(made, Average)
        (q,) = made.quotients
        rng, count = np.random.default_rng(kernel), kernel * kernel
        assert q.divisor == count
        least, most = -given_zero, 255 - given_zero
        parts = [rng.integers(least, most + 1, (4000, count)), rng.choice([least, 0, most], (4000, count)),
                 rng.integers(-3, 4, (4000, count))]
        every = np.arange(least * count, most * count + 1)  # all sums: spread evenly, and put into as few as hold them
        even = every[:, None] // count + (np.arange(count) < (every % count)[:, None])
        packed = np.clip(every[:, None] - np.arange(count) * np.where(every < 0, least, most)[:, None],
                         np.minimum(0, np.where(every < 0, least, 0))[:, None], np.where(every < 0, 0, most)[:, None])
        values = np.concatenate([*parts, even, packed])
        assert (packed.sum(axis=1) == every).all()
        assert (even.sum(axis=1) == every).all()
        sums = values.sum(axis=1)
        shifted = sums << q.left
        assert (np.abs(shifted) < 2**31).all()
        assert 0 <= q.multiplier < 2**31
        assert q.window < 2**31
        product = shifted * q.multiplier + q.offset
        near = ((product & 0xFFFFFFFF) + q.window & 0xFFFFFFFF) <= 2 * q.window
        wanted = exact_means(values, scale, step, zero, count)
        low, high = 0, 255
        np.testing.assert_array_equal(np.clip(product >> 32, low, high)[~near], np.clip(wanted, low, high)[~near])
        boundary = sums * (scale / step) / count + 0.5
        assert (np.abs(boundary - np.rint(boundary))[near] < 1e-6 * scale / step * 255 + 1e-5).all()  # seldom: it costs

    def test_means_with_far_finer_levels_are_refused(self) -> None:
        for scale, step in ((1.0, 1e-4), (1.0, 1e-9)):
            with pytest.raises(ConfigError, match=r"operation 'avg_pool2d' .* far finer levels than what it is a mean"):
                operation_of(_Mean(3), Average, {"first": (scale, 90), "float_1": (step, 100)}, (1, 3, 3))

    def test_large_windows(self) -> None:
        for count in (12_544, 50_176):
            q = fit_quotient(count, 0.02, 0.013, 7, count)
            sums = np.random.default_rng(0).integers(-255 * count, 255 * count, 20_000)
            product = (sums << q.left) * q.multiplier + q.offset
            near = ((product & 0xFFFFFFFF) + q.window & 0xFFFFFFFF) <= 2 * q.window
            exact = np.floor(sums * 0.02 / 0.013 / count + 7.5)
            assert (np.abs(sums << q.left) < 2**31).all()
            np.testing.assert_array_equal((product >> 32)[~near], exact[~near])
            assert near.mean() < 0.01
