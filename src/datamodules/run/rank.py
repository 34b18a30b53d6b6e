"""A rank: the part of one process in a run. It leases shards, spools their results, and commits them.

Which shard comes next, decides its `Schedule`. Of two ranks on one shard the one that commits first wins, and the other
drops its work (`Rank.abandon_committed`).

Its heartbeats say what a rank is doing, from which any process can show the state of the whole run (`activity.py`).
"""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from datamodules.corpus import Item
from datamodules.errors import ConfigError, EnvironmentFailure
from datamodules.run.activity import Activity, mean_and_peak
from datamodules.run.attempts import FailedAttempt, FaultFile, cause_of_death
from datamodules.run.commit import commit, finalize_all
from datamodules.run.failure_limit import FailureWatch, Tolerance
from datamodules.run.folder import Run
from datamodules.run.leases import Leases
from datamodules.run.open_shard import OpenShard
from datamodules.run.plan import Shard
from datamodules.run.record import Timing
from datamodules.run.result import Result
from datamodules.run.schedule import Schedule
from datamodules.run.shared_attempts import SharedAttempts
from datamodules.samples.content import Content

_SYNC_SECONDS = 20.0  # between fsyncs: a machine that crashes loses at most so much spooled work

_TOLERANCE = Tolerance()


class Rank:
    """The part of this process in `run`: a context manager that writes heartbeats while it is open.

    Args:
        run: the run, or a retry.
        only: see `Schedule`.
        stale_seconds: see `Leases`.
        position: see `Schedule`.
        measure: returns `Activity.machine`; called at every heartbeat. Records keep the mean and peak of its figures.
        tolerance: attempts, failures and seconds after which an item, the run or this process is given up.
        device: model of this rank's device, recorded in tables and records.

    Attributes:
        name: of this rank.
        activity: what this rank is doing, for others to read.
        open: the open shards by number.
        num_committed: shards that this rank has committed.
        on_result: called with the name of the shard, the item and its result whenever this rank has finished an item.
        stopping: the signal that asked this rank to stop; None: none has. What it has spooled is kept.
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
        run.store.prepare()
        self.leases = Leases(run.store, stale_seconds)
        self._schedule = Schedule(run, self.leases, only, position)
        self.name = self.leases.identity.rank
        self.activity = Activity(self.name, os.uname().nodename, time.time())
        self.leases.activity = vars(self.activity)
        self.open: dict[int, OpenShard] = {}
        self.num_committed = 0
        self.on_result: Callable[[str, Item, Result], None] = lambda shard, item, result: None
        self.stopping: int | None = None
        self.tolerance = tolerance
        self._failures = FailureWatch(run, tolerance.limit)
        self._cost = 0.0  # see `Activity.cost`
        self._active: OpenShard | None = None
        self._scratch: Path | None = None
        self._measure, self._device = measure, device
        self._failure: tuple[float, OSError] | None = None  # of the heartbeat: since when, and the first error
        self._closing = threading.Event()
        self._last_sync = time.monotonic()

    def __enter__(self) -> "Rank":
        self._fault = FaultFile(self.run.work / "ranks" / f"{self.name}.fault", self.tolerance.extract_timeout_seconds)
        try:
            finalize_all(self.run)
            self._schedule.begin()
        except OSError as error:
            raise self._no_output(error) from error
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
        with suppress(OSError):  # other ranks take over from a claim that stays, once its heartbeat is stale
            if self._scratch:
                shutil.rmtree(self._scratch, ignore_errors=True)
            self.leases.close()

    def lease(self) -> OpenShard | None:
        """Lease the next shard: an unclaimed one, else a dead rank's, else a slow rank's as a backup.

        Returns:
            The shard, now in `open`; None if there is none at present: others hold them, or all are committed.

        Raises:
            EnvironmentFailure: the output folder cannot be read or written to.
        """
        try:
            claimed = (self._open(shard) for shard in self._schedule.claims(self.open))
            return next((opened for opened in claimed if opened), None)
        except OSError as error:
            raise self._no_output(error) from error

    def add(self, number: int, result: Result, members: Mapping[str, Content]) -> None:
        """Spool the result of one row of an open shard, and commit the shard if all its rows have results.

        Does nothing if the shard is not open any more or the row has a result. The result's `attempts` becomes one more
        than the row's failed attempts.

        Args:
            number: of the shard.
            result: of the row.
            members: the files of its sample by ending; empty if it failed.

        Raises:
            EnvironmentFailure: the output folder cannot be written to.
            TooManyFailures: more items have failed than `tolerance.limit` allows.
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
        self.add_seconds(number, "write", time.monotonic() - started)

    def add_seconds(self, number: int, phase: str, seconds: float) -> None:
        """Add to the time that this rank has spent in `phase`, on the shard `number` if that is open.

        Args:
            number: of the shard.
            phase: one of `activity.PHASES`.
            seconds: to add.
        """
        self.activity.seconds[phase] += seconds
        if opened := self.open.get(number):
            opened.phases[phase] += seconds

    def add_frame(self, number: int, row: int, frame_idx: int, num_frames: int) -> None:
        """Count an extracted frame of an item in progress. Does nothing if the shard is not open any more.

        Args:
            number: of the shard.
            row: of the item.
            frame_idx: index of the frame; those before it are extracted, too.
            num_frames: number of frames that are to be taken of the item.
        """
        if opened := self.open.get(number):
            opened.extracted[row] = frame_idx + 1, num_frames
            self.activity.frames += 1
            self._cost += opened.cost(row, 1, num_frames)

    def add_failed_attempt(self, number: int, row: int, reason: str, reason_class: str) -> bool:
        """Charge an item with a failed attempt. If it has no attempts left, the item fails.

        Args:
            number: of the open shard.
            row: of the item.
            reason: why the attempt failed.
            reason_class: see `FailedAttempt`.

        Returns:
            Whether the item is to be tried again.

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
        """Return how many attempts at the item in `row` of the open shard `number` have failed; 0 if it is not open."""
        opened = self.open.get(number)
        return len(opened.spool.failed_attempts.get(row, ())) if opened is not None else 0

    def is_suspect(self, number: int, rows: Sequence[int]) -> bool:
        """Return whether one of these items may have crashed a process that handled several of them at once."""
        opened = self.open.get(number)
        return opened is not None and any(
            not attempt.alone for row in rows for attempt in opened.spool.failed_attempts.get(row, ())
        )

    def mark_active(self, number: int, rows: Sequence[int]) -> None:
        """Record that this process is working on `rows` of the open shard `number`, and start the timeout.

        If the process dies, or works on them for longer than `tolerance.extract_timeout_seconds`, which ends it, the
        rank that takes the shard over charges these items with a failed attempt. Does nothing once the rank is
        stopping: whoever asked it to stop will kill it soon, and that is no item's fault.

        Raises:
            EnvironmentFailure: the output folder cannot be written to.
        """
        if self.stopping:
            return
        opened = self.open.get(number)
        if opened is not None and opened is self._active and opened.spool.active == list(rows):
            self._fault.arm()  # it goes on with the same items
            return
        self._active = opened
        if opened is not None:
            with self._writing(opened):
                opened.spool.mark_active(rows)
        self._fault.arm()

    def mark_idle(self) -> None:
        """Record that this process works on no item, and stop the timeout."""
        self._fault.disarm()
        active, self._active = self._active, None
        if active and active.shard.number in self.open:  # if not, another rank has committed it
            with self._writing(active):
                active.spool.mark_active(())

    def attribute_crash(self, error: BaseException) -> str:
        """Record that `error` ends this process, so that the active items are charged with a failed attempt.

        Returns:
            The keys of up to 4 active items, separated by commas, or `no item`.
        """
        self._fault.disarm()
        self._fault.write(" ".join(f"{type(error).__name__}: {error}".split())[:200])
        active, self._active = self._active, None  # so that a later `mark_idle` does not clear what the spool records
        return ", ".join(active.items[row].key for row in active.spool.active[:4]) if active else "no item"

    @property
    def scratch(self) -> Path:
        """A temporary folder in the run folder, created at first use and removed when the rank is closed.

        Raises:
            EnvironmentFailure: it cannot be created.
        """
        if self._scratch is None:
            folder = self.run.work / "scratch" / self.name
            try:
                folder.mkdir(parents=True)
            except OSError as error:
                raise self._no_output(error) from error
            self._scratch = folder
        return self._scratch

    @contextmanager
    def _writing(self, opened: OpenShard) -> Iterator[None]:
        """Turn an OSError of the block into EnvironmentFailure, unless another rank has committed the shard."""
        try:
            yield
        except OSError as error:
            if not self.run.is_committed(opened.shard.name):
                raise self._no_output(error) from error
            self.abandon_committed()  # the rank that was faster has removed this rank's spool

    def _keep(self, opened: OpenShard, result: Result, members: Mapping[str, Content]) -> None:
        attempt = result = replace(result, device=self._device)
        if result.reason is not None and result.row in opened.before:  # a failed retry must not lose a good sample
            before = opened.before[result.row]
            result, members = before.result, before.members()
        opened.spool.append(result, members)
        self._cost += opened.cost(result.row) - opened.cost(result.row, *opened.extracted.pop(result.row, (0, 1)))
        self.on_result(opened.shard.name, opened.items[result.row], attempt)
        self.activity.items += 1
        self.activity.failed += result.reason is not None
        if result.reason is not None:
            num_failed = sum(len(shard.failed) for shard in self.open.values())
            num_done = sum(len(shard.spool.results) for shard in self.open.values())
            self._failures.check(num_failed, num_done, result.reason)

    def _give_up(self, opened: OpenShard) -> None:
        """Spool a failure for every item that has no attempts left."""
        for failure in list(opened.given_up(self.tolerance.max_attempts)):
            self._keep(opened, failure, {})

    def sync(self) -> None:
        """fsync the open spools, so that their results survive a crash of the machine."""
        for opened in self.open.values():
            opened.spool.sync()
        self._last_sync = time.monotonic()

    def abandon_committed(self) -> None:
        """Drop the open shards that another rank has committed in the meantime."""
        for number, opened in list(self.open.items()):
            if self.run.is_committed(opened.shard.name):
                del self.open[number]
                opened.spool.close()
                opened.spool.remove_all()
                self.leases.clear(opened.shard.name)

    def finished(self) -> bool:
        """Return whether every shard that this rank may lease is committed and finalized.

        Raises:
            EnvironmentFailure: the output folder cannot be read or written to.
        """
        try:
            committed = self.run.committed()
            return all(shard.name in committed for shard in self._schedule.shards) and finalize_all(self.run)
        except OSError as error:
            raise self._no_output(error) from error

    def _open(self, shard: Shard) -> OpenShard | None:
        """Open a claimed shard; None if it is or can be committed without more work."""
        if self.run.is_committed(shard.name):  # after it was listed and before it was claimed
            self.leases.clear(shard.name)
            return None
        holders, shared = self.leases.earlier_holders(shard.name), None
        if self.leases.generation(shard.name) and not self.run.store.shares_work:
            shared = SharedAttempts(self.run.store, shard.name, self.name, self.leases.is_dead)
        opened = OpenShard(self.run, shard, self.name, self._death, shared, holders)
        self.open[shard.number] = opened
        self._give_up(opened)
        if opened.is_complete:  # its last holder died just before the commit
            self._commit(opened)
            return None
        return opened

    def _commit(self, opened: OpenShard) -> None:
        seconds = time.monotonic() - opened.since
        try:
            machine = mean_and_peak(opened.measured or [self.activity.machine])  # a short shard has no heartbeat
            phases = {phase: round(spent, 3) for phase, spent in opened.phases.items()}
            timing = Timing(opened.began, self.activity.workers, phases, opened.holders)
            won = commit(self.run, opened.shard, opened.spool, self.name, seconds, machine, timing)
        except OSError:
            if not self.run.is_committed(opened.shard.name):
                raise
            won = False  # the rank that was faster has removed this rank's files
            opened.spool.close()
        self._schedule.seconds_per_row.append(seconds / len(opened.items))
        self.num_committed += won
        del self.open[opened.shard.number]
        self.leases.clear(opened.shard.name)

    def _death(self, rank: str) -> tuple[str, str] | None:
        """Return (reason, class) if the process of `rank` died; None if it is alive, or its machine was lost.

        No item is charged with the loss of a machine (but see `SharedAttempts`). So a rank of another machine counts as
        died only if its process left a fault file, and a rank of this machine if its process has ended.
        """
        fault = self.run.work / "ranks" / f"{rank}.fault"
        has_fault = fault.exists() and fault.stat().st_size > 0
        if self.leases.is_dead(rank) and (has_fault or self.leases.has_died_here(rank)):
            return cause_of_death(fault)
        return None

    def _beat(self) -> None:
        while True:
            try:
                self.publish()
                self._failure = None
            except OSError as error:
                self._failure = self._failure or (time.monotonic(), error)
            if self._closing.wait(self.run.store.beat_seconds):
                return

    def publish(self) -> None:
        """Write a heartbeat with this rank's activity, for other processes to read."""
        self.activity.machine = self._measure()
        self.activity.updated, self.activity.cost = time.time(), round(self._cost)
        for opened in list(self.open.values()):
            opened.measured.append(self.activity.machine)
        self.activity.shards = {opened.shard.name: opened.progress() for opened in list(self.open.values())}
        self.leases.beat()

    def _check(self) -> None:
        """Raise EnvironmentFailure if heartbeats have failed for longer than the store's patience."""
        if self._failure and time.monotonic() - self._failure[0] > self.run.store.patience_seconds:
            raise self._no_output(self._failure[1])

    def _no_output(self, error: OSError) -> EnvironmentFailure:
        try:
            committed = f"{len(self.run.committed())} of {len(self.run.plan.shards)} shards are committed and safe"
        except OSError:  # it cannot be read either
            committed = "Committed shards are safe"
        return EnvironmentFailure(
            f"the output folder {self.run.store} cannot be written to: {error.strerror or error}. {committed}. "
            "Fix the problem and rerun the same command"
        )
