"""A rank as a Ray worker runs it: a subprocess. Ray workers import this module, so it imports no torch.

A subprocess gives a rank what it has without Ray: signals that reach it, a main thread, an exit status, and a CUDA
context that ends with it.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from datamodules.errors import FramemillError
from datamodules.run.folder import Run

_POLL_SECONDS = 0.1
_KILL_SECONDS = 10.0  # after the grace time: a rank that was asked to stop needs some to end its workers
_LAST_LINES = 50  # among which an error is searched: libraries may print more while the process ends


@dataclass(frozen=True)
class RankTask:
    """What a task does.

    Attributes:
        arguments: arguments of `preprocess`.
        working_folder: working folder of the subprocess.
        environment: variables for the subprocess, in addition to those of the Ray worker.
        grace_seconds: time that the rank takes, after a signal, to finish its batches.
        folder: folder of the run, absolute, or its URL.
        retry: number of the retry that the rank works on; 0: the run itself.
        may_be_late: whether the task ends at once if the run is complete by then. The first ranks do not: they check
            that the run has their settings.
    """

    arguments: Sequence[str]
    working_folder: str
    environment: Mapping[str, str]
    grace_seconds: float
    folder: str
    retry: int
    may_be_late: bool


@dataclass(frozen=True)
class RankExit:
    """How a rank has ended.

    Attributes:
        node: host name of its machine.
        status: exit status; minus the signal's number if one ended the process.
        message: its error, or the last line that it printed; empty: none.
    """

    node: str
    status: int
    message: str


def run_rank(task: RankTask) -> RankExit:
    """Run a rank to its end; this is the function of the Ray task.

    If Ray cancels the task, which raises KeyboardInterrupt here, the rank gets SIGTERM and its grace time. If the Ray
    worker dies, so does the rank.
    """
    node = socket.gethostname()
    if task.may_be_late and is_complete(task.folder, task.retry):
        return RankExit(node, 0, "")
    if not os.path.isdir(task.working_folder):
        message = (
            f"the working folder {task.working_folder} is missing on {node}. Start from a folder that all nodes have"
        )
        return RankExit(node, 2, message)
    rank = [sys.executable, "-m", "preprocess", *task.arguments]
    process = subprocess.Popen(
        [sys.executable, "-m", "preprocess.cluster.dies_with_parent", str(os.getpid()), *rank],
        cwd=task.working_folder,
        env={**os.environ, **task.environment},
        stderr=subprocess.PIPE,
        text=True,
        errors="backslashreplace",
        start_new_session=True,  # so that only this function signals it
    )
    lines: deque[str] = deque(maxlen=_LAST_LINES)
    assert process.stderr is not None
    copying = threading.Thread(target=_copy, args=(process.stderr, lines), daemon=True)
    try:
        copying.start()
        while (status := process.poll()) is None:
            time.sleep(_POLL_SECONDS)  # Ray raises KeyboardInterrupt without a signal, so `wait` would not end for it
    finally:
        _stop(process, task.grace_seconds)
    copying.join(1.0)  # workers that outlive the rank for a moment hold the pipe open
    return RankExit(node, status, _message(lines))


def is_complete(folder: str, retry: int) -> bool:
    """Return whether the run (0) or the retry in `folder` is planned and complete."""
    try:
        return Run(folder, retry).is_complete()
    except (FramemillError, OSError):  # not planned yet; or damaged or out of reach, which the rank will report
        return False


def _stop(process: "subprocess.Popen[str]", grace_seconds: float) -> None:
    """End `process`, if it has not ended: let it finish its batches, then kill it and its workers."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(grace_seconds + _KILL_SECONDS)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _copy(stream: IO[str], lines: "deque[str]") -> None:
    """Copy what the rank prints to the Ray worker's log, which Ray forwards to the driver."""
    with stream:
        for line in stream:
            lines.append(line.rstrip())
            print(line, end="", file=sys.stderr, flush=True)  # noqa: T201


def _message(lines: Sequence[str]) -> str:
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or list(lines) or [""])[-1]
