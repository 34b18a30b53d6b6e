"""Failed attempts: attempts at an item that ended otherwise than with a result, and what is known of how.

A rank writes into the spool of a shard which rows it touches (`Spool.touch`); whoever takes the spool of a dead rank
over charges what it active last. Of how it died its fault file tells, `work/ranks/{rank}.fault`: Python's faulthandler
writes it from a signal handler or from a thread of C, so also where no line of Python would run any more.
"""

import faulthandler
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from datamodules.errors import RunError
from datamodules.run.files import open_file

_SIGNALS = {  # as faulthandler calls them
    "Segmentation fault": "SIGSEGV",
    "Aborted": "SIGABRT",
    "Bus error": "SIGBUS",
    "Illegal instruction": "SIGILL",
    "Floating-point exception": "SIGFPE",
    "Floating point exception": "SIGFPE",
}
_MAX_FAULT_BYTES = 1000  # what is kept as the reason is in the first line


@dataclass(frozen=True)
class FailedAttempt:
    """One attempt at an item that cost a process, or was to be made again.

    Attributes:
        row: of the item in its shard.
        reason: what is known of it.
        reason_class: `crash`, `timeout`, `memory`, or `io`; see `datamodules.errors`.
        alone: False: the process handled several items at that moment, so this one may be innocent, and is tried alone.
    """

    row: int
    reason: str
    reason_class: str
    alone: bool = True


class FaultFile:
    """Where a dying process leaves word of what killed it.

    Args:
        path: the file; removed by `close`.
        timeout_seconds: how long `arm` lets this process work on.
    """

    def __init__(self, path: Path, timeout_seconds: float) -> None:
        self._path, self._timeout_seconds = path, timeout_seconds
        self._file: TextIO | None = None
        self._was_enabled = faulthandler.is_enabled()

    def arm(self) -> None:
        """End this process in `timeout_seconds`, whatever it does then, unless `disarm` is called before."""
        faulthandler.dump_traceback_later(self._timeout_seconds, exit=True, file=self._opened())

    def disarm(self) -> None:
        """What `arm` was for has ended."""
        faulthandler.cancel_dump_traceback_later()

    def write(self, reason: str) -> None:
        """Leave `reason`, for whoever takes over what this process still touches."""
        file = self._opened()
        file.truncate(0)
        file.write(reason)
        file.flush()

    def _opened(self) -> TextIO:
        if self._file is None:
            self._file = open(self._path, "x", encoding="utf-8", errors="backslashreplace")
            faulthandler.enable(self._file, all_threads=False)
        return self._file

    def close(self) -> None:
        """Give Python's own handling of faults its place again; the file goes if nothing is in it."""
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
    """(reason, class) of the death of the rank whose `FaultFile` this was."""
    try:
        with open_file(fault_file) as file:
            text = file.read(_MAX_FAULT_BYTES).decode(errors="replace")
    except (FileNotFoundError, RunError):
        text = ""
    if not text:
        return "its process was killed (SIGKILL: out of memory?), or its machine lost", "crash"
    if match := re.match(r"Timeout \((\d{1,6}):(\d\d):(\d\d(?:\.\d{1,6})?)\)!", text):
        hours, minutes, seconds = match.groups()
        return f"timed out after {3600 * int(hours) + 60 * int(minutes) + float(seconds):g} s", "timeout"
    if match := re.match(r"Fatal Python error: (.*)", text):
        return f"crashed: {_SIGNALS.get(match[1], match[1])}", "crash"
    return f"crashed: {text}", "crash"
