"""What a rank tells of itself in `work/ranks/{rank}.json`, from which any process can draw the state of the run."""

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_PHASES = ("read", "transform", "wait", "compute", "write")


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
        seconds: where its time went, by phase: `read` and `transform` in the workers (summed over them), `wait` for a
            worker, `compute`, `write`.
        workers: DataLoader workers.
        shards: for each open shard, [rows done, rows in all, seconds since the lease].
        machine: CPU, memory, disk and GPU figures; see `preprocess.status`.
    """

    rank: str
    host: str
    started: float
    updated: float = 0.0
    items: int = 0
    failed: int = 0
    frames: int = 0
    workers: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_PHASES, 0.0))
    shards: dict[str, tuple[int, int, float]] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)

    def spend(self, phase: str, seconds: float) -> None:
        """Add `seconds` to `phase`."""
        self.seconds[phase] += seconds


def read_activity(path: Path) -> Activity | None:
    """What the rank whose file is `path` tells; None if there is no such file, or none that can be read."""
    with suppress(OSError, ValueError, TypeError):
        return Activity(**json.loads(path.read_text()))
    return None
