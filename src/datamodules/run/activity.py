"""The activity of ranks, part of their heartbeats, from which any process can show the state of the run."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from datamodules.errors import RunError
from datamodules.run.leases import RANKS
from datamodules.run.store import Store
from datamodules.run.typed_json import build, load

MAX_SECONDS = 1e12  # limit for the times in a file, since the epoch or not: 30,000 years
PHASES = ("read", "transform", "wait", "compute", "write")


@dataclass(frozen=True)
class GpuFigures:
    """Figures of one GPU: shares in percent, 0 to 100; temperature in °C; power in W."""

    name: str = ""
    utilization_percent: float = 0.0
    memory_percent: float = 0.0
    temperature_celsius: float = 0.0
    power_watts: float = 0.0


@dataclass(frozen=True)
class MachineFigures:
    """Figures that `preprocess.job.telemetry` measures where it can: shares in percent, 0 to 100; memory in bytes."""

    cpu_percent: float = 0.0
    memory_percent: float = 0.0
    rss_bytes: int = 0
    gpu: GpuFigures = GpuFigures()


@dataclass(frozen=True)
class ShardProgress:
    """How far a rank is with an open shard, those items included that other ranks finished before it.

    Attributes:
        rows: number of finished items, failures included.
        num_rows: number of items.
        frames: frames of the finished items, and of those in progress the extracted ones.
        cost: bytes of input (`Item.cost`) of the finished items, and of those in progress the extracted share; and 1
            for each item, so that one of unknown size counts, too.
        seconds: since the lease.
    """

    rows: int
    num_rows: int
    frames: int
    cost: int
    seconds: float


@dataclass
class Activity:
    """What one rank is doing, for other processes to read.

    Attributes:
        rank: name of the rank.
        host: name of its machine.
        started: start of the rank, in seconds since the epoch.
        updated: when this was written, in seconds since the epoch.
        items: items finished since the start, failures included.
        failed: failures among them.
        frames: frames extracted since the start, those of items in progress included.
        cost: bytes of input that were processed since the start, as in `ShardProgress`.
        tokens: tokens that models have generated; 0 for models that generate none.
        workers: number of DataLoader workers.
        seconds: time spent by phase: `read` and `transform` in the workers (summed over them), `wait` for a worker,
            `compute`, and `write`.
        shards: progress of the open shards, by name.
        writes_figures: whether the rank may write the figures of the run to loggers; see `preprocess.job.figures`.
        machine: see `MachineFigures`.
    """

    rank: str
    host: str
    started: float
    updated: float = 0.0
    items: int = 0
    failed: int = 0
    frames: int = 0
    cost: int = 0
    tokens: int = 0
    workers: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    shards: dict[str, ShardProgress] = field(default_factory=dict)
    writes_figures: bool = False
    machine: dict[str, Any] = field(default_factory=dict)


def mean_and_peak(measured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean and peak of figures that were measured several times.

    Args:
        measured: the figures by name, one mapping for each time, oldest first; they may be nested.

    Returns:
        By name: `{"mean", "peak"}` of a number, the mean rounded to 0.1; the last value of anything else.
    """
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


def read_activity(store: Store, rank: str) -> Activity | None:
    """Read the activity of the rank named `rank`; None if its file is missing or not one that a rank writes."""
    with suppress(OSError, RunError, ValueError):
        content = load(store.read(f"{RANKS}/{rank}"))
        activity = build(Activity, content.get("activity") if isinstance(content, dict) else None)
        build(MachineFigures, activity.machine, "machine")
        open_seconds = (shard.seconds for shard in activity.shards.values())
        times = (activity.started, activity.updated, *activity.seconds.values(), *open_seconds)
        if all(0 <= seconds < MAX_SECONDS for seconds in times):
            return activity
    return None
