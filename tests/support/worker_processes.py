"""The processes that this test process has started, directly or through the fork server."""

import os

import psutil


def children() -> list[psutil.Process]:
    """All descendants of this process."""
    return psutil.Process().children(recursive=True)


def is_worker(process: psutil.Process) -> bool:
    """Whether `process`, one of the `children`, runs and was started by the fork server, not by this process."""
    try:
        return process.ppid() != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
