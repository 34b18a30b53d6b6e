"""Training samples per second from a run in a bucket whose every request takes 20 ms longer.

    python benchmarks/bucket_readback.py

| contender    | meaning                                                                                           |
|--------------|---------------------------------------------------------------------------------------------------|
| folder       | `FramesDataModule.train_dataloader()` over the run in a folder                                    |
| read ahead   | the same over its copy in a bucket                                                                |
| one by one   | the same with one request in flight in each worker                                                |
| cached       | read ahead with `cache_dir`; its first epoch fetches the tars                                     |

Epochs of the contenders take turns. The bucket is moto's, on this machine, behind a proxy that delays every
request. Both are Python and take a few ms of CPU per request, more than real stores take, so "folder" is out of reach
of "read ahead" here. The run is that of the keypoints in `readback_corpus.py`.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from datamodules import FramesDataModule
from datamodules.samples.keypoints import KeypointSamples
from measuring import Ratio, print_machine, print_table, print_verdict
from readback_corpus import KINDS, Sentences, epoch, make_run

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

_LEAST = 3.0


def main() -> None:
    """Run the benchmark and print its table and verdict."""
    from support.faulty_proxy import faulty_proxy
    from support.s3_server import running_s3_server

    options = _options()
    print_machine("torch", "obstore", "moto")
    with tempfile.TemporaryDirectory() as scratch, running_s3_server(1000) as server, faulty_proxy(server.url) as proxy:
        os.environ.update(server.environment, AWS_ENDPOINT_URL=proxy.url)
        folder, bucket = Path(scratch, "run"), server.make_bucket()
        make_run(folder, Sentences(options.samples, options.frames), KINDS["keypoints"], options.samples_per_shard)
        server.upload(folder, bucket, "run/")
        url = f"s3://{bucket}/run"
        loaders = {
            "folder": _loader(folder, options),
            "read ahead": _loader(url, options),
            "one by one": _loader(url, options),
            "cached": _loader(url, options, cache_dir=Path(scratch, "cache")),
        }
        loaders["one by one"].dataset.ahead.num_requests = 1
        proxy.latency_seconds = options.latency
        rates: dict[str, list[float]] = {name: [] for name in loaders}
        requests: dict[str, int] = {}
        for _ in range(options.epochs + 1):
            for name, loader in loaders.items():
                proxy.requests.clear()
                rates[name].append(epoch(loader, options.samples))
                requests[name] = len(proxy.requests)
    rows = [
        (name, f"{median(later):.0f}", f"{first:.0f}", f"{requests[name] / options.samples:.2f}")
        for name, (first, *later) in rates.items()
    ]
    print_table(("", "samples/s", "in the first epoch", "requests per sample"), rows)
    ratio = Ratio.of_pairs(rates["read ahead"][1:], rates["one by one"][1:])
    print_verdict(f"read ahead ≥ {_LEAST} x one by one", f"{ratio} x", ratio.median >= _LEAST)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=400, help="default: 400")
    parser.add_argument("--samples-per-shard", type=int, default=27, help="default: 27, as with all of PHOENIX-2014-T")
    parser.add_argument("--frames", type=int, default=115, help="frames of a sample, on average (default: 115)")
    parser.add_argument("--batch-size", type=int, default=16, help="default: 16")
    parser.add_argument("--workers", type=int, default=1, help="workers of each contender (default: 1)")
    parser.add_argument("--epochs", type=int, default=4, help="epochs of each contender after the first (default: 4)")
    parser.add_argument("--latency", type=float, default=0.02, help="seconds added to a request (default: 0.02)")
    options: argparse.Namespace = parser.parse_args()
    return options


def _loader(run: Path | str, options: argparse.Namespace, **training: Any) -> Any:
    data = FramesDataModule(
        shards=run, samples=KeypointSamples(), num_workers=options.workers, batch_size=options.batch_size, **training
    )
    return data.train_dataloader()


if __name__ == "__main__":
    main()
