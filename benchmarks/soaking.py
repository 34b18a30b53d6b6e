"""Commands that run side by side while signals fall upon them, and a tally of what came out of them.

A command that exits with another status than 0 is started again; what is left of its processes is killed first, as a
scheduler does.
"""

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

_CHECK_SECONDS = 0.1


class Blow(NamedTuple):
    """A signal to come: so many seconds after the blow before, to a worker or a rank, at `choice` (0 to 1) of them."""

    wait_seconds: float
    receiver: str
    number: signal.Signals
    choice: float


class Soak(NamedTuple):
    """How a soak went: its seconds, what was sent, exits with another status than 0, whether all ended in time."""

    seconds: float
    dealt: Counter[str]
    exits: Counter[str]
    ended: bool


class Tally(NamedTuple):
    """Keys that came out, held against those that went in; a key that came out more than once is doubled."""

    planned: int
    written: int
    failed: int
    lost: list[str]
    doubled: list[str]
    foreign: list[str]

    @classmethod
    def of(cls, planned: Iterable[str], written: Sequence[str], failed: Sequence[str] = ()) -> "Tally":
        """Of all planned keys, those with a sample, and those with a failure row; the lists become sorted."""
        wanted, got = set(planned), Counter([*written, *failed])
        doubled = sorted(key for key, count in got.items() if count > 1)
        lost, foreign = sorted(wanted - got.keys()), sorted(got.keys() - wanted)
        return cls(len(wanted), len(written), len(failed), lost, doubled, foreign)

    @property
    def is_exact(self) -> bool:
        """Whether each planned key came out once, and no other."""
        return not (self.lost or self.doubled or self.foreign)


def soak(
    commands: Sequence[Sequence[str]],
    log: Path,
    blows: Sequence[Blow],
    max_seconds: float,
    begun: Callable[[], bool] = lambda: True,
) -> Soak:
    """Run `commands` side by side until all have exited with 0, while `blows` fall; their output goes to `log`.

    Whatever runs after `max_seconds` is killed. Until `begun()`, no time passes for the blows.
    """
    started = last_blow = time.monotonic()
    dealt, exits, pending = Counter[str](), Counter[str](), list(blows)
    running = [_start(command, log) for command in commands]
    try:
        while running and time.monotonic() - started < max_seconds:
            time.sleep(_CHECK_SECONDS)
            for process in [process for process in running if process.poll() is not None]:
                _end(process)
                running.remove(process)
                if process.returncode:
                    exits[_exit_name(process.returncode)] += 1
                    running.append(_start(process.args, log))
            if not begun():
                last_blow = time.monotonic()
            if pending and time.monotonic() - last_blow >= pending[0].wait_seconds and _deal(pending[0], running):
                blow, last_blow = pending.pop(0), time.monotonic()
                dealt[f"{blow.number.name} to a {blow.receiver}"] += 1
        return Soak(time.monotonic() - started, dealt, exits, not running)
    finally:
        for process in running:
            _end(process)


def _start(command: Any, log: Path) -> subprocess.Popen[bytes]:
    environment = {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    environment["DATA_OPTIMIZER_CACHE_FOLDER"] = str(log.with_suffix(".cache"))  # litData's
    with open(log, "ab") as output:
        return subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=output, stderr=output, start_new_session=True
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _deal(blow: Blow, running: Sequence[subprocess.Popen[bytes]]) -> bool:
    """Send the signal; False if there is nobody now to receive it."""
    with suppress(psutil.NoSuchProcess):
        receivers = [psutil.Process(process.pid) for process in running]
        if blow.receiver == "worker":
            receivers = [worker for rank in receivers for worker in _workers(rank)]
        if receivers:
            receivers[int(blow.choice * len(receivers))].send_signal(blow.number)
            return True
    return False


def _workers(rank: psutil.Process) -> Iterator[psutil.Process]:
    """The children of its fork server; its own, if they were spawned."""
    for child in rank.children():
        command = " ".join(child.cmdline())
        if "forkserver" in command:
            yield from child.children()
        elif "spawn_main" in command:
            yield child


def _exit_name(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"status {status}"
