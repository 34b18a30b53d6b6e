"""A rank: one process's part in a run. It leases shards one after another, spools their results, and commits them.

Each rank tells what it is doing in `work/ranks/{rank}.json`, replaced every two seconds, from which any process can
draw the state of the whole run (`activity.py`).
"""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from datamodules.errors import ConfigError, EnvironmentFailure
from datamodules.run.activity import Activity, mean_and_peak, read_activity
from datamodules.run.attempts import FailedAttempt, FaultFile, cause_of_death
from datamodules.run.commit import commit, finalize_all
from datamodules.run.failure_limit import FailureWatch, Tolerance
from datamodules.run.files import write_whole
from datamodules.run.folder import Run
from datamodules.run.leases import Claim, Leases
from datamodules.run.open_shard import OpenShard
from datamodules.run.plan import Shard
from datamodules.run.result import Result
from datamodules.samples.content import Content

_BEAT_SECONDS = 2.0
_SILENT_SECONDS = 10.0  # a heartbeat that fails may recover so long
_SYNC_SECONDS = 20.0  # a machine that crashes loses at most this much of what its ranks had spooled
_BACKUP_AFTER_SECONDS = 5.0  # younger leases get no backup: too little is known of their speed
_UNKNOWN_SECONDS = 30.0  # what a rank that has committed nothing yet takes itself to need for a shard


_TOLERANCE = Tolerance()


class Rank:
    """This process's part in `run`: a context manager that beats while it is open.

    Args:
        run: the run.
        only: (i, n): lease only shards whose number is i modulo n. For people who split by hand; the plan is the same.
        stale_seconds: see `Leases`.
        position: where in the plan to begin, 0 to 1: ranks that begin apart seldom want the same shard.
        measure: called at every beat for `Activity.machine`, and what records say of the machine.
        tolerance: see `Tolerance`.
        device: model of this rank's device, which tables and records name.
    """

    def __init__(
        self,
        run: Run,
        only: tuple[int, int] | None = None,
        stale_seconds: float = 60.0,
        position: float = 0.0,
        measure: Callable[[], dict[str, Any]] = dict,
        tolerance: Tolerance = _TOLERANCE,
        device: str = "cpu",
    ) -> None:
        if only and not 0 <= only[0] < only[1]:
            raise ConfigError(f"only = {only[0]}/{only[1]}: give i/n with 0 <= i < n")
        self.run = run
        self.leases = Leases(run.work, stale_seconds)
        self.name = self.leases.identity.rank
        self.activity = Activity(self.name, os.uname().nodename, time.time())
        self.open: dict[int, OpenShard] = {}
        self.num_committed = 0
        self.stopping: int | None = None  # the signal that asked this rank to stop; what it has spooled is kept
        self.tolerance = tolerance
        self._failures = FailureWatch(run, tolerance.limit)
        self._active: OpenShard | None = None
        self._scratch: Path | None = None
        self._mine = [s for s in run.plan.shards if not only or s.number % only[1] == only[0]]
        self._todo: list[Shard] = []
        self._position, self._measure, self._device = position, measure, device
        self._pace: list[float] = []  # seconds per row of the shards this rank has committed
        self._failure: tuple[float, OSError] | None = None  # of the heartbeat, and since when
        self._closing = threading.Event()
        self._publishing = threading.Lock()  # what the heartbeat began to tell must not replace what came after
        self._last_sync = time.monotonic()

    def __enter__(self) -> "Rank":
        self._fault = FaultFile(self.run.work / "ranks" / f"{self.name}.fault", self.tolerance.extract_timeout_seconds)
        try:
            finalize_all(self.run)
            self._list_todo()
        except OSError as error:
            raise self._no_output(error) from error
        self._rotate(int(self._position * len(self._todo)))
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        self._thread.join()
        with suppress(EnvironmentFailure):
            self.mark_idle()
        self._fault.close()
        for opened in self.open.values():
            opened.spool.close()
        with suppress(OSError):  # what cannot be removed now, others take for dead
            if self._scratch:
                shutil.rmtree(self._scratch, ignore_errors=True)
            self.leases.close()
            self._activity_path.unlink(missing_ok=True)

    def lease(self) -> OpenShard | None:
        """The next shard to work on; None if there is none now (others hold them, or all is done: `finished`).

        Raises:
            EnvironmentFailure: the output folder cannot be read or written to.
        """
        try:
            return self._lease_unclaimed() or self._lease_from_others()
        except OSError as error:
            raise self._no_output(error) from error

    def _lease_unclaimed(self) -> OpenShard | None:
        tried: set[str] = set()  # once a call: a file server's listings may be old, and name the same shard for long
        while self._todo or self._list_todo(tried):
            shard = self._todo.pop(0)
            tried.add(shard.name)
            if not self.leases.claim(shard.name):
                self._list_todo(tried)
                if self._todo:
                    self._rotate(self.leases.random.randrange(len(self._todo)))
            elif opened := self._open(shard):
                return opened
        return None

    def add(self, number: int, result: Result, members: Mapping[str, Content]) -> None:
        """Spool the result of a row of open shard `number`; commits the shard when it was the last one missing.

        Failed attempts count as attempts, with this one.

        Raises:
            EnvironmentFailure: the output folder cannot be written to.
            TooManyFailures: with this one, more items have failed than is tolerated.
        """
        opened = self.open.get(number)
        if opened is None or result.row in opened.spool.results:
            return
        started = time.monotonic()
        self._check()
        with self._writing(opened):
            self._keep(opened, replace(result, attempts=1 + self.num_failed_attempts(number, result.row)), members)
            if started - self._last_sync > _SYNC_SECONDS:
                self.sync()
            if opened.is_complete:
                self._commit(opened)
        self.activity.add_seconds("write", time.monotonic() - started)

    def add_failed_attempt(self, number: int, row: int, reason: str, reason_class: str) -> bool:
        """Charge an item with a failed attempt; it fails if that was the last. Whether it is to be tried again.

        Raises:
            EnvironmentFailure, TooManyFailures: see `add`.
        """
        opened = self.open.get(number)
        if opened is None or row in opened.spool.results:
            return False
        with self._writing(opened):
            opened.spool.add_failed_attempt(FailedAttempt(row, reason, reason_class))
            self._give_up(opened)
            if opened.is_complete:
                self._commit(opened)
        return number in self.open and row not in opened.spool.results

    def num_failed_attempts(self, number: int, row: int) -> int:
        """Attempts at an item of open shard `number` that have failed."""
        opened = self.open.get(number)
        return len(opened.spool.failed_attempts.get(row, ())) if opened is not None else 0

    def is_suspect(self, number: int, rows: Sequence[int]) -> bool:
        """Whether a process died of one of these items, and it is not known of which."""
        opened = self.open.get(number)
        return opened is not None and any(
            not attempt.alone for row in rows for attempt in opened.spool.failed_attempts.get(row, ())
        )

    def mark_active(self, number: int, rows: Sequence[int]) -> None:
        """This process itself goes on with these items: if it dies, or takes too long, they are charged.

        Raises:
            EnvironmentFailure: see `add`.
        """
        opened = self.open.get(number)
        if opened is not None and opened is self._active and opened.spool.active == list(rows):
            return
        self._active = opened
        if opened is not None:
            with self._writing(opened):
                opened.spool.mark_active(rows)
        self._fault.arm()

    def mark_idle(self) -> None:
        """What was active is done with, well or badly."""
        self._fault.disarm()
        active, self._active = self._active, None
        if active and active.shard.number in self.open:  # else another rank has committed it
            with self._writing(active):
                active.spool.mark_active(())

    def attribute_crash(self, error: BaseException) -> str:
        """Leave word that this process ends because of `error`, such that what it touches is charged; their keys."""
        self._fault.disarm()
        self._fault.write(" ".join(f"{type(error).__name__}: {error}".split())[:200])
        active, self._active = self._active, None  # so `mark_idle` leaves it as it is
        return ", ".join(active.items[row].key for row in active.spool.active[:4]) if active else "no item"

    @property
    def scratch(self) -> Path:
        """A folder on the run's disk for what is needed no longer than this process; made when first asked for."""
        if self._scratch is None:
            self._scratch = self.run.work / "scratch" / self.name
            self._scratch.mkdir(parents=True)
        return self._scratch

    @contextmanager
    def _writing(self, opened: OpenShard) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self.run.is_committed(opened.shard.name):
                raise self._no_output(error) from error
            self.abandon_committed()  # the rank that was faster has removed this one's spool

    def _keep(self, opened: OpenShard, result: Result, members: Mapping[str, Content]) -> None:
        result = replace(result, device=self._device)
        if result.reason is not None and result.row in opened.before:
            before = opened.before[result.row]
            result, members = before.result, before.members()
        opened.spool.append(result, members)
        self.activity.items += 1
        self.activity.failed += result.reason is not None
        self.activity.frames += result.num_frames
        if result.reason is not None:
            mine = [len(o.failed) for o in self.open.values()], [len(o.spool.results) for o in self.open.values()]
            self._failures.check(sum(mine[0]), sum(mine[1]), result.reason)

    def _give_up(self, opened: OpenShard) -> None:
        for failure in list(opened.given_up(self.tolerance.max_attempts)):
            self._keep(opened, failure, {})

    def sync(self) -> None:
        """Make all that was spooled survive a crash of the machine."""
        for opened in self.open.values():
            opened.spool.sync()
        self._last_sync = time.monotonic()

    def abandon_committed(self) -> None:
        """Drop open shards that another rank has committed meanwhile."""
        for number, opened in list(self.open.items()):
            if self.run.is_committed(opened.shard.name):
                del self.open[number]
                opened.spool.close()
                self.leases.clear(opened.shard.name)

    def finished(self) -> bool:
        """Whether every shard that this rank may lease is committed, and in place.

        Raises:
            EnvironmentFailure: the output folder cannot be read or written to.
        """
        try:
            committed = self.run.committed()
            return all(shard.name in committed for shard in self._mine) and finalize_all(self.run)
        except OSError as error:
            raise self._no_output(error) from error

    def _open(self, shard: Shard) -> OpenShard | None:
        if self.run.is_committed(shard.name):  # between the listing and the claim
            self.leases.clear(shard.name)
            return None
        opened = OpenShard(self.run, shard, self.name, self._death)
        self.open[shard.number] = opened
        self._give_up(opened)
        if opened.is_complete:  # its holder died just before the commit
            self._commit(opened)
            return None
        return opened

    def _commit(self, opened: OpenShard) -> None:
        seconds = time.monotonic() - opened.since
        try:
            machine = mean_and_peak(opened.measured or [self.activity.machine])  # of a short one, what was last
            won = commit(self.run, opened.shard, opened.spool, self.name, seconds, machine)
        except OSError:
            if not self.run.is_committed(opened.shard.name):
                raise
            won = False  # the rank that was faster has removed this one's files
            opened.spool.close()
        self._pace.append(seconds / len(opened.items))
        self.num_committed += won
        del self.open[opened.shard.number]
        self.leases.clear(opened.shard.name)

    def _death(self, rank: str) -> tuple[str, str] | None:
        """Of the rank of that name, if it is dead; but a machine that was lost is no item's fault."""
        fault = self.run.work / "ranks" / f"{rank}.fault"
        has_told = fault.exists() and fault.stat().st_size > 0
        if self.leases.is_dead(rank) and (has_told or self.leases.has_died_here(rank)):
            return cause_of_death(fault)
        return None

    def _list_todo(self, tried: Set[str] = frozenset()) -> bool:
        """List anew what is neither committed nor claimed, nor `tried`; whether there is any."""
        claimed = self.leases.claimed() | tried
        committed = self.run.committed()  # after the claims, which are removed after the commit
        self._todo = [s for s in self._mine if s.name not in committed and s.name not in claimed]
        return bool(self._todo)

    def _rotate(self, places: int) -> None:
        self._todo = self._todo[places:] + self._todo[:places]

    def _lease_from_others(self) -> OpenShard | None:
        """Take over a dead rank's shard; or double the slowest open one, if this rank would finish it first."""
        claims = self.leases.list_claims()
        committed = self.run.committed()
        held = [
            (shard, claims[shard.name])
            for shard in self._mine
            if shard.name in claims and shard.name not in committed and shard.number not in self.open
        ]
        for shard, holders in held:
            if all(claim.dead for claim in holders) and self.leases.claim(shard.name, holders[-1].generation + 1):
                return self._open(shard)
        for shard, holders in sorted(held, key=lambda h: -self._seconds_left(h[1])):
            alive = [claim for claim in holders if not claim.dead]
            mine = sum(self._pace) / len(self._pace) * shard.num_items if self._pace else _UNKNOWN_SECONDS
            slow = not self.open and self._seconds_left(alive) > max(2 * mine, _BACKUP_AFTER_SECONDS)
            if len(alive) == 1 and slow and self.leases.claim(shard.name, holders[-1].generation + 1):
                return self._open(shard)
        return None

    def _seconds_left(self, holders: list[Claim]) -> float:
        """How long the fastest of `holders` will still need, by what it tells of itself."""
        left = []
        for claim in holders:
            activity = read_activity(self.run.work / "ranks" / f"{claim.holder.rank}.json") if claim.holder else None
            if not claim.dead and activity and claim.name in activity.shards:
                done, total, seconds = activity.shards[claim.name]
                seconds += max(0.0, time.time() - activity.updated)
                left.append(seconds * (total - done) / max(done, 0.5) if seconds > _BACKUP_AFTER_SECONDS else 0.0)
        return min(left, default=0.0)

    @property
    def _activity_path(self) -> Path:
        return self.run.work / "ranks" / f"{self.name}.json"

    def _beat(self) -> None:
        while True:
            try:
                self.leases.beat()
                self.publish()
                self._failure = None
            except OSError as error:
                self._failure = self._failure or (time.monotonic(), error)
            if self._closing.wait(_BEAT_SECONDS):
                return

    def publish(self) -> None:
        """Write this rank's activity for others to see."""
        with self._publishing:
            self.activity.machine = self._measure()
            now = time.monotonic()
            self.activity.updated = time.time()
            for opened in list(self.open.values()):
                opened.measured.append(self.activity.machine)
            self.activity.shards = {
                o.shard.name: (len(o.spool.results), len(o.items), round(now - o.since, 1))
                for o in list(self.open.values())
            }
            write_whole(self._activity_path, json.dumps(vars(self.activity)))

    def _check(self) -> None:
        if self._failure and time.monotonic() - self._failure[0] > _SILENT_SECONDS:
            raise self._no_output(self._failure[1])

    def _no_output(self, error: OSError) -> EnvironmentFailure:
        return EnvironmentFailure(
            f"the output folder {self.run.folder} cannot be written to: {error.strerror or error}. "
            f"{len(self.run.committed())} of {len(self.run.plan.shards)} shards are committed and safe; "
            "fix the problem and rerun the same command"
        )
