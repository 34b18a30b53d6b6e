"""Small complete runs of keypoint samples, for tests of what reads a run."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.corpus import Corpus, Item
from datamodules.run.extension import extend
from datamodules.run.folder import Run
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import ShardSize
from datamodules.run.rank import Rank
from datamodules.run.result import Result
from datamodules.run.retries import RetryRequest, open_or_plan_retry
from datamodules.samples.keypoints import KeypointSample, KeypointSamples

# Written out here, so that tests do not lean on the layouts they test.
PART_SLICES = {
    143: {"face": slice(0, 68), "left_hand": slice(68, 89), "right_hand": slice(89, 110), "pose": slice(110, 143)},
    75: {"pose": slice(0, 33), "left_hand": slice(33, 54), "right_hand": slice(54, 75)},
    543: {"pose": slice(0, 33), "face": slice(33, 501), "left_hand": slice(501, 522), "right_hand": slice(522, 543)},
    553: {"pose": slice(0, 33), "face": slice(33, 511), "left_hand": slice(511, 532), "right_hand": slice(532, 553)},
}
PRESENCE_COLUMNS = ("pose", "face", "left_hand", "right_hand")
REASON = "images0001.png is empty (0 bytes)"


@dataclass
class MadeItems(Corpus):
    """`items_per_split` frame sequences `{split}/{prefix}{i}`, or videos; item i has 1 + i % 4 frames."""

    items_per_split: Mapping[str, int]
    prefix: str = "v"
    videos: bool = False
    meta: Mapping[str, Any] = field(default_factory=lambda: {"signer": "Signer01", "glosses": "REGEN MÖGLICH"})
    root: str = "/corpus"

    def items(self) -> Iterator[Item]:
        for split, num_items in self.items_per_split.items():
            for i in range(num_items):
                name = f"{self.prefix}{i}"
                frames = () if self.videos else tuple(f"images{frame:04d}.png" for frame in range(1, 2 + i % 4))
                path = f"{split}/{name}.mp4" if self.videos else f"features/{split}/{name}"
                yield Item(f"{split}/{name}", split, path, frames, cost=10, meta={"sentence_id": name, **self.meta})


def make_run(
    folder: Path,
    corpus: MadeItems,
    layout: int = 143,
    failed: tuple[str, ...] = (),
    fingerprint: Mapping[str, Any] | None = None,
    max_shards: int | None = None,
    per_shard: int = 2,
) -> Run:
    """A run in shards of `per_shard` items; its samples are `made_sample`s, items with a key in `failed` are failures.

    Only `max_shards` of its shards are done, if that is given; the rest are missing.
    """
    made_with = {
        "corpus": {"items": dict(corpus.items_per_split), "prefix": corpus.prefix},
        "shards": {"max_items": per_shard},
        "extractor": {"class_path": "Made", "init_args": {"layout": layout}},
        "samples": {"class_path": "datamodules.samples.keypoints.KeypointSamples"},
        "versions": {"framemill": "0.1.0"},
        **(fingerprint or {}),
    }
    run = open_or_plan(folder, corpus, made_with, ShardSize(max_items=per_shard, min_shards=1))
    with Rank(run) as rank:
        for _ in range(len(run.plan.shards) if max_shards is None else max_shards):
            opened = rank.lease()
            assert opened is not None
            for row, item in enumerate(opened.items):
                result, members = _outcome(row, item, layout, failed)
                rank.add(opened.shard.number, result, members)
    return run


def extend_made(folder: Path, corpus: MadeItems) -> Run:
    """A run that is extended by the items of `corpus` that it does not have, which are then made."""
    size = ShardSize(max_items=2, min_shards=1)
    run = extend(Run(folder), corpus, Run(folder).plan.fingerprint, size, time.time())
    with Rank(run) as rank:
        while (opened := rank.lease()) is not None:
            for row, item in enumerate(opened.items):
                rank.add(opened.shard.number, *_outcome(row, item, 143, ()))
    return run


def retry_made(
    folder: Path, failed: tuple[str, ...] = (), layout: int = 143, keys: frozenset[str] | None = None
) -> Run:
    """A retry over the failed items of a run, or over those with `keys`; those with a key in `failed` fail again."""
    size = ShardSize(max_items=2, min_shards=1)
    request = RetryRequest((), time.time(), keys=keys)
    retry = open_or_plan_retry(folder, Run(folder).plan.fingerprint, size, request)
    with Rank(retry) as rank:
        for _ in retry.plan.shards:
            opened = rank.lease()
            assert opened is not None
            for row, item in enumerate(opened.items):
                if row not in opened.kept:
                    result, members = _outcome(row, item, layout, failed)
                    rank.add(opened.shard.number, result, members)
    return retry


def made_sample(item: Item, layout: int = 143) -> KeypointSample:
    """Random keypoints of `item`, the same each time; about a third of the parts are absent, in other frames each."""
    rng = np.random.default_rng(list(item.key.encode()))
    num_frames = len(item.frames) or 3
    presence = (rng.random((num_frames, 4)) < 0.7).astype(np.uint8)
    keypoints = rng.uniform(0, 260, (num_frames, layout, 3)).astype(np.float32)
    visibility = rng.random((num_frames, 33), dtype=np.float32) * presence[:, :1]
    for part, columns in PART_SLICES[layout].items():
        keypoints[presence[:, PRESENCE_COLUMNS.index(part)] == 0, columns] = 0
    meta = {
        **item.meta,
        "layout": layout,
        "width": 210,
        "height": 260,
        "fps": None if item.frames else 25.0,
        "path": item.path,
        "frames": list(item.frames),
        "backend": "made",
    }
    return KeypointSample(item.key, keypoints, presence, visibility, json.loads(json.dumps(meta)))


def made_samples(
    corpus: MadeItems, split: str, layout: int = 143, failed: tuple[str, ...] = ()
) -> list[KeypointSample]:
    """What `make_run` with the same arguments commits of `split`, in order."""
    items = (item for item in corpus.items() if item.split == split and item.key not in failed)
    return [made_sample(item, layout) for item in items]


def _outcome(row: int, item: Item, layout: int, failed: tuple[str, ...]) -> tuple[Result, dict[str, bytes]]:
    if item.key in failed:
        return Result(row, reason=REASON, reason_class="decode"), {}
    sample = made_sample(item, layout)
    kind = KeypointSamples()
    return Result(row, num_frames=len(sample.keypoints), metrics=kind.metrics_of(sample)), kind.encode(sample)
