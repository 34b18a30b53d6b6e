"""Runs of several ranks in a bucket whose server loses replies and refuses requests."""

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from datamodules.run.bucket import open_store
from datamodules.run.folder import Run
from datamodules.run.store import Store
from support.faulty_proxy import Fault, faulty_proxy
from support.runs import make_run, tars, wait_for, work, work_slowly
from support.s3_server import S3Server

pytest.importorskip("obstore")

_CONFLICT = b"<Error><Code>ConditionalRequestConflict</Code></Error>"
_NUM_ITEMS = 24


def _tars_of(store: Store) -> dict[str, bytes]:
    return {name: store.read(name) for name in store.names() if name.endswith(".tar")}


def start(target: Any, *args: Any) -> Any:
    """Start a process with today's environment: that of the fork server may be older than the credentials."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=args, daemon=True)
    process.start()
    return process


def test_ranks_in_a_bucket_make_the_tars_of_a_folder(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    make_run(folder, _NUM_ITEMS)
    work(folder)
    with faulty_proxy(s3.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        store = open_store(f"s3://{s3.make_bucket()}/run", str(tmp_path / "scratch"))
        make_run(store, _NUM_ITEMS)
        proxy.faults += [
            Fault("PUT", "records/", times=2, after=1),  # lost replies: of commits, …
            Fault("PUT", ".tar", times=2, after=1),  # … of uploads and copies
            Fault("POST", "delete", times=1, after=2),
            Fault("PUT", "work/leases/", 409, _CONFLICT, times=2),
            Fault("GET", "list-type", 503, times=2, after=3),
        ]
        killed = start(work_slowly, store, 2, _Reports(tmp_path / "report"))
        wait_for((tmp_path / "report").exists, seconds=60)
        os.kill(killed.pid, signal.SIGKILL)
        killed.join()
        ranks = [start(work, store) for _ in range(2)]
        for rank in ranks:
            rank.join()
        run = Run(store)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    assert (run.is_complete(), run.outcome().committed) == (True, _NUM_ITEMS)
    assert _tars_of(store) == tars(folder)
    assert [name for name in store.names("work/staging") if not name.startswith("plan")] == []
    assert json.loads(store.read("records/train-000000.json"))["planned"] == 4


class _Reports:
    """Has the method that `work_slowly` calls of a queue; writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def put(self, shard: str) -> None:
        """Write the name of the shard that the rank works on."""
        self.path.write_text(shard)
