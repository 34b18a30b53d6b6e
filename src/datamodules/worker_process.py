"""What all DataLoader worker processes share, in preprocessing and in training: the fork server, and their first steps.

Workers are started by a fork server. Forking a process that has threads or a CUDA context can deadlock, and spawning
imports torch and the extractor's module anew for each worker (4 to 8 s of CPU). A fork of the server costs 0.05 s,
after one such import in all.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext

from datamodules.malloc import keep_freed_memory
from datamodules.messages import escape_messages

_BEGIN, _END = "datamodules.imports_begin", "datamodules.imports_end"


def fork_server(preload: Sequence[str]) -> ForkServerContext:
    """Start the fork server, unless it runs, and return the context that starts workers from it.

    The server and Python's resource tracker block the signals that stop a run, and the workers inherit that. A terminal
    and a batch system send them to all processes of a run, but only the rank is to act on them. Were they not blocked,
    Ctrl-C would end the server while it imports torch, which takes seconds, and the rank could not start its workers.

    Args:
        preload: names of modules that the server imports for its workers. They are ignored if it runs already.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_BEGIN, *preload, _END])
    stopping = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stopping)
    try:
        # The tracker ignores SIGINT and SIGTERM, but not SIGUSR1, which SLURM sends to all processes of a job. Starting
        # the tracker unblocks SIGINT and SIGTERM here. Starting the server would start the tracker, too late.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, stopping)
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def begin_worker(worker: int) -> None:
    """Prepare this worker process (`worker_init_fn`): memory, messages, signals, and an end with its rank.

    DataLoader ends a worker whose parent's process id has changed. The parent of these workers is the fork server,
    which outlives the rank, so a thread waits for the end of the rank itself.

    SIGTERM, which a batch system sends to all processes, counts only if the rank sent it. multiprocessing does so at
    the end of a program that still has workers, and waits for them.
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

    def obey() -> None:
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != rank.pid:
            pass
        os._exit(1)

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # as the server did, unless another started this worker
    for target in (watch, obey):
        threading.Thread(target=target, name=f"{target.__name__}-rank", daemon=True).start()
