"""Machines, processes, tasks, the clock and the faults of a simulation.

A task is a greenlet: the main thread of a process, or its heartbeat. One task runs at a time. The choices decide what
happens before an operation on a file: nothing, a switch to another task, or a fault.
"""

import errno
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from greenlet import getcurrent, greenlet

from support.simulated.choices import CRASH, ERROR, FAULTS, FREEZE, KILL, LOST, STALL, SWITCH, UNSURE, Choices
from support.simulated.files import File, FileSystem, Folder, failure

OPERATION_SECONDS = 0.001
_STALLS = (8.0, 30.0)  # seconds; `stale_seconds` of the simulated ranks is 6
_ERRORS = (errno.EIO, errno.ENOSPC, errno.ESTALE)
_MOST_SECONDS = 5000.0
_MOST_STEPS = 30_000


class Killed(BaseException):
    """Raised in the tasks of a killed process, whose operations have no effect any more."""


class Broken(Exception):
    """Raised if a check of the run fails."""


class Machine:
    """A machine: its boot, and what it has cached as an NFS client, with the time until which it is valid."""

    def __init__(self, number: int) -> None:
        self.number, self.boot = number, 0
        self.names: dict[tuple[int, str], tuple[File | Folder | None, float]] = {}
        self.listings: dict[int, tuple[list[str], float]] = {}
        self.times: dict[int, tuple[int, float]] = {}

    @property
    def identity(self) -> str:
        """Name of the machine and its boot."""
        return f"machine{self.number}, boot {self.boot}"


class Process:
    """A process of a machine; `error` is the exception that ended it, or None."""

    def __init__(self, machine: Machine, pid: int) -> None:
        self.machine, self.boot, self.pid = machine, machine.boot, pid
        self.alive = True
        self.error: BaseException | None = None
        self.tasks: list[Task] = []
        self.opened: list[Any] = []  # of RawFile

    @property
    def name(self) -> str:
        """Name of the process in stories."""
        return f"rank{self.pid}"


class Task:
    """A thread of a process, which runs from the time `wake` on, and not before `frozen`; both in seconds."""

    def __init__(self, process: Process, name: str, run: Callable[[], None], hub: greenlet) -> None:
        self.process, self.name, self.wake, self.frozen = process, name, 0.0, 0.0
        self.waits_for: object = None
        self.greenlet = greenlet(run, hub)


class World:
    """The machines, files, tasks and clock of one interleaving.

    Args:
        choices: the random choices.
        cache_seconds: see `FileSystem`.
        num_machines: number of machines; 1 with a local file system.
        has_story: whether to record a story.

    Attributes:
        files: the file system.
        faults: number of faults by kind.
        num_steps: number of operations on files.
        calm: whether no more switches and faults happen.
        story: lines that say what happened.
        processes: all processes so far.
        crashed: called after a crashed machine has started again.
        current: the task that runs.
    """

    def __init__(
        self, choices: Choices, cache_seconds: float | None, num_machines: int, has_story: bool = False
    ) -> None:
        self.choices = choices
        self.files = FileSystem(cache_seconds, choices.choose)
        self.machines = [Machine(number) for number in range(num_machines)]
        self.faults: Counter[int] = Counter()
        self.num_steps = 0
        self.calm = False
        self.story: list[str] = []
        self.has_story = has_story
        self.processes: list[Process] = []
        self.crashed: Callable[[], None] = lambda: None
        self.current: Task
        self._tasks: list[Task] = []
        self._hub = getcurrent()
        self._crashing: Machine | None = None

    @property
    def now(self) -> float:
        """Simulated seconds since the start."""
        return self.files.now

    @property
    def is_nfs(self) -> bool:
        """Whether the files are on an NFS server."""
        return self.files.cache_seconds is not None

    @property
    def had_errors(self) -> bool:
        """Whether an operation on a file raised an error as a fault."""
        return bool(self.faults[ERROR] or self.faults[UNSURE])

    @property
    def process(self) -> Process:
        """The process whose task runs."""
        return self.current.process

    @property
    def machine(self) -> Machine:
        """The machine whose process runs."""
        return self.current.process.machine

    # Tasks

    def start(self, machine: Machine, function: Callable[[], None]) -> Process:
        """Start a process that calls `function`."""
        process = Process(machine, 1 + len(self.processes))
        self.processes.append(process)

        def run() -> None:
            try:
                function()
            except Broken:
                raise
            except Exception as error:  # noqa: BLE001 any error may end a process
                process.error = error
                self.log(f"{process.name} ends: {type(error).__name__}: {error}")
            self.kill(process)

        self.begin(process, "main", run)
        return process

    def begin(self, process: Process, name: str, run: Callable[[], None]) -> None:
        """Start a task of `process` that calls `run`."""

        def guarded() -> None:
            with suppress(Killed):
                run()
            self._tasks.remove(task)

        task = Task(process, name, guarded, self._hub)
        task.wake = self.now
        process.tasks.append(task)
        self._tasks.append(task)

    def run(self) -> None:
        """Run until every process has ended.

        Raises:
            Broken: the processes do not end within 5000 s and 30,000 operations.
        """
        while self._tasks:
            self._end_dead_tasks()
            ready = [task for task in self._tasks if task.wake <= self.now]
            if ready:
                task = ready[self.choices.choose(len(ready)) if len(ready) > 1 and not self.calm else 0]
                self._resume(task)
            elif self._tasks:
                self.files.now = min(task.wake for task in self._tasks)
            if self.now > _MOST_SECONDS or self.num_steps > _MOST_STEPS:
                raise Broken(f"no end after {self.now:.0f} s and {self.num_steps} operations")
        self._end_dead_tasks()

    def end(self) -> None:
        """Kill all processes, so that none of them acts in the next world."""
        for process in self.processes:
            self.kill(process)
        self._end_dead_tasks()

    def _resume(self, task: Task) -> None:
        self.current = task
        task.greenlet.switch()

    def _end_dead_tasks(self) -> None:
        """End the tasks of dead processes, and restart a machine that has crashed."""
        for task in [task for task in self._tasks if not task.process.alive]:
            self.current = task
            if task.greenlet:
                task.greenlet.throw(Killed)
            elif task in self._tasks:  # not started yet
                self._tasks.remove(task)
        if self._crashing:
            machine, self._crashing = self._crashing, None
            self.crash(machine)

    def crash(self, machine: Machine) -> None:
        """Start a machine again after a crash that ended its processes."""
        self.files.crash(machine)
        machine.boot += 1
        machine.names, machine.listings, machine.times = {}, {}, {}
        self.log(f"machine{machine.number} has started again")
        self.crashed()

    def pass_time(self) -> None:
        """Advance the clock so far that no cache is valid any more."""
        self.files.now += 100.0

    def pause(self, seconds: float, event: object = None) -> None:
        """Let other tasks run for `seconds`, or until `event` is set."""
        task = self.current
        if not task.process.alive:
            raise Killed
        task.wake, task.waits_for = self.now + seconds, event
        self._hub.switch()
        task.waits_for = None
        if not task.process.alive:
            raise Killed

    def wake(self, event: object) -> None:
        """Wake the tasks that wait for `event`."""
        for task in self._tasks:
            if task.waits_for is event:
                task.wake = max(self.now, task.frozen)

    def kill(self, process: Process, writes: bool = True) -> None:
        """End a process and close its files.

        Args:
            process: to end.
            writes: whether cached data still reaches an NFS server; not if the machine crashes.
        """
        process.alive = False
        opened, process.opened = process.opened, []
        for raw in opened:
            self.files.close(process.machine, raw.file, writes)

    # Operations and faults

    def step(self, what: str, where: str, changes: bool = False) -> int:
        """Let the choices decide what happens before an operation on a file.

        Args:
            what: name of the operation, for the story.
            where: path of the file.
            changes: whether the operation changes names, so that the loss of its reply matters.

        Returns:
            `LOST` or `UNSURE` if the operation is to end so; else 0.

        Raises:
            Killed: the process is dead.
            OSError: the operation fails.
        """
        task = self.current
        if not task.process.alive:
            raise Killed
        self.num_steps += 1
        self.files.now += OPERATION_SECONDS
        event = 0 if self.calm else self.choices.disturbance()
        if event == SWITCH:
            self._hub.switch()
            if not task.process.alive:
                raise Killed
            event = 0
        elif event:
            event = self._fault(event, what, where, changes)
        if self.has_story:
            self.log(f"{task.process.name} {task.name}: {what} {where.removeprefix('/run/')}")
        return event

    def _fault(self, fault: int, what: str, where: str, changes: bool) -> int:
        if fault in (LOST, UNSURE) and (not self.is_nfs or not changes):
            return 0
        self.faults[fault] += 1
        self.log(f"--- {FAULTS[fault]} of {self.process.name}, before: {what} {where.removeprefix('/run/')}")
        if fault in (STALL, FREEZE):
            self._stall(fault == FREEZE)
        elif fault == KILL:
            self.kill(self.process)
            raise Killed
        elif fault == CRASH:
            self._crashing = self.machine
            for process in self.processes:
                if process.machine is self.machine and process.alive:
                    self.kill(process, writes=False)
            raise Killed
        elif fault == ERROR:
            raise failure(_ERRORS[self.choices.choose(len(_ERRORS))], where)
        return fault if changes else 0

    def _stall(self, whole_process: bool) -> None:
        seconds = _STALLS[self.choices.choose(len(_STALLS))]
        self.log(f"    for {seconds:.0f} s")
        for task in self.process.tasks if whole_process else ():
            task.frozen = self.now + seconds
            task.wake = max(task.wake, task.frozen)
        self.pause(seconds)

    def log(self, line: str) -> None:
        """Add a line to the story."""
        if self.has_story:
            self.story.append(f"{self.now:9.3f} s  {line}")
