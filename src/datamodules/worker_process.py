"""What every DataLoader worker process needs, for preprocessing and for training: a fork server, and a beginning."""

import multiprocessing
import os
import signal
import threading
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait

from datamodules.malloc import keep_freed_memory
from datamodules.messages import escape_messages


def start_fork_server() -> None:
    """Start the process that workers are forked from, unless it runs, with the signals that stop a run blocked.

    A terminal and a batch system send them to all processes of a run, but only the rank is to act on them. Without
    this, Ctrl-C ends the server while it imports torch, which takes seconds, and the rank cannot start its workers.
    Workers inherit the blocked signals.
    """
    resource_tracker.ensure_running()  # which would unblock SIGINT and SIGTERM as it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1))
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin_worker(worker: int) -> None:
    """Prepare this worker process: it ends when its rank does, leaves signals to it, keeps memory, escapes messages.

    Workers are children of the fork server, so DataLoader's own watch, over the parent's process id, sees nothing.
    """
    keep_freed_memory()
    escape_messages()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    rank = multiprocessing.parent_process()
    assert rank is not None

    def watch() -> None:
        wait([rank.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="watch-rank", daemon=True).start()
