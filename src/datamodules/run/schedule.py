"""The schedule of a rank: which shard it claims next.

A rank claims unclaimed shards as long as there are any, those with by far the most input first: a long video that was
begun last would keep one rank busy when all others are done. After that it helps the others, so that no rank waits for
the slowest or for a dead one:

- Take-over: a shard whose holders are all dead is claimed anew. Its spools hold what they had finished, so only the
  items that were in flight are done again.
- Backup execution, as in MapReduce: a shard whose holder is alive but slow is worked on twice, if this rank expects to
  finish it in less than half the time that the holder still needs. A shard has at most one backup, and a rank makes one
  only when it has no other work.
"""

import time
from collections.abc import Collection, Iterator, Set
from itertools import islice

from datamodules.run.activity import read_activity
from datamodules.run.folder import Run
from datamodules.run.leases import Claim, Leases
from datamodules.run.plan import Shard

_COSTLY = 2  # times the mean cost of a shard: those above come first
_BACKUP_AFTER_SECONDS = 5.0  # younger leases get no backup: their speed is not known yet
_MAX_READS = 8  # claims, and activities, that a rank reads at once: idle ranks look again every few seconds
_UNKNOWN_SECONDS = 30.0  # assumed for a shard by a rank that has committed none yet


class Schedule:
    """The order in which a rank claims the shards of a run.

    Args:
        run: the run, or a retry.
        leases: the rank's claims, and its view of the others'.
        only: (i, n): claim only shards whose number is i modulo n, for users who divide a run by hand; None: all.
        position: where in the plan to begin, 0 to 1. Ranks that begin far apart rarely try to claim the same shard.

    Attributes:
        shards: the shards that this rank may claim: costly ones by falling cost, then the others in the plan's order.
        seconds_per_row: of each shard that this rank has finished.
    """

    def __init__(self, run: Run, leases: Leases, only: tuple[int, int] | None, position: float) -> None:
        self._run, self._leases, self._position = run, leases, position
        shards = [s for s in run.plan.shards if not only or s.number % only[1] == only[0]]
        self._costly = _COSTLY * sum(s.cost for s in shards) / max(1, len(shards))
        self.shards = sorted(shards, key=lambda shard: -shard.cost if shard.cost > self._costly else 0)
        self.seconds_per_row: list[float] = []
        self._committed: set[str] = set()  # names of the shards that had a record when they were last listed
        self._todo: list[Shard] = []  # of `shards`, those without a record and a claim when they were last listed

    def begin(self) -> None:
        """List what is to be done, and go to the rank's position in it.

        Raises:
            OSError: the output folder cannot be read.
        """
        self._list_todo()
        self._begin_at(self._position)

    def claims(self, open_shards: Collection[int]) -> Iterator[Shard]:
        """Claim shards and yield them: unclaimed ones, then one of a dead rank, or else of a slow one as a backup.

        A shard that is yielded may have been committed in the meantime.

        Args:
            open_shards: numbers of the shards that this rank is working on.

        Raises:
            OSError: the output folder cannot be read or written to.
        """
        yield from self._claim_unclaimed()
        yield from self._claim_from_others(open_shards)

    def _claim_unclaimed(self) -> Iterator[Shard]:
        # each shard is tried once per call: NFS may list a claim late, and the shard would come back again and again
        tried: set[str] = set()
        while self._todo or self._list_todo(tried):
            shard = self._todo.pop(0)
            tried.add(shard.name)
            if self._leases.claim(shard.name):
                yield shard
            # another rank has claimed it, or committed it since it was listed
            self._list_todo(tried)
            self._begin_at(self._leases.random.random())  # that rank goes on from there: go on elsewhere

    def _claim_from_others(self, open_shards: Collection[int]) -> Iterator[Shard]:
        claims = self._leases.list_claims(_MAX_READS)
        shards = {shard.name: shard for shard in self.shards if shard.number not in open_shards}
        held = [(shards[name], claims[name]) for name in claims if name in shards and name not in self._committed]
        for shard, holders in held:
            if all(claim.dead for claim in holders) and self._claim_next(shard, holders):
                yield shard
                return
        if open_shards:
            return
        for shard, holders in self._slow(held):
            if self._claim_next(shard, holders):
                yield shard
                return

    def _claim_next(self, shard: Shard, holders: list[Claim]) -> bool:
        return self._leases.claim(shard.name, holders[-1].generation + 1)

    def _slow(self, held: list[tuple[Shard, list[Claim]]]) -> list[tuple[Shard, list[Claim]]]:
        """Return the shards with one living holder that this rank would finish in less than half the time.

        Of many, the longest held are looked at. The slowest come first.
        """
        alive = ((shard, holders, [claim for claim in holders if not claim.dead]) for shard, holders in held)
        single = islice((entry for entry in alive if len(entry[2]) == 1), _MAX_READS)
        left = [(self._seconds_left(living[0]), shard, holders) for shard, holders, living in single]
        slow = [entry for entry in left if entry[0] > max(2 * self._own_seconds(entry[1]), _BACKUP_AFTER_SECONDS)]
        return [(shard, holders) for _, shard, holders in sorted(slow, key=lambda entry: -entry[0])]

    def _own_seconds(self, shard: Shard) -> float:
        """Estimate the seconds that this rank needs for a shard."""
        paces = self.seconds_per_row
        return sum(paces) / len(paces) * shard.num_items if paces else _UNKNOWN_SECONDS

    def _seconds_left(self, claim: Claim) -> float:
        """Estimate the seconds that the holder of a claim still needs, from the activity that it publishes.

        0 for a holder that publishes none, and for one too young to judge: such a shard gets no backup.
        """
        activity = read_activity(self._run.store, claim.holder.rank) if claim.holder else None
        if not activity or claim.name not in activity.shards:
            return 0.0
        shard = activity.shards[claim.name]
        # a holder that has stopped publishing gets slower
        seconds = shard.seconds + max(0.0, time.time() - activity.updated)
        left = shard.num_rows - shard.rows
        return seconds * left / max(shard.rows, 0.5) if seconds > _BACKUP_AFTER_SECONDS else 0.0

    def _list_todo(self, tried: Set[str] = frozenset()) -> bool:
        """Set `_todo` to the shards that are not committed, claimed or `tried`; return whether there are any."""
        claimed = self._leases.claimed() | tried
        # records after claims: a commit removes claims after it links its record, so no shard is missing from both
        self._committed = self._run.committed()
        self._todo = [s for s in self.shards if s.name not in self._committed and s.name not in claimed]
        return bool(self._todo)

    def _begin_at(self, position: float) -> None:
        """Let the costly shards in `_todo`, and those behind them, begin at `position`, 0 to 1, of their number."""
        num_costly = sum(shard.cost > self._costly for shard in self._todo)
        parts = self._todo[:num_costly], self._todo[num_costly:]
        starts = [int(position * len(part)) for part in parts]
        self._todo = [shard for part, start in zip(parts, starts, strict=True) for shard in part[start:] + part[:start]]
