"""Time, memory and size of plans: planning, resuming, workers and `status` for runs of 10^4, 10^5 and 10^6 items.

    python benchmarks/plan.py
    python benchmarks/plan.py --items 1000000 10000000
    python benchmarks/plan.py --items 100000000 --copied

| step   | meaning                                                                                                  |
|--------|----------------------------------------------------------------------------------------------------------|
| plan   | `open_or_plan` on a new folder: list the corpus, assign items to shards, write the plan                  |
| commit | commit half of the shards, at most 500, with the real code; shown without a target                       |
| resume | the start of a rank before its first frame: `open_or_plan`, enter `Rank`, lease a shard                  |
| worker | a DataLoader worker gets the plan and reads all items of one shard, one by one                           |
| status | `preprocess status`: `StatusReader.read`                                                                 |
| extend | `run --extend` after the corpus gained 1,000 items: list it, compare it with the plan, plan these       |

A step is a fresh process; its time is without imports, its memory with them. The items come from a generator that opens
no file; `--frames` gives every item that many frame names, as in a corpus of image folders. With `--copied` all shards
have the first 1,000 items, which takes seconds where planning takes hours, and nothing is committed.
"""

import argparse
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa

from datamodules.corpus import Corpus, Item
from datamodules.run import extension, planning
from datamodules.run.folder import Run
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import Plan, ShardSize
from datamodules.run.rank import Rank
from datamodules.run.result import Result
from datamodules.run.store import Folder
from measuring import Measured, in_fresh_process, print_machine, print_table, print_verdict
from preprocess.report.status import StatusReader

_FINGERPRINT = {"extractor": {"class_path": "none"}}
_SAMPLE = {"json": b"{}"}
_MOST_SECONDS = 10.0  # until a rank, a worker or `status` has begun
_MOST_MB = 300.0
_MOST_BYTES = 60.0  # of both files of a plan, per item
_MOST_COMMITTED = 500
_MOST_GROWTH = 1.5  # of the seconds per item from 10^5 to 10^6 items; at 10^4, constant costs still count


class GeneratedItems(Corpus):
    """`num_items` videos, or frame sequences if `num_frames` is not 0, without files."""

    def __init__(self, num_items: int, num_frames: int = 0) -> None:
        self.root, self.num_items, self.num_frames = "/nowhere", num_items, num_frames

    def items(self) -> Iterator[Item]:
        """Yield the items."""
        frames = tuple(f"images{number:04d}.png" for number in range(1, self.num_frames + 1))
        meta = {"signer": "Signer01", "glosses": "MORGEN REGEN MOEGLICH", "text": "morgen kann es regnen"}
        for number in range(self.num_items):
            name = f"{number // 1000:04d}/video{number:07d}"
            cost = (1 << 20) + number * 2654435761 % 99991  # any size and any time
            modified = 1.7e9 + number * 40503 % 999983 / 8
            yield Item(f"train/{name}", "train", f"{name}.mp4", frames, cost=cost, modified=modified, meta=meta)


def plan(folder: Path, corpus: GeneratedItems) -> int:
    """Plan a new run. Returns its number of shards."""
    return len(open_or_plan(folder, corpus, _FINGERPRINT, ShardSize()).plan.shards)


def plan_copied(folder: Path, corpus: GeneratedItems) -> int:
    """Write a plan whose shards all have the first 1,000 items. Returns its number of shards."""
    plan_first = folder / "first"
    open_or_plan(plan_first, GeneratedItems(1000, corpus.num_frames), _FINGERPRINT, ShardSize(min_shards=1))
    first = Run(plan_first).plan
    batch = pa.Table.from_batches(map(first.batch, range(len(first.shards)))).combine_chunks().to_batches()[0]
    packed, batches = planning._packed(batch), repeat(batch, corpus.num_items // len(batch))
    with patch.object(planning, "_packed", lambda _: packed):  # packing the same rows 10^5 times would take minutes
        planning.write_batches(Folder(folder), batches, _FINGERPRINT, listing="", roots=[corpus.root])
    return len(Run(folder).plan.shards)


def commit_half(folder: Path, corpus: GeneratedItems) -> int:
    """Commit a sample for every item of half of the shards, or of 500. Returns the number of committed shards."""
    run = Run(folder)
    with Rank(run) as rank:
        for _ in range(min(_MOST_COMMITTED, len(run.plan.shards) // 2)):
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


def worker(folder: Path, corpus: GeneratedItems) -> int:
    """Read the items of the last shard as a worker does. Returns their number."""
    plan: Plan = pickle.loads(pickle.dumps(Run(folder).plan))
    number, row = plan.place(plan.num_items - 1)
    return len([plan.item(number, row) for row in range(row + 1)])


def status(folder: Path, corpus: GeneratedItems) -> int:
    """Read the status. Returns the number of finished items."""
    return StatusReader(Run(folder)).read().items


def extend(folder: Path, corpus: GeneratedItems) -> int:
    """Extend the run by 1,000 items. Returns its number of items."""
    grown = GeneratedItems(corpus.num_items + 1000, corpus.num_frames)
    return extension.extend(Run(folder), grown, _FINGERPRINT, ShardSize(), time.time()).plan.num_items


def main() -> None:
    """Run the benchmark and print its tables and verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[10**4, 10**5, 10**6], help="sizes, ascending")
    parser.add_argument("--frames", type=int, default=0, help="frame names of each item; 0 (default): a video")
    parser.add_argument("--copied", action="store_true", help="plan copies of 1,000 items, and commit nothing")
    options = parser.parse_args()
    print_machine("pyarrow")
    first: list[Callable[[Path, GeneratedItems], int]] = [plan_copied] if options.copied else [plan, commit_half]
    steps = [*first, resume, worker, status, *([] if options.copied else [extend])]
    measured: dict[int, dict[str, Measured[int]]] = {}
    sizes: dict[int, tuple[int, int]] = {}  # bytes of plan.arrow, and of the items
    for num_items in options.items:
        with tempfile.TemporaryDirectory() as scratch:
            folder, corpus = Path(scratch), GeneratedItems(num_items, options.frames)
            measured[num_items] = {step.__name__: in_fresh_process(step, folder, corpus) for step in steps}
            planned = Run(folder).plan
            sizes[num_items] = (folder / planned.name).stat().st_size, (folder / planned.rows_name).stat().st_size
    rows = [
        (
            f"{num_items:,}",
            f"{taken[first[0].__name__].value:,}",
            " + ".join(f"{size / 1e6:,.1f} MB" for size in sizes[num_items]),
            *(f"{m.seconds:.2f} s, {m.peak_mb:.0f} MB" for m in taken.values()),
        )
        for num_items, taken in measured.items()
    ]
    print_table(("items", "shards", "size", *(step.__name__.replace("_", " ") for step in steps)), rows)
    _print_verdicts(measured, sizes)


def _print_verdicts(measured: dict[int, dict[str, Measured[int]]], sizes: dict[int, tuple[int, int]]) -> None:
    most = max(measured)
    begun = {step: measured[most][step] for step in ("resume", "worker", "status")}
    print_verdict(
        f"{most:,} items: each of {', '.join(begun)} in < {_MOST_SECONDS:g} s and < {_MOST_MB:g} MB",
        ", ".join(f"{step} {m.seconds:.2f} s and {m.peak_mb:.0f} MB" for step, m in begun.items()),
        all(m.seconds < _MOST_SECONDS and m.peak_mb < _MOST_MB for m in begun.values()),
    )
    per_item = sum(sizes[most]) / most
    print_verdict(f"< {_MOST_BYTES:g} bytes per item", f"{per_item:.1f} bytes", per_item < _MOST_BYTES)
    if len(measured) > 1:
        *_, middle, _ = measured
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
