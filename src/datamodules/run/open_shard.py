"""Open shards: shards that this rank has leased, with their items and the results so far."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from datamodules.corpus import Item
from datamodules.run.activity import PHASES, ShardProgress
from datamodules.run.folder import Run
from datamodules.run.plan import Shard
from datamodules.run.prior_results import PriorResult, prior_results
from datamodules.run.result import Result
from datamodules.run.shared_attempts import SharedAttempts
from datamodules.run.spool import Spool


class OpenShard:
    """A shard that this rank has leased.

    Args:
        run: the run or retry that has the shard in its plan.
        shard: the shard.
        rank: name of this rank.
        death, shared: see `Spool`.
        holders: names of the ranks that claimed the shard before.

    Attributes:
        items: of the shard, by row.
        kept: rows that a retry does not try; they have their prior results from the start.
        before: prior results of the rows that a retry tries again. Such a sample is kept if the new attempt fails.
        spool: the results so far.
        since: when the shard was opened, as `time.monotonic` counts.
        began: the same in seconds since the epoch.
        phases: seconds spent on the shard since then, by phase.
        holders: as given.
        extracted: by row of an item in progress, the numbers of its extracted frames and of those to extract.
        measured: figures of the machine, one entry for each heartbeat since then.

    Raises:
        RunError: a shard that the retry replaces cannot be read; see `prior_results`.
        OSError: the spool cannot be read or written.
    """

    def __init__(
        self,
        run: Run,
        shard: Shard,
        rank: str,
        death: Callable[[str], tuple[str, str] | None],
        shared: SharedAttempts | None = None,
        holders: Sequence[str] = (),
    ) -> None:
        self.shard, self.holders = shard, list(holders)
        self.items: list[Item] = run.plan.items(shard.number)
        self.kept: set[int] = set()
        self.before: dict[int, PriorResult] = {}
        prior = list(prior_results(run, shard))  # may raise, so it comes before the spool is opened
        self.spool = Spool(run.work / "spool", shard.name, shard.num_items, rank, death, shared)
        for previous in prior:
            row = previous.result.row
            if previous.is_tried and previous.result.reason is None:
                self.before[row] = previous
            elif not previous.is_tried:
                self.kept.add(row)
                if row not in self.spool.results:
                    self.spool.append(previous.result, previous.members())
        self.since, self.began = time.monotonic(), time.time()
        self.phases = dict.fromkeys(PHASES, 0.0)
        self.extracted: dict[int, tuple[int, int]] = {}
        self.measured: list[dict[str, Any]] = []

    def cost(self, row: int, num_frames: int = 1, of: int = 1) -> float:
        """Return the cost of `num_frames` frames of the item in `row`, which has `of`; see `ShardProgress.cost`."""
        return (self.items[row].cost + 1) * min(1.0, num_frames / of)

    @property
    def is_complete(self) -> bool:
        """Whether every row has a result."""
        return len(self.spool.results) == len(self.items)

    @property
    def missing(self) -> list[int]:
        """The rows without a result, ascending."""
        return [row for row in range(len(self.items)) if row not in self.spool.results]

    @property
    def failed(self) -> frozenset[int]:
        """The rows whose result is a failure."""
        return frozenset(row for row, result in self.spool.results.items() if result.reason is not None)

    def progress(self) -> ShardProgress:
        """Return how far this rank is with the shard. Other threads may call this."""
        # copies, because the main thread goes on; in this order, a row that it finishes meanwhile is in one of them
        extracted, results = self.extracted.copy(), self.spool.results.copy()
        in_progress = [(row, counts) for row, counts in extracted.items() if row not in results]
        return ShardProgress(
            rows=len(results),
            num_rows=len(self.items),
            frames=sum(result.num_frames for result in results.values()) + sum(count for _, (count, _) in in_progress),
            cost=round(sum(map(self.cost, results)) + sum(self.cost(row, *counts) for row, counts in in_progress)),
            seconds=round(time.monotonic() - self.since, 1),
        )

    def given_up(self, max_attempts: int) -> Iterator[Result]:
        """Yield a failure for each row that has used up its attempts, at least one of them alone.

        Without an attempt alone, another item of the same batch may have caused all the crashes.
        """
        for row, failed_attempts in self.spool.failed_attempts.items():
            alone = [attempt for attempt in failed_attempts if attempt.alone]
            if row not in self.spool.results and alone and len(failed_attempts) >= max_attempts:
                last = alone[-1]
                yield Result(row, reason=last.reason, reason_class=last.reason_class, attempts=len(failed_attempts))
