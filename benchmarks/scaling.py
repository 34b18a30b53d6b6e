"""Time of a run on 1, 2 and 4 ranks, also with a slow rank or a long item; and claims of 1,000 ranks on one folder.

    python benchmarks/scaling.py

**Finishing.** A rank is a process with a real `Rank` and a real `FrameLoader`, which reads small PNGs. It sleeps for
every frame instead of running a model, so that ranks do not compete for the cores of one machine. The ideal time is the
number of items over the summed speed of the ranks, where the speed of a fast rank is what it reached alone. Time counts
from when all ranks are ready to the last commit. The long item is the last of the corpus and has 100 times as
many frames as the others, for which it counts 100 times in the ideal.

**Claiming.** 1,000 ranks in a few processes lease the shards of one folder until all are leased, and compute nothing:
far more claims per second than real ranks make. They begin at different shards, as ranks of one launch do
(`preprocess.job.placement.rank_position`), or all at the first shard. A conflict is a claim that another rank won
first. When all shards are leased, one more rank searches the claims of the others for work, as every idle rank does
every few seconds.
"""

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from datamodules.corpus import Corpus, Item
from datamodules.loading.loader import FrameLoader
from datamodules.loading.request import FrameRequest
from datamodules.run.folder import Run
from datamodules.run.leases import Leases
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import ShardSize
from datamodules.run.rank import Rank
from datamodules.run.result import Result
from datamodules.run.schedule import Schedule
from datamodules.run.store import Store
from measuring import print_machine, print_table, print_verdict

_SLICE_FRAMES = 8
_SLOWNESS = {"1 rank": (1,), "2 ranks": (1, 1), "4 ranks": (1, 1, 1, 1), "4 ranks, one 10 x slower": (1, 1, 1, 10)}
_LONG = "4 ranks, one item 100 x longer"
_TIMES_LONGER = 100
_MOST_TO_IDEAL, _MOST_TO_IDEAL_LONG = 1.15, 1.1
_BEGINNINGS = {"begin apart": True, "begin together": False}


class Repeated(Corpus):
    """`num_items` items, all with the same folder of frames, and one that has them `times_longer` times."""

    def __init__(self, root: str, frames: tuple[str, ...], num_items: int, times_longer: int = 0) -> None:
        self.root, self.frames, self.num_items, self.times_longer = root, frames, num_items, times_longer

    def items(self) -> Iterator[Item]:
        """Yield the items."""
        for number in range(self.num_items):
            yield Item(f"train/{number}", "train", ".", self.frames, cost=1)
        if self.times_longer:
            yield Item("train/long", "train", ".", self.frames * self.times_longer, cost=self.times_longer)


class Claims(NamedTuple):
    """Claims of the ranks in one process: numbers of claims won and lost, and start and end in monotonic seconds."""

    won: int
    lost: int
    began: float
    ended: float


def main() -> None:
    """Run the benchmark and print its tables and verdicts."""
    options = _options()
    print_machine("torch")
    with tempfile.TemporaryDirectory() as scratch:
        _finishing(Path(scratch), options)
        _claiming(Path(scratch), options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=320, help="items of each run (default: 320)")
    parser.add_argument("--frames", type=int, default=8, help="frames of each item (default: 8)")
    parser.add_argument("--seconds-per-frame", type=float, default=0.05, help="sleep of a fast rank (default: 0.05)")
    parser.add_argument("--ranks", type=int, default=1000, help="ranks that claim (default: 1000)")
    parser.add_argument("--processes", type=int, default=8, help="processes that these ranks share (default: 8)")
    parser.add_argument("--shards", type=int, default=4000, help="shards that they claim (default: 4000)")
    options: argparse.Namespace = parser.parse_args()
    return options


# Finishing


def _finishing(scratch: Path, options: argparse.Namespace) -> None:
    root = scratch / "frames"
    root.mkdir()
    corpus = Repeated(str(root), make_frames(root, options.frames), options.items)
    item_seconds, rows, ratios = 0.0, [], []
    for name, slowness in _SLOWNESS.items():
        taken = _finish(scratch / name, corpus, [options.seconds_per_frame * slow for slow in slowness])
        item_seconds = item_seconds or taken / options.items  # of one fast rank that runs alone
        more = [(slow - 1) * options.frames * options.seconds_per_frame for slow in slowness]
        ideal = options.items / sum(1 / (item_seconds + seconds) for seconds in more)
        ratios.append(taken / ideal)
        rows.append((name, f"{ideal:.1f}", f"{taken:.1f}", f"{ratios[-1]:.3f}", _shares(Run(scratch / name))))
    unequal = Repeated(corpus.root, corpus.frames, options.items, _TIMES_LONGER)
    taken = _finish(scratch / _LONG, unequal, [options.seconds_per_frame] * 4)
    ideal = item_seconds * max(_TIMES_LONGER, (options.items + _TIMES_LONGER) / 4)
    rows.append((_LONG, f"{ideal:.1f}", f"{taken:.1f}", f"{taken / ideal:.3f}", _shares(Run(scratch / _LONG))))
    print_table(("", "ideal s", "taken s", "ratio", "items of each rank"), rows)
    share = options.frames * options.seconds_per_frame / item_seconds
    print(f"one rank alone sleeps {share:.0%} of its time; the rest is reading and committing")
    print_verdict(f"≤ {_MOST_TO_IDEAL} x the ideal", f"{max(ratios):.3f} x at most", max(ratios) <= _MOST_TO_IDEAL)
    print_verdict(f"≤ {_MOST_TO_IDEAL_LONG} x, {_LONG}", f"{taken / ideal:.3f} x", taken / ideal <= _MOST_TO_IDEAL_LONG)


def make_frames(folder: Path, count: int) -> tuple[str, ...]:
    """Write `count` black images, and return their names."""
    import torch
    from torchvision.io import write_png

    names = tuple(f"images{number:04d}.png" for number in range(1, count + 1))
    for name in names:
        write_png(torch.zeros(3, 260, 210, dtype=torch.uint8), str(folder / name))
    return names


def _finish(folder: Path, corpus: Repeated, seconds_per_frame: Sequence[float]) -> float:
    run = open_or_plan(folder, corpus, {}, ShardSize())
    context = _context()
    ready = context.Barrier(len(seconds_per_frame) + 1)
    ranks = [
        context.Process(target=_be_a_rank, args=(folder, corpus.root, index / len(seconds_per_frame), seconds, ready))
        for index, seconds in enumerate(seconds_per_frame)
    ]
    for rank in ranks:
        rank.start()
    ready.wait()
    started = time.time()
    for rank in ranks:
        rank.join()
    return max(run.committed_at(shard.name) for shard in run.plan.shards) - started


def _be_a_rank(folder: Path, root: str, position: float, seconds_per_frame: float, ready: Any) -> None:
    run = Run(folder)
    ready.wait()
    with Rank(run, position=position) as rank:
        for batch in FrameLoader(rank, root, FrameRequest(_SLICE_FRAMES), num_workers=0):
            time.sleep(seconds_per_frame * len(batch["rows"]))
            for summary in batch["summaries"]:
                rank.add(batch["shard"], Result(summary.row, summary.num_frames), {"json": b"{}"})


def _shares(run: Run) -> str:
    items: dict[str, int] = {}
    for record in run.records():
        items[record.rank] = items.get(record.rank, 0) + record.planned
    return " ".join(str(count) for count in sorted(items.values(), reverse=True))


# Claiming


def _claiming(scratch: Path, options: argparse.Namespace) -> None:
    rows = []
    for name, apart in _BEGINNINGS.items():
        folder = scratch / name
        run = open_or_plan(folder, Repeated("/nowhere", (), options.shards), {}, ShardSize(max_items=1))
        claims, search_seconds = claim_all(run, options.ranks, options.processes, apart)
        won, lost = sum(c.won for c in claims), sum(c.lost for c in claims)
        assert won == options.shards, f"{won} of {options.shards} shards were leased"
        seconds = max(c.ended for c in claims) - min(c.began for c in claims)
        share = f"{lost / (won + lost):.1%}"
        rows.append((name, f"{won:,}", f"{won / seconds:,.0f}", f"{lost:,}", share, f"{search_seconds:.2f}"))
    columns = (f"{options.ranks:,} ranks", "leased", "leases/s", "conflicts", "of all claims", "idle rank's search, s")
    print_table(columns, rows)


def claim_all(run: Run, num_ranks: int, num_processes: int, apart: bool) -> tuple[list[Claims], float]:
    """Return the claims of each process, and the seconds in which an idle rank searches all claims for work."""
    context = _context()
    ready, results = context.Barrier(num_processes + 1), context.SimpleQueue()
    positions = [number / num_ranks if apart else 0.0 for number in range(num_ranks)]
    processes = [
        context.Process(target=_claim, args=(run.store, positions[number::num_processes], ready, results), daemon=True)
        for number in range(num_processes)
    ]
    for process in processes:
        process.start()
    ready.wait()
    claims = [results.get() for _ in processes]
    with Rank(run) as idle:
        started = time.perf_counter()
        idle.lease()  # returns a shard whose holder seems slow, or none
        search_seconds = time.perf_counter() - started
    ready.wait()
    for process in processes:
        process.join()
    return claims, search_seconds


def _claim(store: Store, positions: Sequence[float], ready: Any, results: Any) -> None:
    """Lease shards as several ranks in turn until none is left, then hold them until all processes are ready."""
    count = Counter[bool]()
    claim = Leases.claim

    def counted(leases: Leases, name: str, generation: int = 0) -> bool:
        won = claim(leases, name, generation)
        count[won] += 1
        return won

    run = Run(store)
    with ExitStack() as stack:
        stack.enter_context(patch.object(Leases, "claim", counted))
        stack.enter_context(patch.object(Schedule, "_claim_from_others", return_value=()))
        ranks = [stack.enter_context(Rank(run, position=position)) for position in positions]
        ready.wait()
        began = time.monotonic()
        while ranks:
            ranks = [rank for rank in ranks if _lease(rank)]
        results.put(Claims(count[True], count[False], began, time.monotonic()))
        ready.wait()


def _lease(rank: Rank) -> bool:
    opened = rank.lease()
    if opened:
        opened.spool.close()  # thousands of open files in one process are not what is measured
    return opened is not None


def _context() -> Any:
    context = get_context("forkserver")
    context.set_forkserver_preload([FrameLoader.__module__])
    return context


if __name__ == "__main__":
    main()
