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

from support.simulated.bucket import Server
from support.simulated.choices import (
    CRASH,
    ERROR,
    FAULTS,
    FREEZE,
    KILL,
    LOST,
    PARTITION,
    STALL,
    SWITCH,
    UNSURE,
    Choices,
)
from support.simulated.files import Clock, File, FileSystem, Folder, failure

OPERATION_SECONDS = 0.001
STALE_SECONDS = {"folder": 6.0, "bucket": 60.0}  # of the simulated ranks
_STALLS = {"folder": (8.0, 30.0), "bucket": (70.0, 300.0)}  # seconds
_PARTITIONS = (20.0, 200.0, 1500.0)  # seconds; a bucket's patience is 900 s
_ERRORS = (errno.EIO, errno.ENOSPC, errno.ESTALE)
_MOST_SECONDS = 50_000.0
_MOST_STEPS = 30_000
_ANYWHERE = frozenset({STALL, FREEZE, KILL, CRASH, ERROR})
_NFS_CHANGES = frozenset({LOST, UNSURE})


class Killed(BaseException):
    """Raised in the tasks of a killed process, whose operations have no effect any more."""


class Broken(Exception):
    """Raised if a check of the run fails."""


class Machine:
    """A machine: its boot, and what it has cached as an NFS client, with the time until which it is valid.

    Args:
        number: of the machine.
        files: that its processes see: the shared ones, or its own.
    """

    def __init__(self, number: int, files: FileSystem) -> None:
        self.number, self.files, self.boot = number, files, 0
        self.cut_off_until = -1.0  # it has no network
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
        choices: the random choices. Their `store` is that of the run: a folder that all machines share, or a bucket
            beside a local file system of each machine.
        cache_seconds: see `FileSystem`.
        num_machines: number of machines; 1 with a local file system as the folder.
        has_story: whether to record a story.

    Attributes:
        clock: the simulated time.
        server: of the bucket; None: the run is in a folder.
        faults: number of faults by kind.
        num_steps: number of operations on files, and of requests.
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
        self.clock = Clock()
        self.server = Server(self) if choices.store == "bucket" else None
        self._cache_seconds = cache_seconds
        shared = self._file_system()
        self.machines = [
            Machine(number, self._file_system() if self.server else shared) for number in range(num_machines)
        ]
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
        self._postponed = 0  # a fault that the next operation which it can happen to has

    def _file_system(self) -> FileSystem:
        return FileSystem(self._cache_seconds, self.choices.choose, self.clock)

    @property
    def now(self) -> float:
        """Simulated seconds since the start."""
        return self.clock.now

    @property
    def files(self) -> FileSystem:
        """The file system that the running task sees."""
        return self.current.process.machine.files

    @property
    def is_nfs(self) -> bool:
        """Whether the files are on an NFS server."""
        return self._cache_seconds is not None

    @property
    def had_errors(self) -> bool:
        """Whether an operation on a file raised an error as a fault, or a machine was without network."""
        return bool(self.faults[ERROR] or self.faults[UNSURE] or self.faults[PARTITION])

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
            Broken: the processes do not end within 50,000 s and 30,000 operations.
        """
        while self._tasks:
            self._end_dead_tasks()
            ready = [task for task in self._tasks if task.wake <= self.now]
            if ready:
                task = ready[self.choices.choose(len(ready)) if len(ready) > 1 and not self.calm else 0]
                self._resume(task)
            elif self._tasks:
                self.clock.now = min(task.wake for task in self._tasks)
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
        if self.server and self.choices.choose(2):
            machine.files = self._file_system()  # another machine takes its place
        else:
            machine.files.crash(machine)
        machine.boot += 1
        machine.names, machine.listings, machine.times = {}, {}, {}
        self.log(f"machine{machine.number} has started again")
        self.crashed()

    def pass_time(self) -> None:
        """Advance the clock so far that no cache is valid any more, and every machine has its network."""
        self.clock.now += 4000.0 if self.server else 100.0

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
            process.machine.files.close(process.machine, raw.file, writes)

    # Operations and faults

    def change(self, what: str, where: str) -> int:
        """Let the choices decide what happens before an operation on the name of a file; see `step`."""
        return self.step(what, where, _NFS_CHANGES if self.is_nfs else frozenset())

    def step(
        self, what: str, where: str, faults: frozenset[int] = frozenset(), seconds: float = OPERATION_SECONDS
    ) -> int:
        """Let the choices decide what happens before an operation on a file, or a request.

        Args:
            what: name of the operation, for the story.
            where: path of the file.
            faults: that are the caller's to simulate.
            seconds: that the operation takes.

        Returns:
            One of `faults` if it is to happen; else 0.

        Raises:
            Killed: the process is dead.
            OSError: the operation fails.
        """
        task = self.current
        if not task.process.alive:
            raise Killed
        self.num_steps += 1
        self.clock.now += seconds
        event = 0 if self.calm else self.choices.disturbance() or self._postponed
        if event == SWITCH:
            self._hub.switch()
            if not task.process.alive:
                raise Killed
            event = 0
        elif event:
            event = self._fault(event, what, where, faults)
        if self.has_story:
            self.log(f"{task.process.name} {task.name}: {what} {where.removeprefix('/run/')}")
        return event

    def _fault(self, fault: int, what: str, where: str, faults: frozenset[int]) -> int:
        if fault not in _ANYWHERE and fault not in faults:
            self._postponed = fault if self.server else 0
            return 0
        self._postponed = 0
        self.faults[fault] += 1
        self.log(f"--- {FAULTS[fault]} of {self.process.name}, before: {what} {where.removeprefix('/run/')}")
        if fault == PARTITION:
            self.machine.cut_off_until = self.now + _PARTITIONS[self.choices.choose(len(_PARTITIONS))]
        if fault in faults:
            return fault
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
        return 0

    def _stall(self, whole_process: bool) -> None:
        stalls = _STALLS[self.choices.store]
        seconds = stalls[self.choices.choose(len(stalls))]
        self.log(f"    for {seconds:.0f} s")
        for task in self.process.tasks if whole_process else ():
            task.frozen = self.now + seconds
            task.wake = max(task.wake, task.frozen)
        self.pause(seconds)

    def read_local(self, path: str) -> bytes:
        """Return the content of a file of this machine, which it uploads.

        Raises:
            FileNotFoundError: another process of the machine has removed it, as obstore says it.
        """
        self.step("read", path)
        file = self.files.lookup(self.machine, path)
        if file is None:
            raise FileNotFoundError("No such file or directory (os error 2)")
        assert isinstance(file, File)
        return self.files.content(self.machine, file)

    def log(self, line: str) -> None:
        """Add a line to the story."""
        if self.has_story:
            self.story.append(f"{self.now:9.3f} s  {line}")
