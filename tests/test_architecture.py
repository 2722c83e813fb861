"""The house: at most sixteen rooms, no two modules that import each other, no words that the field does not use."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "autosplit"


def modules():
    """Every module of the package with its file; folders behind symbolic links included."""
    found = {}
    for folder, _, names in os.walk(PACKAGE, followlinks=True):
        for name in names:
            if name.endswith(".py"):
                parts = list((Path(folder) / name).relative_to(ROOT).with_suffix("").parts)
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = Path(folder) / name
    return found


def imports(module, path, known):
    """Modules of the package that a file imports anywhere: at its top, within functions, for types alone."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            found |= {f"{base}.{a.name}" if f"{base}.{a.name}" in known else base for a in node.names}
    return (found & known.keys()) - {module}


def cycle(graph):
    """Modules left over when those that import nothing more are taken away again and again: they lie on cycles."""
    left = {module: set(targets) for module, targets in graph.items()}
    while free := [module for module, targets in left.items() if not targets & left.keys()]:
        for module in free:
            del left[module]
    # what only imports a cycle, without lying on one, goes the other way round
    while free := [m for m in left if not any(m in targets for targets in left.values())]:
        for module in free:
            del left[module]
    return sorted(left)


def test_at_most_sixteen_rooms():
    rooms = {p.name for p in PACKAGE.iterdir()} - {"py.typed", "__pycache__"}
    rooms = {name for name in rooms if not name.startswith("__")}
    assert len(rooms) <= 16, sorted(rooms)


def test_no_module_imports_itself_through_others():
    known = modules()
    assert {"autosplit.agents.loop", "autosplit.envs.core"} <= known.keys()  # links are followed
    assert cycle({module: imports(module, path, known) for module, path in known.items()}) == []


def test_a_cycle_would_be_found():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c"]


def test_lazy_imports_count(tmp_path):
    file = tmp_path / "plan.py"
    file.write_text("def f():\n    from autosplit.report import page\n")
    known = modules()
    assert imports("autosplit.core.plan", file, known) == {"autosplit.report.page"}


def test_every_package_says_what_lives_in_it():
    for module, path in modules().items():
        if path.name == "__init__.py":
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            assert text, f"{module} has no docstring"
            assert len(text) > 40, f"{module}: {text!r} says too little"


@pytest.mark.parametrize("module", sorted(m for m in modules() if ".standalone" in m))
def test_the_runtime_of_bundles_knows_nothing_of_the_package(module):
    known = modules()
    outside = {m for m in imports(module, known[module], known) if not m.startswith("autosplit.runtime.standalone")}
    assert outside == set()
