"""The timeline of a run: when each rank made which shard, how it spent the time, and how loaded its machine was.

Ranks that claimed a shard and were replaced by another are listed even if they never committed one.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from datamodules.run.activity import MAX_SECONDS, PHASES
from datamodules.run.record import Record

MAX_BARS = 20_000  # more are joined: those of one rank, one after another
_FIGURES = (
    ("cpu_percent", ("cpu_percent",), "%"),
    ("memory_percent", ("memory_percent",), "%"),
    ("gpu_utilization", ("gpu", "utilization_percent"), "%"),
    ("gpu_memory", ("gpu", "memory_percent"), "%"),
    ("gpu_temperature", ("gpu", "temperature_celsius"), "°C"),
    ("gpu_power", ("gpu", "power_watts"), "W"),
)


class Bar(NamedTuple):
    """One shard of a rank, or several that follow one another.

    Attributes:
        rank: name.
        began, ended: seconds since the epoch.
        shards: names of the first and the last shard.
        num_shards, num_items, num_failed, num_frames: of these.
        phases: seconds by phase; empty: not recorded.
        workers: number of DataLoader workers of the rank.
        holders: ranks that claimed a shard before.
        figures: means of the machine's figures by name, weighted by time; without those that were not measured.
    """

    rank: str
    began: float
    ended: float
    shards: tuple[str, str]
    num_shards: int
    num_items: int
    num_failed: int
    num_frames: int
    phases: dict[str, float]
    workers: int
    holders: list[str]
    figures: dict[str, float]

    def joined(self, other: "Bar") -> "Bar":
        """Return one bar of this and a later one of the same rank."""
        mine, theirs = self.ended - self.began, other.ended - other.began
        figures = {
            name: (self.figures[name] * mine + other.figures[name] * theirs) / ((mine + theirs) or 1.0)
            for name in self.figures.keys() & other.figures.keys()
        }
        return self._replace(
            ended=max(self.ended, other.ended),
            shards=(self.shards[0], other.shards[1]),
            num_shards=self.num_shards + other.num_shards,
            num_items=self.num_items + other.num_items,
            num_failed=self.num_failed + other.num_failed,
            num_frames=self.num_frames + other.num_frames,
            phases={phase: self.phases.get(phase, 0.0) + other.phases.get(phase, 0.0) for phase in PHASES},
            workers=max(self.workers, other.workers),
            holders=self.holders + other.holders,
            figures=figures,
        )


def bars(records: Iterable[Record]) -> list[Bar]:
    """Return the bars of records, by rank and time, without shards whose records have no times, or impossible ones."""
    return sorted(_bar(record) for record in records if _has_times(record))


def thinned(bars: Sequence[Bar]) -> list[Bar]:
    """Return at most about `MAX_BARS` bars: neighbours of one rank are joined if there are more."""
    at_once = -(-len(bars) // MAX_BARS)
    return bars if at_once <= 1 else list(_joined(bars, at_once))  # type: ignore[return-value]


def figures_in(bars: Iterable[Bar]) -> list[dict[str, str]]:
    """Return name and unit of the figures that at least one bar has."""
    measured = {name for bar in bars for name in bar.figures}
    return [{"name": name, "unit": unit} for name, _, unit in _FIGURES if name in measured]


def _joined(bars: Sequence[Bar], at_once: int) -> Iterator[Bar]:
    for _, of_rank in groupby(bars, lambda bar: bar.rank):
        mine = list(of_rank)
        for first in range(0, len(mine), at_once):
            joined, *others = mine[first : first + at_once]
            for other in others:
                joined = joined.joined(other)
            yield joined


def _has_times(record: Record) -> bool:
    return 0 < record.timing.began < MAX_SECONDS and 0 <= record.seconds < MAX_SECONDS  # it may come from someone else


def _bar(record: Record) -> Bar:
    timing = record.timing
    return Bar(
        record.rank,
        timing.began,
        timing.began + record.seconds,
        (record.shard, record.shard),
        1,
        record.planned,
        record.failed,
        record.num_frames,
        timing.phases,
        timing.workers,
        timing.holders,
        dict(_figures(record.machine)),
    )


def _figures(machine: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, path, _ in _FIGURES:
        value: Any = machine
        for part in (*path, "mean"):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, (int, float)):
            yield name, float(value)
