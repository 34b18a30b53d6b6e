"""Runs with failures, and retries of them, made without torch; an item's key says how often it fails."""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from datamodules.corpus import Item
from datamodules.run.folder import Run
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import ShardSize
from datamodules.run.rank import Rank
from datamodules.run.result import Result
from datamodules.run.retries import RetryRequest, open_or_plan_retry
from support.runs import FINGERPRINT, Listed, members_of

KEYS = [
    "train/a", "train/b-bad-once", "train/c", "train/d-bad-twice", "train/e-bad-always", "train/f", "train/g-crash",
    "dev/x-bad-once", "dev/y",
]  # fmt: skip


def named(key: str) -> Item:
    """Return an item of a single image of one byte."""
    return Item(key, key.split("/")[0], key, ("frame.png",), cost=1, meta={"name": key})


def make_failing_run(folder: Path, keys: list[str] = KEYS, per_shard: int = 3, **fingerprint: Any) -> Path:
    """A complete run, made as keys say: `-bad-once` and `-crash` fail in it, `-bad-twice` in retry 1 too, …

    The samples of `-cut-once` are truncated in it, those of `-cut-twice` in retry 1 too, … Those of `-then-bad` fail in
    every retry.
    """
    made_by, size = {**FINGERPRINT, **fingerprint}, ShardSize(max_items=per_shard, min_shards=1)
    do(open_or_plan(folder, Listed([named(key) for key in keys]), made_by, size))
    return folder


def open_retry(
    folder: Path | str,
    *classes: str,
    fingerprint: Mapping[str, Any] = FINGERPRINT,
    began: float | None = None,
    keys: Iterable[str] | None = None,
) -> Run:
    """The retry that a command started at `began`, or just now, works on; two items in a shard."""
    return open_or_plan_retry(
        folder,
        fingerprint,
        ShardSize(max_items=2, min_shards=1),
        RetryRequest(classes, time.time() if began is None else began, keys=None if keys is None else frozenset(keys)),
    )


def do(run: Run, num_shards: int | None = None, device: str = "cpu") -> None:
    """Work as a rank of `run`, a retry or not, until it is done or for some shards, on a device of this model."""
    with Rank(run, device=device) as rank:
        while not rank.finished() and rank.num_committed != num_shards:
            opened = rank.lease()
            if opened is None:
                time.sleep(0.02)
                continue
            for row in opened.missing:
                item = opened.items[row]
                reason, reason_class = _failure(item.key, run.retry)
                if reason:
                    rank.add(opened.shard.number, Result(row, reason=reason, reason_class=reason_class), {})
                else:
                    status = _status(item.key, run.retry)
                    files = {"txt": f"{status} in {run.retry}".encode()} if "-cut-" in item.key else {}
                    rank.add(opened.shard.number, Result(row, num_frames=1, status=status), members_of(item) | files)


def _failure(key: str, retry: int) -> tuple[str | None, str | None]:
    if "crash" in key and retry < 2:
        return "crashed: SIGSEGV", "crash"
    if key.endswith("-then-bad") and retry:
        return "gone", "missing"
    fails = "-bad-" in key and {"once": retry < 1, "twice": retry < 2, "always": True}[key.rpartition("-")[2]]
    return (f"bad in {retry}", "decode") if fails else (None, None)


def _status(key: str, retry: int) -> str:
    cut = {"cut-once": retry < 1, "cut-twice": retry < 2, "cut-always": True, "cut-then-bad": True}
    return "truncated" if any(key.endswith(name) and is_cut for name, is_cut in cut.items()) else "ok"


def retry_at_once(folder: Path, ready: Any, numbers: Any) -> None:
    """Retry at the moment all do; report the retry that was worked on."""
    began = time.time()
    ready.wait()
    retry = open_retry(folder, began=began)
    do(retry)
    numbers.put(retry.retry)
