"""Channels kept at a sparsity."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from autosplit.core.space import channels_kept

GROUPS = st.lists(st.integers(1, 2000), min_size=1, max_size=4)


@given(channels=GROUPS, sparsity=st.floats(0, 1), round_to=st.integers(1, 16))
def test_at_least_one_at_most_all_and_a_multiple(channels, sparsity, round_to):
    kept = channels_kept(channels, sparsity, round_to)
    assert ((kept >= 1) & (kept <= channels)).all()
    assert all(k == n or k % round_to == 0 for k, n in zip(kept.tolist(), channels, strict=True))


@given(channels=GROUPS, sparsities=st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_more_sparsity_never_keeps_more(channels, sparsities):
    kept = channels_kept(channels, np.array(sorted(sparsities))[:, None])
    assert (np.diff(kept, axis=0) <= 0).all()


def test_nearest_count():
    assert channels_kept([16, 10, 3], 0.25).tolist() == [12, 8, 2]
    assert channels_kept(100, 0.33, round_to=8) == 64
    assert channels_kept([16, 16], (0.0, 1.0)).tolist() == [16, 1]
