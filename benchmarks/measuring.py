"""Shared by the benchmarks: fresh processes, a watch over processes, ratios of pairs, tables and verdicts."""

import multiprocessing
import os
import platform
import re
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Measured(Generic[T]):
    """The result of a function in a process of its own, with its time and memory.

    Attributes:
        value: the result of the function.
        seconds: time from the call to the return, without imports and the start of the process.
        peak_mb: peak resident memory of the process in MB, including interpreter and libraries.
    """

    value: T
    seconds: float
    peak_mb: float


@dataclass(frozen=True)
class Ratio:
    """Median, least and greatest of ratios that were measured pair by pair."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of_pairs(cls, numerators: Iterable[float], denominators: Iterable[float]) -> "Ratio":
        """Return the ratios of the first numerator to the first denominator, the second to the second, …"""
        ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
        return cls(statistics.median(ratios), min(ratios), max(ratios))

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.least:.3f}–{self.greatest:.3f})"


def in_fresh_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Measured[T]:
    """Call `function` in a new interpreter. Raises RuntimeError if the function raises."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(theirs, function, args, kwargs))
    process.start()
    theirs.close()
    try:
        value, seconds, peak_mb = ours.recv()
    except EOFError:
        raise RuntimeError(f"{function.__name__} failed in its process; its traceback is above") from None
    process.join()
    return Measured(value, seconds, peak_mb)


def _report(pipe: Any, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    started = time.perf_counter()
    value = function(*args, **kwargs)
    pipe.send((value, time.perf_counter() - started, _peak_mb()))


def _peak_mb() -> float:
    """Return the peak resident memory of this process. A child's getrusage would include its parent's peak."""
    status = Path("/proc/self/status").read_text()
    kilobytes = re.search(r"VmHWM:\s+(\d+)", status)
    assert kilobytes is not None
    return int(kilobytes[1]) / 1000


class Watch:
    """Context manager that samples the CPU time and memory of all processes below this one.

    Args:
        memory: sample memory too, which takes some milliseconds for each process.
        seconds: time between samples.

    Attributes:
        peak_mb: peak of their total memory in MB. Shared pages are counted once; pages of files, such as libraries, are
            not counted, because the kernel drops and reloads them at will.
    """

    def __init__(self, memory: bool = False, seconds: float = 0.2) -> None:
        self.peak_mb = 0.0
        self._memory, self._seconds = memory, seconds
        self._times: list[float] = []
        self._cpu_seconds: list[float] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="watch", daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def cpu_seconds(self, start: float, stop: float) -> float:
        """Return the CPU time from `start` to `stop` (`time.time()`), without that after a process's last sample."""
        before, after = np.interp([start, stop], self._times, self._cpu_seconds)
        return float(after - before)

    def _sample(self) -> None:
        used_by: dict[int, float] = {}  # includes processes that have ended
        while not self._done.wait(self._seconds):
            held_bytes = 0
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):  # the process has ended
                    used = process.cpu_times()
                    used_by[process.pid] = used.user + used.system
                    held_bytes += _held_bytes(process.pid) if self._memory else 0
            self._times.append(time.time())
            self._cpu_seconds.append(sum(used_by.values()))
            self.peak_mb = max(self.peak_mb, held_bytes / 1e6)


def _held_bytes(pid: int) -> int:
    """Return the bytes of a process's memory that belong to no file; 0 if the process has ended."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 1024 * sum(int(kilobytes) for kilobytes in re.findall(r"Pss_(?:Anon|Shmem):\s+(\d+)", rollup))


def print_machine(*libraries: str) -> None:
    """Print the conditions of the figures: day, processor, memory, load, Python, and versions of `libraries`."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    facts = [
        time.strftime("%Y-%m-%d"),
        f"{os.cpu_count()} cores {model[1] if model else platform.processor()}",
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB RAM",
        f"load {os.getloadavg()[0]:.1f}",
        f"Python {platform.python_version()}",
        *(f"{name} {version(name)}" for name in libraries),
    ]
    print(", ".join(facts))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print `rows` under `columns`; all columns but the first are right-aligned."""
    table = Table(box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=160, highlight=False).print(table)


def print_verdict(target: str, measured: str, holds: bool) -> None:
    """Print the line that compares a target with the measured value."""
    print(f"target {target}; measured {measured}: {'yes' if holds else 'NO'}")
