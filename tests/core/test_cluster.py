"""A Ray cluster of two nodes on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from autosplit.core import cluster
from autosplit.core.errors import ConfigError, WorkerError
from autosplit.core.hiring import workers_of
from autosplit.core.plugins import load_object
from autosplit.evaluation import spread
from autosplit.evaluation.live import LiveEvaluator
from autosplit.evaluation.spread import SpreadEvaluator

ray = pytest.importorskip("ray", reason="an extra: pip install '.[cluster]'")


@pytest.fixture(scope="module")
def nodes():
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        options = {"num_cpus": 1, "object_store_memory": 100_000_000, "include_dashboard": False}
        found = Cluster(initialize_head=True, head_node_args=options)
        found.add_node(num_cpus=1, object_store_memory=100_000_000)
        yield found
        found.shutdown()


@pytest.fixture(scope="module")
def pair(nodes):
    with workers_of(cluster=nodes.address) as workers:
        yield workers


def where(shared, piece):
    time.sleep(0.5)  # long enough that one node cannot do all of them
    return ray.get_runtime_context().get_node_id()


def times(shared, piece):
    return shared["factor"] * piece


def failing(shared, piece):
    raise ConfigError(f"piece {piece} is wrong")


def killed_once(folder, piece):
    mark = Path(folder) / "killed"
    if piece == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return piece


def killed_always(shared, piece):
    if piece == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return piece


def from_a_file(name, piece):
    return load_object(name)(piece)


def test_both_nodes_work_and_results_come_in_order(pair):
    assert pair.number == 2
    shared = {"factor": 3}
    assert list(pair.map(times, shared, range(20))) == [3 * i for i in range(20)]
    nodes, tries = set(), 0
    while len(nodes) < 2 and tries < 20:
        nodes |= set(pair.map(where, shared, range(6)))
        tries += 1
    assert len(nodes) == 2


def test_an_error_comes_back_as_it_is(pair):
    with pytest.raises(ConfigError, match=r"^piece 0 is wrong$"):
        list(pair.map(failing, None, [0]))


def test_what_a_killed_worker_had_in_hand_is_done_again(pair, tmp_path):
    assert list(pair.map(killed_once, str(tmp_path), range(6))) == list(range(6))
    assert (tmp_path / "killed").exists()


def counted_or_killed(folder, piece):
    """Piece 0 takes long and counts how often it is begun; each other kills its process the first time."""
    mark = Path(folder) / str(piece)
    with mark.open("a") as file:
        file.write("x")
    if piece == 0:
        time.sleep(8)
    elif mark.stat().st_size == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return piece


def test_who_works_beside_a_killed_worker_goes_on(pair, tmp_path):
    assert list(pair.map(counted_or_killed, str(tmp_path), range(4))) == [0, 1, 2, 3]
    assert [len((tmp_path / str(i)).read_text()) for i in range(4)] == [1, 2, 2, 2]


def test_what_ray_refuses_is_told_and_the_cluster_goes_on(pair):
    with pytest.raises(WorkerError, match=r"refuses work.*no such name"):
        pair._ask("do", "no such name", b"").result(timeout=60)
    assert list(pair.map(times, {"factor": 5}, [1])) == [5]


def test_a_piece_that_always_kills_is_named(pair):
    with pytest.raises(WorkerError, match="did plan 1 was killed 3 times"):
        list(pair.map(killed_always, None, range(3), lambda piece: f"plan {piece}"))


def test_code_of_files_comes_along(pair, tmp_path):
    file = tmp_path / "plug_in_of_nodes.py"
    file.write_text("def take(piece):\n    return 40 + piece\n")
    assert load_object(f"{file}:take")(2) == 42
    file.unlink()
    assert list(pair.map(from_a_file, f"{file}:take", [2, 3])) == [42, 43]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "auto", "no address"])
def test_no_cluster_there(address, monkeypatch):
    if address == "auto":  # Ray would find the cluster of the other tests
        code = "import tests.core.test_cluster as t; t.ray.init = t.no_cluster; "
        monkeypatch.setattr(cluster, "_DRIVER", code + cluster._DRIVER)
    with pytest.raises(ConfigError, match=rf"cluster '{address}'.*ray start --head"):
        workers_of(cluster=address)


def no_cluster(**options):
    raise ConnectionError("Could not find any running Ray instance.")


def test_a_cluster_that_goes_does_not_take_this_process_along():
    from ray.cluster_utils import Cluster

    doomed = Cluster(initialize_head=True, head_node_args={
        "num_cpus": 1, "object_store_memory": 100_000_000, "include_dashboard": False})
    with workers_of(cluster=doomed.address) as workers:
        results = workers.map(slow, {"factor": 2}, range(100))
        assert [next(results), next(results)] == [0, 2]
        doomed.shutdown()
        with pytest.raises(WorkerError, match=r"the Ray cluster '.*' is gone.*everything finished is kept"):
            list(results)
        with pytest.raises(WorkerError, match="is gone"):  # whoever comes later
            list(workers.map(slow, {"factor": 2}, [1]))


def test_ray_is_not_imported_by_who_does_not_ask():
    code = ("import sys, autosplit.cli.app, autosplit.pipeline.search; "
            "sys.exit(bool({'ray', 'loky'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def without_seconds(measurements):
    return [m.model_copy(update={"seconds": 0.0}) for m in measurements]


@pytest.mark.parametrize("killed", [False, True])
def test_a_table_is_that_of_one_process(pair, prepared, one_thread, monkeypatch, tmp_path, killed):
    plans = LiveEvaluator(prepared).space.plans()[::60]
    expected = without_seconds(LiveEvaluator(prepared).measure(plans))
    if killed:
        monkeypatch.setattr(spread, "_measured", partial(killed_in_the_middle, str(tmp_path / "mark")))
    assert without_seconds(SpreadEvaluator(prepared, pair).measure(plans)) == expected
    assert (tmp_path / "mark").exists() == killed


def killed_in_the_middle(mark, networks, plans):
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return list(LiveEvaluator(networks).measure(plans))


def test_a_node_that_is_lost_is_done_without(nodes, pair):
    added = nodes.add_node(num_cpus=1, object_store_memory=100_000_000)
    results = pair.map(slow, {"factor": 2}, range(30))
    found = [next(results) for _ in range(3)]
    nodes.remove_node(added, allow_graceful=False)
    assert [*found, *results] == [2 * i for i in range(30)]


def slow(shared, piece):
    time.sleep(0.1)
    return shared["factor"] * piece
