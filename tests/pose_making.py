"""Pose samples, small complete runs of poses, skeletons, and maps of them as OpenPose's network would give them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.line.commit import Result
from datamodules.line.item import Item
from datamodules.line.plan import ShardSize
from datamodules.line.rank import Rank
from datamodules.line.run import Run, open_or_plan
from datamodules.samples.pose import PoseSample, PoseSamples
from datamodules.samples.skeleton import as_png, pose_map
from image_making import image_bytes
from line_making import Listed

REASON = "a.jpg is empty (0 bytes)"
MADE = {"samples": {"class_path": "datamodules.samples.pose.PoseSamples"}}
# a person who stands, arms apart, seen from the front: x, y as shares of the height
_STANDING = np.array(
    [
        (0.0, 0.08), (0.0, 0.18), (-0.1, 0.19), (-0.19, 0.3), (-0.24, 0.42), (0.1, 0.18), (0.2, 0.29), (0.26, 0.4),
        (-0.07, 0.5), (-0.08, 0.72), (-0.09, 0.94), (0.07, 0.5), (0.08, 0.71), (0.1, 0.93), (-0.025, 0.055),
        (0.025, 0.055), (-0.055, 0.07), (0.055, 0.068),
    ]
)  # fmt: skip


def standing(x: float, y: float, height: float, turn: float = 0.0) -> NDArray[np.float32]:
    """float32 [18, 3]: one whose head's top is at (x, y), so many px high, leaning by `turn` radians."""
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    joints = _STANDING @ rotation * height + (x, y)
    return np.concatenate([joints, np.ones((18, 1))], 1).astype(np.float32)


def made_pose(item: Item, num_people: int = 1, store_images: bool = True, **meta: Any) -> PoseSample:
    """A pose sample of an image of 96x64 px, processed as one of 64x64, with `num_people` who stand."""
    people = np.array([standing(16 + 20 * number, 2, 58) for number in range(num_people)], np.float32)
    people = people.reshape(num_people, 18, 3)
    people[:, 10] = 0  # the right ankle is missing
    about = {
        "image": item.meta["image"], "caption": f"a <dancer> in {item.key}", "width": 64, "height": 64,
        "original_width": 96, "original_height": 64, "resize": "square", "backend": "made",
    }  # fmt: skip
    ending = item.meta["image"].rpartition(".")[2].lower()
    stored = (image_bytes(100, ending, (96, 64)), ending) if store_images else (None, None)
    scores = np.linspace(0.9, 0.5, num_people, dtype=np.float32)
    return PoseSample(item.key, people, scores, {**about, **meta}, as_png(pose_map(people, (64, 64))), *stored)


def make_pose_run(
    folder: Path, items: Iterable[Item], people: Sequence[int], failed: tuple[str, ...] = (), **options: Any
) -> Run:
    """A complete run in shards of two `made_pose`s, the n'th of `people[n]` people; items in `failed` are failures."""
    made_by = {**MADE, "corpus": {"class_path": "Listed", "init_args": {"root": options.pop("root", "/nowhere")}}}
    run = open_or_plan(folder, Listed(list(items)), made_by, ShardSize(max_items=2, min_shards=1))
    number = 0
    with Rank(run) as rank:
        while opened := rank.lease():
            for row, item in enumerate(opened.items):
                if item.key in failed:
                    rank.add(opened.shard.number, Result(row, reason=REASON, reason_class="decode"), {})
                else:
                    sample = made_pose(item, people[number], **options)
                    rank.add(opened.shard.number, Result(row, num_frames=1), PoseSamples().encode(sample))
                number += 1
    return run
