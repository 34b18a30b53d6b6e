"""Tracks in the format of YouTube-VIS, COCO's JSON for videos.

For each split two files:

| file                    | content                                                                |
|-------------------------|------------------------------------------------------------------------|
| {split}.json            | {"info", "licenses", "videos", "annotations", "categories"}, see below |
| {split}_statistics.json | `statistics.py`                                                        |

| field of a video | meaning                                                                           |
|------------------|-----------------------------------------------------------------------------------|
| id               | from 1, over all splits                                                           |
| width, height    | px                                                                                |
| length           | L, the frames taken                                                               |
| file_names       | `{key}/{frame:05d}.jpg`, from 0: names for the frames, which are not written here |
| key, path        | of the item; its video, relative to the corpus root                               |

| field of an annotation | meaning                                                        |
|------------------------|----------------------------------------------------------------|
| id                     | from 1, over all splits; one object of one video               |
| video_id, category_id  |                                                                |
| iscrowd                | 0                                                              |
| width, height, length  | of its video                                                   |
| obj_id                 | of the object in its video                                     |
| segmentations          | list of L: COCO's run lengths, or null where the object is not |
| bboxes                 | list of L: [x, y, width, height] in px, or null                |
| areas                  | list of L: px of the mask, or null                             |
| score                  | the mean of its frames' scores, 0 to 1                         |

A category has `id`, `name` (the label) and `supercategory`; a label has one id in all splits.

An annotation is one object in all frames, while a line of tracks.jsonl is one frame with all objects. So the lines are
read once per object, and memory holds one line, and a few numbers for each box.
"""

import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from datamodules.errors import RunError
from datamodules.samples.track_lines import LineObject, Rle, TrackLine
from datamodules.samples.tracks import TrackSample, TrackSamples
from preprocess.export.json_text import write_list
from preprocess.export.source import Source
from preprocess.export.split_files import write_splits

SAMPLES = TrackSamples

_INFO = {"description": "tracks by Framemill, in the format of YouTube-VIS"}


def export(source: Source[TrackSample], dest: Path) -> list[Path]:
    """Write the files of the table above to `dest`.

    Args:
        source: a run of tracks.
        dest: folder to write to.

    Raises:
        ConfigError: a file exists.
        RunError: a shard is damaged.
    """
    ids = _Ids()

    def write(split: str, path: Path) -> None:
        with open(path, "w", encoding="utf-8", newline="\n", errors="replace") as file:
            _write_split(file, source, split, ids)

    return write_splits(source, dest, [".json"], write)


class _Ids:
    """The ids of videos, annotations and categories, over all splits."""

    def __init__(self) -> None:
        self.videos = self.annotations = 0
        self.categories: dict[str, int] = {}

    def category(self, label: str) -> int:
        return self.categories.setdefault(label, len(self.categories) + 1)


def _write_split(file: TextIO, source: Source[TrackSample], split: str, ids: _Ids) -> None:
    first_video = ids.videos + 1
    file.write(f'{{"info": {json.dumps(_INFO)}, "licenses": [],\n"videos": ')
    write_list(file, (_video(sample, ids) for sample in source.samples(split)))
    file.write(',\n"annotations": ')
    tracks = (
        partial(_write_track, sample=sample, video_id=video_id, obj_id=obj_id, ids=ids)
        for video_id, sample in enumerate(source.samples(split), first_video)
        for obj_id in np.unique(sample.array("obj_ids.npy")).tolist()
    )
    write_list(file, tracks)
    file.write(',\n"categories": ')
    categories = (
        {"id": category, "name": label, "supercategory": "object"} for label, category in ids.categories.items()
    )
    write_list(file, categories)
    file.write("}\n")


def _video(sample: TrackSample, ids: _Ids) -> dict[str, Any]:
    ids.videos += 1
    info, length = sample.meta["video_info"], len(sample.lines)
    names = [f"{sample.key}/{frame_idx:05d}.jpg" for frame_idx in range(length)]
    size = {"width": info["width"], "height": info["height"], "length": length}
    return {"id": ids.videos, **size, "file_names": names, "key": sample.key, "path": sample.meta["path"]}


def _write_track(file: TextIO, sample: TrackSample, video_id: int, obj_id: int, ids: _Ids) -> None:
    """Write the annotation of one object of a video."""
    rows = np.flatnonzero(sample.array("obj_ids.npy") == obj_id)
    frames, boxes = sample.array("frame_idx.npy")[rows].tolist(), sample.array("boxes.npy")[rows]
    ids.annotations += 1
    length = len(sample.lines)
    if frames != sorted(set(frames)) or not 0 <= frames[0] <= frames[-1] < length:
        raise RunError(f"{sample.key}.frame_idx.npy is damaged: its frames are not in order, or not among {length:,}")
    track = _Track(sample, obj_id, frames)
    info = sample.meta["video_info"]
    head = {
        "id": ids.annotations,
        "video_id": video_id,
        "category_id": ids.category(track.label),
        "iscrowd": 0,
        "width": info["width"],
        "height": info["height"],
        "length": length,
        "obj_id": obj_id,
    }
    file.write(json.dumps(head)[:-1])
    bboxes = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]).astype(int).tolist()
    for name, values in (("segmentations", track.masks()), ("bboxes", bboxes), ("areas", track.areas)):
        file.write(f', "{name}": [')
        _write_where(file, zip(frames, values, strict=True), length)
        file.write("]")
    file.write(f', "score": {round(track.score_sum / len(frames), 4)}}}')


class _Track:
    """One object of a video, in the frames that show it.

    Attributes:
        label: of the object.
        areas: px of each mask that `masks` has yielded.
        score_sum: of the frames of these masks.
    """

    def __init__(self, sample: TrackSample, obj_id: int, frames: list[int]) -> None:
        self._sample, self._obj_id, self._frames = sample, obj_id, frames
        self.label = self._in(sample.lines.read(frames[0])[0])["label"]
        self.areas: list[int] = []
        self.score_sum = 0.0

    def masks(self) -> Iterator[Rle]:
        """Yield its masks in the order of the frames."""
        from pycocotools import mask as coco

        frames = set(self._frames)
        for line in self._sample.lines.since(self._frames[0]):
            if line["frame_idx"] in frames:
                entry = self._in(line)
                self.areas.append(int(coco.area(entry["mask"])))
                self.score_sum += entry["score"]
                yield entry["mask"]
            if line["frame_idx"] == self._frames[-1]:
                return

    def _in(self, line: TrackLine) -> LineObject:
        entry = next((entry for entry in line["objects"] if entry["obj_id"] == self._obj_id), None)
        if entry is None:
            where = f"frame {line['frame_idx']} of {self._sample.key}"
            raise RunError(f"{where} has no object {self._obj_id}, as its obj_ids.npy says; run `preprocess verify`")
        return entry


def _write_where(file: TextIO, values: Iterable[tuple[int, Any]], length: int) -> None:
    """Write the items of a JSON list of `length` items: `values` are (index, item) in order, all others are null."""
    num_written = 0
    for index, value in values:
        file.write("null, " * (index - num_written) + json.dumps(value) + (", " if index + 1 < length else ""))
        num_written = index + 1
    file.write(", ".join(["null"] * (length - num_written)))
