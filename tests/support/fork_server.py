"""A process that has imported everything and forks `preprocess` processes, each of which starts in milliseconds."""

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from support.environment import process_environment


class ForkServer:
    """The tests' end of the process that forks."""

    def __init__(self) -> None:
        environment = process_environment(PYTHONWARNINGS="", OMP_NUM_THREADS="1")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.fork_server"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout

    def start(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str] = {}) -> int:
        """Start `preprocess` with `arguments` in a session of its own, and return its process id.

        Args:
            arguments: its command and options.
            log: file for its output.
            environment: variables that it has besides those of the server.
        """
        pid: int = self._ask({"start": list(arguments), "log": str(log), "environment": dict(environment)})
        return pid

    def poll(self, pid: int) -> int | None:
        """Return the exit status of a process, minus the signal's number if one ended it; None while it runs."""
        status: int | None = self._ask({"poll": pid})
        return status

    def wait(self, pid: int, seconds: float = 60) -> int:
        """Wait until a process has ended, and return its exit status as `poll` does."""
        deadline = time.monotonic() + seconds
        while (status := self.poll(pid)) is None:
            assert time.monotonic() < deadline, f"process {pid} has not ended after {seconds} s"
            time.sleep(0.02)
        return status

    def run(self, arguments: Sequence[str], log: Path) -> int:
        """Start a process and wait for it; return its exit status."""
        return self.wait(self.start(arguments, log))

    def run_two_and_kill_one(self, arguments: Sequence[str], folder: Path, num_shards: int = 1) -> None:
        """Start two ranks of a run in `folder`, kill one after `num_shards` commits, and wait until the other is done.

        Their output goes to `rank0.log` and `rank1.log` beside `folder`.
        """
        logs = [folder.with_name(f"rank{number}.log") for number in range(2)]
        killed, other = (self.start(arguments, log) for log in logs)
        deadline = time.monotonic() + 100
        while len(list(folder.glob("*.tar"))) < num_shards:
            assert time.monotonic() < deadline, logs[0].read_text()
            time.sleep(0.01)
        os.killpg(killed, signal.SIGKILL)
        assert self.wait(killed) == -signal.SIGKILL
        assert self.wait(other, 100) == 0, logs[1].read_text()

    def close(self) -> None:
        """End the server and kill the processes that still run."""
        self._requests.close()
        self._process.wait(30)
        self._answers.close()

    def _ask(self, request: dict[str, Any]) -> Any:
        self._requests.write(json.dumps(request) + "\n")
        self._requests.flush()
        return json.loads(self._answers.readline())


def _serve() -> None:
    import preprocess.captioning.chat
    import preprocess.captioning.local
    import preprocess.commands.run  # noqa: F401
    from preprocess.cli import main
    from support import brightness, crashing_extractors  # noqa: F401

    statuses: dict[int, int | None] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            answer: int | None = (pid := _fork(main, request["start"], request["log"], request["environment"]))
            statuses[pid] = None
        else:
            answer = _poll(request["poll"], statuses)
        print(json.dumps(answer), flush=True)
    for pid in [pid for pid in statuses if _poll(pid, statuses) is None]:
        os.killpg(pid, signal.SIGKILL)


def _poll(pid: int, statuses: dict[int, int | None]) -> int | None:
    if statuses[pid] is None:
        done, status = os.waitpid(pid, os.WNOHANG)
        statuses[pid] = os.waitstatus_to_exitcode(status) if done else None
    return statuses[pid]


def _fork(main: Callable[..., Any], arguments: list[str], log: str, environment: dict[str, str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    status = 1
    try:
        status = main(arguments)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:  # as Python itself would
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve()
    os._exit(0)  # taking down all that was imported would take a second
