"""Failed attempts at an item, and the cause of death of a process.

A rank records in the spool of a shard which rows are active (`Spool.mark_active`). If its process dies, the rank that
takes the spool over charges the rows that were active last with a failed attempt. How the process died is read from its
fault file, `work/ranks/{rank}.fault`. Python's faulthandler writes that file from a signal handler or a thread of its
own in C, and so even if the interpreter can run no Python code any more.
"""

import faulthandler
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from datamodules.errors import RunError
from datamodules.run.files import open_file

_SIGNALS = {  # by the names that faulthandler writes
    "Segmentation fault": "SIGSEGV",
    "Aborted": "SIGABRT",
    "Bus error": "SIGBUS",
    "Illegal instruction": "SIGILL",
    "Floating-point exception": "SIGFPE",
    "Floating point exception": "SIGFPE",
}
KILLED_OR_LOST = "its process was killed (SIGKILL: out of memory?), or its machine lost"
_MAX_FAULT_BYTES = 1000  # the first line, which becomes the reason, is shorter


@dataclass(frozen=True)
class FailedAttempt:
    """One attempt at an item that gave no result: it ended its process, or has to be repeated.

    Attributes:
        row: of the item in its shard.
        reason: why the attempt failed.
        reason_class: `crash`, `timeout`, `memory`, or `io`; see `datamodules.errors`.
        alone: whether the item was the only active one. If not, another may be the cause, and the item is tried again
            alone.
    """

    row: int
    reason: str
    reason_class: str
    alone: bool = True


class FaultFile:
    """The file in which a dying process writes what ended it; created at first use.

    Args:
        path: of the file, which must not exist. `close` removes it if nothing was written.
        timeout_seconds: from `arm` to the end of this process, unless it is disarmed before.
    """

    def __init__(self, path: Path, timeout_seconds: float) -> None:
        self._path, self._timeout_seconds = path, timeout_seconds
        self._file: TextIO | None = None
        self._was_enabled = faulthandler.is_enabled()

    def arm(self) -> None:
        """Start, or start anew, the timeout that ends this process even if it hangs."""
        faulthandler.dump_traceback_later(self._timeout_seconds, exit=True, file=self._opened())

    def disarm(self) -> None:
        """Stop the timeout that `arm` started."""
        faulthandler.cancel_dump_traceback_later()

    def write(self, reason: str) -> None:
        """Write `reason`, for the rank that takes the active items over."""
        file = self._opened()
        file.truncate(0)
        file.write(reason)
        file.flush()

    def _opened(self) -> TextIO:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._path, "x", encoding="utf-8", errors="backslashreplace")
            faulthandler.enable(self._file, all_threads=False)
        return self._file

    def close(self) -> None:
        """Close the file, remove it if it is empty, and restore Python's own fault handler."""
        if self._file is None:
            return
        faulthandler.disable()
        if self._was_enabled and sys.__stderr__:
            faulthandler.enable(sys.__stderr__)
        self._file.close()
        self._file = None
        if self._path.exists() and not self._path.stat().st_size:
            self._path.unlink()


def cause_of_death(fault_file: Path) -> tuple[str, str]:
    """Return why a rank died.

    Args:
        fault_file: path of the `FaultFile` of the dead rank; it may be missing.

    Returns:
        (reason, `crash` or `timeout`).
    """
    try:
        with open_file(fault_file) as file:
            text = file.read(_MAX_FAULT_BYTES).decode(errors="replace")
    except (FileNotFoundError, RunError):
        text = ""
    if not text:
        return KILLED_OR_LOST, "crash"
    if match := re.match(r"Timeout \((\d{1,6}):(\d\d):(\d\d(?:\.\d{1,6})?)\)!", text):
        hours, minutes, seconds = match.groups()
        return f"timed out after {3600 * int(hours) + 60 * int(minutes) + float(seconds):g} s", "timeout"
    if match := re.match(r"Fatal Python error: (.*)", text):
        return f"crashed: {_SIGNALS.get(match[1], match[1])}", "crash"
    return f"crashed: {text}", "crash"
