"""How many items may fail before a run is taken to be wrong as a whole, as by weights or a corpus that do not fit."""

import math
import time
from dataclasses import dataclass

from datamodules.errors import ConfigError, TooManyFailures
from datamodules.run.folder import Run

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
        is_early = self.count is None and done < max(_MIN_ITEMS, _MIN_SHARE * planned)
        return not is_early and self.is_exceeded_in_all(failed, done)

    def is_exceeded_in_all(self, failed: int, planned: int) -> bool:
        """Whether `failed` of `planned` items are too many, where all are done, however few they are."""
        return failed > (self.share * planned if self.count is None else self.count)

    def __str__(self) -> str:
        return f"{self.share:.0%}" if self.count is None else f"{self.count:,}"


class FailureWatch:
    """Holds the failures of a whole run, of all ranks, against a limit.

    Args:
        run: the run.
        limit: that holds.
    """

    def __init__(self, run: Run, limit: FailureLimit) -> None:
        self._run, self._limit = run, limit
        self._unread = {shard.name for shard in run.plan.shards}
        self._failed = self._done = 0  # in the records read
        self._next_check = 0.0

    def check(self, failed: int, done: int, reason: str) -> None:
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
        if time.monotonic() > self._next_check:
            self._read_records()
        failed += self._failed
        done += self._done
        if self._limit.is_exceeded(failed, done, self._run.plan.num_items):
            raise TooManyFailures(
                f"{failed:,} of {done:,} items done have failed, more than --output.max_failures {self._limit}; "
                f"the last one: {reason}. Is something wrong with the whole run? See `preprocess failures "
                f"{self._run.folder}`; to go on all the same, run the same command with --output.max_failures 100%"
            )

    def _read_records(self) -> None:
        started = time.monotonic()
        for name in self._run.committed() & self._unread:
            record = self._run.record(name)
            self._unread.remove(name)
            self._failed += record.failed
            self._done += record.planned
        self._next_check = time.monotonic() + (time.monotonic() - started) / _READING_SHARE


_NO_LIMIT = FailureLimit()


@dataclass(frozen=True)
class Tolerance:
    """What a rank puts up with.

    Attributes:
        max_attempts: at an item that crashes or hangs its process, exhausts memory, or cannot be read for now.
        limit: how many items may fail before the run is taken to be wrong.
        extract_timeout_seconds: a call of `extract`, or other work of this process on items, that takes longer ends the
            process.
    """

    max_attempts: int = 3
    limit: FailureLimit = _NO_LIMIT
    extract_timeout_seconds: float = 600.0

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ConfigError(f"max_attempts = {self.max_attempts}: it must be 1 or more")
        if not self.extract_timeout_seconds > 0:
            raise ConfigError(f"extract_timeout_seconds = {self.extract_timeout_seconds}: it must be above 0")
