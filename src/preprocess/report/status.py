"""The state of a run, read from its folder alone: while it runs, after a crash, from any machine that sees it.

Its progress is the share of its input that is processed, in bytes (`Item.cost`), because the plan knows them for
videos, too. A finished item counts as a whole, and an item in progress by its extracted frames of those to extract,
which are known as soon as a video is opened. The time left follows from the bytes that the ranks processed per second.
"""

import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table

from datamodules.printable import json_line
from datamodules.run.activity import Activity, ShardProgress
from datamodules.run.effort import Effort
from datamodules.run.folder import Run
from datamodules.run.outcome import Outcome
from datamodules.run.parallel_reads import read_each
from datamodules.run.plan import Shard
from datamodules.run.record import Record
from datamodules.run.result import OK
from datamodules.run.store import Store
from preprocess.report.rank_files import RankFiles
from preprocess.terminal import cell

_LATE_SECONDS = 10.0  # a heartbeat may be late by so much


@dataclass(frozen=True)
class Status:
    """How far a run is.

    Attributes:
        folder: folder of the run.
        retry: number of the retry that this status describes; 0: the run.
        planned_items, planned_shards: numbers in the plan.
        planned_frames: number of frames that the listing knows: those of image sequences; 0 for videos.
        progress: share of the run that is done, 0 to 1; see the top of this module.
        shards: number of committed shards.
        items: number of committed items, without failures.
        statuses: number of these by status: `ok`, or a word of the pipeline.
        failed: number of items that failed and that no retry has replaced.
        failure_classes: number of these by class; see `datamodules.errors`.
        frames: number of frames of the committed items.
        spooled: number of rows of open shards that are done.
        open_frames: number of frames that are extracted for open shards.
        ranks: activity of each rank; silent ones are included until they are known to be dead.
        items_per_second, frames_per_second: rates of the ranks alive, since they started; 0 if none is alive.
        tokens_per_second: rate at which models generate tokens, likewise.
        gpu_percent: mean utilization of the ranks' GPUs while the committed shards were made; None without GPUs.
        eta_seconds: time to the end at that rate; None without a rate, 0 if the run is complete.
        bottleneck: phase that takes most of the time of the ranks alive: `read`, `transform`, `compute` or `write`;
            None if none is.
        effort: what the run took, without its retries; None: it is not complete.
        disk_free_bytes: free space on this machine for what ranks keep locally; in a folder also for the shards.
        silent_seconds: a rank that has not written its activity for this long is silent.
        retries: status of each retry by itself, in order.
    """

    folder: str
    retry: int
    planned_items: int
    planned_shards: int
    planned_frames: int
    progress: float
    shards: int
    items: int
    statuses: dict[str, int]
    failed: int
    failure_classes: dict[str, int]
    frames: int
    spooled: int
    open_frames: int
    ranks: list[Activity] = field(repr=False)
    items_per_second: float
    frames_per_second: float
    tokens_per_second: float
    gpu_percent: float | None
    eta_seconds: float | None
    bottleneck: str | None
    effort: Effort | None
    disk_free_bytes: int
    silent_seconds: float
    retries: "list[Status]" = field(repr=False)

    @property
    def is_complete(self) -> bool:
        """Return whether every shard is committed."""
        return self.shards == self.planned_shards

    @property
    def alive(self) -> list[Activity]:
        """Activity of the ranks that are not silent."""
        return [rank for rank in self.ranks if is_alive(rank, self.silent_seconds)]

    def to_json(self) -> str:
        """Return the attributes above as a JSON object, on one line of ASCII."""
        return json_line(self._document())

    def _document(self) -> dict[str, Any]:
        retries = [retry._document() for retry in self.retries]
        return {**asdict(self), "is_complete": self.is_complete, "retries": retries}


class StatusReader:
    """Reads the status of one run repeatedly, and each record only once.

    Args:
        run: the run, or a retry of it.
        rank_files: reads what the ranks are doing; None: the run's own.
    """

    def __init__(self, run: Run, rank_files: RankFiles | None = None) -> None:
        self._rank_files = rank_files or RankFiles(run.store)
        self._run, self._silent_seconds = run, silent_seconds(run.store)
        self._records: dict[str, Record] = {}
        self._planned = {shard.name: shard for shard in run.plan.shards}  # ranks may work on a retry's shards
        self._retries = [StatusReader(retry, self._rank_files) for retry in run.retries]

    def read(self) -> Status:
        """Return the status now.

        Raises:
            RunError: a record is damaged.
        """
        new = sorted(self._run.committed() - self._records.keys())
        self._records.update(zip(new, read_each(self._run.store, self._run.record, new), strict=True))
        retries = [reader.read() for reader in self._retries]
        records, shards = self._records.values(), self._run.plan.shards
        outcome = Outcome.of(records, (record for reader in self._retries for record in reader._records.values()))
        ranks = self._rank_files.read()
        alive = [rank for rank in ranks if is_alive(rank, self._silent_seconds)]
        open_shards = self._open_shards(alive)
        cost = sum(map(_cost, shards))
        left = cost - sum(_cost(self._planned[name]) for name in self._records) - sum(s.cost for s in open_shards)
        rate = sum(_per_second(rank, rank.cost) for rank in alive)
        return Status(
            folder=str(self._run.store),
            retry=self._run.retry,
            planned_items=self._run.plan.num_items,
            planned_shards=len(shards),
            planned_frames=sum(shard.num_frames for shard in shards),
            progress=(cost - left) / cost,
            shards=len(self._records),
            items=outcome.committed,
            statuses=outcome.statuses,
            failed=outcome.failed,
            failure_classes=outcome.failure_classes,
            frames=outcome.num_frames,
            spooled=sum(shard.rows for shard in open_shards),
            open_frames=sum(shard.frames for shard in open_shards),
            ranks=ranks,
            items_per_second=round(sum(_per_second(rank, rank.items) for rank in alive), 3),
            frames_per_second=round(sum(_per_second(rank, rank.frames) for rank in alive), 3),
            tokens_per_second=round(sum(_per_second(rank, rank.tokens) for rank in alive), 3),
            gpu_percent=_gpu_percent(records),
            eta_seconds=0.0 if not left else round(left / rate, 1) if rate else None,
            bottleneck=bottleneck(rank.seconds for rank in alive),
            effort=Effort.of(records) if len(self._records) == len(shards) else None,
            disk_free_bytes=disk_free_bytes(self._run.work),
            silent_seconds=self._silent_seconds,
            retries=retries,
        )

    def _open_shards(self, alive: Iterable[Activity]) -> list[ShardProgress]:
        """Return the progress of each open shard; of two ranks that work on one, that of the rank that is further."""
        furthest: dict[str, ShardProgress] = {}
        for name, found in (shard for rank in alive for shard in rank.shards.items()):
            if name in self._planned and name not in self._records:
                planned = self._planned[name]
                # the file of a rank may come from someone else
                found = replace(found, rows=min(found.rows, planned.num_items), cost=min(found.cost, _cost(planned)))
                furthest[name] = max(found, furthest.get(name, found), key=lambda shard: shard.cost)
        return list(furthest.values())


def _cost(shard: Shard) -> int:
    """Return the cost of a whole shard, as `ShardProgress.cost` counts it."""
    return shard.cost + shard.num_items


def silent_seconds(store: Store) -> float:
    """Return after how many seconds without a heartbeat a rank is silent: two are missing, and the next one is late."""
    return _LATE_SECONDS + 2.5 * store.beat_seconds


def disk_free_bytes(folder: Path) -> int:
    """Return the free space of the file system that holds `folder`, which may not exist yet."""
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free


def is_alive(rank: Activity, silent_seconds: float) -> bool:
    """Return whether a rank has written a heartbeat within the last `silent_seconds`."""
    return time.time() - rank.updated < silent_seconds


def _per_second(rank: Activity, count: int) -> float:
    return count / max(1.0, rank.updated - rank.started)


def _gpu_percent(records: Iterable[Record]) -> float | None:
    busy = [(_percent(record.machine, "gpu", "utilization_percent", "mean"), record.seconds) for record in records]
    measured = [(percent, seconds) for percent, seconds in busy if percent is not None]
    total = sum(seconds for _, seconds in measured)
    return round(sum(percent * seconds for percent, seconds in measured) / total, 1) if total else None


def _percent(figures: Any, *names: str) -> float | None:
    """Return the percentage at `names` in the nested measurements of a machine; None if it is missing."""
    for name in names:
        figures = figures.get(name) if isinstance(figures, dict) else None
    return figures if isinstance(figures, (int, float)) and 0 <= figures <= 100 else None


def bottleneck(phases: Iterable[Mapping[str, float]]) -> str | None:
    """Return the phase that takes most of the ranks' time; None if they spent none.

    If ranks mostly wait for their workers, it is the longer phase of the workers: `read` or `transform`.

    Args:
        phases: seconds by phase, of each rank or of several together; see `activity.PHASES`.
    """
    seconds: Counter[str] = Counter()
    for spent in phases:
        seconds.update({phase: int(1000 * spent_in_phase) for phase, spent_in_phase in spent.items()})
    if not seconds.total():
        return None
    if seconds["wait"] > seconds["compute"] + seconds["write"]:
        return max(("read", "transform"), key=lambda phase: seconds[phase])
    return max(("compute", "write"), key=lambda phase: seconds[phase])


def headline(status: Status) -> str:
    """Return one line that says how far the run is."""
    done = status.items + status.failed + status.spooled
    percent = min(99.9, 100 * status.progress) if status.progress < 1 else 100.0
    parts = [
        f"{done:,} of {status.planned_items:,} items ({percent:.1f} %)",
        f"{status.shards:,} of {status.planned_shards:,} shards",
        f"{status.frames + status.open_frames:,} frames",
        f"{status.failed:,} failed" + (f" ({counts(status.failure_classes)})" if status.failed else ""),
    ]
    if notable := {name: count for name, count in status.statuses.items() if name != OK}:
        parts.append(counts(notable))
    if not status.is_complete:
        if status.items_per_second or status.frames_per_second:
            tokens = f", {status.tokens_per_second:,.1f} tokens/s" if status.tokens_per_second else ""
            parts.append(f"{status.items_per_second:,.1f} items/s, {status.frames_per_second:,.1f} frames/s{tokens}")
        if status.eta_seconds is not None:
            parts.append(f"ETA {duration(status.eta_seconds)}")
        elif not status.alive:
            parts.append("no rank at work")
    if status.gpu_percent is not None:
        parts.append(f"GPUs busy: {status.gpu_percent:.0f} %")
    if status.bottleneck:
        parts.append(f"bottleneck: {status.bottleneck}")
    return " · ".join(parts)


def headlines(status: Status) -> list[str]:
    """Return one line that says how far the run is, and one for each retry that is not complete."""
    going_on = (f"retry {retry.retry}: {headline(retry)}" for retry in status.retries if not retry.is_complete)
    return [headline(status), *going_on]


def render(status: Status) -> RenderableType:
    """Return the status for a terminal: a progress bar, the headline, and a row per rank."""
    rows = Table.grid()
    rows.add_row(cell(status.folder + (f", retry {status.retry}" if status.retry else ""), style="bold"))
    rows.add_row(ProgressBar(total=1.0, completed=status.progress, width=60))
    for line in headlines(status):
        rows.add_row(cell(line))
    rows.add_row(cell(f"disk free: {status.disk_free_bytes / 1e9:,.1f} GB", style="dim"))
    if status.ranks:
        rows.add_row(_rank_table(status))
    return rows


def _rank_table(status: Status) -> Table:
    ranks = status.ranks
    rates = ("frames/s", *(["tokens/s"] if any(rank.tokens for rank in ranks) else []))
    columns = ("rank", "items", *rates, "where its time goes", "CPU", "memory", "GPU")
    table = Table(*columns, box=None, pad_edge=False)
    for rank in ranks:
        silent = time.time() - rank.updated
        name = rank.rank if silent < status.silent_seconds else f"{rank.rank} (silent for {duration(silent)})"
        machine: dict[str, Any] = {"cpu_percent": 0.0, "rss_bytes": 0, "gpu": {}, **rank.machine}
        table.add_row(
            cell(name),
            f"{rank.items:,}",
            *(f"{_per_second(rank, count):,.1f}" for count in (rank.frames, rank.tokens)[: len(rates)]),
            ", ".join(f"{phase} {seconds:,.0f} s" for phase, seconds in sorted(rank.seconds.items())),
            f"{machine['cpu_percent']:.0f} %",
            f"{machine['rss_bytes'] / 1e9:.2f} GB",
            _gpu_text(machine["gpu"]),
        )
    return table


def counts(numbers: Mapping[str, int]) -> str:
    """Return numbers by name as text: `decode 2, io 1`."""
    return ", ".join(f"{name} {number:,}" for name, number in sorted(numbers.items()))


def _gpu_text(gpu: dict[str, Any]) -> str:
    """Return `93 %, memory 41 %, 61 °C, 310 W`, or those of these that were measured."""
    shown = (
        ("utilization_percent", "{:.0f} %"),
        ("memory_percent", "memory {:.0f} %"),
        ("temperature_celsius", "{} °C"),
        ("power_watts", "{} W"),
    )
    return ", ".join(form.format(gpu[name]) for name, form in shown if name in gpu) or "–"


def duration(seconds: float) -> str:
    """Return `1 d 2 h`, `3 h 20 min`, `5 min 6 s` or `7 s`."""
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole % 60} s"
