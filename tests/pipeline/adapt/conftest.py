"""One bundle of rates, made of the tiny world's run."""

from __future__ import annotations

import pytest

from autosplit.core.cache import Cache
from autosplit.pipeline.adapt import adapt


@pytest.fixture(scope="session")
def adapted(world, tmp_path_factory):
    """What `adapt` gave, and the folder it wrote."""
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason="an extra: pip install '.[deploy]'")
    folder = tmp_path_factory.mktemp("adapted") / "bundle"
    return adapt(world.run, folder, rates=3, epochs=1, fallback=True, cache=Cache(world.cache), target="c"), folder
