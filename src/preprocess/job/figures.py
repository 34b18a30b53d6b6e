"""Figures of a run for Lightning's loggers, such as TensorBoard and W&B, which `--trainer.logger` names.

| figure                                  | meaning                                                                    |
|-----------------------------------------|----------------------------------------------------------------------------|
| progress                                | share of the run that is done, 0 to 1                                      |
| items, frames                           | number of finished items, of all ranks and commands, and of their frames   |
| failed                                  | number of items that failed, of committed shards                           |
| shards, ranks                           | number of committed shards, and of ranks at work                           |
| items_per_second, frames_per_second     | rates of the ranks at work, since they started                             |
| tokens_per_second                       | the same of generated tokens, if models generate any                       |
| eta_seconds                             | time left at that rate, if there is one                                    |
| seconds/read, /transform, /wait, …      | where the time of the ranks at work went, summed over them                 |
| cpu_percent, memory_percent             | load of the machines, mean over the ranks, 0 to 100                        |
| gpu/utilization_percent, /power_watts … | of the GPUs, mean over the ranks that have one                             |

The figures are those of the whole run. So one rank writes them: of the ranks that could, the one that started first. If
it ends before the run does, the next one goes on, in a log of its own.
"""

import os
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from statistics import fmean

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from datamodules.run.activity import PHASES
from datamodules.run.rank import Rank
from preprocess.job.placement import POSITION, is_first_on_machine
from preprocess.report.status import Status
from preprocess.terminal import note

_INTERVAL_SECONDS = 10.0
_GPU_LOADS = ("utilization_percent", "memory_percent", "temperature_celsius", "power_watts")
_LOADS = ("cpu_percent", "memory_percent", *(f"gpu/{name}" for name in _GPU_LOADS))


class FigureLog:
    """Writes the figures of a run to Lightning's loggers, every 10 s and at the end, if it is this rank's turn.

    A thread of its own calls the loggers. One that waits for its server, or raises an error, stops nothing else.

    Args:
        loggers: as the user configured them.
        rank: this process's rank.
    """

    def __init__(self, loggers: Sequence[Logger], rank: Rank) -> None:
        self._loggers, self._rank = loggers, rank
        self._unwritten: Status | None = None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        rank.activity.writes_figures = True

    def add(self, status: Status) -> None:
        """Let the figures of `status` be written next, if it is this rank's turn."""
        writers = (rank for rank in status.alive if rank.writes_figures)
        first = min(writers, key=lambda rank: (rank.started, rank.rank), default=None)
        if first is None or first.rank != self._rank.name:
            return
        self._unwritten = status
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="figures", daemon=True)
            self._thread.start()

    def publish(self) -> None:
        """Write a heartbeat, so that the next status has this rank's current figures."""
        with suppress(OSError):  # the last heartbeat is good enough
            self._rank.publish()

    def close(self) -> None:
        """Write the last figures."""
        self._closing.set()
        if self._thread:
            self._thread.join()

    def _write_all(self) -> None:
        try:
            while not self._closing.wait(_INTERVAL_SECONDS):
                self._write()
            self._write()
            for logger in self._loggers:
                logger.finalize("success")
        except OSError as error:  # a full disk, a server that does not answer
            note(f"the logger cannot be written to ({error}). Figures are not logged any more", "yellow")

    def _write(self) -> None:
        status, self._unwritten = self._unwritten, None
        if status is not None:
            numbers, step = figures(status), round(time.time() - self._rank.activity.started)
            for logger in self._loggers:
                logger.log_metrics(numbers, step)
                logger.save()


def may_write_figures() -> bool:
    """Return whether this rank may write to loggers: rank 0 of a launch. In others Lightning's loggers do nothing."""
    is_first = is_first_on_machine() or os.environ.get(POSITION) == "0.0"  # the first rank of `preprocess ray`
    return is_first and rank_zero_only.rank == 0  # type: ignore[attr-defined]


def figures(status: Status) -> dict[str, float]:
    """Return the figures of the table above, by name."""
    numbers: dict[str, float | None] = {
        "progress": status.progress,
        "items": status.items + status.failed + status.spooled,
        "frames": status.frames + status.open_frames,
        "failed": status.failed,
        "shards": status.shards,
        "ranks": len(status.alive),
        "items_per_second": status.items_per_second,
        "frames_per_second": status.frames_per_second,
        "tokens_per_second": status.tokens_per_second or None,
        "eta_seconds": status.eta_seconds,
        **{f"seconds/{phase}": sum(rank.seconds.get(phase, 0.0) for rank in status.alive) for phase in PHASES},
    }
    loads: dict[str, list[float]] = defaultdict(list)
    for rank in status.alive:
        gpu = {f"gpu/{name}": value for name, value in rank.machine.get("gpu", {}).items()}
        for name, value in {**rank.machine, **gpu}.items():
            if name in _LOADS:
                loads[name].append(value)
    means = {name: fmean(values) for name, values in loads.items()}
    return {name: float(value) for name, value in {**numbers, **means}.items() if value is not None}
