"""The document of a report: all that its page shows, as one JSON object.

| field       | content                                                                                              |
|-------------|------------------------------------------------------------------------------------------------------|
| location    | folder or URL of the run                                                                             |
| made        | when the report was made, in seconds since the epoch                                                 |
| run         | counts, times, distributions: see `summarized`                                                       |
| compared    | the same of another run; null without `--compare`                                                    |
| timeline    | ranks, bars and figures of machines: see `timeline.Bar`                                              |
| failures    | the first 5,000 failed items, and the number of all                                                  |
| gallery     | entries of chosen samples: see `gallery.Gallery`                                                     |
| commands    | of the command line, to go on from here                                                              |
| config      | text of `config.yaml`; null if it is missing                                                         |
| fingerprint | that of the plan                                                                                     |
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from datamodules.printable import printable, printable_lines
from datamodules.run.effort import Effort
from datamodules.run.failures import failures
from datamodules.run.files import CONFIG
from datamodules.run.folder import Run
from datamodules.run.kind import kind_of
from datamodules.run.outcome import Outcome
from datamodules.run.record import Record
from datamodules.samples.metrics import Metric
from preprocess.report.distributions import Distributions
from preprocess.report.gallery import Gallery
from preprocess.report.rank_files import RankFiles
from preprocess.report.rows import tables
from preprocess.report.selection import Selection
from preprocess.report.status import bottleneck, is_alive, silent_seconds
from preprocess.report.summary import next_commands
from preprocess.report.timeline import Bar, bars, figures_in, thinned

_MAX_FAILURES = 5_000
_MAX_REASON = 500  # characters

Track = Callable[[Iterable[dict[str, Any]], int], Iterable[dict[str, Any]]]


def document(run: Run, media: Path, num_samples: int, compared: Run | None, track: Track) -> dict[str, Any]:
    """Read a run, write the media of its gallery, and return the document of its report.

    Args:
        run: the run.
        media: folder for images and videos.
        num_samples: number of samples in the gallery, at most.
        compared: another run to compare with; None: none.
        track: shows the progress of the gallery: given its entries and their number, yields them.

    Raises:
        RunError: a plan, record or table is damaged. A damaged tar costs only its samples in the gallery.
        ConfigError: the sample kind cannot be used; see `datamodules.run.kind.class_of`.
    """
    kind, records = kind_of(run), Records(run)
    selection = Selection(kind.metrics, num_samples)
    summary = summarized(run, kind.metrics, records, selection)
    rows = selection.chosen()
    return {
        "location": printable(str(run.store)),
        "made": time.time(),
        "run": summary,
        "compared": summarized(compared, kind_of(compared).metrics, Records(compared)) if compared else None,
        "timeline": _timeline(run, bars(records.all)),
        "failures": _failures(run, summary["failed"]),
        "gallery": list(track(Gallery(run, kind, media).entries(rows), len(rows))) if rows else [],
        "commands": next_commands(run, bool(summary["failed"])),
        "config": _config(run),
        "fingerprint": run.plan.fingerprint,
    }


class Records:
    """The records of a run and its retries, each read once.

    Args:
        run: the run.

    Attributes:
        own: those of the run, without its retries.
        splits: number of planned items of each split.
    """

    def __init__(self, run: Run) -> None:
        self.own = list(run.records())
        self._of_retries = [record for retry in run.retries for record in retry.records()]
        self._split_of = {shard.name: shard.split for part in run.with_retries for shard in part.plan.shards}
        self.splits: Counter[str] = Counter()
        for shard in run.plan.shards:
            self.splits[shard.split] += shard.num_items

    @property
    def all(self) -> list[Record]:
        """Those of the run, then those of its retries."""
        return self.own + self._of_retries

    @property
    def tar_bytes(self) -> int:
        """Bytes of the tars, without those that retries have replaced."""
        replaced = {record.replaces for record in self._of_retries}
        return sum(record.tar.bytes for record in self.all if record.shard not in replaced)

    def outcome(self, split: str | None = None) -> Outcome:
        """Count what became of the items of `split`; None: of all."""
        own, of_retries = (
            [record for record in records if split in (None, self._split_of[record.shard])]
            for records in (self.own, self._of_retries)
        )
        return Outcome.of(own, of_retries)


def summarized(
    run: Run, metrics: Sequence[Metric], records: Records, selection: Selection | None = None
) -> dict[str, Any]:
    """Return counts, times and distributions of a run; gives all rows to `selection`.

    Counts are those after all retries. Rates, `ranks` and `phases` are of the run without its retries, whose shards may
    hold samples that they did not compute.

    Args:
        run: the run.
        metrics: of its sample kind.
        records: its records.
        selection: chooses samples; None: none are chosen.
    """
    outcome, effort, made = records.outcome(), Effort.of(records.own), bars(records.all)
    distributions = Distributions(metrics)
    for shard, table in tables(run):
        distributions.add(table)
        if selection:
            selection.add(shard.number, table)
    return {
        "location": printable(str(run.store)),
        "planned": run.plan.num_items,
        "committed": outcome.committed,
        "failed": outcome.failed,
        "missing": run.plan.num_items - outcome.committed - outcome.failed,
        "frames": outcome.num_frames,
        "bytes": records.tar_bytes,
        "statuses": outcome.statuses,
        "failure_classes": outcome.failure_classes,
        "devices": outcome.devices,
        "splits": [_split(name, planned, records.outcome(name)) for name, planned in records.splits.items()],
        "began": min((bar.began for bar in made), default=None),
        "ended": max((bar.ended for bar in made), default=None),
        "seconds": effort.seconds,
        "ranks": effort.ranks,
        "items_per_second": effort.items / effort.seconds if effort.seconds else None,
        "frames_per_second": effort.frames / effort.seconds if effort.seconds else None,
        "phases": effort.phases,
        "bottleneck": bottleneck([effort.phases]) if effort.phases else None,
        "distributions": distributions.to_json(),
    }


def _split(name: str, planned: int, outcome: Outcome) -> dict[str, Any]:
    counts = {"committed": outcome.committed, "failed": outcome.failed, "frames": outcome.num_frames}
    return {"name": name, "planned": planned, **counts}


def _timeline(run: Run, made: Sequence[Bar]) -> dict[str, Any]:
    """Return the ranks, the bars, and the figures that the machines measured."""
    shown, silent = thinned(made), silent_seconds(run.store)
    at_work = {rank.rank: rank for rank in RankFiles(run.store).read()}
    replaced = {name for bar in made for name in bar.holders}
    names = dict.fromkeys([*(bar.rank for bar in made), *sorted(replaced), *at_work])

    def state(name: str) -> str:
        if name not in at_work:
            return "ended"
        return "at work" if is_alive(at_work[name], silent) else "silent"

    ranks = [
        {
            "name": printable(name),
            "state": state(name),
            "seen": at_work[name].updated if name in at_work else None,
            "replaced": name in replaced,
        }
        for name in names
    ]
    numbers = {name: number for number, name in enumerate(names)}
    return {
        "ranks": ranks,
        "figures": figures_in(made),
        "bars": [
            {
                **bar._asdict(),
                "rank": numbers[bar.rank],
                "holders": [numbers[name] for name in bar.holders],
                "phases": {phase: round(seconds, 2) for phase, seconds in bar.phases.items() if seconds},
            }
            for bar in shown
        ],
    }


def _failures(run: Run, num_failed: int) -> dict[str, Any]:
    rows = [
        {
            "key": failure.item.key,
            "name": printable(failure.item.key),
            "split": failure.item.split,
            "source": printable(failure.item.source),
            "reason_class": failure.reason_class,
            "reason": printable(failure.reason[:_MAX_REASON]),
            "attempts": failure.attempts,
        }
        for failure in islice(failures(run), min(num_failed, _MAX_FAILURES))  # of 0, nothing is read
    ]
    return {"num_failed": num_failed, "rows": rows}


def _config(run: Run) -> str | None:
    try:
        return printable_lines(run.store.read(CONFIG).decode())
    except FileNotFoundError:  # of a merged run
        return None
