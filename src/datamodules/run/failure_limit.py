"""The failure limit: stop a run in which so many items fail that its weights, corpus or options must be wrong."""

import math
import time
from dataclasses import dataclass

from datamodules.errors import ConfigError, TooManyFailures
from datamodules.run.folder import Run

_MIN_ITEMS = 100
_MIN_SHARE = 0.01
_READING_SHARE = 0.02  # of a rank's time may go into reading records, however many shards there are


@dataclass(frozen=True)
class FailureLimit:
    """The number or share of items that may fail.

    A share is checked only when 1 % of the planned items are done, and at least 100: one bad folder at the beginning
    must not stop a run.

    Attributes:
        count: failed items, at most; None: `share` counts.
        share: failed items as a share of the items that are done, at most; 0 to 1.
    """

    count: int | None = None
    share: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "FailureLimit":
        """Read a limit from `N`, a number of items, or `P%`, a percentage of those done.

        Raises:
            ConfigError: `text` is neither.
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
        """Return whether `failed` of `done` items are too many, while a run of `planned` items goes on."""
        is_early = self.count is None and done < max(_MIN_ITEMS, _MIN_SHARE * planned)
        return not is_early and self.is_exceeded_in_all(failed, done)

    def is_exceeded_in_all(self, failed: int, planned: int) -> bool:
        """Return whether `failed` of `planned` items are too many, once all are done, however few they are."""
        return failed > (self.share * planned if self.count is None else self.count)

    def __str__(self) -> str:
        return f"{self.share:.0%}" if self.count is None else f"{self.count:,}"


class FailureWatch:
    """Compares the failures of all ranks of a run with a limit.

    Args:
        run: the run.
        limit: the limit.
    """

    def __init__(self, run: Run, limit: FailureLimit) -> None:
        self._run, self._limit = run, limit
        self._unread = {shard.name for shard in run.plan.shards}
        self._failed = self._done = 0  # in the records that are read
        self._next_check = 0.0

    def check(self, failed: int, done: int, reason: str) -> None:
        """Add up the committed shards of all ranks and the open shards of this one, and compare with the limit.

        Args:
            failed: failed items of this rank's open shards.
            done: finished items of this rank's open shards, failures included.
            reason: why the last item failed, for the message.

        Raises:
            TooManyFailures: the limit is exceeded.
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
                f"{self._run.store}`; to go on all the same, run the same command with --output.max_failures 100%"
            )

    def _read_records(self) -> None:
        """Add up the new records, and set when to do so next: 50 times as long from now as it took."""
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
    """How many attempts, failures and seconds a rank allows.

    Attributes:
        max_attempts: attempts at an item that crashes or hangs its process, exhausts memory, or cannot be read at the
            moment. 1 or more.
        limit: failed items at which the run stops.
        extract_timeout_seconds: limit for one call of `extract`, or other work of the main process on items. At the
            limit the process ends, and its active items are charged. Above 0.
    """

    max_attempts: int = 3
    limit: FailureLimit = _NO_LIMIT
    extract_timeout_seconds: float = 600.0

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ConfigError(f"max_attempts = {self.max_attempts}: it must be 1 or more")
        if not self.extract_timeout_seconds > 0:
            raise ConfigError(f"extract_timeout_seconds = {self.extract_timeout_seconds}: it must be above 0")
