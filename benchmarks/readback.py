"""Training samples per second of `FramesDataModule` and of bare `webdataset` over the same shards of keypoints.

    python benchmarks/readback.py

| contender   | meaning                                                                                            |
|-------------|----------------------------------------------------------------------------------------------------|
| random      | `FramesDataModule.train_dataloader()`: random access in a new order each epoch, decode, collate    |
| sequential  | the same with `reading="sequential"`: shard after shard, in a new order each epoch                 |
| webdataset  | `WebDataset(shards).decode().to_tuple(…)`, the same collate: shard after shard, in their order     |

All have the same batch size and the same number of workers, which outlive the epochs. Epochs take turns: random,
sequential, webdataset, random, … The first epoch of each, in which the workers start, is shown separately. Keypoints
are random numbers with the shape of PHOENIX-2014-T's: sentences of 115 frames on average, layout 143. The shards are in
the page cache.
"""

import argparse
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import webdataset
from torch.utils.data import DataLoader

from datamodules import FramesDataModule
from datamodules.corpus import Corpus, Item
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import ShardSize
from datamodules.run.rank import Rank
from datamodules.run.result import Result
from datamodules.samples.keypoints import KeypointSample, KeypointSamples
from datamodules.training.splits import Reading
from measuring import Ratio, print_machine, print_table, print_verdict

_LAYOUT = 143
_FILES = ("__key__", "keypoints.npy", "presence.npy", "visibility.npy", "json")
_LEAST = 1.0


@dataclass
class Sentences(Corpus):
    """`num_items` sentences of half to one and a half times `mean_frames` frames, without files."""

    num_items: int
    mean_frames: int
    root: str = "/nowhere"

    def items(self) -> Iterator[Item]:
        """Yield the sentences."""
        lengths = np.random.default_rng(0).integers(self.mean_frames // 2, self.mean_frames * 3 // 2, self.num_items)
        for number, length in enumerate(lengths.tolist()):
            frames = tuple(f"images{frame:04d}.png" for frame in range(1, length + 1))
            yield Item(f"train/sentence{number:05d}", "train", f"train/sentence{number:05d}", frames, cost=length)


def main() -> None:
    """Run the benchmark and print its tables and verdicts."""
    options = _options()
    print_machine("torch", "webdataset", "numpy")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_run(folder, Sentences(options.samples, options.frames), options.samples_per_shard)
        loaders = {
            "random": _framemill(folder, options.workers, options.batch_size, "random"),
            "sequential": _framemill(folder, options.workers, options.batch_size, "sequential"),
            "webdataset": _webdataset(folder, options.workers, options.batch_size),
        }
        rates: dict[str, list[float]] = {name: [] for name in loaders}
        for _ in range(options.epochs + 1):
            for name, loader in loaders.items():
                rates[name].append(epoch(loader, options.samples))
    rows = [(name, f"{median(later):.0f}", f"{first:.0f}") for name, (first, *later) in rates.items()]
    print_table(("", "samples/s", "in the first epoch"), rows)
    for name in ("random", "sequential"):
        ratio = Ratio.of_pairs(rates[name][1:], rates["webdataset"][1:])
        print_verdict(f"{name} ≥ {_LEAST} x webdataset", f"{ratio} x", ratio.median >= _LEAST)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000, help="default: 1000")
    parser.add_argument("--samples-per-shard", type=int, default=27, help="default: 27, as with all of PHOENIX-2014-T")
    parser.add_argument("--frames", type=int, default=115, help="frames of a sample, on average (default: 115)")
    parser.add_argument("--batch-size", type=int, default=16, help="default: 16")
    parser.add_argument("--workers", type=int, default=2, help="workers of each contender (default: 2)")
    parser.add_argument("--epochs", type=int, default=9, help="epochs of each contender after the first (default: 9)")
    options: argparse.Namespace = parser.parse_args()
    return options


def make_run(folder: Path, corpus: Sentences, samples_per_shard: int) -> None:
    """Commit a random keypoint sample for each item."""
    run = open_or_plan(folder, corpus, {}, ShardSize(max_items=samples_per_shard, min_shards=1))
    with Rank(run) as rank:
        while (opened := rank.lease()) is not None:
            for row, item in enumerate(opened.items):
                members = KeypointSamples().encode(_random_sample(item))
                rank.add(opened.shard.number, Result(row, num_frames=len(item.frames)), members)


def _random_sample(item: Item) -> KeypointSample:
    rng, count = np.random.default_rng(len(item.frames)), len(item.frames)
    keypoints = rng.uniform(0, 260, (count, _LAYOUT, 3)).astype(np.float32)
    visibility = rng.random((count, 33), dtype=np.float32)
    meta = {"layout": _LAYOUT, "width": 210, "height": 260, "fps": None, "path": item.path, "frames": list(item.frames)}
    return KeypointSample(item.key, keypoints, np.ones((count, 4), np.uint8), visibility, meta)


def _framemill(folder: Path, workers: int, batch_size: int, reading: Reading) -> Iterable[dict[str, Any]]:
    data = FramesDataModule(
        shards=folder, samples=KeypointSamples(), num_workers=workers, batch_size=batch_size, reading=reading
    )
    return data.train_dataloader()


def _webdataset(folder: Path, workers: int, batch_size: int) -> Iterable[dict[str, Any]]:
    shards = sorted(str(path) for path in folder.glob("*.tar"))
    samples = webdataset.WebDataset(shards, shardshuffle=False).decode().to_tuple(*_FILES)
    batches = samples.batched(batch_size, collation_fn=_collate)
    return DataLoader(batches, batch_size=None, num_workers=workers, persistent_workers=True)


def _collate(samples: list[tuple[Any, ...]]) -> dict[str, Any]:
    return KeypointSamples().collate([KeypointSample(*sample) for sample in samples])


def epoch(loader: Iterable[dict[str, Any]], num_samples: int) -> float:
    """Return the samples per second of one epoch."""
    started = time.perf_counter()
    count = sum(len(batch["key"]) for batch in loader)
    assert count == num_samples, f"{count} of {num_samples} samples were loaded"
    return num_samples / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
