"""Effort: how long a run took and where its time went, from its records."""

from collections.abc import Iterable
from dataclasses import dataclass

from datamodules.run.activity import MAX_SECONDS, PHASES
from datamodules.run.record import Record


@dataclass(frozen=True)
class Effort:
    """What the committed shards of a run, or of a retry, took.

    Attributes:
        ranks: number of ranks that committed shards.
        items: number of items, failures included.
        frames: number of frames of the samples.
        seconds: time in which at least one rank worked on one of these shards. So the time between an interruption and
            the command that resumed the run does not count. 0: the records do not say when they began.
        phases: seconds by phase, summed over the ranks; see `Timing.phases`. Empty: the records do not say.
    """

    ranks: int
    items: int
    frames: int
    seconds: float
    phases: dict[str, float]

    @classmethod
    def of(cls, records: Iterable[Record]) -> "Effort":
        """Add up records."""
        ranks: set[str] = set()
        items = frames = 0
        spans: list[tuple[float, float]] = []
        phases: dict[str, float] = {}
        for record in records:
            ranks.add(record.rank)
            items, frames = items + record.planned, frames + record.num_frames
            spans.append((record.timing.began, record.seconds))
            for name, seconds in record.timing.phases.items():
                if name in PHASES and 0 <= seconds < MAX_SECONDS:  # a record may come from someone else
                    phases[name] = phases.get(name, 0.0) + seconds
        return cls(len(ranks), items, frames, _seconds_covered(spans), phases)


def _seconds_covered(spans: list[tuple[float, float]]) -> float:
    """Return the seconds that are in at least one of `spans`, given as (start, length); 0 if one is not known."""
    if not all(0 < start < MAX_SECONDS and 0 <= length < MAX_SECONDS for start, length in spans):
        return 0.0
    total = end = 0.0
    for start, length in sorted(spans):
        total += max(0.0, start + length - max(start, end))
        end = max(end, start + length)
    return round(total, 3)
