"""Time and peak memory of planning, resuming and `status` for runs of 10^4, 10^5 and 10^6 items.

    python benchmarks/plan.py

| step   | meaning                                                                                                  |
|--------|----------------------------------------------------------------------------------------------------------|
| plan   | `open_or_plan` on a new folder: list the corpus, assign items to shards, write the plan                  |
| commit | commit half of the shards with the real code; shown without a target                                     |
| resume | the start of a rank before its first frame: `open_or_plan`, enter `Rank`, lease a shard                  |
| status | `preprocess status`: `StatusReader.read`                                                                 |

A step is a fresh process; its time is without imports, its memory with them. The items come from a generator that opens
no file; `--frames` gives every item that many frame names, as in a corpus of image folders.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from datamodules.corpus import Corpus, Item
from datamodules.run.folder import Run
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import ShardSize
from datamodules.run.rank import Rank
from datamodules.run.result import Result
from measuring import Measured, in_fresh_process, print_machine, print_table, print_verdict
from preprocess.report.status import StatusReader

_FINGERPRINT = {"extractor": "none"}
_SAMPLE = {"json": b"{}"}
_MOST_RESUME_SECONDS = 10.0
_MOST_RESUME_MB = 500.0
_MOST_GROWTH = 1.5  # of the seconds per item from 10^5 to 10^6 items; at 10^4, constant costs still count


class GeneratedItems(Corpus):
    """`num_items` videos, or frame sequences if `num_frames` is not 0, without files."""

    def __init__(self, num_items: int, num_frames: int = 0) -> None:
        self.root, self.num_items, self.num_frames = "/nowhere", num_items, num_frames

    def items(self) -> Iterator[Item]:
        """Yield the items."""
        frames = tuple(f"images{number:04d}.png" for number in range(1, self.num_frames + 1))
        meta = {"signer": "Signer01", "glosses": "MORGEN REGEN MOEGLICH", "translation": "morgen kann es regnen"}
        for number in range(self.num_items):
            name = f"{number // 1000:04d}/video{number:07d}"
            yield Item(f"train/{name}", "train", f"{name}.mp4", frames, cost=1 << 20, meta=meta)


def plan(folder: Path, corpus: GeneratedItems) -> int:
    """Plan a new run. Returns its number of shards."""
    return len(open_or_plan(folder, corpus, _FINGERPRINT, ShardSize()).plan.shards)


def commit_half(folder: Path, corpus: GeneratedItems) -> int:
    """Commit a sample for every item of half of the shards. Returns the number of committed shards."""
    run = Run(folder)
    with Rank(run) as rank:
        for _ in range(len(run.plan.shards) // 2):
            opened = rank.lease()
            assert opened is not None
            for row in opened.missing:
                rank.add(opened.shard.number, Result(row, num_frames=1), _SAMPLE)
    return len(run.committed())


def resume(folder: Path, corpus: GeneratedItems) -> int:
    """Resume the run up to the first leased shard. Returns the shard's number of items."""
    with Rank(open_or_plan(folder, corpus, _FINGERPRINT, ShardSize())) as rank:
        opened = rank.lease()
        assert opened is not None
        return len(opened.items)


def status(folder: Path, corpus: GeneratedItems) -> int:
    """Read the status. Returns the number of finished items."""
    return StatusReader(Run(folder)).read().items


def main() -> None:
    """Run the benchmark and print its tables and verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[10**4, 10**5, 10**6], help="sizes, ascending")
    parser.add_argument("--frames", type=int, default=0, help="frame names of each item; 0 (default): a video")
    options = parser.parse_args()
    print_machine("pyarrow")
    steps: list[Callable[[Path, GeneratedItems], int]] = [plan, commit_half, resume, status]
    measured: dict[int, dict[str, Measured[int]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for num_items in options.items:
            folder, corpus = Path(scratch) / str(num_items), GeneratedItems(num_items, options.frames)
            measured[num_items] = {step.__name__: in_fresh_process(step, folder, corpus) for step in steps}
    rows = [
        (
            f"{num_items:,}",
            f"{taken['plan'].value:,}",
            *(f"{m.seconds:.2f} s, {m.peak_mb:.0f} MB" for m in taken.values()),
        )
        for num_items, taken in measured.items()
    ]
    print_table(("items", "shards", "plan", "commit half", "resume", "status"), rows)
    _print_verdicts(measured)


def _print_verdicts(measured: dict[int, dict[str, Measured[int]]]) -> None:
    *_, middle, most = measured
    largest = measured[most]["resume"]
    print_verdict(
        f"{most:,} items resumed in < {_MOST_RESUME_SECONDS:g} s and < {_MOST_RESUME_MB:g} MB",
        f"{largest.seconds:.2f} s and {largest.peak_mb:.0f} MB",
        largest.seconds < _MOST_RESUME_SECONDS and largest.peak_mb < _MOST_RESUME_MB,
    )
    growth = {
        step: measured[most][step].seconds / most / (measured[middle][step].seconds / middle)
        for step in ("plan", "resume", "status")
    }
    print_verdict(
        f"linear: seconds per item grow ≤ {_MOST_GROWTH} x from {middle:,} to {most:,} items",
        ", ".join(f"{step} {ratio:.2f} x" for step, ratio in growth.items()),
        max(growth.values()) <= _MOST_GROWTH,
    )


if __name__ == "__main__":
    main()
