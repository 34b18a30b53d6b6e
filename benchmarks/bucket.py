"""A run in a bucket against the same run in a folder: time, and requests per shard; and claims of 1,000 ranks.

    python benchmarks/bucket.py

The bucket is moto's, on this machine, behind a proxy that delays every request by 5 ms and counts it. A rank is a
process with a real `Rank` and a real `FrameLoader`. It sleeps for every frame instead of running a model, as a rank
does that waits for its GPU. So the server and the proxy, which are slow and in Python, do not compete with it.

**Time** counts from the first lease to the end of the run. The runs take turns: folder, bucket, folder, bucket, …

**Requests** are those of one rank, by operation and folder of the run. The heartbeats, and the checks whether another
rank was faster, come with time, and the others with shards.

**Claiming.** Ranks in a few processes claim the shards of one run until all are claimed, and compute nothing. They
begin at different shards, as the ranks of one launch do. A conflict is a claim that another rank won.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datamodules.loading.loader import FrameLoader
from datamodules.loading.request import FrameRequest
from datamodules.run.bucket import open_store
from datamodules.run.folder import Run
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import ShardSize
from datamodules.run.rank import Rank
from datamodules.run.result import Result
from datamodules.run.store import Store
from measuring import Ratio, in_fresh_process, print_machine, print_table, print_verdict
from scaling import Repeated, claim_all, make_frames

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.faulty_proxy import FaultyProxy, faulty_proxy
from support.s3_server import S3Server, running_s3_server

_MOST_TO_FOLDER = 1.1
_FRAMES = 8  # of an item
_SAMPLE_BYTES = 100_000
_OPERATIONS = {"PUT": "put", "GET": "get", "HEAD": "head", "DELETE": "delete", "POST": "delete"}


def main() -> None:
    """Run the benchmark and print its tables and verdicts."""
    options = _options()
    print_machine("obstore", "moto")
    with tempfile.TemporaryDirectory() as scratch, _server() as (server, proxy):
        proxy.latency_seconds = options.latency_ms / 1000
        _time(Path(scratch), server, proxy, options)
        proxy.latency_seconds = 0.0
        _claim(Path(scratch), server, proxy, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs in the folder and in the bucket (default: 3)")
    parser.add_argument("--shards", type=int, default=4, help="shards of each run (default: 4)")
    parser.add_argument("--items", type=int, default=25, help="items of each shard (default: 25)")
    parser.add_argument("--seconds-per-frame", type=float, default=0.05, help="sleep of a rank (default: 0.05)")
    parser.add_argument("--latency-ms", type=float, default=5.0, help="added to every request (default: 5)")
    parser.add_argument("--ranks", type=int, default=1000, help="ranks that claim (default: 1000)")
    parser.add_argument("--processes", type=int, default=8, help="processes that these ranks share (default: 8)")
    parser.add_argument("--claims", type=int, default=1000, help="shards that they claim (default: 1000)")
    options: argparse.Namespace = parser.parse_args()
    return options


@contextmanager
def _server() -> Iterator[tuple[S3Server, FaultyProxy]]:
    """Start a server and a proxy of it, which this process and those that it starts use."""
    with running_s3_server(page_size=1000) as server, faulty_proxy(server.url) as proxy:
        os.environ.update(server.environment, AWS_ENDPOINT_URL=proxy.url)
        yield server, proxy


# Time and requests


def _time(scratch: Path, server: S3Server, proxy: FaultyProxy, options: argparse.Namespace) -> None:
    root = scratch / "frames"
    root.mkdir()
    corpus = Repeated(str(root), make_frames(root, _FRAMES), options.items * options.shards)
    seconds: dict[str, list[float]] = {"folder": [], "bucket": []}
    for number in range(options.rounds):
        for name, location in (
            ("folder", str(scratch / f"run{number}")),
            ("bucket", f"s3://{server.make_bucket()}/run"),
        ):
            store = open_store(location, str(scratch))
            open_or_plan(store, corpus, {}, ShardSize(max_items=options.items, min_shards=1))
            proxy.requests.clear()
            seconds[name].append(in_fresh_process(_work, store, corpus.root, options.seconds_per_frame).value)
    rows = [(name, f"{min(taken):.2f}", " ".join(f"{value:.2f}" for value in taken)) for name, taken in seconds.items()]
    print_table((f"{options.shards} shards in a", "least s", "all"), rows)
    ratio = Ratio.of_pairs(seconds["bucket"], seconds["folder"])
    print_verdict(f"≤ {_MOST_TO_FOLDER} x the folder", f"{ratio} x", ratio.median <= _MOST_TO_FOLDER)
    counts = Counter(_kind(method, path) for method, path in proxy.requests)
    counts["all", ""] = counts.total()
    per_kind = [(*kind, str(count), f"{count / options.shards:.2f}") for kind, count in sorted(counts.items())]
    print_table(("operation", "in", "requests", "for each shard"), per_kind)


def _work(store: Store, root: str, seconds_per_frame: float) -> float:
    """Finish the run as a rank, and return its seconds."""
    run = Run(store)
    with Rank(run) as rank:
        started = time.monotonic()
        for batch in FrameLoader(rank, root, FrameRequest(_FRAMES), num_workers=0):
            time.sleep(seconds_per_frame * len(batch["rows"]))
            for summary in batch["summaries"]:
                rank.add(batch["shard"], Result(summary.row, summary.num_frames), {"bin": bytes(_SAMPLE_BYTES)})
        return time.monotonic() - started


def _kind(method: str, path: str) -> tuple[str, str]:
    """Return (operation, folder of the run) of a request."""
    if prefix := re.search(r"[?&]prefix=run/([^&]*)", path):
        return "list", prefix[1].rstrip("/") or "."
    return _OPERATIONS[method], path.partition("/run/")[2].rpartition("/")[0] or "."


# Claiming


def _claim(scratch: Path, server: S3Server, proxy: FaultyProxy, options: argparse.Namespace) -> None:
    store = open_store(f"s3://{server.make_bucket()}/run", str(scratch))
    run = open_or_plan(store, Repeated("/nowhere", (), options.claims), {}, ShardSize(max_items=1))
    proxy.requests.clear()
    claims, search_seconds = claim_all(run, options.ranks, options.processes, apart=True)
    seconds = max(claim.ended for claim in claims) - min(claim.began for claim in claims)
    won, lost, requests = sum(claim.won for claim in claims), sum(claim.lost for claim in claims), len(proxy.requests)
    assert won == options.claims, f"{won} of {options.claims} shards were claimed"
    row = (f"{won:,}", f"{won / seconds:,.0f}", f"{lost:,}", f"{lost / (won + lost):.1%}", f"{requests / won:.1f}")
    columns = (f"{options.ranks:,} ranks", "claims/s", "conflicts", "of all claims", "requests for each", "requests/s")
    print_table((*columns, "idle rank's search, s"), [(*row, f"{requests / seconds:,.0f}", f"{search_seconds:.2f}")])


if __name__ == "__main__":
    main()
