"""The worker processes of one rank: their tickets, what they deliver, and a watch over those that die or hang.

DataLoader notices a dead worker only when nothing has come for a while, not at all while it reads half a message that
the worker has left in their common pipe, and a worker that hangs never. The watchdog, a thread, does.
"""

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.context import BaseContext
from typing import Any

from torch.utils.data import DataLoader

from datamodules.errors import EnvironmentFailure
from datamodules.loading.frames import Batch, Ticket
from datamodules.loading.worker_progress import Stamp, Stamps

CHECK_SECONDS = 0.5  # whether all workers live
_START_SECONDS = 60.0  # workers import, and make their transforms
_BURIAL_SECONDS = 2.0  # until a dead process is known to be dead


class WorkerDied(Exception):
    """A worker ended that was to go on."""


class LocalTickets(queue.SimpleQueue[Ticket | None]):
    """Tickets for the process itself."""

    def take_back(self) -> Iterator[Ticket]:
        """All that nobody has taken."""
        with suppress(queue.Empty):
            while ticket := self.get_nowait():
                yield ticket


class Tickets:
    """Tickets for worker processes: like multiprocessing's SimpleQueue, but they can be taken back."""

    def __init__(self, context: BaseContext) -> None:
        self._reader, self._writer = context.Pipe(duplex=False)
        self._reading = context.Lock()

    def put(self, ticket: Ticket | None) -> None:
        """For any worker; None for one that is to end."""
        self._writer.send(ticket)

    def get(self) -> Ticket | None:
        """Wait for the next one."""
        with self._reading:
            ticket: Ticket | None = self._reader.recv()
        return ticket

    def take_back(self) -> Iterator[Ticket]:
        """All that nobody has taken."""
        if self._reading.acquire(timeout=0.1):  # else a worker waits for one, so there is none
            try:
                while self._reader.poll():
                    yield self._reader.recv()
            finally:
                self._reading.release()


class Workers:
    """Workers that run until `end`; made by iterating a DataLoader.

    Args:
        dataloader: whose dataset takes tickets and sets stamps.
        stamps: of its workers; None: it has none, and this process does their work.
        timeout_seconds: a worker that makes no progress with its item for so long is killed.
    """

    def __init__(self, dataloader: DataLoader[Batch], stamps: Stamps | None, timeout_seconds: float) -> None:
        others = set(multiprocessing.active_children())
        self._batches: Any = iter(dataloader)
        self._processes: list[Any] = [child for child in multiprocessing.active_children() if child not in others]
        self._stamps, self._timeout_seconds = stamps, timeout_seconds
        self._first_dead: set[int] = set()  # those the watchdog kills after them are innocent
        self._overdue: set[int] = set()
        self._killing, self._killed = threading.Lock(), False
        self._ending = threading.Event()
        if stamps:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def next(self) -> Batch:
        """The next slice of any worker.

        Raises:
            WorkerDied: one has; see `deaths`.
            EnvironmentFailure: a worker says so, or none delivers though none is at work.
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
            except RuntimeError as error:
                if "exited unexpectedly" not in str(error) and "timed out after" not in str(error):
                    raise
            except (OSError, EOFError):  # the rest of a message, or the memory it names, went with its worker
                if not self._is_one_dead_soon():
                    raise
            self._refuse_standstill(time.monotonic() - started)

    def deaths(self) -> tuple[list[int], list[tuple[Stamp, str, str]]]:
        """Exit codes of the workers that have died, and what they active: (stamp, reason, class of the failure)."""
        assert self._stamps is not None
        dead = self._dead()
        if self._first_dead:
            dead = {pid: code for pid, code in dead.items() if pid in self._first_dead}
        charged = []
        for stamp in self._stamps.read():
            if stamp.pid in dead:
                overdue = stamp.pid in self._overdue and dead[stamp.pid] == -signal.SIGKILL
                reason = f"timed out after {self._timeout_seconds:g} s" if overdue else _death(dead[stamp.pid])
                charged.append((stamp, reason, "timeout" if overdue else "crash"))
        return sorted(dead.values()), charged

    def end(self, tickets: Tickets | LocalTickets, at_once: bool) -> None:
        """End all workers: those that have nothing in hand when they like, or all `at_once`."""
        self._ending.set()
        if at_once or self._dead():
            self._kill()
        for _ in self._processes:
            tickets.put(None)
        del self._batches  # DataLoader's own end: it waits for its workers

    def _dead(self) -> dict[int, int]:
        """Exit codes of the workers that have ended, by process id."""
        return {worker.pid: worker.exitcode for worker in self._processes if worker.exitcode is not None}

    def _is_one_dead_soon(self) -> bool:
        deadline = time.monotonic() + _BURIAL_SECONDS
        while not self._dead() and time.monotonic() < deadline:
            time.sleep(0.02)
        return bool(self._dead())

    def _refuse_standstill(self, seconds: float) -> None:
        if seconds > _START_SECONDS + self._timeout_seconds and self._stamps and not self._stamps.read():
            raise EnvironmentFailure(
                f"no worker has delivered anything for {seconds:.0f} s, and none is at work on an item. Is /dev/shm "
                "full (df /dev/shm; Docker: --shm-size), or do they not start? Finished work is safe. Fix the problem "
                "and rerun the same command"
            )

    def _watch(self) -> None:
        assert self._stamps is not None
        while not self._ending.wait(min(CHECK_SECONDS, self._timeout_seconds / 4)):
            for stamp in self._stamps.read():
                if stamp.seconds > self._timeout_seconds and stamp.pid not in self._overdue:
                    self._overdue.add(stamp.pid)
                    _kill(stamp.pid)
            gone = {worker.pid for worker in self._processes if not _exists(worker.pid)}
            if self._first_dead:  # and the rank has not noticed: it reads what will never come to an end
                self._kill()
            self._first_dead = self._first_dead or gone

    def _kill(self) -> None:
        """Kill all workers, and end what is read of them."""
        with self._killing:
            if not self._killed and self._processes:
                for worker in self._processes:
                    _kill(worker.pid)
                self._batches._worker_result_queue._writer.close()  # this process's copy of their end of the pipe
            self._killed = True


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):  # it has died by itself
        os.kill(pid, signal.SIGKILL)


def _death(exitcode: int) -> str:
    if exitcode == -signal.SIGKILL:  # not by the watchdog
        return "its process was killed (SIGKILL: out of memory?)"
    return f"crashed: {signal.Signals(-exitcode).name if exitcode < 0 else f'exit status {exitcode}'}"
