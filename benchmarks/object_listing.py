"""Time and peak memory of planning a corpus of 10^4, 10^5 and 10^6 images in an object store.

    python benchmarks/object_listing.py

A stand-in for S3 on the loopback interface answers listings, 1,000 objects at a time and `--latency-ms` late; it has no
content. The images are in folders of 1,000.

| step | meaning                                                                                                    |
|------|------------------------------------------------------------------------------------------------------------|
| list | `ObjectListing`: all objects below the URL, sorted as a folder is walked                                     |
| plan | `open_or_plan` on a new folder: list, look for keys that collide, assign the items to shards, write the plan |

A step is a fresh process; its time is without imports, its memory with them. CPU seconds are without those of the
server.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from datamodules.corpora.images import Images
from datamodules.corpora.object_listing import ObjectListing
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import ShardSize
from measuring import Measured, in_fresh_process, print_machine, print_table, print_verdict

_PAGE_OBJECTS = 1000  # of S3
_MOST_SECONDS, _MOST_MB = 120.0, 600.0
_OBJECT = (
    "<Contents><Key>images/{folder:04d}/{number:07d}.jpg</Key><LastModified>2026-11-30T12:00:00.000Z</LastModified>"
    "<ETag>&quot;{number:032x}&quot;</ETag><Size>123456</Size><StorageClass>STANDARD</StorageClass></Contents>"
)


def serve(ready: "multiprocessing.Queue[int]", latency_seconds: float) -> None:
    """Answer listings of buckets whose names end with their number of objects; send the port first."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            first = int(parse_qs(url.query).get("continuation-token", ["0"])[0])
            body = _page(int(url.path.strip("/").rpartition("-")[2]), first).encode()
            time.sleep(latency_seconds)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    ready.put(server.server_port)
    server.serve_forever()


def _page(num_objects: int, first: int) -> str:
    stop = min(num_objects, first + _PAGE_OBJECTS)
    objects = "".join(_OBJECT.format(folder=number // 1000, number=number) for number in range(first, stop))
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{stop}</NextContinuationToken>"
    end = more if stop < num_objects else "<IsTruncated>false</IsTruncated>"
    return f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult>{objects}{end}</ListBucketResult>'


def listing(url: str) -> tuple[int, float]:
    """List the objects. Returns their number, and CPU seconds."""
    started = time.process_time()
    return len(ObjectListing(url)), time.process_time() - started


def plan(folder: Path, url: str) -> tuple[int, float]:
    """Plan a new run over the images. Returns its number of items, and CPU seconds."""
    started = time.process_time()
    return open_or_plan(folder, Images(url), {}, ShardSize()).plan.num_items, time.process_time() - started


def _figures(measured: Measured[tuple[int, float]]) -> str:
    return f"{measured.seconds:.1f} s, {measured.peak_mb:.0f} MB"


def main() -> None:
    """Run the benchmark and print its table and verdict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[10**4, 10**5, 10**6], help="sizes, ascending")
    parser.add_argument("--latency-ms", type=float, default=20.0, help="delay of each answer (default: 20)")
    options = parser.parse_args()
    print_machine("obstore")
    ready: multiprocessing.Queue[int] = multiprocessing.Queue()
    server = multiprocessing.Process(target=serve, args=(ready, options.latency_ms / 1000), daemon=True)
    server.start()
    os.environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{ready.get()}", "AWS_REGION": "us-east-1"}
    os.environ |= {"AWS_SKIP_SIGNATURE": "true", "AWS_CONFIG_FILE": os.devnull}
    measured: dict[int, tuple[Measured[tuple[int, float]], Measured[tuple[int, float]]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for num_items in options.items:
            url = f"s3://bucket-{num_items}"
            listed = in_fresh_process(listing, url)
            planned = in_fresh_process(plan, Path(scratch) / str(num_items), url)
            assert listed.value[0] == planned.value[0] == num_items
            measured[num_items] = listed, planned
    server.kill()
    rows = [
        (
            f"{count:,}",
            f"{-(-count // _PAGE_OBJECTS):,}",
            *(f"{m.value[1]:.1f} s" for m in steps),
            *(_figures(m) for m in steps),
        )
        for count, steps in measured.items()
    ]
    print_table(("objects", "requests", "CPU list", "CPU plan", "list", "plan"), rows)
    most, (_, planned) = list(measured.items())[-1]
    print_verdict(
        f"{most:,} objects planned in < {_MOST_SECONDS:g} s of CPU time and < {_MOST_MB:g} MB",
        f"{planned.value[1]:.1f} s and {planned.peak_mb:.0f} MB",
        planned.value[1] < _MOST_SECONDS and planned.peak_mb < _MOST_MB,
    )


if __name__ == "__main__":
    main()
