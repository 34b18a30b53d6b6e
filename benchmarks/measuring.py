"""What the benchmarks share: fresh processes, a watch over processes, ratios pair by pair, tables."""

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
    """What a function returned in a process of its own, and what that took.

    Attributes:
        value: its result.
        seconds: from its call to its return; imports and the start of the process are not in it.
        peak_mb: most memory that the process ever had resident, interpreter and libraries included.
    """

    value: T
    seconds: float
    peak_mb: float


@dataclass(frozen=True)
class Ratio:
    """Medians of ratios that were measured pair by pair, with the least and the greatest."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of_pairs(cls, numerators: Iterable[float], denominators: Iterable[float]) -> "Ratio":
        """The ratios of the first to the first, the second to the second, …"""
        ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
        return cls(statistics.median(ratios), min(ratios), max(ratios))

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.least:.3f}–{self.greatest:.3f})"


def in_fresh_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Measured[T]:
    """Call `function` in a new interpreter; RuntimeError if it raises there."""
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
    """Of this process; not from getrusage, whose maximum a child inherits from the process that started it."""
    status = Path("/proc/self/status").read_text()
    kilobytes = re.search(r"VmHWM:\s+(\d+)", status)
    assert kilobytes is not None
    return int(kilobytes[1]) / 1000


class Watch:
    """Samples, while its block runs, what all processes that this one has started use together.

    Args:
        memory: sample memory too, which costs some milliseconds a process.
        seconds: between samples.

    Attributes:
        peak_mb: most memory that they held at once: pages that several share are counted once, and those of files, as
            of libraries, not at all, since the kernel drops and loads them as it likes.
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
        """CPU time from `start` to `stop` (`time.time()`), but for what processes used after their last sample."""
        before, after = np.interp([start, stop], self._times, self._cpu_seconds)
        return float(after - before)

    def _sample(self) -> None:
        used_by: dict[int, float] = {}  # those that have ended, too
        while not self._done.wait(self._seconds):
            held_bytes = 0
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):  # ended meanwhile
                    used = process.cpu_times()
                    used_by[process.pid] = used.user + used.system
                    held_bytes += _held_bytes(process.pid) if self._memory else 0
            self._times.append(time.time())
            self._cpu_seconds.append(sum(used_by.values()))
            self.peak_mb = max(self.peak_mb, held_bytes / 1e6)


def _held_bytes(pid: int) -> int:
    """Of memory that a process has and no file holds; 0: it has ended."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 1024 * sum(int(kilobytes) for kilobytes in re.findall(r"Pss_(?:Anon|Shmem):\s+(\d+)", rollup))


def print_machine(*libraries: str) -> None:
    """Print what figures depend on: day, processor, memory, Python, and the versions of `libraries`."""
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
    """Print `rows` under `columns`, all but the first column to the right."""
    table = Table(box=None, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=160, highlight=False).print(table)


def print_verdict(wanted: str, got: str, holds: bool) -> None:
    """Print the line that compares what was wanted with what came."""
    print(f"wanted {wanted}; got {got}: {'yes' if holds else 'NO'}")
