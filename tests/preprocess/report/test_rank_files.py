"""What ranks are doing, read again and again by one process."""

from pathlib import Path

from datamodules.run.folder import Run
from datamodules.run.leases import RANKS
from datamodules.run.rank import Rank
from datamodules.run.store import Folder
from preprocess.report.rank_files import RankFiles
from preprocess.report.status import StatusReader
from support.runs import finish, lease, make_run


class RecordingReads(Folder):
    """A folder that records the names of the files read from it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.names_read: list[str] = []

    def read(self, name: str) -> bytes:
        self.names_read.append(name)
        return super().read(name)

    def reads(self) -> list[str]:
        """Return the names of the files that were read since this was last called, without folders."""
        names, self.names_read = self.names_read, []
        return sorted(name.rpartition("/")[2] for name in names)


def test_each_version_of_the_file_of_a_rank_is_read_once(tmp_path: Path) -> None:
    run, store = make_run(tmp_path, 4, per_shard=2), RecordingReads(tmp_path)
    files = RankFiles(store)
    with Rank(run) as one, Rank(run) as other:
        names = sorted([one.name, other.name])
        for rank in (one, other):
            rank.publish()
        assert [activity.rank for activity in files.read()] == names
        assert store.reads() == names
        opened = lease(other)
        finish(other, opened, rows=[0])
        other.publish()
        changed = {activity.rank: activity.items for activity in files.read()}
        assert changed == {one.name: 0, other.name: 1}
        assert other.name in store.reads()
        (tmp_path / RANKS / "damaged").write_text("{")
        for _ in range(2):  # a file that could not be read is tried again
            assert [activity.rank for activity in files.read()] == names
            assert "damaged" in store.reads()


def test_a_status_reads_new_records_and_nothing_twice_for_the_retries(tmp_path: Path) -> None:
    run, store = make_run(tmp_path, 4, per_shard=2), RecordingReads(tmp_path)
    reader = StatusReader(Run(store))
    with Rank(run) as rank:
        finish(rank, lease(rank))
        assert reader.read().shards == 1
        store.reads()
        finish(rank, lease(rank))
        status = reader.read()
    assert (status.shards, status.items) == (2, 4)
    assert [name for name in store.reads() if name.endswith(".json")] == ["train-000001.json"]
