"""Runs that the examples train on: a few samples from which something can be learned within seconds."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datamodules.corpus import Item
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import ShardSize
from datamodules.run.rank import Rank
from datamodules.run.result import Result
from datamodules.samples import SampleKind
from support.runs import Listed


def write_samples(folder: Path, kind: SampleKind[Any], count: int, make: Callable[[str, int], Any]) -> Path:
    """Make a complete run of `count` samples of the split `train`, where `make` is called with key and number."""
    items: Sequence[Item] = [Item(f"train/{n:02d}", "train", f"{n:02d}.mp4", cost=1) for n in range(count)]
    class_path = f"{type(kind).__module__}.{type(kind).__name__}"
    run = open_or_plan(folder, Listed(items), {"samples": {"class_path": class_path}}, ShardSize(max_items=8))
    with Rank(run) as rank:
        while opened := rank.lease():
            for row, item in enumerate(opened.items):
                sample = make(item.key, int(item.key[-2:]))
                result = Result(row, num_frames=1, metrics=kind.metrics_of(sample))
                rank.add(opened.shard.number, result, kind.encode(sample))
    return folder
