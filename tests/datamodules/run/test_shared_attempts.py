"""Ranks of machines that share a bucket, and no disk."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from datamodules.run.attempts import KILLED_OR_LOST, FailedAttempt
from datamodules.run.bucket import Bucket
from datamodules.run.failure_limit import Tolerance
from datamodules.run.folder import Run
from datamodules.run.open_shard import OpenShard
from datamodules.run.rank import Rank
from datamodules.run.shared_attempts import ATTEMPTS, SharedAttempts
from datamodules.run.store import Folder, Store
from support.runs import Clock, finish, lease, make_run

pytest.importorskip("obstore")


class Cluster:
    """Machines, each with a disk of its own, that do one run of one shard in a bucket, one after another."""

    def __init__(self, tmp_path: Path) -> None:
        self._tmp_path, self.clock, self._num_machines = tmp_path, Clock(), 0
        self._opened: list[OpenShard] = []
        self.run = make_run(self._store(), 4)

    def rank(self) -> tuple[Rank, OpenShard]:
        """Start a rank without heartbeats on a new machine. It takes the shard over from ranks that count as dead."""
        rank = Rank(Run(self._store()), tolerance=Tolerance(max_attempts=3))
        rank.leases._clock = self.clock
        opened = rank.lease()
        if opened is None:
            self.clock.now += 100
            opened = lease(rank)
        self._opened.append(opened)
        return rank, opened

    def close(self) -> None:
        for opened in self._opened:
            opened.spool.close()

    def _store(self) -> Store:
        self._num_machines += 1
        return Bucket(f"memory://{self._tmp_path.name}/run", scratch=str(self._tmp_path / f"disk{self._num_machines}"))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.close()


def test_an_item_that_brings_down_every_machine_fails_in_the_end(cluster: Cluster) -> None:
    for rows in ([0, 1], [0, 1], [1], [1]):  # once an item is a suspect, it is tried alone
        rank, opened = cluster.rank()
        assert opened.missing == [0, 1, 2, 3]
        opened.spool.mark_active(rows)  # the machine is lost
    rank, opened = cluster.rank()
    lost = [FailedAttempt(row, KILLED_OR_LOST, "crash", alone=row != 0) for row in (0, 1)]
    together = FailedAttempt(1, KILLED_OR_LOST, "crash", alone=False)
    assert opened.spool.failed_attempts[0] == lost[:1]
    assert sorted(opened.spool.failed_attempts[1], key=lambda attempt: attempt.alone) == [together, lost[1], lost[1]]
    assert opened.missing == [0, 2, 3]
    finish(rank, opened)
    record = Run(cluster.run.store).record("train-000000")
    assert (record.committed, record.failure_classes) == (3, {"crash": 1})
    assert cluster.run.store.names(ATTEMPTS) == []


def test_the_first_holder_of_a_shard_writes_nothing_more_to_the_bucket(cluster: Cluster) -> None:
    _, opened = cluster.rank()
    opened.spool.mark_active([0])
    assert cluster.run.store.names(ATTEMPTS) == []


def test_a_living_rank_is_charged_with_nothing_and_its_failed_attempts_count(cluster: Cluster) -> None:
    cluster.rank()
    slow, opened = cluster.rank()
    slow.add_failed_attempt(0, 2, "it was torn", "io")
    opened.spool.mark_active([3])
    other = SharedAttempts(cluster.run.store, "train-000000", "backup", lambda rank: False)
    assert list(other.of_others(4, [])) == [FailedAttempt(2, "it was torn", "io")]
    assert list(other.of_others(4, [slow.name])) == []
    assert list(other.of_others(2, [])) == []  # it names rows that the shard does not have


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"active": ["a"]}', b'{"active": [-1]}', b'{"failed": [{"row": 1}]}']
)
def test_what_no_rank_writes_is_ignored(tmp_path: Path, content: bytes) -> None:
    store = Folder(tmp_path)
    store.replace(f"{ATTEMPTS}/train-000000.other", content)
    assert list(SharedAttempts(store, "train-000000", "rank", lambda rank: True).of_others(4, [])) == []
