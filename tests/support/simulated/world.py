"""Machines, processes, tasks and the clock of a simulation, and what goes wrong in it.

A task is a greenlet: the main thread of a process, or its heartbeat. One runs at a time. At each operation on a file
the choices say what happens before it: nothing, another task's turn, or a fault.
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
    """Its process has been killed: nothing that it does from now on has an effect."""


class Broken(Exception):
    """Something that must hold does not."""


class Machine:
    """A machine: its boot, its clock, and what it has cached as an NFS client."""

    def __init__(self, number: int) -> None:
        self.number, self.boot = number, 0
        self.names: dict[tuple[int, str], tuple[File | Folder | None, float]] = {}
        self.listings: dict[int, tuple[list[str], float]] = {}
        self.times: dict[int, tuple[int, float]] = {}

    @property
    def identity(self) -> str:
        """Changes with the boot."""
        return f"machine{self.number}, boot {self.boot}"


class Process:
    """A process of a machine; `error` is what ended it, if something did."""

    def __init__(self, machine: Machine, pid: int) -> None:
        self.machine, self.boot, self.pid = machine, machine.boot, pid
        self.alive = True
        self.error: BaseException | None = None
        self.tasks: list[Task] = []
        self.opened: list[Any] = []  # RawFile; told apart by identity

    @property
    def name(self) -> str:
        """For stories."""
        return f"rank{self.pid}"


class Task:
    """A thread of a process, ready from the second `wake` on, and not before `frozen`."""

    def __init__(self, process: Process, name: str, run: Callable[[], None], hub: greenlet) -> None:
        self.process, self.name, self.wake, self.frozen = process, name, 0.0, 0.0
        self.waits_for: object = None
        self.greenlet = greenlet(run, hub)


class World:
    """What one interleaving happens in.

    Args:
        choices: what chance decides.
        cache_seconds: see `FileSystem`.
        num_machines: with a local file system there is one.
        tells: whether `story` is written.
    """

    def __init__(self, choices: Choices, cache_seconds: float | None, num_machines: int, tells: bool = False) -> None:
        self.choices = choices
        self.files = FileSystem(cache_seconds, choices.choose)
        self.machines = [Machine(number) for number in range(num_machines)]
        self.faults: Counter[int] = Counter()
        self.num_steps = 0
        self.calm = False
        self.story: list[str] = []
        self.tells = tells
        self.processes: list[Process] = []
        self.crashed: Callable[[], None] = lambda: None  # called when a machine is up again
        self.current: Task
        self._tasks: list[Task] = []
        self._hub = getcurrent()
        self._crashing: Machine | None = None

    @property
    def now(self) -> float:
        """Seconds since the world began."""
        return self.files.now

    @property
    def is_nfs(self) -> bool:
        """Whether the files are a server's."""
        return self.files.cache_seconds is not None

    @property
    def was_refused(self) -> bool:
        """Whether an operation failed that might as well not have."""
        return bool(self.faults[ERROR] or self.faults[UNSURE])

    @property
    def process(self) -> Process:
        """Whose task runs."""
        return self.current.process

    @property
    def machine(self) -> Machine:
        """Whose process runs."""
        return self.current.process.machine

    # Tasks

    def start(self, machine: Machine, function: Callable[[], None]) -> Process:
        """A new process that calls `function`."""
        process = Process(machine, 1 + len(self.processes))
        self.processes.append(process)

        def run() -> None:
            try:
                function()
            except Broken:
                raise
            except Exception as error:  # noqa: BLE001 whatever it is that ends a process
                process.error = error
                self.tell(f"{process.name} ends: {type(error).__name__}: {error}")
            self.kill(process)

        self.begin(process, "main", run)
        return process

    def begin(self, process: Process, name: str, run: Callable[[], None]) -> None:
        """A new task of `process`."""

        def guarded() -> None:
            with suppress(Killed):
                run()
            self._tasks.remove(task)

        task = Task(process, name, guarded, self._hub)
        task.wake = self.now
        process.tasks.append(task)
        self._tasks.append(task)

    def run(self) -> None:
        """Go on until every process has ended.

        Raises:
            Broken: they do not end.
        """
        while self._tasks:
            self._bury()
            ready = [task for task in self._tasks if task.wake <= self.now]
            if ready:
                task = ready[self.choices.choose(len(ready)) if len(ready) > 1 and not self.calm else 0]
                self._resume(task)
            elif self._tasks:
                self.files.now = min(task.wake for task in self._tasks)
            if self.now > _MOST_SECONDS or self.num_steps > _MOST_STEPS:
                raise Broken(f"no end after {self.now:.0f} s and {self.num_steps} operations")
        self._bury()

    def end(self) -> None:
        """Kill what still runs, so that nothing of it acts in the next world."""
        for process in self.processes:
            self.kill(process)
        self._bury()

    def _resume(self, task: Task) -> None:
        self.current = task
        task.greenlet.switch()

    def _bury(self) -> None:
        for task in [task for task in self._tasks if not task.process.alive]:
            self.current = task
            if task.greenlet:
                task.greenlet.throw(Killed)
            elif task in self._tasks:  # it never began
                self._tasks.remove(task)
        if self._crashing:
            machine, self._crashing = self._crashing, None
            self.crash(machine)

    def crash(self, machine: Machine) -> None:
        """Start a machine, whose processes are no more, anew."""
        self.files.crash(machine)
        machine.boot += 1
        machine.names, machine.listings, machine.times = {}, {}, {}
        self.tell(f"machine{machine.number} is up again")
        self.crashed()

    def pass_time(self) -> None:
        """Let so much time pass that nothing cached is still believed."""
        self.files.now += 100.0

    def pause(self, seconds: float, event: object = None) -> None:
        """Let others run for `seconds`, or until `event` is set."""
        task = self.current
        if not task.process.alive:
            raise Killed
        task.wake, task.waits_for = self.now + seconds, event
        self._hub.switch()
        task.waits_for = None
        if not task.process.alive:
            raise Killed

    def wake(self, event: object) -> None:
        """Let go on those that wait for `event`."""
        for task in self._tasks:
            if task.waits_for is event:
                task.wake = max(self.now, task.frozen)

    def kill(self, process: Process, writes: bool = True) -> None:
        """End a process; its machine writes its cached data back, unless the machine crashes."""
        process.alive = False
        opened, process.opened = process.opened, []
        for raw in opened:
            self.files.close(process.machine, raw.file, writes)

    # Operations and faults

    def step(self, what: str, where: str, changes: bool = False) -> int:
        """An operation on `where` comes next; returns `LOST` or `UNSURE` if that befalls it, else 0.

        Args:
            what: is done, for the story.
            where: the path.
            changes: whether it changes names, so that its reply matters.

        Raises:
            Killed: the process is no more.
            OSError: the operation fails.
        """
        task = self.current
        if not task.process.alive:
            raise Killed
        self.num_steps += 1
        self.files.now += OPERATION_SECONDS
        happens = 0 if self.calm else self.choices.disturbance()
        if happens == SWITCH:
            self._hub.switch()
            if not task.process.alive:
                raise Killed
            happens = 0
        elif happens:
            happens = self._fault(happens, what, where, changes)
        if self.tells:
            self.tell(f"{task.process.name} {task.name}: {what} {where.removeprefix('/run/')}")
        return happens

    def _fault(self, fault: int, what: str, where: str, changes: bool) -> int:
        if fault in (LOST, UNSURE) and (not self.is_nfs or not changes):
            return 0
        self.faults[fault] += 1
        self.tell(f"--- {FAULTS[fault]} of {self.process.name}, before: {what} {where.removeprefix('/run/')}")
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
        self.tell(f"    for {seconds:.0f} s")
        for task in self.process.tasks if whole_process else ():
            task.frozen = self.now + seconds
            task.wake = max(task.wake, task.frozen)
        self.pause(seconds)

    def tell(self, line: str) -> None:
        """Add a line to the story."""
        if self.tells:
            self.story.append(f"{self.now:9.3f} s  {line}")
