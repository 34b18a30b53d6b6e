"""What a rank tells of itself in `work/ranks/{rank}.json`, from which any process can draw the state of the run."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from datamodules.errors import RunError
from datamodules.run.files import read_file
from datamodules.run.typed_json import build, load

_MAX_SECONDS = 1e12  # no time of a rank is above, since the epoch or otherwise: 30,000 years
_PHASES = ("read", "transform", "wait", "compute", "write")


@dataclass(frozen=True)
class GpuFigures:
    """What is known of a GPU: shares in percent, 0 to 100, the temperature in °C, the power in W."""

    name: str = ""
    utilization_percent: float = 0.0
    memory_percent: float = 0.0
    temperature_celsius: float = 0.0
    power_watts: float = 0.0


@dataclass(frozen=True)
class MachineFigures:
    """What `preprocess.job.telemetry` measures, as far as it can: shares in percent, 0 to 100, and bytes."""

    cpu_percent: float = 0.0
    memory_percent: float = 0.0
    rss_bytes: int = 0
    gpu: GpuFigures = GpuFigures()


@dataclass
class Activity:
    """What one rank is doing, as other processes see it.

    Attributes:
        rank: its name.
        host: where it runs.
        updated: seconds since the epoch.
        started: seconds since the epoch.
        items: items finished since it started, failures included.
        failed: failures among them.
        frames: frames of the finished items.
        tokens: that models have generated, where they do.
        seconds: where its time went, by phase: `read` and `transform` in the workers (summed over them), `wait` for a
            worker, `compute`, `write`.
        workers: DataLoader workers.
        shards: for each open shard, [rows done, rows in all, seconds since the lease].
        machine: figures of CPU, memory and GPU; see `preprocess.job.telemetry`.
    """

    rank: str
    host: str
    started: float
    updated: float = 0.0
    items: int = 0
    failed: int = 0
    frames: int = 0
    tokens: int = 0
    workers: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_PHASES, 0.0))
    shards: dict[str, tuple[int, int, float]] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)

    def add_seconds(self, phase: str, seconds: float) -> None:
        """Add `seconds` to `phase`."""
        self.seconds[phase] += seconds


def mean_and_peak(measured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`{"mean", "peak"}` of each number that was `measured` several times; what is none, as it was last."""
    summary: dict[str, Any] = {}
    for name in sorted({name for figures in measured for name in figures}):
        values = [figures[name] for figures in measured if name in figures]
        if isinstance(values[-1], Mapping):
            summary[name] = mean_and_peak(values)
        elif isinstance(values[-1], (int, float)):
            summary[name] = {"mean": round(fmean(values), 1), "peak": max(values)}
        else:
            summary[name] = values[-1]
    return summary


def read_activity(path: Path) -> Activity | None:
    """What the rank whose file is `path` tells; None if there is no such file, or one that no rank writes."""
    with suppress(OSError, RunError, ValueError):
        activity = build(Activity, load(read_file(path)))
        build(MachineFigures, activity.machine, "machine")
        open_seconds = (seconds for _, _, seconds in activity.shards.values())
        times = (activity.started, activity.updated, *activity.seconds.values(), *open_seconds)
        if all(0 <= seconds < _MAX_SECONDS for seconds in times):
            return activity
    return None
