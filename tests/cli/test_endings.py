"""Commands that end from outside: by a signal, or because nobody reads what they write."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from autosplit.runtime.standalone import bundle
from autosplit.runtime.standalone.__main__ import main
from autosplit.runtime.standalone.signals import ended_by_signal
from tests.runtime.standalone.fakes import SHAPE, FakeDevice

ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]

# a command that takes as long as it likes, with the same entry points as the real ones
SLOW = {
    "autosplit": """
import sys, time, typer
from autosplit.cli import app, console
@console.reported
def slow() -> None:
    print("begun", flush=True)
    time.sleep(60)
app.app.command(name="slow")(slow)
sys.argv = ["autosplit", "slow"]
app.main()
""",
    "coinference": """
import sys, time
from autosplit.runtime.standalone import __main__ as program
def slow(given):
    print("begun", flush=True)
    time.sleep(60)
program._check = slow
sys.exit(program.main(["check"]))
"""}


@pytest.mark.parametrize("number", ENDING, ids=lambda n: n.name)
@pytest.mark.parametrize("program", SLOW)
def test_a_signal_ends_a_command_like_ctrl_c(program, number):
    with subprocess.Popen([sys.executable, "-c", SLOW[program]], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, "interrupted\n")


def test_a_command_that_shall_outlive_its_terminal_does():
    """`nohup` ignores SIGHUP, and so does whoever it starts."""
    text = SLOW["autosplit"].replace("time.sleep(60)", "time.sleep(1)")
    with subprocess.Popen(["nohup", sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize("number", ENDING, ids=lambda n: n.name)
def test_a_server_ends_by_itself(number):
    before = signal.getsignal(number)
    with ended_by_signal() as ended:
        assert not ended.is_set()
        os.kill(os.getpid(), number)
        end = time.monotonic() + 10
        while not ended.is_set():
            assert time.monotonic() < end
            time.sleep(0.001)
    assert signal.getsignal(number) == before


# many lines into a pipe that is closed after the first
WRITING = {
    "autosplit": """
import sys
from autosplit.cli import app, console
@console.reported
def write() -> None:
    for i in range(100_000):
        console.print_rich(f"line {i}") if i < 50 else print("line", i)
app.app.command(name="write")(write)
sys.argv = ["autosplit", "write"]
app.main()
""",
    "coinference": """
import sys
from autosplit.runtime.standalone import __main__ as program
def write(given):
    for i in range(100_000):
        print("line", i)
    return 0
program._check = write
sys.exit(program.main(["check"]))
"""}


@pytest.mark.parametrize("lines", [0, 1])
@pytest.mark.parametrize("program", WRITING)
def test_nobody_reads_the_rest(program, lines):
    """`... | head -1`: no traceback, also not from the interpreter's own end."""
    with subprocess.Popen([sys.executable, "-c", WRITING[program]], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as process:
        for _ in range(lines):
            assert process.stdout.readline().startswith("line")
        process.stdout.close()
        stderr = process.stderr.read()
        process.wait(60)
    assert (process.returncode, stderr) == (0, "")


def test_names_are_shown_and_not_obeyed(capsys, monkeypatch, tmp_path):
    """Class names of a bundle, which come from whoever made it."""
    device = FakeDevice(answers=True)
    device.manifest.class_names = ("\x1b]0;title\x07\x1b[31m[bold]x", *device.manifest.class_names[1:])
    monkeypatch.setattr(bundle, "load_device", lambda *_: device)
    np.save(tmp_path / "image.npy", np.zeros(SHAPE, np.uint8))
    assert main(["infer", str(tmp_path), str(tmp_path / "image.npy")]) == 0
    assert r"\x1b]0;title\x07\x1b[31m[bold]x" in capsys.readouterr().out
