"""Runs, samples and ranks without torch, for tests of `datamodules.run`; some functions are run in processes."""

import hashlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datamodules.corpus import Corpus, Item
from datamodules.run.failure_limit import Tolerance
from datamodules.run.folder import Run
from datamodules.run.leases import Leases
from datamodules.run.open_shard import OpenShard
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import ShardSize
from datamodules.run.rank import Rank
from datamodules.run.result import Result
from datamodules.run.store import Folder, Store

FINGERPRINT = {"extractor": {"class_path": "tests.Nothing", "threshold": 0.5}, "version": 1}


class Listed(Corpus):
    """A corpus of given items."""

    def __init__(self, items: Sequence[Item], root: str = "/nowhere") -> None:
        self.root, self._items = root, items

    def items(self) -> Iterator[Item]:
        yield from self._items


def some_items(count: int, split: str = "train") -> list[Item]:
    """`count` single images of one byte."""
    return [
        Item(f"{split}/item{i:03d}", split, f"{split}/item{i:03d}", ("frame.png",), cost=1, meta={"number": i})
        for i in range(count)
    ]


def make_run(folder: Path | Store, items: Sequence[Item] | int, per_shard: int = 4) -> Run:
    """A run with `per_shard` items in each shard."""
    listed = some_items(items) if isinstance(items, int) else items
    return open_or_plan(folder, Listed(listed), FINGERPRINT, ShardSize(max_items=per_shard, min_shards=1))


def members_of(item: Item) -> dict[str, bytes]:
    """Return the files of an item's sample: the same for every rank, and several tar blocks long."""
    noise = hashlib.sha256(item.key.encode()).digest() * 40
    return {"values.bin": noise, "json": json.dumps({"key": item.key}).encode()}


def lease(rank: Rank) -> OpenShard:
    """Lease a shard, which must be free."""
    opened = rank.lease()
    assert opened is not None
    return opened


def finish(rank: Rank, opened: OpenShard, rows: Sequence[int] | None = None, pause: float = 0.0) -> None:
    """Give the missing rows (or `rows`) of a shard their results; items with `bad` in their key fail."""
    for row in opened.missing if rows is None else rows:
        item = opened.items[row]
        if pause:
            time.sleep(pause)
        if "bad" in item.key:
            rank.add(opened.shard.number, Result(row, reason="it is bad", reason_class="decode"), {})
        else:
            rank.add(opened.shard.number, Result(row, num_frames=1, seconds=pause), members_of(item))


def work(folder: Path, pause: float = 0.0) -> int:
    """Work as a rank until the run is done. Returns the number of shards that it committed."""
    with Rank(Run(folder)) as rank:
        while not rank.finished():
            rank.abandon_committed()
            opened = rank.lease()
            if opened is None:
                time.sleep(0.02)
            else:
                finish(rank, opened, pause=pause)
        return rank.num_committed


def tars(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every tar of a run."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and modification time in ns of all files below `folder`."""
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def start(target: Any, *args: Any) -> Any:
    """A process of its own, from a server that has imported everything, so that it costs no second."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["datamodules.loading.loader"])
    process = context.Process(target=target, args=args, daemon=True)
    process.start()
    return process


def claim_all(folder: Path, names: Sequence[str], ready: Any, won: Any) -> None:
    """Claim `names` at the same moment as others, report which were won, and stay alive until `ready` again."""
    leases = Leases(Folder(folder))
    ready.wait()
    won.put((os.getpid(), [name for name in names if leases.claim(name)]))
    ready.wait()


def hold(folder: Path, name: str, claimed: Any) -> None:
    """Claim `name`, report it, and do nothing more."""
    claimed.put(Leases(Folder(folder)).claim(name))
    time.sleep(60)


def work_slowly(folder: Path, number_of_rows: int, done: Any) -> None:
    """Lease a shard, finish `number_of_rows` of its rows, report it, and do nothing more."""
    with Rank(Run(folder)) as rank:
        opened = rank.lease()
        assert opened is not None
        finish(rank, opened, rows=opened.missing[:number_of_rows])
        rank.sync()
        rank.publish()
        done.put(opened.shard.name)
        time.sleep(60)


def touch_and_leave(folder: Path) -> None:
    """Leave the run as a rank while an item is active, and live on for longer than an item may take."""
    with Rank(Run(folder), tolerance=Tolerance(extract_timeout_seconds=0.2)) as rank:
        opened = rank.lease()
        assert opened is not None
        rank.mark_active(opened.shard.number, [0])
    time.sleep(0.6)


def die_at_an_item(folder: Path, stopping: int | None) -> None:
    """Lease a shard and die at its first item, after the signal `stopping` if one is given."""
    rank = Rank(Run(folder)).__enter__()
    opened = lease(rank)
    rank.stopping = stopping
    rank.mark_active(opened.shard.number, [0])
    os.kill(os.getpid(), signal.SIGKILL)


def plan_at_once(folder: Path, count: int, ready: Any, digests: Any) -> None:
    """Open or plan at the moment all do; report the plan's digest."""
    ready.wait()
    run = make_run(folder, count)
    digests.put((run.plan.listing, run.plan.num_items))


class Clock:
    """A clock whose seconds pass only when a test sets `now`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    """Wait until `condition()` is true. Raises AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"the condition was still false after {seconds} s"
        time.sleep(0.01)
