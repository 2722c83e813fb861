"""Pieces of work in this process, in others, and on a cluster: the same results, whatever happens to a worker."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autosplit.core import workers as module
from autosplit.core.errors import ConfigError, WorkerError
from autosplit.core.held import hold, look_up
from autosplit.core.hiring import workers_of
from autosplit.core.plugins import load_object
from autosplit.core.workers import Here


def times(shared, piece):
    return shared * piece


def process(shared, piece):
    time.sleep(0.05)
    return os.getpid()


def slow_first(shared, piece):
    time.sleep(0.3 if piece == 0 else 0.0)
    return piece


def failing(shared, piece):
    if piece == 3:
        raise ConfigError("piece 3 is wrong")
    return piece


def warning(shared, piece):
    logging.getLogger("autosplit.somewhere").warning("said by every piece")
    return piece


def killed_once(folder, piece):
    """Kills its process the first time that one of two pieces is done."""
    mark = Path(folder) / str(piece)
    if piece in (2, 5) and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return piece * piece


def killed_first(folder, piece):
    """Each piece kills its process the first time that it is begun, and those beside it with it."""
    mark = Path(folder) / str(piece)
    if not mark.exists():
        mark.touch()
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    return piece


def killed_always(shared, piece):
    if piece == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    return piece


def interrupted(results):
    for _ in results:
        raise KeyboardInterrupt


def named_object(name, piece):
    return load_object(name)(piece) + look_up("objective", piece, "objective")


@pytest.fixture(scope="module")
def pair():
    with workers_of(2, threads=1) as found:
        yield found


class TestProcesses:
    def test_results_come_in_order(self, pair):
        assert list(pair.map(times, 3, range(20))) == [3 * i for i in range(20)]
        assert list(pair.map(slow_first, None, range(8))) == list(range(8))
        assert list(pair.map(times, 3, [])) == []

    def test_whoever_takes_the_last_result_leaves_the_workers_alone(self, pair):
        results = pair.map(process, None, range(6))
        began = {next(results) for _ in range(6)}
        results.close()
        assert all(Path(f"/proc/{pid}").exists() for pid in began)

    def test_several_work_at_a_time(self, pair):
        found, until = set(), time.monotonic() + 60  # the second one may start late
        while len(found) < 2 and time.monotonic() < until:
            found |= set(pair.map(process, None, range(12)))
        assert len(found) == 2
        assert os.getpid() not in found

    def test_what_is_shared_is_shipped_once(self, pair):
        shared = Counted()
        Counted.packed = 0
        assert list(pair.map(held_value, shared, range(6))) == [7] * 6
        assert list(pair.map(held_value, shared, range(6))) == [7] * 6
        assert Counted.packed == 1

    def test_an_error_comes_back_as_it_is(self, pair):
        found = pair.map(failing, None, range(8))
        with pytest.raises(ConfigError, match=r"^piece 3 is wrong$"):
            list(found)
        assert list(pair.map(times, 2, range(3))) == [0, 2, 4]  # and the workers are there for the next

    def test_a_warning_is_said_once(self, pair, caplog):
        module._said.clear()
        list(pair.map(warning, None, range(6)))
        assert [r.getMessage() for r in caplog.records] == ["said by every piece"]

    def test_what_a_killed_worker_had_in_hand_is_done_again(self, pair, tmp_path, caplog):
        module._said.clear()
        assert list(pair.map(killed_once, str(tmp_path), range(10))) == [i * i for i in range(10)]
        assert {p.name for p in tmp_path.iterdir()} == {"2", "5"}
        (said,) = {r.getMessage() for r in caplog.records}
        assert said.startswith("a worker was killed, most likely for want of memory")

    def test_pieces_that_kill_now_and_then_are_all_done(self, pair, tmp_path):
        assert list(pair.map(killed_first, str(tmp_path), range(6))) == list(range(6))

    def test_a_piece_that_always_kills_is_named(self, pair):
        with pytest.raises(WorkerError, match="did plan 4 was killed 3 times"):
            list(pair.map(killed_always, None, range(8), lambda piece: f"plan {piece}"))
        assert list(pair.map(times, 2, range(3))) == [0, 2, 4]

    def test_workers_end_with_an_interruption(self, pair):
        started = set(pair.map(process, None, range(4)))
        with pytest.raises(KeyboardInterrupt):
            interrupted(pair.map(process, None, range(100)))
        time.sleep(0.2)
        assert not any(Path(f"/proc/{pid}").exists() for pid in started)

    def test_plug_ins_of_files_and_objects_in_memory_come_along(self, tmp_path):
        file = tmp_path / "plug_in.py"
        file.write_text("class Box:\n    value = 40\n\ndef take(piece):\n    return Box.value\n")
        name = hold("objective", 2, "0" * 16, "two")
        assert load_object(f"{file}:take")(name) == 40
        file.unlink()  # as on a machine that has no such file
        with workers_of(2, threads=1) as others:
            assert list(others.map(named_object, f"{file}:take", [name, name])) == [42, 42]


    def test_nothing_is_left_in_memory_by_who_is_killed(self):
        code = ("import os, signal, sys; from autosplit.core.hiring import workers_of; w = workers_of(2, threads=1); "
                "print(w.ship(5), flush=True); list(w.map(min, 5, [1, 2])); os.kill(os.getpid(), signal.SIGKILL)")
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
        path = Path(ran.stdout.strip())
        until = time.monotonic() + 30
        while path.parent.exists() and time.monotonic() < until:
            time.sleep(0.1)
        assert ran.returncode == -signal.SIGKILL
        assert not path.parent.exists()


class Counted:
    packed = 0
    value = 7

    def __reduce__(self):
        Counted.packed += 1
        return Counted, ()


def held_value(shared, piece):
    return shared.value


class TestHere:
    def test_nothing_is_done_before_it_is_asked_for(self):
        done = []
        found = Here().map(lambda shared, piece: done.append(piece), None, [1, 2, 3])
        assert done == []
        next(found)
        assert done == [1]


def test_both_are_too_many():
    with pytest.raises(ConfigError, match="give one of the two"):
        workers_of(2, "auto")
    with pytest.raises(ConfigError, match="give at least 1"):
        workers_of(0)
