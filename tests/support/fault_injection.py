"""Faults at the system calls that change files: the k-th one kills the process, or fails.

| counted                                          | killed there                | failing there                    |
|--------------------------------------------------|-----------------------------|----------------------------------|
| fsync, rename, link, unlink, mkdir, rmdir, utime | before it is done           | is not done                      |
| opening a file to write                          | before it is done           | is not done                      |
| write                                            | half of the bytes are there | half are, and the next one fails |

Only calls of the main thread count, so that the k-th is always the same: a heartbeat's come when they come. An fsync is
counted, and left out: no fault here loses what it keeps (`simulated` has such), and it would take most of the time.
"""

import errno
import io
import json
import os
import signal
import threading
import traceback
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from support.runs import start

KILL = 0
_CALLS = ("rename", "replace", "link", "unlink", "rmdir", "mkdir", "utime")
_real_open = open


class Faults:
    """Counts calls; number `at` (from 1) kills, or raises OSError with the number `fault`. At 0 nothing happens."""

    def __init__(self, at: int, fault: int = KILL) -> None:
        self.count, self._at, self._fault = 0, at, fault
        self._thread = threading.main_thread()

    def __enter__(self) -> "Faults":
        self._patches = [patch.object(os, name, self._counted(getattr(os, name))) for name in _CALLS]
        self._patches += [patch.object(os, "fsync", self._counted(lambda descriptor: None))]
        self._patches += [patch("builtins.open", self._open), patch("io.open", self._open)]
        for each in self._patches:
            each.start()
        return self

    def __exit__(self, *exception: object) -> None:
        for each in self._patches:
            each.stop()

    def is_next(self) -> bool:
        """Count a call. Returns whether it is the one that fails."""
        if threading.current_thread() is not self._thread:
            return False
        self.count += 1
        return self.count == self._at

    def fail(self, path: Any = None) -> None:
        """Kill the process or raise the error."""
        if self._fault == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(self._fault, os.strerror(self._fault), path)

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.is_next():
                self.fail()
            return function(*args, **kwargs)

        return call

    def _open(self, path: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, *args: Any) -> Any:
        if not set(mode) & set("wax+") or isinstance(path, int):
            return _real_open(path, mode, buffering, encoding, *args)
        if self.is_next():
            self.fail(path)
        raw = _Raw(self, path, mode.replace("b", "").replace("t", ""))
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding="utf-8")


class _Raw(io.FileIO):
    def __init__(self, faults: Faults, path: Any, mode: str) -> None:
        super().__init__(path, mode)
        self._faults, self._fails = faults, False

    def write(self, data: Any) -> int:
        if self._fails:
            self._fails = False
            self._faults.fail()
        if self._faults.is_next():
            half = super().write(bytes(data)[: len(data) // 2])
            self._fails = half > 0 and self._faults._fault != KILL
            if not self._fails:
                self._faults.fail()
            return half
        return super().write(data)


def attempt(function: Callable[..., Any], *args: Any, at: int = 0, fault: int = KILL) -> tuple[int, str]:
    """Call `function` in a forked process. Return (number of calls, what it raised), or (0, "killed")."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        raised = ""
        with Faults(at, fault) as faults:
            try:
                function(*args)
            except Exception as error:  # noqa: BLE001 it is reported to the test
                raised = f"{type(error).__name__}: {error}"
        os.write(writer, json.dumps([faults.count, raised]).encode())
        os._exit(0)
    os.close(writer)
    with _real_open(reader, "rb") as file:
        message = file.read()
    os.waitpid(pid, 0)
    count, raised = json.loads(message) if message else (0, "killed")
    return count, raised


def number_of_calls(function: Callable[..., Any], *args: Any) -> int:
    """Return the number of calls that `function` makes without faults."""
    count, raised = attempt(function, *args)
    assert not raised, raised
    return count


def in_forker(function: Callable[..., None], *args: Any) -> None:
    """Call `function`, which makes attempts, in a process that has no threads; AssertionError with what it raised."""
    process = start(_report_failure, errors := os.fspath(args[0]) + ".errors", function, args)
    process.join()
    with _real_open(errors) as file:
        message = file.read()
    assert not message, message


def _report_failure(errors: str, function: Callable[..., None], args: Any) -> None:
    message = "it was killed"
    try:
        function(*args)
        message = ""
    except AssertionError as error:
        message = str(error) or traceback.format_exc()
    finally:
        with _real_open(errors, "w") as file:
            file.write(message)


def kinds_of_error(at: int) -> int:
    """Return EIO and ENOSPC in turn."""
    return (errno.EIO, errno.ENOSPC)[at % 2]
