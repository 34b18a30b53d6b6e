"""Run commands side by side while sending signals to them, and count the items that they produced.

A command that exits with another status than 0 is started again. Its remaining processes are killed first, as a
scheduler would.
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


class Disturbance(NamedTuple):
    """A signal to send.

    Attributes:
        wait_seconds: time after the previous disturbance.
        receiver: `worker` or `rank`.
        number: the signal.
        choice: which of the receivers gets it, 0 to 1.
    """

    wait_seconds: float
    receiver: str
    number: signal.Signals
    choice: float


class Soak(NamedTuple):
    """The course of a soak.

    Attributes:
        seconds: duration.
        sent: counts of signals by name and receiver.
        exits: counts of exits with another status than 0.
        ended: whether all commands ended in time.
    """

    seconds: float
    sent: Counter[str]
    exits: Counter[str]
    ended: bool


class Tally(NamedTuple):
    """Keys of the results compared with the planned keys.

    Attributes:
        planned: number of planned keys.
        written: number of samples.
        failed: number of failure rows.
        lost: planned keys without a result.
        doubled: keys with more than one result.
        foreign: keys of results that were not planned.
    """

    planned: int
    written: int
    failed: int
    lost: list[str]
    doubled: list[str]
    foreign: list[str]

    @classmethod
    def of(cls, planned: Iterable[str], written: Sequence[str], failed: Sequence[str] = ()) -> "Tally":
        """Compare the planned keys with the keys of samples and of failure rows; the lists are sorted."""
        expected, got = set(planned), Counter([*written, *failed])
        doubled = sorted(key for key, count in got.items() if count > 1)
        lost, foreign = sorted(expected - got.keys()), sorted(got.keys() - expected)
        return cls(len(expected), len(written), len(failed), lost, doubled, foreign)

    @property
    def is_exact(self) -> bool:
        """Whether every planned key has one result, and no other key has any."""
        return not (self.lost or self.doubled or self.foreign)


def soak(
    commands: Sequence[Sequence[str]],
    log: Path,
    disturbances: Sequence[Disturbance],
    max_seconds: float,
    begun: Callable[[], bool] = lambda: True,
) -> Soak:
    """Run `commands` side by side until all have exited with 0, and send the `disturbances` meanwhile.

    Args:
        commands: the commands.
        log: file for their output.
        disturbances: signals to send, in this order.
        max_seconds: limit after which all commands are killed.
        begun: the wait for the first disturbance starts when this returns True.
    """
    started = last_sent = time.monotonic()
    sent, exits, pending = Counter[str](), Counter[str](), list(disturbances)
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
                last_sent = time.monotonic()
            if pending and time.monotonic() - last_sent >= pending[0].wait_seconds and _send(pending[0], running):
                disturbance, last_sent = pending.pop(0), time.monotonic()
                sent[f"{disturbance.number.name} to a {disturbance.receiver}"] += 1
        return Soak(time.monotonic() - started, sent, exits, not running)
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


def _send(disturbance: Disturbance, running: Sequence[subprocess.Popen[bytes]]) -> bool:
    """Send the signal. Returns False if no process can receive it now."""
    with suppress(psutil.NoSuchProcess):
        receivers = [psutil.Process(process.pid) for process in running]
        if disturbance.receiver == "worker":
            receivers = [worker for rank in receivers for worker in _workers(rank)]
        if receivers:
            receivers[int(disturbance.choice * len(receivers))].send_signal(disturbance.number)
            return True
    return False


def _workers(rank: psutil.Process) -> Iterator[psutil.Process]:
    """Yield the workers of a rank: the children of its fork server or Ray node, or its own if they were spawned."""
    for child in rank.children():
        command = " ".join(child.cmdline())
        if "forkserver" in command:
            yield from child.children()
        elif "spawn_main" in command:
            yield child
        elif "/raylet" in command:  # Ray names its processes after what they do; the others are its own services
            yield from (worker for worker in child.children() if "ray::MapBatches" in " ".join(worker.cmdline()))


def _exit_name(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"status {status}"
