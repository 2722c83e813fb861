"""Code that files name: what ran here before runs, what is typed runs, all else is refused with a look at it."""

from __future__ import annotations

import json
import py_compile
import sys

import pytest

from autosplit.core import trust
from autosplit.core.errors import UntrustedCodeError
from autosplit.core.hashing import sha256_of_file
from autosplit.core.plugins import Registry

THINGS = Registry("thing", "autosplit.no_such_group", {"plain": "autosplit.core.hashing:content_hash"})


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch, tmp_path):
    monkeypatch.setattr(trust, "_named", {})
    monkeypatch.setattr(trust, "_vouched", set())
    monkeypatch.setenv("AUTOSPLIT_CONFIG", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def code(tmp_path):
    """A file that leaves a mark when it runs."""
    file = tmp_path / "their.py"
    file.write_text(f"open({str(tmp_path / 'mark')!r}, 'a').write('ran')\ndef f(): pass\ndef g(): pass\n")
    return file


def ran(tmp_path):
    return (tmp_path / "mark").exists()


def test_what_is_typed_runs(code, tmp_path):
    THINGS.load(f"{code}:f")
    assert ran(tmp_path)


@pytest.mark.parametrize("written", ["their.py:f", "./their.py:f", "{folder}/their.py:f", "{folder}/x/../their.py:f"])
@pytest.mark.parametrize("asked", ["their.py:f", "{folder}/their.py:f"])
def test_what_a_file_names_does_not_run(code, tmp_path, written, asked):
    (tmp_path / "x").mkdir()
    spec = written.format(folder=tmp_path)
    trust.named_in_file({"deployment": {"blueprint": {"backbone": spec}}}, "best.json")
    for name in (spec, asked.format(folder=tmp_path)):
        with pytest.raises(UntrustedCodeError) as caught:
            THINGS.load(name)
        message = str(caught.value)
        assert "\n" not in message
        for part in ("best.json names code", "--trust-code", "trust_code=True", str(code), sha256_of_file(code)[:12],
                     "deployment.blueprint.backbone"):
            assert part in message
    assert not ran(tmp_path)
    assert caught.value.exit_code == 2


def test_all_code_of_a_file_is_shown_before_any_of_it_is_trusted(code, tmp_path):
    (tmp_path / "second.py").write_text("class C: pass\n")
    trust.named_in_file({"backbone": "their.py:f", "codecs": ["second.py:C"], "dataset": "image-folder:x",
                         "other": "torchvision:resnet18"}, "s.yaml")
    with pytest.raises(UntrustedCodeError, match=r"their\.py.*second\.py") as caught:
        THINGS.load("their.py:f")
    assert "torchvision" not in str(caught.value)
    assert "image-folder" not in str(caught.value)


def test_a_module_is_asked_about_without_importing_its_package(tmp_path, monkeypatch):
    package = tmp_path / "their_package"
    package.mkdir()
    for name in ("__init__.py", "inner.py"):
        (package / name).write_text(f"open({str(tmp_path / 'mark')!r}, 'a').write('ran')\nX = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    trust.named_in_file({"agent": "their_package.inner:X"}, "best.json")
    with pytest.raises(UntrustedCodeError, match=r"inner\.py"):
        THINGS.load("their_package.inner:X")
    assert not ran(tmp_path)
    assert "their_package" not in sys.modules


@pytest.mark.parametrize("spec", ["os:system", "builtins:exec", "sys:exit", "subprocess:getoutput"])
def test_modules_of_python_are_no_exception(spec):
    trust.named_in_file({"agent": spec}, "best.json")
    with pytest.raises(UntrustedCodeError):
        THINGS.load(spec)


def test_names_of_the_package_run_whatever_files_say():
    trust.named_in_file({"agent": "plain", "other": "autosplit.core.hashing:content_hash"}, "best.json")
    THINGS.load("plain")


def test_the_user_vouches_for_content_not_for_a_path(code, tmp_path):
    trust.named_in_file({"backbone": "their.py:f"}, "best.json", trust_code=True)
    THINGS.load("their.py:f")
    assert ran(tmp_path)
    code.write_text(code.read_text() + "# changed\n")
    with pytest.raises(UntrustedCodeError):
        THINGS.load("their.py:f")


def test_what_is_typed_runs_though_a_file_names_it_too(code, tmp_path):
    trust.named_in_file({"backbone": str(code) + ":f"}, "best.json")
    trust.trust_typed(["their.py:f", None, 3])
    THINGS.load(f"{code}:f")
    assert ran(tmp_path)


def test_what_ran_here_runs_again_until_it_changes(code, tmp_path):
    trust.remember([f"{code}:f"])
    trust.remember([f"{code}:f"])
    assert len(trust.trusted_file().read_text().splitlines()) == 1
    (tmp_path / "moved").mkdir()
    copy = code.rename(tmp_path / "moved" / "their.py")
    trust.named_in_file({"backbone": f"{copy}:f", "agent": f"{copy}:g"}, "best.json")
    THINGS.load(f"{copy}:f")
    with pytest.raises(UntrustedCodeError):  # another object of the same file never ran
        THINGS.load(f"{copy}:g")
    copy.write_text(copy.read_text() + "\n")
    with pytest.raises(UntrustedCodeError):
        THINGS.load(f"{copy}:f")


def test_a_configuration_that_cannot_be_written_is_a_warning(code, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AUTOSPLIT_CONFIG", str(tmp_path / "file" / "config"))
    trust.remember([f"{code}:f"])
    assert "--trust-code" in caplog.text


def test_the_recorded_hash_is_held_against_the_code(code, tmp_path):
    recorded = {"scenario": {"backbone": "their.py:f", "code": {"their.py:f": "0" * 64}}}
    trust.named_in_file(recorded, "best.json")
    with pytest.raises(UntrustedCodeError, match="not the recorded 000000000000"):
        THINGS.load("their.py:f")


def test_code_that_was_moved_with_its_run_is_found_by_its_hash(code, tmp_path):
    trust.remember([f"{code}:f"])
    (tmp_path / "run").mkdir()
    sha256 = sha256_of_file(code)
    code.rename(tmp_path / "run" / "their.py")
    old = f"{code}:f"
    trust.named_in_file({"scenario": {"backbone": old, "code": {old: sha256}}}, tmp_path / "run" / "best.json")
    THINGS.load(old)
    assert ran(tmp_path)


def test_compiled_code_beside_a_trusted_file_does_not_run(tmp_path):
    file = tmp_path / "mine.py"
    evil = f"open({str(tmp_path / 'mark')!r}, 'a').write('ran')\nX = 1\n"
    file.write_text(evil)
    cached = py_compile.compile(str(file), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    file.write_text("X = 2\n")
    assert cached.endswith(".pyc")
    assert THINGS.load(f"{file}:X") == 2
    assert not ran(tmp_path)


def test_odd_names_are_no_code(tmp_path):
    odd = ["a\0b.py:f", "x" * 5000 + ".py:f", ":", "::", ".py:", "a.py:1", "é:ü", "a..b:c", "file:///x.py:f", "a:b:c"]
    trust.named_in_file(json.loads(json.dumps({"backbone": odd})), "best.json")
    for spec in odd:
        assert trust.code_sha256(spec) is None
