"""A bundle of fakes, for what loads bundles by itself."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest

from autosplit.runtime.standalone.errors import BundleError
from tests.runtime.standalone.fakes import SHAPE, FakeDevice, FakeEdge

PACKAGE = "autosplit.runtime.standalone"


@pytest.fixture
def bundle(monkeypatch, tmp_path):
    """A folder that loads as the two fake halves; `gone` beside it does not."""
    folder = tmp_path / "bundle"
    folder.mkdir()

    def loader(kind):
        def load(path, threads=1):
            if path != folder:
                raise BundleError(f"{path}: no bundle; export one with autosplit export")
            return kind()

        return load

    def read_images(paths, shape):
        assert tuple(shape) == SHAPE
        found = [np.load(path) for path in paths]
        return np.concatenate([image[None] if image.ndim == 3 else image for image in found])

    bundles, pictures = ModuleType(f"{PACKAGE}.bundle"), ModuleType(f"{PACKAGE}.images")
    bundles.load_edge, bundles.load_device = loader(FakeEdge), loader(FakeDevice)
    pictures.read_images = read_images
    for module in (bundles, pictures):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return folder
