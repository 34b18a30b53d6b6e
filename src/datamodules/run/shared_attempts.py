"""Failed attempts in the store, for ranks of other machines.

Ranks in a bucket share no spool. A machine that is lost takes the spools of its open shards with it, and with them what
its ranks were working on. An item that exhausts the machine's memory, or brings the machine down in another way, would
do so to one machine after another. So from the second generation of a shard's claims on, the holder also writes its
active rows and its failed attempts to the store: `work/attempts/{shard}.{rank}`. Most shards have one generation, and
cost no request.
"""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from datamodules.errors import RunError
from datamodules.run.attempts import KILLED_OR_LOST, FailedAttempt
from datamodules.run.store import Store
from datamodules.run.typed_json import build, load

ATTEMPTS = "work/attempts"


@dataclass
class _Attempts:
    """What one rank has written: its active rows, and its failed attempts."""

    active: list[int] = field(default_factory=list)
    failed: list[FailedAttempt] = field(default_factory=list)

    def fits(self, num_rows: int) -> bool:
        return all(row < num_rows for row in (*self.active, *(attempt.row for attempt in self.failed)))


class SharedAttempts:
    """The failed attempts at the items of one open shard, in the store.

    Args:
        store: of the run.
        shard: name of the shard.
        rank: name of this rank.
        is_dead: returns whether the rank of a name is dead. It may have been killed, or its machine lost.
    """

    def __init__(self, store: Store, shard: str, rank: str, is_dead: Callable[[str], bool]) -> None:
        self._store, self._shard, self._own, self._is_dead = store, shard, f"{ATTEMPTS}/{shard}.{rank}", is_dead
        self._attempts = _Attempts()

    def add(self, attempt: FailedAttempt) -> None:
        """Write a failed attempt of this rank.

        Raises:
            OSError: the store cannot be written to.
        """
        self._attempts.failed.append(attempt)
        self._write()

    def mark_active(self, rows: Sequence[int]) -> None:
        """Write that this rank works on `rows`; empty: it works on none.

        Raises:
            OSError: the store cannot be written to.
        """
        self._attempts.active = list(rows)
        self._write()

    def of_others(self, num_rows: int, known: Collection[str]) -> Iterator[FailedAttempt]:
        """Yield the failed attempts of the ranks before this one, and one at each row that a dead rank had active.

        Args:
            num_rows: of the shard. A file that names other rows is ignored, as is one that no rank writes.
            known: ranks whose spools are on this machine and say the same; they are left out.

        Raises:
            OSError: the store cannot be read.
        """
        for name in self._names():
            rank = name.rpartition(".")[2]
            if rank in known:
                continue
            with suppress(FileNotFoundError, RunError, ValueError):
                attempts = build(_Attempts, load(self._store.read(name)))
                if attempts.fits(num_rows):
                    yield from attempts.failed
                    for row in attempts.active if self._is_dead(rank) else ():
                        yield FailedAttempt(row, KILLED_OR_LOST, "crash", alone=len(attempts.active) == 1)

    def remove_all(self) -> None:
        """Remove the files of all ranks for the shard, which is committed."""
        for name in self._names():
            self._store.remove(name)

    def _names(self) -> list[str]:
        names = (name for name in self._store.names(ATTEMPTS) if name.rpartition(".")[0] == self._shard)
        return [f"{ATTEMPTS}/{name}" for name in names]

    def _write(self) -> None:
        content = {"active": self._attempts.active, "failed": [vars(attempt) for attempt in self._attempts.failed]}
        self._store.replace(self._own, json.dumps(content).encode())
