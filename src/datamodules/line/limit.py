"""How many items may fail before a run is taken to be wrong as a whole, as by weights or a corpus that do not fit."""

import math
import time
from dataclasses import dataclass

from datamodules.errors import ConfigError, TooManyFailures
from datamodules.line.run import Record, Run

_MIN_ITEMS = 100
_MIN_SHARE = 0.01
_READING_SHARE = 0.02  # of the time, at most, however many shards there are


@dataclass(frozen=True)
class FailureLimit:
    """At most `count` failed items, or at most `share` of the items that are done.

    The share is judged once 1 % of the planned items are done, and no less than 100 of them: one bad folder at the
    beginning is no reason to stop.
    """

    count: int | None = None
    share: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "FailureLimit":
        """From `N` or `P%`.

        Raises:
            ConfigError: it is neither.
        """
        number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
        try:
            value = float(number) if percent else int(number)
        except ValueError:
            value = -1
        if not 0 <= value <= (100 if percent else math.inf):
            raise ConfigError(f"max_failures {text!r}: give a number of items, or a percentage of those done as in 50%")
        return cls(share=value / 100) if percent else cls(count=int(value))

    def is_exceeded(self, failed: int, done: int, planned: int) -> bool:
        """Whether `failed` of `done` items are too many, where `planned` are to be done in all."""
        if self.count is not None:
            return failed > self.count
        return done >= max(_MIN_ITEMS, _MIN_SHARE * planned) and failed > self.share * done


class FailureWatch:
    """Holds the failures of a whole run, of all ranks, against a limit.

    Args:
        run: the run.
        limit: that holds.
    """

    def __init__(self, run: Run, limit: FailureLimit) -> None:
        self._run, self._limit = run, limit
        self._records: dict[str, Record] = {}
        self._planned = [shard.name for shard in run.plan.shards]
        self._next_look = 0.0

    def look(self, failed: int, done: int, reason: str) -> None:
        """Judge by the committed shards, and `failed` of `done` items that are not.

        Args:
            failed: items of this rank's open shards.
            done: likewise.
            reason: of the last of them.

        Raises:
            TooManyFailures: they are too many.
        """
        if self._limit == FailureLimit():
            return
        if time.monotonic() > self._next_look:
            self._read_records()
        failed += sum(record.failed for record in self._records.values())
        done += sum(record.planned for record in self._records.values())
        if self._limit.is_exceeded(failed, done, self._run.plan.num_items):
            allowed = f"{self._limit.count:,}" if self._limit.count is not None else f"{self._limit.share:.0%}"
            raise TooManyFailures(
                f"{failed:,} of {done:,} items done have failed, more than --output.max_failures {allowed}; "
                f"the last one: {reason}. Is something wrong with the whole run? See `preprocess failures "
                f"{self._run.folder}`; to go on all the same, run the same command with --output.max_failures 100%"
            )

    def _read_records(self) -> None:
        started = time.monotonic()
        for name in self._run.committed().intersection(self._planned) - self._records.keys():
            self._records[name] = self._run.record(name)
        self._next_look = time.monotonic() + (time.monotonic() - started) / _READING_SHARE
