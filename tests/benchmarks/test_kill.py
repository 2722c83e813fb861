"""`kill -9` at a few random instants; `python -m benchmarks.kill` does so at fifty."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
def test_nothing_is_lost_and_nothing_half_written_is_trusted(tmp_path):
    # a process of its own: one that has computed with threads cannot be forked
    done = subprocess.run([sys.executable, "-m", "benchmarks.kill", "--out", str(tmp_path), "--instants", "2", "--only",
                           "search", "--only", "bench table"], capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = list(csv.DictReader((tmp_path / "killed.csv").read_text().splitlines()))
    assert {row["command"] for row in rows} == {"search", "bench table"}
    assert all(row["again"] == "0" and not row["wrong"] for row in rows)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["killed"] == len(rows) >= 2
    assert summary["wrong"] == []
