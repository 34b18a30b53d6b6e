"""The cache of whole tars, over a store in a folder, which processes share without a server."""

import os
import shutil
import signal
import threading
from pathlib import Path
from unittest.mock import patch

import pytest

from datamodules.errors import EnvironmentFailure, RunError
from datamodules.run.bucket import Bucket
from datamodules.run.folder import Run
from datamodules.run.record import ShardFile
from datamodules.run.store import Entry
from datamodules.run.tar_cache import TarCache
from support.runs import make_run, start, wait_for, work

pytest.importorskip("obstore")


@pytest.fixture
def tars(tmp_path: Path) -> list[ShardFile]:
    """The tars of a run of three shards of equal size, in an object store."""
    make_run(tmp_path / "run", 6, per_shard=2)
    work(tmp_path / "run")
    run = Run(f"file://{tmp_path}/run")
    return [run.tar_file(shard.name) for shard in run.plan.shards]


def read(cache: TarCache, tar: ShardFile, size: int = 1 << 30, offset: int = 0) -> bytes | None:
    return cache.read(tar, tar.find(), size, offset)


def content_of(tar: ShardFile) -> bytes:
    return tar.store.read(tar.name)


def sizes(folder: Path) -> list[int]:
    return [path.stat().st_size for path in folder.glob("*.tar*")]


def record_fetches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the names of the files that are read from buckets from now on are appended."""
    fetched: list[str] = []
    read_range = Bucket.read_range

    def recorded(bucket: Bucket, entry: Entry, size: int, offset: int) -> bytes:
        fetched.append(entry.name)
        return read_range(bucket, entry, size, offset)

    monkeypatch.setattr(Bucket, "read_range", recorded)
    return fetched


def test_the_least_recently_used_tar_is_removed_within_the_limit(
    tars: list[ShardFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = record_fetches(monkeypatch)
    size = tars[0].find().size
    cache = TarCache(tmp_path / "cache", 2 * size)
    for number in (0, 1, 0, 2, 0, 1):  # 2 removes 1, which 1 replaces by removing 2
        assert read(cache, tars[number], 100, 50) == content_of(tars[number])[50:150]
        assert sum(sizes(tmp_path / "cache")) <= 2 * size
    assert fetched == [tars[number].name for number in (0, 1, 2, 1)]


def test_a_tar_larger_than_the_cache_is_not_kept(tars: list[ShardFile], tmp_path: Path) -> None:
    assert read(TarCache(tmp_path / "cache", tars[0].find().size - 1), tars[0]) is None
    assert not (tmp_path / "cache").exists()


def test_threads_and_caches_fetch_a_tar_once(
    tars: list[ShardFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = record_fetches(monkeypatch)
    results: list[bool] = []

    def use(tar: ShardFile) -> None:
        results.append(read(TarCache(tmp_path / "cache", 1 << 20), tar) == content_of(tar))

    threads = [threading.Thread(target=use, args=(tar,)) for tar in tars * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 15
    assert sorted(fetched) == [tar.name for tar in tars]


def _fetch_slowly(tar: ShardFile, folder: Path) -> None:
    def pause(bucket: Bucket, entry: Entry, size: int, offset: int) -> bytes:
        signal.pause()
        return b""

    with patch.object(Bucket, "read_range", pause):
        read(TarCache(folder, 1 << 20), tar)


def test_a_process_that_is_killed_while_it_fetches_leaves_nothing_that_counts(
    tars: list[ShardFile], tmp_path: Path
) -> None:
    folder, size = tmp_path / "cache", tars[0].find().size
    process = start(_fetch_slowly, tars[0], folder)
    try:
        wait_for(lambda: folder.exists() and sizes(folder) == [size], seconds=60)
        assert read(TarCache(folder, size), tars[1]) is None  # no room beside the one that is being fetched
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert read(TarCache(folder, size), tars[1]) == content_of(tars[1])
    assert [path.suffix for path in folder.glob("*.tar*")] == [".tar"]
    assert read(TarCache(folder, size), tars[0]) == content_of(tars[0])


def test_a_tar_that_is_not_that_of_its_record_is_refused(tars: list[ShardFile], tmp_path: Path) -> None:
    path = tmp_path / "run" / tars[0].name
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(RunError, match=r"train-000000\.tar is damaged: its sha256 is not that of its record"):
        read(TarCache(tmp_path / "cache", 1 << 20), tars[0])
    assert sizes(tmp_path / "cache") == []


def test_a_replaced_tar_is_fetched_anew(tars: list[ShardFile], tmp_path: Path) -> None:
    cache = TarCache(tmp_path / "cache", 1 << 20)
    before = read(cache, tars[0])
    shutil.rmtree(tmp_path / "run")
    make_run(tmp_path / "run", 9, per_shard=3)
    work(tmp_path / "run")
    after = read(cache, tars[0])
    assert before != after == content_of(tars[0])


def test_a_folder_that_cannot_be_used_is_named(tars: list[ShardFile], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        EnvironmentFailure, match=r"^the cache folder .*/file/cache cannot be used: Not a directory\. Fix"
    ):
        read(TarCache(tmp_path / "file" / "cache", 1 << 20), tars[0])
