"""An open shard: one that this rank has leased, with its items and their results so far."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from datamodules.corpus import Item
from datamodules.run.folder import Run
from datamodules.run.plan import Shard
from datamodules.run.prior_results import PriorResult, prior_results
from datamodules.run.result import Result
from datamodules.run.spool import Spool


class OpenShard:
    """A shard that this rank has leased: its items, and the results so far."""

    def __init__(self, run: Run, shard: Shard, rank: str, death: Callable[[str], tuple[str, str] | None]) -> None:
        self.shard = shard
        self.items: list[Item] = run.plan.items(shard.number)
        self.kept: set[int] = set()  # rows that a retry does not try
        self.before: dict[int, PriorResult] = {}  # the samples that it tries, which stand if they fail now
        before = list(prior_results(run, shard))  # raises before a file is open
        self.spool = Spool(run.work / "spool", shard.name, shard.num_items, rank, death)
        for each in before:
            if each.is_tried and each.result.reason is None:
                self.before[each.result.row] = each
            elif not each.is_tried:
                self.kept.add(each.result.row)
                if each.result.row not in self.spool.results:
                    self.spool.append(each.result, each.members())
        self.since = time.monotonic()
        self.measured: list[dict[str, Any]] = []  # of the machine, at each beat since then

    @property
    def is_complete(self) -> bool:
        """Whether every row has a result."""
        return len(self.spool.results) == len(self.items)

    @property
    def missing(self) -> list[int]:
        """Rows without a result, ascending."""
        return [row for row in range(len(self.items)) if row not in self.spool.results]

    @property
    def failed(self) -> frozenset[int]:
        """Rows that have failed."""
        return frozenset(row for row, result in self.spool.results.items() if result.reason is not None)

    def given_up(self, max_attempts: int) -> Iterator[Result]:
        """Failures in place of the results of items that have used up their attempts, one of them alone."""
        for row, failed_attempts in self.spool.failed_attempts.items():
            alone = [attempt for attempt in failed_attempts if attempt.alone]
            if row not in self.spool.results and alone and len(failed_attempts) >= max_attempts:
                last = alone[-1]
                yield Result(row, reason=last.reason, reason_class=last.reason_class, attempts=len(failed_attempts))
