"""Run interleavings of ranks with faults in a simulated folder or bucket, and count the failures.

    python benchmarks/simulation.py --interleavings 1000000 --processes 2
    python benchmarks/simulation.py --store bucket --seed 12345
    python benchmarks/simulation.py --ranks 1000 --shards 5000

The first command tries the seeds from `--first` on, and prints those that fail. The second prints the steps of one
seed, shrunk first if it fails. `tests/support/simulated/` describes what is simulated and which conditions must hold.
"""

import argparse
import gc
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from measuring import print_machine, print_table, print_verdict
from support.simulated.choices import FAULTS, STORES, Choices, RandomChoices
from support.simulated.crowd import claim_all
from support.simulated.line import interleave, shrunk, simulated, story_of

_BATCH = 500


@dataclass
class _Tally:
    """Results of a number of seeds."""

    num_steps: int = 0
    seconds: float = 0.0
    faults: Counter[int] = field(default_factory=Counter)
    failures: dict[int, str] = field(default_factory=dict)


def main() -> None:
    """Try many seeds, or print the steps of one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=STORES, default="folder", help="where the run is (default: folder)")
    parser.add_argument("--interleavings", type=int, default=20_000, help="number of seeds (default: 20,000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--processes", type=int, default=2, help="processes that share the seeds (default: 2)")
    parser.add_argument("--ranks", type=int, help="let so many ranks claim the shards of a run in a bucket instead")
    parser.add_argument("--shards", type=int, default=5000, help="that these ranks claim (default: 5,000)")
    parser.add_argument("--seed", type=int, help="print the steps of this seed instead")
    options = parser.parse_args()
    if options.seed is not None:
        sys.exit(_print_steps(options.store, options.seed))
    print_machine("greenlet")
    if options.ranks is not None:
        _claim(options.ranks, options.shards)
        return
    seeds = range(options.first, options.first + options.interleavings)
    started = time.perf_counter()
    total = _Tally()
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for tally in pool.imap_unordered(partial(_try, options.store), _batches(seeds)):
            total.num_steps += tally.num_steps
            total.seconds += tally.seconds
            total.faults += tally.faults
            total.failures |= tally.failures
    _print(options.store, total, len(seeds), time.perf_counter() - started)


def _claim(num_ranks: int, num_shards: int) -> None:
    with simulated():
        crowd = claim_all(num_ranks, num_shards)
    num_requests = sum(crowd.requests.values())
    rows = [
        ("claims that another rank was faster with", f"{crowd.num_lost:,}"),
        ("claims on shards committed since they were listed", f"{crowd.num_late:,}"),
        ("requests", f"{num_requests:,} ({', '.join(f'{n:,} {m}' for m, n in crowd.requests.most_common())})"),
        ("requests per shard", f"{num_requests / num_shards:.1f}"),
        ("requests per second", f"{num_requests / crowd.seconds:,.0f}"),
    ]
    print_table((f"{num_ranks:,} ranks, {num_shards:,} shards", f"in {crowd.seconds:,.0f} s, simulated"), rows)


def _batches(seeds: range) -> Iterator[range]:
    for start in count(0, _BATCH):
        if start >= len(seeds):
            return
        yield seeds[start : start + _BATCH]


def _try(store: str, seeds: range) -> _Tally:
    tally = _Tally()
    with simulated():
        gc.freeze()
        for seed in seeds:
            outcome = interleave(RandomChoices(seed, store))
            tally.num_steps += outcome.num_steps
            tally.seconds += outcome.seconds
            tally.faults += outcome.faults
            if outcome.failure:
                tally.failures[seed] = outcome.failure
    return tally


def _print(store: str, total: _Tally, interleavings: int, seconds: float) -> None:
    rows = [
        ("interleavings", f"{interleavings:,}"),
        ("a second", f"{interleavings / seconds:,.0f}"),
        ("operations on files, and requests", f"{total.num_steps:,}"),
        ("simulated hours", f"{total.seconds / 3600:,.0f}"),
        *((name, f"{total.faults[fault]:,}") for fault, name in FAULTS.items() if fault in STORES[store]),
        ("failures", f"{len(total.failures):,}"),
    ]
    print_table(("", f"in {seconds:,.0f} s"), rows)
    for seed, failure in sorted(total.failures.items())[:20]:
        print(f"--store {store} --seed {seed}: {failure}")
    print_verdict("no failure", f"{len(total.failures):,}", not total.failures)
    if total.failures:
        sys.exit(1)


def _print_steps(store: str, seed: int) -> int:
    with simulated():
        outcome = interleave(RandomChoices(seed, store))
        choices = shrunk(outcome) if outcome.failure else outcome.made
        print("\n".join(story_of(Choices(choices, store))))
    return 1 if outcome.failure else 0


if __name__ == "__main__":
    main()
