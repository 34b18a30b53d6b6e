"""Pose samples, small complete runs of poses, skeletons, and maps of them as OpenPose's network would give them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.corpus import Item
from datamodules.run.folder import Run
from datamodules.run.opening import open_or_plan
from datamodules.run.plan import ShardSize
from datamodules.run.rank import Rank
from datamodules.run.result import Result
from datamodules.samples.pose import PoseSample, PoseSamples
from datamodules.samples.skeleton import COCO_17, as_png, pose_map
from datamodules.samples.wholebody import PARTS, POINTS
from preprocess.pose.limbs import PAFS
from support.image_files import image_bytes
from support.runs import Listed

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

_FINGER_ANGLES = np.radians([-60, -25, 0, 20, 40])  # of the thumb and the fingers, from straight down


def standing(x: float, y: float, height: float, turn: float = 0.0) -> NDArray[np.float32]:
    """float32 [18, 3]: one whose head's top is at (x, y), so many px high, leaning by `turn` radians."""
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    joints = _STANDING @ rotation * height + (x, y)
    person: NDArray[np.float32] = np.concatenate([joints, np.ones((18, 1))], 1).astype(np.float32)
    return person


def standing_wholebody(x: float, y: float, height: float, turn: float = 0.0) -> NDArray[np.float32]:
    """float32 [133, 3]: the person that `standing` returns, with feet, an oval face and spread hands."""
    joints = standing(x, y, height, turn)
    person = np.ones((len(POINTS), 3), np.float32)
    person[PARTS["body"]] = joints[list(COCO_17)]
    ankles = joints[[13, 10], None, :2]
    feet = ankles + np.array([(0.02, 0.04), (0.04, 0.035), (-0.02, 0.03)]) * height * [[[1, 1]], [[-1, 1]]]
    person[PARTS["foot"], :2] = feet.reshape(-1, 2)
    around = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    person[PARTS["face"], :2] = joints[0, :2] + np.stack([np.cos(around), 1.4 * np.sin(around)], 1) * 0.05 * height
    for part, wrist, side in (("lefthand", 7, -1), ("righthand", 4, 1)):
        lengths = np.arange(1, 5)[None, :, None] * 0.025 * height
        fingers = np.stack([side * np.sin(_FINGER_ANGLES), np.cos(_FINGER_ANGLES)], 1)[:, None] * lengths
        person[PARTS[part], :2] = joints[wrist, :2] + np.concatenate([np.zeros((1, 2)), fingers.reshape(-1, 2)])
    return person


def made_pose(
    item: Item, num_people: int = 1, store_images: bool = True, wholebody: bool = False, **meta: Any
) -> PoseSample:
    """A pose sample of an image of 96x64 px, processed as one of 64x64, with `num_people` who stand."""
    people = np.array([standing(16 + 20 * number, 2, 58) for number in range(num_people)], np.float32)
    people = people.reshape(num_people, 18, 3)
    people[:, 10] = 0  # the right ankle is missing
    about = {
        "image": item.meta["image"], "caption": f"a <dancer> in {item.key}", "width": 64, "height": 64,
        "original_width": 96, "original_height": 64, "resize": "square", "backend": "made",
    }  # fmt: skip
    ending = item.meta["image"].rpartition(".")[2].lower()
    image, image_ending = (image_bytes(100, ending, (96, 64)), ending) if store_images else (None, None)
    scores = np.linspace(0.9, 0.5, num_people, dtype=np.float32)
    points = None
    if wholebody:
        points = np.array([standing_wholebody(16 + 20 * number, 2, 58) for number in range(num_people)], np.float32)
        points = points.reshape(num_people, len(POINTS), 3)
    drawn = as_png(pose_map(people, (64, 64), points))
    return PoseSample(item.key, people, scores, {**about, **meta}, drawn, image, image_ending, points)


def make_pose_run(
    folder: Path, items: Iterable[Item], people: Sequence[int], failed: tuple[str, ...] = (), **options: Any
) -> Run:
    """A complete run in shards of two `made_pose`s, the n'th of `people[n]` people; items in `failed` are failures."""
    corpus = Listed(list(items), options.pop("root", "/nowhere"))
    run = open_or_plan(folder, corpus, MADE, ShardSize(max_items=2, min_shards=1))
    number = 0
    with Rank(run) as rank:
        while opened := rank.lease():
            for row, item in enumerate(opened.items):
                if item.key in failed:
                    rank.add(opened.shard.number, Result(row, reason=REASON, reason_class="decode"), {})
                else:
                    sample = made_pose(item, people[number], **options)
                    result = Result(row, num_frames=1, metrics=PoseSamples().metrics_of(sample))
                    rank.add(opened.shard.number, result, PoseSamples().encode(sample))
                number += 1
    return run


class Scene(NamedTuple):
    """People in an image, and what OpenPose's network is trained to give for it.

    Attributes:
        people: float32 [P, 18, 3].
        pafs: float32 [38, h, w].
        heatmaps: float32 [19, h, w].
        size: (height, width) of the image, px.
        stride: px for a cell of the maps.
    """

    people: NDArray[np.float32]
    pafs: NDArray[np.float32]
    heatmaps: NDArray[np.float32]
    size: tuple[int, int]
    stride: int


def rendered(people: NDArray[np.float32], size: tuple[int, int] = (256, 256), stride: int = 8) -> Scene:
    """Heatmaps of sigma 7 px, fields 8 px to each side of a limb, as OpenPose's training makes them."""
    height, width = (-(-each // stride) for each in size)
    centres = (stride - 1) / 2
    y, x = (each * stride + centres for each in np.mgrid[:height, :width].astype(np.float32))
    heatmaps = np.zeros((19, height, width), np.float32)
    pafs, counts = np.zeros((19, 2, height, width), np.float32), np.zeros((19, 1, height, width), np.float32)
    for person in people:
        for joint, (px, py, score) in enumerate(person):
            exponent = ((x - px) ** 2 + (y - py) ** 2) / (2 * 7.0**2)
            blob = np.where((exponent <= 4.6052) & (score > 0), np.exp(-exponent), 0)  # what is under 1 % is cut off
            heatmaps[joint] = np.maximum(heatmaps[joint], blob)
        for a, b, channel in PAFS:
            if person[a, 2] > 0 and person[b, 2] > 0:
                near, along = _limb(person[a, :2], person[b, :2], x, y)
                pafs[channel // 2] += near * along[:, None, None]
                counts[channel // 2] += near
    heatmaps[18] = 1 - heatmaps[:18].max(0)
    pafs /= np.maximum(counts, 1)
    return Scene(people, pafs.reshape(38, height, width), heatmaps, size, stride)


def _limb(start: NDArray[Any], end: NDArray[Any], x: NDArray[Any], y: NDArray[Any]) -> tuple[Any, NDArray[np.float32]]:
    """(which cells are near it, its direction)"""
    length = max(float(np.hypot(*(end - start))), 1e-6)
    along = (end - start) / length
    forward = (x - start[0]) * along[0] + (y - start[1]) * along[1]
    aside = np.abs((x - start[0]) * along[1] - (y - start[1]) * along[0])
    return (forward >= -8) & (forward <= length + 8) & (aside <= 8), along.astype(np.float32)


def crowd(rng: np.random.Generator, count: int, size: tuple[int, int] = (256, 256)) -> NDArray[np.float32]:
    """`count` people of several heights beside and before one another, some leaning; a fifth of their joints missing.

    None of one's joints is within 10 px of the same joint of another, where heatmaps would have one peak for both.
    """
    people: list[NDArray[np.float32]] = []
    while len(people) < count:
        height = rng.uniform(0.45, 0.9) * size[0]
        x, y = rng.uniform(0.1, 0.9) * size[1], rng.uniform(0.02, 0.98 - height / size[0]) * size[0]
        person = standing(x, y, height, rng.uniform(-0.3, 0.3))
        if all(np.hypot(*(person - other)[:, :2].T).min() > 10 for other in people):
            people.append(person)
    found = np.array(people, np.float32).reshape(count, 18, 3)
    found[rng.random((count, 18)) < 0.2] = 0
    return inside(found, size)


def inside(people: NDArray[np.float32], size: tuple[int, int], margin_px: int = 0) -> NDArray[np.float32]:
    """`people` without the joints that are not so far inside the image: those of people whom its edge cuts off."""
    x, y = people[..., 0] - margin_px, people[..., 1] - margin_px
    cut = (x < 0) | (y < 0) | (x > size[1] - 1 - 2 * margin_px) | (y > size[0] - 1 - 2 * margin_px)
    return np.where(cut[..., None], np.float32(0), people)
