"""The package runs where neither torch nor autosplit is installed."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import autosplit.runtime.standalone as package

ALLOWED = {"constriction", "numpy", "onnxruntime", "zmq", "prometheus_client", "PIL"}
FILES = sorted(Path(package.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_relative_imports_and_few_packages(file):
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1
    assert names - set(sys.stdlib_module_names) <= ALLOWED
