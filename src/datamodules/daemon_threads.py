"""Threads for requests to a store, which may not answer for minutes.

The threads of `concurrent.futures` are joined when the interpreter exits. So Ctrl-C would wait for the store.
"""

import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
_Tasks: TypeAlias = "queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]"


class DaemonThreads:
    """Threads for requests. They end with this object, and do not outlive the process, whatever they wait for.

    Args:
        count: number of threads.
    """

    def __init__(self, count: int) -> None:
        self._tasks: _Tasks = queue.SimpleQueue()
        for _ in range(count):
            threading.Thread(target=_run, args=(self._tasks,), name="fetch", daemon=True).start()
        weakref.finalize(self, _end, self._tasks, count).atexit = False

    def submit(self, task: Callable[[], T]) -> "Future[T]":
        """Let a thread run `task`, after those that were submitted before, unless the future is cancelled first."""
        future: Future[T] = Future()
        self._tasks.put((future, task))
        return future


def _run(tasks: _Tasks) -> None:
    """Do tasks until None follows. A function, as a thread that runs a method would keep its object alive."""
    while entry := tasks.get():
        future, task = entry
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(task())
            except BaseException as error:  # noqa: BLE001  # whoever asks for the result gets it
                future.set_exception(error)
        del entry, future, task  # else an idle thread would keep the last content in memory


def _end(tasks: _Tasks, count: int) -> None:
    for _ in range(count):
        tasks.put(None)
