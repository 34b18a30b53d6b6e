"""Failures that may be the environment's fault: they are recorded once it is known that other items can be read.

A bad mount, or exhausted memory, fails one item after another. Recorded at once, such failures would use up all items
of a run within minutes. So an item's last failed attempt stays pending until another item has been read. If many are
pending, or nothing else is left to do, an item that was read before is read again to decide.
"""

from datamodules.corpus import Item
from datamodules.errors import EnvironmentFailure
from datamodules.loading.reading import is_readable
from datamodules.media.decoding import Decoding
from datamodules.run.folder import Run
from datamodules.run.rank import Rank

_MAX_PENDING = 20  # failures in a row that are recorded only after another item has been read again


class PendingFailures:
    """Failed attempts of a rank's items, of which the last of each item is held back.

    Args:
        rank: records the attempts.
        root: folder that items' paths are relative to.
        decoding: how an item is read again.
    """

    def __init__(self, rank: Rank, root: str, decoding: Decoding) -> None:
        self._rank, self._root, self._decoding = rank, root, decoding
        self._pending: dict[tuple[int, int], tuple[str, str]] = {}  # by shard and row: (reason, class), oldest first
        self._readable: Item | None = None  # the item that was last read without failure

    def __bool__(self) -> bool:
        return bool(self._pending)

    def rows(self, shard: int) -> set[int]:
        """Return the rows of a shard whose items have no attempt left, but no failure yet."""
        return {row for pending_shard, row in self._pending if pending_shard == shard}

    def add_attempt(self, shard: int, row: int, reason: str, reason_class: str) -> bool:
        """Record a failed attempt; the item's last one becomes a pending failure.

        Returns:
            Whether the item is to be tried again.

        Raises:
            EnvironmentFailure: see `decide`, which is called when too many are pending.
        """
        if self._rank.num_failed_attempts(shard, row) + 1 < self._rank.tolerance.max_attempts:
            return self._rank.add_failed_attempt(shard, row, reason, reason_class)
        self._pending[shard, row] = reason, reason_class
        if len(self._pending) > _MAX_PENDING:
            self.decide()
        return False

    def confirm(self, readable: Item | None) -> None:
        """Record the pending failures: a file was opened meanwhile, so the environment works.

        Args:
            readable: the item that was read; None if it failed by its own fault.
        """
        self._readable = readable or self._readable
        while self._pending:
            (shard, row), (reason, reason_class) = self._pending.popitem()
            self._rank.add_failed_attempt(shard, row, reason, reason_class)

    def decide(self) -> None:
        """Record the pending failures, unless the environment caused them.

        Raises:
            EnvironmentFailure: an item that was read before cannot be read now; or none was ever read, and two or more
                have failed.
        """
        reason, _ = next(reversed(self._pending.values()))
        known = self._known_readable()
        is_io = any(reason_class == "io" for _, reason_class in self._pending.values())
        is_gone = known and is_io and not is_readable(known, self._root, self._decoding, self._rank.scratch)
        if is_gone or (known is None and len(self._pending) > 1):
            raise EnvironmentFailure(
                f"{len(self._pending)} items in a row failed, the last one: {reason}. Is something wrong with the "
                "mount, the memory or the installation? Finished work is safe. Fix the problem and rerun the same "
                "command"
            )
        self.confirm(known)

    def _known_readable(self) -> Item | None:
        """Return an item that this rank read, or that any rank has spooled or committed; None if there is none."""
        if self._readable:
            return self._readable
        for opened in self._rank.open.values():
            for row, result in opened.spool.results.items():
                if result.reason is None:
                    return opened.items[row]
        run = Run(self._rank.run.store)  # of a retry, the run that it belongs to
        committed = run.committed()
        for shard in (shard for shard in run.plan.shards if shard.name in committed):
            if run.record(shard.name).committed:
                classes = run.table(shard.name, ["reason_class"])["reason_class"].to_pylist()
                if None in classes:
                    return run.plan.item(shard.number, classes.index(None))
        return None
