"""The worker processes of one rank: what they deliver, and a watch over those that die or hang.

DataLoader notices a dead worker only after nothing has come for a while, and a worker that hangs never. Nor does it
notice a death while it reads from the workers' common pipe the message that the dead worker has not finished. A thread
of the rank, the watchdog, notices all of these.
"""

import multiprocessing
import os
import signal
import threading
import time
from contextlib import suppress
from typing import Any, NamedTuple

from torch.utils.data import DataLoader

from datamodules.errors import EnvironmentFailure
from datamodules.loading.batch import Batch
from datamodules.loading.tickets import LocalTickets, Tickets
from datamodules.loading.worker_progress import ActiveItem, WorkerProgress

CHECK_SECONDS = 0.5  # interval of the checks whether all workers live
_START_SECONDS = 60.0  # enough for workers to import their modules and make their transforms
_DEATH_SECONDS = 2.0  # a broken message comes this much before its worker's exit code, at most


class WorkerDied(Exception):
    """A worker ended before its work was done."""


class CrashedItem(NamedTuple):
    """An item that was active in a worker that died.

    Attributes:
        item: which one.
        reason: how the worker died.
        reason_class: `crash` or `timeout`.
    """

    item: ActiveItem
    reason: str
    reason_class: str


class Workers:
    """The workers of a DataLoader, until `end`; they are started here.

    Args:
        dataloader: its dataset takes tickets, and marks the item that it reads in `progress`.
        progress: progress of its workers; None: it has no workers, and this process does their work.
        timeout_seconds: a worker that makes no progress with its item for this long is killed.
    """

    def __init__(self, dataloader: DataLoader[Batch], progress: WorkerProgress | None, timeout_seconds: float) -> None:
        others = set(multiprocessing.active_children())
        self._batches: Any = iter(dataloader)
        self._processes: list[Any] = [child for child in multiprocessing.active_children() if child not in others]
        self._progress, self._timeout_seconds = progress, timeout_seconds
        self._first_dead: set[int] = set()  # process ids; the watchdog kills the other workers after these died
        self._timed_out: set[int] = set()  # process ids of workers that the watchdog has killed
        self._killing, self._killed = threading.Lock(), False
        self._ending = threading.Event()
        if progress:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def next(self) -> Batch:
        """Wait for the next batch of any worker and return it.

        Raises:
            WorkerDied: a worker died; see `deaths`.
            EnvironmentFailure: a worker raised it, or none delivers a batch though none is at work.
        """
        started = time.monotonic()
        while True:
            if self._dead():
                raise WorkerDied
            try:
                batch: Batch = next(self._batches)
                return batch
            except EnvironmentFailure as error:  # DataLoader puts the worker's traceback before its message
                raise EnvironmentFailure(str(error).strip().rpartition("EnvironmentFailure: ")[2]) from error
            except RuntimeError as error:  # only their words distinguish DataLoader's own failures
                if "exited unexpectedly" not in str(error) and "timed out after" not in str(error):
                    raise
            except (OSError, EOFError):  # a worker died before it had sent a whole message, or its shared memory
                if not self._is_one_dead_soon():
                    raise
            self._refuse_standstill(time.monotonic() - started)

    def deaths(self) -> tuple[list[int], list[CrashedItem]]:
        """Return the exit codes of the workers that died, and the items that were active in them."""
        assert self._progress is not None
        dead = self._dead()
        if self._first_dead:  # the others were killed by the watchdog, so their items did not cause it
            dead = {pid: code for pid, code in dead.items() if pid in self._first_dead}
        crashed = []
        for item in self._progress.read():
            if item.pid in dead:
                if item.pid in self._timed_out and dead[item.pid] == -signal.SIGKILL:
                    crashed.append(CrashedItem(item, f"timed out after {self._timeout_seconds:g} s", "timeout"))
                else:
                    crashed.append(CrashedItem(item, _cause_of_death(dead[item.pid]), "crash"))
        return sorted(dead.values()), crashed

    def end(self, tickets: Tickets | LocalTickets, at_once: bool) -> None:
        """End all workers: when their queue is empty, or `at_once`, by killing them."""
        self._ending.set()
        if at_once or self._dead():
            self._kill_all()
        for _ in self._processes:
            tickets.put(None)
        del self._batches  # DataLoader's iterator waits for its workers when it is deleted

    def _dead(self) -> dict[int, int]:
        """Return the exit codes of the workers that have ended, by process id."""
        return {worker.pid: worker.exitcode for worker in self._processes if worker.exitcode is not None}

    def _is_one_dead_soon(self) -> bool:
        deadline = time.monotonic() + _DEATH_SECONDS
        while not self._dead() and time.monotonic() < deadline:
            time.sleep(0.02)
        return bool(self._dead())

    def _refuse_standstill(self, seconds: float) -> None:
        if seconds > _START_SECONDS + self._timeout_seconds and self._progress and not self._progress.read():
            raise EnvironmentFailure(
                f"no worker has delivered anything for {seconds:.0f} s, and none is at work on an item. Is /dev/shm "
                "full (df /dev/shm; Docker: --shm-size), or do they not start? Finished work is safe. Fix the problem "
                "and rerun the same command"
            )

    def _watch(self) -> None:
        """Kill workers that time out, and all workers once one is dead. Runs in the watchdog thread."""
        assert self._progress is not None
        while not self._ending.wait(min(CHECK_SECONDS, self._timeout_seconds / 4)):
            for item in self._progress.read():
                if item.seconds > self._timeout_seconds and item.pid not in self._timed_out:
                    self._timed_out.add(item.pid)
                    _kill(item.pid)
            gone = {worker.pid for worker in self._processes if not _exists(worker.pid)}
            # A death that was seen at the last check, and the rank has not ended its workers since: it is blocked on a
            # message that nobody will finish. Ending all writers of the pipe ends its read.
            if self._first_dead:
                self._kill_all()
            self._first_dead = self._first_dead or gone

    def _kill_all(self) -> None:
        """Kill all workers, and end a read of their common pipe."""
        with self._killing:
            if not self._killed and self._processes:
                for worker in self._processes:
                    _kill(worker.pid)
                # A read ends only when no process has the writing end open, and this process has a copy of it.
                self._batches._worker_result_queue._writer.close()
                # A worker may have been killed while it held the lock of the event that DataLoader shares with it. Any
                # process may release it; DataLoader would wait for it for ever.
                lock = self._batches._workers_done_event._cond._lock
                lock.acquire(block=False)
                lock.release()
            self._killed = True


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):  # it has ended by itself
        os.kill(pid, signal.SIGKILL)


def _cause_of_death(exitcode: int) -> str:
    if exitcode == -signal.SIGKILL:  # not by the watchdog
        return "its process was killed (SIGKILL: out of memory?)"
    return f"crashed: {signal.Signals(-exitcode).name if exitcode < 0 else f'exit status {exitcode}'}"
