"""Ray clusters of several nodes on this machine, for tests and benchmarks. They make no request to a network."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil

from datamodules.run.folder import Run
from preprocess.report.status import StatusReader
from support.environment import process_environment

_OBJECT_STORE_BYTES = 80_000_000  # 75 MiB is Ray's least


@contextmanager
def ray_cluster(**head: float) -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster` with a head node; its `add_node` and `remove_node` change it.

    Args:
        head: resources of the head node, for example `num_cpus=2`.
    """
    from ray.cluster_utils import Cluster

    gpus = ",".join(str(gpu) for gpu in range(int(head.get("num_gpus", 0))))  # which need not exist
    with patch.dict("os.environ", process_environment(CUDA_VISIBLE_DEVICES=gpus)):
        cluster = Cluster()
        try:
            add_node(cluster, include_dashboard=False, **head)
            yield cluster
        finally:
            cluster.shutdown()


def add_node(cluster: Any, **resources: Any) -> Any:
    """Add a node with these resources to `cluster`, and return it."""
    return cluster.add_node(object_store_memory=_OBJECT_STORE_BYTES, **resources)


def ranks_of(folder: Path) -> list[psutil.Process]:
    """Return the processes of the ranks of the run in `folder`, without their workers."""
    ranks = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = process.cmdline()
            if command[1:4] == ["-m", "preprocess", "run"] and str(folder) in command:
                ranks.append(process)
    return ranks


def ranks_at_work(folder: Path) -> list[psutil.Process]:
    """Return those of these that hold a shard."""
    if not (folder / "plan.arrow").exists():
        return []
    pids = {rank.rank.split("-")[-2] for rank in StatusReader(Run(folder)).read().ranks if rank.shards}
    return [process for process in ranks_of(folder) if str(process.pid) in pids]
