"""The Python of every page is executed: its snippets in order, in one namespace, in a copy of the commands' folder.

A snippet that defines tests is handed to pytest instead, which runs some of them: tests/test_examples.py runs them all
on the same classes. What is changed before stands in `CHANGES`.
"""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from autosplit.experiments.compare import files
from autosplit.experiments.compare import run as comparing
from tests.cli.test_compare_command import canned
from tests.docs.pages import PAGES, snippets
from tests.docs.running import repository_modules
from tests.docs.workplace import copied

CHANGES = {
    # a scenario of seconds
    'load_scenario("default")': 'load_scenario("tiny.yaml")',
    'scenario="default"': 'scenario="tiny.yaml"',
    'autosplit.search("default"': 'autosplit.search("tiny.yaml"',
    '"training.backbone_epochs": 30, "training.supernet_epochs": 30': '"training.backbone_epochs": 2',
    "search__evaluations=50": "search__evaluations=1",
    "search__evaluations=60": "search__evaluations=1",
    # a free port, and patience with a busy machine
    "127.0.0.1:5555": "127.0.0.1:{port}",
    "timeout_ms=200": "timeout_ms=30000",
}
SOME = "has_a_name or tiny_space or settings_are or valid"  # of the contracts' tests
WITH_PYTHON = [page for page in PAGES if snippets(page)]


def changed(code: str) -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for old, new in CHANGES.items():
        code = code.replace(old, new.replace("{port}", str(port)))
    return code


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_python_runs(page, made, world, tmp_path, monkeypatch, capfd):
    here = copied(made[0], tmp_path / "here")
    monkeypatch.chdir(here)
    monkeypatch.setenv("AUTOSPLIT_CACHE", str(world.cache))
    repository_modules(monkeypatch)
    if page == "docs/comparison.md":  # several scenarios; tests/test_compare.py makes real comparisons
        monkeypatch.setattr(comparing, "_compared", canned)
        monkeypatch.setattr(files, "draw_figures", lambda comparisons, out: [])
    names: dict[str, object] = {"__name__": "snippet"}
    tests = []
    code = changed("\n# ---\n".join(snippets(page)))  # one port for a whole page
    for number, part in enumerate(code.split("\n# ---\n")):
        if "\nclass Test" in part:
            tests.append(Path(f"test_snippet_{tmp_path.name}_{number}.py"))
            tests[-1].write_text(part)
        else:
            exec(compile(part, f"{page}, snippet {number}", "exec"), names)
    if tests:
        done = pytest.main([*map(str, tests), "-q", "-p", "no:cacheprovider", f"--rootdir={here}", "-k", SOME])
        assert done == 0, f"{page}: {capfd.readouterr().out}"


def test_there_is_python_to_run():
    assert len(WITH_PYTHON) >= 8
    code = [part for page in WITH_PYTHON for part in snippets(page)]
    assert [old for old in CHANGES if not any(old in part for part in code)] == []
