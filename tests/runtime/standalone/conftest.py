"""A bundle of fakes, for what loads bundles by itself."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from autosplit.runtime.standalone.errors import BundleError
from tests.runtime.standalone.fakes import FakeDevice, FakeEdge

PACKAGE = "autosplit.runtime.standalone"


@pytest.fixture
def bundle(monkeypatch, tmp_path):
    """A folder that loads as the two fake halves; `gone` beside it does not."""
    folder = tmp_path / "bundle"
    folder.mkdir()

    def loader(kind):
        def load(path, threads=1, provider="cpu"):
            if path != folder:
                raise BundleError(f"{path}: no bundle; export one with autosplit export")
            return kind()

        return load

    halves = ModuleType(f"{PACKAGE}.bundle")
    halves.load_edge, halves.load_device = loader(FakeEdge), loader(FakeDevice)
    monkeypatch.setitem(sys.modules, halves.__name__, halves)
    return folder
