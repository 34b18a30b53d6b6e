"""The live display of a run, with all ranks of all machines, from its folder alone.

On a terminal it is redrawn twice as often as ranks write heartbeats; elsewhere a line is printed every 10 s. While the
store cannot be read, it stays as it is.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.live import Live

from datamodules.run.folder import Run
from preprocess.report.status import Status, StatusReader, headlines, render
from preprocess.terminal import Terminal

_LINE_SECONDS = 10.0


class Display:
    """Shows the state of a run, in a thread, from its construction until it is closed.

    Args:
        run: the run.
        console: where to print.
        on_status: called with each status that is read, in the thread.
    """

    def __init__(self, run: Run, console: Terminal, on_status: Callable[[Status], None] | None = None) -> None:
        self._run, self._console, self._on_status = run, console, on_status
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="progress", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Show the final state and stop the thread."""
        self._done.set()
        self._thread.join()

    def _follow(self) -> None:
        reader = StatusReader(self._run)
        with _screen(self._console) as show:
            if self._console.is_terminal:
                show(reader.read())
            while not self._done.wait(_seconds_between(self._run, self._console)):
                self._update(reader, show)
            if self._console.is_terminal or self._on_status:
                self._update(reader, show if self._console.is_terminal else lambda status: None)

    def _update(self, reader: StatusReader, show: Callable[[Status], None]) -> None:
        with suppress(OSError):  # if the store stays away, the rank ends with a message of its own
            status = reader.read()
            show(status)
            if self._on_status:
                self._on_status(status)


def watch(run: Run, console: Terminal) -> Status:
    """Show the state of a run until it is complete, with its retries. Return the last state."""
    reader = StatusReader(run)
    with _screen(console) as show:
        while True:
            with suppress(OSError):
                status = reader.read()
                show(status)
                if status.is_complete and all(retry.is_complete for retry in status.retries):
                    return status
            time.sleep(_seconds_between(run, console))


def _seconds_between(run: Run, console: Terminal) -> float:
    return run.store.beat_seconds / 2 if console.is_terminal else _LINE_SECONDS


@contextmanager
def _screen(console: Terminal) -> Iterator[Callable[[Status], None]]:
    """Give a function that shows a status: in place of the one before on a terminal, elsewhere as a line."""
    if console.is_terminal:
        # standard output that is no terminal is not redirected above the display: it may be a log of items
        with Live(console=console, auto_refresh=False, redirect_stdout=sys.stdout.isatty()) as live:
            yield lambda status: live.update(render(status), refresh=True)
    else:
        yield lambda status: console.print(time.strftime("%H:%M:%S"), *headlines(status), soft_wrap=True)
