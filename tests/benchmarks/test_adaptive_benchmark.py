"""The benchmark of adaptive rates: its link, its figures, and a moment of it."""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import threading
import time

import pytest

from benchmarks.adaptive import ADAPTIVE, Row, summary, trace_of, write_rows
from benchmarks.shaping import Trace, shape

STEPS = Trace((0.0, 1.0, 3.0), (80.0, 80.0, 8.0))


def test_a_trace_is_straight_on_a_logarithmic_scale():
    assert [round(STEPS.at(s), 6) for s in (-1, 0, 1, 2, 3, 99)] == [80, 80, 80, pytest.approx(25.298221), 8, 8]


@pytest.mark.parametrize(("second", "count", "expected"), [(0.0, 1000, 0.1), (0.5, 0, 0.5), (5.0, 100, 5.1)])
def test_bytes_take_their_time(second, count, expected):
    assert STEPS.sent_by(second, count) == pytest.approx(expected, abs=1e-6)


def test_bytes_on_the_way_feel_the_fall():
    sent_s = STEPS.sent_by(1.0, 4000)
    steps = 100_000
    bits = sum(1000 * STEPS.at(1 + (sent_s - 1) * (i + 0.5) / steps) * (sent_s - 1) / steps for i in range(steps))
    assert bits == pytest.approx(32_000, rel=2e-3)


def test_the_link_holds_bytes_back_in_order():
    """A server that sends everything back, behind 80 kb/s and 20 ms each way."""
    listener = socket.create_server(("127.0.0.1", 0))

    def echo():
        connection, _ = listener.accept()
        with connection:
            while data := connection.recv(65_536):
                connection.sendall(data)

    threading.Thread(target=echo, daemon=True).start()
    ours, theirs = multiprocessing.Pipe()
    link = threading.Thread(target=shape, args=(listener.getsockname(), STEPS, 20.0, theirs), daemon=True)
    link.start()
    with socket.create_connection(("127.0.0.1", ours.recv())) as device:
        for size in (1, 1000):
            sent, begun_s, got = bytes(range(256)) * 4, time.monotonic(), b""
            device.sendall(sent[:size])
            while len(got) < size:
                got += device.recv(65_536)
            assert got == sent[:size]
            assert time.monotonic() - begun_s >= 0.04 + 2 * 8 * size / 80_000 - 0.002  # 2 ms for the clock
    ours.send(None)
    link.join(30)
    assert not link.is_alive()
    listener.close()


def row(baseline, seed, right, in_time, rate=0):
    return Row(baseline, seed, 0, 0.0, 1000.0, rate, 50, 40.0, right, in_time, 0.0)


def test_figures_count_what_is_right_and_in_time(tmp_path):
    rows = []
    for seed in (0, 1):
        rows += [row(ADAPTIVE, seed, True, True), row(ADAPTIVE, seed, True, seed == 0)]
        rows += [row("0", seed, True, True), row("0", seed, False, True)]
        rows += [row("1", seed, True, False), row("1", seed, False, False, rate=-1)]
    found = summary(rows)
    assert list(found["baselines"]) == [ADAPTIVE, "0", "1"]
    assert found["baselines"][ADAPTIVE]["in_time_accuracy"] == 0.75
    assert found["baselines"][ADAPTIVE]["spread"] == pytest.approx(0.353553, abs=1e-5)
    assert found["baselines"]["1"] == {"in_time_accuracy": 0, "spread": 0, "by_seed": [0, 0], "in_time": 0,
                                         "right_of_answered": 1, "payload_bytes": 50}
    assert (found["best_fixed"], found["ahead_of_best_fixed"]["mean"], found["ahead_of_best_fixed"]["least"]) == (
        "0", 0.25, 0)
    assert found["ahead_of_the_best_of_each_seed"] == [0.5, 0]
    write_rows(tmp_path / "rows.csv", rows)
    assert (tmp_path / "rows.csv").read_text().count("\n") == len(rows) + 2


def test_the_trace_falls_to_30_kbps_and_comes_back():
    trace = trace_of(argparse.Namespace(seconds=36.0))
    assert trace.at(0) == trace.at(36) == pytest.approx(1000)
    assert min(trace.at(s) for s in range(36)) == pytest.approx(30)
