"""The package runs where neither torch nor autosplit is installed."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import autosplit.runtime.standalone as package

ROOT = Path(package.__file__).parent
# each with those that it may import beside the modules of the top that BELOW names, which know no room
ROOMS = {"payload": set(), "control": set(), "bundle": {"payload", "control"},
         "profiling": {"payload", "bundle", "protocol"}, "protocol": set(), "edge": {"protocol"},
         "device": {"protocol", "bundle", "control"},
         "gateway": {"payload", "bundle", "protocol", "edge", "device"}}
BELOW = {"arrays", "compiling", "errors", "files", "images", "image_file"}
ALLOWED = {"constriction", "numpy", "onnxruntime", "zmq", "prometheus_client", "PIL", "serial"}
FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(ROOT).as_posix())
def test_relative_imports_and_few_packages(file):
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= len(file.relative_to(ROOT).parts), "an import from outside of the package"
    assert names - set(sys.stdlib_module_names) <= ALLOWED


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_in_one_direction(room):
    allowed = ROOMS[room] | BELOW | {room, "options"}
    for file in (ROOT / room).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 2:
                assert (node.module or "").split(".")[0] in allowed, f"{file.name} imports {node.module}"
