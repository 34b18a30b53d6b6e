"""The files in which the ranks of a run say what they are doing, read again and again by one process."""

from functools import partial

from datamodules.run.activity import Activity, read_activity
from datamodules.run.leases import RANKS
from datamodules.run.parallel_reads import read_each
from datamodules.run.store import Store


class RankFiles:
    """Reads each version of the file of a rank once, because 1,000 ranks in a bucket are 1,000 requests.

    Args:
        store: of the run.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._versions: dict[str, str] = {}
        self._activities: dict[str, Activity] = {}

    def read(self) -> list[Activity]:
        """Return the activity of each rank now, in order of names; a file that is missing or damaged is left out."""
        names = ((entry.name.rpartition("/")[2], entry.version) for entry in self._store.list(RANKS))
        versions = {rank: version for rank, version in names if "." not in rank}
        changed = [rank for rank in versions if self._versions.get(rank) != versions[rank]]
        activities = {rank: self._activities[rank] for rank in versions.keys() - set(changed)}
        read = read_each(self._store, partial(read_activity, self._store), changed)
        for rank, activity in zip(changed, read, strict=True):
            if activity:
                activities[rank] = activity
        self._activities = dict(sorted(activities.items()))
        self._versions = {rank: versions[rank] for rank in activities}  # what could not be read is tried again
        return list(self._activities.values())
