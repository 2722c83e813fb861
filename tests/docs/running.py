"""Running a command of the pages in this process, where that can be."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from autosplit.experiments.compare import files
from autosplit.experiments.compare import run as comparing
from tests.cli.test_compare_command import canned
from tests.docs.pages import ROOT, Command
from tests.docs.rules import rule_for
from tests.runs import invoke


@dataclass(frozen=True)
class Ran:
    """A command that was run.

    Attributes:
        command: As it was run.
        code: Exit code.
        out: What it wrote to stdout.
        err: What it wrote to stderr.
    """

    command: Command
    code: int
    out: str
    err: str


def run(command: Command, patch: pytest.MonkeyPatch) -> Ran:
    """Run a command by its rule, in the working directory.

    Args:
        command: As written.
        patch: Undone by the caller.
    """
    rule = rule_for(command)
    assert rule is not None, command
    meant = rule.applied(command)
    for name, value in meant.variables:
        patch.setenv(name, str(Path("variables") / value.strip("/")))  # /tmp/empty is somebody else's folder
    if rule.made_up:
        patch.setattr(comparing, "_compared", canned)
        patch.setattr(comparing, "_begin", lambda scenarios, contexts: None)  # what workers would fine-tune
        patch.setattr(files, "draw_figures", lambda comparisons, out: [])
    program, *words = meant.words
    if program == "autosplit":
        return _autosplit(meant, words, patch)
    assert program == "python", f"{command}: tests/docs/running.py knows no way to run {program}"
    return _coinference(meant) if words[:2] == ["-m", "coinference"] else _python(meant, patch)


def _autosplit(command: Command, words: list[str], patch: pytest.MonkeyPatch) -> Ran:
    if words[0] in {"serve", "gateway"}:  # ends at once, as if by Ctrl-C
        from autosplit.runtime.standalone import commands

        ended = threading.Event()
        ended.set()
        patch.setattr(commands, "ended_by_signal", lambda: contextlib.nullcontext(ended))
    with _edge(words[1], "--keys" in words) if words[0] == "infer" else contextlib.nullcontext("") as address:
        done = invoke(*(address if word == "EDGE" else word for word in words))
    return Ran(command, done.exit_code, done.stdout, done.stderr)


@contextlib.contextmanager
def _edge(bundle: str, keys: bool) -> Iterator[str]:
    """The address of an edge that serves a bundle of the folder, with its keys or without."""
    from autosplit.runtime.standalone.bundle import load_edge
    from autosplit.runtime.standalone.edge.server import EdgeServer, ServerOptions
    from autosplit.runtime.standalone.protocol.keys import EdgeKeys

    options = ServerOptions("tcp://127.0.0.1:0")
    with EdgeServer(load_edge(bundle), options, EdgeKeys.load(Path("keys")) if keys else None) as server:
        yield server.endpoint.removeprefix("tcp://")


def _python(command: Command, patch: pytest.MonkeyPatch) -> Ran:
    """`python -m MODULE` or `python FILE.py` in this process, which has torch loaded already."""
    module = command.words[1] == "-m"
    name, *words = command.words[2 if module else 1:]
    patch.setattr(sys, "argv", [name, *words])
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            if module:
                runpy.run_module(name, run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(name, run_name="__main__")
        except SystemExit as e:
            code = e.code if isinstance(e.code, int) else int(e.code is not None)
    return Ran(command, code, out.getvalue(), err.getvalue())


def read_options(command: Command, patch: pytest.MonkeyPatch) -> str:
    """What a benchmark, which is not run, says against its options; nothing if they fit."""
    parse = argparse.ArgumentParser.parse_args

    def parsed(parser: argparse.ArgumentParser, *_: object) -> None:
        needs_out = [] if "--out" in command.words else ["--out", "out"]
        parse(parser, [*command.words[3:], *needs_out])
        raise SystemExit(0)

    patch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    done = _python(command, patch)
    return done.err if done.code else ""


def _coinference(command: Command) -> Ran:
    """A program in the bundle, which must not need autosplit."""
    done = subprocess.run([sys.executable, *command.words[1:]], cwd=command.folder or "bundle", capture_output=True,
                          text=True, check=False, timeout=300, env={**os.environ, "PYTHONPATH": ""})
    return Ran(command, done.returncode, done.stdout, done.stderr)


def repository_modules(patch: pytest.MonkeyPatch) -> None:
    """Let `benchmarks` be imported from the repository, wherever the working directory is."""
    patch.syspath_prepend(str(ROOT))
