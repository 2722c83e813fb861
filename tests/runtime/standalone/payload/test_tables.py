"""Frequency tables: fitted, stored, damaged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autosplit.core.errors import ConfigError, ResultError
from autosplit.runtime.standalone.payload.coder import PayloadCoder, payload_bytes
from autosplit.runtime.standalone.payload.contexts import CONTEXTS
from autosplit.runtime.standalone.payload.frequencies import PRECISION, FrequencyTables
from tests.runtime.standalone.payload.codes import QUICK, codes_of, smooth_codes

KEY = b"deployment 1"
TOTAL = 2**PRECISION


@given(channels=st.integers(1, 6), bits=st.integers(1, 8), spread=st.sampled_from([0.0, 0.3, 2.0, 99.0]),
       count=st.integers(1, 40), seed=st.integers(0, 999))
@QUICK
def test_fitted_tables_are_normalised_and_close_to_the_counts(channels, bits, spread, count, seed):
    codes = codes_of((channels, 3, 2), bits, spread, count, seed)
    tables = FrequencyTables.fit(codes, bits, contexts=False)
    assert (tables.channels, tables.levels) == (channels, 2**bits)
    assert tables.frequencies.dtype == np.uint32
    assert tables.frequencies.min() >= 1
    assert (tables.frequencies.sum(axis=1) == TOTAL).all()
    counts = np.stack([np.bincount(codes[:, k].ravel(), minlength=2**bits) for k in range(channels)]) + 0.5
    share = counts / counts.sum(axis=1, keepdims=True)
    assert np.abs(tables.frequencies / TOTAL - share).max() <= (2**bits + 1) / TOTAL


def test_an_unseen_symbol_stays_codable_at_a_small_cost():
    tables = FrequencyTables.fit(np.full((100, 1, 4, 4), 5), 4)
    assert tables.middle is None  # where a symbol is certain, neighbours cannot say more
    cost = tables.symbol_bits[0]
    assert cost[5] < 0.01
    assert np.delete(cost, 5).max() < 13
    huge = FrequencyTables.fit(np.zeros((1, 1, 2000, 1000), dtype=np.int8), 8)
    assert huge.symbol_bits.max() <= PRECISION


def test_entropy_bits_is_the_cross_entropy():
    codes = codes_of((3, 2, 5), 3, 1.0)
    tables = FrequencyTables.fit(codes[:30], 3, contexts=False)
    share = tables.frequencies / TOTAL
    expected = [-sum(np.log2(share[k, s]) for k in range(3) for s in image[k].ravel()) for image in codes]
    np.testing.assert_allclose(tables.entropy_bits(codes), expected, rtol=1e-12)
    assert tables.entropy_bits(codes[:0]).shape == (0,)


def test_tables_are_immutable_and_independent_of_their_source():
    source = np.full((1, 2), TOTAL // 2, dtype=np.uint32)
    tables = FrequencyTables(source)
    source[0, 0] = 7
    assert tables.frequencies[0, 0] == TOTAL // 2
    with pytest.raises(ValueError, match="read-only"):
        tables.frequencies[0, 0] = 1


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_tables_survive_storage_as_uint16(bits, spread):
    tables = FrequencyTables.fit(codes_of((3, 4, 4), bits, spread), bits)
    arrays = tables.to_arrays()
    assert {name: a.dtype for name, a in arrays.items()} == {"frequencies": np.dtype(np.uint16)}
    assert np.array_equal(FrequencyTables.from_arrays(arrays).frequencies, tables.frequencies)


@pytest.mark.parametrize("bits", range(1, 9))
def test_tables_with_contexts_survive_storage(bits):
    tables = FrequencyTables.fit(smooth_codes((3, 6, 5), bits, 400), bits)
    assert tables.middle is not None
    arrays = tables.to_arrays()
    assert {name: a.dtype for name, a in arrays.items()} == {"frequencies": np.dtype(np.uint16)}
    again = FrequencyTables.from_arrays(arrays)
    assert np.array_equal(again.frequencies, tables.frequencies)
    assert np.array_equal(again.middle, tables.middle)


def test_contexts_are_taken_where_neighbours_say_something():
    """A smooth channel has contexts, noise has none, and what they save is saved on other images too."""
    smooth, noise = smooth_codes((1, 12, 12), 4), np.random.default_rng(1).integers(0, 16, (80, 1, 12, 12))
    codes = np.concatenate([smooth, noise], axis=1)
    tables, plain = (FrequencyTables.fit(codes[:60], 4, contexts=c) for c in (True, False))
    assert tables.middle is not None
    assert tables.middle[1].tolist() == [0, 15]  # every symbol in the middle: one context
    assert tables.middle[0, 0] > 0
    assert tables.middle[0, 1] < 15
    saved = plain.entropy_bits(codes[60:]) - tables.entropy_bits(codes[60:])
    assert saved.mean() > 0.15 * FrequencyTables.fit(smooth[:60], 4, contexts=False).entropy_bits(smooth[60:]).mean()
    assert FrequencyTables.fit(noise, 4).middle is None
    assert FrequencyTables.fit(smooth[:, :, :1, :1], 4).middle is None  # a single cell has no neighbours
    coder = PayloadCoder(tables, (2, 12, 12), KEY)
    sizes = [len(p) for p in coder.encode_batch(codes[60:])]
    assert np.mean(sizes) == pytest.approx(payload_bytes(tables, codes[60:]).mean(), abs=0.3)


@pytest.mark.parametrize(("middle", "message"), [
    (np.array([[0, 4]]), "first and a last symbol below 4"), (np.array([[-1, 2]]), "first and a last symbol below 4"),
    (np.array([[2, 1]]), "first and a last symbol below 4"), (np.array([[0.0, 1.0]]), "integers of shape"),
    (np.array([0, 1]), "integers of shape"), (None, "with a middle for each channel"),
])
def test_a_damaged_middle_is_refused(middle, message):
    with pytest.raises(ConfigError, match=message):
        FrequencyTables(np.full((1, CONTEXTS, 4), TOTAL // 4), middle)


@pytest.mark.parametrize("row", [[3, 1, 0, 0], [0, 9, 0, 0]])
def test_a_damaged_stored_middle_is_refused(row):
    stored = np.full((1, CONTEXTS + 1, 4), TOTAL // 4)
    stored[0, -1] = row
    with pytest.raises(ResultError, match="first and a last symbol below 4"):
        FrequencyTables.from_arrays({"frequencies": stored})


@pytest.mark.parametrize(("table", "message"), [
    (np.full((2, 4), TOTAL // 4 + 1), "channel 0 sum to 65540"),
    (np.array([[TOTAL // 2, TOTAL // 2], [TOTAL // 2, TOTAL // 2 - 1]]), "channel 1 sum to 65535"),
    (np.array([[-5, TOTAL + 5]]), "must lie in"),
    (np.array([[0, TOTAL]]), "must lie in"),
    (np.full((1, 3), TOTAL // 3), "power of two"),
    (np.full((1, 1), TOTAL), "power of two"),
    (np.full((1, 512), TOTAL // 512), "power of two"),
    (np.zeros((0, 4), dtype=np.int64), "at least one channel"),
    (np.full(4, TOTAL // 4), "shape"),
    (np.full((1, 4), TOTAL / 4), "integers"),
])
def test_damaged_tables_are_refused(table, message):
    with pytest.raises(ResultError, match=message):
        FrequencyTables.from_arrays({"frequencies": table})
    with pytest.raises(ConfigError, match=message):
        FrequencyTables(table)


def test_a_missing_array_is_named():
    with pytest.raises(ResultError, match=r"no array 'frequencies' \(found: \['weights'\]\)"):
        FrequencyTables.from_arrays({"weights": np.zeros(3)})


@pytest.mark.parametrize(("symbols", "message"), [
    (np.zeros((1, 4, 3, 3)), "integers"),
    (np.full((1, 4, 3, 3), 8), r"\[0, 7\]"),
    (np.full((1, 4, 3, 3), -1), "NaN"),
    (np.zeros((4, 3, 3), dtype=int), r"\(images, "),
])
def test_wrong_symbols_are_refused(symbols, message):
    tables = FrequencyTables.fit(codes_of((4, 3, 3), 3, 1.0), 3)
    with pytest.raises(ConfigError, match=message):
        FrequencyTables.fit(symbols, 3)
    with pytest.raises(ConfigError, match=message):
        tables.entropy_bits(symbols)


def test_no_calibration_images_are_refused():
    with pytest.raises(ConfigError, match="at least one"):
        FrequencyTables.fit(np.zeros((0, 4, 3, 3), dtype=int), 3)
