"""Division into parts: disjoint, stratified, capped, reproducible."""

import numpy as np
import pytest

from autosplit.core.errors import DataError
from autosplit.data.partition import partition, random_generator, split_training

NAMES = tuple("abcdefghij")


@pytest.mark.parametrize(("n", "calibration", "validation"), [(1000, 50, 250), (4000, 200, 500), (10_000, 500, 1000),
                                                              (60_000, 1000, 5000)])
def test_shares_and_caps(n, calibration, validation):
    labels = np.arange(n) % 10
    parts = split_training(labels, NAMES, 0)
    assert (len(parts.calibration), len(parts.validation)) == (calibration, validation)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(n))
    for part in parts:
        assert np.ptp(np.bincount(labels[part])) == 0


def test_unbalanced_classes_keep_their_shares_and_every_part_has_each():
    labels = np.repeat([0, 1, 2], [1000, 100, 3])
    parts = split_training(labels, NAMES[:3], 0)
    assert np.bincount(labels[parts.validation]).tolist() == [250, 25, 1]
    assert np.bincount(labels[parts.calibration]).tolist() == [50, 5, 1]
    assert np.bincount(labels[parts.train]).tolist() == [700, 70, 1]


def test_a_prefix_is_a_fair_sample():
    labels = np.repeat(np.arange(10), 100)
    train = split_training(labels, NAMES, 0).train
    for n in (50, 200, 500):
        counts = np.bincount(labels[train[:n]], minlength=10)
        assert np.abs(counts - n / 10).max() <= 1


def test_equal_seeds_give_equal_parts_and_others_do_not():
    labels = np.arange(300) % 10
    one, same, other = (split_training(labels, NAMES, seed) for seed in (7, 7, 8))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert set(one.validation) != set(other.validation)


def test_streams_of_purposes_differ():
    draws = {random_generator(*key).randint(2**31) for key in [(0,), (0, 1), (0, 2), (1,), (1, 1)]}
    assert len(draws) == 5
    assert random_generator(3, 1).randint(1000) == 405, "the stream is part of the format of fingerprints"


def test_too_small_a_class_is_named():
    with pytest.raises(DataError, match=r"class 'b' has 2 readable images, but at least 3"):
        split_training(np.array([0, 0, 0, 1, 1]), ("a", "b"), 0)


def test_partition_without_shares_is_one_order_of_everything():
    (only,) = partition(np.array([1, 0, 1]), ("a", "b"), (), random_generator(0))
    assert sorted(only.tolist()) == [0, 1, 2]
