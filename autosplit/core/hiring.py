"""From `--jobs` and `--cluster` to workers."""

from __future__ import annotations

import os

from autosplit.core.errors import ConfigError
from autosplit.core.workers import Here, Workers

__all__ = ["threads_each", "workers_of"]


def threads_each(number: int) -> int:
    """Threads of torch for each of so many processes on this machine."""
    return max(1, (os.cpu_count() or 1) // number)


def workers_of(jobs: int = 1, cluster: str | None = None, threads: int | None = None) -> Workers:
    """The workers that a command line asks for.

    Args:
        jobs: Processes on this machine; 1 = this one.
        cluster: Address of a Ray cluster, `auto` for the one that this machine is part of.
        threads: Of torch in each worker; the machine's cores are shared among them by default, and one a worker on a
            cluster.

    Raises:
        ConfigError: Both are given, there is no such cluster, or the package for it is not installed.
    """
    if jobs < 1:
        raise ConfigError(f"jobs is {jobs}; give at least 1")
    if cluster is not None:
        if jobs > 1:
            raise ConfigError("jobs are processes on this machine, a cluster has workers of its own; give one of the "
                              "two")
        from autosplit.core.cluster import Cluster

        return Cluster(cluster, threads or 1)
    if jobs == 1:
        return Here()
    from autosplit.core.processes import Processes

    return Processes(jobs, threads or threads_each(jobs))
