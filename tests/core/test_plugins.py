from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

import autosplit.core.plugins
from autosplit.core.errors import ConfigError, PluginError, UnknownNameError
from autosplit.core.plugins import Registry, load_object, one_line

GROUP = "autosplit.tests"


@pytest.fixture
def points(monkeypatch):
    """Entry points that other packages would register in GROUP; append to it."""
    registered: list[EntryPoint] = []
    monkeypatch.setattr(autosplit.core.plugins, "_installed",
                        lambda *, group: [p for p in registered if p.group == group])
    return registered


@pytest.fixture
def registry(points):
    return Registry("counter", GROUP, {"plain": "collections:Counter", "absent": "no_such_package.x:Y"})


class TestRegistry:
    def test_names_need_no_import(self, registry, points):
        points.append(EntryPoint("other", "no_such_package_either:Z", GROUP))
        points.append(EntryPoint("foreign", "collections:deque", "another.group"))
        assert registry.names() == ["absent", "other", "plain"]

    def test_builtin(self, registry):
        from collections import Counter

        assert registry.load("plain") is Counter

    def test_entry_point(self, registry, points):
        from collections import OrderedDict

        points.append(EntryPoint("ordered", "collections:OrderedDict", GROUP))
        assert registry.load("ordered") is OrderedDict

    def test_module_and_name(self, registry):
        import json

        assert registry.load("json:JSONDecoder.decode") is json.JSONDecoder.decode

    def test_unknown_name_lists_the_known_and_the_nearest(self, registry):
        with pytest.raises(UnknownNameError, match=r"unknown counter 'plane'; did you mean 'plain'\?.*absent, plain"):
            registry.load("plane")

    @pytest.mark.parametrize("name", ["plain", "twice"])
    def test_two_of_one_name(self, registry, points, name):
        points += [EntryPoint(name, "collections:deque", GROUP), EntryPoint(name, "collections:ChainMap", GROUP)]
        with pytest.raises(PluginError, match=rf"two counters are named '{name}': .*collections:deque"):
            registry.load(name)
        with pytest.raises(PluginError, match="two counters"):
            registry.names()

    def test_one_package_twice_on_the_path_is_one(self, registry, points):
        points += [EntryPoint("ordered", "collections:OrderedDict", GROUP)] * 2
        assert registry.names() == ["absent", "ordered", "plain"]

    def test_broken_entry_point_is_named(self, registry):
        with pytest.raises(PluginError, match=r"counter 'absent', .*there is no module 'no_such_package'"):
            registry.load("absent")

    def test_file_without_a_name(self, registry):
        with pytest.raises(ConfigError, match=r"'mine\.py:Name'"):
            registry.load("mine.py")

    def test_registries_of_one_kind_do_not_share(self, registry, points):
        assert Registry("other", "another.group", {}).names() == []


class TestFiles:
    def test_object_of_a_file(self, tmp_path):
        file = tmp_path / "mine.py"
        file.write_text("from dataclasses import dataclass\n@dataclass\nclass Mine:\n    x: 'int' = 3\n")
        loaded = load_object(f"{file}:Mine")
        assert loaded().x == 3
        assert load_object(f"{file}:Mine") is loaded, "one file, one class: isinstance must hold"

    def test_two_files_of_one_name_do_not_clash(self, tmp_path):
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "mine.py").write_text(f"WHO = {folder!r}\n")
        assert [load_object(f"{tmp_path}/{f}/mine.py:WHO") for f in ("a", "b")] == ["a", "b"]

    def test_relative_path(self, tmp_path, monkeypatch):
        (tmp_path / "mine.py").write_text("X = 1\n")
        monkeypatch.chdir(tmp_path)
        assert load_object("mine.py:X") == 1

    def test_missing_file_is_named_in_full(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigError, match=r"codec 'no/mine\.py:X': no such file '/.*/no/mine\.py'"):
            load_object("no/mine.py:X", "codec")

    def test_missing_name_gives_the_nearest(self, tmp_path):
        (tmp_path / "mine.py").write_text("import json\nclass TableLatency: pass\n")
        with pytest.raises(UnknownNameError, match=r"'TabelLatency'; did you mean 'TableLatency'\?") as caught:
            load_object(f"{tmp_path}/mine.py:TabelLatency")
        assert caught.value.known == ["TableLatency"]
        assert "mine.py" in str(caught.value)

    @pytest.mark.parametrize(("code", "what"), [
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("def broken(:\n", "SyntaxError"),
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
    ])
    def test_import_that_raises_is_one_line_with_file_and_exception(self, tmp_path, code, what):
        file = tmp_path / "mine.py"
        file.write_text(code)
        for _ in range(2):  # a failed import leaves nothing behind
            with pytest.raises(PluginError) as caught:
                load_object(f"{file}:X")
            assert what in str(caught.value)
            assert str(file) in str(caught.value)
            assert "\n" not in str(caught.value)


class TestModules:
    @pytest.mark.parametrize("spec", ["collections", ":Counter", "collections:"])
    def test_half_a_spec(self, spec):
        with pytest.raises(ConfigError, match=r"write package\.module:Name"):
            load_object(spec)

    def test_missing_dependency_of_a_module_is_not_blamed_on_the_module(self, tmp_path, monkeypatch):
        (tmp_path / "needs_more.py").write_text("import no_such_package\n")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(PluginError, match="importing needs_more raised ModuleNotFoundError"):
            load_object("needs_more:X")

    def test_missing_name(self):
        with pytest.raises(UnknownNameError, match="did you mean 'Counter'"):
            load_object("collections:Countr")


def test_one_line_of_a_silent_exception():
    assert one_line(ValueError()) == "ValueError"
    assert one_line(ValueError(" a\n  b ")) == "ValueError: a b"
